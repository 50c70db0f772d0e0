"""Starts command lines quickly: a process that has imported everything once, and forks for each of them.

Each line on its standard input is JSON. {"arguments": [...], "log": a file for what is printed} is answered with a line
that holds the new process's number; {"wait": that number} with one that says how it ended: the exit status, or minus
the signal. "environment" may hold variables; "call" names a function of ranks.py, which gets the arguments
instead of the command line.
"""

import gc
import json
import os
import sys

import ranks
import torch
import torch._dynamo  # of DistributedDataParallel
import tqdm.auto  # noqa: F401

from ddpm_lesson import cli, plots

torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])  # the first one, and the first picture, import much more
cli.pictures.png(lambda ax: plots.loss_curve(torch.ones(3), ax=ax), (1, 1))
gc.freeze()  # a fork that ends looks through what it made itself, and not through everything

for line in sys.stdin:
    order = json.loads(line)
    if "wait" in order:
        _, status = os.waitpid(order["wait"], 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
        continue
    number = os.fork()
    if number == 0:
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(order.get("environment", {}))
        called = getattr(ranks, order["call"]) if "call" in order else cli.main
        sys.exit(called(order["arguments"]))
    print(number, flush=True)

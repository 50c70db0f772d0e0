"""Where the time of a training step goes, by PyTorch's profiler.

    python benchmarks/shares.py [--steps 15] [--threads 1] [--write]

The small network of `unet.py`, 16 images of side 28, channels_last, on the CPU. An operation counts with its backward
pass, and without what it calls; whatever Adam calls counts as Adam. `--write` puts the table between the markers of
benchmarks/README.md.
"""

import argparse
from collections import Counter

import torch
from _measured import machine, write
from attempts import BATCH
from peers import twins
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile
from unet import SMALL, output, training_step

# What a name of PyTorch's holds, of the operation or of one that called it.
KINDS = {
    "Optimizer.step": "Adam",
    "convolution": "convolutions",
    "scaled_dot_product": "attention, without its convolutions",
    "group_norm": "group norm",
    "dropout": "dropout",
    "bernoulli": "dropout",
    "silu": "Swish",
}


def kind(event: FunctionEvent) -> str:
    while event is not None:
        for part, found in KINDS.items():
            if part in event.name:
                return found
        event = event.cpu_parent
    return "all the rest"


def shares(steps: int) -> Counter:
    """Of the processor's time in training steps, the part of each kind; together 1."""
    arguments, side = SMALL
    net = twins(arguments, side)[0].to(memory_format=torch.channels_last)
    torch.manual_seed(0)
    x_t = torch.randn(BATCH, 1, side, side).to(memory_format=torch.channels_last)
    step = training_step(net, output, x_t, torch.randint(1000, (BATCH,)), torch.randn_like(x_t))
    for _ in range(3):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(steps):
            step()
    found = Counter()
    for event in seen.events():
        found[kind(event)] += event.self_cpu_time_total
    return Counter({name: time / found.total() for name, time in found.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description="Where the time of a training step goes.")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/README.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = [f"{machine()}, {options.threads} thread{'s' * (options.threads > 1)}, PyTorch {torch.__version__}", ""]
    lines += ["| operation | of a training step |", "|---|---|"]
    lines += [f"| {name} | {100 * share:.0f} % |" for name, share in shares(options.steps).most_common()]
    print("\n".join(lines))
    if options.write:
        write("shares.py", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

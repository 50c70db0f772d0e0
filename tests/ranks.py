"""Several ranks on this machine, without torchrun's ten seconds, and what they do in the tests of several processes."""

import os
import signal
import socket
from datetime import timedelta
from pathlib import Path

import torch

from ddpm_lesson import cli, data
from ddpm_lesson.experiments import distributed, runs
from ddpm_lesson.experiments.recipes import Recipe
from ddpm_lesson.networks.unet import UNet

TINY = {"T": 5, "ch": 8, "ch_mult": (1,), "attn": (), "num_groups": 4, "batch_size": 4, "lr": 1e-3, "ema_decay": 0.9}


def environment(number, of, port):
    """What torchrun tells its processes."""
    told = {"RANK": number, "WORLD_SIZE": of, "LOCAL_RANK": number, "LOCAL_WORLD_SIZE": of, "MASTER_PORT": port}
    told |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "tests"}
    return {name: str(value) for name, value in told.items()}


def start_ranks(start, arguments, log, of=2, **more):
    """The processes of a command line, or of a function below, one for each rank; each prints into a log of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log.parent.mkdir(parents=True, exist_ok=True)
    logs = [log.with_name(f"{log.name}.{number}") for number in range(of)]
    return [start(arguments, logs[i], environment=environment(i, of, port), **more) for i in range(of)]


def ended(processes):
    """Exit status and printed text of each."""
    statuses = [process.ended() for process in processes]
    return statuses, [process.log.read_text() for process in processes]


def images():
    whole = data.digits("train")
    return data.Images(whole.data[:100], whole.labels[:100], levels=17, classes=whole.classes)


def network():
    torch.manual_seed(0)
    return UNet(T=10, ch=8, ch_mult=[1, 2], attn=[1], num_res_blocks=1, dropout=0.0, in_ch=1, num_groups=4)


def batch():
    """x_t, t and noise of eight images."""
    generator = torch.Generator().manual_seed(1)
    x_t, noise = torch.randn(2, 8, 1, 8, 8, generator=generator)
    return x_t, torch.randint(10, (8,), generator=generator), noise


def gradients(model, rows):
    x_t, t, noise = (each[rows] for each in batch())
    (model(x_t, t) - noise).square().mean().backward()
    return {name.removeprefix("module."): p.grad for name, p in model.named_parameters() if p.grad is not None}


def save_gradients(arguments):
    """The gradient of this rank's half of a batch, from other weights on rank 1 than on rank 0."""
    with distributed.group():
        model = network()
        if distributed.rank():
            torch.nn.init.zeros_(model.tail[-1].weight)
        found = gradients(distributed.parallel(model), distributed.rows(8))
        torch.save(found, Path(arguments[0]) / f"gradients{distributed.rank()}.pt")
    return 0


def recorded(recipe, folder, given):
    """Carry out a run. Returns what each call of its loss got, and a number that dropout could have drawn."""
    calls, make_loss = [], runs.make_loss

    def recording(*arguments):
        loss = make_loss(*arguments)

        def recorder(output, noised):
            calls.append((noised.x_0.clone(), noised.t, noised.noise.clone(), torch.rand(1)))
            return loss(output, noised)

        return recorder

    runs.make_loss = recording
    try:
        run = runs.Run(recipe, folder, given)
        made = list(run.steps())
        run.save()
        run.close()
    finally:
        runs.make_loss = make_loss
    return calls, made


def save_calls(arguments):
    """`recorded`, of the recipe in a file."""
    recipe, folder, out = arguments
    with distributed.group():
        calls, made = recorded(Recipe.from_file(recipe), folder, images())
        torch.save((calls, [list(step) for step in made]), f"{out}.{distributed.rank()}")
    return 0


def other_images(arguments):
    """A run for which rank 1 has other images."""
    with distributed.group():
        here = images()
        if distributed.rank():
            here.data[0] = 1 - here.data[0]
        try:
            runs.Run(Recipe(**TINY), arguments[0], here)
        except (ValueError, distributed.Elsewhere) as error:
            print(f"{type(error).__name__}: {error}")
            return 1
    return 0


def frozen(arguments):
    """The command line; rank 1 stops answering in step 3, and the patience with it is short."""
    distributed.PATIENCE = timedelta(seconds=4)
    if os.environ["RANK"] == "1":
        joined = distributed.joined

        def freeze(steps, accumulate):
            if steps[0].step == 3:
                os.kill(os.getpid(), signal.SIGSTOP)
            return joined(steps, accumulate)

        distributed.joined = freeze
    return cli.main(arguments)

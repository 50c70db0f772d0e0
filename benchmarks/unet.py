"""Time of a training step and of a sampling step beside diffusers and denoising-diffusion-pytorch.

    python benchmarks/unet.py [--large] [--batch 16] [--rounds 15] [--threads 1 2] [--device cuda] [--compile] [--write]

Two questions. With the same architecture, weights and memory format: how fast is the network, in training (forward
pass, mean squared error, backward pass, Adam) and when it is asked alone? With what each project does by itself, see
`peers.py`: how long takes a whole step? `--write` puts the table between the markers of benchmarks/README.md.
"""

import argparse
import copy
from importlib.metadata import version

import diffusers
import torch
from _measured import machine, milliseconds, rates, ratios, take_turns, write
from peers import (
    T,
    diffusers_sampling,
    diffusers_training,
    lucidrains,
    lucidrains_sampling,
    lucidrains_training,
    our_sampling,
    our_training,
    parameters,
    twins,
)
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import mse_loss
from torch.utils.flop_counter import FlopCounterMode

from ddpm_lesson.networks.unet import UNet

NEEDED = 0.95  # of diffusers' speed, for a training step in channels_last

# Arguments of the UNet, side of the images.
SMALL = {"ch": 32, "ch_mult": [1, 2, 2], "in_ch": 1, "num_groups": 8}, 28
LARGE = {"ch": 128, "ch_mult": [1, 2, 2, 2], "in_ch": 3}, 32


def output(net, x_t, t):
    return net(x_t, t) if isinstance(net, UNet) else net(x_t, t, return_dict=False)[0]


def mixed(net, x_t, t):
    """The same in mixed precision: convolutions and attention in bfloat16."""
    with torch.autocast(x_t.device.type, torch.bfloat16):
        return output(net, x_t, t).float()


def training_step(net, forward, x_t, t, noise, **options):
    """A function that trains the network by one step.  options: of Adam."""
    net.train()
    adam = torch.optim.Adam(net.parameters(), lr=1e-4, **options)

    def step():
        adam.zero_grad()
        mse_loss(forward(net, x_t, t), noise).backward()
        adam.step()

    return step


def forward_pass(net, forward, x_t, t, noise):
    """A function that asks the network once, as a sampler does."""
    net.eval()
    return torch.no_grad()(lambda: forward(net, x_t, t))


def inputs(args, side, in_ch, memory_format=torch.contiguous_format):
    torch.manual_seed(0)
    x_t = torch.randn(args.batch, in_ch, side, side).clamp(-1, 1).to(args.device, memory_format=memory_format)
    return x_t, torch.randint(T, (args.batch,)).to(args.device), torch.randn_like(x_t)


def same_network(work, config, memory_format, args, ask=output):
    """Seconds of ours and of diffusers' network, which are the same function.  ask: `output` or `mixed`."""
    arguments, side = config
    given = inputs(args, side, arguments["in_ch"], memory_format)
    functions = []
    for net in twins(arguments, side):
        forward = torch.compile(ask) if args.compile else ask
        functions.append(work(net.to(args.device).to(memory_format=memory_format), forward, *given))
    return take_turns(functions, args.rounds, device=args.device)


def own_ways(ours, theirs, other, config, args):
    """Seconds of a step as each project makes it: ours, diffusers', denoising-diffusion-pytorch's if it is installed.

    Ours in channels_last, as a run and the shipped networks are; the others as they are made.
    """
    arguments, side = config
    x, _, _ = inputs(args, side, arguments["in_ch"])
    net, twin = (each.to(args.device) for each in twins(arguments, side, dropout=0.0))
    functions = [ours(net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last))]
    functions.append(theirs(twin, x))
    if (diffusion := lucidrains(net, side)) is not None:
        functions.append(other(diffusion.to(args.device), x))
    return take_turns(functions, args.rounds, device=args.device)


def fastest(work, config, args):
    """On a GPU: ours in bfloat16, channels_last, compiled, as a CUDA graph, beside diffusers' network as it is made."""
    arguments, side = config
    ours, theirs = (net.to(args.device) for net in twins(arguments, side))
    given = inputs(args, side, arguments["in_ch"], torch.channels_last)
    quick = work(ours.to(memory_format=torch.channels_last), torch.compile(mixed, mode="reduce-overhead"), *given)
    plain = work(theirs, output, *inputs(args, side, arguments["in_ch"]))
    return take_turns([quick, plain], args.rounds, warm_up=8, device=args.device)


def operations(work, config, args):
    """Floating-point operations of convolutions, attention and linear layers; attention counted as its two products."""
    here = copy.copy(args)
    here.device = "cpu"
    net, _ = twins(*config)
    function = work(net, output, *inputs(here, config[1], config[0]["in_ch"]))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def row(what, how, peer, ours, theirs):
    return f"| {what} | {how} | {peer} | {milliseconds(ours)} | {milliseconds(theirs)} | {ratios(ours, theirs)} |"


def rows(config, args):
    """Lines of the table, and the ratio of a training step in channels_last on the clock."""
    lines, needed = [], None
    for work, what in ((training_step, "training step"), (forward_pass, "forward pass")):
        for name, memory_format, ask in (
            ("channels_last", torch.channels_last, output),
            ("contiguous", torch.contiguous_format, output),
            ("channels_last, mixed precision", torch.channels_last, mixed),
        ):
            ours, theirs = same_network(work, config, memory_format, args, ask)
            lines.append(row(what, f"same network, {name}", "diffusers", ours, theirs))
            needed = needed or (theirs / ours)[:, 0].median().item()
            print(lines[-1], flush=True)
        if args.device == "cuda":
            lines.append(row(what, "bfloat16, compiled, CUDA graph", "diffusers", *fastest(work, config, args)))
            print(lines[-1], flush=True)
    for what, *ways in (
        ("training step", our_training, diffusers_training, lucidrains_training),
        ("sampling step", our_sampling, diffusers_sampling, lucidrains_sampling),
    ):
        ours, *others = own_ways(*ways, config, args)
        for theirs, peer in zip(others, ("diffusers", "denoising-diffusion-pytorch"), strict=False):
            lines.append(row(what, "each in its own way", peer, ours, theirs))
            print(lines[-1], flush=True)
    return lines, needed


def limits(config, args):
    """How long a step would take if all its multiplications went at the machine's own rate, as a sentence."""
    matrices, convolution = rates(args.device)
    best = max(matrices, convolution)
    train, forward = (operations(work, config, args) for work in (training_step, forward_pass))
    return (
        f"The machine reaches {matrices / 1e9:.0f} GFLOP/s in a matrix multiplication and {convolution / 1e9:.0f} in a "
        f"convolution; at the larger rate the {train / 1e9:.1f} GFLOP of a training step would take "
        f"{1000 * train / best:.1f} ms and the {forward / 1e9:.1f} of a forward pass {1000 * forward / best:.1f} ms."
    )


def table(args):
    """The Markdown text, and the smallest ratio of a training step in channels_last."""
    config, name = (LARGE, "CIFAR-10's") if args.large else (SMALL, "small")
    text, needed = [], []
    ours, _ = twins(*config)
    text += [
        f"The {name} network ({', '.join(f'{k} = {v}' for k, v in config[0].items())}; {parameters(ours)} parameters), "
        f"{args.batch} images of side {config[1]}, {'compiled' if args.compile else 'not compiled'}; medians of "
        f"{args.rounds} rounds, in brackets the quartiles. {machine(args.device)}; torch {torch.__version__}, "
        f"diffusers {diffusers.__version__}{other_version(ours, config[1])}.",
        "",
    ]
    for threads in args.threads:
        torch.set_num_threads(threads)
        count = "" if args.device == "cuda" else f"{threads} thread{'s' if threads > 1 else ''}. "
        text += [count + limits(config, args), ""]
        print(text[-2], flush=True)
        text += ["| what | how | peer | ours, ms | peer, ms | peer / ours | in processor time |", "|" + "---|" * 7]
        lines, ratio = rows(config, args)
        text += [*lines, ""]
        needed.append(ratio)
    return "\n".join(text), min(needed)


def other_version(ours, side):
    if (diffusion := lucidrains(ours, side)) is None:
        return "; denoising-diffusion-pytorch is not installed"
    name = "denoising-diffusion-pytorch"
    return f", {name} {version(name)} ({parameters(diffusion)} parameters)"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="the CIFAR-10 network instead of the small one")
    parser.add_argument("--batch", type=int, default=16, help="images")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--compile", action="store_true", help="compile both networks where they are the same")
    parser.add_argument("--rounds", type=int, default=15, help="at least 7")
    parser.add_argument("--threads", type=int, nargs="+", help="CPU threads; 1 and all if not given")
    parser.add_argument("--write", action="store_true", help="write the table into README.md")
    args = parser.parse_args()
    if args.rounds < 7:
        parser.error(f"--rounds must be at least 7, got {args.rounds}")
    args.threads = args.threads or sorted({1, torch.get_num_threads()})
    text, ratio = table(args)
    print(f"\n{text}")
    if args.write:
        write("unet.py", text)
    if ratio < NEEDED:
        raise SystemExit(f"a training step must be at least {NEEDED} times as fast as diffusers', got {ratio:.3f}")


if __name__ == "__main__":
    main()

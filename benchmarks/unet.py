"""Time of our UNet against diffusers' UNet2DModel: the same architecture, the same weights, the same loss.

    python benchmarks/unet.py [--large] [--device cuda] [--compile] [--rounds 15] [--threads 2] [--write]

A training step is the forward pass, the mean squared error, the backward pass and a step of Adam. The two networks take
turns, so that whatever else the machine does meets both; the one that begins changes every round. The ratio is taken
within a round. `--write` puts the table between the markers of benchmarks/README.md.
"""

import argparse
import platform
import time
from pathlib import Path
from statistics import median

import diffusers
import torch
from torch.nn.functional import mse_loss

from ddpm_lesson.interop import to_diffusers
from ddpm_lesson.networks.unet import UNet

README = Path(__file__).parent / "README.md"
MARKERS = "<!-- table of unet.py -->\n", "<!-- end of the table -->\n"
NEEDED = 0.95  # of diffusers' speed, for a training step in channels_last
WARM_UP = 3  # rounds that are not counted

# Arguments of the UNet, batch size, side of the images.
SMALL = {"ch": 32, "ch_mult": [1, 2, 2], "in_ch": 1, "num_groups": 8}, 64, 28
LARGE = {"ch": 128, "ch_mult": [1, 2, 2, 2]}, 16, 32


def networks(arguments, side):
    """Our network and diffusers', with the same weights. Raises AssertionError if their outputs differ."""
    torch.manual_seed(0)
    ours = UNet(T=1000, attn=[1], num_res_blocks=2, dropout=0.1, **arguments).eval()
    with torch.no_grad():
        for p in ours.parameters():
            if p.requires_grad:  # last layers start near 0: left there, equal outputs would prove little
                p.add_(torch.randn_like(p), alpha=0.02)
        theirs, _ = to_diffusers(ours)
        x_t, t = torch.randn(2, ours.options["in_ch"], side, side), torch.tensor([3, 900])
        torch.testing.assert_close(ours(x_t, t), theirs(x_t, t).sample, rtol=0, atol=1e-5)
    return ours, theirs


def output(net, x_t, t):
    return net(x_t, t) if isinstance(net, UNet) else net(x_t, t, return_dict=False)[0]


def training_step(net, forward, x_t, t, noise):
    """A function that trains the network by one step."""
    net.train()
    adam = torch.optim.Adam(net.parameters(), lr=1e-4)

    def step():
        adam.zero_grad()
        mse_loss(forward(net, x_t, t), noise).backward()
        adam.step()

    return step


def forward_pass(net, forward, x_t, t, noise):
    """A function that asks the network once, as a sampler does."""
    net.eval()
    return torch.no_grad()(lambda: forward(net, x_t, t))


def seconds(function, device):
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(work, config, memory_format, args):
    """Seconds of ours and of theirs, a pair for each round."""
    arguments, batch, side = config
    torch.manual_seed(0)
    x_t = torch.randn(batch, arguments.get("in_ch", 3), side, side).to(args.device, memory_format=memory_format)
    t, noise = torch.randint(1000, (batch,)).to(args.device), torch.randn_like(x_t)
    functions = []
    for net in networks(arguments, side):
        forward = torch.compile(output) if args.compile else output
        functions.append(work(net.to(args.device).to(memory_format=memory_format), forward, x_t, t, noise))
    pairs = []
    for i in range(WARM_UP + args.rounds):
        found = {k: seconds(functions[k], args.device) for k in ((0, 1) if i % 2 else (1, 0))}
        pairs.append((found[0], found[1]))
    return pairs[WARM_UP:]


def machine(args):
    if args.device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")  # Linux: platform knows no more than x86_64 there
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{(models or [platform.processor()])[0]} ({platform.machine()}), {torch.get_num_threads()} threads"


def table(args):
    """The Markdown table, and the ratio of a training step in channels_last."""
    config, name = (LARGE, "CIFAR-10's") if args.large else (SMALL, "small")
    arguments, batch, side = config
    ratios, lines = [], []
    for work, what in ((training_step, "training step"), (forward_pass, "forward pass")):
        for memory_format in (torch.channels_last, torch.contiguous_format):
            pairs = measure(work, config, memory_format, args)
            ratio = sorted(theirs / ours for ours, theirs in pairs)
            ms = [f"{1000 * median(times):.1f}" for times in zip(*pairs, strict=True)]
            row = [what, str(memory_format).removeprefix("torch."), *ms]
            lines.append(f"| {' | '.join(row)} | **{median(ratio):.2f}** ({ratio[0]:.2f}..{ratio[-1]:.2f}) |")
            ratios.append(median(ratio))
            print(lines[-1], flush=True)
    compiled = "compiled" if args.compile else "not compiled"
    head = [
        f"The {name} network ({', '.join(f'{k} = {v}' for k, v in arguments.items())}), {batch} images of side {side}, "
        f"{compiled}; medians of {args.rounds} rounds.",
        f"{machine(args)}; torch {torch.__version__}, diffusers {diffusers.__version__}.",
        "",
        "| what | memory format | ours, ms | diffusers, ms | theirs / ours (min..max) |",
        "|---|---|---|---|---|",
    ]
    return "\n".join(head + lines) + "\n", ratios[0]


def write(text):
    page = README.read_text(encoding="utf-8")
    before, rest = page.split(MARKERS[0])
    _, after = rest.split(MARKERS[1])
    README.write_text(before + MARKERS[0] + text + MARKERS[1] + after, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="the CIFAR-10 network in the place of the small one")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--compile", action="store_true", help="time both networks under torch.compile")
    parser.add_argument("--rounds", type=int, default=15, help="at least 7")
    parser.add_argument("--threads", type=int, help="CPU threads; as many as PyTorch takes by itself if not given")
    parser.add_argument("--write", action="store_true", help="write the table into README.md")
    args = parser.parse_args()
    if args.rounds < 7:
        parser.error(f"--rounds must be at least 7, got {args.rounds}")
    if args.threads:
        torch.set_num_threads(args.threads)
    text, ratio = table(args)
    print(f"\n{text}")
    if args.write:
        write(text)
    if ratio < NEEDED:
        raise SystemExit(f"a training step must be at least {NEEDED} times as fast as diffusers', got {ratio:.3f}")


if __name__ == "__main__":
    main()

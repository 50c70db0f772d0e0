"""Time that an import takes, PyTorch's own apart, beside diffusers and denoising-diffusion-pytorch.

    python benchmarks/imports.py [--write]

Each import has a fresh interpreter, the packages take turns, and the median of five rounds counts. PyTorch is imported
first and timed for itself: everybody waits for it. `--write` puts the table between its markers of README.md.
"""

import argparse
import subprocess
import sys
from importlib.util import find_spec
from statistics import median

from _measured import write

ROUNDS = 5
WORK = {  # what a training script imports
    "ddpm_lesson": "from ddpm_lesson.networks.unet import UNet; from ddpm_lesson.training import train",
    "diffusers": "from diffusers import DDPMScheduler, UNet2DModel",
    "denoising-diffusion-pytorch": "from denoising_diffusion_pytorch import GaussianDiffusion, Unet",
}


def seconds(line):
    """Seconds for PyTorch and for this line after it."""
    code = f"from time import perf_counter as now; a = now(); import torch; b = now(); {line}; print(b - a, now() - b)"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return tuple(float(word) for word in said.splitlines()[-1].split())


def measure():
    """{package: its seconds, one for each round}, and those of PyTorch."""
    there = {name: line for name, line in WORK.items() if find_spec(line.split()[1].split(".")[0])}
    found, torch = {name: [] for name in there}, []
    for _ in range(ROUNDS):
        for name, line in there.items():
            first, after = seconds(line)
            torch.append(first)
            found[name].append(after)
    return found, torch


def table(found, torch):
    ours = median(found["ddpm_lesson"])
    lines = [f"PyTorch itself: {median(torch):.1f} s. What comes on top, medians of {ROUNDS} fresh interpreters:", ""]
    lines += ["| package | seconds | as many as ours |", "|---|---|---|"]
    lines += [f"| {name} | {median(times):.2f} | {median(times) / ours:.0f} |" for name, times in found.items()]
    return "\n".join([*lines, ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the table into README.md")
    args = parser.parse_args()
    print(text := table(*measure()))
    if args.write:
        write("imports.py", text)


if __name__ == "__main__":
    main()

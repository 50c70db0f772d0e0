"""What the training examples of two other libraries reach on MNIST in the time of `mnist_fast.py`: five minutes.

    python data/records/mnist_peers.py [--root FOLDER] [NAME ...]

Writes mnist_peers.json beside this file; rows that are there already stay, unless named. diffusers and lucidrains'
denoising-diffusion-pytorch (the extra `bench`) train their own networks with their own settings, made for GPUs; only
the images are other ones: MNIST's, with a border of paper that makes their sides 32 and is cut off again. 100 digits
are drawn with 25 steps of their own DDIM (eta = 1). A step of each is that of benchmarks/peers.py.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from mnist_fast import MARKS, at_hand, scored
from torch import Tensor
from tqdm.auto import tqdm

from ddpm_lesson.batches import ordered
from ddpm_lesson.data import Images
from ddpm_lesson.experiments.checkpoints import write_whole

FILE = Path(__file__).with_suffix(".json")
BENCHMARKS = FILE.parents[2] / "benchmarks"
FEW = 100


def main() -> None:
    names = {"diffusers": of_diffusers, "lucidrains": of_lucidrains}
    parser = argparse.ArgumentParser(description="Others' examples on MNIST, for five minutes.")
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*names, []], help=f"of {', '.join(names)}")
    parser.add_argument("--root", help="folder of torchvision's files")
    options = parser.parse_args()
    sys.path.insert(0, str(BENCHMARKS))
    images = at_hand(options.root)
    held = json.loads(FILE.read_text(encoding="utf-8"))["rows"] if FILE.exists() else {}
    for name in options.names or [name for name in names if name not in held]:
        held[name] = {"torch": torch.__version__.split("+")[0], "images": len(images)} | names[name](images)
        told = {"made_by": "python data/records/mnist_peers.py", "rows": held}
        write_whole(FILE, (json.dumps(told, indent=1) + "\n").encode())


def of_diffusers(images: Images) -> dict:
    """train_unconditional.py of diffusers' examples, with one channel and its defaults."""
    from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
    from peers import diffusers_trainer

    down, up = ["DownBlock2D"] * 6, ["UpBlock2D"] * 6
    down[4], up[1] = "AttnDownBlock2D", "AttnUpBlock2D"
    channels = (128, 128, 256, 256, 512, 512)
    model = UNet2DModel(
        32, 1, 1, layers_per_block=2, block_out_channels=channels, down_block_types=down, up_block_types=up
    )
    step, average = diffusers_trainer(model, steps=len(images) // 16 * 100)

    def draw(n: int) -> Tensor:
        average.copy_to(model.parameters())
        chain, x_t = DDIMScheduler.from_config(DDPMScheduler(1000).config), torch.randn(n, 1, 32, 32)
        chain.set_timesteps(25)
        for t in chain.timesteps:
            x_t = chain.step(model(x_t, t).sample, t, x_t, eta=1.0).prev_sample
        return x_t

    return of_peer("diffusers", images, 16, model, step, draw)


def of_lucidrains(images: Images) -> dict:
    """The README's example of denoising-diffusion-pytorch, with one channel and its Trainer's settings."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from peers import lucidrains_trainer

    model = Unet(dim=64, dim_mults=(1, 2, 4, 8), channels=1)
    diffusion = GaussianDiffusion(model, image_size=32, timesteps=1000, sampling_timesteps=25, ddim_sampling_eta=1.0)
    step, average = lucidrains_trainer(diffusion, lr=8e-5, accumulate=2)
    return of_peer("lucidrains", images, 64, model, step, lambda n: 2 * average.sample(batch_size=n) - 1)


def of_peer(
    name: str,
    images: Images,
    batch_size: int,
    model: torch.nn.Module,
    step: Callable[[Tensor], None],
    draw: Callable[[int], Tensor],
) -> dict:
    """Train until `MARKS` end, by the wall clock, and draw."""
    torch.manual_seed(0)
    made, begun, bar = 0, time.perf_counter(), tqdm(desc=name)
    for x_0, _ in ordered(images, batch_size=batch_size, seed=0):
        step(torch.nn.functional.pad(x_0, (2, 2, 2, 2), value=-1.0))
        made += 1
        bar.update()
        if (seconds := time.perf_counter() - begun) >= MARKS[-1]:
            break
    with torch.no_grad():
        samples = torch.cat([draw(20) for _ in range(FEW // 20)])[..., 2:-2, 2:-2].clamp(-1, 1)
    parameters = sum(p.numel() for p in model.parameters())
    told = {"threads": torch.get_num_threads(), "cores": os.cpu_count(), "parameters": parameters, "drawn": FEW}
    return {**told, "steps": made, "seconds": round(seconds, 1), **scored(samples)}


if __name__ == "__main__":
    main()

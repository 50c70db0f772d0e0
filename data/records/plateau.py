"""A plateau that is not the end, over several seeds: python data/records/plateau.py

Writes plateau.json beside this file. Notebook 02, section 2.3, trains the same network with one seed, and takes from
here what other seeds give. About twenty seconds for each seed on an idle core.
"""

import json
import math
from functools import partial
from pathlib import Path

import torch
from tqdm.auto import tqdm

from ddpm_lesson import GaussianDiffusion, data, losses, oracle, schedules, training
from ddpm_lesson.denoisers import make_denoiser
from ddpm_lesson.experiments.checkpoints import write_whole
from ddpm_lesson.networks.mlp import MLP
from ddpm_lesson.predictions import epsilon, fixedsmall
from ddpm_lesson.samplers import ancestral, last, reverse

SEEDS, STEPS = range(5), (2000, 8000)
PROCESS = GaussianDiffusion(schedules.linear(1000))
EXACT = oracle.Mixture(PROCESS, *data.eight_gaussians_mixture())
CENTRES = data.eight_gaussians_mixture()[1].float()


def measured(denoise) -> dict:
    """Loss on 20,000 new points, and the share of 1000 samples within 3 standard deviations of a cluster's centre."""
    generator = torch.Generator().manual_seed(1)
    x_0, t = data.eight_gaussians(20_000, generator=generator), torch.arange(1000).repeat(20)
    noised = PROCESS.noised(x_0, t, generator=generator)
    loss = (denoise(noised.x_t, t).eps - noised.noise).square().mean().item()
    x_T = torch.randn(1000, 2, generator=generator)
    found = last(ancestral(PROCESS, reverse(PROCESS, denoise, fixedsmall), x_T, generator=generator))
    near = (torch.cdist(found, CENTRES).min(1).values < 0.3).float().mean().item()
    return {"loss": round(loss, 4), "near": round(near, 3)}


def trained(seed: int) -> dict:
    """What is measured after each of STEPS, by the number of steps."""
    torch.manual_seed(seed)
    points, model = data.eight_gaussians(20_000), MLP(1000, dim=2, hidden=64)
    generator = torch.Generator().manual_seed(seed)
    batches = training.minibatches(points, batch_size=256, generator=generator)
    loss = partial(losses.simple_loss, PROCESS, epsilon)
    options = {"steps": max(STEPS), "lr": 5e-3, "clip_norm": math.inf, "generator": generator}
    run, found = training.train(model, PROCESS, batches, loss, **options), {}
    for step in tqdm(run, f"seed {seed}", total=max(STEPS)):
        if step.step in STEPS:
            found[str(step.step)] = measured(make_denoiser(model, PROCESS, epsilon))
    return found


def main() -> None:
    torch.set_num_threads(1)
    found = {"exact": measured(EXACT), "seeds": [trained(seed) for seed in SEEDS]}
    record = {"made_by": "python data/records/plateau.py"} | found
    write_whole(Path(__file__).with_suffix(".json"), (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()

"""A denoising diffusion GAN beside a GAN of one step, on eight clusters: python data/records/ddgan_points.py

Trains both kinds for the same number of steps with some seeds, and writes ddgan_points.json beside this file:
of 4,000 points each the share within 0.3, three standard deviations, of a mode, and that of each mode. About half a
minute for each row on an idle core. Rows that are there are kept.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ddpm_lesson import GaussianDiffusion, samplers, schedules
from ddpm_lesson.denoisers import make_denoiser
from ddpm_lesson.experiments.checkpoints import write_whole
from ddpm_lesson.networks.discriminator import Discriminator
from ddpm_lesson.networks.mlp import MLP
from ddpm_lesson.points import eight_gaussians, eight_gaussians_mixture
from ddpm_lesson.predictions import fixedsmall, xstart
from ddpm_lesson.training import EMA, cosine
from ddpm_lesson.variants.ddgan import latent, train_ddgan

PATH = Path(__file__).with_suffix(".json")
SETTINGS = {"hidden": 64, "layers": 3, "latent": 2, "gain_G": 3.0, "gain_D": 5.0, "batch_size": 256, "steps": 2000}
SETTINGS |= {"lr_G": 1e-3, "lr_D": 2e-3, "betas": [0.5, 0.9], "interval": 4, "ema_decay": 0.995}
# beta_max: the last rate of the schedule, in `schedules.vp`. alone: D does not see x_t. seeds: how many. The settings
# were chosen with seed 3 of DDGAN.
KINDS = {
    "DDGAN": {"T": 4, "beta_max": 10.0, "r1": 0.05, "alone": False, "seeds": 10},
    "GAN": {"T": 1, "beta_max": 20.0, "r1": 0.0, "alone": True, "seeds": 5},
}
N = 4000


def trained(kind: str, seed: int) -> tuple[GaussianDiffusion, MLP]:
    """The process of a kind and its generator, averaged."""
    o = SETTINGS | KINDS[kind]
    T, process = o["T"], GaussianDiffusion(schedules.vp(o["T"], beta_max=o["beta_max"]))
    torch.manual_seed(seed)
    G = MLP(T, 2, o["hidden"], o["layers"], latent=o["latent"], gain=o["gain_G"])
    seen = 2 if o["alone"] else 4
    D = Discriminator(MLP(T, seen, o["hidden"], o["layers"], out=1, gain=o["gain_D"]), alone=o["alone"])
    rates = {G: o["lr_G"], D: o["lr_D"]}
    optimizers = tuple(torch.optim.Adam(part.parameters(), lr, betas=tuple(o["betas"])) for part, lr in rates.items())
    generator, ema, rate = torch.Generator().manual_seed(seed), EMA(G, o["ema_decay"]), cosine(o["steps"])
    told = {name: o[name] for name in ("steps", "r1", "interval")} | {"latent_size": o["latent"]}
    data = batches(o["batch_size"], generator)
    for step in train_ddgan(G, D, process, data, optimizers=optimizers, generator=generator, **told):
        ema.update(G)
        for optimizer, lr in zip(optimizers, rates.values(), strict=True):
            optimizer.param_groups[0]["lr"] = lr * rate(step.step + 1)
    return process, ema.model


def batches(size: int, generator: torch.Generator) -> Iterator[Tensor]:
    while True:
        yield eight_gaussians(size, generator=generator)


def draw(process: GaussianDiffusion, G: MLP, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    denoise = make_denoiser(G, process, xstart, z=latent(G.latent, generator=generator))
    p = samplers.reverse(process, denoise, fixedsmall)
    return samplers.last(samplers.ancestral(process, p, torch.randn(N, 2, generator=generator), generator=generator))


def row(kind: str, seed: int) -> dict:
    begun = time.process_time()
    process, G = trained(kind, seed)
    seconds = time.process_time() - begun
    distance, mode = torch.cdist(draw(process, G, 1000 + seed).double(), eight_gaussians_mixture()[1]).min(1)
    near = distance < 0.3
    shares = torch.bincount(mode[near], minlength=8) / N
    rounded = [round(share, 4) for share in shares.tolist()]
    told = {"near": round(near.double().mean().item(), 4), "shares": rounded, "cpu_seconds": round(seconds, 1)}
    return {"kind": kind, "seed": seed} | told


def main() -> None:
    torch.set_num_threads(1)
    record = {"made_by": "python data/records/ddgan_points.py", "settings": SETTINGS, "kinds": KINDS}
    record |= {"n": N, "rows": []}
    if PATH.exists():
        held = json.loads(PATH.read_text(encoding="utf-8"))
        same = held["settings"] == SETTINGS
        record["rows"] = [row for row in held["rows"] if same and held["kinds"].get(row["kind"]) == KINDS[row["kind"]]]
    known = {(each["kind"], each["seed"]) for each in record["rows"]}
    wanted = [(kind, seed) for kind, about in KINDS.items() for seed in range(about["seeds"])]
    for kind, seed in tqdm(sorted(wanted, key=lambda pair: pair[1] >= 5)):  # five of each first
        if (kind, seed) not in known:
            record["rows"].append(row(kind, seed))
            write_whole(PATH, (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()

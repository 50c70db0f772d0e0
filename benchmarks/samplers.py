"""Time of a sampler's step outside of the network, beside diffusers' schedulers: a network that costs nothing.

    python benchmarks/samplers.py [--write]

One image of side 28 on one thread, 1000 steps, the estimated x_0 clipped, noise from a generator. The samplers take
turns; each number is a median over the rounds, and the ratio, too, taken within a round. `--write` puts the table
between its markers of README.md. It fails if a step of ancestral or ddim takes longer than that of diffusers. A step of
heun is two questions to the network, on both sides.
"""

import argparse
from functools import partial

import diffusers
import torch
from _measured import ratios, take_turns, write

from ddpm_lesson import GaussianDiffusion, samplers
from ddpm_lesson.denoisers import clipped, make_denoiser
from ddpm_lesson.predictions import epsilon, fixedlarge
from ddpm_lesson.schedules import linear

STEPS, ROUNDS = 1000, 8


def network(x_t, t):
    return x_t


def ours():
    """A function for each sampler, which draws one image."""
    base = GaussianDiffusion(linear(STEPS))
    denoise = clipped(make_denoiser(network, base, epsilon), base)
    p = samplers.reverse(base, denoise, fixedlarge)
    x_T, generator = torch.randn(1, 1, 28, 28), torch.Generator()
    chains = {"ancestral": lambda: samplers.ancestral(base, p, x_T, generator=generator)}
    for name in ("ddim", "dpmpp_2m", "heun"):
        chains[name] = partial(getattr(samplers, name), base, denoise, x_T)
    return {name: lambda chain=chain: samplers.last(chain()) for name, chain in chains.items()}


def theirs():
    """The same of diffusers, by the names of ours."""
    shared = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    solver = {"thresholding": True, "sample_max_value": 1.0, "final_sigmas_type": "zero"}
    schedulers = {
        "ancestral": diffusers.DDPMScheduler(**shared),
        "ddim": diffusers.DDIMScheduler(**shared),
        "dpmpp_2m": diffusers.DPMSolverMultistepScheduler(**shared, **solver),
        "heun": diffusers.HeunDiscreteScheduler(**shared, clip_sample=True),
    }
    return {name: lambda scheduler=scheduler: draw(scheduler) for name, scheduler in schedulers.items()}


def draw(scheduler):
    scheduler.set_timesteps(STEPS)
    x_t, generator = torch.randn(1, 1, 28, 28) * scheduler.init_noise_sigma, torch.Generator()
    noisy = {"generator": generator} if isinstance(scheduler, diffusers.DDPMScheduler) else {}
    for t in scheduler.timesteps:
        x_t = scheduler.step(network(scheduler.scale_model_input(x_t, t), t), t, x_t, **noisy).prev_sample


def measure():
    """{sampler: seconds of ours and of diffusers', (rounds, 2) each, for a whole chain}"""
    a, b = ours(), theirs()
    return {name: take_turns([a[name], b[name]], ROUNDS, warm_up=1) for name in a}


def table(found):
    about = f"One thread; torch {torch.__version__}, diffusers {diffusers.__version__}; medians of {ROUNDS} rounds."
    head = "| sampler | ours, microseconds per step | diffusers | theirs / ours | in processor time |"
    rows = []
    for name, pair in found.items():
        each = [f"{seconds[:, 0].median().item() / STEPS * 1e6:.0f}" for seconds in pair]
        rows.append(f"| {name} | {' | '.join(each)} | {ratios(*pair)} |")
    return "\n".join([about, "", head, "|" + "---|" * 5, *rows, ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the table into README.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = measure()
    print(text := table(found))
    if args.write:
        write("samplers.py", text)
    slower = [name for name in ("ancestral", "ddim") if (found[name][1] / found[name][0])[:, 0].median() < 1]
    if slower:
        raise SystemExit(f"slower than diffusers: {', '.join(slower)}")


if __name__ == "__main__":
    main()

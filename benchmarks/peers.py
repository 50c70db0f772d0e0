"""The peers' networks, and what each project does by itself in a step of training and in a step of sampling.

diffusers' `UNet2DModel` has our architecture and our weights. denoising-diffusion-pytorch's `Unet` has another one:
linear attention on the finer levels, softmax attention with four heads on the coarsest, its own blocks; its width is
chosen so that it has about as many parameters.
"""

import itertools
from collections.abc import Callable
from functools import partial

import diffusers
import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from ddpm_lesson import GaussianDiffusion, samplers
from ddpm_lesson.denoisers import clipped, make_denoiser
from ddpm_lesson.interop import to_diffusers
from ddpm_lesson.losses import simple_loss
from ddpm_lesson.networks.unet import UNet
from ddpm_lesson.predictions import epsilon, fixedlarge
from ddpm_lesson.schedules import linear
from ddpm_lesson.training import EMA, train

T = 1000
Step = Callable[[], object]


def twins(arguments: dict, side: int, dropout: float = 0.1) -> tuple[UNet, nn.Module]:
    """Our network and diffusers', with the same weights. Raises AssertionError if their outputs differ."""
    torch.manual_seed(0)
    ours = UNet(T=T, attn=[1], num_res_blocks=2, dropout=dropout, **arguments).eval()
    with torch.no_grad():
        for p in ours.parameters():
            if p.requires_grad:  # last layers start near 0: left there, equal outputs would prove little
                p.add_(torch.randn_like(p), alpha=0.02)
        theirs, _ = to_diffusers(ours)
        x_t, t = torch.randn(2, ours.options["in_ch"], side, side), torch.tensor([3, 900])
        torch.testing.assert_close(ours(x_t, t), theirs(x_t, t).sample, rtol=0, atol=1e-5)
    return ours, theirs


def lucidrains(ours: UNet, side: int) -> nn.Module | None:
    """denoising-diffusion-pytorch's process with a network of about so many parameters; None where it is missing."""
    try:
        import denoising_diffusion_pytorch as package
    except ImportError:
        return None
    wanted = parameters(ours)
    make = partial(package.Unet, dim_mults=tuple(ours.options["ch_mult"]), channels=ours.options["in_ch"])
    nearest = min(range(4, 4 * ours.options["ch"], 2), key=lambda dim: abs(_estimate(make, dim) - wanted))
    return package.GaussianDiffusion(make(nearest), image_size=side, timesteps=T)


def _estimate(make: Callable[..., nn.Module], dim: int) -> int:
    with torch.device("meta"):
        return parameters(make(dim))


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def our_training(net: UNet, x_0: Tensor) -> Step:
    """`train` as a recipe calls it: Adam, clipping, an average of the weights."""
    process = GaussianDiffusion(linear(T)).to(x_0.device)
    loss = partial(simple_loss, process, epsilon)
    return partial(next, train(net, process, [x_0], loss, steps=10**9, lr=2e-4, ema=EMA(net)))


def diffusers_training(net: nn.Module, x_0: Tensor) -> Step:
    return partial(diffusers_trainer(net)[0], x_0)


def lucidrains_training(diffusion: nn.Module, x_0: Tensor) -> Step:
    return partial(lucidrains_trainer(diffusion)[0], x_0)


def diffusers_trainer(net: nn.Module, steps: int = 10**6) -> tuple[Callable[[Tensor], None], EMAModel]:
    """A step on a batch in [-1, 1] of diffusers' examples/unconditional_image_generation, and its average of weights.

    On one device. steps: after how many its rate has fallen to 0.
    """
    net.train()
    scheduler = diffusers.DDPMScheduler(T)
    average = EMAModel(net.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    adam = torch.optim.AdamW(net.parameters(), 1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    rate = get_scheduler("cosine", optimizer=adam, num_warmup_steps=500, num_training_steps=steps)

    def step(x_0: Tensor) -> None:
        noise, t = torch.randn_like(x_0), torch.randint(T, (len(x_0),), device=x_0.device)
        mse_loss(net(scheduler.add_noise(x_0, noise, t), t).sample.float(), noise.float()).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adam.step()
        rate.step()
        adam.zero_grad()
        average.step(net.parameters())

    return step, average


def lucidrains_trainer(
    diffusion: nn.Module, lr: float = 1e-4, accumulate: int = 1
) -> tuple[Callable[[Tensor], None], nn.Module]:
    """A step on a batch in [-1, 1] of denoising-diffusion-pytorch's Trainer, and its average, as a process.

    On one device. accumulate: in how many parts a batch is gone through.
    """
    from ema_pytorch import EMA as Average

    diffusion.train()
    adam = torch.optim.Adam(diffusion.parameters(), lr=lr, betas=(0.9, 0.99))
    average = Average(diffusion, beta=0.995, update_every=10).to(next(diffusion.parameters()).device)

    def step(x_0: Tensor) -> None:
        for part in x_0.chunk(accumulate):
            loss = diffusion((part + 1) / 2) / accumulate
            loss.item()
            loss.backward()
        nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
        average.update()

    return step, average.ema_model


def our_sampling(net: UNet, x_T: Tensor) -> Step:
    """A step of `ancestral`; the chain begins anew when it ends."""
    base = GaussianDiffusion(linear(T)).to(x_T.device)
    p = samplers.reverse(base, clipped(make_denoiser(net.eval(), base, epsilon), base), fixedlarge)
    chains = (itertools.islice(samplers.ancestral(base, p, x_T), 1, None) for _ in itertools.count())
    return partial(next, itertools.chain.from_iterable(chains))


def diffusers_sampling(net: nn.Module, x_T: Tensor) -> Step:
    """A step of diffusers' DDPMPipeline; the chain begins anew when it ends."""
    net.eval()
    scheduler, generator = diffusers.DDPMScheduler(T), torch.Generator(x_T.device)
    scheduler.set_timesteps(T)

    @torch.no_grad()
    def chain():
        x_t = x_T
        for t in scheduler.timesteps:
            x_t = scheduler.step(net(x_t, t).sample, t, x_t, generator=generator).prev_sample
            yield x_t

    return partial(next, itertools.chain.from_iterable(chain() for _ in itertools.count()))


def lucidrains_sampling(diffusion: nn.Module, x_T: Tensor) -> Step:
    """A step of denoising-diffusion-pytorch's p_sample_loop, in the middle of the chain."""
    diffusion.eval()
    return lambda: diffusion.p_sample(x_T, T // 2)

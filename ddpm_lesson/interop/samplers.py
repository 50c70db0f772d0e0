"""diffusers' schedulers that step as this package's samplers do, and one loop that draws with any of them."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from ddpm_lesson.interop.diffusers import _diffusers

TWINS: dict[str, tuple[str, dict[str, Any]]] = {
    "ancestral": ("DDPMScheduler", {}),
    "ddim": ("DDIMScheduler", {"timestep_spacing": "trailing"}),
    # Its "leading" begins at sqrt(sigma_T^2 + 1), as x_T / sqrt(alphas_bar_T) does, the other spacings at sigma_T.
    "heun": ("HeunDiscreteScheduler", {"timestep_spacing": "leading"}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "final_sigmas_type": "zero"}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "final_sigmas_type": "zero"}),
    "dpmpp_2s": ("DPMSolverSinglestepScheduler", {"algorithm_type": "dpmsolver++", "final_sigmas_type": "zero"}),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": True, "timestep_spacing": "trailing"}),
}


def twin(sampler: str, ddpm: Any, **changes: Any) -> Any:
    """diffusers' scheduler that steps as the sampler of that name.

    sampler: a name in `TWINS`. ddpm: the DDPMScheduler that `to_diffusers` gives; its betas, meaning, variance and
    clipping are taken over, as far as the other scheduler knows them. changes: of its configuration; DDIM and PNDM
    choose their steps themselves, and go by timestep_spacing="trailing" unless told otherwise.
    Raises ValueError for another name (dpmpp_3m has no twin, see there) and for plms with clipping, which PNDM cannot,
    ImportError if diffusers is missing.
    """
    diffusers = _diffusers()
    if sampler not in TWINS:
        raise ValueError(f"diffusers has a twin of {', '.join(TWINS)}, got {sampler!r}")
    name, options = TWINS[sampler]
    cls = getattr(diffusers, name)
    if ddpm.config.clip_sample and sampler == "plms":
        raise ValueError("PNDMScheduler does not clip: expected clip_denoised=False, got a scheduler that clips")
    shared = {key: ddpm.config[key] for key in ("num_train_timesteps", "trained_betas", "prediction_type")}
    known = inspect.signature(cls.__init__).parameters
    if "clip_sample" in known:
        shared["clip_sample"] = ddpm.config.clip_sample
    elif ddpm.config.clip_sample:  # a threshold that cannot exceed 1 is a clip
        shared |= {"thresholding": True, "sample_max_value": 1.0}
    if sampler == "ancestral":
        shared |= {key: ddpm.config[key] for key in ("variance_type", "timestep_spacing")}
    return cls(**shared | options | changes)


@torch.no_grad()
def draw(
    unet2d: Any,
    scheduler: Any,
    x_T: Tensor,
    timesteps: Sequence[int],
    *,
    y: Tensor | None = None,
    generator: Generator | None = None,
    **options: Any,
) -> Tensor:
    """Draw with diffusers' network and scheduler what a sampler draws on process.respaced(timesteps).

    x_T: (B, C, H, W), standard normal. timesteps: increasing, as from `spacing`. y: (B,) labels; a network with classes
    that gets none is given its last class, the null class of what `to_diffusers` makes. generator: for schedulers that
    add noise. options: of the scheduler's step, such as eta. The second half of a network's channels, a learned
    variance, goes to schedulers that know it and is left out for others: DDPMPipeline does neither.
    Returns (B, C, H, W). Raises ValueError if the scheduler does not visit these steps, in whatever spacing it knows.
    """
    steps = list(timesteps)[::-1]
    if "timesteps" in inspect.signature(scheduler.set_timesteps).parameters:
        scheduler.set_timesteps(timesteps=steps)
    else:
        scheduler.set_timesteps(len(steps))
    visited = sorted({int(t) for t in scheduler.timesteps}, reverse=True)
    if visited != steps:
        raise ValueError(f"{type(scheduler).__name__} visits {visited}, expected {steps}")
    if y is None and unet2d.config.num_class_embeds is not None:
        y = torch.full((len(x_T),), unet2d.config.num_class_embeds - 1, device=x_T.device)
    takes = inspect.signature(scheduler.step).parameters
    given = {"generator": generator, "use_clipped_model_output": True}  # DDIM then derives eps again from a clipped x_0
    options |= {name: value for name, value in given.items() if name in takes}
    # Heun counts x in units of the signal: x_T / sqrt(alphas_bar_T).
    x_t = x_T * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        output = unet2d(scheduler.scale_model_input(x_t, t), t, class_labels=y).sample
        if not str(scheduler.config.get("variance_type")).startswith("learned"):
            output = output[:, : x_T.shape[1]]
        x_t = scheduler.step(output, t, x_t, **options).prev_sample
    return x_t

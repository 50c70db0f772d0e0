"""A network and its process as diffusers' UNet2DModel and DDPMScheduler, and back.

diffusers is imported when it is used, not before.
"""

import inspect
from typing import Any

from ddpm_lesson.interop.scheduler import process_of, scheduler_config
from ddpm_lesson.interop.unet2d import FIRST_LINEAR, compare, config_of, names_of, options_of, time_columns
from ddpm_lesson.interop.weights import TABLE, load
from ddpm_lesson.networks.unet import UNet
from ddpm_lesson.process import GaussianDiffusion


def to_diffusers(
    unet: UNet,
    process: GaussianDiffusion | None = None,
    *,
    mean_type: str = "epsilon",
    var_type: str | None = None,
    clip_denoised: bool = True,
    sample_size: int | tuple[int, int] | None = None,
) -> tuple[Any, Any]:
    """The network as diffusers' UNet2DModel, and the process as its DDPMScheduler (None if there is no process).

    DDPMPipeline(*to_diffusers(unet, process, sample_size=32)).save_pretrained(folder) publishes both.
    process: the one that the network was trained on. mean_type: what it predicts. var_type: "fixedlarge" or
    "fixedsmall"; None is fixedlarge, or learned_range for a network with learned_var. clip_denoised: clip the
    estimated x_0 at every step. sample_size: side, or height and width, of the images that DDPMPipeline draws.
    Weights are copied. Outputs agree to rounding: diffusers computes sines and cosines of t in float32.
    S of the T steps, S >= 2, run from T - 1 to 0 ("linspace"), and the last one adds no noise: the images are those of
    `ancestral` on process.respaced(spacing.linspace(T, S)), for every variance; for a few S (see there) on
    process.respaced(scheduler.timesteps.flip(0).tolist()). For DDIM take an S that divides T, and
    DDIMScheduler.from_config(scheduler.config, timestep_spacing="trailing"): its stride is T // S in any spacing.
    Raises ValueError that names the option that diffusers cannot express, TypeError for another network, ImportError
    if diffusers is missing.
    A network with classes converts too, but not for DDPMPipeline: that one gives it no labels. UNet2DModel needs a
    label for every image: where ours has a null class, give num_classes as the label of images without one.
    """
    diffusers = _diffusers()
    if not isinstance(unet, UNet):
        raise TypeError(f"unet must be a UNet, got {type(unet).__name__}")
    sides = (sample_size, sample_size) if isinstance(sample_size, int) else sample_size or ()
    if any(side < 1 or side % unet.divisor for side in sides):
        raise ValueError(f"sample_size must be divisible by {unet.divisor}, got {sample_size}")
    scheduler = None
    if process is not None:
        config = scheduler_config(process, unet.options, mean_type, var_type)
        scheduler = diffusers.DDPMScheduler(**config, clip_sample=clip_denoised)
    state = unet.state_dict()
    unet2d = diffusers.UNet2DModel(**config_of(unet.options), sample_size=sample_size).to(state[TABLE])
    state[FIRST_LINEAR] = state[FIRST_LINEAR][:, time_columns(unet.options)]
    load(unet2d, {theirs: state[ours] for ours, theirs in names_of(unet).items()})
    return unet2d.train(unet.training), scheduler


def from_diffusers(
    unet2d: Any, scheduler: Any = None, *, T: int = 1000, mean_type: str = "epsilon", null_class: bool = False
) -> tuple[UNet, GaussianDiffusion | None]:
    """diffusers' UNet2DModel as a UNet, and its scheduler's betas as a process (None if there is no scheduler).

    unet2d: a loaded model, from UNet2DModel.from_pretrained for example. scheduler: a DDPMScheduler or DDIMScheduler.
    T: number of steps, if no scheduler says it. mean_type: what you take the network to predict; the scheduler has to
    agree. If its variance is learned_range, the network has learned_var. Weights are copied.
    null_class: of num_class_embeds = n the last one stands for "no label", as in what `to_diffusers` makes of a UNet
    with a null class. Otherwise all n are classes, and a call without labels, as guidance makes it, raises ValueError.
    Heads: num_heads where every level has equally many, otherwise num_head_channels.
    Raises ValueError that names the entry of the configuration that UNet or our samplers cannot express (thresholding,
    set_alpha_to_one = False, variance_type learned), TypeError for another model or scheduler, ImportError if diffusers
    is missing.
    Not carried over, for it is chosen at the sampler: fixed variance or eta, `clipped` (clip_sample and its range), the
    steps (timestep_spacing, steps_offset). rescale_betas_zero_snr is: the process has those betas.
    """
    diffusers = _diffusers()
    if not isinstance(unet2d, diffusers.UNet2DModel):
        raise TypeError(f"unet2d must be a UNet2DModel, got {type(unet2d).__name__}")
    process, learned_var = None, False
    if scheduler is not None:
        if not isinstance(scheduler, diffusers.DDPMScheduler | diffusers.DDIMScheduler):
            raise TypeError(f"scheduler must be a DDPMScheduler or DDIMScheduler, got {type(scheduler).__name__}")
        process = process_of(scheduler, mean_type)
        learned_var = scheduler.config.get("variance_type") == "learned_range"  # DDIMScheduler has no such entry
    config = {name: list(value) if isinstance(value, tuple) else value for name, value in unet2d.config.items()}
    options = options_of(config, null_class=null_class) | {"T": process.T if process else T, "learned_var": learned_var}
    options["out_ch"] //= 2 if learned_var else 1
    compare(config, options, inspect.signature(diffusers.UNet2DModel.__init__).parameters)
    unet = UNet(**options).to(unet2d.device, unet2d.dtype)
    names = {theirs: ours for ours, theirs in names_of(unet).items()}
    weights = {names.get(name, name): tensor for name, tensor in unet2d.state_dict().items()}
    load(unet, {TABLE: unet.state_dict()[TABLE]} | weights)
    first = unet.state_dict()[FIRST_LINEAR]
    first.copy_(first[:, time_columns(options, cosine_first=bool(config["flip_sin_to_cos"])).argsort()])
    return unet.train(unet2d.training), process


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise ImportError("this conversion needs the package diffusers: pip install diffusers") from error
    return diffusers

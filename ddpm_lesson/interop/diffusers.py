"""A network and its process as diffusers' UNet2DModel and DDPMScheduler, and back.

diffusers is imported when it is used, not before.
"""

import inspect
from typing import Any

import torch

from ddpm_lesson.experiments.checkpoints import fill
from ddpm_lesson.interop.unet2d import FIRST_LINEAR, compare, config_of, names_of, options_of, time_columns
from ddpm_lesson.networks.unet import TABLE, UNet
from ddpm_lesson.predictions import MeanType, mean_type_named, variance_named
from ddpm_lesson.process import GaussianDiffusion

PREDICTION_TYPES = {"epsilon": "epsilon", "xstart": "sample", "v": "v_prediction"}
REFUSED = {  # values that stand for another way to sample, and what is expected
    "variance_type": ("learned", "learned_range or one that is fixed"),
    "thresholding": (True, "False"),
    "set_alpha_to_one": (False, "True"),
}
VARIANCE_TYPES = {"fixedlarge": "fixed_large", "fixedsmall": "fixed_small", "learned_range": "learned_range"}


def to_diffusers(
    unet: UNet,
    process: GaussianDiffusion | None = None,
    *,
    mean_type: str | MeanType = "epsilon",
    var_type: str | None = None,
    clip_denoised: bool = True,
    sample_size: int | tuple[int, int] | None = None,
) -> tuple[Any, Any]:
    """The network as diffusers' UNet2DModel, and the process as its DDPMScheduler (None if there is no process).

    DDPMPipeline(*to_diffusers(unet, process, sample_size=32)).save_pretrained(folder) publishes both.
    process: the one that the network was trained on. mean_type: what it predicts, a name or an object such as
    `PretrainedDiffusion.mean_type`. var_type: "fixedlarge" or "fixedsmall"; None is fixedlarge, or learned_range for a
    network with learned_var. clip_denoised: clip the estimated x_0 at every step. sample_size: side, or height and
    width, of the images that DDPMPipeline draws.
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
        config = scheduler_config(process, unet.options, _name_of(mean_type), var_type)
        scheduler = diffusers.DDPMScheduler(**config, clip_sample=clip_denoised)
    state = unet.state_dict()
    unet2d = diffusers.UNet2DModel(**config_of(unet.options), sample_size=sample_size).to(state[TABLE])
    state[FIRST_LINEAR] = state[FIRST_LINEAR][:, time_columns(unet.options)]
    fill(unet2d, {theirs: state[ours] for ours, theirs in names_of(unet).items()}, "the UNet")
    return unet2d.train(unet.training), scheduler


def from_diffusers(
    unet2d: Any,
    scheduler: Any = None,
    *,
    T: int = 1000,
    mean_type: str | MeanType = "epsilon",
    null_class: bool = False,
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
        process = process_of(scheduler, _name_of(mean_type))
        learned_var = scheduler.config.get("variance_type") == "learned_range"  # DDIMScheduler has no such entry
    config = {name: list(value) if isinstance(value, tuple) else value for name, value in unet2d.config.items()}
    options = options_of(config, null_class=null_class) | {"T": process.T if process else T, "learned_var": learned_var}
    options["out_ch"] //= 2 if learned_var else 1
    compare(config, options, inspect.signature(diffusers.UNet2DModel.__init__).parameters)
    unet = UNet(**options).to(unet2d.device, unet2d.dtype)
    names = {theirs: ours for ours, theirs in names_of(unet).items()}
    weights = {names.get(name, name): tensor for name, tensor in unet2d.state_dict().items()}
    fill(unet, {TABLE: unet.state_dict()[TABLE]} | weights, "the UNet2DModel")
    first = unet.state_dict()[FIRST_LINEAR]
    first.copy_(first[:, time_columns(options, cosine_first=bool(config["flip_sin_to_cos"])).argsort()])
    return unet.train(unet2d.training), process


def scheduler_config(process: GaussianDiffusion, options: dict, mean_type: str, var_type: str | None) -> dict:
    """The arguments of the DDPMScheduler that steps as this process does, for a UNet with these options.

    Fewer steps than T are spaced from T - 1 to 0 ("linspace"). diffusers adds noise after every step but that of t = 0:
    "trailing" ends above 0 and leaves this noise in the image, and "leading", its default, starts 50 of 1000 steps at
    980, where noise is expected but some image is left.
    """
    if process.base is not process:
        raise ValueError(f"process must be the one the network was trained on, got a chain respaced from it: {process}")
    if process.T > options["T"]:
        raise ValueError(f"process must have at most the network's T = {options['T']} steps, got {process.T}")
    learned_var = options["learned_var"]
    if var_type is None:
        var_type = "learned_range" if learned_var else "fixedlarge"
    variance_named(var_type)
    if var_type not in VARIANCE_TYPES:
        raise ValueError(f"diffusers knows the variances {', '.join(VARIANCE_TYPES)}, got {var_type!r}")
    if (var_type == "learned_range") != learned_var:
        raise ValueError(f"var_type learned_range goes with learned_var, got {var_type!r}, learned_var = {learned_var}")
    return {
        "num_train_timesteps": process.T,
        "trained_betas": process.betas.tolist(),
        "prediction_type": _prediction_type(mean_type),
        "variance_type": VARIANCE_TYPES[var_type],
        "timestep_spacing": "linspace",
    }


def process_of(scheduler: Any, mean_type: str) -> GaussianDiffusion:
    """The process with a scheduler's betas: in float64 if its configuration lists them, else its own float32.

    Raises ValueError for another prediction_type and for what no sampler of this package does: see REFUSED.
    """
    config, wanted = scheduler.config, _prediction_type(mean_type)
    if config.prediction_type != wanted:
        got = config.prediction_type
        raise ValueError(f"prediction_type: expected {wanted!r}, which mean_type={mean_type!r} means, got {got!r}")
    for name, (value, other) in REFUSED.items():
        if config.get(name) == value:
            told = f"expected {other}, for no sampler of this package does otherwise, got {value!r}"
            change = f"{type(scheduler).__name__}.from_config(scheduler.config, {name}=...)"
            raise ValueError(f"{name}: {told}; {change} changes it")
    betas = scheduler.betas
    if config.trained_betas is not None:
        listed = torch.tensor(config.trained_betas, dtype=torch.float64)
        betas = listed if torch.equal(listed.to(betas), betas) else betas  # a scheduler may rescale what is listed
    return GaussianDiffusion(betas)


def _name_of(mean_type: str | MeanType) -> str:
    return mean_type if isinstance(mean_type, str) else mean_type.name


def _prediction_type(mean_type: str) -> str:
    name = mean_type_named(mean_type).name
    if name not in PREDICTION_TYPES:
        raise ValueError(f"diffusers knows the mean types {', '.join(PREDICTION_TYPES)}, got {mean_type!r}")
    return PREDICTION_TYPES[name]


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise ImportError("this conversion needs the package diffusers: pip install diffusers") from error
    return diffusers

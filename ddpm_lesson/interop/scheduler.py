"""diffusers' schedulers and our GaussianDiffusion: betas, and what a network's output means, in both languages."""

from typing import Any

import torch

from ddpm_lesson.predictions import mean_type_named, variance_named
from ddpm_lesson.process import GaussianDiffusion

PREDICTION_TYPES = {"epsilon": "epsilon", "xstart": "sample", "v": "v_prediction"}
REFUSED = {  # values that stand for another way to sample, and what is expected
    "variance_type": ("learned", "learned_range or one that is fixed"),
    "thresholding": (True, "False"),
    "set_alpha_to_one": (False, "True"),
}
VARIANCE_TYPES = {"fixedlarge": "fixed_large", "fixedsmall": "fixed_small", "learned_range": "learned_range"}


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
            raise ValueError(
                f"{name}: expected {other}, for no sampler of this package does otherwise, got {value!r}; "
                f"{type(scheduler).__name__}.from_config(scheduler.config, {name}=...) changes it"
            )
    betas = scheduler.betas
    if config.trained_betas is not None:
        listed = torch.tensor(config.trained_betas, dtype=torch.float64)
        betas = listed if torch.equal(listed.to(betas), betas) else betas  # a scheduler may rescale what is listed
    return GaussianDiffusion(betas)


def _prediction_type(mean_type: str) -> str:
    name = mean_type_named(mean_type).name
    if name not in PREDICTION_TYPES:
        raise ValueError(f"diffusers knows the mean types {', '.join(PREDICTION_TYPES)}, got {mean_type!r}")
    return PREDICTION_TYPES[name]

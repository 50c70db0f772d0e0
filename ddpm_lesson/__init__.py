"""Denoising diffusion models from first principles: what the course's notebooks derive, verify and import."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ddpm_lesson.ddpm import GaussianDiffusionSampler, GaussianDiffusionTrainer
from ddpm_lesson.gaussian import Gaussian
from ddpm_lesson.process import GaussianDiffusion, Noised, extract

if TYPE_CHECKING:
    from ddpm_lesson.experiments.pretrained import load_pretrained, load_weights
    from ddpm_lesson.experiments.sampling import Sampling

__all__ = ["Gaussian", "GaussianDiffusion", "GaussianDiffusionSampler", "GaussianDiffusionTrainer", "Noised", "extract"]
__all__ += ["Sampling", "load_pretrained", "load_weights"]  # these come late, see below
__version__ = "0.1.0"


# Imported when they are asked for, so that `import ddpm_lesson` stays cheap.
_LATE = {"load_pretrained": "pretrained", "load_weights": "pretrained", "Sampling": "sampling"}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module 'ddpm_lesson' has no attribute {name!r}")
    return getattr(import_module(f"ddpm_lesson.experiments.{_LATE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})

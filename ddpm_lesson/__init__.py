"""Denoising diffusion models from first principles: what the course's notebooks derive, verify and import."""

from ddpm_lesson.ddpm import GaussianDiffusionSampler, GaussianDiffusionTrainer
from ddpm_lesson.gaussian import Gaussian
from ddpm_lesson.process import GaussianDiffusion, extract

__all__ = ["Gaussian", "GaussianDiffusion", "GaussianDiffusionSampler", "GaussianDiffusionTrainer", "extract"]
__version__ = "0.1.0"

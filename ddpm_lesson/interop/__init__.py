"""Weights in and out: checkpoints of the repository behind the source post, and diffusers' models and schedulers."""

from ddpm_lesson.interop.diffusers import from_diffusers, to_diffusers
from ddpm_lesson.interop.pytorch_ddpm import load_pytorch_ddpm
from ddpm_lesson.interop.samplers import draw, twin

__all__ = ["draw", "from_diffusers", "load_pytorch_ddpm", "to_diffusers", "twin"]

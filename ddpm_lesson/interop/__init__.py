"""Weights in and out: checkpoints of the repository behind the source post, and diffusers' models and schedulers."""

from ddpm_lesson.interop.diffusers import from_diffusers, to_diffusers
from ddpm_lesson.interop.pytorch_ddpm import load_pytorch_ddpm

__all__ = ["from_diffusers", "load_pytorch_ddpm", "to_diffusers"]

"""Samplers: generators that walk a process backwards and yield every state.

They know nothing of networks, clipping or guidance: a denoiser brings those. They know nothing of skipped steps
either: a respaced process is a process. All coefficients are plain numbers, so a chain never waits for a GPU.
"""

from ddpm_lesson.samplers.ancestral import Reverse, Step, ancestral, reverse
from ddpm_lesson.samplers.ddim import ddim, ddim_inversion
from ddpm_lesson.samplers.levels import State, last
from ddpm_lesson.samplers.middle import slerp, start_at
from ddpm_lesson.samplers.multistep import dpmpp_2m, dpmpp_2m_sde, dpmpp_3m, plms
from ddpm_lesson.samplers.repaint import repaint
from ddpm_lesson.samplers.singlestep import dpmpp_2s, heun

__all__ = [
    "Reverse",
    "State",
    "Step",
    "ancestral",
    "ddim",
    "ddim_inversion",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_2s",
    "dpmpp_3m",
    "heun",
    "last",
    "plms",
    "repaint",
    "reverse",
    "slerp",
    "start_at",
]

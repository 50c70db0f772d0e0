"""The checks of notebook 04: ancestral sampling, DDIM, slerp, DPM-Solver++(2M), shorter chains and inpainting.

One file for each exercise, built as those of notebook 01. Chains are generators, and the first wrong step is named.
"""

from ddpm_lesson.checks.sampling.ancestral_chain import ancestral_chain
from ddpm_lesson.checks.sampling.ddim_step import ddim_step
from ddpm_lesson.checks.sampling.dpmpp_2m_step import dpmpp_2m_step
from ddpm_lesson.checks.sampling.inpaint import inpaint
from ddpm_lesson.checks.sampling.respaced_betas import respaced_betas
from ddpm_lesson.checks.sampling.slerp import slerp

__all__ = ["ancestral_chain", "ddim_step", "slerp", "dpmpp_2m_step", "inpaint", "respaced_betas"]

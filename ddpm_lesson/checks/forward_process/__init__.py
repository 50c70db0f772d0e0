"""The checks of notebook 01: schedules, the walk and the jump, the posterior, the way back from eps.

One file for each exercise: a slow specification in plain Python numbers, the inputs, a form with choices, and a table
of misconceptions, each the sentence for whoever has it and the choices that it makes. Inputs are exact fractions and
not random, so that every machine sees the same.
"""

from ddpm_lesson.checks.forward_process.cosine_betas import cosine_betas
from ddpm_lesson.checks.forward_process.extract import extract
from ddpm_lesson.checks.forward_process.forward import Forward
from ddpm_lesson.checks.forward_process.linear_betas import linear_betas
from ddpm_lesson.checks.forward_process.posterior import posterior
from ddpm_lesson.checks.forward_process.q_sample import q_sample
from ddpm_lesson.checks.forward_process.walk import walk
from ddpm_lesson.checks.forward_process.x_0_from_eps import x_0_from_eps

__all__ = ["linear_betas", "walk", "extract", "q_sample", "cosine_betas", "posterior", "x_0_from_eps"]
__all__ += ["Forward"]

"""The checks of notebook 05: learned variance, L_hybrid, guidance, v, zero SNR, denoising diffusion GANs.

One file for each exercise, built as those of notebook 01.
"""

from ddpm_lesson.checks.variants.cfg_eps import cfg_eps
from ddpm_lesson.checks.variants.ddgan_step import ddgan_step
from ddpm_lesson.checks.variants.discriminator_loss import discriminator_loss
from ddpm_lesson.checks.variants.generator_loss import generator_loss
from ddpm_lesson.checks.variants.guided_chain import guided_chain
from ddpm_lesson.checks.variants.guided_eps import guided_eps
from ddpm_lesson.checks.variants.guided_mean import guided_mean
from ddpm_lesson.checks.variants.hybrid_loss import hybrid_loss
from ddpm_lesson.checks.variants.learned_log_var import learned_log_var
from ddpm_lesson.checks.variants.meets import meets
from ddpm_lesson.checks.variants.r1_penalty import r1_penalty
from ddpm_lesson.checks.variants.rescaled_eps import rescaled_eps
from ddpm_lesson.checks.variants.v_target import v_target
from ddpm_lesson.checks.variants.x_0_from_v import x_0_from_v
from ddpm_lesson.checks.variants.zero_terminal_snr import zero_terminal_snr

__all__ = [
    "learned_log_var",
    "hybrid_loss",
    "guided_mean",
    "guided_eps",
    "cfg_eps",
    "guided_chain",
    "v_target",
    "x_0_from_v",
    "zero_terminal_snr",
    "rescaled_eps",
    "ddgan_step",
    "discriminator_loss",
    "generator_loss",
    "r1_penalty",
    "meets",
]

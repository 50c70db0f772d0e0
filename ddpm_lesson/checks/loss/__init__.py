"""The checks of notebook 02: L_simple, the mean from eps, the KL of Gaussians, the weights of the losses, the training
loop and L_0.

One file for each exercise, built as those of notebook 01.
"""

from ddpm_lesson.checks.loss.discretized_log_prob import discretized_log_prob
from ddpm_lesson.checks.loss.gaussian_kl import gaussian_kl
from ddpm_lesson.checks.loss.mean_from_eps import mean_from_eps
from ddpm_lesson.checks.loss.min_snr_weights import min_snr_weights
from ddpm_lesson.checks.loss.simple_loss import simple_loss
from ddpm_lesson.checks.loss.training_loop import training_loop
from ddpm_lesson.checks.loss.vlb_weight import vlb_weight

__all__ = [
    "simple_loss",
    "mean_from_eps",
    "gaussian_kl",
    "vlb_weight",
    "training_loop",
    "discretized_log_prob",
    "min_snr_weights",
]

"""Checks that diagnose: `q_sample = checks.q_sample(q_sample)` prints whether it is right, or which mistake it makes.

It gives back your function if it is right, else the course's own implementation, so that the cells below run.
One folder for each notebook. `registry` maps the name of each exercise to its check; `carried(name)` is what its check
gave back in this kernel, else the course's own implementation. `meets` measures a generator beside a sheet of
requirements, and is no comparison with a right result: it is not in `registry`.
"""

from ddpm_lesson.checks._carry import carried
from ddpm_lesson.checks.forward_process import (
    Forward,
    cosine_betas,
    extract,
    linear_betas,
    posterior,
    q_sample,
    walk,
    x_0_from_eps,
)
from ddpm_lesson.checks.loss import (
    discretized_log_prob,
    gaussian_kl,
    mean_from_eps,
    min_snr_weights,
    simple_loss,
    training_loop,
    vlb_weight,
)
from ddpm_lesson.checks.sampling import (
    ancestral_chain,
    ddim_step,
    dpmpp_2m_step,
    inpaint,
    respaced_betas,
    slerp,
)
from ddpm_lesson.checks.unet import (
    AttnBlock,
    ResBlock,
    UNet,
    add_time,
    attention,
    down_same,
    group_norm,
    res_block_parameters,
    skip_channels,
    time_table,
)
from ddpm_lesson.checks.variants import (
    cfg_eps,
    ddgan_step,
    discriminator_loss,
    generator_loss,
    guided_chain,
    guided_eps,
    guided_mean,
    hybrid_loss,
    learned_log_var,
    meets,
    r1_penalty,
    rescaled_eps,
    v_target,
    x_0_from_v,
    zero_terminal_snr,
)

_by_number = (
    *(linear_betas, walk, extract, q_sample, cosine_betas, posterior, x_0_from_eps, Forward),
    *(simple_loss, mean_from_eps, gaussian_kl, vlb_weight, training_loop, discretized_log_prob, min_snr_weights),
    *(time_table, group_norm, add_time, ResBlock, attention, AttnBlock),
    *(skip_channels, UNet, down_same, res_block_parameters),
    *(ancestral_chain, ddim_step, slerp, dpmpp_2m_step, inpaint, respaced_betas),
    *(learned_log_var, hybrid_loss, guided_mean, guided_eps, cfg_eps, guided_chain),
    *(v_target, x_0_from_v, zero_terminal_snr, rescaled_eps),
    *(ddgan_step, discriminator_loss, generator_loss, r1_penalty),
)
registry = {check.name: check for check in _by_number}

__all__ = [*registry, "meets", "carried", "registry"]

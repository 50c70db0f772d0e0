"""The course's own implementation of notebook 05's exercises, as in `_finished`, under their signatures."""

import math

import torch


def learned_log_var(v, t, betas, alphas_bar):
    from ddpm_lesson.predictions import Prediction, learned_range
    from ddpm_lesson.process import GaussianDiffusion

    return learned_range(GaussianDiffusion(betas).to(v.device), t, Prediction(v, v, (v + 1) / 2), v)


def hybrid_loss(noise, eps, true_mean, true_log_var, mean, log_var, T, lam):
    from ddpm_lesson.gaussian import Gaussian

    kl = Gaussian(true_mean, true_log_var).kl(Gaussian(mean.detach(), log_var))
    return ((noise - eps) ** 2).flatten(1).mean(1) + lam * T * kl.flatten(1).mean(1) / math.log(2)


def guided_mean(mean, var, x_t, t, y, classifier, scale):
    from ddpm_lesson.variants.classifier_guidance import log_prob_gradient

    return mean + scale * var * log_prob_gradient(classifier, x_t, t, y)


def guided_eps(eps, x_t, t, y, classifier, scale, alphas_bar):
    from ddpm_lesson.predictions import Prediction
    from ddpm_lesson.process import GaussianDiffusion
    from ddpm_lesson.variants.classifier_guidance import classifier_guided

    base = GaussianDiffusion.from_alphas_bar(alphas_bar).to(x_t.device)
    denoise = classifier_guided(lambda x_t, t, prev: Prediction(x_t, eps), base, classifier, y, scale)
    return denoise(x_t, t).eps


def cfg_eps(eps_cond, eps_uncond, strength, convention):
    from ddpm_lesson.variants.guidance import extrapolated

    return extrapolated({"s": strength, "w": 1 + strength}[convention])(eps_cond, eps_uncond)


def guided_chain(model, x_T, y, scale, timesteps, alphas_bar):
    from ddpm_lesson.denoisers import clipped, make_denoiser
    from ddpm_lesson.predictions import epsilon
    from ddpm_lesson.process import GaussianDiffusion
    from ddpm_lesson.samplers import ddim
    from ddpm_lesson.variants.guidance import classifier_free

    base = GaussianDiffusion.from_alphas_bar(alphas_bar).to(x_T.device)
    cond = make_denoiser(lambda x_t, t: model(x_t, t, y), base, epsilon)
    uncond = make_denoiser(lambda x_t, t: model(x_t, t, None), base, epsilon)
    denoise = clipped(classifier_free(cond, uncond, scale), base)
    for state in ddim(base.respaced(timesteps), denoise, x_T):
        if state.prediction is not None:  # x_T comes first
            yield state.x_t


def v_target(x_0, noise, t, alphas_bar):
    from ddpm_lesson.process import GaussianDiffusion

    return GaussianDiffusion.from_alphas_bar(alphas_bar).to(t.device).velocity(x_0, t, noise)


def x_0_from_v(x_t, v, t, alphas_bar):
    from ddpm_lesson.process import GaussianDiffusion

    return GaussianDiffusion.from_alphas_bar(alphas_bar).to(t.device).x_0_from_v(x_t, t, v)


def zero_terminal_snr(betas):
    from ddpm_lesson import schedules

    return schedules.zero_terminal_snr(betas)


def rescaled_eps(eps_cond, eps_guided, phi):
    from ddpm_lesson.variants.guidance import rescaled

    return rescaled(0.0, phi)(eps_cond, eps_guided)  # scale 0 takes the second output as it is


def ddgan_step(G, x_t, z, t, betas, noise):
    from ddpm_lesson.process import GaussianDiffusion

    steps = torch.full((len(x_t),), t, device=x_t.device)
    q = GaussianDiffusion(betas).to(x_t.device).q_posterior(G(x_t, steps, z), x_t, steps)
    return q.mean + (0.5 * q.log_var).exp() * noise


def discriminator_loss(real_logits, fake_logits):
    from ddpm_lesson.variants import ddgan

    return ddgan.discriminator_loss(real_logits, fake_logits)


def generator_loss(fake_logits):
    from ddpm_lesson.variants import ddgan

    return ddgan.generator_loss(fake_logits)


def r1_penalty(D, x_prev, x_t, t, gamma, interval):
    from ddpm_lesson.variants import ddgan

    return ddgan.r1_penalty(D, x_prev, x_t, t, gamma, interval)


def generate(digits, n, seed):
    from ddpm_lesson.experiments.sampling import Sampling

    return digits.sample(n, Sampling("dpmpp_2m", steps="trailing6", seed=seed), y=digits.labels(n))

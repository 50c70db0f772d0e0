"""Solutions of the exercises in notebook 04, in their order.  Try first: the checks say what is wrong."""

import torch


def ancestral_chain(model, betas, x_T, noise):
    alphas_bar, x = torch.cumprod(1 - betas, 0), x_T
    for t in reversed(range(len(betas))):
        eps = model(x, torch.full((len(x),), t, device=x.device))
        x = (x - betas[t] / (1 - alphas_bar[t]).sqrt() * eps) / (1 - betas[t]).sqrt()
        if t > 0:
            x = x + betas[t].sqrt() * noise[t]  # the root: beta is a variance
        yield x


def ddim_step(x_t, eps, t, t_prev, alphas_bar, eta, noise):
    a_bar, a_bar_prev = alphas_bar[t], alphas_bar[t_prev] if t_prev >= 0 else torch.ones_like(alphas_bar[t])
    x_0 = (x_t - (1 - a_bar).sqrt() * eps) / a_bar.sqrt()
    var = eta**2 * (1 - a_bar_prev) / (1 - a_bar) * (1 - a_bar / a_bar_prev)  # 0 at the last step
    return a_bar_prev.sqrt() * x_0 + (1 - a_bar_prev - var).clamp(min=0).sqrt() * eps + var.sqrt() * noise


def slerp(a, b, share):
    flat_a, flat_b = a.flatten(1), b.flatten(1)
    cosine = (flat_a * flat_b).sum(1) / (flat_a.norm(dim=1) * flat_b.norm(dim=1))
    angle = cosine.clamp(-1, 1).acos().view(-1, *[1] * (a.ndim - 1))
    straight = (1 - share) * a + share * b  # for angles of 0, where sin(angle) is no denominator
    on_the_arc = (((1 - share) * angle).sin() * a + (share * angle).sin() * b) / angle.sin()
    return torch.where(angle.sin() < 1e-6, straight, on_the_arc)


def dpmpp_2m_step(x_t, x_0, x_0_before, t, t_prev, t_before, alphas_bar):
    if t_prev < 0:
        return x_0
    middle = x_0
    if x_0_before is not None:
        log_snr = torch.logit(alphas_bar)
        share = (log_snr[t_prev] - log_snr[t]) / (log_snr[t] - log_snr[t_before]) / 2
        middle = x_0 + share * (x_0 - x_0_before)  # the estimate in the middle of the step, on a straight line
    a_bar, a_bar_prev = alphas_bar[t], alphas_bar[t_prev]
    ratio = ((1 - a_bar_prev) / (1 - a_bar)).sqrt()
    return ratio * x_t + (a_bar_prev.sqrt() - ratio * a_bar.sqrt()) * middle


def respaced_betas(alphas_bar, timesteps):
    kept = alphas_bar[timesteps]
    before = torch.cat([torch.ones_like(kept[:1]), kept[:-1]])  # the first kept step starts from the clean image
    return 1 - kept / before


def inpaint(p_step, known, mask, betas, x_T, repeats, draw):
    alphas_bar, x = torch.cumprod(1 - betas, 0), x_T
    for t in reversed(range(len(betas))):
        for repeat in range(repeats):
            unknown = p_step(x, t)
            a_bar_prev = alphas_bar[t - 1] if t > 0 else torch.ones_like(alphas_bar[0])
            noised = a_bar_prev.sqrt() * known + (1 - a_bar_prev).sqrt() * draw() if t > 0 else known
            x_prev = mask * noised + (1 - mask) * unknown
            if repeat < repeats - 1 and t > 0:
                x = (1 - betas[t]).sqrt() * x_prev + betas[t].sqrt() * draw()  # back, for another try
        x = x_prev
        yield x

"""Solutions of the exercises in notebook 04, in their order.  Try first: the checks say what is wrong."""

import torch


def ancestral_chain(model, betas, x_T, noise):
    alphas_bar, x_t = torch.cumprod(1 - betas, 0), x_T
    for t in reversed(range(len(betas))):
        eps = model(x_t, torch.full((len(x_t),), t, device=x_t.device))
        mean = (x_t - betas[t] / (1 - alphas_bar[t]).sqrt() * eps) / (1 - betas[t]).sqrt()
        x_t = mean + betas[t].sqrt() * noise[t] if t > 0 else mean  # nothing would take the last noise out again
        yield x_t


def ddim_step(x_t, eps, t, t_prev, alphas_bar, eta, noise):
    a_bar = alphas_bar[t]
    a_bar_prev = alphas_bar[t_prev] if t_prev >= 0 else torch.ones_like(a_bar)  # index -1 would wrap around
    sigma = eta * ((1 - a_bar_prev) / (1 - a_bar) * (1 - a_bar / a_bar_prev)).sqrt()
    x_0 = (x_t - (1 - a_bar).sqrt() * eps) / a_bar.sqrt()
    return a_bar_prev.sqrt() * x_0 + (1 - a_bar_prev - sigma**2).sqrt() * eps + sigma * noise


def slerp(a, b, share):
    axes = tuple(range(1, a.ndim))  # a whole image is one vector
    norms = ((a**2).sum(axes, keepdim=True) * (b**2).sum(axes, keepdim=True)).sqrt()
    angle = torch.acos((a * b).sum(axes, keepdim=True) / norms)  # (B, 1, ..., 1)
    return (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)


def dpmpp_2m_step(x_t, x_0, x_0_before, t, t_prev, t_before, alphas_bar):
    if t_prev < 0:
        return x_0  # lambda is infinite at the clean image
    lam = 0.5 * torch.log(alphas_bar / (1 - alphas_bar))
    h, D = lam[t_prev] - lam[t], x_0
    if x_0_before is not None:
        r = (lam[t] - lam[t_before]) / h
        D = (1 + 1 / (2 * r)) * x_0 - 1 / (2 * r) * x_0_before
    kept = ((1 - alphas_bar[t_prev]) / (1 - alphas_bar[t])).sqrt()
    return kept * x_t - alphas_bar[t_prev].sqrt() * torch.expm1(-h) * D


def inpaint(p_step, known, mask, betas, x_T, repeats, draw):
    alphas_bar, x_t = torch.cumprod(1 - betas, 0), x_T
    for t in reversed(range(len(betas))):
        for left in reversed(range(repeats)):
            unknown, known_part = p_step(x_t, t), known
            if t > 0:  # at t = 0 the known part is known itself
                known_part = alphas_bar[t - 1].sqrt() * known + (1 - alphas_bar[t - 1]).sqrt() * draw()
            x_prev = mask * known_part + (1 - mask) * unknown
            if left and t > 0:
                x_t = (1 - betas[t]).sqrt() * x_prev + betas[t].sqrt() * draw()  # one step forward, for the next repeat
        x_t = x_prev
        yield x_t


def respaced_betas(alphas_bar, timesteps):
    kept = alphas_bar[timesteps]
    before = torch.cat([torch.ones_like(kept[:1]), kept[:-1]])  # the first kept step starts from the clean image
    return 1 - kept / before

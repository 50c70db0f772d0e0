# ruff: noqa: B905, E501
"""Answers to the exercises of notebook 04 that are chains, written from their statements alone."""

import math

import torch

from answers import Answers

answers = Answers()
W, C = answers.wrong, answers.correct


# ---------------------------------------------------------------- 4.2


def ancestral_chain(model, betas, x_T, noise):
    alphas_bar = torch.cumprod(1 - betas, 0)
    x = x_T
    for t in reversed(range(len(betas))):
        eps = model(x, torch.full((len(x),), t))
        mean = (x - betas[t] / (1 - alphas_bar[t]).sqrt() * eps) / (1 - betas[t]).sqrt()
        x = mean + betas[t].sqrt() * noise[t]
        yield x


W(ancestral_chain, "noise is added at the last step too", "edge", "You add noise at step 0 too.")


def ancestral_chain(model, betas, x_T, noise):
    alphas_bar = torch.cumprod(1 - betas, 0)
    x = x_T
    for t in reversed(range(len(betas))):
        eps = model(x, torch.full((len(x),), t))
        mean = (x - betas[t] / (1 - alphas_bar[t]).sqrt() * eps) / (1 - betas[t]).sqrt()
        x = mean + (betas[t] * noise[t] if t > 0 else 0)
        yield x


W(ancestral_chain, "the noise times the variance", "square-root", "You scaled the noise by beta")


def ancestral_chain(model, betas, x_T, noise):
    alphas = 1 - betas
    x = x_T
    for t in reversed(range(len(betas))):
        eps = model(x, torch.full((len(x),), t))
        mean = (x - betas[t] / (1 - alphas[t]).sqrt() * eps) / alphas[t].sqrt()
        x = mean + (betas[t].sqrt() * noise[t] if t > 0 else 0)
        yield x


W(
    ancestral_chain,
    "1 - alpha where 1 - alpha_bar belongs",
    "table",
    "You divided by sqrt(1 - alpha), with the alpha of the single step",
)


def ancestral_chain(model, betas, x_T, noise):
    alphas_bar = torch.cumprod(1 - betas, 0)
    x = x_T
    for t in range(len(betas)):
        eps = model(x, torch.full((len(x),), t))
        mean = (x - betas[t] / (1 - alphas_bar[t]).sqrt() * eps) / (1 - betas[t]).sqrt()
        x = mean + (betas[t].sqrt() * noise[t] if t > 0 else 0)
        yield x


W(ancestral_chain, "runs from t = 0 upwards", "order", "Your steps run from t = 0 upwards.")


def ancestral_chain(model, betas, x_T, noise):
    alphas_bar = torch.cumprod(1 - betas, 0)
    x = x_T
    yield x
    for t in reversed(range(len(betas))):
        eps = model(x, torch.full((len(x),), t))
        mean = (x - betas[t] / (1 - alphas_bar[t]).sqrt() * eps) / (1 - betas[t]).sqrt()
        x = mean + (betas[t].sqrt() * noise[t] if t > 0 else 0)
        yield x


W(ancestral_chain, "x_T is among the states", "count", "You yield x_T too.")


def ancestral_chain(model, betas, x_T, noise):
    alphas_bar = torch.cumprod(1 - betas, 0)
    prev = torch.cat([torch.ones_like(alphas_bar[:1]), alphas_bar[:-1]])
    x = x_T
    for t in reversed(range(len(betas))):
        eps = model(x, torch.full((len(x),), t))
        mean = (x - betas[t] / (1 - alphas_bar[t]).sqrt() * eps) / (1 - betas[t]).sqrt()
        var = betas[t] * (1 - prev[t]) / (1 - alphas_bar[t])
        x = mean + var.sqrt() * noise[t]
        yield x


W(ancestral_chain, "the posterior's variance instead of beta", "table", "Your noise has the posterior's variance.")


def ancestral_chain(model, betas, x_T, noise):
    alphas_bar = torch.cumprod(1 - betas, 0)
    x = x_T
    for t in reversed(range(len(betas))):
        eps = model(x, torch.full((len(x),), t + 1))
        mean = (x - betas[t] / (1 - alphas_bar[t]).sqrt() * eps) / (1 - betas[t]).sqrt()
        x = mean + (betas[t].sqrt() * noise[t] if t > 0 else 0)
        yield x


W(ancestral_chain, "the network gets the papers' t, one more", "table", "You tell the network t + 1.")


def ancestral_chain(model, betas, x_T, noise):
    alphas_bar = torch.cumprod(1 - betas, 0)
    x = x_T
    for t in reversed(range(len(betas))):
        eps = model(x, torch.full((len(x),), t))
        mean = (x - betas[t] / (1 - alphas_bar[t]).sqrt() * eps) / (1 - betas[t]).sqrt()
        x = mean + (betas[t].sqrt() * torch.randn_like(x) if t > 0 else 0)
        yield x


W(ancestral_chain, "draws its own noise", "random", "Two calls with the same input gave two results")


def ancestral_chain(model, betas, x_T, noise):
    alphas_bar = torch.cumprod(1 - betas, 0)
    x = x_T
    for t in reversed(range(len(betas))):
        eps = model(x, torch.full((len(x),), t))
        mean = x - betas[t] / (1 - alphas_bar[t]).sqrt() * eps / (1 - betas[t]).sqrt()
        x = mean + (betas[t].sqrt() * noise[t] if t > 0 else 0)
        yield x


W(
    ancestral_chain,
    "only eps is divided by the root of alpha: a bracket is missing",
    "brackets",
    "Only eps is divided by sqrt(alpha).",
)


def ancestral_chain(model, betas, x_T, noise):
    alphas_bar = torch.cumprod(1 - betas, 0)
    x = x_T
    for t in reversed(range(len(betas))):
        eps = model(x, torch.full((len(x),), t))
        mean = (x - betas[t] / (1 - alphas_bar[t]) * eps) / (1 - betas[t]).sqrt()
        x = mean + betas[t].sqrt() * noise[t]
        yield x


W(
    ancestral_chain,
    "no root over 1 - alpha_bar, and noise at the last step",
    "two",
    "You add noise at step 0 too.",
    "The root over 1 - alpha_bar is missing.",
)


def ancestral_chain(model, betas, x_T, noise):
    alphas_bar = torch.cumprod(1 - betas, 0)
    x = x_T
    for t in reversed(range(len(betas))):
        eps = model(x, torch.full((len(x),), t))
        z = noise[t] if t > 0 else torch.zeros_like(x)
        x = (x - betas[t] / (1 - alphas_bar[t]).sqrt() * eps + betas[t].sqrt() * z) / (1 - betas[t]).sqrt()
        yield x


W(
    ancestral_chain,
    "the noise inside of the bracket",
    "brackets",
    "You divide the noise by sqrt(alpha), with the rest.",
)


def ancestral_chain(model, betas, x_T, noise):
    alphas_bar = torch.cumprod(1 - betas, 0)
    x = x_T
    for t in reversed(range(len(betas))):
        yield x
        eps = model(x, torch.full((len(x),), t))
        x = (x - betas[t] / (1 - alphas_bar[t]).sqrt() * eps) / (1 - betas[t]).sqrt()
        x = x + (betas[t].sqrt() * noise[t] if t > 0 else 0)


W(ancestral_chain, "yields at the top of the loop", "order", "You yield before each step: x_T comes first")


def ancestral_chain(model, betas, x_T, noise):
    alphas_bar = torch.cumprod(1 - betas, 0)
    x = x_T
    for t in reversed(range(len(betas))):
        eps = model(x, torch.full((len(x),), t))
        x_0 = (x - (1 - alphas_bar[t]).sqrt() * eps) / alphas_bar[t].sqrt()
        x = x_0
        if t > 0:
            x = alphas_bar[t - 1].sqrt() * x_0 + (1 - alphas_bar[t - 1]).sqrt() * noise[t]
        yield x


W(
    ancestral_chain,
    "jumps to x_0 and noises it again to t - 1",
    "transform",
    "You estimate x_0 and noise it anew to t - 1",
)


def ancestral_chain(model, betas, x_T, noise):
    alphas_bar = torch.cumprod(1 - betas, 0)
    x = x_T
    for t in reversed(range(len(betas))):
        eps = model(x, torch.full((len(x),), t))
        mean = (x - betas[t] / (1 - alphas_bar[t]).sqrt() * eps) / (1 - betas[t]).sqrt()
        x = mean + (betas[t].sqrt() * noise[t - 1] if t > 0 else 0)
        yield x


W(ancestral_chain, "noise[t - 1] at step t", "table", "Your step t takes noise[t - 1].")


def ancestral_chain(model, betas, x_T, noise):
    """As the package does it: the estimated x_0, then the posterior's mean."""
    alphas_bar = torch.cumprod(1 - betas, 0).tolist()
    x = x_T
    for t in range(len(betas) - 1, -1, -1):
        now, before = alphas_bar[t], alphas_bar[t - 1] if t else 1.0
        eps = model(x, x.new_full((x.shape[0],), t, dtype=torch.long))
        x_0 = (x - math.sqrt(1 - now) * eps) / math.sqrt(now)
        beta = 1 - now / before
        x = (math.sqrt(before) * beta * x_0 + math.sqrt(1 - beta) * (1 - before) * x) / (1 - now)
        if t:
            x = x + math.sqrt(beta) * noise[t]
        yield x


C(ancestral_chain, "the posterior of the estimated x_0, in floats")


def ancestral_chain(model, betas, x_T, noise):
    def step(x, t):
        at_t = torch.tensor([t]).repeat(len(x))
        c = betas[t] / torch.sqrt(1 - alphas[: t + 1].prod())
        return (x - c * model(x, at_t)) / torch.sqrt(alphas[t])

    alphas = 1 - betas
    t = len(betas) - 1
    while t > 0:
        x_T = step(x_T, t) + betas[t] ** 0.5 * noise[t]
        t -= 1
        yield x_T
    yield step(x_T, 0)


C(ancestral_chain, "a while loop, the last step after it")


def ancestral_chain(model, betas, x_T, noise):
    steps = torch.arange(len(betas)).flip(0)
    alphas_bar = (1 - betas).log().cumsum(0).exp()
    x = x_T.clone()
    for t in steps:
        with torch.no_grad():
            eps = model(x, t.expand(len(x)))
        x = (1 - betas[t]).rsqrt() * (x - betas[t] * (1 - alphas_bar[t]).rsqrt() * eps)
        x = x + (t > 0) * betas[t].sqrt() * noise[t]
        yield x


C(ancestral_chain, "t as tensors, logarithms, the noise times a condition")

# ---------------------------------------------------------------- 4.7


def known_at(known, t, alphas_bar, draw):
    """q(x_{t-1} | known), the right one."""
    if t == 0:
        return known
    a = alphas_bar[t - 1]
    return a.sqrt() * known + (1 - a).sqrt() * draw()


def inpaint(p_step, known, mask, betas, x_T, repeats, draw):
    alphas_bar = torch.cumprod(1 - betas, 0)
    x = x_T
    for t in reversed(range(len(betas))):
        for r in range(repeats):
            unknown = p_step(x, t)
            x_prev = (1 - mask) * known_at(known, t, alphas_bar, draw) + mask * unknown
            if r < repeats - 1 and t > 0:
                x = (1 - betas[t]).sqrt() * x_prev + betas[t].sqrt() * draw()
        x = x_prev
        yield x


W(inpaint, "the mask the wrong way round", "swap", "Your mask is the wrong way round")


def inpaint(p_step, known, mask, betas, x_T, repeats, draw):
    alphas_bar = torch.cumprod(1 - betas, 0)
    x = x_T
    for t in reversed(range(len(betas))):
        for r in range(repeats):
            unknown = p_step(x, t)
            noisy = alphas_bar[t].sqrt() * known + (1 - alphas_bar[t]).sqrt() * draw()
            x_prev = mask * noisy + (1 - mask) * unknown
            if r < repeats - 1 and t > 0:
                x = (1 - betas[t]).sqrt() * x_prev + betas[t].sqrt() * draw()
        x = x_prev
        yield x


W(inpaint, "the known part is noised to t, not to t - 1", "table", "Your known part is noised to t.")


def inpaint(p_step, known, mask, betas, x_T, repeats, draw):
    x = x_T
    for t in reversed(range(len(betas))):
        for r in range(repeats):
            x_prev = mask * known + (1 - mask) * p_step(x, t)
            if r < repeats - 1 and t > 0:
                x = (1 - betas[t]).sqrt() * x_prev + betas[t].sqrt() * draw()
        x = x_prev
        yield x


W(inpaint, "the known part stays without noise", "factor", "Your known part has no noise.")


def inpaint(p_step, known, mask, betas, x_T, repeats, draw):
    alphas_bar = torch.cumprod(1 - betas, 0)
    x = x_T
    for t in reversed(range(len(betas))):
        for r in range(repeats):
            unknown = p_step(x, t)
            x_prev = mask * known_at(known, t, alphas_bar, draw) + (1 - mask) * unknown
            if r < repeats - 1 and t > 0:
                x = alphas_bar[t].sqrt() * x_prev + (1 - alphas_bar[t]).sqrt() * draw()
        x = x_prev
        yield x


W(inpaint, "goes back by alpha_bar, as if x_{t-1} were x_0", "table", "You step forward with 1 - alpha_bar_t")


def inpaint(p_step, known, mask, betas, x_T, repeats, draw):
    alphas_bar = torch.cumprod(1 - betas, 0)
    x = x_T
    for t in reversed(range(len(betas))):
        for _ in range(repeats):
            unknown = p_step(x, t)
            x_prev = mask * known_at(known, t, alphas_bar, draw) + (1 - mask) * unknown
            x = x_prev
            if t > 0:
                x = (1 - betas[t]).sqrt() * x_prev + betas[t].sqrt() * draw()
        yield x_prev


W(
    inpaint,
    "goes back after the last repeat too, at t = 0 from x_0",
    "two",
    "You go forward after the last repeat, too.",
    "At t = 0 your repeats give x_0 to p_step again.",
)


def inpaint(p_step, known, mask, betas, x_T, repeats, draw):
    alphas_bar = torch.cumprod(1 - betas, 0)
    x = x_T
    for t in reversed(range(len(betas))):
        for r in range(repeats):
            unknown = p_step(x, t)
            a = alphas_bar[t - 1]
            x_prev = mask * (a.sqrt() * known + (1 - a).sqrt() * draw()) + (1 - mask) * unknown
            if r < repeats - 1 and t > 0:
                x = (1 - betas[t]).sqrt() * x_prev + betas[t].sqrt() * draw()
        x = x_prev
        yield x


W(
    inpaint,
    "at t = 0 alphas_bar[-1] wraps around: the known part becomes noise",
    "edge",
    "At t = 0 you read alphas_bar[-1], which wraps around",
)


def inpaint(p_step, known, mask, betas, x_T, repeats, draw):
    alphas_bar = torch.cumprod(1 - betas, 0)
    x = x_T
    for t in reversed(range(len(betas))):
        for r in range(repeats):
            noisy = alphas_bar[t].sqrt() * known + (1 - alphas_bar[t]).sqrt() * draw()
            x_prev = p_step(mask * noisy + (1 - mask) * x, t)
            if r < repeats - 1 and t > 0:
                x = (1 - betas[t]).sqrt() * x_prev + betas[t].sqrt() * draw()
        x = x_prev
        yield x


W(inpaint, "mixes before the step instead of after it", "order", "You mix before the step")


def inpaint(p_step, known, mask, betas, x_T, repeats, draw):
    alphas_bar = torch.cumprod(1 - betas, 0)
    x = x_T
    for t in reversed(range(len(betas))):
        for r in range(repeats):
            unknown = p_step(x, t)
            x_prev = mask * known_at(known, t, alphas_bar, draw) + (1 - mask) * unknown
            if r < repeats - 1 and t > 0:
                x = (1 - betas[t - 1]).sqrt() * x_prev + betas[t - 1].sqrt() * draw()
        x = x_prev
        yield x


W(inpaint, "goes back with the beta of t - 1", "table", "You step forward with betas[t - 1].")


def inpaint(p_step, known, mask, betas, x_T, repeats, draw):
    alphas_bar = torch.cumprod(1 - betas, 0)
    x = x_T
    for t in reversed(range(len(betas))):
        for r in range(repeats):
            x_prev = mask * known_at(known, t, alphas_bar, draw) + (1 - mask) * p_step(x, t)
            yield x_prev
            if r < repeats - 1 and t > 0:
                x = (1 - betas[t]).sqrt() * x_prev + betas[t].sqrt() * draw()
        x = x_prev


W(inpaint, "yields after every repeat", "count", "You yield after every repeat.")


def inpaint(p_step, known, mask, betas, x_T, repeats, draw):
    alphas_bar = torch.cumprod(1 - betas, 0)
    noise, x = draw(), x_T
    for t in reversed(range(len(betas))):
        a = alphas_bar[t - 1] if t > 0 else torch.ones_like(alphas_bar[0])
        noisy = a.sqrt() * known + (1 - a).sqrt() * noise
        for r in range(repeats):
            x_prev = mask * noisy + (1 - mask) * p_step(x, t)
            if r < repeats - 1 and t > 0:
                x = (1 - betas[t]).sqrt() * x_prev + betas[t].sqrt() * draw()
        x = x_prev
        yield x


W(inpaint, "one noise for the known part, drawn before the loop", "random", "you drew it before the loop")


def inpaint(p_step, known, mask, betas, x_T, repeats, draw):
    alphas_bar = torch.cumprod(1 - betas, 0)
    x = x_T
    for t in reversed(range(len(betas))):
        for r in range(repeats):
            unknown = p_step(x, t)
            known_part = known
            if t > 0:
                known_part = alphas_bar[t - 1].sqrt() * known + (1 - alphas_bar[t - 1]) * draw()
            x_prev = mask * known_part + (1 - mask) * unknown
            if r < repeats - 1 and t > 0:
                x = (1 - betas[t]).sqrt() * x_prev + betas[t] * draw()
        x = x_prev
        yield x


W(
    inpaint,
    "variances for standard deviations, in the known part and on the way back",
    "two",
    "In the known part the noise is scaled by 1 - alpha_bar",
    "On the step forward the noise is scaled by beta",
)


def inpaint(p_step, known, mask, betas, x_T, repeats, draw):
    alphas_bar = torch.cumprod(1 - betas, 0)
    x = x_T
    for t in reversed(range(len(betas))):
        for r in range(repeats):
            x_prev = mask * known_at(known, t, alphas_bar, draw) + (1 - mask) * p_step(x, t)
            if r < repeats - 1 and t > 0:
                x = (1 - betas[t]).sqrt() * x_prev + betas[t].sqrt() * torch.randn_like(x_prev)
        x = x_prev
        yield x


W(
    inpaint,
    "draws the noise of the way back from torch's generator",
    "random",
    "Two calls with the same input gave two results",
)


def inpaint(p_step, known, mask, betas, x_T, repeats, draw):
    alphas_bar = torch.cumprod(1 - betas, 0)
    x = x_T
    for t in reversed(range(len(betas))):
        for r in range(repeats):
            x = mask * known_at(known, t, alphas_bar, draw) + (1 - mask) * p_step(x, t)
            if r < repeats - 1 and t > 0:
                x = (1 - betas[t]).sqrt() * x + betas[t].sqrt() * draw()
        yield x


W(
    inpaint,
    "one name for x_t and x_{t-1}: at t = 0 the repeats step from x_0",
    "edge",
    "At t = 0 your repeats give x_0 to p_step again.",
)


def inpaint(p_step, known, mask, betas, x_T, repeats, draw):
    alphas_bar = torch.cumprod(1 - betas, 0)
    x = x_T
    for t in reversed(range(len(betas))):
        for r in range(repeats):
            x_prev = mask * known_at(known, t, alphas_bar, draw) + (1 - mask) * p_step(x, t)
            if r < repeats - 1 and t > 0:
                x = betas[t].sqrt() * x_prev + (1 - betas[t]).sqrt() * draw()
        x = x_prev
        yield x


W(
    inpaint,
    "the two factors of the step back exchanged",
    "swap",
    "On the step forward the two factors are exchanged",
)


def inpaint(p_step, known, mask, betas, x_T, repeats, draw):
    alphas_bar = torch.cumprod(1 - betas, 0)
    x = x_T
    for t in reversed(range(len(betas))):
        for _ in range(repeats):
            x_prev = mask * known_at(known, t, alphas_bar, draw) + (1 - mask) * p_step(x, t)
        x = x_prev
        yield x


W(
    inpaint,
    "each repeat starts from the same x_t, without a step back",
    "order",
    "Every repeat starts from the same x_t",
)


def inpaint(p_step, known, mask, betas, x_T, repeats, draw):
    alphas_bar = torch.cumprod(1 - betas, 0)
    for t in reversed(range(len(betas))):
        left = repeats
        while left:
            left -= 1
            known_part = known_at(known, t, alphas_bar, draw)
            state = torch.where(mask.bool(), known_part, p_step(x_T, t))
            if left and t > 0:
                x_T = torch.sqrt(1 - betas[t]) * state + torch.sqrt(betas[t]) * draw()
        x_T = state
        yield state


C(inpaint, "torch.where, the noise of the known part drawn before the step")


def inpaint(p_step, known, mask, betas, x_T, repeats, draw):
    signal = [1.0] + [math.prod((1 - betas[:k]).tolist()) for k in range(1, len(betas))]

    def down(x, t):
        a = signal[t]
        noisy = math.sqrt(a) * known + (math.sqrt(1 - a) * draw() if t else 0)
        return noisy * mask + p_step(x, t) * (1 - mask)

    def up(x, t):
        b = betas[t].item()
        return math.sqrt(1 - b) * x + math.sqrt(b) * draw()

    x = x_T
    for t in range(len(betas) - 1, -1, -1):
        x = down(x, t)
        for _ in range(repeats - 1):
            x = down(up(x, t), t) if t > 0 else x
        yield x


C(inpaint, "up and down as functions; the last step is made once")


def inpaint(p_step, known, mask, betas, x_T, repeats, draw):
    alphas_bar = torch.nn.functional.pad(torch.cumprod(1 - betas, 0), (1, 0), value=1.0).to(x_T.dtype)
    x, hole = x_T, 1 - mask
    for t in torch.arange(len(betas)).flip(0).tolist():
        for r in reversed(range(repeats if t > 0 else 1)):
            x = hole * p_step(x, t)
            noise = draw() if t else torch.zeros_like(x)
            x = x + mask * noise * (1 - alphas_bar[t]).sqrt()
            x = x + mask * alphas_bar[t].sqrt() * known
            if r > 0:
                x = (1 - betas[t]) ** 0.5 * x + betas[t] ** 0.5 * draw()
        yield x


C(inpaint, "a table with 1 in front, the state added up in parts")

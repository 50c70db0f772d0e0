# ruff: noqa: B905, E501, E731, E741
"""Answers to the exercises of notebook 01 in which something is built, written from their statements alone."""

import math

import torch


def extract(v, t, x_shape):
    return v[t].view(-1, *[1] * (len(x_shape) - 1))


def q_sample(x_0, t, noise, alphas_bar):
    a = extract(alphas_bar, t, x_0.shape)
    return a.sqrt() * x_0 + (1 - a).sqrt() * noise


def posterior(x_0, x_t, t, betas):
    alphas_bar = torch.cumprod(1 - betas, 0)
    prev = torch.cat([torch.ones_like(alphas_bar[:1]), alphas_bar[:-1]])
    b, a, p = (extract(v, t, x_0.shape) for v in (betas, alphas_bar, prev))
    mean = p.sqrt() * b / (1 - a) * x_0 + (1 - b).sqrt() * (1 - p) / (1 - a) * x_t
    return mean, b * (1 - p) / (1 - a)


def walk_w0(x_0, betas, noise):
    x = x_0
    xs = [x]
    for i in range(len(betas)):
        x = torch.sqrt(1 - betas[i]) * x + betas[i] * noise[i]
        xs.append(x)
    return torch.stack(xs)


def walk_w1(x_0, betas, noise):
    x = x_0
    xs = []
    for i in range(len(betas)):
        x = torch.sqrt(1 - betas[i]) * x + torch.sqrt(betas[i]) * noise[i]
        xs.append(x)
    return torch.stack(xs)


def walk_w2(x_0, betas, noise):
    x = x_0
    xs = [x]
    for i in range(len(betas)):
        x = x + torch.sqrt(betas[i]) * noise[i]
        xs.append(x)
    return torch.stack(xs)


def walk_w3(x_0, betas, noise):
    x = x_0
    xs = [x]
    for i in range(len(betas)):
        x = torch.sqrt(1 - betas[i]) * x_0 + torch.sqrt(betas[i]) * noise[i]
        xs.append(x)
    return torch.stack(xs)


def walk_w4(x_0, betas, noise):
    x = x_0
    xs = [x]
    for i in range(len(betas)):
        x = torch.sqrt(1 - betas[i]) * x + torch.sqrt(betas[i]) * torch.randn_like(x)
        xs.append(x)
    return torch.stack(xs)


def walk_c0(x_0, betas, noise):
    out = x_0.new_empty(len(betas) + 1, *x_0.shape)
    out[0] = x_0
    for i, b in enumerate(betas.tolist()):
        out[i + 1] = math.sqrt(1 - b) * out[i] + math.sqrt(b) * noise[i]
    return out


def walk_c1(x_0, betas, noise):
    from itertools import accumulate

    step = lambda x, pair: (1 - pair[0]) ** 0.5 * x + pair[0] ** 0.5 * pair[1]
    return torch.stack(list(accumulate(zip(betas, noise), step, initial=x_0)))


class Forward_w5:
    def __init__(self, curve, T, max_beta=0.999):
        u = torch.linspace(0, 1, T + 1, dtype=torch.float64)
        f = curve(u)
        self.betas = (1 - f[1:] / f[:-1]).clamp(max=max_beta)
        self.alphas_bar = f[1:] / f[0]

    def bits_left(self):
        return -0.5 * math.log2(1 - self.alphas_bar[-1])

    def q_sample(self, x_0, t, noise):
        return q_sample(x_0, t, noise, self.alphas_bar)

    def back(self, x_0, x_T, noise):
        x = x_T
        states = [x]
        for i in reversed(range(len(self.betas))):
            t = torch.full((x_0.shape[0],), i)
            mean, var = posterior(x_0, x, t, self.betas)
            x = mean + var.sqrt() * noise[i]
            states.append(x)
        return torch.stack(states)


class Forward_w6:
    def __init__(self, curve, T, max_beta=0.999):
        u = torch.linspace(0, 1, T + 1, dtype=torch.float64)
        f = curve(u)
        self.betas = (1 - f[1:] / f[:-1]).clamp(max=max_beta)
        self.alphas_bar = torch.cumprod(1 - self.betas, 0)

    def bits_left(self):
        return -0.5 * math.log2(1 - self.alphas_bar[-1])

    def q_sample(self, x_0, t, noise):
        return q_sample(x_0, t, noise, self.alphas_bar)

    def back(self, x_0, x_T, noise):
        x = x_T
        states = [x]
        for i in reversed(range(len(self.betas))):
            t = torch.full((x_0.shape[0],), i)
            mean, var = posterior(x_0, x, t, self.betas)
            x = mean + var * noise[i]
            states.append(x)
        return torch.stack(states)


class Forward_w7:
    def __init__(self, curve, T, max_beta=0.999):
        u = torch.linspace(0, 1, T + 1, dtype=torch.float64)
        f = curve(u)
        self.betas = (1 - f[1:] / f[:-1]).clamp(max=max_beta)
        self.alphas_bar = torch.cumprod(1 - self.betas, 0)

    def bits_left(self):
        return -0.5 * math.log(1 - self.alphas_bar[-1])

    def q_sample(self, x_0, t, noise):
        return q_sample(x_0, t, noise, self.alphas_bar)

    def back(self, x_0, x_T, noise):
        x = x_T
        states = [x]
        for i in reversed(range(len(self.betas))):
            t = torch.full((x_0.shape[0],), i)
            mean, var = posterior(x_0, x, t, self.betas)
            x = mean + var.sqrt() * noise[i]
            states.append(x)
        return torch.stack(states)


class Forward_w8:
    def __init__(self, curve, T, max_beta=0.999):
        u = torch.linspace(0, 1, T + 1, dtype=torch.float64)
        f = curve(u)
        self.betas = (1 - f[1:] / f[:-1]).clamp(max=max_beta)
        self.alphas_bar = torch.cumprod(1 - self.betas, 0)

    def bits_left(self):
        return -0.5 * math.log2(1 - self.alphas_bar[-1])

    def q_sample(self, x_0, t, noise):
        return q_sample(x_0, t, noise, self.alphas_bar)

    def back(self, x_0, x_T, noise):
        x = x_T
        states = [x]
        for i in range(len(self.betas)):
            t = torch.full((x_0.shape[0],), i)
            mean, var = posterior(x_0, x, t, self.betas)
            x = mean + var.sqrt() * noise[i]
            states.append(x)
        return torch.stack(states)


class Forward_w9:
    def __init__(self, curve, T, max_beta=0.999):
        u = torch.linspace(0, 1, T, dtype=torch.float64)
        f = curve(u)
        self.betas = (1 - f[1:] / f[:-1]).clamp(max=max_beta)
        self.alphas_bar = torch.cumprod(1 - self.betas, 0)

    def bits_left(self):
        return -0.5 * math.log2(1 - self.alphas_bar[-1])

    def q_sample(self, x_0, t, noise):
        return q_sample(x_0, t, noise, self.alphas_bar)

    def back(self, x_0, x_T, noise):
        x = x_T
        states = [x]
        for i in reversed(range(len(self.betas))):
            t = torch.full((x_0.shape[0],), i)
            mean, var = posterior(x_0, x, t, self.betas)
            x = mean + var.sqrt() * noise[i]
            states.append(x)
        return torch.stack(states)


class Forward_c2:
    def __init__(self, curve, T, max_beta=0.999):
        self.T = T
        c = curve(torch.arange(T + 1, dtype=torch.float64) / T)
        b = (c[:-1] - c[1:]) / c[:-1]
        self.betas = torch.minimum(b, torch.full_like(b, max_beta))
        self.alphas_bar = torch.exp(torch.cumsum(torch.log1p(-self.betas), dim=0))

    def bits_left(self):
        return (-0.5 * torch.log1p(-self.alphas_bar[-1]) / math.log(2)).item()

    def q_sample(self, x_0, t, noise):
        a = self.alphas_bar[t].reshape([-1] + [1] * (x_0.dim() - 1))
        return torch.sqrt(a) * x_0 + torch.sqrt(1 - a) * noise

    def back(self, x_0, x_T, noise):
        out, t = [x_T], self.T - 1
        while t >= 0:
            mean, var = posterior(x_0, out[-1], torch.tensor([t] * x_0.shape[0]), self.betas)
            out.append(mean + torch.sqrt(var) * noise[t])
            t -= 1
        return torch.stack(out, dim=0)


class Forward_c3:
    def __init__(self, curve, T, max_beta=0.999):
        u = torch.linspace(0, 1, T + 1, dtype=torch.float64)
        f = curve(u)
        values = [float(v) for v in f]
        self.betas = torch.tensor([min(1 - b / a, max_beta) for a, b in zip(values, values[1:])], dtype=torch.float64)
        self.alphas_bar = torch.cumprod(1 - self.betas, 0)

    def bits_left(self):
        return -torch.log2(1 - self.alphas_bar[-1]) / 2

    def q_sample(self, x_0, t, noise):
        return q_sample(x_0, t, noise, self.alphas_bar)

    def back(self, x_0, x_T, noise):
        x = x_T
        states = [x]
        for i in reversed(range(len(self.betas))):
            t = torch.full((x_0.shape[0],), i)
            mean, var = posterior(x_0, x, t, self.betas)
            x = mean + var.sqrt() * noise[i]
            states.append(x)
        return torch.stack(states)


from answers import Answers, Correct, Wrong  # noqa: E402

answers = Answers()
answers.wrongs += [
    Wrong(
        "walk",
        walk_w0,
        "beta instead of its root in front of the noise",
        "square-root",
        ("You scaled the noise by beta",),
    ),
    Wrong(
        "walk",
        walk_w1,
        "x_0 is not among the states: T instead of T + 1",
        "count",
        ("x_0 is missing from what you return",),
    ),
    Wrong(
        "walk",
        walk_w2,
        "the image is not shrunk: no factor sqrt(1 - beta)",
        "factor",
        ("You do not shrink the image before you add noise",),
    ),
    Wrong(
        "walk",
        walk_w3,
        "every step starts from x_0 instead of the last state",
        "table",
        ("Each of your steps starts from x_0, so that nothing adds up",),
    ),
    Wrong(
        "walk",
        walk_w4,
        "draws its own noise instead of noise[i]",
        "ignored-argument",
        ("Two calls with the same input gave two results",),
    ),
    Wrong(
        "Forward",
        Forward_w5,
        "alphas_bar is the uncapped curve instead of the cumulative product of the capped betas",
        "table",
        ("Your alphas_bar is the curve over its first value, and knows nothing o",),
    ),
    Wrong(
        "Forward",
        Forward_w6,
        "back adds the variance instead of its root times the noise",
        "square-root",
        ("On the way back you scale the noise by the posterior's variance",),
    ),
    Wrong(
        "Forward",
        Forward_w7,
        "bits_left is the natural logarithm, nats",
        "transform",
        ("You took the natural logarithm",),
    ),
    Wrong("Forward", Forward_w8, "back runs upwards, from step 0 to T - 1", "order", ()),
    Wrong(
        "Forward",
        Forward_w9,
        "linspace has T instead of T + 1 points, so the tables are one short",
        "count",
        ("Your curve is read at T points",),
    ),
]
answers.corrects += [
    Correct("walk", walk_c0, "preallocated tensor filled in place"),
    Correct("walk", walk_c1, "accumulate from itertools"),
    Correct("Forward", Forward_c2, "torch.minimum, exp of a sum of logs, loop with while"),
    Correct("Forward", Forward_c3, "float arithmetic for the tables, bits_left returns a tensor"),
]

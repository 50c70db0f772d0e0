"""The source post's trainer and sampler in short, with its bugs, as a witness for the package's front doors.

Two switches repair what the comparison needs repaired; everything else is as the post has it.
"""

import torch
from torch.nn import functional as F


def extract(v, t, x_shape):
    return torch.gather(v, 0, t).float().view([len(t)] + [1] * (len(x_shape) - 1))


def _betas(beta_1, beta_T, T):
    return torch.linspace(beta_1, beta_T, T).double()  # float32 first


class Trainer:
    def __init__(self, model, beta_1, beta_T, T):
        self.model, self.T = model, T
        self.alphas_bar = torch.cumprod(1 - _betas(beta_1, beta_T, T), 0)

    def __call__(self, x_0):
        t = torch.randint(self.T, (len(x_0),))
        noise = torch.randn_like(x_0)
        signal = extract(self.alphas_bar.sqrt(), t, x_0.shape)
        scale = extract((1 - self.alphas_bar).sqrt(), t, x_0.shape)
        return F.mse_loss(self.model(signal * x_0 + scale * noise, t), noise, reduction="none")


class Sampler:
    """mean_types: pass the three names to repair the assertion. clip_first: clip x_0 before the mean is formed."""

    MEAN_TYPES = ["xprev" "xstart", "epsilon"]  # fmt: skip

    def __init__(
        self,
        model,
        beta_1,
        beta_T,
        T,
        img_size=32,
        mean_type="eps",
        var_type="fixedlarge",
        *,
        mean_types=MEAN_TYPES,
        clip_first=False,
    ):
        assert mean_type in mean_types
        assert var_type in ["fixedlarge", "fixedsmall"]
        self.model, self.T, self.img_size = model, T, img_size
        self.mean_type, self.var_type, self.clip_first = mean_type, var_type, clip_first
        self.betas = betas = _betas(beta_1, beta_T, T)
        alphas_bar = torch.cumprod(1 - betas, 0)
        before = F.pad(alphas_bar, [1, 0], value=1)[:T]
        self.recip, self.recipm1 = (1 / alphas_bar).sqrt(), (1 / alphas_bar - 1).sqrt()
        self.posterior_var = betas * (1 - before) / (1 - alphas_bar)
        self.coef1 = before.sqrt() * betas / (1 - alphas_bar)
        self.coef2 = (1 - betas).sqrt() * (1 - before) / (1 - alphas_bar)

    def log_var(self):
        """Built again at every step of the post's loop."""
        tail = {"fixedlarge": self.betas, "fixedsmall": self.posterior_var}[self.var_type][1:]
        return torch.log(torch.cat([self.posterior_var[1:2], tail]))

    def mean(self, x_t, t):
        def at(v):
            return extract(v, t, x_t.shape)

        output = self.model(x_t, t)
        if self.mean_type == "xprev":
            x_0 = at(1 / self.coef1) * output - at(self.coef2 / self.coef1) * x_t
        elif self.mean_type == "xstart":
            x_0 = output
        elif self.mean_type == "epsilon":
            x_0 = at(self.recip) * x_t - at(self.recipm1) * output
        else:
            raise NotImplementedError(self.mean_type)
        if self.clip_first:
            return at(self.coef1) * x_0.clip(-1, 1) + at(self.coef2) * x_t
        mean = output if self.mean_type == "xprev" else at(self.coef1) * x_0 + at(self.coef2) * x_t
        x_0 = torch.clip(x_0, -1, 1)  # noqa: F841  the dead clip: nothing reads this x_0
        return mean

    def __call__(self, x_T):
        x_t = x_T
        for i in reversed(range(self.T)):
            t = x_t.new_ones([len(x_T)], dtype=torch.long) * i
            log_var = extract(self.log_var(), t, x_t.shape)
            noise = torch.randn_like(x_t) if i > 0 else 0
            x_t = self.mean(x_t, t) + torch.exp(0.5 * log_var) * noise
        return torch.clip(x_t, -1, 1)

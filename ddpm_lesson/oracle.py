"""Exact optimal denoisers: the network that perfect training would give, for data whose density is known.

With one of them every sampler and loss can be held against closed forms, and a wrong sampler is not confused with
an undertrained network.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_lesson.coefficients import at
from ddpm_lesson.predictions import MeanType, Prediction
from ddpm_lesson.process import GaussianDiffusion


class Mixture:
    """The optimal denoiser for data from a mixture of Gaussians, sum_k weights_k N(means_k, stds_k^2 I).

    base: the process. weights: (K,), positive; they are normalised. means: (K, *D). stds: (K,), 0 for points.
    Noise keeps each component Gaussian: q(x_t) = sum_k weights_k N(sqrt(a) means_k, (a stds_k^2 + 1 - a) I), with
    a = alphas_bar. So everything below is closed form. Computed in x_t's dtype, float32 at least.
    Raises ValueError if the shapes do not fit, or a weight is not positive or a std negative.
    """

    def __init__(self, base: GaussianDiffusion, weights: Tensor, means: Tensor, stds: Tensor):
        if weights.ndim != 1 or stds.shape != weights.shape or means.shape[:1] != weights.shape:
            raise ValueError(
                "expected weights (K,), means (K, *D), stds (K,), got "
                f"{tuple(weights.shape)}, {tuple(means.shape)}, {tuple(stds.shape)}"
            )
        if not bool((weights > 0).all() and (stds >= 0).all()):
            raise ValueError("weights must be positive and stds must not be negative")
        self.base, self.means, self.stds = base, means, stds
        self.log_weights = (weights / weights.sum()).log()

    def __call__(self, x_t: Tensor, t: Tensor, prev: Prediction | None = None) -> Prediction:
        """E[x_0 | x_t] and E[eps | x_t], (B, *D) each: the denoiser that samplers take.  x_t: (B, *D). t: (B,)."""
        a, means, stds, residual, var = self._components(x_t, t)
        weights = self.posterior_weights(x_t, t)
        x_0 = means + a.sqrt() * stds**2 / var * residual  # E[x_0 | x_t, k]
        eps = (1 - a).sqrt() / var * residual  # E[eps | x_t, k]
        return Prediction(_average(weights, x_0).to(x_t.dtype), _average(weights, eps).to(x_t.dtype))

    def posterior_weights(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Probability of each component given x_t, (B, K)."""
        return torch.softmax(self._log_joint(x_t, t), 1)

    def log_prob(self, x_t: Tensor, t: Tensor) -> Tensor:
        """log q(x_t) of the whole point, (B,), in nats."""
        return torch.logsumexp(self._log_joint(x_t, t), 1)

    def score(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Gradient of log q(x_t) in x_t, (B, *D): -E[eps | x_t] / sqrt(1 - alphas_bar)."""
        return -self(x_t, t).eps / at(self.base.sqrt_one_minus_alphas_bar, t, x_t)

    def as_model(self, mean_type: MeanType) -> Callable[[Tensor, Tensor], Tensor]:
        """The output a perfectly trained network of this MeanType would have: model(x_t, t) -> (B, *D).

        Every target is linear in x_0 and noise once x_t is given, so its conditional expectation is the target of
        the conditional expectations.
        """

        def model(x_t: Tensor, t: Tensor) -> Tensor:
            prediction = self(x_t, t)
            return mean_type.target(self.base, prediction.x_0, x_t, t, prediction.eps)

        return model

    def _components(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """alphas_bar, means, stds, x_t minus each noised mean, each noised variance; component axis second."""
        a = at(self.base.alphas_bar, t, x_t).unsqueeze(1)  # (B, 1, 1, ...)
        means = self.means.to(x_t.device, a.dtype).unsqueeze(0)  # (1, K, *D)
        if means.shape[2:] != x_t.shape[1:]:
            raise ValueError(f"x_t must be (B, *{tuple(self.means.shape[1:])}), got {tuple(x_t.shape)}")
        stds = self.stds.to(x_t.device, a.dtype).view(1, -1, *[1] * (x_t.ndim - 1))
        return a, means, stds, x_t.unsqueeze(1) - a.sqrt() * means, a * stds**2 + (1 - a)

    def _log_joint(self, x_t: Tensor, t: Tensor) -> Tensor:
        _, _, _, residual, var = self._components(x_t, t)
        per_coordinate = -0.5 * (residual**2 / var + (2 * math.pi * var).log())
        return self.log_weights.to(residual) + per_coordinate.flatten(2).sum(2)


class Gaussian(Mixture):
    """The optimal denoiser for N(mean, std^2 I) data: the mixture with one component.  mean: (*D,). std: a number.

    Its answers are linear in x_t, so whole chains have closed forms.
    """

    def __init__(self, base: GaussianDiffusion, mean: Tensor, std: float):
        super().__init__(base, torch.ones(1), mean.unsqueeze(0), torch.tensor([std], dtype=torch.float64))


def _average(weights: Tensor, values: Tensor) -> Tensor:
    """Sum over components k of weights (B, K) times values (B, K, *D)."""
    return (weights.view(*weights.shape, *[1] * (values.ndim - 2)) * values).sum(1)

"""Exact optimal denoisers: the network that perfect training would give, for data whose density is known.

With one of them every sampler and loss can be held against closed forms, and a wrong sampler is not confused with
an undertrained network.
"""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_lesson._tensors import table_dtype
from ddpm_lesson.coefficients import Steps, spread
from ddpm_lesson.predictions import MeanType, Prediction
from ddpm_lesson.process import GaussianDiffusion, Noised


class Mixture:
    """The optimal denoiser for data from a mixture of Gaussians, sum_k weights_k N(means_k, stds_k^2 I).

    base: the process. weights: (K,), positive; they are normalised. means: (K, *D). stds: (K,), 0 for points.
    labels: (K,) int64, the class 0..Y-1 of each component, for `classifier` and `conditional`.
    Noise keeps each component Gaussian: q(x_t) = sum_k weights_k N(sqrt(a) means_k, (a stds_k^2 + 1 - a) I), with
    a = alphas_bar. So everything below is closed form. Computed in x_t's dtype, float32 at least.
    Raises ValueError if the shapes do not fit, a weight is not positive, or a std or a label is negative.

    >>> base = GaussianDiffusion(torch.tensor([0.1, 0.2]))
    >>> two_points = Mixture(base, torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.zeros(2))
    >>> two_points(torch.tensor([[0.0], [2.0]]), torch.tensor([0, 0])).x_0  # in the middle, and near to 1
    tensor([[0.],
            [1.]])
    """

    def __init__(
        self, base: GaussianDiffusion, weights: Tensor, means: Tensor, stds: Tensor, *, labels: Tensor | None = None
    ):
        if weights.ndim != 1 or not len(weights) or stds.shape != weights.shape or means.shape[:1] != weights.shape:
            raise ValueError(
                "expected weights (K,), means (K, *D), stds (K,) with K >= 1, got "
                f"{tuple(weights.shape)}, {tuple(means.shape)}, {tuple(stds.shape)}"
            )
        if not bool((weights > 0).all() and (stds >= 0).all()):
            raise ValueError("weights must be positive and stds must not be negative")
        if labels is not None and (labels.shape != weights.shape or labels.is_floating_point() or labels.min() < 0):
            got = f"{labels.dtype} of shape {tuple(labels.shape)} from {labels.min().item()}"
            raise ValueError(f"labels must be ({len(weights)},) integers from 0 up, got {got}")
        self.base, self.means, self.stds, self.labels = base, means, stds, labels
        self.log_weights = (weights / weights.sum()).log()

    def __call__(self, x_t: Tensor, t: Steps, prev: Prediction | None = None) -> Prediction:
        """E[x_0 | x_t] and E[eps | x_t], (B, *D) each: the denoiser that samplers take.  x_t: (B, *D). t: (B,)."""
        signal, noise, means, stds, residual = self._components(x_t, t)
        var = (signal * stds) ** 2 + noise**2
        weights = self.posterior_weights(x_t, t)
        x_0 = means + signal * stds**2 / var * residual  # E[x_0 | x_t, k]
        eps = noise / var * residual  # E[eps | x_t, k]
        return Prediction(_average(weights, x_0).to(x_t.dtype), _average(weights, eps).to(x_t.dtype))

    def posterior_weights(self, x_t: Tensor, t: Steps) -> Tensor:
        """Probability of each component given x_t, (B, K)."""
        return torch.softmax(self._log_joint(x_t, t), 1)

    def log_prob(self, x_t: Tensor, t: Steps) -> Tensor:
        """log q(x_t) of the whole point, (B,), in nats."""
        return torch.logsumexp(self._log_joint(x_t, t), 1)

    def score(self, x_t: Tensor, t: Steps) -> Tensor:
        """Gradient of log q(x_t) in x_t, (B, *D): -E[eps | x_t] / sqrt(1 - alphas_bar)."""
        return -self(x_t, t).eps / spread(self.base.row(t).sqrt_one_minus_alphas_bar, x_t)

    def classifier(self, x_t: Tensor, t: Steps) -> Tensor:
        """log p(y | x_t) of every class, (B, Y): what a perfectly trained noisy classifier would say.

        Differentiable in x_t. Raises ValueError if the mixture has no labels.
        """
        labels = self._labels(x_t)
        log_weights = torch.log_softmax(self._log_joint(x_t, t), 1)
        return torch.stack([log_weights[:, labels == y].logsumexp(1) for y in range(int(labels.max()) + 1)], 1)

    def conditional(self, y: Steps) -> "Mixture":
        """The same oracle for data of one class y, or of class y[b] for the b-th x_t, y: (B,).

        Raises ValueError if the mixture has no labels, or none of its components is of class y.
        """
        y = torch.as_tensor(y).view(-1, 1)
        labels = self._labels(y)
        log_weights = self.log_weights.to(y.device).where(labels == y, -math.inf)  # (B, K), or (1, K)
        empty = log_weights.isneginf().all(1)
        if bool(empty.any()):
            raise ValueError(f"no component is of class {y[empty][0].item()}; there are {labels.unique().tolist()}")
        conditioned = copy.copy(self)
        conditioned.log_weights = torch.log_softmax(log_weights, 1)
        return conditioned

    def as_model(self, mean_type: MeanType) -> Callable[..., Tensor]:
        """The output a perfectly trained network of this MeanType would have: model(x_t, t, y=None) -> (B, *D).

        y: int or (B,), the class to condition on. Every target is linear in x_0 and noise once x_t is given, so its
        conditional expectation is the target of the conditional expectations.
        """

        def model(x_t: Tensor, t: Tensor, y: Steps | None = None) -> Tensor:
            prediction = (self if y is None else self.conditional(y))(x_t, t)
            return mean_type.target(self.base, Noised(prediction.x_0, t, prediction.eps, x_t))

        return model

    def _labels(self, like: Tensor) -> Tensor:
        if self.labels is None:
            raise ValueError("this oracle knows no classes; give it labels, one for each component")
        return self.labels.to(like.device)

    def _means(self, x_t: Tensor, dtype: torch.dtype) -> Tensor:
        if self.means.shape[1:] != x_t.shape[1:]:
            raise ValueError(f"x_t must be (B, *{tuple(self.means.shape[1:])}), got {tuple(x_t.shape)}")
        return self.means.to(x_t.device, dtype)

    def _components(self, x_t: Tensor, t: Steps) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """sqrt(a), sqrt(1 - a), means, stds, x_t minus each noised mean; the component axis is the second."""
        signal = spread(self.base.row(t).sqrt_alphas_bar, x_t).unsqueeze(1)  # (B, 1, 1, ...)
        noise = spread(self.base.row(t).sqrt_one_minus_alphas_bar, x_t).unsqueeze(1)
        means = self._means(x_t, signal.dtype).unsqueeze(0)  # (1, K, *D)
        stds = self.stds.to(x_t.device, signal.dtype).view(1, -1, *[1] * (x_t.ndim - 1))
        return signal, noise, means, stds, x_t.unsqueeze(1) - signal * means

    def _weighted(self, log_prob: Tensor) -> Tensor:
        """log_prob (B, K) of x_t given each component, plus the component's log weight."""
        log_weights = self.log_weights.to(log_prob)
        if log_weights.ndim == 2 and len(log_weights) not in (1, len(log_prob)):
            raise ValueError(f"expected a class for each x_t, got {len(log_weights)} for a batch of {len(log_prob)}")
        return log_weights + log_prob

    def _log_joint(self, x_t: Tensor, t: Steps) -> Tensor:
        signal, noise, _, stds, residual = self._components(x_t, t)
        var = (signal * stds) ** 2 + noise**2
        per_coordinate = -0.5 * (residual**2 / var + (2 * math.pi * var).log())
        return self._weighted(per_coordinate.flatten(2).sum(2))


class GaussianData(Mixture):
    """The optimal denoiser for N(mean, std^2 I) data: the mixture with one component.  mean: (*D,). std: a number.

    Its answers are linear in x_t, so whole chains have closed forms.
    """

    def __init__(self, base: GaussianDiffusion, mean: Tensor, std: float):
        super().__init__(base, torch.ones(1), mean.unsqueeze(0), torch.tensor([std], dtype=torch.float64))


class Empirical(Mixture):
    """The optimal denoiser for a finite data set: the mixture of its points, all with the same weight.

    points: (N, *D). labels: (N,) int64 classes, optional. What it samples are the points themselves: it memorises,
    and is what training on these points alone tends to if nothing holds the network back.
    Distances come from one matrix product in float64, so the memory is (B, N) and not (B, N, *D): 1,000 x_t of any
    size against 1,797 digits take 15 MB a few times over. As t falls the posterior weights turn into those of the
    nearest point.
    """

    def __init__(self, base: GaussianDiffusion, points: Tensor, *, labels: Tensor | None = None):
        weights = torch.ones(len(points), dtype=torch.float64, device=points.device)
        super().__init__(base, weights, points, torch.zeros_like(weights), labels=labels)

    def __call__(self, x_t: Tensor, t: Steps, prev: Prediction | None = None) -> Prediction:
        """E[x_0 | x_t], a weighted mean of the points, and E[eps | x_t].  As in `Mixture`."""
        weights = self.posterior_weights(x_t, t)
        x_0 = (weights @ self.means.to(weights).flatten(1)).view_as(x_t)
        eps = self.base.eps_from_x_0(x_t.to(x_0.dtype), t, x_0)
        return Prediction(x_0.to(x_t.dtype), eps.to(x_t.dtype))

    def _log_joint(self, x_t: Tensor, t: Steps) -> Tensor:
        dtype = table_dtype(x_t.device)
        x, points = x_t.to(dtype).flatten(1), self._means(x_t, dtype).flatten(1)  # (B, D), (N, D)
        signal = spread(self.base.row(t).sqrt_alphas_bar, x)
        var = spread(self.base.row(t).sqrt_one_minus_alphas_bar, x) ** 2
        squared = (x**2).sum(1, keepdim=True) - 2 * signal * x @ points.T + signal**2 * (points**2).sum(1)  # (B, N)
        return self._weighted(-0.5 * (squared / var + x.shape[1] * (2 * math.pi * var).log()))


def _average(weights: Tensor, values: Tensor) -> Tensor:
    """Sum over components k of weights (B, K) times values (B, K, *D)."""
    return (weights.view(*weights.shape, *[1] * (values.ndim - 2)) * values).sum(1)

"""The Gaussian diffusion process q and everything that follows from it in closed form.

Index t runs over 0..T-1; t = 0 is the papers' t = 1.
"""

import copy
import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ddpm_lesson._tensors import check_numbers, randn_like
from ddpm_lesson.coefficients import Coefficients, Steps, combine, extract, spread
from ddpm_lesson.gaussian import Gaussian
from ddpm_lesson.schedules import betas_from_alphas_bar

__all__ = ["Description", "GaussianDiffusion", "Noised", "PriorNotReachedWarning", "extract"]


class PriorNotReachedWarning(UserWarning):
    """The chain ends before x_T is standard normal, so sampling starts from the wrong distribution."""


class Description(NamedTuple):
    """What `GaussianDiffusion.describe` finds. prior_bits is L_T in bits per dimension where x_0^2 = 1."""

    T: int
    alpha_bar_T: float
    terminal_snr: float
    prior_bits: float


class Noised(NamedTuple):
    """Images, their steps, and what the process made of them: what a training step and every loss look at.

    x_0, noise, x_t: (B, *D), x_t = sqrt(alphas_bar) x_0 + sqrt(1 - alphas_bar) noise. t: (B,) int64, steps of the
    process. Made by `GaussianDiffusion.noised`.
    """

    x_0: Tensor
    t: Tensor
    noise: Tensor
    x_t: Tensor


class GaussianDiffusion(Coefficients):
    """The forward process q, its posterior, and the ways between x_0, eps, x_{t-1}, v and score.  Ho et al. 2020.

    betas: (T,) in (0, 1); the last one may be 1. The tables are attributes: see `Coefficients`.
    In every method x is (B, *D), t is (B,) int64 in 0..T-1, or an int: one step for the whole batch, as samplers take
    it. The result has the images' dtype; arithmetic is in float32 at least. A log_var of (B, 1, ...) is (1, 1, ...)
    for an int. Wrong dtypes raise TypeError; shapes, devices or steps that do not fit raise ValueError, and so do betas
    on the device meta, which has no numbers; `.to("meta")` and back keeps the tables.

    >>> process = GaussianDiffusion(torch.tensor([0.36, 0.5]))  # alphas_bar = 0.64 and 0.32
    >>> x_0, noise = torch.tensor([[1.0]]), torch.tensor([[-2.0]])
    >>> process.q_sample(x_0, torch.tensor([0]), noise)  # 0.8 * 1 + 0.6 * -2
    tensor([[-0.4000]])
    """

    def __init__(self, betas: Tensor, *, log_alphas: Tensor | None = None):
        super().__init__(betas, log_alphas=log_alphas)
        self._base: list[GaussianDiffusion] = []  # in a list, so that the base is no submodule of a respaced chain

    @classmethod
    def from_alphas_bar(cls, alphas_bar: Tensor) -> "GaussianDiffusion":
        """The process with these cumulative products.

        alphas_bar: (T,) falling, below 1; the last one may be 0. Raises ValueError otherwise.
        """
        check_numbers("alphas_bar", alphas_bar)
        if alphas_bar.ndim != 1:
            raise ValueError(f"alphas_bar must be (T,), got shape {tuple(alphas_bar.shape)}")
        return cls(betas_from_alphas_bar(pad(alphas_bar.to("cpu", torch.float64), (1, 0), value=1)))

    @property
    def base(self) -> "GaussianDiffusion":
        """The process whose steps a network knows: itself, or the one this chain was respaced from."""
        return self._base[0] if self._base else self

    def respaced(self, timesteps: Sequence[int]) -> "GaussianDiffusion":
        """The same process seen only at these steps: again a GaussianDiffusion.  Nichol & Dhariwal 2021, Section 4.

        timesteps: increasing indices into 0..T-1, from `spacing` for example.
        The result has alphas_bar[timesteps], betas that lead from one to the next, this process's `base`, and a
        `timestep_map` to the base's indices. Raises ValueError if timesteps are empty, do not increase or leave
        0..T-1. Not betas[timesteps]: those would add far too little noise.

        >>> chain = GaussianDiffusion(torch.full((4,), 0.5)).respaced([1, 3])  # two steps at a time
        >>> chain.betas, chain.timestep_map
        (tensor([0.7500, 0.7500], dtype=torch.float64), tensor([1, 3]))
        """
        steps = torch.as_tensor(timesteps, device="cpu")
        whole = not steps.is_floating_point() and steps.dtype != torch.bool
        if steps.ndim != 1 or len(steps) == 0 or not whole or not bool((steps.diff() > 0).all()):
            raise ValueError(f"timesteps must be increasing integers, at least one, got {timesteps}")
        if steps[0] < 0 or steps[-1] >= self.T:
            raise ValueError(f"timesteps must lie in 0..{self.T - 1}, got {steps[0].item()} to {steps[-1].item()}")
        log_alphas = pad(self._cpu_tables["log_alphas_bar"][steps.long()], (1, 0)).diff()
        chain = GaussianDiffusion(-torch.expm1(log_alphas), log_alphas=log_alphas)
        chain._cpu_tables["timestep_map"] = self._cpu_tables["timestep_map"][steps.long()]
        chain._base = [self.base]
        return chain.to(self.betas.device)

    # The forward process.

    def q_step(self, x_prev: Tensor, t: Steps, noise: Tensor) -> Tensor:
        """One step, x_t from x_{t-1}: sqrt(1 - beta_t) x_prev + sqrt(beta_t) noise.  Ho et al. 2020, Eq. 2.

        t is the step that is made: t = 0 leads from x_0 to the papers' x_1.
        """
        c = self.row(t)
        return combine((c.sqrt_alphas, x_prev), (c.sqrt_betas, noise))

    def q_marginal(self, x_0: Tensor, t: Steps) -> Gaussian:
        """q(x_t | x_0).  Ho et al. 2020, Eq. 4.

        Returns Gaussian with mean (B, *D) and log_var (B, 1, ...).
        Not the distribution of x_t over the data set: that is a mixture of these.
        """
        c = self.row(t)
        return Gaussian(combine((c.sqrt_alphas_bar, x_0)), spread(c.log_one_minus_alphas_bar, x_0))

    def q_sample(self, x_0: Tensor, t: Steps, noise: Tensor) -> Tensor:
        """x_t from x_0 in one jump: sqrt(alphas_bar) x_0 + sqrt(1 - alphas_bar) noise.  Ho et al. 2020, Eq. 4.

        noise: standard normal, of x_0's shape.
        """
        c = self.row(t)
        return combine((c.sqrt_alphas_bar, x_0), (c.sqrt_one_minus_alphas_bar, noise))

    def noised(
        self, x_0: Tensor, t: Tensor, noise: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Noised:
        """`q_sample`, with all that it was made of: what a loss takes.  Ho et al. 2020, Algorithm 1, line 4 and 5.

        noise: standard normal, of x_0's shape; drawn as `Gaussian.sample` draws it if it is not given.
        """
        noise = randn_like(x_0, generator) if noise is None else noise
        return Noised(x_0, t, noise, self.q_sample(x_0, t, noise))

    def q_sample_pair(
        self, x_0: Tensor, t: Steps, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """A joint draw (x_{t-1}, x_t) given x_0: a jump to t - 1, then one step.  At t = 0, x_{t-1} is x_0.

        Not two calls of q_sample: those would be independent given x_0.
        """
        c = self.row(t)
        std_prev = (c.posterior_var / c.betas) ** 0.5 * c.sqrt_one_minus_alphas_bar  # 0 at t = 0
        x_prev = combine((c.alphas_bar_prev**0.5, x_0), (std_prev, randn_like(x_0, generator)))
        return x_prev, self.q_step(x_prev, t, randn_like(x_0, generator))

    def q_posterior(self, x_0: Tensor, x_t: Tensor, t: Steps) -> Gaussian:
        """Posterior q(x_{t-1} | x_t, x_0).  Ho et al. 2020, Eq. 6-7.

        Returns Gaussian with mean (B, *D) and log_var (B, 1, ...); -inf at t = 0, where the posterior is a point.
        Not p(x_{t-1} | x_t): that has the network's estimate instead of x_0.
        """
        return Gaussian(self.x_prev_from_x_0(x_t, t, x_0), spread(self.row(t).posterior_log_var, x_t))

    def q_posterior_ddim(self, x_0: Tensor, eps: Tensor, t: Steps, eta: float) -> Gaussian:
        """DDIM's q_sigma(x_{t-1} | x_t, x_0) with sigma = eta * sqrt(posterior_var).  Song et al. 2021, Eq. 7, 12, 16.

        x_t = sqrt(alphas_bar) x_0 + sqrt(1 - alphas_bar) eps enters through eps. eta in 0..1: 0 gives the
        deterministic sampler (log_var = -inf), 1 gives `q_posterior`.
        Raises ValueError if eta leaves 0..1. DDIM's alpha_t is DDPM's alphas_bar_t.
        """
        of_x_0, of_eps, log_var = self.ddim_weights(t, eta)
        return Gaussian(combine((of_x_0, x_0), (of_eps, eps)), spread(log_var, x_0))

    def ddim_weights(self, t: Steps, eta: float) -> tuple[Any, Any, Any]:
        """The factors of x_0 and eps in the mean of `q_posterior_ddim`, and its log variance: numbers, or (B,) each."""
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must lie in 0..1, got {eta}")
        c = self.row(t)
        # 1 - alphas_bar_prev - sigma^2, without the difference of nearly equal numbers; rounding may leave -1e-17.
        rest = abs(c.posterior_var * (c.sqrt_one_minus_alphas_bar**2 / c.betas - eta**2))
        log_eta = math.log(eta) if eta > 0 else -math.inf
        return c.alphas_bar_prev**0.5, rest**0.5, c.posterior_log_var + 2 * log_eta

    # Conversions: every quantity to x_0, and back.

    def x_0_from_eps(self, x_t: Tensor, t: Steps, eps: Tensor) -> Tensor:
        """The x_0 that this noise leads back to: (x_t - sqrt(1 - alphas_bar) eps) / sqrt(alphas_bar).  DDPM Eq. 15.

        An error in eps is multiplied by sqrt(1 / alphas_bar - 1): 157.4 at the last of 1000 linear steps.
        Raises ValueError where alphas_bar = 0: there x_t is the noise and says nothing of x_0.
        """
        self._refuse_pure_noise(t)
        c = self.row(t)
        return combine((c.sqrt_recip_alphas_bar, x_t), (-c.sqrt_recipm1_alphas_bar, eps))

    def eps_from_x_0(self, x_t: Tensor, t: Steps, x_0: Tensor) -> Tensor:
        """The noise that leads from this x_0 to x_t: (x_t - sqrt(alphas_bar) x_0) / sqrt(1 - alphas_bar)."""
        c = self.row(t)
        std = c.sqrt_one_minus_alphas_bar
        return combine((1 / std, x_t), (-c.sqrt_alphas_bar / std, x_0))

    def x_0_from_x_prev(self, x_t: Tensor, t: Steps, x_prev: Tensor) -> Tensor:
        """The x_0 whose posterior mean is x_prev: DDPM Eq. 7 solved for x_0.

        Exact at t = 0, where x_prev is x_0; ill-conditioned late, where errors grow 7791-fold (t = 999, linear).
        """
        c = self.row(t)
        coef1, coef2 = c.posterior_mean_coef1, c.posterior_mean_coef2
        return combine((1 / coef1, x_prev), (-coef2 / coef1, x_t))

    def x_prev_from_x_0(self, x_t: Tensor, t: Steps, x_0: Tensor) -> Tensor:
        """The posterior mean of x_{t-1}.  DDPM Eq. 7.  Not a sample: `q_posterior` also has the variance."""
        c = self.row(t)
        return combine((c.posterior_mean_coef1, x_0), (c.posterior_mean_coef2, x_t))

    def velocity(self, x_0: Tensor, t: Steps, noise: Tensor) -> Tensor:
        """v = sqrt(alphas_bar) noise - sqrt(1 - alphas_bar) x_0.  Salimans & Ho 2022, Section 4."""
        c = self.row(t)
        return combine((c.sqrt_alphas_bar, noise), (-c.sqrt_one_minus_alphas_bar, x_0))

    def x_0_from_v(self, x_t: Tensor, t: Steps, v: Tensor) -> Tensor:
        """sqrt(alphas_bar) x_t - sqrt(1 - alphas_bar) v.  Salimans & Ho 2022, Appendix D.  No error grows, at any t."""
        c = self.row(t)
        return combine((c.sqrt_alphas_bar, x_t), (-c.sqrt_one_minus_alphas_bar, v))

    def v_from_x_0(self, x_t: Tensor, t: Steps, x_0: Tensor) -> Tensor:
        """(sqrt(alphas_bar) x_t - x_0) / sqrt(1 - alphas_bar): `x_0_from_v` solved for v."""
        c = self.row(t)
        std = c.sqrt_one_minus_alphas_bar
        return combine((c.sqrt_alphas_bar / std, x_t), (-1 / std, x_0))

    def x_0_from_score(self, x_t: Tensor, t: Steps, score: Tensor) -> Tensor:
        """(x_t + (1 - alphas_bar) score) / sqrt(alphas_bar), Tweedie's formula; undefined where `x_0_from_eps` is."""
        self._refuse_pure_noise(t)
        c = self.row(t)
        var = c.sqrt_one_minus_alphas_bar**2
        return combine((c.sqrt_recip_alphas_bar, x_t), (var * c.sqrt_recip_alphas_bar, score))

    def score_from_x_0(self, x_t: Tensor, t: Steps, x_0: Tensor) -> Tensor:
        """Gradient of log q(x_t | x_0) in x_t: -(x_t - sqrt(alphas_bar) x_0) / (1 - alphas_bar).

        With E[x_0 | x_t] instead of x_0 it is the score of q(x_t).
        """
        c = self.row(t)
        var = c.sqrt_one_minus_alphas_bar**2
        return combine((-1 / var, x_t), (c.sqrt_alphas_bar / var, x_0))

    def describe(self) -> Description:
        """Where the chain ends: alphas_bar_T, terminal SNR, and L_T in bits per dimension where x_0^2 = 1.

        Warns with PriorNotReachedWarning if L_T exceeds 0.01 bits: sampling starts at N(0, I), and this chain's x_T
        has not arrived there.
        """
        a = self.alpha_bar_T
        # KL(N(sqrt(a) x_0, 1 - a) || N(0, 1)) is -log(1 - a) / 2 where x_0^2 = 1.
        bits = max(0.0, -0.5 * self._cpu_tables["log_one_minus_alphas_bar"][-1].item() / math.log(2))
        if bits > 0.01:
            warnings.warn(
                f"the chain of T = {self.T} steps ends at alphas_bar_T = {a:.3g}: x_T still carries up to {bits:.3g} "
                "bits per dimension of the image and is not standard normal; take more steps, larger betas "
                "(schedules.linear_scaled) or schedules.cosine",
                PriorNotReachedWarning,
                stacklevel=2,
            )
        return Description(self.T, a, self._cpu_tables["snr"][-1].item(), bits)

    def _refuse_pure_noise(self, t: Steps) -> None:
        """Only a process that ends at alphas_bar = 0 has to look: elsewhere no value is read back from a GPU."""
        if self.alpha_bar_T > 0:
            return
        erased = self.row(t).alphas_bar == 0  # for an int a bool, which asks no GPU
        nothing_left = t[erased].tolist() if isinstance(t, Tensor) else [t] if erased else []
        if nothing_left:
            raise ValueError(
                f"x_0 cannot be found from eps at t = {nothing_left[0]}: alphas_bar is 0 there and x_t is "
                "the noise itself; predict v or xstart, or take a schedule with alphas_bar_T > 0"
            )

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        if self.base.betas.device != self.betas.device:  # others may use the base where it is: move a copy
            self._base = [copy.deepcopy(self.base)._apply(fn)]
        return self

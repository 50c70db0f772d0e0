"""Exercise 5.3: L_hybrid, one loss for a network that learns its variance."""

import math

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import double, fractions

BIT = math.log(2)  # in nats


def _hybrid_loss(noise, eps, true_mean, true_log_var, mean, log_var, T, lam):
    """Exercise 5.3: L_simple + lam L_vlb, of each image.  Nichol & Dhariwal 2021, Eq. 16.

    noise, eps, true_mean, mean: (B, *D).  true_log_var, log_var: (B, *D), or of a shape that broadcasts to it, as
    (B, 1, ..., 1): log variances of the posterior q and of p.  T: int, the number of steps.  lam: float.
    Returns (B,): the mean over D of (noise - eps)^2, plus lam * T * KL(q || p), the KL in bits per dimension: a mean
    over D, divided by log 2.  t >= 1, so there is no decoder term.
    Gradients flow to eps and log_var, and none to mean: L_simple alone trains the mean.
    """
    losses = []
    for k in range(len(noise)):
        squares = [(a - b) ** 2 for a, b in zip(noise[k].flatten().tolist(), eps[k].flatten().tolist(), strict=True)]
        rows = [table.expand(noise.shape)[k].flatten().tolist() for table in (true_mean, true_log_var, mean, log_var)]
        bits = []
        for m_q, l_q, m_p, l_p in zip(*rows, strict=True):
            nats = 0.5 * (l_p - l_q + math.exp(l_q - l_p) + (m_q - m_p) ** 2 / math.exp(l_p) - 1)
            bits.append(nats / math.log(2))
        losses.append(sum(squares) / len(squares) + lam * T * sum(bits) / len(bits))
    return double(losses)


def _over_D(x: Tensor) -> Tensor:
    return x.flatten(1).mean(1)


def _sum_over_D(x: Tensor) -> Tensor:
    return x.flatten(1).sum(1)


def _both(
    noise: Tensor,
    eps: Tensor,
    true_mean: Tensor,
    true_log_var: Tensor,
    mean: Tensor,
    log_var: Tensor,
    T: int,
    lam: float,
    *,
    held=torch.detach,  # of mean; the next two of eps and of log_var
    predicted=lambda eps: eps,
    chosen=lambda log_var: log_var,
    error=torch.square,
    as_log=lambda log_var: log_var,
    order=lambda q, p: (q, p),
    logarithm=lambda l_q, l_p: l_p - l_q,
    ratio=lambda l_q, l_p: (l_q - l_p).exp(),
    distance=lambda d, l_q, l_p: d**2 * (-l_p).exp(),
    constant=-1.0,
    half=0.5,
    unit=BIT,
    of_simple=_over_D,
    of_bound=_over_D,
    times=lambda T: T,
    weigh=lambda simple, bound, lam: simple + lam * bound,
) -> Tensor:
    simple = of_simple(error(noise.double() - predicted(eps)))
    q, p = (true_mean.double(), as_log(true_log_var)), (held(mean.double()), as_log(chosen(log_var)))
    (m_q, l_q), (m_p, l_p) = order(q, p)
    nats = half * (logarithm(l_q, l_p) + ratio(l_q, l_p) + distance(m_q - m_p, l_q, l_p) + constant)
    return weigh(simple, times(T) * of_bound(nats) / unit, lam)


def _flows(x: Tensor) -> Tensor:
    return x


hybrid_loss = Check(
    number="5.3",
    name="hybrid_loss",
    specification=_hybrid_loss,
    form=_both,
    batch=("noise", "eps", "true_mean", "mean"),
    gradients=("eps", "log_var"),
    stopped=("mean",),
    cases=tuple(
        Case(
            f"noise of shape {shape}, true_log_var of shape {wide}, T = {T}, lam = {lam}",
            (
                2 * fractions(*shape),
                fractions(*shape, start=11),
                fractions(*shape, start=29),
                2 * fractions(*wide, start=5) - 1,
                fractions(*shape, start=40) / 2,
                2 * fractions(*(shape if learned else wide), start=17) - 1,
                T,
                lam,
            ),
        )
        for shape, wide, learned, T, lam in [
            ((4, 1, 8, 8), (4, 1, 1, 1), True, 1000, 0.001),
            ((3, 2), (3, 1), True, 10, 0.5),
            ((4, 3, 4, 4), (4, 3, 4, 4), True, 4000, 0.001),
            ((2, 3, 2, 4, 4), (2, 1, 1, 1, 1), False, 20, 0.125),
            ((1, 5), (1, 5), True, 2, 0.25),
            ((3, 4), (3, 1), True, 10, 0.0),
        ]
    ),
    among="points, a video, B = 1 and lam = 0",
    cuts={
        "A gradient flows through mean. The bound is to train the variance only: through its mean it would weigh "
        "the steps in its own way. Take mean.detach() in the KL.": dict(held=_flows),
        "You stopped the gradient at log_var, and not at mean. It is the other way round: mean.detach().": dict(
            held=_flows, chosen=torch.detach
        ),
        "You stopped the gradient of the whole bound: then nothing trains the variance. Only mean is detached.": dict(
            chosen=torch.detach
        ),
        "You stopped the gradient at eps, and not at mean. eps is what L_simple trains: only mean is detached.": dict(
            predicted=torch.detach, held=_flows
        ),
        "You stopped the gradient at eps as well. It is what L_simple trains: only mean is detached.": dict(
            predicted=torch.detach
        ),
        "You detached the whole distance of the means, and log_var with it. It is divided by p's variance, which "
        "learns from it: detach mean alone.": dict(distance=lambda d, l_q, l_p: (d**2 * (-l_p).exp()).detach()),
        "No gradient flows through your result: you detached it, or ran under no_grad.": dict(give=torch.detach),
    },
    misconceptions={
        "You forgot the factor T. The KL of one t is a T-th of the bound<: lam is then T times too small>.": dict(
            times=lambda T: 1
        ),
        "You divided the KL by T. The bound is the sum over all t, of which this is one: multiply by T.": dict(
            times=lambda T: 1 / T
        ),
        "lam stands at L_simple. It belongs to the bound, which is to be the small part.": dict(
            weigh=lambda simple, bound, lam: lam * simple + bound
        ),
        "lam multiplies both parts. It belongs to the bound alone.": dict(
            weigh=lambda simple, bound, lam: lam * (simple + bound)
        ),
        "You forgot lam. It is the weight of the bound.": dict(weigh=lambda simple, bound, lam: simple + bound),
        "You return L_simple alone: the bound is missing, lam * T * KL.": dict(weigh=lambda simple, bound, lam: simple),
        "You return the bound alone: L_simple is missing, the mean of (noise - eps)^2.": dict(
            weigh=lambda simple, bound, lam: lam * bound
        ),
        "You subtracted the bound. Both parts are minimised: add it.": dict(
            weigh=lambda simple, bound, lam: simple - lam * bound
        ),
        "Your KL is in nats. Bits per dimension are asked for: divide it by log 2.": dict(unit=1.0),
        "You multiplied the KL by log 2. A bit is log 2 nats: divide.": dict(unit=1 / BIT),
        "You summed over D, in both parts. Means are asked for: bits per dimension, and the error of one "
        "coordinate.": dict(of_simple=_sum_over_D, of_bound=_sum_over_D),
        "You summed the squared error over D. Its mean is asked for.": dict(of_simple=_sum_over_D),
        "You summed the KL over D. Bits per dimension are a mean.": dict(of_bound=_sum_over_D),
        "You return the mean over the batch, one number. A loss for each image is asked for: who draws t needs "
        "it.": dict(give=torch.mean),
        "You return the sum over the batch, one number. A loss for each image is asked for.": dict(give=torch.sum),
        "Your squared error is the mean over the whole batch. Take it over D alone: each image has its own.": dict(
            of_simple=torch.mean
        ),
        "Your KL is the mean over the whole batch. Take it over D alone: each image has its own.": dict(
            of_bound=torch.mean
        ),
        "You return a number for each coordinate. Take the mean over D: one loss for each image.": dict(
            of_simple=_flows, of_bound=_flows
        ),
        "Your KL has its arguments exchanged: that is KL(p || q). The bound holds KL(true || p).": dict(
            order=lambda q, p: (p, q)
        ),
        "You forgot the factor 1/2 of the KL.": dict(half=1.0),
        "You forgot the - 1 of the KL. Two equal Gaussians are 0 apart.": dict(constant=0.0),
        "The logarithm in your KL has the wrong sign: it is log_var - true_log_var.": dict(
            logarithm=lambda l_q, l_p: l_q - l_p
        ),
        "The ratio of variances in your KL is upside down: exp(true_log_var - log_var).": dict(
            ratio=lambda l_q, l_p: (l_p - l_q).exp()
        ),
        "You divided the squared distance of the means by the true variance. How far is far is said by p's: "
        "exp(log_var).": dict(distance=lambda d, l_q, l_p: d**2 * (-l_q).exp()),
        "You did not divide the squared distance of the means: by p's variance, exp(log_var).": dict(
            distance=lambda d, l_q, l_p: d**2
        ),
        "You divided the squared distance of the means by log_var. A variance is exp(log_var).": dict(
            distance=lambda d, l_q, l_p: d**2 / l_p
        ),
        "Your KL lacks the distance of the means. The mean is held fixed, but it counts: the variance learns how far "
        "off it is.": dict(distance=lambda d, l_q, l_p: 0 * d),
        "You took the absolute distance of the means. It is squared.": dict(
            distance=lambda d, l_q, l_p: d.abs() * (-l_p).exp()
        ),
        "You took log_var for the logarithm of a standard deviation and doubled it. It is that of a variance.": dict(
            as_log=lambda log_var: 2 * log_var
        ),
        "You halved the squared error. L_simple has no factor.": dict(error=lambda error: error**2 / 2),
        "You took the absolute error of eps. L_simple squares it.": dict(error=torch.abs),
    },
)

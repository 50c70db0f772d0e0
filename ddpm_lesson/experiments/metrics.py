"""How good samples are: distances and shares in a given feature space, each with its interval and sample count.

No score means anything alone. It belongs to a feature space, a reference and a number of samples, and stands beside
the same score of held-out real images. Intervals are for another draw of the samples; the reference is held fixed.
"""

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from ddpm_lesson._tensors import home
from ddpm_lesson.doors import check_images

ROWS = 256  # of a matrix of distances, in memory at once
EXACT = "donot_use_mm_for_euclid_dist"  # equal points are at distance 0
GROUPS, PARTS = 20, 10  # of the jackknife, and of the Inception score
# 97.5 % of Student's t with GROUPS - 1 and with PARTS - 1 degrees of freedom, and of the normal
T_QUANTILE, T_QUANTILE_PARTS, Z_QUANTILE = 2.093, 2.262, 1.960

Interval = tuple[float, float, float]  # value, and the ends of its 95 % interval


class Score(NamedTuple):
    """A number, its 95 % interval, and all that it depends on; str(score) says everything.

    n: number of samples. features: the space that it was computed in. seed: of the samples; the groups of the
    jackknife were drawn with it too. n_reference: number of real images, None where they play no part.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    features: str
    seed: int
    n_reference: int | None = None

    def __str__(self) -> str:
        samples = f"{self.n} samples" + ("" if self.n_reference is None else f" against {self.n_reference}")
        interval = "(no interval)" if math.isnan(self.low) else f"(95 %: {self.low:.4g}..{self.high:.4g})"
        return f"{self.name} {self.value:.4g} {interval}, {samples}, features {self.features}, seed {self.seed}"


def mean_interval(values: Tensor) -> Interval:
    """The mean of independent values (N,), -+ 1.96 standard errors; of a single value the ends are nan."""
    error = values.double().std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    mean, half = values.double().mean().item(), Z_QUANTILE * error
    return mean, mean - half, mean + half


def share_interval(hits: Tensor) -> Interval:
    """The share of hits (N,) bool, and Wilson's interval (1927), which has a width for 0 and 1 too."""
    n, z2, share = len(hits), Z_QUANTILE**2, hits.double().mean().item()
    centre, half = share + z2 / (2 * n), Z_QUANTILE * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low, high = ((centre + sign * half) / (1 + z2 / n) for sign in (-1, 1))
    return share, max(0.0, min(low, share)), min(1.0, max(high, share))  # 0 and 1 are ends, but for rounding


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean (F,) and covariance (F, F) of features, float64, and how many samples they come from."""

    mean: Tensor
    covariance: Tensor
    count: int

    @cached_property
    def root(self) -> Tensor:
        """R with covariance = R R^T, (F, rank): of fewer samples than features the rank is one less than those."""
        values, vectors = torch.linalg.eigh(self.covariance)
        null = max(0, len(values) - self.count + 1)  # eigenvalues 0 but for rounding, the first ones
        return (vectors * values.clamp(min=0).sqrt())[:, null:]


def moments(features: Tensor) -> Moments:
    """Mean and unbiased covariance of features (N, F).  ValueError if N < 2 or a feature is not finite."""
    features = as_double("features", features)
    if len(features) < 2:
        raise ValueError(f"a covariance needs at least 2 samples, got features of shape {tuple(features.shape)}")
    mean = features.mean(0)
    return Moments(mean, (features - mean).T @ (features - mean) / (len(features) - 1), len(features))


def frechet_distance(a: Tensor | Moments, b: Tensor | Moments) -> float:
    """|mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)).  Heusel et al. 2017 (arXiv 1706.08500), Eq. 6.

    a, b: features (N, F), or their `moments`. It is the squared 2-Wasserstein distance of the Gaussians with these
    moments: symmetric, at least 0, and 0 only if they agree. Two sets of one origin have a distance above 0, by about
    c / N, where c grows with F: compare distances of one N only. Warns if N <= F: the covariance is then singular.
    The two may lie on different devices: it is computed on that of a.
    Raises ValueError for features that are not finite, N < 2, or another F.
    Not "the FID": that has the features of `experiments.features.inception_features` and mostly N = 50,000.
    """
    a, b = (part if isinstance(part, Moments) else moments(part) for part in (a, b))
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"both must have the same number of features, got {len(a.mean)} and {len(b.mean)}")
    if min(a.count, b.count) <= len(a.mean):
        few = f"the covariance of {len(a.mean)} features needs more than {len(a.mean)} samples"
        warnings.warn(f"{few}: the distance is far too large, comparable only at the same count", stacklevel=2)
    mean_b, covariance_b, root_b = (part.to(a.mean.device) for part in (b.mean, b.covariance, b.root))
    # C = R R^T for either; tr (C_a C_b)^(1/2) is the sum of the singular values of R_a^T R_b, singular C or not.
    cross = torch.linalg.svdvals(a.root.T @ root_b).sum()
    squared = (a.mean - mean_b).square().sum() + (a.covariance + covariance_b).trace() - 2 * cross
    return max(0.0, squared.item())


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Share of the fakes among the real, and of the real among the fakes.  Kynkaanniemi et al. 2019 (1904.06991).

    real: features (N, F). fake: (M, F). A point is among a set if it lies in the ball around one of its points, whose
    radius is that point's distance to its k-th nearest other.
    Precision falls if samples look unlike data; recall falls if a part of the data is never sampled.
    Raises ValueError for features that are not finite, or unless 1 <= k < N, M.
    """
    precision, recall = among(fake, real, radii_of(real, k)), among(real, fake, radii_of(fake, k))
    return precision.double().mean().item(), recall.double().mean().item()


def nearest_neighbours(images: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest reference image of each image: root mean squared difference of their pixels (N,), and index (N,).

    images: (N, *D). reference: (M, *D), M >= 1. A copy is at 0; how near is too near, held-out real images tell.
    Raises ValueError if the shapes differ or a value is not finite.
    """
    if images.shape[1:] != reference.shape[1:] or len(reference) == 0:
        raise ValueError(f"expected (N, *D) and (M, *D), got {tuple(images.shape)} and {tuple(reference.shape)}")
    images, reference = as_double("images", images.flatten(1)), as_double("reference", reference.flatten(1))
    indices = torch.cat([torch.cdist(rows, reference).argmin(1) for rows in images.split(ROWS)])
    return (images - reference[indices]).square().mean(1).sqrt(), indices  # exact, where cdist's are rounded


def confidence(logits: Tensor) -> tuple[Interval, Interval]:
    """Mean of the largest probability, and share of images where it is above 0.9.  logits: (N, classes).

    No measure of quality alone: a classifier can be confident of images that are no digits at all.
    """
    top = as_double("logits", logits).softmax(1).amax(1)
    mean, low, high = mean_interval(top)
    return (mean, low, min(1.0, high)), share_interval(top > 0.9)


def inception_score(logits: Tensor) -> float:
    """exp of the mean of KL(p(y | x) || p(y)), from 1 to the number of classes.  Salimans et al. 2016 (1606.03498).

    logits: (N, classes); p(y) is the mean over these images. High if each image has a class and the classes are even.
    It sees no real images: one sharp image for each class, copied, has the best score there is.
    Published values have the logits of Inception, 1,000 classes, and are means over ten parts of the images.
    Raises ValueError for logits that are not finite.
    """
    log_p = as_double("logits", logits).log_softmax(1)
    log_marginal = log_p.logsumexp(0) - math.log(len(log_p))
    return (log_p.exp() * (log_p - log_marginal)).sum(1).mean().exp().item()


def inception_score_interval(logits: Tensor, generator: Generator | None = None) -> Interval:
    """Mean of the `inception_score` of ten random parts, as it is published, and the 95 % interval of such a mean.

    logits: (N, classes), N >= 20. Each part's score is biased towards 1: compare scores of one N only.
    """
    if len(logits) < 2 * PARTS:
        raise ValueError(f"an Inception score needs at least {2 * PARTS} images, got {len(logits)}")
    order = torch.randperm(len(logits), generator=generator, device=home(generator)).to(logits.device)
    parts = logits[order].tensor_split(PARTS)
    scores = torch.tensor([inception_score(part) for part in parts], dtype=torch.float64)
    mean, half = scores.mean().item(), T_QUANTILE_PARTS * scores.std().item() / math.sqrt(PARTS)
    return mean, max(1.0, mean - half), mean + half


def class_histogram(classes: Tensor, num_classes: int) -> Tensor:
    """Share of each class, (num_classes,) float64.  classes: (N,) int64, such as logits.argmax(1)."""
    return torch.bincount(classes, minlength=num_classes).double() / len(classes)


def total_variation(p: Tensor, q: Tensor) -> float:
    """Half the sum of |p - q| of two histograms: the share that would have to change class to turn p into q."""
    return 0.5 * (p - q).abs().sum().item()


def conditional_accuracy(logits: Tensor, labels: Tensor) -> Interval:
    """Share of images that the classifier takes for what was asked for.  logits: (N, classes). labels: (N,)."""
    if logits.shape[:1] != labels.shape:
        raise ValueError(f"expected a label for each image, got {tuple(labels.shape)} for {tuple(logits.shape)}")
    return share_interval(logits.argmax(1) == labels.to(logits.device))


def left_out(n: int, generator: Generator | None = None) -> Tensor:
    """(21, n) bool: nothing, then 20 random groups that make up n samples.  ValueError if n < 20.

    It lies where the generator draws, without one on the CPU.
    """
    if n < GROUPS:
        raise ValueError(f"an interval needs at least {GROUPS} samples, got {n}")
    group = torch.randperm(n, generator=generator, device=home(generator)) % GROUPS
    return group == torch.arange(-1, GROUPS, device=group.device)[:, None]


def jackknife_interval(values: list[float], highest: float = math.inf) -> Interval:
    """A statistic and its interval, cut to 0..highest.  Delete-a-group jackknife; Shao & Tu 1995.

    values: the statistic of all samples, then without each group of `left_out`.
    The interval is for the statistic's mean over draws of *this many* samples: the Frechet distance's bias stays in.
    Not a bootstrap: drawing with replacement repeats samples, and adds that bias a second time.
    """
    value, *without = values
    half = T_QUANTILE * math.sqrt((GROUPS - 1) * torch.tensor(without).double().var(correction=0).item())
    return value, max(0.0, value - half), min(highest, value + half)


def radii_of(centres: Tensor, k: int = 3, gone: Tensor | None = None, progress: str = "") -> Tensor:
    """Distance of each of centres (M, F) to its k-th nearest other, (1, M); with gone (G, M), a row without each.

    progress: the name of a bar, "" for none.
    """
    centres = as_double("features", centres)
    if not 1 <= k < len(centres):
        raise ValueError(f"k must lie in 1..{len(centres) - 1} for {len(centres)} samples, got {k}")
    gone = centres.new_zeros(1, len(centres), dtype=torch.bool) if gone is None else gone.to(centres.device)
    radii = []
    for first, rows in enumerate(in_parts(centres, progress)):
        distance = torch.cdist(rows, centres)  # by a matrix product: quick, and good enough to find the nearest
        distance[:, first * ROWS :].fill_diagonal_(math.inf)
        near = [centres[distance.masked_fill(g, math.inf).topk(k, largest=False).indices] for g in gone]  # (R, k, F)
        radii.append(torch.stack([torch.cdist(rows[:, None], x, compute_mode=EXACT).amax((1, 2)) for x in near]))
    return torch.cat(radii, 1).masked_fill(gone, -1)  # (G, M); nothing is within -1


def among(points: Tensor, centres: Tensor, radii: Tensor) -> Tensor:
    """Which of points (N, F) lie in a ball around one of centres (M, F), (G, N) bool, for radii (G, M)."""
    points, centres = as_double("features", points), as_double("features", centres)
    found = []
    for rows in points.split(ROWS):
        distance = torch.cdist(rows, centres, compute_mode=EXACT)
        found.append(torch.stack([(distance <= radius).any(1) for radius in radii]))
    return torch.cat(found, 1)


def in_parts(x: Tensor, progress: str = "") -> Iterable[Tensor]:
    """x (N, ...) in parts of ROWS, beside a bar of that name with the time left if it has one."""
    if not progress:
        return x.split(ROWS)
    from tqdm.auto import tqdm

    return tqdm(x.split(ROWS), desc=progress)


def check_in_range(name: str, images: Tensor) -> None:
    """Raise ValueError for images with a value outside of [-1, 1]; warn (ImageRangeWarning) if all lie in [0, 1]."""
    if not (images.abs() <= 1).all():
        raise ValueError(f"{name} must lie in [-1, 1], got values from {images.min()} to {images.max()}")
    check_images(images, name=name, stacklevel=3)


def as_double(name: str, x: Tensor) -> Tensor:
    """(N, F) as float64, on the CPU where the device has none (Apple's MPS)."""
    if x.ndim != 2 or not x.isfinite().all():
        raise ValueError(f"{name} must be (N, F), all finite; got {(~x.isfinite()).sum()} NaN or inf in {(*x.shape,)}")
    return (x.cpu() if x.device.type == "mps" else x).double()

"""Every score of a trained network in one call: what `python -m ddpm_lesson evaluate` prints."""

import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from ddpm_lesson._tensors import Share
from ddpm_lesson.bound import Bits, bits_per_dim, discretized
from ddpm_lesson.data import Images
from ddpm_lesson.experiments import drawing, metrics
from ddpm_lesson.experiments.conditions import made_small, of_sampling
from ddpm_lesson.experiments.distributed import rows
from ddpm_lesson.experiments.features import Inception, Pixels, seen
from ddpm_lesson.experiments.metrics import Interval, Moments, Score
from ddpm_lesson.experiments.pretrained import BLOCK, PretrainedDiffusion
from ddpm_lesson.experiments.sampling import Sampling
from ddpm_lesson.networks.classifier import Classifier
from ddpm_lesson.variants.super_resolution import low_res, upsampled

Network = Classifier | Inception | Pixels
DISTANCES = ("Frechet distance", "Spatial Frechet distance")


class Reference(NamedTuple):
    """Real images and what `evaluate` needs of them: for MNIST's 60,000 it takes minutes, once.

    images: (M, C, H, W). features: (M, F). radii: (1, M), the distance of each to its third nearest other.
    moments: of the features. histogram: (classes,), share of each predicted class, None where there are no classes.
    spatial: moments of the spatial features, None where there are none.
    """

    images: Tensor
    features: Tensor
    radii: Tensor
    moments: Moments
    histogram: Tensor | None
    spatial: Moments | None = None


def reference_of(images: Tensor, classifier: Network, *, progress: bool = False) -> Reference:
    """Real images (M, C, H, W) in [-1, 1] as a clean `Classifier` sees them.  ValueError for values outside.

    classifier: or another network, as for `evaluate`. progress: show bars.
    """
    metrics.check_in_range("reference", images)
    found = seen(classifier, images, "real images" if progress else "")
    classes = found.logits.argmax(1).cpu() if found.logits.shape[1] else None
    histogram = None if classes is None else metrics.class_histogram(classes, found.logits.shape[1])
    radii = metrics.radii_of(found.features, progress="their neighbours" if progress else "")
    spatial = None if found.spatial is None else metrics.moments(found.spatial)
    return Reference(images, found.features, radii, metrics.moments(found.features), histogram, spatial)


def evaluate(
    samples: Tensor,
    reference: Tensor | Reference,
    classifier: Network,
    features: str,
    *,
    seed: int,
    labels: Tensor | None = None,
) -> dict[str, Score]:
    """Every score of samples against real images, by name.

    samples: (N, C, H, W), N >= 20, and reference: (M, C, H, W), in [-1, 1], or their `reference_of` by the same
    classifier, to use them more than once. classifier: a clean `Classifier`, or `Inception` or `Pixels`, which know
    nothing of the data's classes; features: the name to print for it.
    seed: the samples were drawn with it. labels: (N,), the classes asked for.
    Spatial Frechet distance: in `features.seen`'s spatial features. Inception score: see there; of any classifier.
    Class imbalance: `total_variation` between the predicted classes of samples and reference. Nearest real distance:
    mean of `nearest_neighbours`; copies of the reference are nearer to it than held-out images.
    Raises ValueError for fewer samples, other shapes, and values outside of [-1, 1].
    """
    metrics.check_in_range("samples", samples)
    real = reference if isinstance(reference, Reference) else reference_of(reference, classifier)
    gone = metrics.left_out(len(samples), Generator().manual_seed(seed))
    fake, logits, spatial = seen(classifier, samples)
    frechet = [metrics.frechet_distance(fake[~group.to(fake.device)], real.moments) for group in gone]
    recall = metrics.among(real.features, fake, metrics.radii_of(fake, gone=gone)).double().mean(1).tolist()
    nearest, _ = metrics.nearest_neighbours(samples, real.images.to(samples))

    def score(name: str, interval: Interval, space: str = features, against: int | None = len(real.images)) -> Score:
        return Score(name, *interval, len(samples), space, seed, against)

    distance, spatial_distance = getattr(classifier, "distances", DISTANCES)
    scores = [
        score(distance, metrics.jackknife_interval(frechet)),
        score("Precision", metrics.share_interval(metrics.among(fake, real.features, real.radii)[0])),
        score("Recall", metrics.jackknife_interval(recall, 1.0)),
    ]
    if getattr(classifier, "own_classes", True) and real.histogram is not None:
        classes, num_classes = logits.argmax(1).cpu(), logits.shape[1]
        shares = [metrics.class_histogram(classes[~group], num_classes) for group in gone]
        imbalance = [metrics.total_variation(share, real.histogram) for share in shares]
        scores += [
            score("Confidence", metrics.confidence(logits)[0], against=None),
            score("Confidence above 0.9", metrics.confidence(logits)[1], against=None),
            score("Class imbalance", metrics.jackknife_interval(imbalance, 1.0)),
        ]
    scores.append(score("Nearest real distance", metrics.mean_interval(nearest), "pixels"))
    if spatial is not None and real.spatial is not None:
        parts = [spatial[~group.to(spatial.device)] for group in gone]
        with warnings.catch_warnings():  # that of the first distance says it
            warnings.filterwarnings("ignore", message=".*needs more than.*samples")
            values = [metrics.frechet_distance(part, real.spatial) for part in parts]
        scores.append(score(spatial_distance, metrics.jackknife_interval(values)))
    if logits.shape[1]:
        interval = metrics.inception_score_interval(logits, Generator().manual_seed(seed))
        scores.append(score("Inception score", interval, against=None))
    if labels is not None and getattr(classifier, "own_classes", True):
        scores.append(score("Conditional accuracy", metrics.conditional_accuracy(logits, labels), against=None))
    return {score.name: score for score in scores}


def bits_score(bits: Bits, seed: int) -> Score:
    """What `bound.bits_per_dim` found on test images, as a Score.  bits.prior and bits.terms split it by t.

    seed: of the noise; the interval is over images and their noise.
    """
    half, space = metrics.Z_QUANTILE * bits.standard_error, f"bound of {len(bits.terms)} steps"
    return Score("Bits/dim", bits.total, bits.total - half, bits.total + half, len(bits.priors), space, seed)


@dataclass(frozen=True)
class Space:
    """What scores are relative to.

    classifier: a clean one, or `Inception` or `Pixels`. features: its name. reference: the training images as it sees
    them. held_out: others.
    """

    classifier: Network
    features: str
    reference: Reference
    held_out: Images


def scores(
    trained: PretrainedDiffusion,
    space: Space,
    n: int,
    sampling: Sampling,
    *,
    bits_images: int = 0,
    batch_size: int = BLOCK,
    progress: bool = False,
) -> dict[str, Score]:
    """Draw n images, every class in turn, and score them by `evaluate`; then the bound on images held out.

    A network that enlarges images draws those of n images held out, made small, and has the scores of `enlarged`.
    bits_images: how many of them for bits/dim, which asks the network T times for each; 0 for none. batch_size: of the
    images drawn, fewer where memory ends. progress: show bars.
    """
    given: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
    if trained.recipe.condition == "low_res":
        x_0, labels = space.held_out[some(space.held_out, n, sampling.seed)]
        y = labels if trained.recipe.conditional else None
        images = drawing.sample(trained, n, sampling, y=y, cond=made_small(trained.recipe, x_0), **given)
        found = enlarged(images, x_0, labels, space, trained.recipe.low_res_factor, seed=sampling.seed)
    else:
        y = trained.labels(n)
        images = drawing.sample(trained, n, sampling, y=y, **given)
        found = evaluate(images, space.reference, space.classifier, space.features, labels=y, seed=sampling.seed)
    if bits_images:
        x_0, y = space.held_out[some(space.held_out, bits_images, sampling.seed)]
        score = bits_score(bits_of(trained, x_0, y, seed=sampling.seed, progress=progress), sampling.seed)
        found[score.name] = score
    return found


def enlarged(images: Tensor, x_0: Tensor, labels: Tensor, space: Space, factor: int, *, seed: int) -> dict[str, Score]:
    """The scores of `evaluate` for enlarged images, and how far they are from what was made small.

    images, x_0: (N, C, H, W), enlarged and original. labels: (N,), the originals' classes.
    Mean squared error: of the pixels. An average of all images that fit is nearer than any one of them: it does not
    tell how real the images are. Small image's error: the same after both are made small by `factor`.
    """
    found = evaluate(images, space.reference, space.classifier, space.features, labels=labels, seed=seed)
    pairs = {
        "Mean squared error": (images, x_0.to(images)),
        "Small image's error": (low_res(images, factor), low_res(x_0.to(images), factor)),
    }
    for name, (a, b) in pairs.items():
        mean, low, high = metrics.mean_interval((a - b).square().flatten(1).mean(1))
        found[name] = Score(name, mean, max(0.0, low), high, len(images), "pixels", seed)
    return found


def bilinear(space: Space, n: int, factor: int, *, seed: int = 0) -> dict[str, Score]:
    """The scores of bilinear enlargement of the same small images: what a network has to beat."""
    x_0, labels = space.held_out[some(space.held_out, n, seed)]
    images = upsampled(low_res(x_0, factor), (x_0.shape[2], x_0.shape[3])).clamp(-1, 1)  # but for rounding
    return enlarged(images, x_0, labels, space, factor, seed=seed)


def bits_of(trained: PretrainedDiffusion, x_0: Tensor, y: Tensor, *, seed: int = 0, progress: bool = False) -> Bits:
    """The bound of a trained network on images (B, C, H, W) and, if it knows labels, on their labels (B,).

    Of a network that enlarges images: the bound on -log p(x_0 | x_0 made small).
    Raises ValueError for a network with self-conditioning.
    """
    if trained.recipe.condition == "previous":
        told = "each step is told the estimate of the step before, and the bound's terms are drawn one by one"
        raise ValueError(f"there are no bits/dim of a network with self-conditioning: {told}")
    parts = drawing.split(trained, _bits_of, x_0=x_0, y=y, seed=seed, progress=progress)
    there = [part for part in parts if part is not None]
    priors, terms, mse = (torch.cat(column, -1) for column in zip(*there, strict=True))
    return Bits(priors, terms, mse)


def _bits_of(
    trained: PretrainedDiffusion, number: int, of: int, x_0: Tensor, y: Tensor, seed: int, progress: bool
) -> Bits | None:
    """The same of the images of part `number`; None if it has none."""
    share = Share(len(x_0), rows(len(x_0), number, of), Generator().manual_seed(seed).get_state())
    x_0, y = x_0[share.rows], y[share.rows]
    if not len(x_0):
        return None
    conditions: dict[str, Any] = {"y": y.to(trained.device)} if trained.recipe.conditional else {}
    conditions |= of_sampling(trained.recipe, trained.shape, made_small(trained.recipe, x_0.to(trained.device)))
    chain = trained.model, trained.process, trained.mean_type, trained.variance
    shown = progress and number == 0
    x_0, decoder = x_0.to(trained.device), discretized(trained.levels)
    return bits_per_dim(*chain, x_0, decoder=decoder, generator=share, progress=shown, **conditions)


def anchor(space: Space, n: int, *, seed: int = 0) -> dict[str, Score]:
    """The scores of n real images that were held out: what a network without fault would reach with n samples."""
    images, labels = space.held_out[some(space.held_out, n, seed)]
    return evaluate(images, space.reference, space.classifier, space.features, labels=labels, seed=seed)


def some(images: Images, n: int, seed: int) -> Tensor:
    """Indices of n images, drawn without repetition.  ValueError if there are fewer."""
    if not 1 <= n <= len(images):
        raise ValueError(f"there are {len(images)} images held out, expected 1..{len(images)}, got {n}")
    return torch.randperm(len(images), generator=Generator().manual_seed(seed), device="cpu")[:n]

"""What the course's capstone measures of a generator: what it asked the network, and how good its digits are."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from torch import Tensor

from ddpm_lesson.checks._run import plain

N = 500  # images that are scored
FEW = 20  # images that are drawn more than once
PIXEL = 1e-4  # what rounding may add to [-1, 1]
LITTLE = 0.05  # what a sampler's last step may add where every estimate was clipped


class TooMany(Exception):
    """The network was asked far more often than is allowed."""


class Asked:
    """What a network is asked while a generator runs: counts images, however they are put into batches.

    most: evaluations per image after which the network raises TooMany, for n images.
    images: evaluations, counted by image. steps: the values of t. labels: evaluations with a label; without: the rest.
    """

    def __init__(self, n: int, most: float):
        self.n, self.most = n, most
        self.images = self.labels = self.without = 0
        self.steps: set[int] = set()

    @property
    def per_image(self) -> float:
        return self.images / self.n

    def watch(self, model, args: tuple, kwargs: dict[str, Any]) -> None:
        """A forward pre-hook of the network."""
        named = dict(zip(("x_t", "t", "y"), args, strict=False)) | kwargs
        size = len(next(iter(named.values())))
        self.images += size
        if named.get("y") is None:
            self.without += size
        else:
            self.labels += size
        if isinstance(named.get("t"), Tensor):
            self.steps |= set(named["t"].unique().tolist())
        if self.per_image > self.most:
            raise TooMany


class Quality(NamedTuple):
    """Scores of N images as `digits_classifier` sees them.

    precision: share of them among the real digits. recall: share of the real digits among them. shares: (10,), of each
    predicted class.
    """

    precision: float
    recall: float
    shares: list[float]


def drawn(generate: Callable, digits, n: int, seed: int, most: float) -> tuple[Any, Asked]:
    """What the generator returns for n images, and what it asked; lets whatever it raises pass."""
    asked = Asked(n, most)
    hook = digits.model.register_forward_pre_hook(asked.watch, with_kwargs=True)
    try:
        images = generate(digits, n, seed)
        return plain(images) if isinstance(images, Tensor) else images, asked
    finally:
        hook.remove()


def misfit(images: Any, n: int) -> str:
    """What keeps the returned value from being n digits, in words; "" if nothing does."""
    if images is None:
        return "your function returns None: did you forget return?"
    if not isinstance(images, Tensor):
        more = ": take the last state's x_t, as samplers.last does" if hasattr(images, "__next__") else ""
        return f"expected a tensor, got {type(images).__name__}{more}"
    if images.shape != (n, 1, 8, 8):
        return f"expected images of shape ({n}, 1, 8, 8), got {tuple(images.shape)}"
    if not images.is_floating_point() or not images.isfinite().all():
        return "expected finite numbers" if images.is_floating_point() else f"expected floats, got {images.dtype}"
    if (largest := images.abs().max().item()) > 1 + PIXEL:
        start = f"expected pixels in [-1, 1], got some of size {_above_1(largest)}. "
        if largest > 1 + LITTLE:
            return start + "Was the estimated x_0 clipped at every step, as digits.denoiser does?"
        start += "That can happen where the estimated x_0 is clipped at every step: the sampler's last step, or its "
        return start + "rounding, may still leave the range by a little. Clamp what you return: x.clamp(-1, 1)"
    return ""


def _above_1(size: float) -> str:
    """With as many digits as tell it from 1, two at least."""
    digits = next((n for n in range(2, 9) if float(f"{size:.{n}g}") > 1), 9)
    return f"{size:.0f}" if size >= 100 else f"{size:.{digits}g}"


@lru_cache(maxsize=1)
def _real():
    """The classifier, the features of the real digits that the network learned from, and each one's radius."""
    from ddpm_lesson.data import digits
    from ddpm_lesson.experiments.features import classified
    from ddpm_lesson.experiments.metrics import radii_of
    from ddpm_lesson.experiments.pretrained import load_pretrained

    classifier = load_pretrained("digits_classifier").model
    features, _ = classified(classifier, digits("train").x_0)
    return classifier, features, radii_of(features)


def quality(images: Tensor) -> Quality:
    """The scores of images in [-1, 1], (N, 1, 8, 8).  Kynkaanniemi et al. 2019, in the classifier's features."""
    from ddpm_lesson.experiments.features import classified
    from ddpm_lesson.experiments.metrics import among, class_histogram, radii_of

    classifier, real, radii = _real()
    fake, logits = classified(classifier, images.detach().float().cpu().clamp(-1, 1))
    precision, recall = among(fake, real, radii), among(real, fake, radii_of(fake))
    shares = class_histogram(logits.argmax(1), logits.shape[1])
    return Quality(precision.double().mean().item(), recall.double().mean().item(), shares.tolist())

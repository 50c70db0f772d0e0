"""Every score of a trained network in one call: what `python -m ddpm_lesson evaluate` prints."""

from pathlib import Path

import torch
from torch import Generator, Tensor

from ddpm_lesson.bound import bits_per_dim, discretized
from ddpm_lesson.checkpoints import CheckpointError, load_tensors, save_tensors, sha256
from ddpm_lesson.data import Images, bundled
from ddpm_lesson.metrics import Moments, Reference, Score, bits_score, classified, evaluate, moments
from ddpm_lesson.pretrained import Pretrained, load_weights
from ddpm_lesson.samplers import last


def draw(
    trained: Pretrained,
    n: int,
    *,
    guidance: float = 1.0,
    steps: str | None = None,
    eta: float | None = None,
    seed: int = 0,
    batch_size: int = 250,
) -> tuple[Tensor, Tensor | None]:
    """n images (n, C, H, W) on the CPU and, from a network with classes, the labels asked for: every class in turn.

    guidance, steps, eta: as in `Pretrained.sample`. The images follow from seed and batch_size.
    """
    generator, device = Generator().manual_seed(seed), trained.process.betas.device
    labels = torch.arange(n) % len(trained.classes) if trained.model.options["num_classes"] is not None else None
    images = []
    for first in range(0, n, batch_size):
        y = None if labels is None else labels[first : first + batch_size].to(device)
        size = min(batch_size, n - first)
        states = trained.sample(size, y=y, guidance=guidance, steps=steps, eta=eta, generator=generator)
        images.append(last(states).cpu())
    return torch.cat(images), labels


def scores(
    trained: Pretrained,
    classifier: Pretrained,
    features: str,
    reference: Reference,
    held_out: Images,
    *,
    n: int,
    guidance: float = 1.0,
    steps: str | None = None,
    eta: float | None = None,
    seed: int = 0,
    bits_images: int = 0,
) -> dict[str, Score]:
    """Draw n images and score them by `metrics.evaluate`; then the bound on images held out.

    classifier: a clean one, features: its name, reference: the training images as it sees them. bits_images: how many
    of `held_out` for bits/dim, which asks the network T times for each; 0 for none. The others: as in `draw`.
    """
    images, labels = draw(trained, n, guidance=guidance, steps=steps, eta=eta, seed=seed)
    found = evaluate(images, reference, classifier.model, features, labels=labels, seed=seed)
    if bits_images:
        x_0, y = held_out[some(held_out, bits_images, seed)]
        bits = bits_per_dim(
            *(
                trained.model,
                trained.process,
                trained.mean_type,
                trained.variance,
                x_0.to(trained.process.betas.device),
            ),
            cond=None if labels is None else y.to(trained.process.betas.device),
            decoder=discretized(trained.levels),
            generator=Generator().manual_seed(seed),
        )
        score = bits_score(bits, len(x_0), seed)
        found[score.name] = score
    return found


def anchor(
    classifier: Pretrained, features: str, reference: Reference, held_out: Images, *, n: int, seed: int = 0
) -> dict[str, Score]:
    """The scores of n real images that were held out: what a network without fault would reach with n samples."""
    images, labels = held_out[some(held_out, n, seed)]
    return evaluate(images, reference, classifier.model, features, labels=labels, seed=seed)


def some(images: Images, n: int, seed: int) -> Tensor:
    """Indices of n images, drawn without repetition.  ValueError if there are fewer."""
    if not 1 <= n <= len(images):
        raise ValueError(f"there are {len(images)} images held out, expected 1..{len(images)}, got {n}")
    return torch.randperm(len(images), generator=Generator().manual_seed(seed))[:n]


def save_moments(path: Path, weights: Path, sets: dict[str, Images]) -> None:
    """Write the `metrics.Moments` of each set's features, for `load_moments`.

    weights: the file of a clean classifier, whose checksum is written, too. sets: "train" and "test".
    """
    classifier = load_weights(weights)
    found = {name: moments(classified(classifier.model, images[:][0])[0]) for name, images in sets.items()}
    tensors = {f"{name}/{part}": getattr(m, part) for name, m in found.items() for part in ("mean", "covariance")}
    counts = {name: m.count for name, m in found.items()}
    save_tensors(path, tensors, {"kind": "moments", "classifier": sha256(weights), "counts": counts})


def load_moments(features: str, of: str = "train") -> Moments:
    """Mean and covariance of the real images' features, as they ship: `frechet_distance` takes them, without MNIST.

    Returns Moments with mean (F,) and covariance (F, F), float64, of all images of the set.
    features: a clean classifier that ships, "digits_classifier" or "mnist_classifier". of: "train" or "test".
    Raises FileNotFoundError for another classifier, ValueError for another set, and CheckpointError if the classifier
    is not the one whose features these are.
    """
    tensors, about = load_tensors(bundled(f"weights/moments/{features}.safetensors"))
    weights = bundled(f"weights/{features}.safetensors")
    if about["classifier"] != sha256(weights):
        raise CheckpointError(f"the moments are of the classifier {about['classifier']}, got another, {weights}")
    if of not in about["counts"]:
        raise ValueError(f"of must be {' or '.join(about['counts'])}, got {of!r}")
    return Moments(tensors[f"{of}/mean"], tensors[f"{of}/covariance"], about["counts"][of])

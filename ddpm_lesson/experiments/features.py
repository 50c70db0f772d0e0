"""Images as features: those of the course's classifiers and of Inception, and the moments of real ones that ship."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ddpm_lesson._tensors import frozen
from ddpm_lesson.data import Images, bundled
from ddpm_lesson.experiments.checkpoints import CheckpointError, load_tensors, save_tensors, sha256
from ddpm_lesson.experiments.metrics import ROWS, Moments, as_double, moments
from ddpm_lesson.experiments.pretrained import PretrainedClassifier
from ddpm_lesson.networks.classifier import Classifier


def classified(classifier: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features (N, F) and logits (N, classes) of a clean `Classifier`, float64, in eval mode and without gradients."""
    weight = next(classifier.parameters())
    with frozen(classifier):
        features = torch.cat([classifier.features(rows.to(weight)) for rows in images.split(ROWS)])
        return as_double("features", features), as_double("logits", classifier.tail(features))


def inception_features(images: Tensor, weights: str | Path, batch_size: int = 64) -> Tensor:
    """The features of Inception v3 in which published FIDs are computed, (N, 2048).  Heusel et al. 2017.

    images: (N, 3 or 1, H, W) uint8 in 0..255, as from data.to_uint8(x, 256); they are resized to 299x299.
    weights: torch-fidelity's file weights-inception-2015-12-05-6726825d.pth; nothing is downloaded. PyTorch before 2.6
    unpickles it: use one that you trust. Raises TypeError for images that are not uint8, ImportError without the
    extra `eval`, FileNotFoundError without the file.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8 in 0..255, as from data.to_uint8(x, 256), got {images.dtype}")
    try:
        from torchmetrics.image.fid import NoTrainInceptionV3

        network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights)).to(images.device).eval()
    except ImportError as error:
        raise ImportError(f"Inception needs pip install 'ddpm_lesson[eval]'. What failed: {error}") from error
    with torch.no_grad():
        return torch.cat([network(rows.expand(-1, 3, -1, -1)) for rows in images.split(batch_size)])


def save_moments(path: Path, weights: Path, trained: PretrainedClassifier, sets: Mapping[str, Images]) -> None:
    """Write the `metrics.Moments` of each set's features, for `load_moments`.

    weights: the file that the clean classifier came from, whose checksum is written, too. sets: "train" and "test".
    """
    found = {name: moments(classified(trained.model, images.x_0)[0]) for name, images in sets.items()}
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

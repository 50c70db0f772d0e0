"""Images as features: those of the course's classifiers and of Inception, and the moments of real ones that ship."""

import pickle
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from ddpm_lesson._tensors import frozen, positive
from ddpm_lesson.data import Images, bundled, to_uint8
from ddpm_lesson.experiments.checkpoints import CheckpointError, load_tensors, save_tensors, sha256
from ddpm_lesson.experiments.metrics import Moments, as_double, in_parts, moments
from ddpm_lesson.experiments.pretrained import PretrainedClassifier
from ddpm_lesson.networks.classifier import Classifier

INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
# What PyTorch raises for a file that holds something else.
UNREADABLE = (
    *(pickle.UnpicklingError, EOFError, RuntimeError, ValueError, KeyError, AttributeError, TypeError),
    *(IndexError, OverflowError, SafetensorError),
)
SPATIAL = 7  # channels of the features in which sFID is computed


class Seen(NamedTuple):
    """What a network sees of N images, float64: features (N, F), logits (N, classes), spatial features (N, S).

    logits has no columns, and spatial is None, where a network has none.
    """

    features: Tensor
    logits: Tensor
    spatial: Tensor | None


def seen(network: Any, images: Tensor, progress: str = "") -> Seen:
    """What a clean `Classifier`, `Inception` or `Pixels` sees of images, in eval mode and without gradients.

    images: (N, C, H, W) in [-1, 1]. progress: the name of a bar, "" for none. Spatial: the first 7 channels of a layer
    before pooling, each place a feature (Nash et al. 2021, arXiv 2103.03841): of Inception 17x17 places of Mixed_6d,
    of a Classifier its last block, averaged to 8x8 places where it has more.
    """
    weight, maps = next(network.parameters()), []
    layer = network.blocks[-1] if isinstance(network, Classifier) else getattr(network, "spatial_layer", None)

    def keep(module: nn.Module, given: tuple, found: Tensor) -> None:
        found = found[:, :SPATIAL]
        if isinstance(network, Classifier):
            found = at_most(8, found)
        maps.append(found.flatten(1))

    hook = None if layer is None else layer.register_forward_hook(keep)
    try:
        with frozen(network):
            features = torch.cat([network.features(rows.to(weight)) for rows in in_parts(images, progress)])
            logits = network.tail(features) if hasattr(network, "tail") else features[:, :0]
    finally:
        if hook is not None:
            hook.remove()
    spatial = as_double("spatial features", torch.cat(maps)) if maps else None
    return Seen(as_double("features", features), as_double("logits", logits), spatial)


def at_most(side: int, x: Tensor) -> Tensor:
    """Images or maps (N, C, H, W) whose sides are averaged to `side` where they are longer."""
    return adaptive_avg_pool2d(x, (min(side, x.shape[2]), min(side, x.shape[3])))


def classified(classifier: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features (N, F) and logits (N, classes) of a clean `Classifier`, float64, in eval mode and without gradients."""
    found = seen(classifier, images)
    return found.features, found.logits


class Inception(nn.Module):
    """Inception v3, in whose features FIDs are published, as a network of images in [-1, 1].  Heusel et al. 2017.

    weights: torch-fidelity's file `INCEPTION`; nothing is downloaded, and a file that would run code is refused.
    features: x (B, 1 or 3, H, W) -> (B, 2048), of x in 8 bits, resized to 299x299. tail: (B, 2048) -> (B, 1008), logits
    without bias, from which the Inception score is published. Their classes are those of ImageNet, not of the data.
    Raises FileNotFoundError without the file, ValueError for another file, ImportError without the extra `eval`.
    """

    own_classes, distances = False, ("FID", "sFID")

    def __init__(self, weights: str | Path):
        super().__init__()
        if not Path(weights).is_file():
            raise FileNotFoundError(f"there is no file {weights}, expected {INCEPTION} of torch-fidelity")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # older PyTorch warns of a pickle that it then refuses
                torch.load(weights, map_location="cpu", weights_only=True)  # torch-fidelity would run what it holds
        except UNREADABLE as error:
            raise ValueError(f"{weights} does not hold the weights of Inception, {INCEPTION}") from error
        self.network: Any = _inception(weights).eval().requires_grad_(False)

    @property
    def spatial_layer(self) -> nn.Module | None:
        """Whose output is "mixed_6/conv:0" of the network in TensorFlow, (B, 192, 17, 17)."""
        return self.network.Mixed_6d.branch1x1

    def features(self, x: Tensor) -> Tensor:
        pixels = to_uint8(x, 256).expand(-1, 3, -1, -1)
        return torch.cat([self.network(rows) for rows in pixels.split(64)])

    def tail(self, features: Tensor) -> Tensor:
        return features @ self.network.fc.weight.T.to(features)


class Pixels(nn.Module):
    """The principal components of images' pixels, for data of one class where there is no Inception.

    images: (M, C, H, W) in [-1, 1], at least 2, from which the components are found; sides above 16 are averaged to 16.
    features: x (B, C, H, W) -> (B, K), K = 64 or as many as there are. There are no classes and no spatial features.
    """

    own_classes = False

    def __init__(self, images: Tensor, components: int = 64):
        super().__init__()
        rows = self._small(images).double()
        if len(rows) < 2:
            raise ValueError(f"principal components need at least 2 images, got {len(rows)}")
        found = moments(rows.cpu())
        _, directions = torch.linalg.eigh(found.covariance)  # the largest stand last
        count = min(components, len(rows) - 1, directions.shape[1])
        self.mean = nn.Parameter(found.mean.float(), requires_grad=False)
        self.directions = nn.Parameter(directions[:, -count:].flip(1).float(), requires_grad=False)

    def features(self, x: Tensor) -> Tensor:
        return (self._small(x) - self.mean) @ self.directions

    @staticmethod
    def _small(x: Tensor) -> Tensor:
        return at_most(16, x).flatten(1)


def inception_file() -> Path | None:
    """Where torch-fidelity's weights of Inception lie, if torch's cache has them and the extra `eval` is installed."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION
    installed = all(find_spec(name) is not None for name in ("torchmetrics", "torch_fidelity"))
    return path if installed and path.is_file() else None


def _inception(weights: str | Path) -> nn.Module:
    try:
        from torchmetrics.image.fid import NoTrainInceptionV3

        return NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights))
    except ImportError as error:
        told = "Inception needs the packages of the extra eval: pip install 'torchmetrics[image]'"
        raise ImportError(f"{told}. What failed: {error}") from error
    except UNREADABLE as error:
        first = str(error).split("\n")[0]
        raise ValueError(f"{weights} does not hold the weights of Inception, {INCEPTION}: {first}") from error


def inception_features(images: Tensor, weights: str | Path, batch_size: int = 64) -> Tensor:
    """The features of Inception v3 in which published FIDs are computed, (N, 2048).  Heusel et al. 2017.

    images: (N, 3 or 1, H, W) uint8 in 0..255, as from data.to_uint8(x, 256); they are resized to 299x299.
    weights: torch-fidelity's file weights-inception-2015-12-05-6726825d.pth; nothing is downloaded. PyTorch before 2.6
    unpickles it: use one that you trust. Raises TypeError for images that are not uint8, ImportError without the
    extra `eval`, FileNotFoundError without the file, ValueError for a batch_size below 1.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8 in 0..255, as from data.to_uint8(x, 256), got {images.dtype}")
    positive("batch_size", batch_size)
    network = _inception(weights).to(images.device).eval()
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

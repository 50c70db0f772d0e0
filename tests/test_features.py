"""Features of images: the classifiers', Inception's, and the moments of real images that ship."""

import pickle
import sys
import types

import pytest
import torch
from torch import nn

from ddpm_lesson import data
from ddpm_lesson.data import to_uint8
from ddpm_lesson.experiments import features, metrics
from ddpm_lesson.experiments.checkpoints import CheckpointError, load_tensors, save_tensors, sha256
from ddpm_lesson.experiments.classifiers import fit
from ddpm_lesson.experiments.features import (
    Inception,
    Pixels,
    classified,
    inception_features,
    load_moments,
    save_moments,
    seen,
)
from ddpm_lesson.experiments.recipes import ClassifierRecipe
from ddpm_lesson.networks.classifier import Classifier


def images(n=7):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


# Those of a classifier.


@pytest.mark.parametrize("rows", [3, 256])
def test_features_and_logits_are_the_networks_last_two_layers(monkeypatch, rows):
    monkeypatch.setattr(metrics, "ROWS", rows)
    model, x = Classifier(10, 16, (1, 2), in_ch=1).eval(), images()
    found, logits = classified(model, x)
    assert found.dtype == logits.dtype == torch.float64 and not found.requires_grad
    assert (found.shape, logits.shape) == ((7, 32), (7, 10))
    torch.testing.assert_close(found.float(), model.features(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits.float(), model(x), rtol=1e-5, atol=1e-6)


def test_they_come_from_eval_mode_whose_end_leaves_the_network_as_it_was():
    model = Classifier(10, 16, (1, 2), in_ch=1, dropout=0.5).train()
    model.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    first, second = (classified(model, images())[0] for _ in range(2))
    assert torch.equal(first, second)
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(ValueError, match=r"x must be \(B, 1, H, W\), got"):
        classified(model, images().expand(-1, 3, -1, -1))
    assert [module.training for module in model.modules()] == modes


def test_images_are_brought_to_the_network(device):
    model = Classifier(10, 16, (1, 2), in_ch=1).to(device, torch.float64).eval()
    found, _ = classified(model, images())
    assert found.device.type == device.type
    torch.testing.assert_close(found.cpu(), model.cpu().features(images().double()).detach())


def test_classifiers_of_noisy_images_have_no_features_of_clean_ones():
    with pytest.raises(ValueError, match="this is a classifier of noisy images with T = 5"):
        classified(Classifier(10, 16, (1, 2), in_ch=1, T=5), images())


# Inception, with a stand-in: its weights are not here.


class StandIn(nn.Module):
    """Called as torchmetrics' NoTrainInceptionV3; its features are means of the channels it is given."""

    def __init__(self, name, features_list, feature_extractor_weights_path=None):
        super().__init__()
        assert (name, features_list) == ("inception-v3-compat", ["2048"])
        self.file = feature_extractor_weights_path
        if self.file == "absent":
            raise ModuleNotFoundError("NoTrainInceptionV3 module requires that `Torch-fidelity` is installed")

    def forward(self, x):
        assert x.dtype == torch.uint8 and x.shape[1] == 3 and not self.training and not torch.is_grad_enabled()
        return x.double().mean((2, 3))


@pytest.fixture
def stand_in(monkeypatch):
    names = ["torchmetrics", "torchmetrics.image", "torchmetrics.image.fid"]
    for name in names:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules[names[-1]].NoTrainInceptionV3 = StandIn


def test_inception_gets_eight_bits_and_three_channels(stand_in, no_network):
    grey = to_uint8(torch.rand(5, 1, 8, 8) * 2 - 1, 256)
    means = grey.double().mean((2, 3))
    torch.testing.assert_close(inception_features(grey, "file", batch_size=2), means.expand(5, 3))
    colour = to_uint8(torch.rand(5, 3, 8, 8) * 2 - 1, 256)
    torch.testing.assert_close(inception_features(colour, "file"), colour.double().mean((2, 3)))


def test_inception_refuses_floats():
    with pytest.raises(TypeError, match=r"images must be uint8 in 0..255, .* got torch.float32"):
        inception_features(torch.zeros(2, 3, 8, 8), "file")


@pytest.mark.parametrize("batch_size", [0, -1])
def test_inception_refuses_batches_without_images(stand_in, batch_size):
    with pytest.raises(ValueError, match=f"batch_size must be positive, got {batch_size}"):
        inception_features(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "file", batch_size=batch_size)


def test_inception_without_the_extra(monkeypatch, stand_in):
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(ImportError, match=r"pip install 'torchmetrics\[image\]'. What failed: .*Torch-fidelity"):
        inception_features(images, "absent")
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)  # as if it were not installed
    with pytest.raises(ImportError, match=r"pip install 'torchmetrics\[image\]'"):
        inception_features(images, "file")


@pytest.fixture(scope="module")
def random_inception(tmp_path_factory):
    """A file with Inception's weights drawn at random: its architecture without its training."""
    source = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", reason="no torch-fidelity here")
    path = tmp_path_factory.mktemp("inception") / features.INCEPTION
    with pytest.MonkeyPatch.context() as patch:
        state = {}
        patch.setattr(
            source.FeatureExtractorInceptionV3, "load_state_dict", lambda self, given: state.update(kept=self)
        )
        patch.setattr(source.torch, "load", lambda *args, **options: None)
        source.FeatureExtractorInceptionV3("inception", ["2048"], "nowhere")
    torch.save(state["kept"].state_dict(), path)
    return path


def test_inception_of_torchmetrics_in_our_way_of_asking(random_inception, no_network):
    # The same file by torchmetrics alone, which is asked for both of its outputs; sFID's layer has 17 x 17 places.
    from torchmetrics.image.fid import NoTrainInceptionV3

    x = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = seen(Inception(random_inception), x)
    assert found.features.shape == (3, 2048) and found.spatial.shape == (3, 7 * 17 * 17)
    theirs = NoTrainInceptionV3("inception", ["2048", "logits_unbiased"], str(random_inception))
    with torch.no_grad():
        expected, logits = theirs._torch_fidelity_forward(to_uint8(x, 256))
    torch.testing.assert_close(found.features.float(), expected)
    torch.testing.assert_close(found.logits.float(), logits, rtol=1e-4, atol=1e-5)


class Code:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_inception_without_its_file(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=f"there is no file nowhere.pth, expected {features.INCEPTION}"):
        Inception("nowhere.pth")
    (tmp_path / "bad.pth").write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match="bad.pth does not hold the weights of Inception"):
        Inception(tmp_path / "bad.pth")
    (tmp_path / "code.pth").write_bytes(pickle.dumps(Code(str(tmp_path / "run.txt")), 2))
    with pytest.raises(ValueError, match="code.pth does not hold the weights of Inception"):
        Inception(tmp_path / "code.pth")
    assert not (tmp_path / "run.txt").exists()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert features.inception_file() is None
    place = tmp_path / "hub" / "checkpoints" / features.INCEPTION
    place.parent.mkdir(parents=True)
    place.touch()
    monkeypatch.setattr(features, "find_spec", lambda name: name)
    assert features.inception_file() == place
    monkeypatch.setattr(features, "find_spec", lambda name: None if name == "torch_fidelity" else name)
    assert features.inception_file() is None


# Pixels.


def test_pixels_are_principal_components():
    x = torch.rand(50, 3, 40, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = seen(Pixels(x), x)
    assert found.features.shape == (50, 49) and found.logits.shape == (50, 0) and found.spatial is None
    covariance = metrics.moments(found.features).covariance
    off = covariance - torch.diag(covariance.diagonal())
    assert off.abs().max() < 1e-4 * covariance.diagonal().max()  # they are uncorrelated
    assert (covariance.diagonal().diff() < 0).all()  # the largest first
    with pytest.raises(ValueError, match="principal components need at least 2 images, got 1"):
        Pixels(x[:1])


# Moments.


@pytest.fixture
def held(tmp_path, monkeypatch):
    """A course of its own: a tiny classifier under weights/, and the moments of its features under weights/moments/."""
    *_, trained = fit(ClassifierRecipe("digits", ch=16, ch_mult=(1,), steps=2, batch_size=8), data.digits("train"))
    (tmp_path / "weights" / "moments").mkdir(parents=True)
    trained.save(tmp_path / "weights" / "tiny.safetensors")
    monkeypatch.setattr(features, "bundled", lambda name: tmp_path / name)
    sets = {split: data.digits(split) for split in ("train", "test")}
    path = tmp_path / "weights" / "moments" / "tiny.safetensors"
    save_moments(path, tmp_path / "weights" / "tiny.safetensors", trained, sets)
    return trained, path


def test_moments_come_back_as_they_were_saved(held):
    trained, _ = held
    for split in ("train", "test"):
        found = load_moments("tiny", split)
        expected = metrics.moments(classified(trained.model, data.digits(split)[:][0])[0])
        assert found.count == expected.count == len(data.digits(split))
        assert torch.equal(found.mean, expected.mean) and torch.equal(found.covariance, expected.covariance)
    assert torch.equal(load_moments("tiny").mean, load_moments("tiny", "train").mean)


def test_moments_of_another_set_or_classifier_are_refused(held):
    trained, path = held
    with pytest.raises(ValueError, match="of must be train or test, got 'all'"):
        load_moments("tiny", "all")
    weights = path.parent.parent / "tiny.safetensors"
    told = load_tensors(path)[1]["classifier"]
    assert told == sha256(weights)
    tensors, about = load_tensors(weights)
    save_tensors(weights, {**tensors, "tail.bias": tensors["tail.bias"] + 1}, about)
    with pytest.raises(CheckpointError, match=f"the moments are of the classifier {told}, got another, {weights}"):
        load_moments("tiny")

"""Data sets: what ships, how images are indexed and scaled, where 2-D points lie, what is said of missing files."""

import gzip
import hashlib
import http.client
import io
import itertools
import math
import pickle
import re
import runpy
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets as tv
from PIL import Image
from torch.utils.data import DataLoader

from ddpm_lesson import data
from ddpm_lesson.data import Images, to_uint8
from ddpm_lesson.files import ImageFiles

DATA = Path(__file__).parent.parent / "data"
IMAGES_SHA256 = "8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3"
LABELS_SHA256 = "8ba4f891220f5e4c9c819638d1602d74b83618f167043c6da52a2a247841ddf0"

pytestmark = pytest.mark.usefixtures("no_network")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Files that ship


def test_bundled_finds_files_in_a_checkout():
    assert data.bundled("digits.npz") == DATA / "digits.npz"


def test_bundled_lists_what_exists():
    with pytest.raises(FileNotFoundError, match=r"no bundled file 'digit.npz'; there are: .*README.md.*digits.npz"):
        data.bundled("digit.npz")


def test_bundled_finds_files_in_a_wheel(tmp_path, monkeypatch):
    module = tmp_path / "site-packages" / "ddpm_lesson" / "data.py"
    (module.parent / "_bundled" / "records").mkdir(parents=True)
    (module.parent / "_bundled" / "records" / "a.json").touch()
    (module.parent.parent / "data").mkdir()  # another package's
    monkeypatch.setattr(data, "__file__", str(module))
    assert data.bundled("records/a.json") == module.parent / "_bundled" / "records" / "a.json"
    assert data.bundled("records") == module.parent / "_bundled" / "records"
    with pytest.raises(FileNotFoundError, match="no bundled file 'record'; there are: records/a.json$"):
        data.bundled("record")


def test_digits_have_the_checksums_of_the_readme():
    with np.load(DATA / "digits.npz") as file:
        images, labels = file["images"], file["labels"]
    assert hashlib.sha256(images.tobytes()).hexdigest() == IMAGES_SHA256
    assert hashlib.sha256(labels.tobytes()).hexdigest() == LABELS_SHA256
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    section = readme.split("## digits.npz")[1].split("\n## ")[0]
    assert re.findall(r"\b[0-9a-f]{64}\b", section) == [IMAGES_SHA256, LABELS_SHA256]


def test_the_script_writes_the_same_bytes_again(tmp_path):
    with np.load(DATA / "digits.npz") as file:
        arrays = dict(file)
    runpy.run_path(str(DATA / "scripts" / "make_digits.py"))["write"](tmp_path / "again.npz", **arrays)
    assert (tmp_path / "again.npz").read_bytes() == (DATA / "digits.npz").read_bytes()


def test_digits():
    digits = data.digits()
    assert digits.data.shape == (1797, 1, 8, 8)
    assert (digits.data.dtype, digits.labels.dtype) == (torch.uint8, torch.int64)
    assert (digits.data.min(), digits.data.max(), digits.levels) == (0, 16, 17)
    assert digits.classes == tuple("0123456789")
    # UCI's own counts of its test set
    assert digits.labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert digits.data[0, 0, 0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]  # scikit-learn's first row


def test_digits_split():
    whole, train, test = data.digits(), data.digits("train"), data.digits("test")
    assert (len(train), len(test)) == (1415, 382)
    assert torch.equal(torch.cat([train.data, test.data]), whole.data)
    assert torch.equal(torch.cat([train.labels, test.labels]), whole.labels)
    with pytest.raises(ValueError, match="None, 'train' or 'test', got 'validation'"):
        data.digits("validation")


def test_digits_come_form_after_form():
    """What data/README.md and the docstring of digits say of the order and of the split."""
    text = "".join(map(str, data.digits().labels.tolist()))
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    listed = re.search(r"forms start at\s+([\d,\s]+) and (\d+)\.", readme)
    starts = [*map(int, listed[1].split(",")), int(listed[2])]
    forms = [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
    assert len(forms) == 14
    other = forms.pop(2)
    assert len(other) == 130 and sum(a != b for a, b in zip(other, forms[0], strict=True)) == 1
    for form in forms:
        digits = iter(forms[0])
        assert all(digit in digits for digit in form)  # the same text in the same order, some digits left out
    assert len(data.digits("train")) == starts[11]


def test_the_part_of_mnist_has_the_checksums_of_the_readme():
    with np.load(DATA / "mnist_10k.npz") as file:
        found = [hashlib.sha256(file[name].tobytes()).hexdigest() for name in ("images", "labels")]
    section = (DATA / "README.md").read_text(encoding="utf-8").split("## mnist_10k.npz")[1].split("\n## ")[0]
    assert re.findall(r"\b[0-9a-f]{64}\b", section) == found
    assert (DATA / "mnist_10k.npz").stat().st_size < 2.2e6


def test_the_script_takes_the_training_images_of_torchvisions_files(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(DATA / "scripts"))
    put(tmp_path, idx_files(tv.MNIST))
    arguments = ["--root", str(tmp_path), "--out", str(tmp_path / "part.npz")]
    monkeypatch.setattr(sys, "argv", ["make_mnist_10k.py", *arguments])
    runpy.run_path(str(DATA / "scripts" / "make_mnist_10k.py"), run_name="__main__")
    whole = data.mnist(tmp_path, download=False)
    with np.load(tmp_path / "part.npz") as part:
        assert np.array_equal(part["images"], whole.data[:, 0]) and np.array_equal(part["labels"], whole.labels)
        assert {array.dtype for array in part.values()} == {np.dtype(np.uint8)}


def test_mnist_10k():
    whole, train, test = data.mnist_10k(), data.mnist_10k("train"), data.mnist_10k("test")
    assert (whole.data.shape, len(train), len(test)) == ((10_000, 1, 28, 28), 9000, 1000)
    assert torch.equal(torch.cat([train.data, test.data]), whole.data)
    assert (whole.data.min(), whole.data.max(), whole.levels) == (0, 255, 256)
    assert whole.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]  # MNIST begins so
    assert whole.labels.bincount().tolist() == [1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978]
    from torchvision.datasets import MNIST

    assert whole.classes == tuple(MNIST.classes)
    with pytest.raises(ValueError, match="None, 'train' or 'test', got 'validation'"):
        data.mnist_10k("validation")


# Images: indexing and scaling


@pytest.fixture
def images() -> Images:
    pixels = torch.arange(5 * 3 * 2 * 4, dtype=torch.uint8).view(5, 3, 2, 4) % 17
    return Images(pixels, torch.tensor([2, 0, 1, 1, 0]), levels=17, classes=["a", "b", "c"])


def test_an_int_gives_one_image_and_its_label(images):
    x, label = images[3]
    assert (x.shape, x.dtype) == ((3, 2, 4), torch.float32)
    assert type(label) is int and label == 1
    assert torch.equal(images[-2][0], x)


@pytest.mark.parametrize("index", [slice(1, 4), torch.tensor([1, 2, 3]), torch.tensor([0, 1, 1, 1, 0]).bool()])
def test_a_slice_or_a_tensor_gives_a_batch(images, index):
    x, labels = images[index]
    assert (x.shape, labels.dtype) == ((3, 3, 2, 4), torch.int64)
    assert labels.tolist() == [0, 1, 1]
    assert torch.equal(x, torch.stack([images[i][0] for i in [1, 2, 3]]))


def test_an_empty_batch(images):
    x, labels = images[:0]
    assert (x.shape, labels.shape) == ((0, 3, 2, 4), (0,))


@pytest.mark.parametrize("index", [5, -6, torch.tensor([0, 5])])
def test_an_index_out_of_range_raises(images, index):
    with pytest.raises(IndexError):
        images[index]


def test_iteration_stops(images):
    assert [label for _, label in itertools.islice(images, 9)] == [2, 0, 1, 1, 0]


def test_images_in_a_loader(images):
    batches = list(DataLoader(images, batch_size=2))
    assert [tuple(x.shape) for x, _ in batches] == [(2, 3, 2, 4), (2, 3, 2, 4), (1, 3, 2, 4)]
    assert torch.equal(torch.cat([x for x, _ in batches]), images[:][0])
    assert torch.equal(torch.cat([labels for _, labels in batches]), images.labels)
    assert batches[0][1].dtype == torch.int64


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_scaling_is_even_and_reaches_both_ends(levels):
    pixels = torch.arange(levels, dtype=torch.uint8).view(-1, 1, 1, 1)
    images = Images(pixels, torch.zeros(levels, dtype=torch.int64), levels=levels, classes=["a"])
    x = images[:][0].flatten()
    assert torch.allclose(x, torch.linspace(-1, 1, levels), atol=1e-6, rtol=0)
    assert x[0] == -1 and x[-1] == 1
    for dtype in [torch.float64, torch.float32, torch.float16]:
        assert torch.equal(to_uint8(x.to(dtype), levels), pixels.flatten())
    rough = x.to(torch.bfloat16)  # too coarse for 256 levels: only the arithmetic is held here
    assert torch.equal(to_uint8(rough, levels), to_uint8(rough.double(), levels))
    half = 1 / (levels - 1)  # half of the distance between two levels
    assert torch.equal(to_uint8(x + 0.9 * half, levels), pixels.flatten())
    assert torch.equal(to_uint8(x[:-1] + 1.1 * half, levels), pixels.flatten()[1:])


def test_to_uint8_clamps():
    assert to_uint8(torch.tensor([-math.inf, -3.0, 0.0, 1.01, 50.0]), 17).tolist() == [0, 0, 8, 16, 16]
    assert to_uint8(torch.tensor([-1.01, 1.01]), 256).tolist() == [0, 255]


@pytest.mark.parametrize(
    ("x", "levels", "error", "message"),
    [
        (torch.zeros(2, dtype=torch.uint8), 256, TypeError, "floating point in .*, got torch.uint8"),
        (torch.zeros(2, dtype=torch.int64), 256, TypeError, "floating point in .*, got torch.int64"),
        (torch.tensor([0.0, math.nan]), 256, ValueError, "got 1 NaN among 2 values"),
        (torch.zeros(2), 1, ValueError, r"2\.\.256, got 1"),
        (torch.zeros(2), 257, ValueError, r"2\.\.256, got 257"),
    ],
)
def test_to_uint8_says_what_is_wrong(x, levels, error, message):
    with pytest.raises(error, match=message):
        to_uint8(x, levels)


PIXELS, LABELS = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("pixels", "labels", "error", "message"),
    [
        (PIXELS.float(), LABELS, TypeError, "uint8 and labels int64, got torch.float32 and torch.int64"),
        (PIXELS, LABELS.float(), TypeError, "got torch.uint8 and torch.float32"),
        (PIXELS[0], LABELS, ValueError, r"\(N, C, H, W\), labels \(N,\), got \[1, 4, 4\], \[2\]"),
        (PIXELS, LABELS[:1], ValueError, r"got \[2, 1, 4, 4\], \[1\]"),
        (PIXELS, LABELS + 1, ValueError, r"labels must lie in 0\.\.1, got 1\.\.2"),
        (PIXELS, LABELS - 1, ValueError, r"labels must lie in 0\.\.1, got -1\.\.0"),
    ],
)
def test_images_say_what_is_wrong(pixels, labels, error, message):
    with pytest.raises(error, match=message):
        Images(pixels, labels, levels=256, classes=["a", "b"])


# 2-D points

POINTS = [data.eight_gaussians, data.two_moons, data.swiss_roll, data.checkerboard]


@pytest.mark.parametrize("points", POINTS)
def test_points_repeat_with_their_generator(points):
    x = points(100, generator=seeded(1))
    assert (x.shape, x.dtype) == ((100, 2), torch.float32)
    assert torch.equal(points(100, generator=seeded(1)), x)
    assert not torch.equal(points(100, generator=seeded(2)), x)
    assert points(1).shape == (1, 2)


@pytest.mark.parametrize("points", POINTS)
def test_points_without_a_generator_follow_the_global_seed(points):
    torch.manual_seed(3)
    x = points(10)
    torch.manual_seed(3)
    assert torch.equal(points(10), x)


@pytest.mark.parametrize("points", POINTS)
@pytest.mark.parametrize("n", [0, -1, 2.0, "3"])
def test_points_need_a_positive_number(points, n):
    with pytest.raises(ValueError, match=f"n must be a positive integer, got {n!r}"):
        points(n)


@pytest.mark.parametrize("points", POINTS)
def test_points_have_mean_0_and_variance_1(points):
    n = 200_000
    x = points(n, generator=seeded()).double()
    # Five standard errors. A mean of n has the variance 1/n. A mean of squares has (E x^4 - 1) / n, and E x^4 < 2.25:
    # 1.8 for the board, at most 2.12 for the others.
    assert x.mean(0).abs().max() < 5 * math.sqrt(1 / n)
    assert (x.square().mean(0) - 1).abs().max() < 5 * math.sqrt(1.25 / n)


def test_the_mixture_is_a_distribution_of_unit_variance():
    weights, means, stds = data.eight_gaussians_mixture()
    assert (weights.shape, means.shape, stds.shape) == ((8,), (8, 2), (8,))
    assert weights.dtype == means.dtype == stds.dtype == torch.float64
    torch.testing.assert_close(weights, torch.full((8,), 0.125, dtype=torch.float64))
    moment = (weights[:, None] * (means.square() + stds[:, None].square())).sum(0)
    torch.testing.assert_close(moment, torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(weights @ means, torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(means[1], means[0].norm() * torch.full((2,), math.sqrt(0.5), dtype=torch.float64))


def test_eight_gaussians_are_their_mixture():
    n = 80_000
    _, means, stds = data.eight_gaussians_mixture()
    x = data.eight_gaussians(n, generator=seeded()).double()
    k = torch.cdist(x, means).argmin(1)  # neighbours are 10.8 std apart: no point changes sides
    counts = k.bincount(minlength=8)
    assert (counts - n / 8).abs().max() < 5 * math.sqrt(n * 1 / 8 * 7 / 8)
    for component in range(8):
        residual = (x[k == component] - means[component]) / stds[component]
        assert residual.mean(0).abs().max() < 5 / math.sqrt(counts[component])
        assert (residual.square().mean(0) - 1).abs().max() < 5 * math.sqrt(2 / counts[component])


def midpoints(m: int, low: float, high: float) -> torch.Tensor:
    return low + (high - low) * (torch.arange(m, dtype=torch.float64) + 0.5) / m


def nearest_on(curve: torch.Tensor, noise: float, x: torch.Tensor) -> torch.Tensor:
    """Index of the nearest of a curve's points for each of x, after a test that x is the curve plus noise, rescaled.

    Mean and variance of the curve are taken numerically: the docstrings derive them.
    """
    var = curve.var(0, correction=0) + noise**2
    distance, nearest = torch.cdist(x.double() * var.sqrt() + curve.mean(0), curve).min(1)
    assert distance.max() < 6 * noise  # a normal pair is farther out with probability exp(-18)
    # What lies across the curve is one normal number, the variance of whose square is 2.
    assert abs(distance.square().mean() / noise**2 - 1) < 5 * math.sqrt(2 / len(x))
    return nearest


def assert_uniform(u: torch.Tensor):
    """u in (0, 1) is uniform: its distribution function is off by more than this with probability 2e-9 (DKW)."""
    n = len(u)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    u = u.double().sort().values
    assert torch.maximum(steps[1:] - u, u - steps[:-1]).max() < math.sqrt(math.log(1e9) / (2 * n))


def test_two_moons_lie_on_their_arcs():
    n, m = 2_000, 2_000
    angle = midpoints(m, 0, math.pi)
    outer, inner = [angle.cos(), angle.sin()], [1 - angle.cos(), 0.5 - angle.sin()]
    curve = torch.cat([torch.stack(outer, dim=1), torch.stack(inner, dim=1)])
    nearest = nearest_on(curve, 0.05, data.two_moons(n, generator=seeded()))
    assert abs((nearest < m).sum() - n / 2) < 5 * math.sqrt(n / 4)
    assert_uniform((nearest % m + 0.5) / m)


def test_swiss_roll_lies_on_its_spiral():
    m = 4_000
    angle = midpoints(m, 1.5 * math.pi, 4.5 * math.pi)
    curve = torch.stack([angle * angle.cos(), angle * angle.sin()], dim=1)
    nearest = nearest_on(curve, 0.4, data.swiss_roll(2_000, generator=seeded()))
    assert_uniform((nearest + 0.5) / m)


def test_checkerboard_fills_the_dark_cells_evenly():
    n = 20_000
    place = data.checkerboard(n, generator=seeded()).double() / (math.sqrt(3) / 2) + 2  # in cells, from the lower left
    i, j = place.floor().long().unbind(1)
    assert place.min() >= 0 and place.max() <= 4
    assert ((i + j) % 2 == 0).all()
    counts = (4 * i + j).bincount(minlength=16)
    assert (counts > 0).sum() == 8
    assert (counts[counts > 0] - n / 8).abs().max() < 5 * math.sqrt(n * 1 / 8 * 7 / 8)
    for inside in (place % 1).unbind(1):
        assert_uniform(inside)


# Files of torchvision's data sets, small ones of the same formats

IDX_NAMES = [f"{part}-{kind}-ubyte" for part in ["train", "t10k"] for kind in ["images-idx3", "labels-idx1"]]
IDX = [(data.mnist, tv.MNIST), (data.fashion_mnist, tv.FashionMNIST)]
SETS = [*IDX, (data.cifar10, tv.CIFAR10)]


def idx(array: np.ndarray) -> bytes:
    """The format of the MNIST files: 0, 0, type, number of sides, each side in four bytes, the values."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
    return header + array.tobytes()


def idx_files(source: type) -> dict[str, bytes]:
    """5 training and 3 test images in torchvision's layout: path below the root -> content."""
    random, files = np.random.default_rng(0), {}
    for name in IDX_NAMES:
        shape = (5 if "train" in name else 3, 28, 28)
        array = random.integers(256, size=shape) if "images" in name else random.integers(10, size=shape[:1])
        files[f"{source.__name__}/raw/{name}"] = idx(array.astype(np.uint8))
    return files


def cifar_files() -> dict[str, bytes]:
    """Two images per batch: rows of 3 x 32 x 32, in dictionaries, pickled."""
    random, files = np.random.default_rng(0), {}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        batch = {"data": random.integers(256, size=(2, 3072)).astype(np.uint8), "labels": [3, 7]}
        files[f"cifar-10-batches-py/{name}"] = pickle.dumps(batch)
    files["cifar-10-batches-py/batches.meta"] = pickle.dumps({"label_names": [f"class {i}" for i in range(10)]})
    return files


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def archives(source: type, files: dict[str, bytes]) -> dict[str, bytes]:
    """What a server holds: each idx file zipped, or all CIFAR files in one archive."""
    if source is not tv.CIFAR10:
        return {f"{Path(name).name}.gz": gzip.compress(content) for name, content in files.items()}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return {"cifar-10-python.tar.gz": buffer.getvalue()}


def small(source: type, monkeypatch) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """(files, archives) of a small data set.  torchvision is told their checksums and goes on checking them."""
    files = cifar_files() if source is tv.CIFAR10 else idx_files(source)
    served = archives(source, files)
    if source is tv.CIFAR10:
        sums = {Path(name).name: md5(content) for name, content in files.items()}
        for attribute in ["train_list", "test_list"]:
            monkeypatch.setattr(source, attribute, [[name, sums[name]] for name, _ in getattr(source, attribute)])
        monkeypatch.setattr(source, "meta", {**source.meta, "md5": sums["batches.meta"]})
        monkeypatch.setattr(source, "tgz_md5", md5(served["cifar-10-python.tar.gz"]))
    else:
        monkeypatch.setattr(source, "resources", [(name, md5(content)) for name, content in served.items()])
    return files, served


def put(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def below(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


class Response(io.BytesIO):
    def __init__(self, url: str, content: bytes):
        super().__init__(content)
        self.url, self.length = url, len(content)


def serve(monkeypatch, contents: dict[str, bytes]) -> list[str]:
    """urllib opens these in the place of the network.  Returns the list of the addresses asked for, as it grows."""
    asked = []

    def urlopen(request, *args, **kwargs):
        asked.append(request.full_url)
        name = request.full_url.rsplit("/", 1)[1]
        if name not in contents:
            raise urllib.error.URLError(f"{name} is not served")
        return Response(request.full_url, contents[name])

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return asked


@pytest.mark.parametrize(("load", "source"), IDX)
def test_mnist_files(load, source, tmp_path):
    files = idx_files(source)
    put(tmp_path, files)
    for train, part, n in [(True, "train", 5), (False, "t10k", 3)]:
        images = load(tmp_path, train=train, download=False)
        assert (images.data.shape, images.levels, len(images.classes)) == ((n, 1, 28, 28), 256, 10)
        pixels = files[f"{source.__name__}/raw/{part}-images-idx3-ubyte"][16:]
        assert images.data.numpy().tobytes() == pixels
        assert bytes(images.labels.tolist()) == files[f"{source.__name__}/raw/{part}-labels-idx1-ubyte"][8:]
        assert images[0][0].shape == (1, 28, 28)


def test_cifar10_files(tmp_path, monkeypatch):
    files, _ = small(tv.CIFAR10, monkeypatch)
    put(tmp_path, files)
    train, test = data.cifar10(tmp_path, download=False), data.cifar10(tmp_path, train=False, download=False)
    assert (train.data.shape, test.data.shape) == ((10, 3, 32, 32), (2, 3, 32, 32))
    assert train.labels.tolist() == [3, 7] * 5
    assert train.classes[3] == "class 3"
    batch = pickle.loads(files["cifar-10-batches-py/data_batch_2"])["data"]
    assert train.data[2:4].numpy().tobytes() == batch.tobytes()  # planes of red, green, blue, row by row


@pytest.mark.parametrize(("load", "source"), SETS)
def test_files_that_are_there_are_only_read(load, source, tmp_path, monkeypatch):
    files, served = small(source, monkeypatch)
    put(tmp_path, files)
    asked = serve(monkeypatch, served)
    for path in [*tmp_path.rglob("*"), tmp_path]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    load(tmp_path)
    assert asked == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times
    for path in [tmp_path, *filter(Path.is_dir, tmp_path.rglob("*"))]:
        path.chmod(0o755)


def test_the_root_is_the_argument_then_the_variable_then_the_cache(tmp_path, monkeypatch):
    files = idx_files(tv.MNIST)
    for name in ["argument", "variable", "home/.cache/ddpm_lesson"]:
        put(tmp_path / name, files)
        labels = np.full(5, len(name) % 10, dtype=np.uint8)
        (tmp_path / name / "MNIST/raw/train-labels-idx1-ubyte").write_bytes(idx(labels))

    def label(**root) -> int:
        return data.mnist(**root, download=False).labels[0].item()

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.delenv("DDPM_LESSON_DATA", raising=False)
    assert label() == len("home/.cache/ddpm_lesson") % 10
    monkeypatch.setenv("DDPM_LESSON_DATA", str(tmp_path / "variable"))
    assert label() == len("variable")
    assert label(root=str(tmp_path / "argument")) == len("argument") == label(root="~/../argument")


@pytest.mark.parametrize(("load", "source"), SETS)
@pytest.mark.parametrize("download", [True, False])
def test_missing_files_name_both_ways_out(load, source, download, tmp_path):
    root = tmp_path / "nothing"
    with pytest.raises(data.DataNotFoundError) as caught:
        load(root, download=download)
    message = str(caught.value)
    files = cifar_files() if source is tv.CIFAR10 else idx_files(source)
    files = {Path(name).name for name in files} - {f"data_batch_{i}" for i in range(2, 5)}  # "data_batch_1 to ..."
    for expected in [source.__name__, str(root), "a connection to the internet", "as root", "DDPM_LESSON_DATA", *files]:
        assert expected in message
    # It is the command line's message, too, which always tries to download. Else torchvision says download=True.
    assert "root=" not in message and not (download and "download=" in message)
    assert caught.value.__cause__ is not None
    # Older releases of torchvision name the file, not the reason, which they print.
    assert "blocked" in message or "Error downloading" in message or not download
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("load", "source"), SETS)
def test_a_download_arrives_whole(load, source, tmp_path, monkeypatch):
    files, served = small(source, monkeypatch)
    asked = serve(monkeypatch, served)
    first = load(tmp_path / "new")
    assert asked
    assert below(tmp_path) == {f"new/{name}": content for name, content in files.items()}
    asked.clear()
    assert torch.equal(load(tmp_path / "new").data, first.data)
    assert asked == []


@pytest.mark.parametrize(("load", "source"), SETS)
@pytest.mark.parametrize("damage", ["cut", "empty", "header", "missing", "other"])
def test_damaged_files_are_seen_and_downloaded_again(load, source, damage, tmp_path, monkeypatch):
    files, served = small(source, monkeypatch)
    put(tmp_path, files)
    for name in ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "data_batch_3"]:
        for path in tmp_path.rglob(name):
            whole = path.read_bytes()
            if damage == "missing":
                path.unlink()
            else:
                path.write_bytes({"cut": whole[:-1], "empty": b"", "header": whole[:6], "other": b"<html>"}[damage])
    before = below(tmp_path)
    with pytest.raises(data.DataNotFoundError, match="missing or damaged"):
        load(tmp_path, download=False)
    with pytest.raises(data.DataNotFoundError, match="missing or damaged"):
        load(tmp_path)  # no network
    assert below(tmp_path) == before
    serve(monkeypatch, served)
    assert len(load(tmp_path)) == (10 if source is tv.CIFAR10 else 5)
    assert below(tmp_path) == files


@pytest.mark.parametrize(("load", "source"), SETS)
def test_a_download_that_breaks_off_leaves_nothing(load, source, tmp_path, monkeypatch):
    _, served = small(source, monkeypatch)
    last = list(served)[-1]
    serve(monkeypatch, {**served, last: served[last][:-10]})
    with pytest.raises(data.DataNotFoundError, match=r"What failed: (?s:.*)corrupted"):
        load(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(data.DataNotFoundError):
        load(tmp_path, download=False)


@pytest.mark.parametrize(("load", "source"), IDX)
def test_unpacking_that_is_interrupted_leaves_nothing(load, source, tmp_path, monkeypatch):
    """Alone, torchvision leaves an empty file behind, and trusts it later because it exists."""
    _, served = small(source, monkeypatch)
    serve(monkeypatch, served)

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(gzip.GzipFile, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        source(tmp_path / "alone", download=True)
    assert below(tmp_path / "alone")[f"{source.__name__}/raw/train-images-idx3-ubyte"] == b""
    with pytest.raises(KeyboardInterrupt):
        load(tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_a_download_says_where_it_goes_and_makes_one_folder(tmp_path, monkeypatch, capsys):
    files, served = small(tv.MNIST, monkeypatch)
    serve(monkeypatch, served)
    data.mnist(tmp_path / "new")
    assert f"MNIST is downloaded to {tmp_path / 'new'}" in capsys.readouterr().err
    data.mnist(tmp_path / "new")
    assert "downloaded" not in capsys.readouterr().err


@pytest.mark.parametrize("by", ["argument", "variable"])
def test_a_mistyped_root_is_not_made(tmp_path, monkeypatch, by):
    asked, root = serve(monkeypatch, small(tv.MNIST, monkeypatch)[1]), tmp_path / "dtaa" / "sets"
    monkeypatch.setenv("DDPM_LESSON_DATA", str(root))
    with pytest.raises(data.DataNotFoundError, match=f"no folder {root}, and none that it could be made in: MNIST was"):
        data.mnist(root if by == "argument" else None)
    assert asked == [] and list(tmp_path.iterdir()) == []


def test_the_usual_cache_is_made_with_all_that_it_lies_in(tmp_path, monkeypatch):
    serve(monkeypatch, small(tv.MNIST, monkeypatch)[1])
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.delenv("DDPM_LESSON_DATA", raising=False)
    assert len(data.mnist()) == 5 and (tmp_path / "home/.cache/ddpm_lesson/MNIST").is_dir()


def test_a_root_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(data.DataNotFoundError, match="MNIST was to be read from a folder, got .*file, which is a file"):
        data.mnist(tmp_path / "file")


def test_a_server_that_speaks_no_http(tmp_path, monkeypatch):
    def urlopen(request, *args, **kwargs):
        raise http.client.BadStatusLine("login page")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    with pytest.raises(data.DataNotFoundError, match="What failed: login page"):
        data.mnist(tmp_path)


def test_cifar10_does_not_unpickle_what_it_does_not_know(tmp_path):
    put(tmp_path, cifar_files())  # torchvision expects the checksums of the real files here
    with pytest.raises(data.DataNotFoundError, match="corrupted"):
        data.cifar10(tmp_path, download=False)


# A folder of one's own images


def picture(array, mode: str | None = None) -> Image.Image:
    image = Image.fromarray(np.asarray(array, dtype=np.uint8))
    return image.convert(mode) if mode else image


RED, GREEN, BLUE, GREY = [255, 0, 0], [0, 255, 0], [0, 0, 255], [100, 100, 100]


def plain(colour: list[int], height: int = 6, width: int = 6) -> np.ndarray:
    return np.full((height, width, 3), colour, dtype=np.uint8)


def test_sub_folders_are_classes(tmp_path):
    for name, colour in [("b/2.png", BLUE), ("b/1.PNG", GREEN), ("a/deep/3.bmp", RED), ("c/4.webp", GREY)]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(plain(colour)).save(tmp_path / name, **({"lossless": True} if "webp" in name else {}))
    for name in [".hidden/x.png", "a/.x.png", "a/notes.txt", "empty/notes.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no image")
    (tmp_path / "a" / "album.png").mkdir()
    images = data.folder(tmp_path, 4)
    assert images.classes == ("a", "b", "c")
    assert images.labels.tolist() == [0, 1, 1, 2]
    assert images.levels == 256
    assert [to_uint8(x[:, 0, 0], 256).tolist() for x, _ in images] == [RED, GREEN, BLUE, GREY]


@pytest.fixture
def flat(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(5):
        picture(plain([i, 2 * i, 3 * i])).save(folder / f"{i}.png")
    return folder


def test_a_flat_folder_is_one_class(flat, monkeypatch):
    images = data.folder(str(flat), 4)
    assert images.classes == ("pictures",)
    assert images.labels.tolist() == [0] * 5
    monkeypatch.chdir(flat)
    assert data.folder(".", 4).classes == ("pictures",)


def test_a_folder_is_indexed_like_images(flat):
    images = data.folder(flat, 4)
    x, label = images[3]
    assert (x.shape, x.dtype, type(label)) == ((3, 4, 4), torch.float32, int)
    torch.testing.assert_close(x[:, 0, 0], 2 * torch.tensor([3.0, 6.0, 9.0]) / 255 - 1)
    for index in [slice(1, 4), torch.tensor([1, 2, 3])]:
        batch, labels = images[index]
        assert (batch.shape, labels.shape) == ((3, 3, 4, 4), (3,))
        assert torch.equal(batch[2], x)
    assert images[:0][0].shape == (0, 3, 4, 4)
    assert len(list(images)) == len(images) == 5
    for index in [5, -6]:
        with pytest.raises(IndexError):
            images[index]
    (batch, labels), *_ = DataLoader(images, batch_size=4)
    assert (batch.shape, labels.dtype) == ((4, 3, 4, 4), torch.int64)


def test_a_folder_decodes_what_is_indexed(flat):
    (flat / "4.png").write_bytes(b"not an image")
    images = data.folder(flat, 4)
    images[:4]
    with pytest.raises(OSError, match=r"4\.png cannot be read as an image"):
        images[4]


@pytest.mark.parametrize("cut", [20, -30])
def test_a_cut_off_image_is_named(flat, cut):
    noise = np.random.default_rng(0).integers(256, size=(40, 40, 3))
    picture(noise).save(flat / "9.png")
    (flat / "9.png").write_bytes((flat / "9.png").read_bytes()[:cut])
    with pytest.raises(OSError, match=r"9\.png cannot be read as an image"):
        data.folder(flat, 4)[5]


def decoded(tmp_path: Path, image: Image.Image, size: int, channels: int = 3, name: str = "x.png", **options):
    """The (channels, size, size) levels that a folder makes of one image."""
    image.save(tmp_path / name, **options)
    return to_uint8(data.folder(tmp_path, size, channels=channels)[0][0], 256)


def test_the_central_square_is_kept(tmp_path):
    wide = np.concatenate([plain(RED, 6, 3), plain(GREEN, 6, 6), plain(BLUE, 6, 3)], axis=1)
    for array in [wide, wide.transpose(1, 0, 2)]:
        x = decoded(tmp_path, picture(array), 6)
        assert torch.equal(x, torch.tensor(GREEN, dtype=torch.uint8).view(3, 1, 1).expand(3, 6, 6))


def test_rows_and_columns_stay_where_they_are(tmp_path):
    array = np.arange(4 * 4 * 3).reshape(4, 4, 3)
    x = decoded(tmp_path, picture(array), 4)
    assert torch.equal(x, torch.tensor(array, dtype=torch.uint8).permute(2, 0, 1))


def test_resizing_is_antialiased(tmp_path):
    stripes = np.zeros((64, 64), dtype=np.uint8)
    stripes[:, ::2] = 255
    x = decoded(tmp_path, picture(stripes), 8, channels=1)[0, 2:-2, 2:-2].float()
    assert (x - 127.5).abs().max() < 5  # taking single pixels would give 0 or 255
    assert decoded(tmp_path, picture(stripes), 100, channels=1).shape == (1, 100, 100)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "1"])
def test_white_black_and_grey_in_every_mode(mode, channels, tmp_path):
    values = [0, 255] if mode == "1" else [0, 100, 255]
    for value in values:
        x = decoded(tmp_path, picture(np.full((4, 4), value), mode), 2, channels)
        assert torch.equal(x, torch.full((channels, 2, 2), value, dtype=torch.uint8))


def test_colours_become_grey_by_luma(tmp_path):
    x = decoded(tmp_path, picture(plain(GREEN)), 2, channels=1)
    assert torch.equal(x, torch.full((1, 2, 2), round(0.587 * 255), dtype=torch.uint8))


def test_transparent_becomes_white(tmp_path):
    layers = np.array([[[255, 0, 0, 255], [255, 0, 0, 0]], [[0, 0, 0, 0], [0, 0, 0, 51]]], dtype=np.uint8)
    x = decoded(tmp_path, picture(layers), 2)
    assert x.permute(1, 2, 0).tolist() == [[RED, [255] * 3], [[255] * 3, [204] * 3]]  # 204 = 255 (1 - 51 / 255)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_one_colour_can_be_transparent(mode, tmp_path):
    layers = np.array([[RED, [0, 0, 0]], [[0, 0, 0], GREY]], dtype=np.uint8)
    image, black = picture(layers, mode), (0, 0, 0) if mode == "RGB" else 0
    x = decoded(tmp_path, image, 2, transparency=black)
    luma = [76] * 3 if mode == "L" else RED  # round(0.299 * 255)
    assert x.permute(1, 2, 0).tolist() == [[luma, [255] * 3], [[255] * 3, GREY]]


@pytest.mark.parametrize("name", ["x.png", "x.gif"])
def test_a_palette_with_a_transparent_colour(name, tmp_path):
    image = Image.fromarray(np.array([[0, 1], [1, 2]], dtype=np.uint8)).convert("P")
    image.putpalette([*RED, *GREEN, *BLUE])
    image.info.clear()
    x = decoded(tmp_path, image, 2, name=name, transparency=1)
    assert x.permute(1, 2, 0).tolist() == [[RED, [255] * 3], [[255] * 3, BLUE]]


def test_sixteen_bits_keep_their_range(tmp_path):
    array = np.array([[0, 1000], [40000, 65535]], dtype=np.uint16)
    x = decoded(tmp_path, Image.fromarray(array), 2, channels=1)
    assert x.tolist() == [[[0, 3], [156, 255]]]  # the upper eight bits


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [picture(plain(colour)) for colour in [GREEN, RED]]
    x = decoded(tmp_path, frames[0], 2, name="x.gif", save_all=True, append_images=frames[1:])
    assert x[:, 0, 0].tolist() == GREEN


def test_a_cmyk_jpeg(tmp_path):
    x = decoded(tmp_path, picture(plain(GREY)).convert("CMYK"), 2, name="x.jpg")
    assert (x.float() - 100).abs().max() <= 2  # JPEG rounds


def test_a_photograph_stands_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # the camera was upside down
    array = np.concatenate([plain(RED, 3), plain(BLUE, 3)])
    x = decoded(tmp_path, picture(array), 6, exif=exif)
    assert x[:, 0, 0].tolist() == BLUE and x[:, -1, 0].tolist() == RED


def test_folder_says_what_is_wrong(flat):
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        data.folder(flat / "nowhere", 8)
    with pytest.raises(NotADirectoryError, match=r"must be a folder of images, got the file .*0\.png"):
        data.folder(flat / "0.png", 8)
    (flat / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no images in .*empty: .*\.bmp, \.gif, .*\.jpg, .*\.png, .*\.webp"):
        data.folder(flat / "empty", 8)
    for size in [0, -1, 8.0, (8, 8)]:
        with pytest.raises(ValueError, match=re.escape(f"size must be a positive integer, got {size}")):
            data.folder(flat, size)
    for channels in [0, 2, 4]:
        with pytest.raises(ValueError, match=f"channels must be 1 .grey. or 3 .RGB., got {channels}"):
            data.folder(flat, 8, channels=channels)
    (flat / "0.png").rename(flat / "empty" / "0.png")
    with pytest.raises(ValueError, match=r"both in sub-folders, one per class, and outside of them: 1\.png"):
        data.folder(flat, 8)


# Decoded when indexed, and kept while there is room


def test_nothing_is_decoded_before_it_is_indexed(flat, decoded):
    images = data.folder(flat, 4)
    assert (len(images), images.shape, images.levels) == (5, (3, 4, 4), 256)
    images.fingerprint()
    assert decoded == []
    images[3], images[torch.tensor([0, 3])], images[-1]
    assert decoded == ["3.png", "0.png", "4.png"]
    assert images.x_0.shape == (5, 3, 4, 4)
    assert decoded[:3] == ["3.png", "0.png", "4.png"] and sorted(decoded[3:]) == ["1.png", "2.png"]


@pytest.mark.parametrize("room", [0, 2, 4])
def test_what_there_is_no_room_for_is_decoded_again(flat, decoded, monkeypatch, room):
    monkeypatch.setattr("ddpm_lesson.files.KEPT_BYTES", room * 3 * 4 * 4 + 5)
    images = data.folder(flat, 4)
    first, *others = (images[:][0] for _ in range(3))
    assert all(torch.equal(first, other) for other in others)
    assert decoded[:5] == [f"{i}.png" for i in range(5)]
    assert decoded[5:] == 2 * [f"{i}.png" for i in range(room, 5)]
    assert sum(pixels.nbytes for pixels in images.data.kept.values()) == room * 3 * 4 * 4


def test_what_is_kept_is_not_what_is_given_out(flat):
    images = data.folder(flat, 4)
    before = images.x_0
    images[2][0].zero_()
    images.data[torch.tensor([1, 2])].zero_()
    assert torch.equal(images.x_0, before)


def test_a_file_that_was_kept_is_not_read_again(flat):
    images = data.folder(flat, 4)
    before = images[1][0]
    (flat / "1.png").unlink()
    assert torch.equal(images[1][0], before)
    with pytest.raises(OSError, match=r"1\.png cannot be read as an image"):
        ImageFiles(images.data.files, 4, 3)[1]


# What a run has to know of images


def test_x_0_is_all_of_them_without_labels():
    images = data.digits("test")
    assert torch.equal(images.x_0, images[:][0]) and images.x_0.dtype == torch.float32
    assert images.shape == (1, 8, 8) and images.x_0.shape == (382, *images.shape)


def other(images, *, pixel=None, label=None, order=None) -> Images:
    """The same images but for one pixel, one label, or the order."""
    pixels, labels = images.data[:].clone(), images.labels.clone()
    if pixel is not None:
        pixels.view(-1)[pixel] ^= 1
    if label is not None:
        labels[label] = (labels[label] + 1) % len(images.classes)
    if order is not None:
        pixels, labels = pixels[order], labels[order]
    return Images(pixels, labels, levels=images.levels, classes=images.classes)


def test_a_fingerprint_tells_other_images_labels_and_orders():
    images = data.digits("test")
    same, found = other(images).fingerprint(), images.fingerprint()
    assert same == found and re.fullmatch("[0-9a-f]{64}", found)
    last = images.data.numel() - 1
    changed = [other(images, pixel=0), other(images, pixel=last), other(images, label=0), other(images, label=381)]
    changed += [
        other(images, order=torch.arange(382).flip(0)),
        Images(images.data[1:], images.labels[1:], levels=17, classes=images.classes),
    ]
    found = [each.fingerprint() for each in changed]
    assert same not in found and len(set(found)) == 6


def test_a_fingerprint_does_not_depend_on_how_the_numbers_lie_in_memory():
    images = data.digits("test")
    strided = Images(images.data[::2], images.labels[::2], levels=17, classes=images.classes)
    assert not strided.data.is_contiguous()
    assert strided.fingerprint() == other(strided).fingerprint() != images.fingerprint()


def test_a_fingerprint_of_a_folder_is_of_the_bytes_of_its_files(flat, tmp_path):
    found = data.folder(flat, 4).fingerprint()
    assert found == data.folder(flat, 4).fingerprint() == data.folder(flat, 8, channels=1).fingerprint()
    moved = flat.rename(tmp_path / "moved")
    assert data.folder(moved, 4).fingerprint() == found
    for name in ("0.png", "4.png"):
        whole = (moved / name).read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 1):
            broken = bytearray(whole)
            broken[place] ^= 1
            (moved / name).write_bytes(broken)
            assert data.folder(moved, 4).fingerprint() != found
        (moved / name).write_bytes(whole)
    assert data.folder(moved, 4).fingerprint() == found
    (moved / "0.png").rename(moved / "9.png")
    assert data.folder(moved, 4).fingerprint() != found  # another order


def test_a_fingerprint_of_a_folder_has_the_classes_of_its_files(flat):
    for name, of in (("0.png", "a"), ("1.png", "a"), ("2.png", "b"), ("3.png", "b"), ("4.png", "b")):
        (flat / of).mkdir(exist_ok=True)
        (flat / name).rename(flat / of / name)
    found = data.folder(flat, 4).fingerprint()
    (flat / "b" / "2.png").rename(flat / "a" / "2.png")  # the files come in the same order as before
    assert data.folder(flat, 4).fingerprint() != found
    (flat / "a" / "2.png").rename(flat / "b" / "2.png")
    assert data.folder(flat, 4).fingerprint() == found
    (flat / "b").rename(flat / "c")  # only the name
    assert data.folder(flat, 4).fingerprint() != found


def test_a_fingerprint_tells_names_of_classes_from_one_another():
    def named(*classes):
        return Images(PIXELS, torch.tensor([0, 0]), levels=256, classes=classes).fingerprint()

    assert len({named("ab", "c"), named("a", "bc"), named("c", "ab"), named("a", "b", "c")}) == 4
    assert named("one") == named("other")  # a folder without sub-folders, moved
    other = Images(PIXELS, torch.tensor([0, 0]), levels=17, classes=["one"])
    assert other.fingerprint() != named("one")


# The cost of the import


def test_slow_packages_load_when_used():
    code = "import sys, ddpm_lesson.data; print(*{'torchvision', 'matplotlib', 'PIL', 'sklearn'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""

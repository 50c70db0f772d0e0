"""The command sample: its forms of output, what is checked before the work, and memory that ends."""

import io
import os
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import made, run, told
from PIL import Image

from ddpm_lesson import GaussianDiffusion, cli
from ddpm_lesson.cli import outputs, pictures
from ddpm_lesson.data import to_uint8
from ddpm_lesson.experiments import pretrained
from ddpm_lesson.experiments.pretrained import PretrainedDiffusion, load_weights
from ddpm_lesson.experiments.sampling import SAMPLERS, Sampling
from ddpm_lesson.oracle import GaussianData
from ddpm_lesson.predictions import fixedsmall
from ddpm_lesson.samplers import State
from ddpm_lesson.schedules import linear


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return made(tmp_path_factory.mktemp("sample") / "run", "--data", "digits", "--conditional")


@pytest.fixture(scope="module")
def drawn(trained):
    """Twelve images by the package, and their states."""
    network = load_weights(trained / "weights.safetensors")
    y = network.labels(12)
    return network.sample(12, y=y), [state.x_t for state in network.states(12, y=y)]


@pytest.fixture
def sample(trained, tmp_path, monkeypatch):
    """sample(*options) draws 12 images in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *options: run("sample", "--weights", trained, "--n", 12, "--device", "cpu", *options)


# Forms of output.


@pytest.mark.parametrize("options", [["--out", "x"], ["--out", "x/"], ["--out", "x", "--separate"], ["--out=new/x"]])
def test_a_folder_holds_each_images_own_pixels(sample, drawn, options):
    assert sample(*options).status == 0
    folder = "new/x" if "new" in options[0] else "x"
    assert sorted(os.listdir(folder)) == [f"{i:03}.png" for i in range(12)]
    for i, image in enumerate(to_uint8(drawn[0], 256)):
        with Image.open(f"{folder}/{i:03}.png") as picture:
            assert (picture.mode, picture.size) == ("L", (8, 8))
            assert np.array_equal(np.asarray(picture), image[0].numpy())


def test_separate_alone_names_the_folder_itself(sample):
    assert sample("--separate").out.startswith("samples: 12 images") and len(os.listdir("samples")) == 12


def test_separate_pictures_of_colour():
    images = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for image, png in zip(to_uint8(images, 256), pictures.separate(images), strict=True):
        with open_bytes(png) as picture:
            assert picture.mode == "RGB" and np.array_equal(np.asarray(picture), image.permute(1, 2, 0).numpy())


def open_bytes(data):
    return Image.open(io.BytesIO(data))


def test_npz_is_what_scripts_for_fid_read(sample, drawn):
    assert sample("--out", "x.npz").status == 0
    with np.load("x.npz") as held:
        assert held.files == ["arr_0", "arr_1"]
        assert held["arr_0"].dtype == np.uint8 and held["arr_0"].shape == (12, 8, 8, 1)
        assert np.array_equal(held["arr_0"], to_uint8(drawn[0], 256).permute(0, 2, 3, 1).numpy())
        assert held["arr_1"].tolist() == [*range(10), 0, 1]


def test_npz_without_labels_has_no_arr_1():
    with np.load(io.BytesIO(pictures.npz(torch.zeros(2, 1, 4, 4), None))) as held:
        assert held.files == ["arr_0"]


def test_gif_shows_the_chain_in_the_images_own_pixels(sample, drawn):
    assert sample("--out", "x.gif").status == 0
    with Image.open("x.gif") as picture:
        assert (picture.format, picture.n_frames) == ("GIF", 7)  # x_T and six steps
        # A square of 4 x 3 images of 8 pixels, two apart, is 42 x 32 pixels, enlarged by 8.
        assert picture.size == (336, 256)
        for frame, x in enumerate(drawn[1]):
            picture.seek(frame)
            found = np.asarray(picture.convert("L"))[::8, ::8]
            expected = to_uint8(x, 256).numpy()
            assert np.array_equal(found[2:10, 2:10], expected[0, 0]) and np.array_equal(
                found[22:30, 32:40], expected[11, 0]
            )


def test_long_chains_are_thinned(sample, tmp_path):
    long = made(tmp_path / "long", "--data", "digits", "--T", 90)
    assert sample("--weights", long, "--n", 1, "--out", "x.gif").status == 0
    with Image.open("x.gif") as picture:
        assert picture.n_frames == 41


@pytest.mark.parametrize("steps", [1, 39, 41, 100, 1000])
@pytest.mark.parametrize("name", [name for name, each in SAMPLERS.items() if each.from_noise])
def test_an_animation_ends_in_the_last_state_of_every_sampler(name, steps):
    process = GaussianDiffusion(linear(steps, 1e-4, 0.02))
    denoise, x_T = GaussianData(process, torch.zeros(1), 1.0), torch.randn(3, 1)
    drawing = partial(Sampling(name).states, process, denoise, fixedsmall, x_T)
    states = [state.x_t for state in drawing(generator=torch.Generator().manual_seed(0))]
    frames = cli.sample.thinned(drawing(generator=torch.Generator().manual_seed(0)))
    assert torch.equal(frames[:, 0], states[0]) and torch.equal(frames[:, -1], states[-1])
    assert frames.shape[1] == len(states) if len(states) <= 41 else 38 <= frames.shape[1] <= 41


def test_a_chain_that_leads_elsewhere_is_thinned_too():
    chains = {"to noise": range(1, 101), "jumps": [*range(100, 49, -1), *range(51, 80), *range(78, -1, -1)], "": [0]}
    for chain in chains.values():
        frames = cli.sample.thinned(State(i, torch.full((1,), float(i)), None) for i in chain)
        assert frames.shape[1] <= 41 and (frames[0, 0], frames[0, -1]) == (chain[0], chain[-1])


@pytest.mark.parametrize("form", ["x.npz", "x.png", "x.gif"])
def test_a_smaller_batch_gives_the_same_images(sample, form, monkeypatch):
    sizes, sample_of = [], PretrainedDiffusion.states
    monkeypatch.setattr(
        PretrainedDiffusion, "states", lambda self, n, *a, **k: sizes.append(n) or sample_of(self, n, *a, **k)
    )
    assert sample("--out", form).status == sample("--out", f"again-{form}", "--batch", 5).status == 0
    assert sizes == [12, 5, 5, 2]
    first, again = (Path(name).read_bytes() for name in (form, f"again-{form}"))
    if form == "x.npz":
        first, again = (np.load(name)["arr_0"].astype(int) for name in (form, f"again-{form}"))
        assert abs(first - again).max() <= 1  # rounding
    assert len(first) == len(again)


# What is printed.


def test_a_summary_and_the_time_left(sample, trained):
    result = sample("--out", "x.png")
    first, second, *bar = re.split("[\r\n]", result.err.strip())
    parameters = sum(p.numel() for p in load_weights(trained / "weights.safetensors").model.parameters())
    said = f"{trained}: digits, 1 x 8 x 8, 10 classes; {parameters:,} parameters, 2 steps of training; on cpu"
    assert first == said and second == "12 images: all steps of ancestral, seed 0"
    assert bar[-1].startswith("12 of 12 images: 100%") and re.search(r"\[\d\d:\d\d<\d\d:\d\d", bar[-1])


def test_quiet_prints_the_result_only(sample):
    result = sample("--quiet", "--out", "x.png")
    assert (result.status, result.err, result.out) == (0, "", "x.png: 12 images, all steps of ancestral, seed 0\n")


# Before the work.


@pytest.fixture
def unloaded(monkeypatch):
    """Reading a network is an error here: what is told is told before."""
    monkeypatch.setattr(cli.sample, "loaded", lambda *_: pytest.fail("the network was loaded"))


BEFORE = [
    (["--out", "x.jpeg"], "--out must end in .png, .gif or .npz, or in / for a folder of PNGs, got x.jpeg"),
    (["--out", "full"], "full holds files, and nothing is overwritten: name an empty or a new folder"),
    (["--out", "full/a.txt/x.png"], "cannot be written: full/a.txt is a file, expected a folder"),
    (["--out", "full/a.txt/"], "expected the name of a folder to write, got the file full/a.txt"),
    (["--out", "full/a.txt/x/"], "cannot be written: full/a.txt is a file, expected a folder"),
    (["--out", f"{'x' * 300}.png"], "cannot be written (File name too long): name another place"),
    (["--out", f"{'x' * 252}.png"], "cannot be written (File name too long): name another place"),
    (["--out", "lost/x.png"], "cannot be written: lost is a link that leads nowhere"),
    (["--separate", "--out", "x.png"], "--separate writes PNGs into a folder: expected --out FOLDER, got x.png"),
    (["--animate", "--out", "x.npz"], "--animate writes an animation: expected --out FILE.png or FILE.gif, got x.npz"),
    (["--animate", "--separate"], "give --separate or --animate, not both: an animation is one file"),
    (["--n", 10001], "one picture shows at most 10000 images, got --n 10001: write a folder, --out samples/, or"),
    (["--n", 1001, "--out", "x.gif"], "one picture shows at most 1000 images, got --n 1001"),
    (["--guidance", "inf"], "guidance must be a finite number, got inf"),
    (["--guidance", "nan"], "guidance must be a finite number, got nan"),
    (["--seed", "99999999999999999999"], "seed must lie in 0..9223372036854775807, got 99999999999999999999"),
    (["--device", "meta"], "--device meta cannot be used on this machine, expected cpu, or a GPU"),
    (["--device", "cuda:99"], "--device cuda:99 cannot be used on this machine, expected cpu, or a GPU"),
]


@pytest.mark.parametrize("options, message", BEFORE, ids=lambda value: " ".join(map(str, value))[:30])
def test_what_can_be_known_is_told_before_a_network_is_read(sample, unloaded, tmp_path, options, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("mine")
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    result = sample(*options)
    assert result.status == 1 and result.out == ""
    assert result.err.startswith("ddpm_lesson: ") and result.err.count("\n") == 1 and message in result.err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.txt", "full", "lost"]


@pytest.mark.parametrize("length", [236, 255])  # 255 is the longest name that usual file systems have
def test_the_longest_name_is_drawn_into(sample, length):
    name = "x" * (length - 4) + ".png"
    result = sample("--out", name)
    assert result.status == 0 and os.listdir() == [name], result.err


def test_a_folder_that_may_not_be_written_is_told_before(sample, unloaded, monkeypatch, tmp_path):
    def refuse(dir):
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(outputs.tempfile, "TemporaryFile", refuse)  # whoever tests as root may write everywhere
    line = sample("--out", "new/x.png").err
    assert line == "ddpm_lesson: new/x.png cannot be written (Permission denied) in .: name another place\n"


AT_ONCE = [
    (["--n", "0"], "expected a positive integer, got 0"),
    (["--n", "1e3"], "expected a positive integer, got 1e3"),
    (["--n", "\u0664"], "expected a positive integer, got \u0664"),
    (["--n", "9" * 12], "expected a positive integer up to 1000000000, got 999999999999"),
    (["--n", "9" * 5000], "(5000 characters)"),
    (["--batch", "0"], "expected a positive integer, got 0"),
    (["--threads", "0"], f"expected a number of threads in 1..{4 * os.cpu_count()}, four for each processor"),
    (["--threads", "100000"], "four for each processor of this machine, got 100000"),
    (["--seed", "pi"], "invalid int value: 'pi'"),
    (["--seed", "9" * 5000], " characters); see --help"),
]


@pytest.mark.parametrize("options, message", AT_ONCE, ids=lambda value: " ".join(value)[:30])
def test_numbers_out_of_range_are_no_options(options, message):
    line = told("sample", *options, status=2)
    assert message in line and len(line) < 250


def test_home_is_expanded_in_every_path(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))  # of Windows
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "run").symlink_to(trained)
    options = ["--weights=~/run", "--n", 1, "--device", "cpu", "--quiet"]
    assert run("sample", *options, "--out=~/x.png").status == 0
    assert (tmp_path / "home" / "x.png").exists() and not (tmp_path / "~").exists()
    assert "there is no folder" in told("train", "--preset", "folder", "--root=~/no", "--device", "cpu")
    assert str(tmp_path / "home" / "no") in told("train", "--preset", "folder", "--root=~/no", "--device", "cpu")
    assert "got ~x" in told("sample", *options, "--label=~x")  # a class may be called so


# Memory.


def test_memory_that_ends_gives_smaller_batches_and_the_same_images(sample, monkeypatch):
    forward, sizes = pretrained.UNet.forward, []

    def little(self, x, *more, **given):
        sizes.append(len(x))
        if len(x) > 4:
            torch.empty(2**60, dtype=torch.uint8)  # what the CPU's allocator says
        return forward(self, x, *more, **given)

    assert sample("--out", "whole.npz").status == 0
    monkeypatch.setattr(pretrained.UNet, "forward", little)
    assert sample("--out", "parts.npz").status == 0
    assert sizes[:2] == [12, 6] and set(sizes[2:]) == {3}
    whole, parts = (np.load(name)["arr_0"].astype(int) for name in ("whole.npz", "parts.npz"))
    assert abs(whole - parts).max() <= 1  # rounding


@pytest.mark.parametrize("kind", ["cpu", "gpu", "python"])
def test_memory_too_small_for_one_image_is_one_sentence(sample, monkeypatch, kind):
    def full(self, x, *more, **given):
        if kind == "gpu":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")
        if kind == "python":
            raise MemoryError
        torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr(pretrained.UNet, "forward", full)
    result = sample("--quiet")
    assert result.status == 1 and result.out == "" and result.err.count("\n") == 1
    said = (
        "ddpm_lesson: the memory of cpu is too small for 12 images, drawn 250 or fewer at a time: take a network with"
    )
    assert result.err.startswith(said)


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="this system does not tell its memory")
def test_more_images_than_memory_holds_are_told_before(sample, monkeypatch):
    monkeypatch.setattr(PretrainedDiffusion, "sample", lambda *_, **__: pytest.fail("drawn"))
    line = sample("--n", 10**9, "--out", "x.npz", "--quiet").err
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    said = f"1000000000 images at once need 477 GiB of memory, this machine has {there:,.0f} GiB: draw them in several"
    assert line.startswith(f"ddpm_lesson: {said} calls") and line.count("\n") == 1


def test_another_runtime_error_is_not_taken_for_a_lack_of_memory(sample, monkeypatch):
    def broken(self, x, *more, **given):
        raise RuntimeError("a bug")

    monkeypatch.setattr(pretrained.UNet, "forward", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        sample("--debug")


def test_the_picture_by_the_command_is_the_picture_by_the_package(sample, drawn):
    assert sample("--out", "x.png", "--batch", 12).status == 0
    assert Path("x.png").read_bytes() == pictures.grid(drawn[0])

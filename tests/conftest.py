import importlib.util
import os
import socket
import sys
from pathlib import Path

import accelerator
import pytest
import torch
from wheels import built, pip

if "PYTEST_XDIST_WORKER" in os.environ:  # the processes share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
if not accelerator.missing():
    accelerator.device()  # before the first backward pass, in which autograd starts a thread for each device it knows


def pytest_collection_modifyitems(items):
    """The slowest file first, so that no process has it left when the others have ended."""
    items.sort(key=lambda item: item.path.name != "test_sittings.py")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def nothing_is_slow(monkeypatch):
    """However busy the machine, no test shows a bar or writes decoded images to the user's cache."""
    from ddpm_lesson import files

    monkeypatch.setattr(files, "SLOW", float("inf"))


@pytest.fixture
def strict(monkeypatch):
    """A question of the checks' engine that breaks is an error here, and is passed over in a notebook."""
    from ddpm_lesson.checks import _explain

    monkeypatch.setattr(_explain, "STRICT", True)


@pytest.fixture
def double_by_default():
    """New tensors and new networks are float64, as after torch.set_default_dtype(torch.float64)."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def usable(name):
    """The device of that name, or a skip: where there is no GPU, its stand-in takes its place."""
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if name != accelerator.NAME:
        return torch.device(name)
    if why := accelerator.missing():
        pytest.skip(why)
    return accelerator.device()


@pytest.fixture(params=["cpu", "cuda", accelerator.NAME])
def device(request):
    """Runs the test once per device."""
    return usable(request.param)


@pytest.fixture(params=["cuda", accelerator.NAME])
def gpu(request):
    """Runs the test once per device that is not the CPU."""
    return usable(request.param)


@pytest.fixture
def no_network(monkeypatch):
    """Every connection and every look-up of a host fails with the OSError of a machine that is offline."""

    def refuse(*args, **kwargs):
        raise OSError("the network is blocked in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The course's wheel, built from a copy of what it is built from, without the network."""
    return built(tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """A folder in which the wheel is installed, for PYTHONPATH."""
    target = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--no-index", "--target", target, wheel)
    return target


@pytest.fixture
def decoded(monkeypatch):
    """The names of the image files that are decoded, as the list grows."""
    from ddpm_lesson.files import ImageFiles

    names, decode = [], ImageFiles.decode
    monkeypatch.setattr(ImageFiles, "decode", lambda self, file: names.append(file.name) or decode(self, file))
    return names


@pytest.fixture(scope="session")
def make_records():
    """The script that writes the records, as a module."""
    path = Path(__file__).parent.parent / "data" / "records" / "make_records.py"
    sys.path.append(str(path.parent))  # where it finds its neighbours
    spec = importlib.util.spec_from_file_location("make_records", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(path.parent))
    return module

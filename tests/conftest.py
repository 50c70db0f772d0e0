import importlib.util
import socket
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    """Runs the test once per device; on a machine without a GPU the second run is skipped."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


@pytest.fixture
def no_network(monkeypatch):
    """Every connection and every look-up of a host fails with the OSError of a machine that is offline."""

    def refuse(*args, **kwargs):
        raise OSError("the network is blocked in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def decoded(monkeypatch):
    """The names of the image files that are decoded, as the list grows."""
    from ddpm_lesson import data

    names, decode = [], data._Files.decode
    monkeypatch.setattr(data._Files, "decode", lambda self, file: names.append(file.name) or decode(self, file))
    return names


@pytest.fixture(scope="session")
def make_records():
    """The script that writes the records, as a module."""
    path = Path(__file__).parent.parent / "data" / "records" / "make_records.py"
    spec = importlib.util.spec_from_file_location("make_records", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

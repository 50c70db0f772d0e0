"""Files of tensors: whole or not there, nothing in them is run, and what cannot be used says so in one line."""

import json
import os
import pickle

import pytest
import safetensors.torch
import torch
from torch import nn

from ddpm_lesson.experiments import checkpoints
from ddpm_lesson.experiments.checkpoints import (
    CheckpointError,
    fill,
    fill_optimizer,
    group,
    load_tensors,
    optimizer_tensors,
    remove_partials,
    save_tensors,
    sha256,
    write_whole,
)

TENSORS = {"a/w": torch.arange(6.0).view(2, 3), "a/n": torch.tensor(3), "b": torch.zeros(0, 2).bfloat16()}
ABOUT = {"step": 3, "name": "Überlänge", "list": [1, None, 2.5]}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "state.safetensors"
    save_tensors(path, TENSORS, ABOUT)
    return path


def refused(path):
    """The message of the error, which is one line and names the file."""
    with pytest.raises(CheckpointError) as error:
        load_tensors(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


# Whole.


def test_what_was_saved_is_loaded(path):
    tensors, about = load_tensors(path)
    assert about == ABOUT and tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor) and tensors[name].dtype == tensor.dtype
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_other_layouts_and_devices_and_gradients_are_saved(tmp_path, device):
    kept = nn.Parameter(torch.randn(2, 3, 4, 5, device=device).to(memory_format=torch.channels_last))
    save_tensors(tmp_path / "x", {"t": kept, "part": kept[:, 1]}, {})
    tensors, _ = load_tensors(tmp_path / "x")
    assert torch.equal(tensors["t"], kept.detach().cpu()) and torch.equal(tensors["part"], kept.detach().cpu()[:, 1])


def test_equal_tensors_give_equal_files(path, tmp_path):
    other = tmp_path / "other"
    save_tensors(other, dict(reversed(TENSORS.items())), ABOUT)
    assert other.read_bytes() == path.read_bytes() and sha256(other) == sha256(path)


def test_checksum_is_that_of_the_standard(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, Appendix B.1
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_failure_while_writing_leaves_the_old_file(path, monkeypatch, name):
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, name, full)
    with pytest.raises(OSError, match="No space left"):
        save_tensors(path, {"b": torch.ones(9)}, {})
    assert path.read_bytes() == before
    monkeypatch.undo()
    save_tensors(path, {"b": torch.ones(9)}, {})
    assert load_tensors(path)[0]["b"].sum() == 9 and len(list(path.parent.iterdir())) == 1


def test_data_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    # Renamed first, a crash could leave the new name on an empty file.
    seen = []
    monkeypatch.setattr(os, "fsync", lambda number: seen.append(("fsync", os.fstat(number).st_size)))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: seen.append(("replace", b.exists())) or replace(a, b))
    write_whole(tmp_path / "x", b"12345")
    assert seen == [("fsync", 5), ("replace", False)] and (tmp_path / "x").read_bytes() == b"12345"


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="asks Linux which files are mapped")
def test_what_was_loaded_is_no_map_of_the_file(path):
    # Windows does not replace a mapped file: a run that goes on could not save.
    tensors, _ = load_tensors(path)
    with open("/proc/self/maps") as maps:
        assert path.name not in maps.read()
    assert tensors.keys() == TENSORS.keys()


@pytest.mark.parametrize("windows, refusals, saved", [(True, 2, True), (True, 99, False), (False, 1, False)])
def test_a_file_that_someone_reads_is_replaced_on_windows_a_little_later(path, monkeypatch, windows, refusals, saved):
    before, replace, tries = path.read_bytes(), os.replace, []

    def while_it_is_open(*names):
        tries.append(names)
        if len(tries) <= refusals:
            raise PermissionError(13, "Access is denied")
        replace(*names)

    monkeypatch.setattr(checkpoints, "WINDOWS", windows)
    monkeypatch.setattr(checkpoints, "PATIENCE", 0.1)
    monkeypatch.setattr(os, "replace", while_it_is_open)
    if saved:
        write_whole(path, b"new")
        assert path.read_bytes() == b"new" and len(tries) == 3
    else:
        with pytest.raises(PermissionError):
            write_whole(path, b"new")
        assert path.read_bytes() == before and (len(tries) > 1) == windows
    assert [file.name for file in path.parent.iterdir()] == [path.name]


# Damaged.


def test_no_file_is_another_error(tmp_path):
    missing = tmp_path / "none.safetensors"
    with pytest.raises(FileNotFoundError, match=f"there is no file {missing}"):
        load_tensors(missing)
    with pytest.raises(FileNotFoundError, match=f"expected a file, got the folder {tmp_path}"):
        load_tensors(tmp_path)


def test_every_length_that_is_too_short_is_refused(path):
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert "no whole safetensors file" in refused(path)
    path.write_bytes(whole + b"\0")
    refused(path)


def test_a_bit_turned_anywhere_is_refused(path):
    # The checksum is of names, types, shapes, numbers and `about`, and the header has no place that it does not need
    # but blanks, and letters of numbers and escapes that read the same.
    whole = path.read_bytes()
    tensors, about = load_tensors(path)
    refusals = 0
    for place in range(len(whole)):
        for bit in (0, 3, 6):
            broken = bytearray(whole)
            broken[place] ^= 1 << bit
            path.write_bytes(broken)
            try:
                read, told = load_tensors(path)
            except CheckpointError as error:
                assert str(path) in str(error) and "\n" not in str(error)
                refusals += 1
            else:
                assert told == about and read.keys() == tensors.keys()
                assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert refusals > 2.9 * len(whole)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 100,
        b"\xff" * 100,
        b"PK\x03\x04 a zip",
        b"\x89PNG\r\n\x1a\n" + bytes(50),
        (1 << 40).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"\xff\xfe",
    ],
)
def test_something_else_is_refused(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    refused(tmp_path / "x.safetensors")


class Trap:
    """What unpickling it does is seen by a file that it makes."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("write", [lambda x, file: pickle.dump(x, file), lambda x, file: torch.save({"w": x}, file)])
def test_code_in_a_pickle_is_not_run(tmp_path, write):
    path, trapped = tmp_path / "weights.safetensors", tmp_path / "trapped"
    with open(path, "wb") as file:
        write(Trap(trapped), file)
    refused(path)
    assert not trapped.exists()
    path.write_bytes(pickle.dumps(Trap(trapped)))
    pickle.loads(path.read_bytes())  # the trap works
    assert trapped.exists()


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"about": "{"}, {"about": "[1]"}, {"about": "3"}])
def test_tensors_of_another_program_are_refused(tmp_path, metadata):
    path = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"w": torch.zeros(2)}, path, metadata=metadata)
    assert "no 'about'" in refused(path)


# Into modules and optimisers.


def test_a_part_by_its_prefix():
    tensors = {"model/w": 1, "model/a/b": 2, "models/w": 3, "ema/model/w": 4, "model": 5}
    assert group(tensors, "model") == {"w": 1, "a/b": 2}


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop("bias"), "expected 2 weights, got 1: missing bias; unexpected none"),
        (lambda t: t.update(more=torch.zeros(1)), "expected 2 weights, got 3: missing none; unexpected more"),
        (lambda t: t.update(weight=torch.zeros(3, 2)), r"expected weight to be \(2, 3\), got \(3, 2\)"),
        (lambda t: t.update(bias=torch.zeros(1)), r"expected bias to be \(2,\), got \(1,\)"),
        (lambda t: t.update(bias=torch.zeros(2).double()), "expected bias to be torch.float32 as the others, got .*64"),
    ],
)
def test_a_module_of_another_shape_is_refused_and_untouched(tmp_path, change, message):
    module = nn.Linear(3, 2)
    tensors = {name: torch.full_like(t, 7.0) for name, t in module.state_dict().items()}
    fill(module, tensors, tmp_path / "x")
    assert bool((module.weight == 7).all() and (module.bias == 7).all())
    change(tensors)
    nn.init.zeros_(module.weight)
    with pytest.raises(CheckpointError, match=f"{tmp_path / 'x'} is of another network: {message}"):
        fill(module, tensors, tmp_path / "x")
    assert not module.weight.any()


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW])
def test_an_optimiser_goes_on_bit_by_bit(tmp_path, make):
    # From one that made three steps into a fresh one, by way of a file; then two more steps of either.
    def setting():
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 2)).to(memory_format=torch.channels_last)
        layers.register_parameter("unused", nn.Parameter(torch.zeros(3)))
        layers.register_parameter("scalar", nn.Parameter(torch.ones(())))
        return layers, make(layers.parameters(), lr=0.1)

    def steps(layers, optimizer, seeds):
        for seed in seeds:
            optimizer.zero_grad()
            x = torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(seed))
            (layers.scalar * layers(x)).square().sum().backward()
            optimizer.step()

    layers, optimizer = setting()
    steps(layers, optimizer, range(3))
    save_tensors(tmp_path / "o", optimizer_tensors(optimizer), {})
    again, fresh = setting()
    again.load_state_dict(layers.state_dict())
    fill_optimizer(fresh, load_tensors(tmp_path / "o")[0], tmp_path / "o")
    for pair in ((layers, optimizer), (again, fresh)):
        steps(*pair, (3, 4))
    for a, b in zip(layers.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b) and a.stride() == b.stride()
    state = fresh.state_dict()["state"]
    assert state.keys() == {1, 2, 3, 4, 5}  # 0 is the unused one
    assert state[2]["exp_avg"].stride() == layers[0].weight.stride() and state[2]["step"] == 5


def test_about_is_text_that_json_holds(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_tensors(tmp_path / "x", {}, {"w": torch.zeros(1)})
    save_tensors(tmp_path / "x", {}, ABOUT)
    with safetensors.safe_open(tmp_path / "x", "pt") as file:
        assert json.loads(file.metadata()["about"]).items() > ABOUT.items() and file.metadata().keys() == {"about"}


def test_a_file_that_is_written_anew_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    # A run saves while someone looks: the description is then of the old file, the tensors are of the new one.
    path, new = tmp_path / "x.safetensors", tmp_path / "new.safetensors"
    save_tensors(path, {"w": torch.zeros(3)}, {"step": 1})
    save_tensors(new, {"w": torch.ones(3)}, {"step": 2})
    opened, calls = checkpoints.safe_open, []

    class Mixed:
        def __init__(self, path, **options):
            calls.append(path)
            with opened(path, **options) as file:
                told = file.metadata()
            self.metadata = lambda: told
            if new.exists():
                new.replace(path)
            with opened(path, **options) as file:
                self.held = {name: file.get_tensor(name) for name in file.keys()}

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def keys(self):
            return self.held

        def get_tensor(self, name):
            return self.held[name]

    monkeypatch.setattr(checkpoints, "safe_open", Mixed)
    tensors, about = load_tensors(path)
    assert (tensors["w"].tolist(), about) == ([1, 1, 1], {"step": 2}) and len(calls) == 2


# Links, leftovers, and states that were forged.


def test_a_planted_link_is_not_followed(tmp_path, monkeypatch):
    # Whoever may write into the folder knows the name that the next file will be written under first.
    monkeypatch.setattr(checkpoints.secrets, "token_hex", lambda n: "known")
    (tmp_path / "theirs").write_bytes(b"precious")
    (tmp_path / f".{os.getpid()}-known.partial").symlink_to(tmp_path / "theirs")
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "x", b"12345")
    assert (tmp_path / "theirs").read_bytes() == b"precious"
    monkeypatch.undo()
    (tmp_path / ".x.partial").symlink_to(tmp_path / "theirs")
    write_whole(tmp_path / "x", b"12345")
    assert (tmp_path / "theirs").read_bytes() == b"precious" and (tmp_path / "x").read_bytes() == b"12345"


@pytest.mark.parametrize("length", [236, 255])  # 255 is the longest name that usual file systems have
def test_the_longest_name_can_be_written(tmp_path, length):
    write_whole(tmp_path / ("x" * length), b"12345")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x" * length, b"12345")]


def test_what_a_killed_process_left_is_removed(tmp_path):
    for name in (".1-a.partial", ".x.1-a.partial", ".y.partial", "z.partial", ".hidden"):
        (tmp_path / name).touch()
    remove_partials(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "z.partial"]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.update({"9.step": torch.tensor(1.0)}), "of one of 2 parameters, such as 0.step, got 9.step"),
        (lambda s: s.update({"weight": torch.tensor(1.0)}), "such as 0.step, got weight"),
        (
            lambda s: s.update({"0.momentum": torch.zeros(2, 3)}),
            "must hold step, .*, exp_avg_sq of .* got 0.momentum",
        ),
        (lambda s: s.update({"1" * 5000 + ".step": torch.tensor(1.0)}), "such as 0.step, got 111"),
        (lambda s: s.update({"0.exp_avg": torch.zeros(3, 3)}), r"must hold 0.exp_avg as \(2, 3\), got \(3, 3\)"),
        (lambda s: s.update({"0.step": torch.zeros(7)}), r"must hold 0.step as \(\), got \(7,\)"),
        (lambda s: s.update({"0.step": torch.zeros(2, 3)}), r"must hold 0.step as \(\), got \(2, 3\)"),
        (lambda s: s.pop("1.exp_avg_sq"), "must hold step, exp_avg, exp_avg_sq of every parameter: 1 lacks one"),
    ],
)
def test_a_state_of_another_optimiser_is_refused(change, message):
    module = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = optimizer_tensors(optimizer)
    fill_optimizer(optimizer, state, "state")
    change(state)
    with pytest.raises(CheckpointError, match=f"^state is of another network: .*{message}"):
        fill_optimizer(optimizer, state, "state")

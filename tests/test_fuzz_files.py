"""Files that somebody damaged, forged or wrote by hand: a sentence, or they work; never anything else.

Derandomised: every run tries the same. A file of tensors is changed under a checksum that is right, for one that is
wrong ends every attempt at once; test_checkpoints.py turns single bits.
"""

import contextlib
import json
from copy import deepcopy

import pytest
import torch
from bad_files import MADE, World
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ddpm_lesson.experiments.checkpoints import (
    CheckpointError,
    fill,
    fill_optimizer,
    group,
    load_tensors,
    read_json,
    save_tensors,
)
from ddpm_lesson.experiments.pretrained import PretrainedDiffusion, load_weights
from ddpm_lesson.experiments.recipes import PRESETS, Recipe
from ddpm_lesson.experiments.sampling import Sampling

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 9),
    st.integers(),
    st.sampled_from([10**6, 2**31, 2**63 - 1, -(2**63)]),
    st.floats(),
    st.text(max_size=9),
    st.sampled_from(["digits", "cosine", "hybrid", "learned", "v", "previous", "low_res", "folder", "kl", "ddgan"]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def few(n):
    """n examples, the same each time."""
    skipped = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=n, derandomize=True, deadline=None, database=None, suppress_health_check=skipped)


def one_sentence(error):
    assert 10 < len(str(error)) < 3000 and "Traceback" not in str(error)


@contextlib.contextmanager
def a_sentence_or_nothing():
    try:
        yield
    except (ValueError, OSError) as error:
        one_sentence(error)


# Recipes.


@few(150)
@given(st.one_of(VALUES.map(json.dumps), st.text(max_size=40), st.text('{}[]":,0123456789.eE+-tfn \\u', max_size=40)))
def test_any_text_as_a_recipe(text):
    with a_sentence_or_nothing():
        assert isinstance(Recipe.from_json(text), Recipe)


@few(80)
@given(st.binary(max_size=60))
def test_any_bytes_as_a_recipe(content):
    with a_sentence_or_nothing():
        read_json(content, "a recipe")


FIELDS = sorted(json.loads(Recipe().to_json()))


@few(250)
@given(st.sampled_from(sorted(PRESETS)), st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1, max_size=2))
def test_a_recipe_with_other_values(preset, changes):
    values = json.loads(PRESETS[preset].to_json()) | changes
    with a_sentence_or_nothing():
        recipe = Recipe.from_json(json.dumps(values))
        assert Recipe.from_json(recipe.to_json()) == recipe


# Weights and states.


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("fuzzed"))


@pytest.fixture(scope="module")
def held(world):
    """Tensors and `about` of a run's weights, and of a classifier's."""
    return [load_tensors(world(name)) for name in ("weights", "clean", "noisy")]


def places(about, before=()):
    """The path of every value in nested dicts and lists."""
    pairs = about.items() if isinstance(about, dict) else enumerate(about) if isinstance(about, list) else ()
    for key, value in pairs:
        yield (*before, key)
        yield from places(value, (*before, key))


def load_and_draw(path):
    """What a command does with a file: an error that is a sentence, or images."""
    with a_sentence_or_nothing():
        trained = load_weights(path)
        if isinstance(trained, PretrainedDiffusion):
            drawn = trained.sample(1, Sampling("ddim", steps="trailing1"), y=trained.labels(1))
            assert drawn.shape == (1, *trained.shape)


@few(250)
@given(st.data())
def test_weights_of_which_a_file_says_something_else(held, tmp_path_factory, data):
    tensors, about = data.draw(st.sampled_from(held))
    about = deepcopy(about)
    for _ in range(data.draw(st.integers(1, 2))):
        *outer, last = data.draw(st.sampled_from(list(places(about))))
        target = about
        for key in outer:
            target = target[key]
        if data.draw(st.booleans()) and isinstance(target, dict):
            del target[last]
        else:
            target[last] = data.draw(VALUES)
    path = tmp_path_factory.getbasetemp() / "forged.safetensors"
    save_tensors(path, tensors, about)
    load_and_draw(path)


def changed(data, tensors):
    """The tensors, one of them gone, renamed, of another shape or type, or full of NaN."""
    tensors = dict(tensors)
    name = data.draw(st.sampled_from(sorted(tensors)))
    old = tensors.pop(name)
    how = data.draw(st.sampled_from(["gone", "renamed", "flat", "longer", "empty", "scalar", "double", "int", "nan"]))
    makes = {
        "flat": lambda: old.flatten(),
        "longer": lambda: torch.cat([old.flatten(), old.flatten()]),
        "empty": lambda: old.new_zeros(0),
        "scalar": lambda: old.new_zeros(()),
        "double": lambda: old.double(),
        "int": lambda: old.to(torch.int16),
        "nan": lambda: torch.full_like(old, torch.nan),
    }
    if how == "renamed":
        tensors[data.draw(st.text(max_size=9))] = old
    elif how != "gone":
        tensors[name] = makes[how]()
    return tensors


@few(60)
@given(st.data())
def test_weights_with_other_tensors(held, tmp_path_factory, data):
    tensors, about = data.draw(st.sampled_from(held))
    tensors = changed(data, tensors)
    assume("__metadata__" not in tensors)
    path = tmp_path_factory.getbasetemp() / "other.safetensors"
    save_tensors(path, tensors, about)
    load_and_draw(path)


@few(100)
@given(st.data())
def test_a_damaged_header(world, tmp_path_factory, data):
    whole = world("weights").read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    *outer, last = data.draw(st.sampled_from([place for place in places(header) if place[0] != "__metadata__"]))
    target = header
    for key in outer:
        target = target[key]
    target[last] = data.draw(VALUES)
    text = json.dumps(header).encode()
    path = tmp_path_factory.getbasetemp() / "header.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])
    load_and_draw(path)


@few(60)
@given(st.data())
def test_pieces_cut_out_and_overwritten(world, tmp_path_factory, data):
    whole = world(data.draw(st.sampled_from(["weights", "clean", "state"]))).read_bytes()
    start = data.draw(st.integers(0, len(whole) - 1) | st.integers(0, 4000))
    end = data.draw(st.integers(start, min(start + 64, len(whole))))
    path = tmp_path_factory.getbasetemp() / "pieces.safetensors"
    path.write_bytes(whole[:start] + data.draw(st.binary(max_size=64)) + whole[end:])
    load_and_draw(path)


@few(60)
@given(st.data())
def test_a_state_with_other_tensors(world, data):
    tensors, _ = load_tensors(world("state"))
    tensors = changed(data, tensors)
    model = load_weights(world("weights")).model.requires_grad_(True)
    optimizer = torch.optim.Adam([p for name, p in model.named_parameters() if "timembedding.0" not in name])
    try:
        fill(model, group(tensors, "model"), "state.safetensors")
        fill_optimizer(optimizer, group(tensors, "optimizer"), "state.safetensors")
    except CheckpointError as error:
        one_sentence(error)


def test_the_files_are_made(world):
    assert all(world(name).is_file() for name in ("weights", "clean", "noisy", "state")) and MADE

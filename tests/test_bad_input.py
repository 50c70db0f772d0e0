"""Every row of the table of bad input, in one process: one sentence, no traceback, nothing left behind."""

import contextlib
import io
import re
import shlex
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import bad_input
import pytest
import torch
from bad_files import MADE, World
from bad_input import DONE, PAGE, RAISES, ROWS, WARNS, page

from ddpm_lesson import GaussianDiffusionTrainer, cli, data
from ddpm_lesson.bound import bits_per_dim
from ddpm_lesson.doors import ImageRangeWarning
from ddpm_lesson.experiments.generator_recipes import GeneratorRecipe
from ddpm_lesson.experiments.pretrained import load_pretrained, load_weights
from ddpm_lesson.experiments.recipes import ClassifierRecipe, Recipe
from ddpm_lesson.experiments.sampling import Sampling
from ddpm_lesson.gaussian import Gaussian
from ddpm_lesson.losses import simple_loss
from ddpm_lesson.networks.classifier import Classifier
from ddpm_lesson.networks.unet import UNet
from ddpm_lesson.predictions import epsilon, fixedsmall
from ddpm_lesson.process import GaussianDiffusion
from ddpm_lesson.schedules import linear
from ddpm_lesson.spacing import log_snr
from ddpm_lesson.timesteps import Uniform
from ddpm_lesson.training import train

PLACE = re.compile(r"\{([a-z_A-Z0-9]+)\}")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = World(tmp_path_factory.mktemp("world"))
    yield made
    if made.lock:
        made.lock.release()


class Scaled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, x, t):
        return self.scale * x


class InATuple(torch.nn.Module):
    def forward(self, x, t):
        return (x,)


@pytest.fixture(scope="module")
def names(world):
    """What a call in Python may name."""
    process = GaussianDiffusion(linear(10))
    here = dict(data=data, torch=torch, process=process, x_0=(x_0 := torch.zeros(2, 1, 8, 8)), t=torch.tensor([0, 1]))
    made = (Recipe, ClassifierRecipe, GeneratorRecipe, Sampling, Gaussian, GaussianDiffusion, UNet, Classifier, linear)
    more = (load_weights, load_pretrained, bits_per_dim, log_snr, Uniform)
    here |= {each.__name__: each for each in (*made, *more)}
    trained = load_weights(world("weights"))
    trainer = dict(steps=1, loss=partial(simple_loss, process, epsilon))
    here |= dict(trained=trained, unet=trained.model, Trainer=GaussianDiffusionTrainer)
    here |= dict(network=Scaled(), in_a_tuple=InATuple(), bright=torch.linspace(0, 1, 128).view_as(x_0))
    here |= dict(epsilon=epsilon, fixedsmall=fixedsmall)
    here["first"] = lambda batches, **options: next(train(Scaled(), process, batches, **options, **trainer))
    return here


def filled(text: str, world: World) -> str:
    return PLACE.sub(lambda found: str(world(found[1])) if found[1] in MADE else found[0], text)


def pattern(told: str) -> str:
    """A regular expression of a sentence in which ... stands for anything."""
    return ".*".join(re.escape(part) for part in told.split("..."))


def said_by(call: str, names: dict) -> str:
    with pytest.raises((ValueError, TypeError, OSError)) as error:
        eval(call, names)
    return str(error.value)


def warned_by(call: str, names: dict) -> str:
    with pytest.warns(ImageRangeWarning) as warnings:
        eval(call, names)
    (warning,) = warnings
    return str(warning.message)


def said_by_command(call: str, status: int) -> str:
    words = shlex.split(call)
    has_device = words[0:1] in (["train"], ["sample"], ["evaluate"])
    words += ["--device", "cpu"] * (has_device and status != 2 and "--device" not in words)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            got = cli.main(words)
        except SystemExit as ended:
            got = ended.code
    lines = [line for line in re.split("[\r\n]", err.getvalue()) if line.strip()]
    assert got == (0 if status == DONE else status), (out.getvalue(), err.getvalue())
    assert "Traceback" not in err.getvalue() and "bug in" not in err.getvalue()
    if status == DONE:
        return " ".join([out.getvalue(), err.getvalue()])
    assert err.getvalue().endswith("\n")
    begin, end = ("ddpm_lesson: ", "") if status == 1 else ("python -m ddpm_lesson", "; see --help")
    assert lines[-1].startswith(begin) and lines[-1].endswith(end)
    assert sum(line.startswith(begin) and "warning: " not in line for line in lines) == 1
    return lines[-1]


@pytest.mark.skipif(sys.platform == "win32", reason="the table's paths and the system's own words are those of POSIX")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.group}: {row.call}"[:90])
def test_bad_input_is_answered_by_a_sentence(row, world, names, tmp_path, monkeypatch):
    if "/proc/" in row.call and not Path("/proc").is_dir():
        pytest.skip("no /proc, a folder in which nobody may make a file")
    call, told = filled(row.call, world), filled(row.told, world)
    monkeypatch.chdir(tmp_path)
    if row.status in (RAISES, WARNS):
        said = (said_by if row.status == RAISES else warned_by)(call, names)
    else:
        said = said_by_command(call, row.status)
    assert re.search(pattern(told), said), said
    assert len(said) < 1000 or row.status == DONE
    assert not list(tmp_path.iterdir())


def test_the_table_has_no_row_twice_and_more_than_500():
    twice = [call for call, n in Counter(row.call for row in ROWS).items() if n > 1]
    assert not twice and len(ROWS) >= 500


def test_every_row_says_more_than_that_something_is_wrong():
    short = [row for row in ROWS if len(row.told.replace("...", "").strip()) < 12]
    assert not short


def test_every_file_is_used():
    named = {name for row in ROWS for name in PLACE.findall(row.call)}
    assert named <= set(MADE)
    assert set(MADE) - named <= {"clean.safetensors", "noisy.safetensors"}  # by other names


def test_the_page_is_written_from_the_table():
    assert PAGE.read_text(encoding="utf-8") == page(), f"python {bad_input.__file__} --write"

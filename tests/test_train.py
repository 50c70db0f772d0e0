"""The commands train and status: nothing is lost, nothing is begun anew by itself, and one sentence says what to do."""

import contextlib
import errno
import io
import json
import shutil

import command_line
import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

from ddpm_lesson import cli
from ddpm_lesson.experiments import locks
from ddpm_lesson.experiments.checkpoints import load_tensors
from ddpm_lesson.experiments.recipes import PRESETS, Recipe
from ddpm_lesson.experiments.runs import Run

TINY = "--T 6 --ch 8 --ch-mult 1 --attn --num-groups 4 --batch-size 4 --device cpu".split()
DIGITS = ["--preset", "digits", *TINY, "--warmup", 2]
CONSTANT = ["--data", "digits", *TINY]


def run(*arguments):
    """Exit status, what is printed, and the errors without the progress bar."""
    result = command_line.run(*arguments)
    lines = [line.rpartition("\r")[2] for line in result.err.split("\n")]
    return result.status, result.out, [line for line in lines if line and "images/s" not in line]


def told(*arguments):
    """The one line of an error that comes before all work."""
    status, out, err = run("train", *arguments)
    assert (status, out, len(err)) == (1, "", 1), err
    assert err[0].startswith("ddpm_lesson: ")
    return err[0].removeprefix("ddpm_lesson: ")


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """done: 4 steps of the preset with a falling rate. grown: 2 steps with a constant one."""
    place = tmp_path_factory.mktemp("kept")
    for name, options, steps in (("done", DIGITS, 4), ("grown", CONSTANT, 2)):
        status, out, _ = run("train", *options, "--steps", steps, "--out", place / name)
        weights = place / name / "weights.safetensors"
        assert (status, out) == (0, f"Done: {weights} holds the averaged network after {steps} steps.\n")
    return place


@pytest.fixture
def done(kept, tmp_path):
    return shutil.copytree(kept / "done", tmp_path / "done")


def unused(*_, **__):
    raise AssertionError("no image is needed")


# A run that is done.


@pytest.mark.parametrize("options", [[], [*DIGITS, "--steps", 4]], ids=["out alone", "the same command"])
def test_a_finished_run_says_so_and_is_untouched(done, monkeypatch, options):
    monkeypatch.setattr(cli.train, "load_images", unused)
    before = contents(done)
    status, out, err = run("train", *options, "--out", done)
    expected = f"Already finished: {done / 'weights.safetensors'} holds the averaged network after 4 steps; "
    expected += f"more steps: --from {done} --out FOLDER begins another run with its weights.\n"
    assert (status, out, err) == (0, expected, [])
    assert contents(done) == before
    with FileLock(done / ".lock"):  # whoever works there
        assert run("train", *options, "--out", done)[0] == 0


def test_a_finished_run_says_how_to_go_on(kept, tmp_path):
    grown = shutil.copytree(kept / "grown", tmp_path / "run")
    assert run("train", "--out", grown)[1].endswith("after 2 steps; more steps: --steps.\n")
    assert run("train", "--out", grown, "--steps", 3)[1].endswith("after 3 steps.\n")
    assert Recipe.from_json((grown / "recipe.json").read_text()).steps == 3


def test_another_recipe_in_the_folder_of_a_finished_run_is_refused(done):
    assert "holds a run of another recipe (lr = 0.001, now 0.5)" in told("--out", done, "--lr", 0.5)
    values = json.loads((done / "recipe.json").read_text())
    (done / "recipe.json").write_text(json.dumps(values | {"seed": 3}))
    assert "recipe.json was edited (seed = 3 there, 0 in the state)" in told("--out", done)
    (done / "recipe.json").unlink()
    assert run("train", "--out", done)[0] == 0  # the state holds the recipe


def test_what_is_missing_of_a_finished_run_is_made_from_its_state(done, monkeypatch):
    monkeypatch.setattr(cli.train, "load_images", unused)
    before = contents(done)
    for path in (done / "weights.safetensors", done / "previews" / "0000004.png"):
        path.unlink()
    status, out, err = run("train", "--out", done)
    assert status == 0 and out.startswith("Already finished: ")
    assert [line.partition(" was missing: ")[2] for line in err] == ["written anew from the state", "drawn anew"]
    assert contents(done) == before


@pytest.mark.parametrize("breaks", ["draw_preview", "saved.mend_weights"])
def test_mending_that_fails_gives_the_lock_back(done, monkeypatch, breaks):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    (done / "previews" / "0000004.png").unlink()
    monkeypatch.setattr(f"ddpm_lesson.cli.train.{breaks}", full)
    status, _, err = run("train", "--out", done)
    assert status == 1 and "the disk is full" in err[0]
    assert not locks._held and not (done / ".process.json").exists()


def test_a_state_that_is_missing_is_no_beginning(done):
    (done / "state.safetensors").unlink()
    before = contents(done)
    assert f"train --from {done} --out ANOTHER goes on with its weights" in told(*DIGITS, "--steps", 4, "--out", done)
    assert contents(done) == before


# A first try, and divergence.


@pytest.mark.parametrize("lr, message", [("1e30", " is not finite in step 2"), ("1e38", "lr = 1e+38 is too large for")])
def test_a_wrong_first_try_blocks_nothing(tmp_path, lr, message):
    status, _, err = run("train", *CONSTANT, "--lr", lr, "--steps", 9, "--out", tmp_path / "run")
    assert status == 1 and message in err[-1]
    assert "a lower lr, a longer warmup or a smaller clip_norm may keep it finite" in err[-1]
    assert err[-1].endswith("Nothing was saved: a corrected command just begins")
    status, out, _ = run("train", *CONSTANT, "--lr", "1e-3", "--steps", 2, "--out", tmp_path / "run")
    assert status == 0 and out.startswith("Done: ")
    assert run("train", *CONSTANT, "--lr", "1e-3", "--steps", 2, "--out", tmp_path / "whole")[0] == 0
    for name in ("state.safetensors", "weights.safetensors", "recipe.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_divergence_keeps_the_last_save_and_says_what_to_change(tmp_path, monkeypatch):
    steps = Run.steps

    def exploding(self):
        for step in steps(self):
            yield step
            if step.step == 5:
                with torch.no_grad():
                    next(self.model.parameters()).fill_(torch.nan)

    monkeypatch.setattr(Run, "steps", exploding)
    folder = tmp_path / "run"
    status, _, err = run("train", *CONSTANT, "--steps", 9, "--save-every", 2, "--out", folder)
    assert status == 1 and "is not finite in step 6" in err[-1]
    again = f"The save of step 4 is kept; with other options --from {folder} begins with its weights in another folder"
    assert err[-1].endswith(again)
    monkeypatch.undo()
    for name in ("state", "weights"):
        tensors, about = load_tensors(folder / f"{name}.safetensors")
        assert about["step"] == 4 and all(tensor.isfinite().all() for tensor in tensors.values())
    # What the sentence says helps.
    status, out, _ = run("train", "--from", folder, "--lr", "1e-5", "--steps", 2, "--out", tmp_path / "calmer")
    assert status == 0 and out.startswith("Done: ")


# From weights.


def test_from_weights_takes_their_recipe_and_the_options(kept, tmp_path):
    command = ["train", "--from", kept / "done", "--lr", "1e-4", "--steps", 6, "--out", tmp_path / "run"]
    status, _, err = run(*command, "--device", "cpu")
    source = kept / "done" / "weights.safetensors"
    assert status == 0 and err[-1] == f"{tmp_path / 'run'}: begins, 6 steps, from {source}"
    made, theirs = (json.loads((place / "recipe.json").read_text()) for place in (tmp_path / "run", kept / "done"))
    assert {k: v for k, v in made.items() if theirs[k] != v} == {"lr": 1e-4, "steps": 6}
    assert run(*command)[1].startswith("Already finished: ")
    command[2] = kept / "grown" / "weights.safetensors"
    assert "began from other weights: leave out --from to go on with it" in told(*command[1:])
    assert "began from no weights" in told("--from", kept / "done", "--out", kept / "grown")


def test_from_weights_that_ship_by_name(tmp_path):
    options = ["--from", "digits_ddpm", "--device", "cpu", "--steps", 1, "--batch-size", 2]
    assert run("train", *options, "--out", tmp_path / "run")[0] == 0
    made = Recipe.from_json((tmp_path / "run" / "recipe.json").read_text())
    assert (made.ch, made.data, made.steps, made.batch_size) == (PRESETS["digits"].ch, "digits", 1, 2)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--from", "imagenet"], "no weights 'imagenet' ship with the course; there are "),
        (["--from", "no.safetensors"], "there is no file no.safetensors"),
        (["--from", "runs/none"], "there is no file runs/none"),
        (["--from", "."], "there is no file weights.safetensors"),
        (["--from", "digits_classifier"], "must name a diffusion model, got "),
        (["--from", "digits_ddpm", "--ch", "16"], "is of another network (ch = 32, here 16): give the options"),
        (
            ["--preset", "digits", "--from", "mnist_ddpm"],
            "is of another network (ch = 16, here 32, ch_mult = [1, 2, 4]",
        ),
    ],
)
def test_mistakes_in_from_are_one_line_and_leave_nothing(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    assert message in told(*options, "--device", "cpu")
    assert list(tmp_path.iterdir()) == []


# Before the work.


def test_a_second_start_gives_way_before_any_image_is_read(done, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.05)
    monkeypatch.setattr(cli.train, "load_images", unused)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".process.json").write_text('{"pid": 7, "host": "abacus", "since": "2026-01-02 03:04:05"}')
    with FileLock(tmp_path / "run" / ".lock"):
        err = told(*DIGITS, "--out", tmp_path / "run")
    assert err.startswith(f"process 7 on abacus, since 2026-01-02 03:04:05 works in {tmp_path / 'run'}: wait until")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock", ".process.json"]


@pytest.mark.parametrize("root, out", [("p", "p/run"), ("p", "p"), ("p/a", "p"), ("p", "p/a/../b/run"), ("p", "l/run")])
def test_a_run_inside_of_its_images_is_refused_before_anything_is_made(tmp_path, monkeypatch, root, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p" / "a").mkdir(parents=True)
    (tmp_path / "l").symlink_to("p")
    Image.new("RGB", (9, 9)).save(tmp_path / "p" / "a" / "0.png")
    before = sorted(tmp_path.rglob("*"))
    err = told("--preset", "folder", "--root", root, "--out", out, "--device", "cpu")
    assert err.startswith(
        f"--root {tmp_path / root} and --out {out} must not lie inside of each other: the run's pictures"
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    err = told(*DIGITS, "--out", tmp_path / "file" / "run")
    assert err == f"{tmp_path / 'file' / 'run'} cannot be made (Not a directory): name another folder"


def test_home_is_meant_by_its_sign(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))  # of Windows
    monkeypatch.chdir(tmp_path)
    assert run("train", *CONSTANT, "--steps", 1, "--out", "~/run")[0] == 0
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["run"]  # matplotlib may keep its cache there, too


# What it says, and what it draws.


def test_the_summary_says_what_is_about_to_happen(kept, tmp_path, monkeypatch):
    grown = shutil.copytree(kept / "grown", tmp_path / "run")
    _, _, err = run("train", "--out", grown, "--steps", 3, "--device", "cpu")
    parameters = sum(tensor.numel() for tensor in load_tensors(grown / "weights.safetensors")[0].values())
    assert err == [
        "digits: 1415 images of 1 x 8 x 8, 10 classes, which the network is not told (--conditional tells it)",
        f"network: {parameters:,} parameters on cpu; 4 images a step, learning rate 0.0002",
        f"{grown}: goes on after step 2 of 3",
    ]
    parts = ["--conditional", "--warmup", 2]
    hints = [run("train", *DIGITS, *parts, "--steps", n, "--out", tmp_path / str(n))[2][3:] for n in (3, 4)]
    told = "hint: the learning rate rises over 2 steps, of the run's 3, and stays below 0.001: lower --warmup"
    assert hints == [[told], []]
    monkeypatch.setattr(cli.train, "given_fields", lambda options, kind: {"steps": 4})
    parsed = cli.parser().parse_args(["train", "--out", str(grown), "--device", "cpu"])
    parsed.quiet = True
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert parsed.command(parsed) == 0
    assert err.getvalue() == "" and out.getvalue().startswith("Done: ")


def test_a_preview_that_a_kill_lost_is_drawn(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(run):
        raise Killed

    monkeypatch.setattr(cli.train, "preview", kill)
    command = ["train", *CONSTANT, "--save-every", 2, "--preview-every", 2, "--steps", 3, "--out", tmp_path / "run"]
    with pytest.raises(Killed):
        run(*command)
    assert load_tensors(tmp_path / "run" / "state.safetensors")[1]["step"] == 2
    monkeypatch.undo()
    assert run(*command)[0] == 0
    assert run(*[*command[:-1], tmp_path / "whole"])[0] == 0
    names = ("0000002.png", "0000003.png")
    assert sorted(path.name for path in (tmp_path / "run" / "previews").iterdir()) == [*names]
    for name in names:
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(Image.open(tmp_path / run / "previews" / name)) for run in ("run", "whole")]
            assert np.array_equal(*map(np.asarray, opened))


# status.


def status_of(*folders):
    status, out, err = run("status", *folders)
    assert (status, err) == (0, [])
    return out


def test_status_says_how_far_a_run_is(kept, done):
    lines = status_of(done, kept / "grown").splitlines()
    assert lines[0] == f"{done}:" and lines[7] == f"{kept / 'grown'}:"
    told = {line[2:10].strip(): line[11:] for line in lines[1:7]}
    assert list(told) == ["recipe", "step", "loss", "time", "process", "files"]
    assert told["recipe"].startswith("digits, conditional True, T 6, schedule cosine,")
    assert (told["step"], told["process"]) == ("4 of 4", "none; finished")
    assert told["loss"].endswith(", the mean of the last 4 steps") and told["time"].startswith("0:00:0")
    assert "previews (1 file) " in told["files"] and ".lock" not in told["files"]


def test_status_of_a_run_that_works_or_was_stopped(kept, tmp_path):
    recipe = Recipe.from_json((kept / "grown" / "recipe.json").read_text())
    grown = shutil.copytree(kept / "grown", tmp_path / "run")
    content = (grown / "log.csv").read_text().splitlines()
    rows = [f"{step},1.0,1.0,{10 * step}" for step in (1, 2, 3)]
    (grown / "log.csv").write_text("\r\n".join([content[0], *rows, ""]))
    (grown / "recipe.json").write_text(recipe.to_json().replace('"steps": 2', '"steps": 9'))
    spaced = shutil.copytree(grown, tmp_path / "my run")
    assert f"goes on with: train --out '{spaced}'\n" in status_of(spaced)  # as a shell takes it
    stopped = status_of(grown)
    assert "step     2 of 9\n" in stopped and f"process  none; goes on with: train --out {grown}\n" in stopped
    (grown / ".process.json").write_text('{"pid": 7, "host": "abacus", "since": "2026-01-02 03:04:05"}')
    with FileLock(grown / ".lock"):
        works = status_of(grown)
    assert "step     3 of 9, saved after 2\n" in works and "loss     1, the mean of the last 3 steps\n" in works
    assert "time     0:00:30 used, about 0:01:00 left\n" in works
    assert "process  process 7 on abacus, since 2026-01-02 03:04:05 works here\n" in works


@pytest.mark.parametrize("name", ["state.safetensors", "weights.safetensors", "log.csv", "recipe.json"])
@pytest.mark.parametrize("damage", ["missing", "cut short"])
def test_status_says_what_is_missing_or_damaged(done, name, damage):
    path = done / name
    content = path.read_bytes()
    path.unlink()
    if damage == "cut short":
        path.write_bytes(content[: len(content) // 2])
    out = status_of(done)
    if (name, damage) == ("recipe.json", "missing"):
        assert "note" not in out  # the state holds it
    else:
        note = next(line for line in out.splitlines() if line.startswith("  note     "))
        assert str(path) in note and "Traceback" not in out
    assert not (done / ".process.json").exists()


def test_status_of_what_is_no_run_is_one_line(tmp_path):
    for folder, message in ((tmp_path, "holds no run: expected a folder that train has made"), ("x", "is no folder")):
        status, out, err = run("status", folder)
        assert (status, out, len(err)) == (1, "", 1) and message in err[0]
    assert list(tmp_path.iterdir()) == []


def test_images_are_found_again_from_another_folder(tmp_path, monkeypatch):
    for i in range(4):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (60 * i, 9, 9)).save(tmp_path / "photos" / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    options = ["train", "--data", "folder", "--size", 8, *TINY, "--steps", 2, "--out", tmp_path / "run"]
    assert run(*options, "--root", "photos")[0] == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    status, out, err = run(*options, "--steps", 3)
    assert status == 0 and "Done: " in out, err

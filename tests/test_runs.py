"""Runs: killed at any moment they go on bit by bit; what does not belong to them is refused and left alone."""

import csv
import dataclasses
import itertools
import json
import os
import random
import shutil
import signal
import time

import pytest
import torch
from kill_runs import kill_again_and_again, launcher, start_at_once
from PIL import Image

from ddpm_lesson import cli, data
from ddpm_lesson.batches import ordered
from ddpm_lesson.experiments.build import load_images
from ddpm_lesson.experiments.checkpoints import CheckpointError, load_tensors, save_tensors
from ddpm_lesson.experiments.locks import worker
from ddpm_lesson.experiments.pretrained import PretrainedDiffusion, load_weights
from ddpm_lesson.experiments.recipes import Recipe
from ddpm_lesson.experiments.runs import LOG_FIELDS, Run
from ddpm_lesson.experiments.sampling import Sampling
from ddpm_lesson.predictions import learned

TINY = {"T": 5, "ch": 8, "ch_mult": (1,), "attn": (), "num_groups": 4, "batch_size": 4, "lr": 1e-3, "ema_decay": 0.9}
# Between them: all that is random or remembered. With T = 2 the 8 steps fill the history of loss_second_moment.
VARIANTS = {
    "hybrid": {"conditional": True, "label_dropout": 0.3, "dropout": 0.2, "timesteps": "loss_second_moment", "T": 2}
    | {"loss": "hybrid", "var_type": "learned_range", "optimizer": "adamw", "weight_decay": 0.1, "warmup": 7},
    "accumulate": {"accumulate": 2, "dropout": 0.1, "rate": "cosine", "timesteps": "antithetic", "attn": (0,)},
}


@pytest.fixture(scope="module")
def images():
    """100 digits: 25 batches of 4 are an epoch, so that runs of 40 steps see more than one."""
    whole = data.digits("train")
    return data.Images(whole.data[:100], whole.labels[:100], levels=17, classes=whole.classes)


def recipe(variant="hybrid", steps=8, **changes):
    return Recipe(**{**TINY, **VARIANTS[variant], "steps": steps, **changes})


def carry_out(run, save_every=None):
    for step in run.steps():
        if save_every and step.step % save_every == 0:
            run.save()
    run.save()


def log_of(folder):
    """All columns but the seconds."""
    with open(folder / "log.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == list(LOG_FIELDS)
    assert all(float(row[3]) >= 0 for row in rows[1:])
    return [row[:3] for row in rows[1:]]


def contents(folder):
    """Every file but the lock's."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name not in (".lock", ".process.json")}


def assert_same(folder, whole):
    assert log_of(folder) == log_of(whole)
    for name in ("recipe.json", "state.safetensors", "weights.safetensors"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.fixture(scope="module", params=VARIANTS)
def whole(request, images, tmp_path_factory):
    """A run of 8 steps that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("whole") / request.param
    carry_out(Run(recipe(request.param), folder, images))
    return folder


# What a run leaves.


def test_files_of_a_run(whole):
    assert sorted(contents(whole)) == "log.csv recipe.json state.safetensors weights.safetensors".split()
    assert [row[0] for row in log_of(whole)] == [str(k) for k in range(1, 9)]
    _, about = load_tensors(whole / "state.safetensors")
    assert about["step"] == about["updates"] == 8
    assert Recipe.from_values(about["recipe"]) == recipe(whole.name) and about["classes"] == list("0123456789")


def test_images_may_be_moved_but_not_exchanged(images, tmp_path):
    carry_out(Run(recipe(steps=2, root="here"), tmp_path, images))
    assert Run(recipe(steps=2, root="there"), tmp_path, images).step == 2
    changed = images.data.clone()
    changed[-1, 0, 0, 0] ^= 1
    others = data.Images(changed, images.labels, levels=images.levels, classes=images.classes)
    with pytest.raises(ValueError, match="the images are not those that the run in .* began with"):
        Run(recipe(steps=2), tmp_path, others)


def test_equal_recipes_give_equal_files(whole, images, tmp_path):
    torch.rand(3)  # another state of PyTorch's generator
    carry_out(Run(Recipe.from_json((whole / "recipe.json").read_text()), tmp_path, images), save_every=5)
    assert_same(tmp_path, whole)


def test_another_seed_gives_another_run(whole, images, tmp_path):
    run = Run(recipe(whole.name, steps=2, seed=1), tmp_path, images)
    carry_out(run)
    assert log_of(tmp_path)[0] != log_of(whole)[0]


def test_the_callers_random_state_is_untouched(images, tmp_path, device):
    if device.type != "cpu":
        gpu = getattr(torch, device.type).get_rng_state()
    before = torch.get_rng_state()
    run = Run(recipe(steps=3), tmp_path, images, device=device)
    for _ in run.steps():
        assert torch.equal(torch.get_rng_state(), before)
    run.save()
    assert torch.equal(torch.get_rng_state(), before)
    if device.type != "cpu":
        assert torch.equal(getattr(torch, device.type).get_rng_state(), gpu)


def test_dropout_and_label_dropout_change_from_step_to_step(images, tmp_path):
    run = Run(recipe(steps=6), tmp_path, images)
    seen = []
    run.model.register_forward_hook(lambda module, inputs, given, output: seen.append(given["y"]), with_kwargs=True)
    masks = []
    dropout = next(module for module in run.model.modules() if isinstance(module, torch.nn.Dropout))
    dropout.register_forward_hook(lambda module, inputs, output: masks.append(output == 0))
    for _ in run.steps():
        pass
    left_out = torch.stack(seen) == 10
    assert 0 < left_out.double().mean() < 0.7  # 0.3 of 24, whose standard deviation is 0.094
    masks = masks[:: len(masks) // 6]
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(masks))


def test_flips_follow_the_step_too(images, tmp_path):
    # Clothes may be mirrored; the digits stand for them. Stopped in the middle or not, the same images are mirrored.
    flipped = recipe("accumulate", steps=6, data="fashion_mnist", flip=True)
    carry_out(Run(flipped, tmp_path / "whole", images))
    carry_out_partly(Run(flipped, tmp_path / "parts", images), 3)
    carry_out(Run(flipped, tmp_path / "parts", images))
    assert_same(tmp_path / "parts", tmp_path / "whole")
    plain = dataclasses.replace(flipped, flip=False)
    carry_out(Run(plain, tmp_path / "plain", images))
    assert log_of(tmp_path / "plain")[0] != log_of(tmp_path / "whole")[0]


def test_no_path_of_this_machine_is_in_the_weights(images, tmp_path):
    secret = tmp_path / "home of a user"
    carry_out(Run(recipe(steps=1, root=str(secret)), tmp_path / "run", images))
    written = (tmp_path / "run" / "weights.safetensors").read_bytes()
    assert b"home of a user" not in written and str(tmp_path).encode() not in written
    assert str(secret) in json.loads((tmp_path / "run" / "recipe.json").read_text())["root"]


def test_losses_are_those_of_all_steps(images, tmp_path):
    losses = []
    for steps in (4, 3):
        run = Run(recipe("hybrid", steps=7), tmp_path, images)
        losses += [step.loss for step in itertools.islice(run.steps(), steps)]
        run.save()
    assert run.losses().tolist() == pytest.approx(losses, rel=1e-6)


# Stopped and gone on with.


def carry_out_partly(run, steps):
    for _ in itertools.islice(run.steps(), steps):
        pass
    run.save()


def test_stopped_at_every_step(whole, images, tmp_path):
    for stop in range(1, 9):
        folder = tmp_path / str(stop)
        carry_out_partly(Run(recipe(whole.name), folder, images), stop)
        carry_out(Run(recipe(whole.name), folder, images))
        assert_same(folder, whole)


def test_stopped_after_every_step(whole, images, tmp_path):
    for _ in range(8):
        carry_out_partly(Run(recipe(whole.name), tmp_path, images), 1)
    assert_same(tmp_path, whole)


def test_left_and_taken_up_again_without_a_file(whole, images, tmp_path):
    run = Run(recipe(whole.name), tmp_path, images)
    for steps in (1, 3, 2, 2):
        for _ in itertools.islice(run.steps(), steps):
            torch.rand(1)
    run.save()
    assert_same(tmp_path, whole)


def test_what_was_not_saved_is_made_again(whole, images, tmp_path):
    run = Run(recipe(whole.name), tmp_path, images)
    carry_out_partly(run, 3)
    assert [step.step for step in itertools.islice(run.steps(), 4)] == [4, 5, 6, 7]
    assert len(log_of(tmp_path)) == 7
    again = Run(recipe(whole.name), tmp_path, images)
    assert again.step == 3 and len(log_of(tmp_path)) == 3
    carry_out(again)
    assert_same(tmp_path, whole)


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="asks Linux which files are mapped")
def test_a_run_that_goes_on_keeps_no_file_mapped(whole, images, tmp_path):
    shutil.copytree(whole, tmp_path / "mapped")
    again = Run(recipe(whole.name), tmp_path / "mapped", images)
    with open("/proc/self/maps") as maps:
        assert "mapped/" not in maps.read()
    assert again.step == 8


def test_a_row_that_was_cut_off_is_made_again(whole, images, tmp_path):
    carry_out_partly(Run(recipe(whole.name), tmp_path, images), 3)
    with open(tmp_path / "log.csv", "a") as log:
        log.write("4,0.12")
    carry_out(Run(recipe(whole.name), tmp_path, images))
    assert_same(tmp_path, whole)


def test_a_run_that_is_done_has_no_more_steps(whole, images):
    before = contents(whole)
    run = Run(recipe(whole.name), whole, images)
    assert run.step == 8 and list(run.steps()) == []
    assert contents(whole) == before


class Killed(BaseException):
    """Stands for the end of the process: nothing in the package catches it."""


@pytest.mark.parametrize("name", ["fsync", "replace"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_cut_off_at_every_point_of_saving(images, tmp_path, monkeypatch, name, after):
    # 3 steps with 2 saves: at the n-th call, for every n, the process ends right before it or right after it.
    done = getattr(os, name)
    short = recipe(steps=3)
    carry_out(Run(short, tmp_path / "whole", images))

    def die_at(n):
        count = itertools.count()

        def call(*args):
            dies = next(count) == n
            if not (dies and not after):
                done(*args)
            if dies:
                raise Killed

        monkeypatch.setattr(os, name, call)

    for n in itertools.count():
        folder = tmp_path / str(n)
        die_at(n)
        try:
            carry_out(Run(short, folder, images), save_every=2)
            break
        except Killed:
            pass
        finally:
            monkeypatch.undo()
        carry_out(Run(short, folder, images))
        assert_same(folder, tmp_path / "whole")
        assert not [file for file in folder.iterdir() if file.suffix == ".partial"]
    assert n == {"replace": 7, "fsync": 9}[name]  # recipe, state, log, and twice weights and state, after the log


def test_a_run_that_counts_as_done_has_its_last_weights(images, tmp_path, monkeypatch):
    # Were the state written first, a run cut off between the two files of its last save would have no steps left, and
    # its weights would stay those of the save before.
    run = Run(recipe(steps=2), tmp_path, images)
    carry_out_partly(run, 1)
    assert [step.step for step in run.steps()] == [2]
    save = PretrainedDiffusion.save

    def cut_off(*args):
        save(*args)
        raise Killed

    monkeypatch.setattr(PretrainedDiffusion, "save", cut_off)
    with pytest.raises(Killed):
        run.save()
    state, weights = (load_tensors(tmp_path / f"{name}.safetensors")[1]["step"] for name in ("state", "weights"))
    assert (state, weights) == (1, 2)


def test_in_mixed_precision_too(images, tmp_path):
    mixed = recipe("accumulate", steps=4, mixed_precision=True)
    carry_out(Run(mixed, tmp_path / "whole", images))
    carry_out_partly(Run(mixed, tmp_path / "parts", images), 2)
    carry_out(Run(mixed, tmp_path / "parts", images))
    assert_same(tmp_path / "parts", tmp_path / "whole")
    tensors, _ = load_tensors(tmp_path / "whole" / "state.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    full = dataclasses.replace(mixed, mixed_precision=False)
    carry_out(Run(full, tmp_path / "full", images))
    assert log_of(tmp_path / "full") != log_of(tmp_path / "whole")


def test_a_compiled_network_leaves_the_same_names(images, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    run = Run(recipe("accumulate", steps=1, compiled=True), tmp_path / "compiled", images)
    carry_out(run)
    carry_out(Run(recipe("accumulate", steps=1), tmp_path / "plain", images))
    assert compiled == [run.model]
    a, b = (load_tensors(tmp_path / name / "state.safetensors")[0] for name in ("compiled", "plain"))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# kill -9.

FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork and no kill -9 on this system")


@pytest.fixture(scope="module")
def launch():
    """launch(arguments, log) starts a command line in a process of its own."""
    with launcher() as start:
        yield start


def wait_for_rows(folder, rows):
    """Until the log holds so many rows."""
    end = time.monotonic() + 60
    while not (folder / "log.csv").exists() or (folder / "log.csv").read_bytes().count(b"\n") <= rows:
        assert time.monotonic() < end, "the process makes no steps"
        time.sleep(0.005)


OFTEN = ["--save-every", 3, "--preview-every", 1000, "--device", "cpu", "--threads", 1]


@pytest.fixture(scope="module", params=VARIANTS)
def long(request, launch, tmp_path_factory):
    """A run of 40 steps by the command line, in a process that nothing has interrupted."""
    place = tmp_path_factory.mktemp("long")
    (place / "recipe.json").write_text(recipe(request.param, steps=40).to_json())
    arguments = ["train", "--recipe", place / "recipe.json", "--out", place / request.param, *OFTEN]
    assert launch(arguments, place / "printed").ended() == 0, (place / "printed").read_text()
    return place / request.param


@FORK
def test_killed_at_random_times(long, launch, tmp_path):
    arguments = ["train", "--recipe", long / "recipe.json", "--out", tmp_path / "killed", *OFTEN]
    seen = kill_again_and_again(launch, arguments, tmp_path / "killed", 5, 40, random.Random(long.name))
    assert seen == sorted(seen) and all(step % 3 == 0 for step in seen)
    assert_same(tmp_path / "killed", long)


@FORK
@pytest.mark.parametrize("long", ["hybrid"], indirect=True)
def test_started_at_once_one_works_and_the_others_give_way(long, launch, tmp_path):
    arguments = ["train", "--recipe", long / "recipe.json", "--out", tmp_path / "run", *OFTEN]
    worked, done, busy = start_at_once(launch, arguments, tmp_path / "run", 3)
    assert worked == 1 and done + busy == 2
    assert_same(tmp_path / "run", long)


@FORK
@pytest.mark.parametrize("long", ["hybrid"], indirect=True)
def test_a_running_run_is_looked_at_and_drawn_from(long, launch, tmp_path):
    arguments = ["train", "--recipe", long / "recipe.json", "--out", tmp_path / "run", *OFTEN]
    process = launch(arguments, tmp_path / "printed")
    wait_for_rows(tmp_path / "run", 8)
    os.kill(process.number, signal.SIGSTOP)  # it holds the lock, and waits
    try:
        found = worker(tmp_path / "run")
        assert found.pid == process.number
        assert load_weights(tmp_path / "run" / "weights.safetensors").step in (3, 6, 9, 12)
        again = launch(arguments, tmp_path / "again")
        assert again.ended() == 1
        told = f"ddpm_lesson: {found} works in {tmp_path / 'run'}: wait until it ends, stop it there, or name another"
        assert (tmp_path / "again").read_text().startswith(told)
    finally:
        os.kill(process.number, signal.SIGCONT)
    assert process.ended() == 0 and worker(tmp_path / "run") is None
    assert_same(tmp_path / "run", long)


@FORK
def test_asked_to_stop_it_saves_and_goes_on_later(long, launch, tmp_path):
    which = {"hybrid": signal.SIGINT, "accumulate": signal.SIGTERM}[long.name]
    folder, log = tmp_path / "run", tmp_path / "printed"
    arguments = ["train", "--recipe", long / "recipe.json", "--out", folder, *OFTEN, "--save-every", 1000]
    process = launch(arguments, log)
    wait_for_rows(folder, 5)
    os.kill(process.number, which)
    assert process.ended() == 128 + which
    told = log.read_text()
    assert "Stopping: this step is finished and saved first." in told
    assert "The same command goes on from there." in told and "Traceback" not in told
    for name in ("state", "weights"):
        step = load_tensors(folder / f"{name}.safetensors")[1]["step"]
        assert 5 <= step < 40 and len(log_of(folder)) == step
    assert launch(arguments, log).ended() == 0
    assert_same(folder, long)


def without_end(folder):
    """The options of a run in a folder that makes a million steps unless it is stopped."""
    (folder / "recipe.json").write_text(recipe("accumulate", steps=10**6, rate="constant").to_json())
    return ["train", "--recipe", folder / "recipe.json", "--out", folder / "run", *OFTEN, "--save-every", 10**6]


def paused(process):
    """Let a process stand still, so that all that happens before `signal.SIGCONT` finds it at one moment."""
    os.kill(process.number, signal.SIGSTOP)
    return process


def assert_all_is_saved(folder):
    step = load_tensors(folder / "state.safetensors")[1]["step"]
    assert step == len(log_of(folder)) > 0
    assert load_tensors(folder / "weights.safetensors")[1]["step"] == step


@pytest.fixture
def pipe(tmp_path):
    """The name of a pipe, and the end that is read."""
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe", os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)


@FORK
@pytest.mark.parametrize("options", [[], ["--quiet"]], ids=["bar", "quiet"])
def test_ctrl_c_that_also_ends_who_reads_saves(launch, pipe, tmp_path, options):
    # As in `train ... 2>&1 | tee log`, where tee ends by the same Ctrl-C.
    name, reader = pipe
    process = launch([*without_end(tmp_path), *options], name)
    wait_for_rows(tmp_path / "run", 5)
    paused(process)
    os.close(reader)
    for number in (signal.SIGINT, signal.SIGCONT):
        os.kill(process.number, number)
    assert process.ended(60) in ((130,) if options else (130, 141))  # 141: the bar had found it out before
    assert_all_is_saved(tmp_path / "run")


@FORK
def test_a_bar_that_nobody_reads_any_more_stops_the_run_which_is_saved(launch, pipe, tmp_path):
    name, reader = pipe
    process = launch(without_end(tmp_path), name)
    wait_for_rows(tmp_path / "run", 5)
    os.close(reader)
    assert process.ended(60) == 141
    assert_all_is_saved(tmp_path / "run")


@FORK
@pytest.mark.parametrize("options", [[], ["--quiet"]], ids=["bar", "quiet"])
def test_a_closed_terminal_stops_the_run_which_is_saved(launch, tmp_path, options):
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        pytest.skip("these tests were started by nohup, whose processes ignore SIGHUP")
    terminal, other = os.openpty()
    process = launch([*without_end(tmp_path), *options], os.ttyname(other))
    wait_for_rows(tmp_path / "run", 5)
    paused(process)
    os.close(terminal)
    os.close(other)
    for number in (signal.SIGHUP, signal.SIGCONT):
        os.kill(process.number, number)
    assert process.ended(60) == 128 + signal.SIGHUP
    assert_all_is_saved(tmp_path / "run")


@FORK
def test_without_sighup_a_run_outlives_its_terminal(launch, tmp_path):
    # As after `disown`: the bar's errors are of no account, and the run goes on.
    terminal, other = os.openpty()
    (tmp_path / "recipe.json").write_text(recipe("accumulate", steps=100).to_json())
    arguments = ["train", "--recipe", tmp_path / "recipe.json", "--out", tmp_path / "run", *OFTEN, "--save-every", 100]
    process = launch(arguments, os.ttyname(other))
    wait_for_rows(tmp_path / "run", 5)
    os.close(terminal)
    os.close(other)
    process.ended(60)
    assert len(log_of(tmp_path / "run")) == 100
    assert_all_is_saved(tmp_path / "run")


HANGUP = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []  # Windows has none


@pytest.fixture
def hears(request):
    """A function that sets what a signal does; afterwards it is as before."""

    def let(number, handler):
        before = signal.signal(number, handler)
        request.addfinalizer(lambda: signal.signal(number, before))

    return let


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, *HANGUP])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_the_first_ctrl_c_saves_the_second_waits_the_third_stops(
    images, tmp_path, monkeypatch, capsys, hears, number, times
):
    # They come while the state of step 4 is written. The third leaves that one; else step 5 is made and saved.
    # A terminal that is closed sends SIGHUP up to three times, which are one.
    monkeypatch.setattr(cli.train, "load_images", lambda recipe: images)
    (tmp_path / "recipe.json").write_text(recipe(steps=40).to_json())
    counted = 1 if number in HANGUP else times
    if number in HANGUP:
        hears(number, signal.SIG_DFL)
    handler = signal.getsignal(number)
    save = Run.save

    def interrupted(run):
        save(run)
        if run.step == 4:
            for _ in range(times):
                signal.raise_signal(number)

    monkeypatch.setattr(Run, "save", interrupted)
    arguments = ["train", "--recipe", tmp_path / "recipe.json", "--out", tmp_path / "run", "--save-every", 2]
    ended = cli.main([str(argument) for argument in arguments])
    assert ended == (130 if counted == 3 else 128 + number)
    assert load_tensors(tmp_path / "run" / "state.safetensors")[1]["step"] == (4 if counted == 3 else 5)
    told = capsys.readouterr().err
    assert told.count("this step is finished and saved first") == 1 and "Traceback" not in told
    assert told.count("please wait") == min(counted - 1, 1)
    assert signal.getsignal(number) is handler
    assert not (tmp_path / "run" / ".process.json").exists()


@pytest.mark.parametrize("number", HANGUP)
def test_a_run_that_nohup_started_goes_on_without_its_terminal(images, tmp_path, monkeypatch, hears, number):
    monkeypatch.setattr(cli.train, "load_images", lambda recipe: images)
    hears(number, signal.SIG_IGN)
    monkeypatch.setattr(Run, "save", lambda run, save=Run.save: (save(run), signal.raise_signal(number)))
    (tmp_path / "recipe.json").write_text(recipe(steps=6).to_json())
    arguments = ["train", "--recipe", tmp_path / "recipe.json", "--out", tmp_path / "run", *OFTEN]
    assert cli.main([str(argument) for argument in arguments]) == 0
    assert len(log_of(tmp_path / "run")) == 6 and signal.getsignal(number) == signal.SIG_IGN


# What does not belong.


def test_another_recipe_is_refused_by_its_fields(whole, images):
    before = contents(whole)
    with pytest.raises(ValueError) as error:
        Run(recipe(whole.name, lr=0.5, seed=3), whole, images)
    assert f"{whole} holds a run of another recipe (lr = 0.001, now 0.5, seed = 0, now 3)" in str(error.value)
    with pytest.raises(ValueError, match=r"\(steps = 8, now 7\)"):
        Run(recipe(whole.name, steps=7), whole, images)
    assert contents(whole) == before


def test_more_steps_are_those_of_a_longer_run(images, tmp_path):
    for steps in (3, 8):
        carry_out(Run(recipe("hybrid", steps=steps), tmp_path / "grown", images))
    carry_out(Run(recipe("hybrid", steps=8), tmp_path / "whole", images))
    assert_same(tmp_path / "grown", tmp_path / "whole")


def test_a_rate_that_falls_allows_no_more_steps(images, tmp_path):
    carry_out(Run(recipe("accumulate", steps=2), tmp_path, images))
    with pytest.raises(ValueError, match=r"\(steps = 2, now 8\)"):
        Run(recipe("accumulate", steps=8), tmp_path, images)


def test_a_folder_of_other_files_is_refused_and_untouched(images, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=f"{tmp_path} holds other files and no run: name an empty or a new folder"):
        Run(recipe(), tmp_path, images)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_in_the_place_of_the_folder_is_an_error(images, tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(OSError):
        Run(recipe(), tmp_path / "run", images)
    assert (tmp_path / "run").read_text() == "a file"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"batch_size": 101}, r"batch_size must lie in 1\.\.100, got 101"),
        ({"ch_mult": (1, 1, 1, 1, 1)}, "ch_mult of 5 levels needs sides divisible by 16, got 8 x 8"),
        ({"schedule": "jsd", "T": 30}, "schedule jsd ends at alphas_bar = 0, .* mean_type must be .*, got epsilon"),
        ({"num_groups": 3}, "divisible by num_groups = 3"),
    ],
)
def test_a_recipe_that_cannot_be_carried_out_makes_no_folder(images, tmp_path, changes, message):
    # Else the corrected recipe would be refused: the folder would hold a run of another one.
    with pytest.raises(ValueError, match=message):
        Run(recipe(**changes), tmp_path / "run", images)
    assert not (tmp_path / "run").exists()


def test_a_schedule_that_ends_at_nothing_but_noise_trains_what_can_be_decoded(images, tmp_path):
    run = Run(recipe("accumulate", T=30, schedule="jsd", mean_type="v", steps=2), tmp_path, images)
    carry_out(run)
    assert run.result().sample(2, Sampling("ddim", "trailing5")).isfinite().all()


def test_a_damaged_state_is_an_error(whole, images, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    state = folder / "state.safetensors"
    content = state.read_bytes()
    for broken in (b"", content[: len(content) // 2], bytes([content[0] ^ 1]) + content[1:]):
        state.write_bytes(broken)
        with pytest.raises(CheckpointError, match=f"{state} is no whole safetensors file"):
            Run(recipe(whole.name), folder, images)
        assert state.read_bytes() == broken


def test_weights_are_no_state(whole, images, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    shutil.copy(folder / "weights.safetensors", folder / "state.safetensors")
    with pytest.raises(CheckpointError, match="state.safetensors is not the state of a run: it may be weights only"):
        Run(recipe(whole.name), folder, images)


def test_the_state_of_another_network_is_refused(whole, images, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    tensors, about = load_tensors(folder / "state.safetensors")
    name = next(name for name in tensors if name.startswith("model/"))
    save_tensors(folder / "state.safetensors", {**tensors, name: torch.zeros(3, 3)}, about)
    with pytest.raises(CheckpointError, match="state.safetensors is of another network: expected .*, got"):
        Run(recipe(whole.name), folder, images)


def test_half_a_file_beside_is_no_state(images, tmp_path):
    # What a process leaves that was killed while it wrote its very first state.
    run = Run(recipe(steps=2), tmp_path, images)
    (tmp_path / ".state.safetensors.partial").write_bytes(b"half")
    again = Run(recipe(steps=2), tmp_path, images)
    assert again.step == run.step == 0
    carry_out(again)
    assert not list(tmp_path.glob(".*.partial"))


def test_result_is_the_average_with_all_that_is_needed(whole, images):
    run = Run(recipe(whole.name), whole, images)
    result = run.result()
    assert result.model is run.ema.model and not result.model.training
    assert (result.shape, result.levels, result.classes) == ((1, 8, 8), 17, tuple("0123456789"))
    assert result.recipe == recipe(whole.name) and result.step == 8
    expected, _ = load_tensors(whole / "weights.safetensors")
    assert all(torch.equal(t, expected[name]) for name, t in result.model.state_dict().items())
    assert any(not torch.equal(t, expected[name]) for name, t in run.model.state_dict().items())


def test_the_result_says_nothing_of_the_place_of_the_images(images, tmp_path):
    run = Run(recipe(steps=2, root="a place on this machine"), tmp_path, images)
    assert run.result().recipe == recipe(steps=2)


# A folder of images: nothing is decoded before it is needed.

SIDE = 8


@pytest.fixture
def pictures(tmp_path):
    """A folder of 10 images, in two classes."""
    draw = torch.Generator().manual_seed(0)
    for i in range(10):
        path = tmp_path / "pictures" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(256, (SIDE, SIDE), generator=draw, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(path)
    return tmp_path / "pictures"


def of_folder(root, steps=8, **changes):
    """4 images a step: 2 steps are an epoch, in which 2 of the 10 images are left out."""
    return recipe("hybrid", steps, data="folder", root=str(root), size=SIDE, channels=1, **changes)


def carry_out_folder(root, folder, **changes):
    run = Run(of_folder(root, **changes), folder, load_images(of_folder(root)))
    carry_out(run)
    return run


def test_a_run_on_a_folder_goes_on_bit_by_bit(pictures, tmp_path):
    carry_out_folder(pictures, tmp_path / "whole")
    for stop in (1, 3, 6):
        part = tmp_path / f"stopped after {stop}"
        carry_out_partly(Run(of_folder(pictures), part, load_images(of_folder(pictures))), stop)
        carry_out_folder(pictures, part)
        assert_same(part, tmp_path / "whole")


def test_a_run_on_a_folder_equals_one_on_the_same_images_in_memory(pictures, tmp_path):
    held = load_images(of_folder(pictures))
    decoded = data.to_uint8(held.x_0, 256)
    in_memory = data.Images(decoded, held.labels, levels=256, classes=held.classes)
    carry_out_folder(pictures, tmp_path / "folder")
    carry_out(Run(of_folder(pictures), tmp_path / "memory", in_memory))
    assert log_of(tmp_path / "folder") == log_of(tmp_path / "memory")
    a, b = (tmp_path / name / "weights.safetensors" for name in ("folder", "memory"))
    assert a.read_bytes() == b.read_bytes()


def test_a_run_decodes_each_file_once_before_its_first_step(pictures, tmp_path, decoded):
    run = Run(of_folder(pictures), tmp_path / "run", load_images(of_folder(pictures)))
    assert decoded == []
    assert {len(decoded) for _ in run.steps()} == {len(set(decoded))} == {10}  # in 4 epochs


@pytest.mark.parametrize("room", [0, 3])
def test_a_run_decodes_files_again_where_there_is_no_room(pictures, tmp_path, decoded, monkeypatch, room):
    carry_out_folder(pictures, tmp_path / "roomy")
    (tmp_path / "file").touch()
    monkeypatch.setenv("DDPM_LESSON_DATA", str(tmp_path / "file"))  # no room on disk either
    monkeypatch.setattr("ddpm_lesson.files.KEPT_BYTES", room * SIDE * SIDE + 1)
    images = load_images(of_folder(pictures))
    images.prepare()
    decoded.clear()
    carry_out(Run(of_folder(pictures), tmp_path / "run", images))
    batches = ordered(torch.arange(10), batch_size=4, seed=0)
    used = [i for (rows,) in itertools.islice(batches, 8) for i in rows.tolist()]
    expected = [i for i in used if i >= room]  # the first ones are kept; all others are decoded whenever they are used
    assert decoded == [images.data.files[i].name for i in expected] and len(decoded) > 10
    assert_same(tmp_path / "run", tmp_path / "roomy")


def test_images_of_a_folder_may_be_moved_but_not_exchanged(pictures, tmp_path):
    carry_out_folder(pictures, tmp_path / "run", steps=2)
    moved = pictures.rename(tmp_path / "moved")
    assert carry_out_folder(moved, tmp_path / "run", steps=3).step == 3
    with Image.open(moved / "b" / "9.png") as picture:
        pixels = picture.copy()
    pixels.putpixel((0, 0), pixels.getpixel((0, 0)) ^ 1)
    pixels.save(moved / "b" / "9.png")
    with pytest.raises(ValueError, match="the images are not those that the run in .* began with"):
        carry_out_folder(moved, tmp_path / "run", steps=4)


def test_an_image_that_moves_to_another_class_is_another_image(pictures, tmp_path):
    # The files come in the same order, with the same bytes: "a/8.png" is the last of its class.
    carry_out_folder(pictures, tmp_path / "run", steps=2)
    (pictures / "a" / "8.png").rename(pictures / "b" / "0.png")
    with pytest.raises(ValueError, match="the images are not those that the run in .* began with"):
        carry_out_folder(pictures, tmp_path / "run", steps=4)


# A variance that is learned without a range.


@pytest.mark.parametrize("loss", ["hybrid", "kl"])
def test_a_learned_variance_from_the_recipe_to_the_sample(images, tmp_path, loss):
    whole = recipe("accumulate", var_type="learned", loss=loss, ema_decay=0.0)
    carry_out_partly(Run(whole, tmp_path / "run", images), 3)
    carry_out(Run(whole, tmp_path / "run", images))
    trained = load_weights(tmp_path / "run" / "weights.safetensors")
    assert trained.variance is learned and trained.recipe == whole and trained.model.options["learned_var"]
    # The last layer's second half, which is the log variance, has learned.
    start = Run(whole, tmp_path / "start", images).model.tail[-1]
    assert not torch.equal(start.bias[1:], trained.model.tail[-1].bias[1:])
    found = trained.sample(3)
    assert found.shape == (3, 1, 8, 8) and found.isfinite().all()
    for sampling in (Sampling("ddim"), Sampling("ddim", "trailing2", eta=1.0)):
        assert trained.sample(3, sampling).isfinite().all()
    with pytest.raises(ValueError, match="learned variances are those of the base's steps, got a respaced chain"):
        trained.sample(3, Sampling(steps="trailing2"))

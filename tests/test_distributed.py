"""Several processes: the ranks of torchrun do together what one process does, and none is lost without a word."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from command_line import made, run
from kill_runs import launcher, log_of
from ranks import TINY, ended, gradients, images, network, recorded, start_ranks

from ddpm_lesson.experiments import distributed
from ddpm_lesson.experiments.checkpoints import load_tensors
from ddpm_lesson.experiments.pretrained import BLOCK, part_of
from ddpm_lesson.experiments.recipes import Recipe
from ddpm_lesson.experiments.runs import Run

pytestmark = [
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the ranks are forks of one process"),
]

# Between them all that is random or remembered, but for dropout, which is each rank's own. T = 2 fills the history.
RECIPES = {
    "hybrid": {"conditional": True, "label_dropout": 0.3, "timesteps": "loss_second_moment", "T": 2, "steps": 12}
    | {"loss": "hybrid", "var_type": "learned_range", "optimizer": "adamw", "weight_decay": 0.1, "warmup": 7},
    "accumulate": {"accumulate": 2, "rate": "cosine", "timesteps": "antithetic", "attn": (0,), "offset_noise": 0.1},
    "previous": {"condition": "previous", "mean_type": "v"},
}
ARGUMENTS = ["--quiet", "--threads", 1, "--device", "cpu"]


@pytest.fixture(scope="module")
def start():
    with launcher() as started:
        yield started


def recipe_of(name, **changes):
    return Recipe(**{**TINY, "steps": 6, **RECIPES[name], **changes})


def recipe_file(folder, name, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "asked.json"
    path.write_text(recipe_of(name, **changes).to_json())
    return path


def train(start, folder, recipe, of=2, **options):
    """Status and text of each rank of a train command."""
    more = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    arguments = ["train", "--recipe", recipe, "--out", folder, *ARGUMENTS, *more]
    return ended(start_ranks(start, arguments, folder.with_suffix(".printed"), of))


def tensors(folder):
    return load_tensors(folder / "state.safetensors")[0]


def assert_close(folder, whole):
    """States that agree but for rounding: sums in another order, six steps of Adam later."""
    for (name, got), expected in zip(tensors(folder).items(), tensors(whole).values(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}")


# The gradients, and what is random.


def test_two_processes_have_the_gradients_of_one_with_the_doubled_batch(start, tmp_path):
    statuses, printed = ended(start_ranks(start, [tmp_path], tmp_path / "log", call="save_gradients"))
    assert statuses == [0, 0], printed
    first, second = (torch.load(tmp_path / f"gradients{i}.pt") for i in range(2))
    expected, half = gradients(network(), slice(None)), gradients(network(), slice(4))
    assert len(first) > 20
    for name, gradient in expected.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], gradient, rtol=1e-4, atol=1e-7)
    assert any(not torch.allclose(half[name], gradient, rtol=0.1) for name, gradient in expected.items())


@pytest.mark.parametrize("name", RECIPES)
def test_ranks_share_the_batch_the_steps_and_the_noise_of_one_process(name, start, tmp_path):
    recipe = recipe_file(tmp_path, name)
    arguments = [recipe, tmp_path / "two", tmp_path / "calls"]
    statuses, printed = ended(start_ranks(start, arguments, tmp_path / "log", call="save_calls"))
    assert statuses == [0, 0], printed
    (first, steps), (second, others) = (torch.load(f"{tmp_path / 'calls'}.{i}") for i in range(2))
    expected, made_steps = recorded(recipe_of(name), tmp_path / "one", images())
    assert len(expected) == len(first) == len(second) > 5
    for one, upper, lower in zip(expected, first, second, strict=True):
        for whole, *halves in list(zip(one, upper, lower, strict=True))[:3]:  # x_0, t, noise: bit by bit
            assert torch.equal(torch.cat(halves), whole)
        assert not torch.equal(upper[2], lower[2])  # noise
        assert upper[3] == one[3] != lower[3]  # what dropout draws
    for one, here, there in zip(made_steps, steps, others, strict=True):
        assert here[:3] == there[:3] and torch.equal(here[3], there[3]) and torch.equal(here[4], there[4])
        assert torch.equal(here[3], one.t)
        assert here[1:3] == pytest.approx([one.loss, one.grad_norm], rel=1e-3)
        torch.testing.assert_close(here[4], one.losses, rtol=1e-3, atol=1e-5)
    assert_close(tmp_path / "two", tmp_path / "one")
    if name == "hybrid":  # what is remembered of each t agrees, too, and has taken effect
        counts = tensors(tmp_path / "two")["timesteps/counts"]
        assert torch.equal(counts, tensors(tmp_path / "one")["timesteps/counts"]) and counts.sum() == 48
        assert counts.min() >= 10


# Runs by the command line.


def test_what_does_not_end_fails_a_test_and_does_not_stop_them_all(start, tmp_path):
    recipe = recipe_file(tmp_path, "hybrid", steps=10**6)
    endless = start(["train", "--recipe", recipe, "--out", tmp_path / "run", *ARGUMENTS], tmp_path / "log")
    assert endless.ended(patience=1) == -signal.SIGKILL


def test_rank_0_alone_writes_and_prints(start, tmp_path):
    statuses, (first, second) = train(start, tmp_path / "two", recipe_file(tmp_path, "accumulate", dropout=0.2))
    assert statuses == [0, 0] and second == "" and first.count("Done: ") == 1
    names = {path.name for path in (tmp_path / "two").iterdir()} - {".lock"}
    assert names == {"recipe.json", "state.safetensors", "weights.safetensors", "log.csv", "loss.png", "previews"}
    assert len(log_of(tmp_path / "two")) == 6
    statuses, (first, second) = train(start, tmp_path / "two", recipe_file(tmp_path, "accumulate", dropout=0.2))
    assert statuses == [0, 0] and second == "" and first.count("Done: ") == first.count("Already finished: ") == 1


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_ranks(before, after, start, tmp_path):
    recipe, longer = (recipe_file(tmp_path / str(steps), "previous", steps=steps) for steps in (3, 6))
    assert train(start, tmp_path / "run", recipe, before)[0] == [0] * before
    assert train(start, tmp_path / "run", longer, after)[0] == [0] * after
    recorded(recipe_of("previous"), tmp_path / "whole", images_of_the_command())
    assert [row[0] for row in log_of(tmp_path / "run")] == [str(step) for step in range(1, 7)]
    assert_close(tmp_path / "run", tmp_path / "whole")


def images_of_the_command():
    from ddpm_lesson.data import digits

    return digits("train")


def wait_for_rows(folder, rows, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (folder / "log.csv").exists() and (folder / "log.csv").read_bytes().count(b"\n") > rows:
            return
        time.sleep(0.01)
    raise AssertionError(f"there are no {rows} steps after {seconds} seconds")


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_rank_leaves_the_last_save_and_a_message(lost, start, tmp_path):
    recipe = recipe_file(tmp_path, "hybrid", steps=80)
    arguments = ["train", "--recipe", recipe, "--out", tmp_path / "run", "--save-every", 4, *ARGUMENTS]
    processes = start_ranks(start, arguments, tmp_path / "log")
    wait_for_rows(tmp_path / "run", 6)
    processes[lost].kill()
    begun = time.monotonic()
    statuses, printed = ended(processes)
    assert time.monotonic() - begun < 30
    assert statuses[lost] == -signal.SIGKILL and statuses[1 - lost] == 1
    told = printed[1 - lost]
    assert told.count("\n") == 1 and "another process of the 2 has ended" in told and "Traceback" not in told
    step = load_tensors(tmp_path / "run" / "state.safetensors")[1]["step"]
    assert 4 <= step < 80 and step % 4 == 0
    if lost == 0:
        return
    assert f"The save of step {step} is kept in {tmp_path / 'run'}: the same command goes on" in told
    # Gone on with, it is bit by bit what two ranks make without a break.
    assert train(start, tmp_path / "run", recipe)[0] == [0, 0]
    assert train(start, tmp_path / "whole", recipe)[0] == [0, 0]
    for name in ("state.safetensors", "weights.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert log_of(tmp_path / "run") == log_of(tmp_path / "whole")


def test_a_rank_that_does_not_answer_is_not_waited_for_forever(start, tmp_path):
    arguments = ["train", "--recipe", recipe_file(tmp_path, "previous"), "--out", tmp_path / "run", *ARGUMENTS]
    waiting, silent = start_ranks(start, arguments, tmp_path / "log", call="frozen")
    assert waiting.ended() == 1
    silent.kill()
    assert silent.ended() == -signal.SIGKILL
    assert "does not answer" in waiting.log.read_text() and "Traceback" not in waiting.log.read_text()


def test_divergence_is_told_once(start, tmp_path):
    recipe = recipe_file(tmp_path, "previous", lr=1e30, clip_norm=float("inf"))
    statuses, (first, second) = train(start, tmp_path / "run", recipe)
    assert statuses == [1, 1] and second == "", (statuses, second)
    assert first.count("\n") == 1 and "ddpm_lesson: " in first and "Nothing was saved" in first


@pytest.mark.parametrize(
    ("options", "words", "status"),
    [
        (
            ["train", "--batch-size", 5],
            "2 ranks share each batch equally: batch_size must be a multiple of that, got 5",
            1,
        ),
        (
            ["train", "--seed", 1, "--device", "cuda:1"],
            "each of 2 ranks takes a device of its own: expected --device cpu or cuda",
            1,
        ),
        (["train", "--preset", "none"], "invalid choice", 2),
        (["sample", "--weights", "nowhere/weights.safetensors"], "there is no file nowhere/weights.safetensors", 1),
    ],
)
def test_a_mistake_is_told_once(options, words, status, start, tmp_path):
    arguments = [*options[:1], *ARGUMENTS, *options[1:], "--out", tmp_path / "out.png"]
    statuses, (first, second) = ended(start_ranks(start, arguments, tmp_path / "log"))
    assert first.count("\n") == 1 and words in first and second == "", (first, second)
    assert statuses == [status, 1]
    assert not (tmp_path / "out.png" / "state.safetensors").exists()


def test_every_rank_needs_the_same_images(start, tmp_path):
    statuses, (first, second) = ended(start_ranks(start, [tmp_path / "run"], tmp_path / "log", call="other_images"))
    assert statuses == [1, 1]
    told = "rank 1: these are not the images that rank 0 has: every machine needs the same files"
    assert first == f"ValueError: {told}\n" and second == "Elsewhere: \n"
    assert not (tmp_path / "run").exists()


# Drawing and scores.


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return made(tmp_path_factory.mktemp("trained") / "run", "--conditional", "--data", "digits")


def drawn(path):
    with np.load(path) as held:
        return held["arr_0"], held["arr_1"]


@pytest.mark.parametrize(
    ("n", "batch", "name"), [(6, 3, "ancestral"), (1, 1, "ancestral"), (BLOCK + 5, BLOCK // 2, "ddim")]
)
def test_ranks_draw_the_images_of_one_process(n, batch, name, start, trained, tmp_path):
    steps = ["--sampler", name, *(["--steps", "trailing2"] if n > 6 else [])]
    given = ["sample", "--weights", trained, "--n", n, *steps, *ARGUMENTS]
    statuses, printed = ended(start_ranks(start, [*given, "--out", tmp_path / "two.npz"], tmp_path / "log"))
    assert statuses == [0, 0] and printed[1] == "" and printed[0].startswith(f"{tmp_path / 'two.npz'}: {n} images")
    assert run(*given, "--batch", batch, "--out", tmp_path / "one.npz").status == 0
    (two, labels), (one, expected) = drawn(tmp_path / "two.npz"), drawn(tmp_path / "one.npz")
    assert np.array_equal(labels, expected) and two.shape == one.shape == (n, 8, 8, 1)
    if n > BLOCK:  # the last block is split at other places, and rounds in another way
        assert np.abs(two.astype(int) - one).max() <= 1
    else:
        assert np.array_equal(two, one)


def test_ranks_score_as_one_process_does(start, trained, tmp_path):
    given = ["evaluate", "--weights", trained, "--n", 21, "--bits", 3, *ARGUMENTS]
    statuses, printed = ended(start_ranks(start, [*given, "--json", tmp_path / "two.json"], tmp_path / "log"))
    assert statuses == [0, 0] and printed[1] == "" and "Bits/dim" in printed[0], printed
    assert run(*given, "--json", tmp_path / "one.json").status == 0
    two, one = (json.loads((tmp_path / name).read_text())["scores"] for name in ("two.json", "one.json"))
    assert two.keys() == one.keys() and len(two) > 5
    for name, score in one.items():
        assert two[name]["value"] == pytest.approx(score["value"], rel=1e-3, abs=1e-6), name


def test_parts_hold_every_image_once():
    for n, of in ((1, 2), (7, 3), (BLOCK + 5, 4), (2 * BLOCK, 2)):
        parts = [part_of(n, number, of) for number in range(of)]
        assert torch.equal(torch.cat(parts).sort().values, torch.arange(n))
        assert max(map(len, parts)) - min(map(len, parts)) <= 2
    with pytest.raises(ValueError, match=f"at most {BLOCK} parts, got {BLOCK + 1}"):
        part_of(3, 0, BLOCK + 1)


# Devices, which this machine need not have.


@pytest.mark.parametrize(
    ("name", "gpus", "expected"),
    [(None, 0, "cpu"), ("cpu", 2, "cpu"), (None, 2, "cuda:1"), ("cuda", 4, "cuda:1"), ("cuda", 0, "cuda")],
)
def test_each_rank_takes_a_device_of_its_own(name, gpus, expected, monkeypatch):
    seen = on_two_ranks(monkeypatch, gpus)
    assert distributed.device_of(name) == expected
    assert seen == ([1] if expected == "cuda:1" else [])


@pytest.mark.parametrize(
    ("name", "gpus", "words"),
    [
        ("cuda", 1, "2 ranks on this machine need as many GPUs, it has 1: torchrun --nproc-per-node=1"),
        ("cuda:1", 2, "expected --device cpu or cuda, got cuda:1"),
        ("mps", 0, "expected --device cpu or cuda, got mps"),
    ],
)
def test_devices_that_ranks_cannot_have(name, gpus, words, monkeypatch):
    on_two_ranks(monkeypatch, gpus)
    with pytest.raises(ValueError, match=words):
        distributed.device_of(name)


def on_two_ranks(monkeypatch, gpus):
    """This process is rank 1 of 2, on a machine with so many GPUs. Returns the devices that are set."""
    seen = []
    monkeypatch.setattr(distributed, "ranks", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", seen.append)
    for key in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(key, "1" if key == "LOCAL_RANK" else "2")
    return seen


def test_what_the_ranks_tell_each_other_of_a_step_lies_on_the_cpu(gpu, monkeypatch, tmp_path):
    # Else it is unpickled on the GPU that it comes from, and each process takes memory on every GPU.
    told = []
    run = Run(recipe_of("hybrid"), tmp_path, images(), device=gpu)

    def gather(found, mine, group):
        told.append(mine)
        found[:] = [mine] * 2

    monkeypatch.setattr(distributed, "_soon", [None])
    for name, number in (("rank", 0), ("ranks", 2)):
        monkeypatch.setattr(distributed, name, lambda number=number: number)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    monkeypatch.setattr(distributed, "parallel", lambda model: model)
    step = next(run.steps())
    assert step.t.device.type == step.losses.device.type == "cpu" and len(step.t) == len(step.losses) == 4
    held = [part for (result, _) in told for part in (result or ()) if isinstance(part, torch.Tensor)]
    assert [tuple(part.shape) for part in held] == [(2,), (2,)]  # t and losses of this rank's half
    assert {part.device.type for part in held} == {"cpu"}
    run.close()


# torchrun itself.


def torchrun(folder, recipe):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "ddpm_lesson"]
    command += ["train", "--recipe", recipe, "--out", folder, *ARGUMENTS]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([str(word) for word in command], **options, env=os.environ | {"OMP_NUM_THREADS": "1"})


def test_torchrun_trains_and_stops_when_it_is_asked_to(start, tmp_path):
    process = torchrun(tmp_path / "run", recipe_file(tmp_path, "hybrid", steps=3000))
    try:
        wait_for_rows(tmp_path / "run", 2)
        process.terminate()
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    stopped = load_tensors(tmp_path / "run" / "state.safetensors")[1]["step"]
    assert f"Stopped after step {stopped} of 3000." in out, (out, err)
    assert err.count("Stopping: this step is finished and saved first.") == 1
    assert stopped >= 2 and len(log_of(tmp_path / "run")) == stopped
    # The same steps by two processes that the tests start, bit by bit.
    assert train(start, tmp_path / "whole", recipe_file(tmp_path, "hybrid", steps=stopped))[0] == [0, 0]
    for name, tensor in tensors(tmp_path / "whole").items():
        assert torch.equal(tensor, tensors(tmp_path / "run")[name]), name

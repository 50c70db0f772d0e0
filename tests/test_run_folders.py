"""What lies in a run's folder: only what was saved decides, and what is missing or edited is said, never begun anew."""

import itertools
import json
import shutil

import pytest
import torch
from filelock import FileLock

from ddpm_lesson import data
from ddpm_lesson.experiments import locks
from ddpm_lesson.experiments.checkpoints import CheckpointError, load_tensors, save_tensors
from ddpm_lesson.experiments.locks import Busy
from ddpm_lesson.experiments.logs import Row, read_log
from ddpm_lesson.experiments.pretrained import load_weights
from ddpm_lesson.experiments.recipes import Recipe
from ddpm_lesson.experiments.runs import Run
from ddpm_lesson.experiments.saved import load_saved, recipe_of

TINY = {"T": 5, "ch": 8, "ch_mult": (1,), "attn": (), "num_groups": 4, "batch_size": 4, "lr": 1e-3, "ema_decay": 0.9}


@pytest.fixture(scope="module")
def images():
    whole = data.digits("train")
    return data.Images(whole.data[:20], whole.labels[:20], levels=17, classes=whole.classes)


def recipe(steps=4, **changes):
    return Recipe(**{**TINY, "steps": steps, **changes})


def partly(run, steps):
    for _ in itertools.islice(run.steps(), steps):
        pass
    run.save()
    return run


@pytest.fixture(scope="module")
def kept(images, tmp_path_factory):
    """A run of 4 steps, of which 2 are made and saved; and one that is done."""
    place = tmp_path_factory.mktemp("kept")
    partly(Run(recipe(), place / "half", images), 2).close()
    partly(Run(recipe(), place / "done", images), 4).close()
    return place


@pytest.fixture(params=["half", "done"])
def folder(request, kept, tmp_path):
    return shutil.copytree(kept / request.param, tmp_path / request.param)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in (".lock", ".process.json")}


def refused(folder, images, kind=ValueError, **changes):
    """Why a run does not go on; nothing in its folder changes."""
    before = contents(folder)
    with pytest.raises(kind) as error:
        Run(recipe(**changes), folder, images)
    assert contents(folder) == before and "\n" not in str(error.value)
    assert not (folder / ".process.json").exists()  # the lock is given back
    return str(error.value)


# The state decides.


EDITED = {"mean_type": "v", "schedule": "cosine", "seed": 1, "loss": "l1", "lr": 0.5, "ema_decay": 0.5, "steps": 3}


@pytest.mark.parametrize("name", EDITED)
def test_an_edited_recipe_is_refused_by_the_field_whatever_is_asked_for(kept, images, tmp_path, name):
    folder = shutil.copytree(kept / "half", tmp_path / "run")
    values = json.loads((folder / "recipe.json").read_text())
    (folder / "recipe.json").write_text(json.dumps(values | {name: EDITED[name]}))
    expected = f"recipe.json was edited ({name} = {EDITED[name]} there, {values[name]} in the state)"
    assert expected in refused(folder, images)
    assert expected in refused(folder, images, **{name: EDITED[name]})
    (folder / "recipe.json").unlink()  # what the sentence says helps
    run = Run(recipe(), folder, images)
    assert run.step == 2 and recipe_of(folder) == recipe()


def test_what_may_change_in_the_recipe_beside_is_no_edit(kept, images, tmp_path):
    folder = shutil.copytree(kept / "half", tmp_path / "run")
    (folder / "recipe.json").write_text(recipe(steps=9, root="elsewhere").to_json())
    assert Run(recipe(steps=9, root="elsewhere"), folder, images).step == 2
    assert load_saved(folder).recipe == recipe()  # until the next save


def test_a_recipe_that_is_none_is_named_with_the_way_on(folder, images):
    (folder / "recipe.json").write_text("{")
    told = refused(folder, images)
    assert told.startswith(f"{folder / 'recipe.json'} cannot be used: a recipe must be JSON")
    assert told.endswith("Delete it: the state holds the recipe, too")


@pytest.mark.parametrize(
    "change, detail",
    [
        (lambda x, y, c: (x.flip(0), y, c), "other pixels, files, or order"),
        (lambda x, y, c: (x, y.roll(1), c), "other labels"),
        (lambda x, y, c: (x, y, ["zero", *c[1:]]), "classes 0, 1, 2, 3, 4, 5, 6, 7, 8, now zero, 1, 2, 3, 4, 5, 6, 7"),
    ],
    ids=["pixels", "labels", "classes"],
)
def test_other_images_labels_or_classes_are_refused(kept, images, tmp_path, change, detail):
    folder = shutil.copytree(kept / "half", tmp_path / "run")
    x, y, classes = change(images.data, images.labels, images.classes)
    told = refused(folder, data.Images(x, y, levels=17, classes=classes))
    assert told.startswith(f"the images are not those that the run in {folder} began with ({detail}")


def test_a_state_of_an_older_version_is_refused_with_the_way_on(folder, images):
    tensors, about = load_tensors(folder / "state.safetensors")
    old = {name: about[name] for name in ("step", "updates", "images")}
    save_tensors(folder / "state.safetensors", tensors, old)
    told = refused(folder, images, CheckpointError)
    assert "is of an older version" in told and f"train --from {folder} --out ANOTHER" in told


@pytest.mark.parametrize(
    "forged",
    [{"step": -1}, {"step": "2"}, {"recipe": {"lr": "fast"}}, {"recipe": None}, {"shape": [1, 8]}, {"shape": None}]
    + [{"classes": 3}, {"updates": 1.5}, {"more": 1}, {"shape": [1, 8, 10**18]}, {"levels": None}],
    ids=str,
)
def test_forged_states_are_refused(kept, images, tmp_path, forged):
    folder = shutil.copytree(kept / "half", tmp_path / "run")
    tensors, about = load_tensors(folder / "state.safetensors")
    save_tensors(folder / "state.safetensors", tensors, about | forged)
    assert "is not the state of a run" in refused(folder, images, CheckpointError)


def test_an_integer_of_400_digits_is_refused(kept, images, tmp_path):
    folder = shutil.copytree(kept / "half", tmp_path / "run")
    tensors, about = load_tensors(folder / "state.safetensors")
    save_tensors(folder / "state.safetensors", tensors, about | {"shape": [1, 8, 10**400]})
    assert "no 'about' as this package writes it" in refused(folder, images, CheckpointError)


@pytest.mark.parametrize("name", ["optimizer/x.y", "optimizer/0.momentum", "optimizer/999.exp_avg", "optimizer/0.step"])
def test_the_numbers_of_another_optimizer_are_refused(kept, images, tmp_path, name):
    folder = shutil.copytree(kept / "half", tmp_path / "run")
    tensors, about = load_tensors(folder / "state.safetensors")
    save_tensors(folder / "state.safetensors", tensors | {name: torch.zeros(2, 2)}, about)
    told = refused(folder, images, CheckpointError)
    assert told.startswith(f"{folder / 'state.safetensors'} is of another network: the optimiser's state must hold ")
    assert name.split("/")[1] in told and told.endswith(("got (2, 2)", f"got {name.split('/')[1]}"))


# What is missing.


def test_missing_weights_are_written_from_the_state(folder, images):
    before = contents(folder)
    (folder / "weights.safetensors").unlink()
    run = Run(recipe(), folder, images)
    assert run.notes == [f"{folder / 'weights.safetensors'} was missing: written anew from the state"]
    assert contents(folder) == before


def test_a_missing_state_is_no_beginning(folder, images):
    (folder / "state.safetensors").unlink()
    told = refused(folder, images, CheckpointError)
    assert "state.safetensors, without which the run cannot go on, is missing beside log.csv and weights" in told
    assert f"train --from {folder} --out ANOTHER goes on with its weights; or delete {folder} and begin anew" in told
    (folder / "weights.safetensors").unlink()
    told = refused(folder, images, CheckpointError)
    assert told.endswith(f"is missing beside log.csv: delete {folder} and begin anew")


def other_weights(folder, images):
    """Weights that are not this run's, by what is wrong with them."""
    own = (folder / "weights.safetensors").read_bytes()
    tensors, about = load_tensors(folder / "weights.safetensors")
    run = partly(Run(recipe(seed=1), folder.parent / "other", images), 4)
    yield "is of another run", (run.folder / "weights.safetensors").read_bytes()
    yield "is no whole safetensors file", own[:1000]
    yield "is of another run", (data.bundled("weights/digits_classifier.safetensors")).read_bytes()
    name = next(iter(tensors))
    save_tensors(run.folder / "x", tensors | {name: tensors[name] + 1}, about)
    yield "is not the average in the state", (run.folder / "x").read_bytes()
    save_tensors(run.folder / "x", tensors, about | {"step": 1})
    yield "is of step 1, the state beside it of step", (run.folder / "x").read_bytes()


def test_weights_of_another_run_are_refused(folder, images):
    for message, content in other_weights(folder, images):
        (folder / "weights.safetensors").write_bytes(content)
        told = refused(folder, images, CheckpointError)
        assert message in told and "away, and the same command writes it anew from the state" in told


def test_a_run_that_saved_nothing_blocks_nothing(images, tmp_path):
    run = Run(recipe(lr=0.5), tmp_path, images)
    for _ in itertools.islice(run.steps(), 2):
        pass
    again = Run(recipe(seed=7, ch=16), tmp_path, images)
    assert again.step == 0 and read_log(tmp_path / "log.csv") == [] and recipe_of(tmp_path) == recipe(seed=7, ch=16)
    partly(again, 4)
    partly(Run(recipe(seed=7, ch=16), tmp_path / "whole", images), 4)
    for name in ("state.safetensors", "weights.safetensors"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_weights_that_are_not_finite_are_not_saved(images, tmp_path):
    run = partly(Run(recipe(), tmp_path, images), 2)
    before = contents(tmp_path)
    with torch.no_grad():
        next(iter(run.model.parameters())).view(-1)[0] = torch.inf
    with pytest.raises(FloatingPointError, match="after step 2 not all numbers are finite in model/"):
        run.save()
    assert contents(tmp_path) == before


# The log.


def test_seconds_go_on(images, tmp_path):
    partly(Run(recipe(steps=3), tmp_path, images), 2)
    content = (tmp_path / "log.csv").read_text().splitlines()
    slow = [f"{line.rpartition(',')[0]},{seconds}" for line, seconds in zip(content[1:], (40, 50.5), strict=True)]
    (tmp_path / "log.csv").write_text("\r\n".join([content[0], *slow, ""]))
    run = Run(recipe(steps=3), tmp_path, images)
    assert run.seconds == 50.5
    partly(run, 1)
    assert 50.5 < read_log(tmp_path / "log.csv")[-1].seconds < 80


DAMAGED = [b"2,x,1,1", b"1,1,1,1", b"2,1,1", b"\xff\xfe\x00", b"2,1,1,1,1", b'2,"1,1,1', b"two,1,1,1", b""]


@pytest.mark.parametrize("line", DAMAGED)
def test_a_damaged_log_is_named_by_its_line(kept, images, tmp_path, line):
    folder = shutil.copytree(kept / "half", tmp_path / "run")
    lines = (folder / "log.csv").read_bytes().split(b"\r\n")
    (folder / "log.csv").write_bytes(b"\r\n".join([*lines[:2], line, *lines[3:]]))
    told = refused(folder, images)
    assert told.startswith(f"{folder / 'log.csv'} is damaged in line 3: expected step, loss, grad_norm, seconds, got b")
    (folder / "log.csv").rename(tmp_path / "away")  # what the sentence says helps
    run = Run(recipe(), folder, images)
    assert run.notes == [f"{folder / 'log.csv'} holds 0 of 2 steps: the others are lost"]
    assert [row.step for row in partly(run, 2) and read_log(folder / "log.csv")] == [3, 4]


def test_what_follows_the_saved_step_may_be_anything(kept, images, tmp_path):
    folder = shutil.copytree(kept / "half", tmp_path / "run")
    with open(folder / "log.csv", "ab") as log:
        log.write(b"3,0.5,1,1\r\nnonsense\r\n4,0.")
    assert [row.step for row in read_log(folder / "log.csv", 2)] == [1, 2]
    Run(recipe(), folder, images)
    assert (folder / "log.csv").read_bytes() == (kept / "half" / "log.csv").read_bytes()


def test_rows_are_numbers(tmp_path):
    (tmp_path / "log.csv").write_bytes(b"step,loss,grad_norm,seconds\r\n1,0.5,nan,2\r\n")
    assert [row[0::3] for row in read_log(tmp_path / "log.csv")] == [(1, 2.0)]
    assert Row._fields == ("step", "loss", "grad_norm", "seconds")


# From weights.


def test_a_run_begins_with_the_averaged_weights_of_a_file(kept, images, tmp_path):
    source = kept / "done" / "weights.safetensors"
    expected, _ = load_tensors(source)
    run = Run(recipe(lr=0.01), tmp_path / "run", images, source=source)
    for module in (run.model, run.ema.model):
        assert all(torch.equal(tensor, expected[name]) for name, tensor in module.state_dict().items())
    partly(run, 2)
    # The same call goes on; without the source, too; and it ends as one that was never stopped.
    assert Run(recipe(lr=0.01), tmp_path / "run", images, source=source).step == 2
    partly(Run(recipe(lr=0.01), tmp_path / "run", images), 2)
    partly(Run(recipe(lr=0.01), tmp_path / "whole", images, source=source), 4)
    for name in ("state.safetensors", "weights.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    plain = partly(Run(recipe(lr=0.01), tmp_path / "plain", images), 4)
    assert plain.losses()[0] != read_log(tmp_path / "whole" / "log.csv")[0].loss
    told = "began from other weights: leave out --from to go on with it"
    with pytest.raises(ValueError, match=told):
        Run(recipe(lr=0.01), tmp_path / "run", images, source=kept / "half" / "weights.safetensors")
    with pytest.raises(ValueError, match="began from no weights: leave out --from"):
        Run(recipe(lr=0.01), tmp_path / "plain", images, source=source)


def test_what_has_no_origin_is_written_as_before(kept):
    # A recipe's text and the bytes of weights do not know where a run began.
    assert "origin" not in (kept / "half" / "recipe.json").read_text()
    assert b"origin" not in (kept / "half" / "weights.safetensors").read_bytes()


def test_weights_of_another_network_are_no_beginning(kept, images, tmp_path):
    source = kept / "done" / "weights.safetensors"
    with pytest.raises(ValueError, match=r"is of another network \(T = 5, here 7, ch = 8, here 16\): give the options"):
        Run(recipe(ch=16, T=7), tmp_path / "run", images, source=source)
    assert Run(recipe(dropout=0.5, mean_type="v"), tmp_path / "run", images, source=source).step == 0
    with pytest.raises(ValueError, match="must be a diffusion model to begin with, got a PretrainedClassifier"):
        Run(recipe(), tmp_path / "x", images, source=data.bundled("weights/digits_classifier.safetensors"))
    assert not (tmp_path / "x").exists()


# Who works there.


def test_a_run_locks_its_folder_while_it_exists(images, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.05)
    run = Run(recipe(), tmp_path, images)
    assert locks.worker(tmp_path)
    del run
    assert locks.worker(tmp_path) is None
    run = Run(recipe(), tmp_path, images)
    run.close()
    with FileLock(tmp_path / ".lock"):
        with pytest.raises(locks.Busy, match="another process works in"):
            Run(recipe(seed=3), tmp_path, images)
        assert recipe_of(tmp_path) == recipe()
        partly(Run(recipe(), tmp_path / "beside", images), 1)
        assert load_weights(tmp_path / "beside" / "weights.safetensors").step == 1
    assert load_saved(tmp_path).recipe == recipe()


@pytest.mark.parametrize("half", ["weights.safetensors", "log.csv", ".recipe.json.77-0a1b2c3d.partial"])
def test_a_run_that_another_process_is_about_to_save_first_is_busy_and_not_damaged(tmp_path, half):
    # Between weights and state, or before the recipe: a second start, which has no lock yet, sees half of a run.
    (tmp_path / "recipe.json").touch()
    (tmp_path / half).touch()
    with FileLock(tmp_path / ".lock"):
        if half.startswith("."):
            assert load_saved(tmp_path) is None
        else:
            with pytest.raises(Busy, match="another process works in"):
                load_saved(tmp_path)
    (tmp_path / "recipe.json").unlink()
    if half.startswith("."):
        assert load_saved(tmp_path) is None  # left by a kill

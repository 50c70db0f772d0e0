"""Trained networks from files: what comes back is what was trained, and damaged files are refused."""

import copy
import dataclasses
import itertools
import json
import shutil

import pytest
import torch

import ddpm_lesson
from ddpm_lesson import data
from ddpm_lesson._tensors import out_of_memory
from ddpm_lesson.denoisers import make_denoiser
from ddpm_lesson.experiments import pretrained
from ddpm_lesson.experiments.checkpoints import CheckpointError, load_tensors, save_tensors, sha256
from ddpm_lesson.experiments.classifiers import fit
from ddpm_lesson.experiments.pretrained import (
    PretrainedClassifier,
    PretrainedDiffusion,
    PretrainedNoisyClassifier,
    load_pretrained,
    load_weights,
)
from ddpm_lesson.experiments.pretrained_generators import PretrainedGenerator
from ddpm_lesson.experiments.recipes import ClassifierRecipe, Recipe
from ddpm_lesson.experiments.runs import Run
from ddpm_lesson.experiments.sampling import Sampling
from ddpm_lesson.networks.classifier import Classifier
from ddpm_lesson.predictions import epsilon, fixedlarge, learned_range, xstart
from ddpm_lesson.samplers import ancestral, ddim, last, reverse
from ddpm_lesson.schedules import cosine
from ddpm_lesson.spacing import trailing

RECIPE = Recipe(
    **{"T": 12, "schedule": "cosine", "ch": 8, "ch_mult": (1,), "attn": (), "num_groups": 4, "batch_size": 4},
    **{"conditional": True, "loss": "hybrid", "var_type": "learned_range", "dropout": 0.5, "steps": 3, "lr": 0.01},
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = Run(RECIPE, tmp_path_factory.mktemp("run"), data.digits("train"))
    for _ in run.steps():
        pass
    run.save()
    return run


@pytest.fixture(scope="module")
def weights(run):
    return run.folder / "weights.safetensors"


@pytest.fixture
def trained(weights):
    return load_weights(weights)


def classifier_file(path, T=None):
    recipe = ClassifierRecipe("digits", T=T, ch=16, ch_mult=(1,), steps=2, batch_size=4)
    *_, trained = fit(recipe, data.digits("train"))
    trained.save(path)
    return trained


# What comes back.


def test_a_run_comes_back_from_its_file(run, trained):
    assert isinstance(trained, PretrainedDiffusion)
    assert (trained.shape, trained.levels, trained.classes) == ((1, 8, 8), 17, tuple("0123456789"))
    assert (trained.mean_type, trained.variance) == (epsilon, learned_range)
    assert torch.equal(trained.process.betas, cosine(12))
    assert trained.recipe == RECIPE and trained.step == 3 and trained.device == torch.device("cpu")
    x, t, y = torch.randn(2, 1, 8, 8), torch.tensor([0, 11]), torch.tensor([3, 10])
    assert torch.equal(trained.model(x, t, y), run.ema.model(x, t, y))
    assert torch.equal(run.result().model(x, t, y), run.ema.model(x, t, y))


def test_it_is_in_eval_mode_without_gradients_and_stays_so(trained):
    assert not any(module.training for module in trained.model.modules())
    assert not any(p.requires_grad for p in trained.model.parameters())
    assert torch.equal(trained.sample(2), trained.sample(2))  # dropout of 0.5 would tell
    assert not any(module.training for module in trained.model.modules())


def test_another_mean_type_comes_back_too(run, tmp_path):
    tensors, about = load_tensors(run.folder / "weights.safetensors")
    about["recipe"] |= {"mean_type": "xstart"}
    save_tensors(tmp_path / "x", tensors, about)
    assert load_weights(str(tmp_path / "x")).mean_type is xstart


def test_weights_of_a_folder_come_back_without_the_folder(tmp_path):
    # What the weights say of their recipe has no place on a machine in it, and asks for none.
    recipe = dataclasses.replace(RECIPE, data="folder", root=str(tmp_path / "away"), size=8, channels=1, steps=1)
    run = Run(recipe, tmp_path / "run", data.digits("train"))
    list(run.steps())
    run.save()
    trained = load_weights(tmp_path / "run" / "weights.safetensors")
    assert trained.recipe == dataclasses.replace(recipe, root=None)
    assert trained.sample(2, Sampling(steps="trailing2")).shape == (2, 1, 8, 8)


def test_a_place_on_this_machine_is_not_written(trained, tmp_path):
    here = dataclasses.replace(RECIPE, root=str(tmp_path))
    dataclasses.replace(trained, recipe=here).save(tmp_path / "x")
    assert str(tmp_path).encode() not in (tmp_path / "x").read_bytes()
    assert load_weights(tmp_path / "x").recipe == RECIPE


def test_it_is_on_the_device_that_was_asked_for(weights, device):
    trained = load_weights(weights, device=device)
    assert trained.process.betas.device.type == device.type
    assert {p.device.type for p in trained.model.parameters()} == {device.type}
    assert trained.device.type == trained.labels(3).device.type == device.type
    y, three = torch.tensor([1, 2]), Sampling(steps="trailing3")
    images = last(trained.states(2, three, y=y))
    assert images.device.type == device.type and torch.equal(last(trained.states(2, three, y=y.to(device))), images)
    x_t = torch.zeros(2, 1, 8, 8, device=device)
    assert trained.denoiser(y, guidance=2.0)(x_t, 3).x_0.device.type == device.type
    cpu = load_weights(weights).sample(2, three, y=y)
    torch.testing.assert_close(images.cpu(), cpu, rtol=0, atol=2e-3)  # three steps of a float32 network
    torch.testing.assert_close(trained.sample(2, three, y=y), cpu, rtol=0, atol=2e-3)


# Samples.


@pytest.mark.parametrize("y", [None, torch.tensor([3, 3, 0])])
@pytest.mark.parametrize("steps", ["all", "trailing5"])
@pytest.mark.parametrize("eta", [None, 0.0, 0.7])
@pytest.mark.parametrize("clip", [True, False])
def test_samples_equal_those_made_by_hand(trained, y, steps, eta, clip):
    # The clip, by hand: x_0 is cut, and eps is derived again from it.
    generator = seeded(3)
    x_T = torch.randn(3, 1, 8, 8, generator=generator)
    labels = torch.full((3,), 10) if y is None else y  # the null class
    raw = make_denoiser(trained.model, trained.process, epsilon, y=labels)

    def denoise(x_t, t, prev=None):
        guess = raw(x_t, t)
        x_0 = guess.x_0.clamp(-1, 1) if clip else guess.x_0
        return guess._replace(x_0=x_0, eps=trained.process.eps_from_x_0(x_t, t, x_0))

    chain = trained.process if steps == "all" else trained.process.respaced(trailing(12, 5))
    if eta is None:
        expected = ancestral(chain, reverse(chain, denoise, learned_range), x_T, generator=generator)
    else:
        expected = ddim(chain, denoise, x_T, eta=eta, generator=generator)
    how = {"sampler": "ancestral"} if eta is None else {"sampler": "ddim", "eta": eta}
    sampling = Sampling(**how, steps=steps, clip=clip, seed=3)
    found = list(trained.states(3, sampling, y=y))
    for a, b in itertools.zip_longest(found, expected):
        assert a.i == b.i
        torch.testing.assert_close(a.x_t, b.x_t)
    assert found[0].i == chain.T and found[-1].i == 0
    assert (found[-1].x_t.abs().max() <= 1 + 1e-6) == clip
    assert torch.equal(trained.sample(3, sampling, y=y), found[-1].x_t)


def test_labels_and_seeds_count(trained):
    def draw(seed, y):
        return trained.sample(2, Sampling(seed=seed), y=y)

    one, none = torch.tensor([1, 1]), None
    assert torch.equal(draw(0, one), draw(0, one))
    assert not torch.equal(draw(0, one), draw(0, torch.tensor([1, 2])))
    assert not torch.equal(draw(0, one), draw(0, none)) and not torch.equal(draw(0, one), draw(1, one))
    assert torch.equal(draw(0, none), draw(0, torch.tensor([10, 10])))  # the null class


def test_equal_wishes_give_equal_images(trained):
    y, sampling = trained.labels(5), Sampling("ddim", "trailing4", eta=0.5, guidance=2.0, seed=7)
    before = torch.get_rng_state()
    images = trained.sample(5, sampling, y=y)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(trained.sample(5, sampling, y=y), images)
    assert torch.equal(trained.sample(5, dataclasses.replace(sampling), y=y), images)
    for change in ({"eta": 0.6}, {"guidance": 1.0}, {"seed": 8}, {"clip": False}, {"steps": "all"}):
        assert not torch.equal(trained.sample(5, dataclasses.replace(sampling, **change), y=y), images), change


@pytest.mark.parametrize("sampling", [Sampling(seed=4), Sampling("heun", "trailing4", churn=3.0, seed=4)])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_a_batch_drawn_in_parts_has_the_same_images(trained, sampling, batch_size, monkeypatch):
    # With BLOCK = 5: seven images are a block of five and one of two, each from one x_T and one stream of noise.
    monkeypatch.setattr(pretrained, "BLOCK", 5)
    y, generator = trained.labels(7), seeded(4)
    whole = [last(trained.states(len(rows), sampling, y=rows, generator=generator)) for rows in y.split(5)]
    images = trained.sample(7, sampling, y=y, batch_size=batch_size)
    assert images.shape == (7, 1, 8, 8) and images.device.type == "cpu"
    torch.testing.assert_close(images, torch.cat(whole), rtol=0, atol=1e-5)


def full(kind):
    """The errors of a GPU, of the CPU's allocator (a real one), oneDNN and Python where memory is used up."""
    if kind == "gpu":
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")
    if kind == "onednn":
        raise RuntimeError("could not create a primitive")  # as under a limit of the process's memory
    if kind == "python":
        raise MemoryError
    torch.empty(2**60, dtype=torch.uint8)


@pytest.mark.parametrize("kind", ["gpu", "cpu", "onednn", "python"])
def test_what_does_not_fit_into_memory_is_drawn_in_smaller_parts(trained, kind, capsys):
    def no_more_than_three(model, given):
        sizes.append(len(given[0]))
        if len(given[0]) > 3:
            full(kind)

    sampling, y, sizes = Sampling(steps="trailing2"), trained.labels(8), []
    whole = trained.sample(8, sampling, y=y)
    hook = trained.model.register_forward_pre_hook(no_more_than_three)
    images = trained.sample(8, sampling, y=y, progress=True)
    hook.remove()
    torch.testing.assert_close(images, whole, rtol=0, atol=1e-5)
    assert sizes == [8, 4, *[2] * 8]
    assert "16.0/16.0" in capsys.readouterr().err  # what was given up is not counted


@pytest.mark.parametrize("kind", ["gpu", "cpu", "onednn", "python"])
def test_a_single_image_that_does_not_fit_is_an_error(trained, kind):
    hook = trained.model.register_forward_pre_hook(lambda model, given: full(kind))
    with pytest.raises((RuntimeError, MemoryError)) as error:
        trained.sample(2)
    hook.remove()
    assert out_of_memory(error.value)


def test_other_errors_are_not_taken_for_a_lack_of_memory(trained):
    sizes = []

    def broken(model, given):
        sizes.append(len(given[0]))
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    hook = trained.model.register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        trained.sample(4)
    hook.remove()
    assert sizes == [4]


def test_more_than_the_last_state_can_be_kept(trained):
    kept = lambda states: torch.stack([state.x_t for state in states], 1)  # noqa: E731
    sampling, y = Sampling(steps="trailing3"), trained.labels(5)
    found = trained.sample(5, sampling, y=y, batch_size=2, keep=kept)
    expected = [state.x_t for state in trained.states(5, sampling, y=y)]
    torch.testing.assert_close(found, torch.stack(expected, 1), rtol=0, atol=1e-5)


def test_progress_is_shown_if_asked_for(trained, capsys):
    quiet = trained.sample(3, Sampling(steps="trailing4"))
    assert capsys.readouterr() == ("", "")
    assert torch.equal(trained.sample(3, Sampling(steps="trailing4"), progress=True), quiet)
    assert "3 of 3 images" in (shown := capsys.readouterr().err) and "12.0/12.0" in shown  # steps of all images


def test_it_is_asked_for_no_more_than_a_batch(trained):
    sizes = []
    trained.model.register_forward_hook(lambda model, given, output: sizes.append(len(given[0])))
    trained.sample(501, Sampling(steps="trailing1"))
    assert sizes == [250, 250, 1]


def test_labels_are_every_class_in_turn_or_one(trained):
    assert trained.labels(12).tolist() == [*range(10), 0, 1]
    assert trained.labels(3, "3").tolist() == [3, 3, 3]
    assert trained.labels(3).dtype == torch.int64
    with pytest.raises(ValueError, match="the class must be one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, got ten"):
        trained.labels(3, "ten")
    birds = dataclasses.replace(trained, classes=("auk", "owl"))
    assert birds.labels(3, "owl").tolist() == [1, 1, 1] and birds.labels(3).tolist() == [0, 1, 0]


@pytest.fixture(scope="module")
def unconditional(tmp_path_factory):
    recipe = dataclasses.replace(RECIPE, conditional=False, loss="simple", var_type="fixedlarge")
    run = Run(recipe, tmp_path_factory.mktemp("unconditional"), data.digits("train"))
    for _ in run.steps():
        pass
    run.save()
    return load_weights(run.folder / "weights.safetensors")


def test_a_class_may_be_named_by_one_of_its_words():
    mnist = load_pretrained("mnist_ddpm", device="cpu")
    for name in ("3 - three", "3", "Three"):
        assert mnist.labels(2, name).tolist() == [3, 3]
    for name in ("-", "thre", "", "3 -"):  # of all classes, or of none
        with pytest.raises(ValueError, match=f"the class must be one of 0 - zero, .*, got {name}$"):
            mnist.labels(2, name)


def test_a_network_without_labels_has_none(unconditional):
    assert unconditional.labels(3) is None and unconditional.variance is fixedlarge
    assert unconditional.sample(3, y=unconditional.labels(3)).shape == (3, 1, 8, 8)
    with pytest.raises(ValueError, match="this network was trained without labels: expected no class, got 3"):
        unconditional.labels(3, "3")
    with pytest.raises(ValueError, match="y was given to a network without classes"):
        unconditional.sample(2, y=torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="guidance leads towards labels"):
        unconditional.sample(2, Sampling(guidance=2.0))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"sampling": Sampling(steps="every second")}, "unknown step choice 'every second'"),
        ({"sampling": Sampling(steps="trailing13")}, r"must lie in 1\.\.12, got 13"),
        ({"sampling": Sampling(guidance=2.0)}, "guidance leads towards labels: expected some, got none"),
        ({"y": torch.tensor([1])}, r"y must be \(2,\), a label for each image, got \(1,\)"),
        ({"y": torch.tensor([1, 2, 3])}, r"y must be \(2,\), a label for each image, got \(3,\)"),
        ({"y": torch.tensor([1, 11])}, "11"),
        ({"batch_size": 0}, "n and batch_size must be positive, got 2 and 0"),
        ({"n": 0}, "n and batch_size must be positive, got 0 and 250"),
    ],
)
def test_bad_wishes_are_an_error(trained, options, message):
    with pytest.raises(ValueError, match=message):
        trained.sample(**{"n": 2} | options)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"x_T": torch.zeros(2, 1, 8, 8)}, r"x_T must be \(4, 1, 8, 8\), one for each image, got \(2, 1, 8, 8\)"),
        ({"x_0": torch.zeros(2, 1, 8, 8), "start": 0.5}, r"x_0 must be \(4, 1, 8, 8\), .*, got \(2, 1, 8, 8\)"),
        ({"y": torch.tensor([1, 2])}, r"y must be \(4,\), a label for each image, got \(2,\)"),
    ],
)
def test_states_are_of_as_many_images_as_were_asked_for(trained, given, message):
    with pytest.raises(ValueError, match=message):
        trained.states(4, **given)


def test_states_take_a_mask_that_broadcasts(trained):
    mask = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    images = last(trained.states(2, Sampling(steps="trailing2"), x_0=torch.zeros(1, 1, 8, 8), mask=mask))
    assert images.shape == (2, 1, 8, 8) and not images.any()


@pytest.mark.parametrize("part", [(0, 2), (2, 2), (-1, 2), (0, 0)])
def test_a_part_without_images_is_an_error(trained, part):
    told = "must hold an image, got none of n = 1: see part_of" if part == (0, 2) else r"number in 0\.\.of - 1, got \("
    with pytest.raises(ValueError, match=told):
        trained.sample(1, part=part)
    assert trained.sample(1, Sampling(steps="trailing1"), part=(1, 2)).shape == (1, 1, 8, 8)


# Classifiers.


@pytest.mark.parametrize("T", [None, 12])
def test_a_classifier_comes_back(tmp_path, T):
    before = classifier_file(tmp_path / "c", T)
    model = before.model.eval()
    trained = load_weights(tmp_path / "c")
    x = torch.randn(3, 1, 8, 8)
    level = () if T is None else (torch.tensor([0, 5, 11]),)
    assert isinstance(trained.model, Classifier) and torch.equal(trained.model(x, *level), model(x, *level))
    assert trained.recipe == before.recipe and trained.classes == tuple("0123456789")
    assert not trained.model.training and not any(p.requires_grad for p in trained.model.parameters())
    if T is None:
        assert type(trained) is type(before) is PretrainedClassifier and not hasattr(trained, "process")
    else:
        assert type(trained) is type(before) is PretrainedNoisyClassifier
        assert torch.equal(trained.process.betas, cosine(12))


def test_no_kind_of_network_has_anything_left_empty(trained, tmp_path):
    classifier_file(tmp_path / "clean")
    classifier_file(tmp_path / "noisy", 12)
    for found in (trained, load_weights(tmp_path / "clean"), load_weights(tmp_path / "noisy")):
        values = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
        assert all(value is not None for value in values.values()), values.keys()


@pytest.mark.parametrize("T", [None, 12])
def test_what_is_saved_again_is_the_same_file(weights, tmp_path, T):
    classifier_file(tmp_path / "c", T)
    for path in (weights, tmp_path / "c"):
        load_weights(path).save(str(tmp_path / "again"))
        assert (tmp_path / "again").read_bytes() == path.read_bytes()


# Damaged and other files.


def refused(path):
    with pytest.raises(CheckpointError) as error:
        load_weights(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"there is no file {tmp_path / 'no.safetensors'}"):
        load_weights(tmp_path / "no.safetensors")


def test_the_state_of_a_run_is_no_network(run):
    assert "maybe the state of a run" in refused(run.folder / "state.safetensors")


def test_a_cut_file_is_refused(weights, tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(weights.read_bytes()[:-1])
    assert "no whole safetensors file" in refused(tmp_path / "cut.safetensors")


def test_weights_of_another_network_are_refused(weights, tmp_path):
    tensors, about = load_tensors(weights)
    about["unet"]["ch"] = 16
    save_tensors(tmp_path / "x", tensors, about)
    assert "is of another network: expected" in refused(tmp_path / "x")


def changes(about):
    """What else a damaged description may look like: each entry missing, and some of another type."""
    for name in about:
        yield {key: value for key, value in about.items() if key != name}
    for name in ("unet", "recipe"):
        changed = copy.deepcopy(about)
        changed[name]["unknown"] = 1
        yield changed
        yield about | {name: None}
    yield about | {"recipe": about["recipe"] | {"mean_type": "eps"}}
    yield about | {"unet": about["unet"] | {"ch": 7}}
    yield about | {"classes": 3}


def test_a_description_that_says_too_little_is_refused(weights, tmp_path):
    tensors, about = load_tensors(weights)
    for i, changed in enumerate(changes(about)):
        save_tensors(tmp_path / str(i), tensors, changed)
        refused(tmp_path / str(i))
    assert i > 10


# By name.


@pytest.fixture
def shipped(weights, tmp_path, monkeypatch):
    """A data/weights folder of its own, with the tiny network and a classifier."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "README.md").write_text("how good they are")
    shutil.copy(weights, folder / "tiny_ddpm.safetensors")
    classifier_file(folder / "tiny_classifier.safetensors")
    for path in folder.glob("*.safetensors"):
        path.with_suffix(".json").write_text(json.dumps({"recipe": {}, "made": {"sha256": sha256(path)}}))
    monkeypatch.setattr(pretrained, "bundled", lambda name: tmp_path / name)
    return folder


def test_a_network_by_its_name(shipped, trained):
    networks = load_pretrained("tiny_ddpm"), trained
    a, b = (network.sample(2, Sampling(steps="trailing2")) for network in networks)
    assert torch.equal(a, b)
    assert isinstance(load_pretrained("tiny_classifier"), PretrainedClassifier)


@pytest.mark.parametrize("name", ["digits", "", "tiny_ddpm.safetensors", "../weights/tiny_ddpm"])
def test_a_wrong_name_lists_what_exists(shipped, name):
    with pytest.raises(ValueError) as error:
        load_pretrained(name)
    assert str(error.value) == f"no weights {name!r} ship with the course; there are tiny_classifier, tiny_ddpm"


def test_weights_that_were_not_scored_yet_say_how_to_score_them(shipped):
    (shipped / "tiny_ddpm.json").write_text('{"recipe": {}}')
    with pytest.raises(CheckpointError, match=r"has no scores yet: python data/weights/make_weights.py tiny_ddpm$"):
        load_pretrained("tiny_ddpm")


@pytest.mark.parametrize("place", [0, 40, -1])
def test_one_bit_anywhere_is_seen_by_the_checksum(shipped, place):
    path = shipped / "tiny_ddpm.safetensors"
    content = bytearray(path.read_bytes())
    expected = sha256(path)
    content[place] ^= 1
    path.write_bytes(content)
    told = f"{path} is damaged: expected the SHA-256 {expected}, got {sha256(path)}. Install the course again"
    with pytest.raises(CheckpointError) as error:
        load_pretrained("tiny_ddpm")
    assert str(error.value) == told


def test_what_ships_is_whole(no_network):
    folder = data.bundled("weights/README.md").parent
    names = sorted(path.stem for path in folder.glob("*.safetensors"))
    assert "digits_classifier" in names
    for name in names:
        trained = load_pretrained(name)
        assert trained.shape == ((2,) if "points" in name else (1, 28, 28) if "mnist" in name else (1, 8, 8))
        if isinstance(trained, PretrainedGenerator):
            assert trained.sample(2).shape == (2, *trained.shape)
            continue
        kind = PretrainedClassifier if "classifier" in name else PretrainedDiffusion
        assert type(trained) is (PretrainedNoisyClassifier if "noise" in name else kind)


def test_the_front_doors_are_those_of_the_package():
    assert ddpm_lesson.load_weights is load_weights and ddpm_lesson.load_pretrained is load_pretrained
    assert ddpm_lesson.Sampling is Sampling
    with pytest.raises(AttributeError, match="module 'ddpm_lesson' has no attribute 'load_everything'"):
        ddpm_lesson.load_everything  # noqa: B018


@pytest.mark.parametrize("name", ["digits_ddpm", "digits_classifier", "digits_noise_classifier", "mnist_ddpm"])
def test_a_shipped_file_is_written_again_byte_by_byte(name, tmp_path):
    shipped = data.bundled(f"weights/{name}.safetensors")
    load_pretrained(name).save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == shipped.read_bytes()


@pytest.mark.parametrize("name", ["digits_ddpm", "digits_classifier", "digits_noise_classifier"])
def test_the_recipe_is_the_one_beside_the_weights(name):
    trained, values = load_pretrained(name), pretrained.about_shipped(name)["recipe"]
    beside = Recipe.from_values(values) if name == "digits_ddpm" else ClassifierRecipe(**values)
    assert trained.recipe == beside and hash(trained.recipe) == hash(beside)
    assert json.loads(json.dumps(dataclasses.asdict(trained.recipe))) == values


def test_guidance_asks_with_the_label_and_without():
    trained = load_pretrained("digits_ddpm")
    x_t, t, y = torch.randn(4, 1, 8, 8), torch.tensor([0, 300, 600, 900]), torch.tensor([0, 3, 5, 9])
    without = torch.full_like(y, 10)
    a = trained.process.alphas_bar[t].float().view(-1, 1, 1, 1)
    eps = [trained.model(x_t, t, label)[:, :1] for label in (y, without)]
    mixed = eps[1] + 3 * (eps[0] - eps[1])
    expected = ((x_t - (1 - a).sqrt() * mixed) / a.sqrt()).clamp(-1, 1)
    torch.testing.assert_close(trained.denoiser(y, guidance=3.0)(x_t, t).x_0, expected, rtol=1e-3, atol=1e-3)


def test_guidance_without_labels_is_an_error():
    with pytest.raises(ValueError, match="guidance leads towards labels: expected some, got none and guidance = 2.0"):
        load_pretrained("digits_ddpm").denoiser(guidance=2.0)

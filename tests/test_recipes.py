"""Recipes: what they allow, their way through JSON, and what is built from them."""

import dataclasses
import itertools
import json
import math

import pytest
import torch

from ddpm_lesson import data
from ddpm_lesson.experiments import sizes
from ddpm_lesson.experiments.build import make_loss, make_network, make_process
from ddpm_lesson.experiments.recipes import LOSSES, PRESETS, TIMESTEPS, WEIGHTINGS, Recipe
from ddpm_lesson.experiments.sizes import is_small, on_paper
from ddpm_lesson.networks.unet import UNet
from ddpm_lesson.predictions import MEAN_TYPES, VARIANCES
from ddpm_lesson.schedules import linear
from ddpm_lesson.training import train

TINY = {"T": 20, "ch": 4, "ch_mult": (1,), "attn": (), "num_groups": 2, "batch_size": 4}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def allowed():
    """Every choice of what is learnt and how that does not contradict itself, by hand."""
    for mean_type, var_type, timesteps in itertools.product(MEAN_TYPES, VARIANCES, TIMESTEPS):
        learned = var_type in ("learned", "learned_range")
        losses = [("hybrid", "simple")] if learned else itertools.product(("simple", "l1", "huber"), WEIGHTINGS)
        for loss, weighting in (*losses, ("kl", "simple")):
            names = {"mean_type": mean_type, "var_type": var_type, "timesteps": timesteps}
            yield names | {"loss": loss, "weighting": weighting}


def steps(recipe, batches, **options):
    process, model = make_process(recipe), make_network(recipe, 1, 10)
    loss, timesteps = make_loss(recipe, process, 17), TIMESTEPS[recipe.timesteps](recipe.T)
    options |= {"timesteps": timesteps, "generator": seeded(1), "lr": recipe.lr}
    return list(train(model, process, batches, loss, steps=recipe.steps, **options))


# What is allowed.


def test_every_allowed_combination_makes_a_finite_step():
    x_0, y = data.digits("train")[:4]
    made = 0
    for names in allowed():
        recipe = Recipe(**TINY, **names, conditional=True, steps=1)
        (step,) = steps(recipe, [(x_0, y)])
        assert math.isfinite(step.loss) and step.grad_norm > 0, names
        made += 1
    assert made == len(MEAN_TYPES) * len(TIMESTEPS) * (2 * (3 * len(WEIGHTINGS) + 1) + 2 * 2)


def test_every_other_combination_is_refused():
    good = {tuple(names.values()) for names in allowed()}
    for names in itertools.product(MEAN_TYPES, VARIANCES, TIMESTEPS, LOSSES, WEIGHTINGS):
        if names not in good:
            options = dict(zip(("mean_type", "var_type", "timesteps", "loss", "weighting"), names, strict=True))
            with pytest.raises(
                ValueError, match="learned and learned_range need the loss hybrid or kl|weighting must be simple"
            ):
                Recipe(**options)


GOES_DOWN = [
    *({"mean_type": name} for name in MEAN_TYPES),
    {"loss": "l1", "weighting": "min_snr", "timesteps": "antithetic"},
    {"loss": "huber", "weighting": "p2", "mean_type": "v"},
    {"loss": "hybrid", "var_type": "learned_range", "timesteps": "loss_second_moment"},
    {"loss": "hybrid", "var_type": "learned_range", "mean_type": "xstart"},
    {"loss": "kl", "var_type": "learned_range", "timesteps": "loss_second_moment"},
    {"loss": "hybrid", "var_type": "learned"},
    {"loss": "kl", "var_type": "learned", "mean_type": "v"},
    {"loss": "kl", "var_type": "fixedsmall", "mean_type": "xprev"},
]


@pytest.mark.parametrize("names", GOES_DOWN, ids=lambda names: "-".join(names.values()))
def test_loss_goes_down(names):
    x_0 = data.digits("train")[:16][0]
    made = steps(Recipe(**TINY, **names, steps=40, lr=1e-2), [x_0])
    losses = [step.loss for step in made]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])  # over 6 seeds the ratios were at most 0.79


BAD = [
    (
        {"data": "imagenet"},
        "data must be one of digits, mnist_10k, mnist, fashion_mnist, cifar10, folder, got 'imagenet'",
    ),
    ({"data": None}, "data must be one of .*, got None"),
    ({"schedule": "lineal"}, "schedule must be one of .*linear.*cosine.*, got 'lineal'"),
    ({"mean_type": "eps"}, "mean_type must be one of .*epsilon.*, got 'eps'"),
    ({"var_type": ["fixedlarge"]}, r"var_type must be one of .*fixedlarge.*, got \['fixedlarge'\]"),
    ({"loss": 1}, "loss must be one of simple, l1, huber, hybrid, kl, got 1"),
    ({"weighting": "snr"}, "weighting must be one of simple, min_snr, p2, got 'snr'"),
    ({"timesteps": ""}, "timesteps must be one of uniform, antithetic, loss_second_moment, got ''"),
    ({"optimizer": "sgd"}, "optimizer must be one of adam, adamw, got 'sgd'"),
    ({"rate": "step"}, "rate must be one of constant, cosine, got 'step'"),
    ({"channels": 2}, "channels must be one of 1, 3, got 2"),
    ({"channels": True}, "channels must be one of 1, 3, got True"),
    ({"channels": 3.0}, "channels must be one of 1, 3, got 3.0"),
    ({"root": 5}, r"root must be str \| None, got 5"),
    ({"size": 8.0}, r"size must be an integer in 1\.\.8192 or None, got 8.0"),
    ({"size": True}, r"size must be an integer in 1\.\.8192 or None, got True"),
    ({"flip": 1}, "flip must be bool, got 1"),
    ({"conditional": "yes"}, "conditional must be bool, got 'yes'"),
    ({"compiled": None}, "compiled must be bool, got None"),
    ({"label_dropout": 1.5}, r"label_dropout must be a number in 0\.\.1, got 1.5"),
    ({"label_dropout": -0.1}, r"label_dropout must be a number in 0\.\.1, got -0.1"),
    ({"dropout": "0.1"}, r"dropout must be a number in 0\.\.1, got '0.1'"),
    ({"dropout": True}, r"dropout must be a number in 0\.\.1, got True"),
    ({"lr": math.nan}, r"lr must be a number in 0\.\.1e\+300, got nan"),
    ({"lr": -1e-3}, r"lr must be a number in 0\.\.1e\+300, got -0.001"),
    ({"weight_decay": -1}, r"weight_decay must be a number in 0\.\.1e\+300, got -1"),
    ({"clip_norm": 0}, "clip_norm above 0, got ema_decay = 0.9999, clip_norm = 0.0"),
    ({"clip_norm": -1.0}, r"clip_norm must be a number in 0\.\.inf, got -1.0"),
    ({"ema_decay": 1.0}, "ema_decay must lie below 1 and .*, got ema_decay = 1.0"),
    ({"ema_decay": 1.1}, r"ema_decay must be a number in 0\.\.1, got 1.1"),
    ({"T": 0}, r"T must be an integer in 1\.\.100000, got 0"),
    ({"T": 10.0}, r"T must be an integer in 1\.\.100000, got 10.0"),
    ({"T": True}, r"T must be an integer in 1\.\.100000, got True"),
    ({"steps": 0}, r"steps must be an integer in 1\.\.1000000000000, got 0"),
    ({"batch_size": 0}, r"batch_size must be an integer in 1\.\.1000000000000, got 0"),
    ({"accumulate": 0}, r"accumulate must be an integer in 1\.\.1000000000000, got 0"),
    ({"warmup": -1}, r"warmup must be an integer in 0\.\.1000000000000, got -1"),
    ({"seed": -1}, r"seed must be an integer in 0\.\.9223372036854775807, got -1"),
    ({"seed": 2**63}, r"seed must be an integer in 0\.\.9223372036854775807, got 9223372036854775808"),
    ({"ch": "32"}, "ch must be an integer in .*, got '32'"),
    ({"ch_mult": 2}, "ch_mult must be a list of integers, at most 16 and each in .*, got 2"),
    ({"ch_mult": (1, 2.0)}, r"ch_mult must be a list of integers, at most 16 and each in .*, got \(1, 2.0\)"),
    ({"attn": "1"}, "attn must be a list of integers, at most 16 and each in .*, got '1'"),
    ({"attn": [True]}, r"attn must be a list of integers, at most 16 and each in .*, got \[True\]"),
    ({"condition": "image"}, "condition must be one of none, previous, low_res, got 'image'"),
    ({"low_res_factor": 1}, r"low_res_factor must be an integer in 2\.\.1024, got 1"),
    ({"low_res_factor": 2.0}, r"low_res_factor must be an integer in 2\.\.1024, got 2.0"),
    ({"offset_noise": -0.1}, r"offset_noise must be a number in 0\.\.1e\+300, got -0.1"),
    ({"offset_noise": math.nan}, r"offset_noise must be a number in 0\.\.1e\+300, got nan"),
    ({"zero_snr": 1}, "zero_snr must be bool, got 1"),
    # Contradictions.
    ({"data": "folder", "root": "x"}, "data 'folder' needs size, .* got folder, size = None"),
    ({"data": "mnist", "size": 32}, "other data have theirs: got mnist, size = 32"),
    ({"data": "digits", "flip": True}, "flip would turn digits into signs that do not exist"),
    ({"data": "mnist", "flip": True}, "flip would turn mnist into signs that do not exist"),
    ({"var_type": "learned_range"}, "got var_type = learned_range, loss = simple"),
    ({"var_type": "learned"}, "got var_type = learned, loss = simple"),
    ({"loss": "hybrid"}, "got var_type = fixedlarge, loss = hybrid"),
    ({"loss": "kl", "weighting": "p2"}, "the loss kl has its own weights: weighting must be simple, got p2"),
    ({"zero_snr": True}, "zero_snr needs mean_type xstart, xprev or v, .*; got epsilon, T = 1000"),
    ({"zero_snr": True, "mean_type": "v", "T": 1}, "zero_snr needs .* and T >= 2; got v, T = 1"),
    ({"low_res_factor": 4}, "low_res_factor = 4 needs condition low_res, got none"),
    ({"low_res_factor": 4, "condition": "previous"}, "needs condition low_res, got previous"),
    # More than a computer can.
    ({"lr": 10**400}, r"lr must be a number in 0\.\.1e\+300, got 10000.*\.\.\..*000$"),
    ({"lr": math.inf}, r"lr must be a number in 0\.\.1e\+300, got inf"),
    ({"steps": 10**13}, "steps must be an integer in .*, got 10000000000000"),
    ({"ch": 10**6}, r"ch must be an integer in 2\.\.4096, got 1000000"),
    ({"ch_mult": (1,) * 17}, r"ch_mult must be a list of integers, at most 16 and each in 1\.\.1024, got \(1, 1"),
    ({"ch_mult": (1, -2)}, r"ch_mult must be a list of integers, .* got \(1, -2\)"),
    ({"patch_size": 0}, r"patch_size must be an integer in 1\.\.64, got 0"),
    ({"attn": (16,)}, r"attn must be a list of integers, at most 16 and each in 0\.\.15, got \(16,\)"),
    ({"size": 10**5}, r"size must be an integer in 1\.\.8192 or None, got 100000"),
    ({"weight_decay": 0.1}, "weight_decay = 0.1 needs optimizer adamw, got adam"),
]


@pytest.mark.parametrize("options, message", BAD, ids=lambda value: str(value)[:40] if isinstance(value, dict) else "")
def test_bad_values_are_an_error_that_names_the_field(options, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**options)


def test_every_field_is_explained_and_checked():
    tried = {name for options, _ in BAD for name in options}
    sizes = {"num_res_blocks", "num_groups", "num_heads"}  # below
    switches = {"zero_init", "scale_shift_norm", "biggan", "mixed_precision"}  # as flip
    assert tried | sizes | switches == {field.name for field in dataclasses.fields(Recipe)}
    assert all(field.metadata["help"] for field in dataclasses.fields(Recipe))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"ch": 0}, r"ch must be an integer in 2\.\.4096, got 0"),
        ({"ch_mult": ()}, r"ch_mult must hold a positive integer for each level, got \[\]"),
        ({"attn": (1,)}, r"attn must name levels in 0\.\.0, got \[1\]"),
        ({"num_res_blocks": 0}, r"num_res_blocks must be an integer in 1\.\.64, got 0"),
        ({"num_groups": 3}, "divisible by num_groups = 3"),
        ({"num_groups": 0}, r"num_groups must be an integer in 1\.\.4096, got 0"),
        ({"num_heads": 3}, "divisible by num_heads = 3"),
        ({"num_heads": 0}, r"num_heads must be an integer in 1\.\.4096, got 0"),
    ],
)
def test_sizes_that_make_no_network_are_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        make_network(Recipe(**{**TINY, **options}), 1, 10)


def test_a_network_that_no_machine_holds_is_an_error_before_it_is_built():
    message = r"training a network of [\d,]{20,} numbers needs [\d,]+ GiB, this machine has \d+ GiB: lower ch, ch_mult"
    with pytest.raises(ValueError, match=message):
        make_network(Recipe(ch=4096, ch_mult=(1, 1024), attn=()), 1, 10)


@pytest.mark.parametrize("preset", [*PRESETS, None])
def test_what_counts_as_small_has_no_more_numbers_than_that(preset):
    recipe = PRESETS[preset] if preset else Recipe(ch=96, ch_mult=(1, 8), num_res_blocks=1)
    options = {name: getattr(recipe, name) for name in "T ch ch_mult attn num_res_blocks dropout".split()}
    made = sum(t.numel() for t in on_paper(lambda: UNet(**options, num_classes=10, num_groups=4)).state_dict().values())
    assert is_small({**options, "in_ch": 3, "num_classes": 10}) == (preset is not None)
    assert made < 2**27 or preset is None


def test_a_network_on_paper_takes_no_random_number():
    before = torch.get_rng_state()
    made = on_paper(lambda: make_network(Recipe(), 1, 10))
    assert torch.equal(torch.get_rng_state(), before) and next(made.parameters()).is_meta


# JSON.


@pytest.mark.parametrize(
    "recipe",
    [Recipe(), *PRESETS.values()]
    + [Recipe(clip_norm=math.inf, lr=1, ch_mult=[1, 3], attn=(), seed=2**62, root="a folder/ä")],
)
def test_json_and_back(recipe):
    text = recipe.to_json()
    again = Recipe.from_json(text)
    assert again == recipe and again.to_json() == text and type(again.ch_mult) is tuple
    assert list(json.loads(text)) == [field.name for field in dataclasses.fields(Recipe)]


def test_equal_recipes_are_written_alike():
    assert Recipe(lr=1).to_json() == Recipe(lr=1.0).to_json()
    assert Recipe(attn=[1]).to_json() == Recipe(attn=(1,)).to_json()


def test_fields_left_out_have_their_defaults():
    assert Recipe.from_json('{"lr": 0.5}') == Recipe(lr=0.5)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "a recipe must be JSON"),
        ("{'lr': 1}", "a recipe must be JSON"),
        ("[1]", "a recipe must be a JSON object, got list"),
        ('{"learning_rate": 1, "lr": 1}', "unknown in a recipe: learning_rate; it may have data, root, .*, seed"),
        ('{"lr": NaN}', "lr must be a number in .*, got nan"),
        ('{"lr": 1e400}', "lr must be a number in .*, got inf"),
        ('{"lr": 1' + "0" * 400 + "}", "a recipe must hold integers of at most 64 bits, got one of 401 digits"),
        ('{"lr": 1' + "0" * 9000 + "}", "a recipe must hold integers of at most 64 bits, got one of 9001 digits"),
        ('{"lr": 1, "T": 5, "lr": 2}', "a recipe must give each name once, got several times: lr"),
        ("[" * 100_000, "a recipe must be JSON as this package writes it, got lists nested too deep"),
        ('{"' + "x" * 5000 + '": 1}', "unknown in a recipe: xxx.{0,120}; it may have data"),
    ],
)
def test_other_texts_are_an_error(text, message):
    with pytest.raises(ValueError, match=message):
        Recipe.from_json(text)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_file_in_any_of_unicodes_encodings_is_read(tmp_path, encoding):
    recipe = Recipe(root="a folder/ä")
    (tmp_path / "recipe.json").write_text(recipe.to_json().replace("\\u00e4", "ä"), encoding=encoding)
    assert Recipe.from_file(tmp_path / "recipe.json") == recipe
    assert Recipe.from_json("\ufeff" + recipe.to_json()) == recipe


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "there is no recipe .*recipe.json: name a recipe.json"),
        (b"\xff" * 99, "a recipe must be JSON, which is text, got bytes that are none: name another file"),
        (b" " * (2**20 + 1), "a recipe must be a file of at most 1,048,576 bytes, got more"),
        (b"{", "recipe.json: a recipe must be JSON, got text that is not"),
    ],
)
def test_other_files_are_an_error(tmp_path, content, message):
    if content is not None:
        (tmp_path / "recipe.json").write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Recipe.from_file(tmp_path / "recipe.json")
    with pytest.raises(ValueError, match="a recipe must be a file, got the folder"):
        Recipe.from_file(tmp_path)


# Presets.


def test_cifar10_is_the_papers_configuration():
    # Ho et al. 2020, Section 4 and Appendix B; 35.7 M parameters there.
    recipe = PRESETS["cifar10"]
    paper = {"data": "cifar10", "flip": True, "conditional": False, "T": 1000, "schedule": "linear"}
    paper |= {"mean_type": "epsilon", "var_type": "fixedlarge", "loss": "simple", "weighting": "simple"}
    paper |= {"ch": 128, "ch_mult": (1, 2, 2, 2), "attn": (1,), "num_res_blocks": 2, "dropout": 0.1}
    paper |= {"optimizer": "adam", "lr": 2e-4, "batch_size": 128, "steps": 800_000, "ema_decay": 0.9999}
    paper |= {"rate": "constant", "clip_norm": 1.0, "warmup": 5000, "timesteps": "uniform", "num_groups": 32}
    assert {name: getattr(recipe, name) for name in paper} == paper
    with torch.device("meta"):
        model = UNet(1000, 128, (1, 2, 2, 2), (1,), 2, 0.1)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 35_746_307
    torch.testing.assert_close(make_process(recipe).betas, linear(1000), rtol=0, atol=0)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_build(preset):
    recipe = PRESETS[preset]
    channels = 1 if recipe.data in ("digits", "mnist") else 3
    model, side = make_network(recipe, channels, 10), {"digits": 8, "mnist": 28}.get(recipe.data, 32)
    assert side % model.divisor == 0
    if preset == "cifar10":
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 35_746_307


def test_a_batch_that_no_memory_holds_is_refused_and_one_that_fits_is_not(monkeypatch):
    """What is counted is kept: a step on this machine needs more than that."""
    recipe = Recipe(ch=16, ch_mult=(1, 2), num_res_blocks=2, batch_size=32, num_groups=8, T=4)
    model, kept = make_network(recipe, 1, 10), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x.numel()), x)[1], lambda x: x):
        model(torch.zeros(32, 1, 8, 8), torch.zeros(32, dtype=torch.int64))
    counted = 4 * 5 * 16 * 8 * 8 * 32
    assert counted < sum(kept)
    monkeypatch.setattr(sizes, "memory", lambda device: 4 * counted)
    sizes.check_batch(recipe, (8, 8), torch.device("cpu"))
    sizes.check_batch(dataclasses.replace(recipe, batch_size=64, mixed_precision=True), (8, 8), torch.device("cpu"))
    with pytest.raises(ValueError, match="a step of 33 images needs more than 0 GiB, cpu has 0 GiB: lower batch_size"):
        sizes.check_batch(dataclasses.replace(recipe, batch_size=33), (8, 8), torch.device("cpu"))

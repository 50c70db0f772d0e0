"""Sampling: one value and one sentence for a chain; a further sampler is an entry, and a field if it has an option."""

import dataclasses
import json
import math
from dataclasses import dataclass

import pytest
import torch
from command_line import run

from ddpm_lesson import GaussianDiffusion, cli, data, spacing
from ddpm_lesson.denoisers import clipped
from ddpm_lesson.experiments import pretrained
from ddpm_lesson.experiments.pretrained import load_pretrained, load_weights
from ddpm_lesson.experiments.recipes import Recipe
from ddpm_lesson.experiments.runs import Run
from ddpm_lesson.experiments.sampling import SAMPLERS, Named, Sampling, takers
from ddpm_lesson.oracle import GaussianData
from ddpm_lesson.predictions import fixedlarge, fixedsmall, learned
from ddpm_lesson.samplers import (
    State,
    ancestral,
    ddim,
    dpmpp_2m,
    dpmpp_2m_sde,
    dpmpp_2s,
    dpmpp_3m,
    heun,
    last,
    plms,
    reverse,
)
from ddpm_lesson.schedules import linear

# One sentence.


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({}, "all steps of ancestral, seed 0"),
        ({"steps": "trailing50", "seed": 3}, "trailing50 steps of ancestral, seed 3"),
        ({"clip": False}, "all steps of ancestral, x_0 not clipped, seed 0"),
        ({"guidance": 0.0}, "all steps of ancestral, guidance 0, seed 0"),
        ({"sampler": "ddim"}, "all steps of ddim, eta 0, seed 0"),
        ({"sampler": "ddim", "eta": 0.25, "steps": "10,15,20"}, "10,15,20 steps of ddim, eta 0.25, seed 0"),
        ({"sampler": "heun", "churn": 2.0, "steps": "karras9"}, "karras9 steps of heun, churn 2, seed 0"),
        ({"sampler": "dpmpp_2m", "steps": "log_snr20"}, "log_snr20 steps of dpmpp_2m, seed 0"),
        ({"sampler": "ddim", "eta": 1, "guidance": 1.5}, "all steps of ddim, eta 1, guidance 1.5, seed 0"),
        (
            {"sampler": "ddim", "steps": "ddim25", "guidance": 3.0, "clip": False, "seed": 9},
            "ddim25 steps of ddim, eta 0, guidance 3, x_0 not clipped, seed 9",
        ),
    ],
)
def test_it_is_told_in_one_sentence(options, sentence):
    assert str(Sampling(**options)) == sentence


def test_it_is_a_value():
    a, b = Sampling("ddim", eta=0.5), Sampling("ddim", eta=0.5)
    assert a == b and hash(a) == hash(b) and {a: 1}[b] == 1 and a != Sampling("ddim")
    with pytest.raises(dataclasses.FrozenInstanceError):
        a.eta = 0.3
    assert Sampling(**json.loads(json.dumps(dataclasses.asdict(a)))) == a
    assert {f.name: f.default for f in dataclasses.fields(Sampling)} == dataclasses.asdict(Sampling())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"sampler": "euler"}, "unknown sampler 'euler', expected one of ancestral, ddim, heun, dpmpp_2m"),
        ({"sampler": ""}, "unknown sampler '', expected one of ancestral, ddim, heun"),
        ({"eta": 0.5}, "eta is an option of ddim, got eta = 0.5 and the sampler ancestral"),
        ({"sampler": "ddim", "eta": 1.01}, r"eta must lie in 0\.\.1, got 1.01"),
        ({"sampler": "ddim", "eta": -0.1}, r"eta must lie in 0\.\.1, got -0.1"),
        ({"sampler": "ddim", "eta": math.nan}, r"eta must lie in 0\.\.1, got nan"),
        ({"churn": 1.0}, "churn is an option of heun, got churn = 1.0 and the sampler ancestral"),
        ({"sampler": "heun", "churn": -1.0}, "churn must be a finite number, not negative, got -1.0"),
        ({"sampler": "heun", "churn": math.inf}, "churn must be a finite number, not negative, got inf"),
        ({"steps": 50}, "steps must be 'all' or a choice such as 'trailing50', got 50"),
        ({"steps": None}, "steps must be 'all' or a choice such as 'trailing50', got None"),
        ({"guidance": math.inf}, "guidance must be a finite number, got inf"),
        ({"guidance": math.nan}, "guidance must be a finite number, got nan"),
        ({"seed": -1}, r"seed must lie in 0\.\.9223372036854775807, got -1"),
        ({"seed": 2**63}, r"seed must lie in 0\.\.9223372036854775807, got 9223372036854775808"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**options)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(Sampling(), **options)


def test_another_sampler_has_to_take_the_options_too():
    with pytest.raises(ValueError, match="eta is an option of ddim"):
        dataclasses.replace(Sampling("ddim", eta=0.5), sampler="ancestral")
    assert takers("eta") == ["ddim"] and takers("seed") == takers("clip") == []


# Chains. The denoiser is exact: data are N(0.3, 0.5^2) in each of two coordinates.


@pytest.fixture
def process():
    return GaussianDiffusion(linear(30, 1e-3, 0.3))


def denoiser(process):
    return GaussianData(process, torch.full((2,), 0.3, dtype=torch.float64), 0.5)


def chain(sampling, process, variance=fixedsmall, **options):
    x_T = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    return list(sampling.states(process, denoiser(process), variance, x_T, generator=generator)), x_T


@pytest.mark.parametrize("steps", ["all", "trailing7", "ddim10", "2,3,4"])
@pytest.mark.parametrize("variance", [fixedlarge, fixedsmall])
def test_ancestral_is_that_of_the_samplers(process, steps, variance):
    found, x_T = chain(Sampling(steps=steps), process, variance)
    steps_process = process if steps == "all" else process.respaced(spacing.named(steps, 30))
    p = reverse(steps_process, denoiser(process), variance)
    expected = list(ancestral(steps_process, p, x_T, generator=torch.Generator().manual_seed(2)))
    assert [state.i for state in found] == [state.i for state in expected]
    assert all(torch.equal(a.x_t, b.x_t) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("steps", ["all", "trailing7"])
def test_ddim_is_that_of_the_samplers(process, steps, eta):
    found, x_T = chain(Sampling("ddim", steps, eta), process)
    steps_process = process if steps == "all" else process.respaced(spacing.named(steps, 30))
    generator = torch.Generator().manual_seed(2)
    expected = list(ddim(steps_process, denoiser(process), x_T, eta=eta, generator=generator))
    assert all(torch.equal(a.x_t, b.x_t) for a, b in zip(found, expected, strict=True))


SOLVERS = {"heun": heun, "dpmpp_2m": dpmpp_2m, "dpmpp_3m": dpmpp_3m, "dpmpp_2s": dpmpp_2s, "plms": plms}


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("steps", ["all", "trailing7", "log_snr7", "karras7"])
def test_solvers_are_those_of_the_samplers(process, name, steps):
    found, x_T = chain(Sampling(name, steps), process)
    steps_process = process if steps == "all" else process.respaced(spacing.named(steps, 30, process.snr))
    expected = list(SOLVERS[name](steps_process, denoiser(process), x_T))
    assert [state.i for state in found] == [state.i for state in expected]
    assert all(torch.equal(a.x_t, b.x_t) for a, b in zip(found, expected, strict=True))


def test_noisy_solvers_take_the_generator_and_the_churn(process):
    found, x_T = chain(Sampling("heun", "trailing7", churn=3.0), process)
    short = process.respaced(spacing.trailing(30, 7))
    expected = heun(short, denoiser(process), x_T, churn=3.0, generator=torch.Generator().manual_seed(2))
    assert torch.equal(found[-1].x_t, last(expected))
    assert not torch.equal(found[-1].x_t, last(heun(short, denoiser(process), x_T)))
    found, x_T = chain(Sampling("dpmpp_2m_sde", "trailing7"), process)
    expected = dpmpp_2m_sde(short, denoiser(process), x_T, generator=torch.Generator().manual_seed(2))
    assert torch.equal(found[-1].x_t, last(expected))


@pytest.mark.parametrize(
    "steps, message",
    [
        ("every second", "unknown step choice 'every second'"),
        ("trailing31", r"must lie in 1\.\.30, got 31"),
        ("11,11,11", "section 0 holds 10 steps, cannot choose 11"),
    ],
)
def test_steps_that_do_not_fit_the_process_are_refused(process, steps, message):
    with pytest.raises(ValueError, match=message):
        chain(Sampling(steps=steps), process)


def test_variances_of_the_bases_steps_serve_no_respaced_chain(process):
    def with_variance(x_t, t, prev=None):
        found = denoiser(process)(x_t, t, prev)
        return found._replace(var_frac=torch.full_like(x_t, -1.5))  # the log variance is 2 (-1.5) - 1 = -4

    x_T = torch.zeros(3, 2, dtype=torch.float64)
    assert last(Sampling().states(process, with_variance, learned, x_T)).isfinite().all()
    told = "learned variances are those of the base's steps, got a respaced chain"
    with pytest.raises(ValueError, match=told):
        last(Sampling(steps="trailing7").states(process, with_variance, learned, x_T))
    assert last(Sampling("ddim", "trailing7").states(process, with_variance, learned, x_T)).isfinite().all()


# A further sampler, with an option of its own: an entry and a field, and no other line anywhere.


@dataclass(frozen=True)
class WithReach(Sampling):
    """What Sampling would be with one more field."""

    reach: float = dataclasses.field(default=1.0, metadata={"help": "of leap, how far it goes", "metavar": "SHARE"})


def leap(sampling, process, denoise, p, x_T, generator):
    """In one step from x_T a part of the way to what the denoiser sees there."""
    yield State(1, x_T, None)
    t = torch.full((len(x_T),), process.base.T - 1)
    prediction = denoise(x_T, t)
    yield State(0, sampling.reach * prediction.x_0 + (1 - sampling.reach) * x_T, prediction)


@pytest.fixture
def further(monkeypatch):
    monkeypatch.setitem(SAMPLERS, "leap", Named(leap, takes=("reach",)))
    for module in (cli.options, cli.sample, cli.evaluate):
        monkeypatch.setattr(module, "Sampling", WithReach)
    return WithReach


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    names = {"T": 6, "ch": 8, "ch_mult": (1,), "attn": (), "num_groups": 4, "batch_size": 4, "steps": 1}
    run = Run(Recipe(**names, conditional=True), tmp_path_factory.mktemp("run"), data.digits("train"))
    for _ in run.steps():
        pass
    run.save()
    return run.folder / "weights.safetensors"


def test_a_further_sampler_is_told_and_checked(further):
    assert str(further("leap", reach=0.5, seed=2)) == "all steps of leap, reach 0.5, seed 2"
    assert str(further("leap")) == "all steps of leap, reach 1, seed 0"
    assert str(further("ddim")) == "all steps of ddim, eta 0, seed 0"
    with pytest.raises(ValueError, match="eta is an option of ddim, got eta = 0.5 and the sampler leap"):
        further("leap", eta=0.5)
    with pytest.raises(ValueError, match="reach is an option of leap, got reach = 0.5 and the sampler ddim"):
        further("ddim", reach=0.5)
    with pytest.raises(ValueError, match="unknown sampler 'jump', expected one of ancestral, ddim, .*, leap"):
        further("jump")


def test_a_further_sampler_draws(further, weights):
    trained = load_weights(weights)
    y, sampling = trained.labels(3), further("leap", reach=0.25, seed=4)
    x_T = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(4))
    x_0 = clipped(trained.denoiser(y, clip=False), trained.process)(x_T, torch.full((3,), 5)).x_0
    torch.testing.assert_close(trained.sample(3, sampling, y=y), 0.25 * x_0 + 0.75 * x_T)
    assert [state.i for state in trained.states(3, sampling, y=y)] == [1, 0]


def by_cli(*arguments):
    return dataclasses.astuple(run(*arguments))


def test_a_further_sampler_stands_in_the_command_line(further, weights, tmp_path):
    status, text, _ = by_cli("sample", "--help")
    assert status == 0 and "{ancestral,ddim,heun,dpmpp_2m,dpmpp_3m,dpmpp_2s,dpmpp_2m_sde,plms,leap}" in "".join(
        text.split()
    )
    assert "--reach SHARE" in text and "of leap, how far it goes [1.0]" in " ".join(text.split())
    options = ["sample", "--weights", weights, "--n", 3, "--device", "cpu", "--out", tmp_path / "x.png"]
    status, text, err = by_cli(*options, "--sampler", "leap", "--reach", 0.25, "--seed", 4)
    assert status == 0, err
    assert text == f"{tmp_path / 'x.png'}: 3 images, all steps of leap, reach 0.25, seed 4\n"
    trained = load_weights(weights)
    drawn = trained.sample(3, further("leap", reach=0.25, seed=4), y=trained.labels(3))
    assert (tmp_path / "x.png").read_bytes() == cli.pictures.grid(drawn)
    status, _, err = by_cli(*options, "--reach", 0.25)
    assert status == 1
    assert err == "ddpm_lesson: reach is an option of leap, got reach = 0.25 and the sampler ancestral\n"


def test_a_recorded_option_of_another_sampler_is_not_taken_over(further):
    recorded = further("leap", "trailing3", reach=0.25, seed=5)
    parsed = cli.parser().parse_args(["evaluate", "--sampler", "ddim", "--eta", "0.5"])
    assert cli.options.sampling_of(parsed, recorded) == further("ddim", "trailing3", eta=0.5, seed=5)
    parsed = cli.parser().parse_args(["evaluate", "--no-clip"])
    assert cli.options.sampling_of(parsed, recorded) == dataclasses.replace(recorded, clip=False)


def test_a_further_sampler_is_recorded(further, tmp_path, monkeypatch, make_records):
    # The whole record of the shipped network, but with one sampler, one number of steps and one scale.
    monkeypatch.setattr(make_records, "Sampling", further)
    monkeypatch.setattr(make_records, "SAMPLERS", ("leap",))
    monkeypatch.setattr(make_records, "STEPS", (5,))
    monkeypatch.setattr(make_records, "GUIDANCE", (1.0,))
    monkeypatch.setattr(make_records, "bits", lambda *_: {})
    monkeypatch.setattr(make_records, "HERE", tmp_path)
    held = pretrained.about_shipped("digits_ddpm")
    few = {**held, "scoring": {**held["scoring"], "n": 100, "few": 100}}
    monkeypatch.setattr(make_records, "about_shipped", lambda name: few)
    record = make_records.make("digits_ddpm", data.bundled("weights"), None, tmp_path / "runs")
    (row,) = json.loads(json.dumps(record))["samplers"]
    assert row["sampling"] == dataclasses.asdict(further("leap", "trailing5"))
    assert further(**row["sampling"]) == further("leap", "trailing5")
    trained = load_pretrained("digits_ddpm")
    images = trained.sample(100, further("leap", "trailing5"), y=trained.labels(100))
    classes = load_pretrained("digits_classifier").model(images).argmax(1)
    share = (classes == trained.labels(100)).double().mean().item()
    assert row["scores"]["Conditional accuracy"]["value"] == pytest.approx(share)
    assert row["seconds_per_image"] > 0 and row["n"] == 100

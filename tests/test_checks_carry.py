"""What a check gives back, and what it protects from an answer."""

import importlib.util
import random
import signal
import threading
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ddpm_lesson import checks
from ddpm_lesson.checks import _accelerator, _carry
from ddpm_lesson.checks._finished import FINISHED
from ddpm_lesson.checks._state import default_device

SOLVED = Path(__file__).parent.parent / "notebooks/solutions/01_forward_process.py"
every_check = pytest.mark.parametrize("check", checks.registry.values(), ids=list(checks.registry))


def solution(name):
    spec = importlib.util.spec_from_file_location("solution", SOLVED)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


@pytest.fixture(autouse=True)
def fresh_kernel(monkeypatch):
    monkeypatch.setattr(_carry, "_given_back", {})


def stub(x_0, t, noise, alphas_bar): ...


def wrong(x_0, t, noise, alphas_bar):
    return x_0


def said(function, capsys, check=checks.q_sample):
    given = check(function)
    return given, capsys.readouterr().out.rstrip("\n")


def test_a_right_answer_comes_back_itself(capsys):
    mine = solution("q_sample")
    given, text = said(mine, capsys)
    assert given is mine and text.startswith("1.4 q_sample: yes")
    assert checks.carried("q_sample") is mine
    assert said(given, capsys) == (mine, text)


@pytest.mark.parametrize("answer", [stub, wrong, None, 3])
def test_instead_of_any_other_the_finished_one_comes_back(answer, capsys):
    given, text = said(answer, capsys)
    case = checks.q_sample.cases[0]
    assert torch.allclose(given(*case.args).double(), checks.q_sample.specification(*case.args), rtol=0, atol=1e-6)
    assert given is checks.carried("q_sample") and repr(given) == "<the course's own q_sample>"
    again, text_again = said(given, capsys)
    assert (again, text_again) == (given, text)  # as when the cell is run twice


def test_a_cell_that_is_run_twice_says_the_same_twice(capsys):
    for answer, verdict in [(stub, "not attempted"), (wrong, "no. "), (solution("q_sample"), "yes")]:
        q_sample = answer
        texts = []
        for _ in range(3):
            q_sample = checks.q_sample(q_sample)
            texts.append(capsys.readouterr().out)
        assert len(set(texts)) == 1 and texts[0].startswith(f"1.4 q_sample: {verdict}")


def test_a_finished_one_of_another_exercise_is_an_answer_like_any_other(capsys):
    given, text = said(checks.carried("x_0_from_eps"), capsys)
    assert text.startswith("1.4 q_sample: no. ") and given.__name__ == "q_sample"


def test_a_mended_answer_comes_back(capsys):
    said(wrong, capsys)
    mine = solution("q_sample")
    assert said(mine, capsys)[0] is mine and checks.carried("q_sample") is mine
    assert said(wrong, capsys)[0] is not mine  # spoilt again


@every_check
def test_finished_one_is_right(check):
    """The package against the specifications."""
    assert not any(check.problems(check.run(FINISHED[check.name]))), check.name


@every_check
def test_carried_without_a_check_is_the_finished_one_and_not_attempted(check):
    given = checks.carried(check.name)
    assert check.diagnose(given) == ("not attempted", "")
    assert given.__name__ == check.name


def test_every_exercise_has_a_finished_one():
    assert list(FINISHED) == [*checks.registry, checks.meets.name]


def test_carried_of_an_unknown_name():
    with pytest.raises(KeyError, match="no exercise is called 'p_sample'; there are linear_betas, walk, "):
        checks.carried("p_sample")


# Global state.


def spoils(spoil):
    def q_sample(x_0, t, noise, alphas_bar):
        out = solution("q_sample")(x_0, t, noise, alphas_bar)
        spoil()
        return out

    return q_sample


def state():
    modes = torch.get_default_dtype(), default_device(), torch.is_grad_enabled()
    return *modes, torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())


def draw():
    torch.rand(3), random.random(), np.random.rand()


def seed():
    torch.manual_seed(123), random.seed(5), np.random.seed(7)


SPOILS = {
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "default device": lambda: torch.set_default_device("meta"),
    "grad mode": lambda: torch.set_grad_enabled(False),
    "": draw,
    " ": seed,
}


@pytest.mark.parametrize(("words", "spoil"), SPOILS.items(), ids=["dtype", "device", "grad", "draw", "seed"])
def test_global_state_comes_back(words, spoil, capsys):
    before = state()
    given, text = said(spoils(spoil), capsys)
    assert state() == before
    assert text.startswith("1.4 q_sample: yes (8 inputs")
    assert text.endswith(
        f"But it changes torch's {words}: put back what your function sets." if words.strip() else "them)"
    )


@pytest.mark.parametrize("spoil", [SPOILS["default dtype"], SPOILS["default device"], SPOILS["grad mode"]])
def test_a_returned_function_that_switches_modes_is_guarded(spoil, capsys):
    given, _ = said(spoils(spoil), capsys)
    case = checks.q_sample.cases[0]
    before = state()
    out = given(*case.args)
    assert state() == before and torch.allclose(out.double(), checks.q_sample.specification(*case.args), atol=1e-6)
    assert said(given, capsys)[0] is not None and state() == before


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=["dtype", "device", "grad", "draw", "seed"])
def test_global_state_comes_back_after_a_wrong_answer(spoil, capsys):
    def q_sample(x_0, t, noise, alphas_bar):
        spoil()
        return x_0 * 0.5 + noise

    before = state()
    said(q_sample, capsys)
    assert state() == before


def test_answers_run_under_the_modes_of_the_notebook(capsys):
    """A function that relies on a default dtype is right in a notebook that sets it, and there only."""

    def linear_betas(beta_1, beta_T, T):
        return torch.linspace(beta_1, beta_T, T)

    assert "You return float32" in said(linear_betas, capsys, checks.linear_betas)[1]
    torch.set_default_dtype(torch.float64)
    try:
        assert said(linear_betas, capsys, checks.linear_betas)[1].startswith("1.1 linear_betas: yes")
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


# Interrupts.


def test_an_endless_loop_can_be_interrupted(capsys):
    def q_sample(x_0, t, noise, alphas_bar):
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.manual_seed(9)
        while True:
            pass

    before, mine = state(), solution("q_sample")
    checks.q_sample(mine)
    timer = threading.Timer(0.3, signal.raise_signal, (signal.SIGINT,))
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background began with none
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            checks.q_sample(q_sample)
        timer.join()
    finally:
        signal.signal(signal.SIGINT, handler)
    assert state() == before and checks.carried("q_sample") is mine


# What is quoted.


def test_the_engines_own_lines_are_never_quoted(capsys):
    """Huge tensors, tensors without numbers, and built-ins that raise."""
    huge = lambda x_0, t, noise, alphas_bar: torch.zeros(1).expand(10**9)  # noqa: E731
    assert said(huge, capsys)[1].endswith("expected out of shape (4, 1, 8, 8), got (1000000000,).")
    meta = lambda x_0, t, noise, alphas_bar: x_0.to("meta")  # noqa: E731
    assert said(meta, capsys)[1].endswith("expected numbers in out, got a tensor on the device meta, which holds none.")
    for answer in [huge, meta, torch.Tensor.sqrt, max, int]:
        text = said(answer, capsys)[1]
        assert "in the line" not in text and "no. " in text


# Accelerators.


def test_a_right_answer_is_run_on_the_accelerator_too(monkeypatch, capsys):
    """Simulated: what is moved there comes in half precision, and the answer breaks on it."""

    def careless(x_0, t, noise, alphas_bar):
        a = alphas_bar[t].view(-1, *[1] * (x_0.ndim - 1))
        if x_0.dtype == torch.float16:
            raise RuntimeError("Expected all tensors to be on the same device")
        return a.sqrt() * x_0 + (1 - a).sqrt() * noise

    monkeypatch.setattr(_accelerator, "usable_gpu", lambda: "cuda")
    monkeypatch.setattr(_accelerator, "moved", lambda value, kind: value)
    assert said(careless, capsys)[1].startswith("1.4 q_sample: yes")
    half = lambda value, kind: value.half() if torch.is_tensor(value) and value.dtype == torch.float32 else value  # noqa: E731
    monkeypatch.setattr(_accelerator, "moved", half)
    given, text = said(careless, capsys)
    assert text.startswith("1.4 q_sample: no. It is right on the CPU, but not on cuda, for x_0 of shape (4, 1, 8, 8)")
    assert "your function raised RuntimeError: Expected all tensors to be on the same device" in text
    assert given is not careless


def test_an_answer_that_makes_a_tensor_on_the_cpu_breaks_on_a_gpu(gpu, monkeypatch, capsys):
    def careless(x_0, t, noise, alphas_bar):
        a = alphas_bar[t].view(-1, *[1] * (x_0.ndim - 1))
        return a.sqrt() * x_0 + (torch.ones(a.shape, dtype=a.dtype) - a).sqrt() * noise

    monkeypatch.setattr(_accelerator, "usable_gpu", lambda: gpu.type)
    text = said(careless, capsys)[1]
    assert f"no. It is right on the CPU, but not on {gpu.type}, for x_0 of shape (4, 1, 8, 8)" in text
    assert "Expected all tensors to be on the same device" in text


PRECISIONS = ["cudnn.allow_tf32", "cuda.matmul.allow_tf32", "cudnn.enabled", "cudnn.benchmark", "cudnn.deterministic"]
OWNERS = ["", "cudnn.", "cudnn.conv.", "cudnn.rnn.", "cuda.matmul.", "mkldnn.matmul."]
PRECISIONS += [f"{owner}fp32_precision" for owner in OWNERS]  # since PyTorch 2.9


def said_of(name):
    try:
        return attrgetter(name)(torch.backends)
    except (AttributeError, RuntimeError) as error:  # an older PyTorch, or two switches that contradict each other
        return type(error).__name__


def precisions():
    try:
        product = torch.get_float32_matmul_precision()
    except RuntimeError:
        product = "RuntimeError"
    return {name: said_of(name) for name in PRECISIONS} | {"products": product}


def everywhere(precision):
    if not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("this PyTorch has no torch.backends.fp32_precision")
    torch.backends.fp32_precision = precision


def old_switches():
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = True


ALLOWED = {
    "as it comes": lambda: None,
    "old switches": old_switches,
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "everywhere": lambda: everywhere("tf32"),
}


@pytest.fixture
def as_it_was():
    """PyTorch's switches are put back after the test."""
    yield
    if hasattr(torch.backends, "fp32_precision"):
        torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = False


@pytest.mark.parametrize("breaks", [False, True])
@pytest.mark.parametrize("allow", ALLOWED.values(), ids=ALLOWED)
def test_an_answer_runs_on_the_gpu_without_tf32(allow, breaks, gpu, as_it_was, monkeypatch, capsys):
    found = []

    def q_sample(x_0, t, noise, alphas_bar):
        if x_0.device.type == gpu.type:
            found.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
            found.extend({said_of(f"{owner}fp32_precision") for owner in OWNERS[:-1]} - {"AttributeError"})
            if breaks:
                raise ValueError("too small")
        return solution("q_sample")(x_0, t, noise, alphas_bar)

    monkeypatch.setattr(_accelerator, "usable_gpu", lambda: gpu.type)
    allow()
    before = precisions()
    text = said(q_sample, capsys)[1]
    assert precisions() == before
    assert found == [(False, False), *["ieee"] * hasattr(torch.backends, "fp32_precision")]
    assert ("not on" in text and "too small" in text) if breaks else text.startswith("1.4 q_sample: yes")


@every_check
def test_finished_ones_are_right_on_the_gpu(check, gpu, monkeypatch):
    monkeypatch.setattr(_accelerator, "usable_gpu", lambda: gpu.type)
    assert check.diagnose(lambda *args: FINISHED[check.name](*args))[0] == "yes"
    networks = [arg for arg in check.cases[0].args if isinstance(arg, nn.Module)]
    assert all(x.device.type == "cpu" for each in networks for x in [*each.parameters(), *each.buffers()])

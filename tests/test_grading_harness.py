"""What runs in the process of one exercise, here without the process; and its limits, in one."""

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ddpm_lesson import checks
from ddpm_lesson.checks import _accelerator, _carry, _engine
from ddpm_lesson.grading.exercises import exercises
from ddpm_lesson.grading.harness import Job, _judged
from ddpm_lesson.grading.limits import OUTPUT, Kept
from ddpm_lesson.grading.notebooks import parsed
from ddpm_lesson.grading.slices import Program

GRADED = [exercise for exercise in exercises() if exercise.chapter == 1]
RIGHT = "import torch\ndef linear_betas(beta_1, beta_T, T):\n"
RIGHT += "    return torch.linspace(beta_1, beta_T, T, dtype=torch.float64)"

Q_SAMPLE = "import torch\ndef q_sample(x_0, t, noise, alphas_bar):\n"
Q_SAMPLE += "    a = alphas_bar[t].view(-1, *[1] * (x_0.ndim - 1))\n    return a.sqrt() * x_0 + (1 - a).sqrt() * noise"


@pytest.fixture(autouse=True)
def put_back(monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    monkeypatch.setattr(_carry, "_given_back", {})
    monkeypatch.setattr(_accelerator, "usable_gpu", lambda: "")


def judged(*sources, name="linear_betas", passed=()):
    program = Program([parsed(i, textwrap.dedent(source)) for i, source in enumerate(sources, 1)], GRADED)
    exercise = next(exercise for exercise in GRADED if exercise.name == name)
    return _judged(Job(program.plan(name, passed), exercise, tuple(program.graded), passed, 60, 1000), Kept())


def test_a_right_one_passes_in_the_words_of_its_check():
    said = judged(RIGHT)
    assert said["status"] == "passed" and said["words"] == "Right on 4 inputs, T = 2 and T = 1000 among them."
    assert said["mistakes"] == said["notes"] == []


def test_a_remark_beside_a_yes_is_kept():
    said = judged(RIGHT.replace("    return", "    torch.set_default_dtype(torch.float64)\n    return"))
    assert said["status"] == "passed"
    assert said["words"].startswith("Right on 4 inputs, T = 2 and T = 1000 among them. But it changes torch's default")


def test_a_known_mistake_is_named():
    said = judged(RIGHT.replace(", dtype=torch.float64", ""))
    mistake = next(each.sentence for each in checks.linear_betas.mistakes if each.sentence in said["words"])
    assert said["status"] == "failed" and said["mistakes"] == [mistake]


def test_a_cell_that_raises_is_named_beside_the_verdict():
    said = judged("scale = 1 / 0", RIGHT.replace("return", "return scale *"))
    assert said["status"] == "failed" and "NameError: name 'scale' is not defined" in said["words"]
    assert said["notes"] == ["Line 1 of code cell 1 raised ZeroDivisionError: division by zero."]
    said = judged("@nothing\n" + RIGHT.split("\n", 1)[1])
    assert said["words"].startswith("Line 2 of code cell 1 raised NameError") and said["status"] == "failed"
    said = judged("import sys\nx = sys.exit('bye')", RIGHT.replace("return", "return x *"))
    assert said["notes"] == ["Line 2 of code cell 1 raised SystemExit: bye."]


def test_a_helper_further_below_is_pointed_at():
    body = RIGHT.replace("return", "return helper *")
    said = judged(body, "linear_betas = checks.linear_betas(linear_betas)", "helper = 1")
    assert said["notes"] == ["helper is defined further below, in code cell 3; a copy is read from the top."]


def test_the_line_of_an_error_is_quoted_from_the_students_cell():
    said = judged("def linear_betas(beta_1, beta_T, T):\n    return [][0]  # mine")
    assert said["words"].endswith("(in the line: return [][0]  # mine).")


def test_classes_and_what_they_are_made_of_work():
    source = """
        from dataclasses import dataclass
        @dataclass
        class Range:
            first: float
            last: float
        @dataclass
        class Wide(Range):
            T: int
            def betas(self):
                return torch.linspace(self.first, self.last, self.T, dtype=torch.float64)
        def linear_betas(beta_1, beta_T, T):
            display(T)
            return Wide(beta_1, beta_T, T).betas()
    """
    assert judged("import torch", source)["status"] == "passed"


def test_annotations_may_name_what_is_not_there():
    annotated = RIGHT.replace("T):", "T: Nothing) -> 'Nowhere':")
    assert judged(annotated)["words"].startswith("Line 2 of code cell 1 raised NameError")
    assert judged("from __future__ import annotations", annotated)["status"] == "passed"


def test_a_fake_check_that_returns_nothing_leaves_the_function():
    fake = "def check(f):\n    print('yes')", "linear_betas = check(linear_betas)"
    assert judged(RIGHT, *fake)["status"] == "passed"
    assert judged(RIGHT, "linear_betas = 3")["status"] == "passed"


@pytest.mark.parametrize(
    "patch",
    [
        "_engine.Check.problems = lambda *args, **kwargs: []",
        "_engine.Check._diagnose.__code__ = (lambda self, function, modes: ('yes', '')).__code__",
        "_engine.difference = lambda *args, **kwargs: ''",
        "_engine.DOUBLE = 1e9",
        "checks.registry['linear_betas'].specification = linear_betas",
        "checks.registry['linear_betas'].problem = lambda *args: ''",
        "torch.allclose = lambda *args, **kwargs: True",
        "torch.Tensor.__eq__ = lambda a, b: True",
    ],
)
def test_a_change_of_the_checks_is_seen(patch, monkeypatch):
    names = dict(_engine.Check.__dict__)
    for name in ("problems", "difference", "DOUBLE"):
        owner = _engine.Check if name == "problems" else _engine
        monkeypatch.setattr(owner, name, getattr(owner, name))
    import torch

    check, code, equal, close = checks.linear_betas, names["_diagnose"].__code__, torch.Tensor.__eq__, torch.allclose
    held = dict(vars(check))
    try:
        source = "import torch\nfrom ddpm_lesson import checks\nfrom ddpm_lesson.checks import _engine\n"
        source += f"def linear_betas(beta_1, beta_T, T):\n    {patch}\n    return torch.zeros(T)"
        said = judged(source)
    finally:
        names["_diagnose"].__code__ = code
        vars(check).clear()
        vars(check).update(held)
        torch.allclose = close
        if torch.Tensor.__dict__.get("__eq__") is not equal:
            torch.Tensor.__eq__ = equal
    assert said["status"] == "failed" and said["words"].startswith("This code changed the course's checks"), said


@pytest.mark.parametrize(
    "use",
    [
        "import copy\n    copy.copy(x_0)",
        "import io\n    file = io.BytesIO()\n    torch.save(x_0, file)\n    file.seek(0)\n    x_0 = torch.load(file)",
        "import pickle\n    x_0 = pickle.loads(pickle.dumps(x_0))",
    ],
    ids=["copy", "save", "pickle"],
)
def test_copying_or_saving_a_tensor_is_no_change_of_torch(use):
    import torch

    if "__slotnames__" in vars(torch.Tensor):  # as in the process of an exercise, in which nothing was copied yet
        del torch.Tensor.__slotnames__
    said = judged(Q_SAMPLE.replace("noise, alphas_bar):\n", f"noise, alphas_bar):\n    {use}\n"), name="q_sample")
    assert said["status"] == "passed", said
    assert "__slotnames__" in vars(torch.Tensor)


WITH_ONES = Q_SAMPLE.replace("return ", "return ONES * (") + ")"
FORMS = {  # right answers, as the notebook takes them
    "in an if": [Q_SAMPLE.replace("def", "if torch.__version__ >= '2':\n  def").replace("\n    ", "\n      ")],
    "in a try": [
        "import torch\ntry:\n  import einops\n"
        + Q_SAMPLE.replace("import torch\n", "").replace("def", "  def").replace("\n    ", "\n      ")
        + "\nexcept ImportError:\n  pass",
    ],
    "in a with": [Q_SAMPLE.replace("def", "with torch.enable_grad():\n  def").replace("\n    ", "\n      ")],
    "in both branches": [
        Q_SAMPLE.replace("def q_sample", "def mine"),
        "if hasattr(torch, 'nothing'):\n    q_sample = None\nelse:\n    q_sample = mine",
    ],
    "a tuple": [Q_SAMPLE.replace("def q_sample", "def mine"), "q_sample, again = mine, mine"],
    "two names": [Q_SAMPLE.replace("def q_sample", "def mine"), "again = q_sample = mine"],
    "own helper": ["ones = []\ndef fill(x):\n    x.append(1)", "fill(ones)", WITH_ONES.replace("ONES", "ones[0]")],
    "own helper, by keyword": [
        "ones = []\ndef fill(n, x):\n    x += [1] * n",
        "fill(1, x=ones)",
        WITH_ONES.replace("ONES", "ones[0]"),
    ],
    "helper of a helper": [
        "ones = {}\ndef fill(x):\n    put(x)\ndef put(y):\n    y[0] = 1",
        "fill(ones)",
        WITH_ONES.replace("ONES", "ones[0]"),
    ],
    "own helper, written twice": [
        "ones = []\ndef fill(x):\n    pass",
        "def fill(x):\n    x.append(1)",
        "fill(ones)",
        WITH_ONES.replace("ONES", "ones[0]"),
    ],
    "numpy's own": [
        "import numpy as np\nones = np.zeros(1)",
        "np.copyto(ones, 1)",
        WITH_ONES.replace("ONES", "float(ones[0])"),
    ],
    "of a library": ["import heapq\nones = []", "heapq.heappush(ones, 1)", WITH_ONES.replace("ONES", "ones[0]")],
    "of a class": ["ones = []", "list.append(ones, 1)", WITH_ONES.replace("ONES", "ones[0]")],
    "torch's own": [
        "from torch import nn\none = nn.Linear(1, 1).requires_grad_(False)",
        "nn.init.ones_(one.weight)",
        WITH_ONES.replace("ONES", "one.weight.item()"),
    ],
    "changes what is global": [
        "known = {}\ndef build():\n    known['one'] = 1",
        "build()",
        WITH_ONES.replace("ONES", "known['one']"),
    ],
    "binds what is global": ["def setup():\n    global one\n    one = 1", "setup()", WITH_ONES.replace("ONES", "one")],
    "in a condition": [
        "def setup():\n    global one\n    one = 1",
        "if True:\n    setup()",
        WITH_ONES.replace("ONES", "one"),
    ],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_right_answer_passes(form):
    said = judged(*FORMS[form], name="q_sample")
    assert said["status"] == "passed", said


def test_a_check_beside_the_definition_is_not_run_with_it():
    cell = "try:\n    {}\n    q_sample = checks.q_sample(q_sample)\nexcept ImportError:\n    pass"
    wrong = Q_SAMPLE.replace("a.sqrt()", "a").replace("\n", "\n    ")
    said = judged("from ddpm_lesson import checks\n" + cell.format(wrong), name="q_sample")
    assert said["status"] == "failed" and said["mistakes"] and not said["output"]
    right = cell.format(Q_SAMPLE.replace("\n", "\n    "))
    assert judged("from ddpm_lesson import checks\n" + right, name="q_sample")["status"] == "passed"


def test_what_is_printed_is_kept_up_to_its_beginning():
    kept = Kept()
    for _ in range(1000):
        kept.write("0123456789")
    assert len(kept.text) == OUTPUT and kept.length == 10000


LIMITED = """
import os, socket, sys
from ddpm_lesson.grading.limits import limited, muted
out = os.dup(1)
lacks = limited(200, 60)
muted()
print("lost")
assert sys.stdin.read() == "" and os.read(0, 1) == b""
said = []
for name, use in dict(
    connect=lambda: socket.socket().connect(("127.0.0.1", 9)),
    name=lambda: socket.gethostbyname("localhost"),
    file=lambda: open(sys.argv[1], "wb").write(bytes(65 * 2**20)),
    memory=lambda: bytearray(400 * 2**20),
).items():
    try:
        use()
        said.append(f"{name}: no limit")
    except (OSError, MemoryError) as error:
        said.append(f"{name}: {str(error) or type(error).__name__}")
os.write(out, "\\n".join([*said, *lacks]).encode())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of Linux")
def test_limits_hold(tmp_path):
    command = [sys.executable, "-c", LIMITED, tmp_path / "large"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    said = done.stdout.splitlines()
    assert said[:2] == [f"{name}: exercises are graded without a network" for name in ("connect", "name")], done.stderr
    assert "File too large" in said[2] and said[3] == "memory: MemoryError"
    assert said[4:] in ([], ["network"])


def test_the_graders_own_failure_is_no_students(monkeypatch):
    monkeypatch.setattr("ddpm_lesson.grading.harness.check_of", lambda exercise: 1 / 0)
    said = judged(RIGHT)
    assert said["status"] == "not graded" and "ZeroDivisionError" in said["trouble"]


def test_every_plan_can_be_sent_to_another_process():
    import pickle

    plan = Program([parsed(1, RIGHT)], GRADED).plan("linear_betas", ())
    (step, other) = pickle.loads(pickle.dumps(plan)).steps
    assert ast.unparse(step.node) == "import torch" and other.defines

"""Which statements of a copy are run for an exercise."""

import ast

import pytest

from ddpm_lesson.grading.exercises import exercises
from ddpm_lesson.grading.notebooks import parsed
from ddpm_lesson.grading.slices import Program

GRADED = [exercise for exercise in exercises() if exercise.chapter in (1, 5)]
DEF = "def q_sample(x_0, t):\n    return x_0"
STUB = "def q_sample(x_0, t):\n    ..."
CHECK = "q_sample = checks.q_sample(q_sample)"


def program(*sources, tags=()):
    return Program([parsed(i, source, tags) for i, source in enumerate(sources, 1)], GRADED)


def needed(*sources, name="q_sample", passed=()):
    return [ast.unparse(statement.node).split("\n")[0] for statement in program(*sources).needed(name, passed)]


def test_a_function_brings_what_it_refers_to_and_no_more():
    found = needed(
        "import torch, math\nfrom torch import nn",
        "a, b = 1, 2\nlosses = []",
        "for step in range(10**9):\n    losses.append(step)",
        "def helper(x):\n    return x * scale(a)",
        "def scale(x):\n    return math.sqrt(x)",
        "def unused():\n    return nn",
        "def q_sample(x_0, t):\n    losses = 3\n    return helper(x_0)",
        CHECK,
    )
    assert found == [
        "import torch, math",
        ast.unparse(ast.parse("a, b = 1, 2")),  # with parentheses that each Python sets as it likes
        "def helper(x):",
        "def scale(x):",
        "def q_sample(x_0, t):",
    ]


def test_changes_in_place_come_too():
    function = "def q_sample(x_0, t):\n    return table['a'] + len(seen) + box.a"
    changes = "table['a'] = 1", "seen.append(2)", "box.a = 3", "for i in range(3):\n    table[i] = i", "other.append(1)"
    found = needed("table = {}\nseen = []\nbox = Box()\nclass Box: pass", *changes, function, CHECK)
    assert found[:4] == ["table = {}", "seen = []", "box = Box()", "table['a'] = 1"]
    assert "for i in range(3):" in found and "other.append(1)" not in found


def test_only_the_last_of_what_was_bound_anew_is_run():
    function = "def q_sample(x_0, t):\n    return a"
    assert needed("a = slow()", "a = 2", function, CHECK, "a = 3") == ["a = 2", "def q_sample(x_0, t):"]
    assert needed("a = 1", "a = a + 1", function, CHECK)[:2] == ["a = 1", "a = a + 1"]
    assert needed("a = 1", "b = a", "a = 2", "def q_sample(x_0, t):\n    return b", CHECK)[:2] == ["a = 1", "b = a"]
    assert needed("a = 1", "if True:\n    a = 2", function, CHECK)[:2] == ["a = 1", "if True:"]


def test_a_helper_in_a_cell_below_the_function_and_above_the_check_is_found():
    function = "def q_sample(x_0, t):\n    return helper(x_0)"
    assert needed(function, "def helper(x):\n    return x", CHECK) == ["def q_sample(x_0, t):", "def helper(x):"]
    late = program(function, CHECK, "def helper(x):\n    return x").plan("q_sample", ())
    assert [step.cell for step in late.steps] == [1] and late.below == {"helper": 3}


def test_earlier_exercises_lead_nowhere_unless_they_passed():
    cells = "def extract(v, t, s):\n    return look(v)", "look = 3", "def q_sample(x_0, t):\n    return extract(x_0)"
    cells = (*cells, "extract = checks.extract(extract)", CHECK)
    assert needed(*cells) == ["def q_sample(x_0, t):"]
    assert needed(*cells, passed=["extract"]) == ["def extract(v, t, s):", "look = 3", "def q_sample(x_0, t):"]


def test_switches_of_torch_hold_for_all():
    found = needed("import torch", "torch.set_default_dtype(torch.float64)", "torch.manual_seed(0)", DEF, CHECK)
    assert found == ["import torch", "torch.set_default_dtype(torch.float64)", "def q_sample(x_0, t):"]


@pytest.mark.parametrize(
    ("cells", "chosen"),
    [
        ([DEF, CHECK], 1),
        ([STUB, DEF, CHECK], 2),
        ([DEF, STUB, CHECK], 1),  # written above the stub, which stayed
        ([DEF, CHECK, DEF], 3),
        ([STUB, "def mine(x_0, t):\n    return x_0", "q_sample = mine", CHECK], 3),
        ([STUB, "def mine(x_0, t):\n    return x_0", "q_sample = checks.q_sample(mine)"], 3),
        ([STUB, "checks.q_sample(lambda x_0, t: x_0)"], 2),
        ([STUB, "q_sample = lambda x_0, t: x_0", CHECK], 2),
        ([DEF, CHECK, "q_sample, extract = checks.carried('q_sample'), checks.carried('extract')"], 1),
        ([DEF, CHECK, "carried = [checks.carried(n) for n in names]", "q_sample, extract = carried"], 1),
        ([DEF, "from ddpm_lesson.checks import q_sample as judge", "q_sample = judge(q_sample)"], 1),
        ([DEF, "import ddpm_lesson", "q_sample = ddpm_lesson.checks.q_sample(q_sample)"], 1),
        ([STUB, "if True:\n    def q_sample(x_0, t):\n        return x_0", CHECK], 2),
        ([STUB, "try:\n    import a\nexcept ImportError:\n    class q_sample:\n        x = 1", CHECK], 2),
        (
            [STUB, "while True:\n    with a:\n        def q_sample(x_0, t):\n            return x_0\n    break", CHECK],
            2,
        ),
        ([STUB, "match 1:\n    case 1:\n        q_sample = mine", CHECK], 2),
        ([STUB, "q_sample, again = mine, mine", CHECK], 2),
        ([STUB, "again = (q_sample, *rest) = mine, mine", CHECK], 2),
        ([DEF, "if True:\n    def q_sample(x_0, t):\n        ...", CHECK], 1),
        ([DEF, "q_sample, extract = None, ...", CHECK], 1),
        ([DEF, "if 'q_sample' not in globals():\n    q_sample = checks.carried('q_sample')"], 1),
        ([DEF, CHECK, "with torch.no_grad():\n    q_sample = drawn(5)"], 1),
        ([DEF, CHECK, "def other():\n    q_sample = mine\n    def extract(v): return v"], 1),
        ([STUB, CHECK], None),
        ([STUB, "q_sample = lambda x_0, t: ...", "q_sample = None"], None),
        (["class q_sample:\n    def __init__(self): self.x = 1\n    def __call__(self, x): ...", CHECK], None),
        (["x = 1"], None),
    ],
)
def test_the_last_definition_that_is_no_stub_is_graded(cells, chosen):
    found = program(*cells).chosen("q_sample")
    assert (found and found.statement.cell.number) == chosen


def test_the_last_capstone_has_a_check_of_another_name():
    found = program("def generate(digits, n, seed):\n    ...", "generate = checks.meets(lambda d, n, s: d)")
    assert found.chosen("generate").statement.cell.number == 2


def test_a_cell_that_cannot_be_read_counts_if_it_is_the_last_that_defines():
    broken = "def q_sample(x_0, t)\n    return x_0"
    assert program(STUB, broken, CHECK).unreadable("q_sample").number == 2
    assert program(broken, DEF, CHECK).unreadable("q_sample") is None
    assert program("q_sample2 = (", DEF, CHECK).unreadable("q_sample") is None


def test_the_set_up_cell_installs_nothing():
    setup = (
        "import subprocess\nmissing = []\nif missing:\n    missing = subprocess.run(['pip'])\nsubprocess.run(['pip'])"
    )
    function = "def q_sample(x_0, t):\n    return missing, subprocess"
    found = Program([parsed(1, setup, ("setup",)), parsed(2, function)], GRADED).needed("q_sample", ())
    assert [ast.unparse(each.node).split("\n")[0] for each in found] == [
        "import subprocess",
        "missing = []",
        "def q_sample(x_0, t):",
    ]


TRAIN = "def train(model, table):\n    for step in range(10**9):\n        model(table[step]).backward()"


@pytest.mark.parametrize(
    "cell",
    [
        "train(network, table)",  # its body changes no table
        "for epoch in range(10**9):\n    train(network, table=table)",
        "ax.plot(table)\nax.set(ylim=(0, table[0]))",
        "print(table)\ndisplay(table)\nplots.curve(table)\ntorch.cumprod(table, 0)\nlen(table)",
        "from ddpm_lesson.training import train as fitted\nfitted(network, table)",
        "posterior(table)\nForward(table)",  # of the course, or the student's: no exercise changes its inputs
        "show(network(table))",
        "other_one.copy_(table)",
        "def local(x):\n    table = []\n    table.append(x)\n    def inner():\n        other.append(x)\nlocal(3)",
        "checks.q_sample(q_sample)",
        "for posterior in (slow(), slow()):\n    extract = posterior",
    ],
)
def test_calls_that_change_nothing_are_left_out(cell):
    function = "def q_sample(x_0, t):\n    return table[0] + len(posterior(extract(other)))"
    found = needed(
        "table = [1]\nother = []\nnetwork = load()", TRAIN, cell, function, CHECK, passed=["posterior", "extract"]
    )
    assert found == ["table = [1]", "other = []", "def q_sample(x_0, t):"]


def test_a_call_that_changes_an_argument_comes_with_what_it_needs():
    function = "def q_sample(x_0, t):\n    return table[0]"
    found = needed(
        "table = []\nfive = 5", "def put(x, y):\n    x.append(y + more)", "more = 1", "put(table, five)", function
    )
    assert found == [
        "table = []",
        "five = 5",
        "def put(x, y):",
        "more = 1",
        "put(table, five)",
        "def q_sample(x_0, t):",
    ]
    again = needed("def put(x):\n    put(x)\n    x.append(1)", "table = []", "put(table)", function)
    assert again == ["def put(x):", "table = []", "put(table)", "def q_sample(x_0, t):"]


def test_what_stands_in_a_loop_or_an_elif_is_found_at_any_depth():
    many = "if a == 0:\n    pass\n" + "".join(f"elif a == {i}:\n    x.append({i})\n" for i in range(400))
    found = program(many + "else:\n    for i in (1,):\n        def q_sample(x_0, t):\n            return x_0", CHECK)
    assert found.chosen("q_sample").statement.cell.number == 1

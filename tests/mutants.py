"""Do the tests notice a change of the mathematics?  Mutation testing, by hand: `python tests/mutants.py`.

    pip install -e ".[mutants]"
    python tests/mutants.py [--sample 400] [--seed 0] [--again] [--report] [MODULE ...]

cosmic-ray lists every small change of the modules in TESTS (an operator, a comparison, a number, a condition, a loop),
a seeded sample of them is drawn, each is made in a copy of the tree, and the module's own tests run until one fails.
Left out is what nobody computes with (annotations, docstrings, whatever stands in a `raise` or a warning), and what
any test would notice: a mutant that is no Python, and one that puts a bit operator between floating point numbers.
Results are kept in build/mutants as long as module and tests stay the same: an interrupted run goes on where it
stopped; --again begins anew; modules that are named are run alone. At the end of a run of all of them, or with
--report of what there is, docs/mutants.md is written. A survivor needs a row in tests/survivors.csv, with the reason;
same = yes says that it computes the same, so that no test can notice it. The script ends with an error where a survivor
has no row, or where fewer than 95 % of those that compute something else were killed.
A child is forked for each mutant, after torch was imported: Linux and macOS only. Half an hour on one idle core.
"""

import argparse
import ast
import csv
import difflib
import hashlib
import importlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import islice
from pathlib import Path

from cosmic_ray.commands.init import init
from cosmic_ray.mutating import mutate_code, use_mutation
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkItem, WorkResult
from tqdm.auto import tqdm

ROOT = Path(__file__).resolve().parents[1]
SCRATCH = ROOT / "build" / "mutants"
TREE = SCRATCH / "tree"
PAGE = ROOT / "docs" / "mutants.md"
SURVIVORS = Path(__file__).with_name("survivors.csv")
CHAINS = ["samplers", "samplers_from_images", "solvers"]
TESTS = {
    "schedules": ["schedules"],
    "spacing": ["spacing"],
    "gaussian": ["gaussian"],
    "coefficients": ["coefficients", "process"],
    "process": ["process"],
    "predictions": ["predictions"],
    "losses": ["losses"],
    "bound": ["bound"],
    "samplers/implicit": CHAINS,
    "samplers/jumping": CHAINS,
    "samplers/levels": ["solvers", "samplers"],
    "samplers/middle": CHAINS,
    "samplers/multistep": ["solvers", "samplers"],
    "samplers/reverse_chain": CHAINS,
    "samplers/singlestep": ["solvers", "samplers"],
}
PRELOADED = (
    "torch",
    "torchvision",
    "numpy",
    "einops",
    "matplotlib.pyplot",
    "diffusers",
    "hypothesis",
    "mpmath",
    "pytest",
)
PATIENCE = 8  # a mutant may take so many times as long as the tests without one
BITS = ("_BitOr", "_BitAnd", "_BitXor", "_LShift", "_RShift")
LEAST = 0.95


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutation testing of the mathematics.")
    parser.add_argument("--sample", type=int, default=400, help="how many mutants are drawn, of all modules (400)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (0)")
    parser.add_argument("--again", action="store_true", help="forget what build/mutants holds")
    parser.add_argument("--report", action="store_true", help="write the page of what has been run; run nothing")
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(TESTS)}")
    options = parser.parse_args()
    if unknown := [name for name in options.modules if name not in TESTS]:
        parser.error(f"there is no module {unknown[0]!r}, but {', '.join(TESTS)}")
    if options.again:
        shutil.rmtree(SCRATCH, ignore_errors=True)
    copy_tree()
    os.chdir(TREE)
    sys.path.insert(0, str(TREE))
    sys.dont_write_bytecode = True
    for module in () if options.report else PRELOADED:
        importlib.import_module(module)
    done, drawn_of = [], shares(options.sample)
    for module, size in drawn_of.items():
        if options.modules and module not in options.modules:
            continue
        found = tried(module, size, options.seed, run=not options.report)
        done += [(module, item, result) for item, result in found]
    return 0 if options.modules else report(done, drawn_of)


def copy_tree() -> None:
    """The files that git knows, as they are now."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    shutil.rmtree(TREE, ignore_errors=True)
    for name in filter(None, listed.split("\0")):
        (TREE / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, TREE / name)


def source(module: str) -> Path:
    return Path("ddpm_lesson", *module.split("/")).with_suffix(".py")


def candidates(module: str) -> list[WorkItem]:
    """Every mutant of a module that changes what it computes, in a fixed order."""
    listing = WorkDB(":memory:", WorkDB.Mode.create)
    init([source(module)], listing, {})
    text = source(module).read_text(encoding="utf-8")
    words = [span(node) for node in ast.walk(ast.parse(text)) if is_words(node)]
    inside = [
        item
        for item in listing.work_items
        if not spec(item).operator_name.endswith(BITS) and not any(a <= place(item)[0] < b for a, b in words)
    ]
    return sorted(inside, key=lambda item: (place(item), spec(item).operator_name, spec(item).occurrence))


def drawn(module: str, size: int, seed: int) -> list[WorkItem]:
    """A sample of a module's mutants, of those that are Python."""
    items = candidates(module)
    random.Random(f"{module} {seed}").shuffle(items)
    return list(islice((item for item in items if is_python(item)), size))


def is_python(item: WorkItem) -> bool:
    code = mutate_code(spec(item).module_path.read_bytes().decode(), operator_of(item), spec(item).occurrence)
    try:
        compile(code, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def operator_of(item: WorkItem) -> Operator:
    return get_operator(spec(item).operator_name)(**spec(item).operator_args)


def is_words(node: ast.AST) -> bool:
    """Does this part of a module say something instead of computing it?"""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) and node.func.attr == "warn"
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str)
    if isinstance(node, ast.Assign):  # Loss = Callable[[Tensor], Tensor | None]
        return isinstance(node.value, ast.Subscript) and ast.unparse(node.value.value) == "Callable"
    annotation = getattr(node, "_is_annotation", False)
    for name in ("annotation", "returns"):
        if (child := getattr(node, name, None)) is not None:
            child._is_annotation = True
    return annotation or isinstance(node, ast.Raise | ast.JoinedStr)


def span(node: ast.AST) -> tuple[tuple[int, int], tuple[int, int]]:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def spec(item: WorkItem) -> MutationSpec:
    return item.mutations[0]


def place(item: WorkItem) -> tuple[tuple[int, int], tuple[int, int]]:
    return spec(item).start_pos, spec(item).end_pos


def shares(sample: int) -> dict[str, int]:
    """How many mutants of each module are drawn: in proportion to how many there are, rounded up."""
    there = {module: len(candidates(module)) for module in TESTS}
    total = sum(there.values())
    print(f"{total} mutants in {len(there)} modules")
    return {module: min(count, -(-sample * count // total)) for module, count in there.items()}


def tried(module: str, size: int, seed: int, run: bool) -> list[tuple[WorkItem, WorkResult]]:
    """The sample of a module with its results; what has none yet is run now, or left out."""
    tests = [f"tests/test_{name}.py" for name in TESTS[module]]
    texts = b"".join(Path(name).read_bytes() for name in [source(module), *tests])
    name = f"{module.replace('/', '.')}.{size}.{hashlib.sha256(texts).hexdigest()[:12]}.sqlite"
    database = WorkDB(str(SCRATCH / name), WorkDB.Mode.create)
    if not database.num_work_items:
        database.add_work_items(drawn(module, size, seed))
    if run and database.pending_work_items:
        begun = time.perf_counter()
        if not passes(tests, 3600):
            raise SystemExit(f"the tests of {module} fail without a mutant: {' '.join(tests)}")
        limit = 20 + PATIENCE * (time.perf_counter() - begun)
        for item in tqdm(database.pending_work_items, module):
            database.set_result(item.job_id, result_of(item, tests, limit))
    results = dict(database.results)
    return [(item, results[item.job_id]) for item in database.work_items if item.job_id in results]


def result_of(item: WorkItem, tests: list[str], limit: float) -> WorkResult:
    with use_mutation(spec(item).module_path, operator_of(item), spec(item).occurrence) as (before, after):
        outcome = TestOutcome.SURVIVED if passes(tests, limit) else TestOutcome.KILLED
    diff = "\n".join(difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm=""))
    return WorkResult(WorkerOutcome.NORMAL, None, outcome, diff)


def passes(tests: list[str], limit: float) -> bool:
    """Do these tests pass within the limit, in seconds?  In a fork, which imports the modules anew."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        with open(os.devnull, "r+b") as nothing:
            for stream in (0, 1, 2):
                os.dup2(nothing.fileno(), stream)
        code = 1
        try:
            import pytest

            here = ["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={SCRATCH / 'scratch'}"]
            here += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what this process imported
            code = int(pytest.main([*here, *tests]))
        finally:
            os._exit(code)
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.05)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


def report(done: list[tuple[str, WorkItem, WorkResult]], drawn_of: dict[str, int]) -> int:
    """Write the page, and say what is missing.  drawn_of: how many were drawn.  Returns the exit status."""
    with SURVIVORS.open(encoding="utf-8", newline="") as file:
        known = {(row["module"], row["before"], row["after"]): row for row in csv.DictReader(file)}
    count = Counter(module for module, *_ in done)
    killed = Counter(module for module, _, result in done if result.is_killed)
    survivors = [(module, item, *changed(result.diff)) for module, item, result in done if not result.is_killed]
    rows = [known.get((module, *change)) for module, _, *change in survivors]
    same = sum(row is not None and row["same"] == "yes" for row in rows)
    share = killed.total() / (len(done) - same)
    told = (
        f"{killed.total()} of {len(done)} were killed. {same} of the others compute the same; of the rest {share:.1%}."
    )
    lines = [
        "# What the tests notice",
        "",
        "Written by `python tests/mutants.py`: small changes of the mathematics, drawn at random, and whether the",
        "module's own tests fail. cosmic-ray makes them: an operator, a comparison, a number, a condition, a loop, a",
        "decorator. Left out are annotations, the words of errors and warnings, and what any test would notice:",
        "what is no Python, and bit operators.",
        "",
        "| module | mutants | run | killed |",
        "|---|---|---|---|",
        *(f"| `{module}` | {drawn_of[module]} | {count[module]} | {killed[module]} |" for module in drawn_of),
        f"| all | {sum(drawn_of.values())} | {len(done)} | {killed.total()} |",
        "",
        told.replace("killed.", "killed, that is, a test failed."),
        "",
        "The survivors, and why no test notices them:",
        "",
    ]
    for (module, item, before, after), row in zip(survivors, rows, strict=True):
        why = row["why"] if row else "Not explained."
        lines.append(f"- `{module}`, `{spec(item).definition_name}`: `{before}` to `{after}`. {why}")
        if row is None:
            print(f"survived without a row in tests/survivors.csv: {module}\n{before}\n{after}")
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(told, f"See {PAGE.relative_to(ROOT)}")
    return int(None in rows or share < LEAST or len(done) < sum(drawn_of.values()))


def changed(diff: str) -> tuple[str, str]:
    """The lines that a mutant takes out and puts in, without their indentation."""
    lines = [line for line in diff.splitlines() if not line.startswith(("---", "+++"))]
    parts = (" ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+")
    before, after = parts
    return before, after


if __name__ == "__main__":
    sys.exit(main())

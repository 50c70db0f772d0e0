"""What GitHub reads: the workflow runs what `make test` runs, where the course promises it; the forms are forms."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
FORMS = ["bug", "mistake", "question"]


def read(path: str):
    return yaml.safe_load((ROOT / ".github" / path).read_text(encoding="utf-8"))


def commands(job: dict) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def test_the_workflow_runs_what_make_test_runs():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^test: .*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1]
    recipe = recipe.replace("$(BIN)/", "")
    for name in ("UNIT", "NOTEBOOKS", "SHARED", "WORKERS"):
        recipe = recipe.replace(f"$({name})", re.search(rf"^{name} \??= (.*)$", makefile, re.MULTILINE)[1])
    expected = [line.strip() for line in recipe.splitlines()]
    jobs = read("workflows/test.yml")["jobs"]
    run = [line for line in commands(jobs["style"]) + commands(jobs["test"]) if " pip " not in line]
    assert run == expected and len(run) == 6


def test_the_workflow_knows_every_system_and_every_python():
    matrix = read("workflows/test.yml")["jobs"]["test"]["strategy"]["matrix"]
    assert [name.removesuffix("-latest") for name in matrix["os"]] == ["ubuntu", "macos", "windows"]
    oldest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))[1]
    assert matrix["python"] == ["3.10", "3.11", "3.12", "3.13"] and matrix["python"][0] == oldest


def test_make_has_what_the_workflow_calls():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    jobs = read("workflows/test.yml")["jobs"] | read("workflows/repeat.yml")["jobs"]
    called = [line.split()[1] for job in jobs.values() for line in commands(job) if line.startswith("make ")]
    assert called == ["test-oldest", "strangers", "browser-test", "repeat"]
    assert all(f"\n{target}: " in makefile for target in called)
    assert all(job["timeout-minutes"] < 360 for job in jobs.values())  # GitHub's limit


@pytest.mark.parametrize("name", FORMS)
def test_a_form_has_what_github_asks_of_it(name):
    form = read(f"ISSUE_TEMPLATE/{name}.yml")
    assert len(form["name"]) >= 3 and len(form["description"]) >= 3
    fields = [field["id"] for field in form["body"]]
    assert len(set(fields)) == len(fields) >= 3 and all(re.fullmatch(r"[\w-]+", field) for field in fields)
    for field in form["body"]:
        assert field["type"] in ("input", "textarea", "dropdown") and field["attributes"]["label"]
        assert field["type"] != "dropdown" or len(set(field["attributes"]["options"])) > 1
        assert set(field) <= {"type", "id", "attributes", "validations"}


def test_the_form_for_mistakes_lists_the_notebooks():
    options = read("ISSUE_TEMPLATE/mistake.yml")["body"][0]["attributes"]["options"]
    assert options[:-1] == sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


def test_no_form_is_forgotten():
    there = sorted(path.stem for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert there == sorted([*FORMS, "config"])

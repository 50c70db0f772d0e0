"""The front page, in both languages: the same commands, links and numbers, each of them true; CITATION.cff."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from ddpm_lesson import checks
from ddpm_lesson.cli import parser

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "notebooks"))
build = pytest.importorskip("build", reason="the notebooks' tools are not installed")

PAGES = ("README.md", "README.zh.md")
OTHER = {"README.md": "README.zh.md", "README.zh.md": "README.md"}
MAP_ROW = re.compile(r"^\| \[(\w+)\]\(notebooks/\1\.ipynb\) \|[^|]+\| (\d+) \| (\d+) \| (\d+) \|$", re.M)


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def links(page: str) -> list[str]:
    return sorted(target for target in re.findall(r"\]\(([^)]+)\)", text(page)) if target != OTHER[page])


def test_both_languages_have_the_same_commands():
    english, chinese = (re.findall(r"^```.*?^```$", text(page), re.M | re.S) for page in PAGES)
    assert len(english) > 4 and english == chinese


def test_both_languages_have_the_same_links():
    english, chinese = map(links, PAGES)
    assert len(english) > 30 and english == chinese


def test_both_languages_have_the_same_options_and_numbers():
    """What stands between backticks, and every number of the prose, the months of no date among them."""
    for pattern in (r"`([^`\n]+)`", r"\d[\d,.]*\d"):
        english, chinese = (
            sorted(set(re.findall(pattern, re.sub(r"^```.*?^```$", "", text(page), flags=re.M | re.S))))
            for page in PAGES
        )
        assert english == chinese


@pytest.mark.parametrize("page", PAGES)
def test_the_map_tells_the_minutes_of_the_notebooks(page):
    told = {name: tuple(map(int, minutes)) for name, *minutes in MAP_ROW.findall(text(page))}
    sources = sorted((ROOT / "notebooks" / "source").glob("*.py"))
    assert told == {path.stem: build.form.totals(build.read_source(path).cells) for path in sources}


def test_the_build_writes_the_minutes_into_both_pages(tmp_path):
    (tmp_path / "notebooks" / "source").mkdir(parents=True)
    name = "01_forward_process"
    source = text(f"notebooks/source/{name}.py")
    (tmp_path / "notebooks" / "source" / f"{name}.py").write_text(source, encoding="utf-8")
    for page in PAGES:
        wrong = re.sub(r"\| \d+ \| \d+ \| \d+ \|$", "| 1 | 2 | 3 |", text(page), flags=re.M)
        (tmp_path / page).write_text(wrong, encoding="utf-8")
    build.write_minutes(tmp_path / "notebooks")
    for page in PAGES:
        rows = MAP_ROW.findall((tmp_path / page).read_text(encoding="utf-8"))
        assert rows[0] == MAP_ROW.findall(text(page))[0]
        assert {row[1:] for row in rows[1:]} == {("1", "2", "3")}


def test_the_front_page_counts_exercises_and_mistakes():
    found = [check for check in map(checks.__dict__.get, dir(checks)) if hasattr(check, "misconceptions")]
    told = f"{len(found)} exercises know {sum(len(check.misconceptions) for check in found):,} mistakes"
    assert told in " ".join(text("README.md").split())


@pytest.mark.parametrize("page", [*PAGES, "docs/command_line.md"])
def test_every_command_of_the_package_is_one(page):
    commands = re.findall(r"^python -m ddpm_lesson (.*)$", text(page), re.M)
    assert commands
    for command in commands:
        parser().parse_args(shlex.split(command, comments=True))  # exits if there is no such option


@pytest.mark.parametrize("page", PAGES)
def test_every_target_of_make_is_one(page):
    targets = set(re.findall(r"\bmake ([a-z-]+)\b", text(page)))
    assert {"lab", "test"} <= targets <= set(re.findall(r"^([a-z-]+):", text("Makefile"), re.M))


def test_citation_has_the_version_and_the_licences_of_the_package():
    project = text("pyproject.toml")
    cited = text("CITATION.cff")
    assert re.search(r"^version: (.*)$", cited, re.M)[1] == re.search(r'^version = "(.*)"$', project, re.M)[1]
    code, *others = re.search(r'^license = "(.*)"', project, re.M)[1].split(" AND ")
    assert re.search(r"^license: (.*)$", cited, re.M)[1] == code  # a list would mean: any of them
    abstract = re.search(r"^abstract: (.*)$", cited, re.M)[1]
    named = {name.replace("CC-", "CC ").replace("-4", " 4").replace("-3", " 3") for name in others}
    assert set(re.findall(r"CC [A-Z-]+ \d\.\d", abstract)) == named and f"the {code} licence" in abstract

"""The book: built once from what is stored, offline; then what its pages hold. Then its parts, on small examples."""

import importlib
import json
import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def parts():
    """The modules of book/ by their names, without Sphinx's settings."""
    sys.path.insert(0, str(ROOT / "book"))
    names = ("api", "check", "docstrings", "stage")
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    sys.path.remove(str(ROOT / "book"))
    for name in names:
        sys.modules.pop(name)


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """The folder of the site. It is built where no address can be reached; a warning or a dead link would end it."""
    folder = tmp_path_factory.mktemp("book") / "site"
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    command = [sys.executable, ROOT / "book" / "build.py", folder]
    done = subprocess.run(command, env={**os.environ, **nowhere}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_a_folder_with_something_else_is_not_replaced(tmp_path):
    (tmp_path / "thesis.txt").touch()
    done = subprocess.run([sys.executable, ROOT / "book" / "build.py", tmp_path], capture_output=True, text=True)
    assert done.returncode == 1 and "must be new, empty or an earlier book" in done.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "thesis.txt"]


def html(book: Path, page: str) -> str:
    return (book / f"{page}.html").read_text("utf-8")


def stored(notebook: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4)


def test_every_page_is_there_and_in_the_sidebar(book, parts):
    documents = [f"notebooks/{name}" for name in NOTEBOOKS]
    documents += [f"docs/{path.stem}" for path in (ROOT / "docs").glob("*.md")]
    documents += ["data/index", "data/weights/index", "data/records/index", "benchmarks/index"]
    documents += ["CONTRIBUTING", "CHANGELOG", "LICENSE-prose", "api/index"]
    documents += [f"api/{name}" for name in parts.api.modules(ROOT)]
    front = html(book, "index")
    assert [name for name in documents if f'class="reference internal" href="{name}.html"' not in front] == []
    assert all((book / f"{name}.html").is_file() for name in documents)


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_a_notebook_shows_its_stored_outputs(book, notebook):
    page, cells = html(book, f"notebooks/{notebook}"), stored(notebook).cells
    outputs = [(cell, output) for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [cell.metadata.alt for cell, output in outputs if "image/png" in output.get("data", {})]
    shown = [re.search('alt="([^"]*)"', image)[1] for image in re.findall(r"<img [^>]*_images[^>]*>", page)]
    assert [unescape(text) for text in shown] == pictures
    printed = [output.text for _, output in outputs if output.output_type == "stream"]
    text = unescape(re.sub("<[^>]+>", "", page))
    assert len(printed) > 20 and [each for each in printed if each.strip() not in text] == []


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_every_formula_reaches_mathjax(book, notebook):
    page, cells = html(book, f"notebooks/{notebook}"), stored(notebook).cells
    written = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    shown = re.findall(r'<div class="math[^>]*>\s*\\\[(.*?)\\\]\s*</div>', page, re.S)
    assert len(shown) == written.count("$$") // 2
    tags = [re.findall(r"\\tag\{([^}]*)\}", text) for text in (written, "\n".join(shown))]
    assert len(tags[0]) > 5 and tags[0] == tags[1]
    assert all("split" not in formula for formula in shown)  # it allows no \tag
    prose = re.sub(r"<(script|style|pre|code|samp)\b.*?</\1>", "", page, flags=re.S)
    assert "$" not in re.sub('alt="[^"]*"', "", prose)  # within <details>, too


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_what_is_folded_in_jupyterlab_is_folded_here(book, notebook):
    page, cells = html(book, f"notebooks/{notebook}"), stored(notebook).cells
    tags = [tag for cell in cells for tag in cell.metadata.get("tags", [])]
    assert page.count('<details class="deeper"><summary>') == tags.count("deeper")
    folded = re.findall('<details class="(?:admonition )?hide ', page)  # MyST-NB 1.2 has the one, 1.4 the other
    assert len(folded) == tags.count("folded") + tags.count("setup")
    assert re.search(r'<details class="deeper"><summary><h[23]>', page)


def test_a_sentence_stands_where_a_slider_would(book):
    assert html(book, "notebooks/01_forward_process").count("Sliders or menus stand here") == 2
    assert "colab-badge" not in html(book, "notebooks/01_forward_process")


def test_docstrings_come_with_their_examples(book):
    page = unescape(re.sub("<[^>]+>", "", html(book, "api/process")))
    assert ">>> process = GaussianDiffusion(torch.tensor([0.36, 0.5]))" in page
    assert "The forward process q, its posterior, and the ways between x_0, eps, x_{t-1}, v and score." in page


def test_names_lead_to_the_package_and_numbers_to_sections(book):
    page = html(book, "docs/coverage")
    assert 'href="../api/schedules.html#ddpm_lesson.schedules.linear"' in page
    assert 'href="../notebooks/01_forward_process.html#section-1-2"' in page
    assert 'href="04_sampling.html#section-4-12"' in html(book, "notebooks/01_forward_process")


def test_the_search_knows_english_and_chinese_words(book):
    index = (book / "searchindex.js").read_text("utf-8")
    words = json.loads(index[index.index("{") : index.rindex("}") + 1])["terms"]
    assert {"slerp", "tweedi", "前向过程", "信噪比"} <= set(words)


def test_a_link_or_a_resource_that_is_missing_is_named(parts, tmp_path):
    (tmp_path / "a.html").write_text('<p id="here"><a href="b.html#there">b</a><a href="#here">a</a><img src="a.png">')
    (tmp_path / "b.html").write_text(
        '<a href="https://example.org">elsewhere</a><script src="https://example.org/x.js"></script>'
        '<p style="background: url(//example.org/y.png)"><a href="a.html#here">a</a><a href="c.html">c</a>'
        '<img src="data:image/png;base64,"><span class="problematic">*</span>'
    )
    (tmp_path / "book.css").write_text("@import 'https://example.org/z.css'; p { background: url(a.png) }")
    assert sorted(parts.check.problems(tmp_path)) == [
        "a.html links to a.png, which does not exist",
        "a.html links to b.html#there: that page has no such place",
        "b.html holds markup that Sphinx could not read",
        "b.html links to c.html, which does not exist",
        "b.html needs //example.org/y.png, which is not in the book",
        "b.html needs https://example.org/x.js, which is not in the book",
        "book.css needs https://example.org/z.css, which is not in the book",
    ]


def test_a_page_that_links_to_nothing_is_refused(parts, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text("[a](../gone.py) and `[b](gone.py)`")
    with pytest.raises(FileNotFoundError, match=r"docs.page\.md must link to files that exist, got \.\./gone\.py"):
        parts.stage.stage(tmp_path, tmp_path / "source")


@pytest.mark.parametrize(
    ("written", "made"),
    [
        ("See [it](data/README.md#set) and `README.md`.", "See [it](data/index.md#set) and `README.md`."),
        ("By section 1.2 and (1.3),", "By section [1.2](#section-1.2) and (1.3),"),
        ("Not section 9.9; (arXiv 2102.09672), section 1.2.", "Not section 9.9; (arXiv 2102.09672), section 1.2."),
        ('| a | 1.2 "x"; 1.3 "y" | 1.2 |', '| a | [1.2](#section-1.2) "x"; [1.3](#section-1.3) "y" | 1.2 |'),
    ],
)
def test_links_to_pages_and_sections(parts, written, made):
    assert parts.stage.linked(written, {"1.2", "1.3"}, ".md") == made


@pytest.mark.parametrize(
    ("plain", "rest"),
    [
        ("x_0: (B, *D), |x| <= 1.\nRaises\nErrors.", "| x\\_0: (B, \\*D), \\|x\\| <= 1.\n| Raises Errors."),
        ("See `x` and y.", "| See \\ ``x``\\  and y."),
        ("One.\n\n>>> 1 * 2\n2", "| One.\n\n>>> 1 * 2\n2"),
        ("One:\n>>> 1 * 2\n2", "| One:\n\n>>> 1 * 2\n2"),
        ("Call:\n\n    python a_b.py", "| Call:\n\n::\n\n    python a_b.py"),
        ("`extract`, the post's", "| ``extract``\\ , the post's"),
    ],
)
def test_docstrings_as_rest(parts, plain, rest):
    assert parts.docstrings.as_rest(plain) == rest


def test_a_backtick_without_its_pair_is_refused(parts):
    with pytest.raises(ValueError, match="backticks must come in pairs, got 'a `b'"):
        parts.docstrings.as_rest("a `b")

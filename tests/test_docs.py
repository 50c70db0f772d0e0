"""docs/coverage.md and docs/errata.md: no row is missing, and the sections, functions and tests named there exist."""

import functools
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from references import exists, resolves

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
build = SimpleNamespace(**runpy.run_path(str(FOLDER / "build.py")))

CAPABILITIES = {  # of what the course starts from: every one has its row in docs/coverage.md
    "hojonathanho/diffusion": "schedule linear; schedule quad; schedule const; schedule warmup10; schedule warmup50; "
    "schedule jsd; predict eps; predict xstart; predict xprev; variance learned; variance fixedsmall; "
    "variance fixedlarge; loss mse; loss kl; discretised decoder; L_T; bits/dim of the whole chain; "
    "error of x_0 for each t; progressive estimates of x_0; lossy coding: rate and distortion; interpolation; "
    "EMA 0.9999; warm-up; gradient clipping; FID; IS",
    "w86763777/pytorch-ddpm": "schedule linear; EMA; warm-up; clip-norm 1; flips; FID; IS; CIFAR-10",
    "openai/improved-diffusion": "schedule linear, scaled by 1000/T; schedule cosine; learned range of the variance; "
    "loss MSE; loss rescaled MSE; loss KL; loss rescaled KL; respacing; loss-second-moment sampling of t; DDIM; "
    "inversion of DDIM; class conditioning; FiLM (scale-shift norm); super-resolution network; fp16; "
    "DDP (several GPUs); bits/dim script",
    "openai/guided-diffusion": "noisy classifier; guidance of the mean; guidance of DDIM's eps; "
    "BigGAN up and down blocks; several heads; AdaGN; FID; sFID; IS; precision and recall",
    "abarankab/DDPM": "class-conditional MNIST; class-conditional CIFAR-10; loss L1; loss L2; EMA with a start step",
    "lucidrains/denoising-diffusion-pytorch": "schedule linear; schedule cosine; schedule sigmoid; predict noise; "
    "predict x0; predict v; DDIM; interpolation; self-conditioning; min-SNR; offset noise; classifier-free guidance; "
    "rescale of guidance; classifier guidance; RePaint inpainting; learned variance; EDM; continuous time; 1-D data; "
    "FID in training; AMP (mixed precision); several GPUs",
    "DDIM": "eta family; sigma-hat; quadratic choice of steps; uniform choice of steps; slerp interpolation; "
    "encoding by inversion",
    "NVlabs/denoising-diffusion-gan": "G(x_t, z, t) and the posterior step; D(x_{t-1}, x_t, t) on pairs; "
    "non-saturating loss; R1, taken lazily; training by turns; T = 4, betas of the code; T = 4, betas of the paper",
}
MENTIONED = {"EDM", "continuous time", "1-D data", "FID in training"}  # and not implemented here
HISTORY = {"30", "33"}  # of the errata: about papers and links, nothing that a test can run

# Rows that say "not yet". Whoever closes one takes it away here, too.
OPEN_CAPABILITIES: dict[str, set[str]] = {}
OPEN_ERRATA: set[str] = set()
OPEN_MISTAKES: set[str] = set()


def tables(text):
    """Rows of the tables of a page, as lists of cells, by the heading above: {"DDIM": [["eta family", ...], ...]}."""
    found, heading = {}, ""
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("|"):
            found.setdefault(heading, []).append([cell.strip() for cell in line.strip("|").split("|")])
    return {heading: rows[2:] for heading, rows in found.items()}  # without the names of the columns and |---|


def page(name):
    return (ROOT / "docs" / name).read_text("utf-8")


def sections(notebook):
    """Text and code of each numbered section of a notebook, with single spaces: {"1.2": "1.2 One step, ..."}."""
    found, number = {}, None
    for cell in notebook.cells:
        if "equations" in cell.metadata.get("tags", []):
            continue  # a table of names, which teaches nothing
        for line in cell.source.splitlines():
            if cell.cell_type == "markdown" and (heading := re.match(r"## (\d+\.\d+) ", line)):
                number = heading[1]
            if number:
                found[number] = f"{found.get(number, '')} {line}"
    return {number: " ".join(text.split()) for number, text in found.items()}


@functools.cache
def course():
    """The sections of all notebooks."""
    found = {}
    for path in sorted(FOLDER.glob("source/*.py")):
        found |= sections(build.read_source(path))
    return found


def places(cell):
    """What a cell says of sections, (number, words) each; nothing else may stand in it but "not yet"."""
    found = re.findall(r'(\d+\.\d+) "([^"]+)"', cell)
    if cell != "not yet" and (not found or cell != "; ".join(f'{number} "{words}"' for number, words in found)):
        raise ValueError(f'expected 1.2 "words"; 3.4 "words", or not yet, got {cell}')
    return found


def misplaced(cells, texts):
    """A sentence for each section that does not exist or does not have the words that it is named for."""
    for number, words in (place for cell in cells for place in places(cell)):
        if number not in texts:
            yield f"there is no section {number}"
        elif words not in texts[number]:
            others = ", ".join(other for other, text in texts.items() if words in text)
            yield f"section {number} does not say {words!r}; these do: {others or 'none'}"


def unknown(cells, kind):
    """A sentence for each function or test, in `...` and joined by <br>, that does not exist."""
    holds = {
        "function": lambda name: resolves(f"ddpm_lesson.{name}"),
        "test": lambda name: exists(f"tests/{name}"),
    }[kind]
    for name in (name for cell in cells for name in cell.split("<br>")):
        if not re.fullmatch("`[^`]+`", name) or not holds(name[1:-1]):
            yield f"there is no {kind} {name}"


COVERAGE = [(system, *row) for system, rows in tables(page("coverage.md")).items() for row in rows]
ERRATA, MISTAKES = tables(page("errata.md")).values()  # of the post; of other courses and repositories


def test_every_capability_has_one_row():
    listed = {system: "; ".join(row[0] for row in rows) for system, rows in tables(page("coverage.md")).items()}
    assert listed == CAPABILITIES


def test_every_erratum_has_one_row():
    assert [row[0] for row in ERRATA] == [str(number) for number in range(1, 36)]
    assert all(post and right and post != right for _, post, right, _, _ in ERRATA)
    assert len({mistake for mistake, _, _ in MISTAKES}) == 19


def test_what_is_open_is_known():
    found = {}
    for system, capability, *cells in COVERAGE:
        if "not yet" in cells:
            found.setdefault(system, set()).add(capability)
    assert found == OPEN_CAPABILITIES
    assert {number for number, *cells in ERRATA if "not yet" in cells} == OPEN_ERRATA
    assert {mistake for mistake, *cells in MISTAKES if "not yet" in cells} == OPEN_MISTAKES


def test_only_what_may_be_mentioned_is_not_implemented():
    mentions = {capability for _, capability, _, function, test in COVERAGE if (function, test) == ("*mention*", "")}
    assert mentions == MENTIONED
    assert {number for number, *_, test in ERRATA if test == "*history*"} == HISTORY


@pytest.mark.parametrize("chapter", [1, 2, 3, 4, 5])
def test_sections_say_what_they_are_named_for(chapter):
    if f"[{chapter:02}_" not in (ROOT / "README.md").read_text("utf-8"):
        pytest.skip(f"the README's map does not have notebook {chapter} yet")
    cells = [row[2] for row in COVERAGE] + [row[-2] for row in ERRATA + MISTAKES]
    named = [(number, words) for cell in cells for number, words in places(cell) if number.startswith(f"{chapter}.")]
    assert len(named) > 3
    assert list(misplaced([f'{number} "{words}"' for number, words in named], course())) == []


def test_functions_and_tests_exist():
    functions = [function for *_, function, _ in COVERAGE if function not in ("not yet", "*mention*")]
    assert list(unknown(functions, "function")) == []
    tests = [row[-1] for row in COVERAGE + ERRATA + MISTAKES if row[-1] not in ("not yet", "", "*history*")]
    assert list(unknown(tests, "test")) == []


LESSON = new_notebook(
    cells=[
        new_markdown_cell("# 7. A notebook"),
        new_markdown_cell("## 7.1 Noise\n\nThe first\nline."),
        new_code_cell("q_sample(x_0)\n## 7.9 a comment"),
        new_markdown_cell("### Going deeper: more noise\n\nThe second."),
        new_markdown_cell("| 7.1 | a formula |", metadata={"tags": ["equations"]}),
        new_markdown_cell("## 7.2 Data"),
    ]
)


def test_a_section_reaches_to_the_next_number():
    first = "## 7.1 Noise The first line. q_sample(x_0) ## 7.9 a comment ### Going deeper: more noise The second."
    assert sections(LESSON) == {"7.1": first, "7.2": "## 7.2 Data"}


@pytest.mark.parametrize(
    ("cell", "sentences"),
    [
        ('7.1 "first line"; 7.2 "Data"', []),
        ("not yet", []),
        ('7.3 "first line"', ["there is no section 7.3"]),
        ('7.9 "a comment"', ["there is no section 7.9"]),
        ('7.2 "first line"', ["section 7.2 does not say 'first line'; these do: 7.1"]),
        ('7.1 "a formula"', ["section 7.1 does not say 'a formula'; these do: none"]),
    ],
)
def test_a_section_that_says_something_else_is_named(cell, sentences):
    assert list(misplaced([cell], sections(LESSON))) == sentences


@pytest.mark.parametrize("cell", ["", "7.1", '7.1 ""', '7.1 "line", 7.2', 'in 7.1 "line"', "mention"])
def test_a_section_without_words_is_refused(cell):
    with pytest.raises(ValueError, match='expected 1.2 "words"'):
        places(cell)


@pytest.mark.parametrize(
    ("cell", "kind", "known"),
    [
        ("`schedules.linear`", "function", True),
        ("`process.GaussianDiffusion.respaced`<br>`schedules.linear`", "function", True),
        ("`schedules.linear`<br>`schedules.gone`", "function", False),
        ("`ddpm_lesson.schedules.linear`", "function", False),
        ("`schedules.SCHEDULES`", "function", False),
        ("schedules.linear", "function", False),
        ("", "function", False),
        ("`test_docs.py::test_every_erratum_has_one_row`", "test", True),
        ("`test_docs.py::test_gone`", "test", False),
        ("`test_docs.py`", "test", False),
        ("`test_docs.py::places`", "test", False),
        ("`test_gone.py::test_every_erratum_has_one_row`", "test", False),
    ],
)
def test_what_does_not_exist_is_named(cell, kind, known):
    assert (list(unknown([cell], kind)) == []) == known


def test_rows_are_read_by_their_heading():
    text = "# Page\n\nwords\n\n## DDIM\n\n| a | b |\n|---|---|\n| 1 | |\n| 2 | x |\n\n## Other\n\n| a |\n|---|\n| 3 |\n"
    assert tables(text) == {"DDIM": [["1", ""], ["2", "x"]], "Other": [["3"]]}

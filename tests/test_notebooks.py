"""Rules that every notebook of the course keeps, and for each rule a notebook that breaks it.

A rule takes a notebook and its name and yields a sentence for every place where it is broken.
"""

import ast
import builtins
import json
import re
import runpy
from copy import deepcopy
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

FOLDER = Path(__file__).parent.parent / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
build = SimpleNamespace(**runpy.run_path(str(FOLDER / "build.py")))
form = build.form

LIVE = re.compile(r"(animate|interact|interactive|tqdm|trange|perf_counter|time\.time)\(|[wW]idgets\.\w+\(|%time")
MARK = re.compile(r"^# NBVAL_\w+", re.M)
MACHINE_PATH = re.compile(r"(?<![\w/.:])/(home|Users|root|tmp|work|mnt|opt|usr|var|content)/\S*|\b[A-Za-z]:\\Users\S*")


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def markdown(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def tags(cell):
    return cell.metadata.get("tags", [])


def tree(cell):
    return ast.parse(TransformerManager().transform_cell(cell.source))


def stubs(cell):
    """Names of the functions in a cell that are left to the learner: their body ends in `...`."""
    found = [node for node in tree(cell).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return [node.name for node in found if any(ast.unparse(last) == "..." for last in last_lines(node))]


def last_lines(node):
    """The last statement of a function, or of each method of a class."""
    methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
    return [part.body[-1] for part in (methods if isinstance(node, ast.ClassDef) else [node])]


def texts(output):
    """What an output says, without the pictures that are embedded in it."""
    data = output.get("data", {})
    found = [output.get("text", ""), data.get("text/plain", ""), data.get("text/html", "")]
    return [re.sub(r"data:[^\"')]*", "", text) for text in found if text]


def is_picture(output):
    data = output.get("data", {})
    return any(kind.startswith("image/") for kind in data) or "<img" in data.get("text/html", "")


def number(name):
    return int(name[:2])


def is_executed(notebook, name):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"the code cells must have run once, from the top; their counts are {counts}"
    for cell in code_cells(notebook):
        if any(output.output_type == "error" for output in cell.outputs):
            yield f"this cell failed:\n{cell.source}"


def has_plain_metadata(notebook, name):
    if notebook.metadata != build.final_metadata(notebook):
        yield f"the metadata must be what `make notebooks` writes, got {dict(notebook.metadata)}"
    for cell, data in zip(notebook.cells, form.metadata(notebook.cells), strict=True):
        if cell.metadata != data:
            yield f"a cell's metadata must be what `make notebooks` writes, {data}, got {dict(cell.metadata)}"


def has_short_cells(notebook, name):
    counted = [cell for cell in code_cells(notebook) if not {"setup", "capstone"} & set(tags(cell)) and not stubs(cell)]
    lengths = [len([line for line in MARK.sub("", cell.source).splitlines() if line.strip()]) for cell in counted]
    if median(lengths or [0]) > 5:
        yield f"half of the code cells must have at most 5 lines, the median is {median(lengths)}"
    for cell, length in zip(counted, lengths, strict=True):
        if length > 15:
            yield f"a code cell may have 15 lines, this one has {length}:\n{cell.source}"


def has_narrow_code(notebook, name):
    """JupyterLab shows 105 characters of a line on a page 1000 pixels wide; of a longer one it hides the end."""
    for cell in code_cells(notebook):
        for line in cell.source.splitlines():
            if len(line) > 105:
                yield f"a line of code may have 105 characters, this one has {len(line)}: {line}"


def has_no_markdown_in_html(notebook, name):
    """A line that begins with <details> is HTML up to the next empty line: backticks and asterisks stay as they are."""
    for text in markdown(notebook):
        for line in re.findall(r"^(?:> )?<details>.*</details>$", text, re.M):
            if re.search(r"`|\*\w[^*]*\*", re.sub(r"\$[^$]*\$", "", line)):
                yield f"in HTML write <code> and <em>: {line}"


def begins_with_the_setup_cell(notebook, name):
    if ["setup" in tags(cell) for cell in code_cells(notebook)].count(True) != 1:
        yield "one cell must carry the tag setup"
    elif code_cells(notebook)[0].source != (FOLDER / "setup_cell.py").read_text("utf-8").strip("\n"):
        yield "the first code cell must be the text of setup_cell.py, tagged setup; `make notebooks` writes it"


def has_its_badge(notebook, name):
    link = f"https://colab.research.google.com/github/{build.address_of(FOLDER)}/blob/main/notebooks/{name}.ipynb"
    if f"]({link})" not in notebook.cells[0].source:
        yield f"the first cell must hold a badge that links to {link}"


def has_numbered_headings(notebook, name):
    lines = re.sub(r"^```.*?^```", "", "\n".join(markdown(notebook)), flags=re.M | re.S).splitlines()
    titles, sections = ([line for line in lines if line.startswith(mark)] for mark in ("# ", "## "))
    if len(titles) != 1 or not titles[0].startswith(f"# {number(name)}. "):
        yield f"the one title must read '# {number(name)}. ...', got {titles}"
    for i, section in enumerate(sections, start=1):
        if not section.startswith(f"## {number(name)}.{i} "):
            yield f"the section must begin with '## {number(name)}.{i} ', got {section!r}"


def has_captions(notebook, name):
    figures = 0
    for i, cell in enumerate(notebook.cells):
        pictures = [output for output in cell.get("outputs", []) if is_picture(output)]
        if not pictures:
            continue
        figures += 1
        caption = f"*Figure {number(name)}.{figures}.* "
        following = notebook.cells[i + 1 : i + 2]
        if len(pictures) > 1:
            yield f"a cell may show one figure, this one shows {len(pictures)}:\n{cell.source}"
        if not following or following[0].cell_type != "markdown" or not following[0].source.startswith(caption):
            yield f"a Markdown cell that begins with {caption!r} must follow this one:\n{cell.source}"


def has_alternative_texts(notebook, name):
    shown = "\n".join(markdown(notebook) + [text for c in code_cells(notebook) for o in c.outputs for text in texts(o)])
    for image in re.findall(r"<img\b[^>]*>|!\[\s*\]\([^)]*\)", shown):
        if not re.search(r"\balt=[\"'][^\"']", image):
            yield f"an image needs an alternative text: {image}"


def names_no_machine(notebook, name):
    outputs = [text for cell in code_cells(notebook) for output in cell.outputs for text in texts(output)]
    for text in [cell.source for cell in notebook.cells] + outputs:
        for path in MACHINE_PATH.finditer(text):
            yield f"a path of one machine: {path[0]}"


def marks_what_varies(notebook, name):
    for cell in code_cells(notebook):
        marks = MARK.findall(cell.source) + [tag for tag in tags(cell) if tag.startswith("nbval") or "raises" in tag]
        if set(marks) - {"# NBVAL_IGNORE_OUTPUT", "nbval-ignore-output"}:
            yield f"the only mark for nbval is NBVAL_IGNORE_OUTPUT, got {marks}"
        elif marks and not LIVE.search(cell.source) and "setup" not in tags(cell):
            yield f"only animations, widgets, progress bars and timings may be left uncompared, not:\n{cell.source}"
        elif LIVE.search(cell.source) and not marks:
            yield f"what varies must carry # NBVAL_IGNORE_OUTPUT:\n{cell.source}"


def checks_its_exercises(notebook, name):
    cells = code_cells(notebook)
    for cell, following in zip(cells, [*cells[1:], new_code_cell()], strict=True):
        for stub in stubs(cell):
            if not re.search(rf"^{stub} = checks\.\w+\({stub}\)", following.source, re.M):
                yield f"the next code cell must go on with {stub} = checks.<name>({stub})"
            elif not any("not attempted" in text for output in following.outputs for text in texts(output)):
                yield f"the check of the untouched {stub} must have printed 'not attempted'"


def is_in_sittings(notebook, name):
    if not any("sittings" in tags(cell) for cell in notebook.cells):
        yield "a Markdown cell tagged `sittings` must say how long the core path takes"
        return
    found = form.sittings(notebook.cells)
    core = [sitting for sitting in found if not sitting.is_capstone]
    capstones = (1, 2) if name.startswith("05") else (1,)  # the last notebook ends with the course's own, too
    if not core or len(found) - len(core) not in capstones:
        yield f"there must be sittings and one capstone, got {len(core)} and {len(found) - len(core)}"
    if sum(sitting.minutes for sitting in core) > 90 or any(sitting.minutes > 45 for sitting in found):
        yield f"sittings may take 45 minutes and the core path 90, got {[sitting.minutes for sitting in found]}"
    for sitting in found:
        code = [cell for cell in notebook.cells[sitting.first : sitting.last + 1] if cell.cell_type == "code"]
        if "start" not in tags(next((cell for cell in code if "setup" not in tags(cell)), new_code_cell())):
            yield f"the first code cell of {sitting.sections[0]} must make what the sitting needs, tagged `start`"


def says_its_minutes(notebook, name):
    written = build.generate(notebook, name, FOLDER)
    if build.cells(written) != build.cells(notebook):
        yield "the stated minutes must be those of the rule; `make notebooks` writes them"


def has_a_deeper_part(notebook, name):
    for cell in notebook.cells:
        title = form.heading(cell)
        if "deeper" in tags(cell) and (not title or not re.search("Going deeper|equation by equation", title[1])):
            yield f"what is collapsed must say so in its heading, 'Going deeper': {cell.source[:80]!r}"
        elif "deeper" in tags(cell) and "\n" in cell.source:
            yield f"a collapsed heading hides the cells below it: it stands alone in its own, not so {title[1]!r}"
    if not any("deeper" in tags(cell) for cell in notebook.cells):
        yield "what the core path does not need must be collapsed, tagged `deeper`"


def describes_its_figures(notebook, name):
    for cell in code_cells(notebook):
        if any("image/png" in output.get("data", {}) for output in cell.outputs) and "alt" not in cell.metadata:
            yield f"the caption must hold <!-- alt: what there is to see --> for those who cannot: {cell.source[:80]!r}"


def has_every_kind_of_exercise(notebook, name):
    text = "\n".join(markdown(notebook))
    for exercise in re.findall(r"\*\*Exercise [^*]*\*\*", text):
        if not form.STATED.match(exercise):
            yield f"an exercise states its minutes, '**Exercise 1.2 (one star, 5 minutes).**', got {exercise}"
    for kind in ("on paper", "design", "capstone"):
        if not re.search(rf"\*\*Exercise [\d.]+ \({kind}, \d+ minutes\)", text):
            yield f"one exercise must be '({kind}, ... minutes)'"


RULES = [
    is_executed,
    has_plain_metadata,
    has_short_cells,
    has_narrow_code,
    has_no_markdown_in_html,
    begins_with_the_setup_cell,
    has_its_badge,
    has_numbered_headings,
    has_captions,
    has_alternative_texts,
    names_no_machine,
    marks_what_varies,
    checks_its_exercises,
]
FORM = [is_in_sittings, says_its_minutes, has_a_deeper_part, describes_its_figures, has_every_kind_of_exercise]
IN_FORM: list[str] = ["01_forward_process", "02_loss", "03_unet", "04_sampling", "05_variants"]


@pytest.mark.parametrize("rule", FORM)
@pytest.mark.parametrize("name", IN_FORM)
def test_notebook_has_the_form(name, rule):
    assert list(rule(build.read_notebook(FOLDER / f"{name}.ipynb"), name)) == []


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", NAMES)
def test_notebook_keeps_the_rule(name, rule):
    assert list(rule(build.read_notebook(FOLDER / f"{name}.ipynb"), name)) == []


@pytest.mark.parametrize("name", NAMES)
def test_notebook_equals_its_source(name):
    notebook, source = build.read_notebook(FOLDER / f"{name}.ipynb"), build.read_source(FOLDER / f"source/{name}.py")
    assert build.cells(notebook) == build.cells(source)


@pytest.mark.parametrize("name", IN_FORM)
def test_colab_finds_what_is_collapsed_by_either_id(name):
    notebook = build.read_notebook(FOLDER / f"{name}.ipynb")
    collapsed = [cell for cell in notebook.cells if "deeper" in tags(cell)]
    listed = notebook.metadata["colab"]["collapsed_sections"]
    assert [cell.id for cell in collapsed] == [cell.metadata["id"] for cell in collapsed] == listed != []


@pytest.mark.parametrize("name", NAMES)
def test_notebook_is_below_2_mb(name):
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 2e6


def test_every_notebook_has_a_source_and_solutions():
    sources, solutions = ({path.stem for path in FOLDER.glob(f"{kind}/*.py")} for kind in ("source", "solutions"))
    assert set(NAMES) == sources and set(NAMES) <= solutions


def test_notebook_03_says_what_the_record_of_its_ablations_holds():
    prose = " ".join(markdown(build.read_source(FOLDER / "source/03_unet.py")))
    record = json.loads((FOLDER.parent / "data/records/unet_ablations.json").read_text("utf-8"))
    errors = {name: found["std_change"] / found["seeds"] ** 0.5 for name, found in record["change"].items()}
    sizes = {name: found["mean_change"] / errors[name] for name, found in record["change"].items()}
    clear = [name for name in sizes if sizes[name] > 5]
    assert f"Clear effects: {', '.join(clear)}." in prose and sizes.keys() - clear == {"no attention", "AdaGN"}
    assert "no attention is hardly more than one standard error from 0" in prose and 1 < -sizes["no attention"] < 1.5
    assert "AdaGN is two and a half, and its sign differs between seeds" in prose and 2.25 < -sizes["AdaGN"] < 2.75
    assert 0 < record["change"]["AdaGN"]["seeds_worse"] < record["change"]["AdaGN"]["seeds"]


def test_notebook_03_says_what_the_record_of_its_longer_ablations_holds():
    prose = " ".join(markdown(build.read_source(FOLDER / "source/03_unet.py")))
    runs = json.loads((FOLDER.parent / "data/records/unet_ablations_long.json").read_text("utf-8"))["runs"]
    changes = {
        (name, steps): sum(a["loss"][steps] / b["loss"][steps] for a, b in zip(runs[name], runs["full"], strict=True))
        / 3
        - 1
        for name in runs
        for steps in ("60", "200", "800")
    }
    names = ["no skips", "no start at 0", "no time"]
    skips, start, _ = (changes[name, "60"] for name in names)
    late_skips, late_start, late_time = (changes[name, "800"] for name in names)
    assert '"no skips" is far behind all others' in prose
    assert all(3 * changes[name, "60"] < skips for name in runs if name != "no skips")
    assert 'After 800 steps the start at 0 matters less, and "no skips" is hardly worse than "no time".' in prose
    assert 2 * late_start < start and 0 < late_skips - late_time < 0.05 < late_time
    assert f"+{late_time:.0%}".replace("%", " %") + " after 800 steps" in prose
    assert f"after 800 steps the difference is still {late_skips:.0%}".replace("%", " %") in prose
    assert all(abs(changes["no attention", steps]) < 0.01 for steps in ("60", "800"))


def test_notebook_03_says_what_the_record_of_where_its_ablations_end_holds():
    prose = " ".join(markdown(build.read_source(FOLDER / "source/03_unet.py")))
    record = json.loads((FOLDER.parent / "data/records/unet_ablations_ends.json").read_text("utf-8"))
    runs, designs = record["ends"], record["designs"]
    time, skips = (
        [a["2000"] / b["2000"] - 1 for a, b in zip(runs[name], runs["full"], strict=True)]
        for name in ("no time", "no skips")
    )
    assert "both are still behind, and two seeds do not say which is worse" in prose
    assert min(time + skips) > 0 and (time[0] - skips[0]) * (time[1] - skips[1]) < 0
    assert "after 2000 steps " + " and ".join(f"{100 * change:.0f} %" for change in skips) in prose
    whole = designs.pop("the network of section 3.7")["loss"]
    for found in designs.values():
        more = sum(found["loss"]) / sum(whole) - 1
        assert f"({found['parameters']:,} parameters) {100 * more:.0f} %" in prose


def bound(node):
    """The names that a piece of code defines at its top, and inside of its functions and comprehensions."""
    names = set()
    for part in ast.walk(node):
        if isinstance(part, ast.FunctionDef | ast.ClassDef):
            names.add(part.name)
        elif isinstance(part, ast.alias):
            names.add((part.asname or part.name).split(".")[0])
        elif isinstance(part, ast.arg):
            names.add(part.arg)
        elif isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            names.add(part.id)
    return names


@pytest.mark.parametrize("name", IN_FORM)
def test_a_solution_finds_its_names_in_a_sitting_started_alone(name):
    """What a solution uses is there: the set-up, and the cells of its sitting that stand above the exercise."""
    body = ast.parse((FOLDER / "solutions" / f"{name}.py").read_text("utf-8")).body
    solutions = {node.name: node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    libraries = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    libraries = [node for node in libraries if "ddpm_lesson" not in ast.unparse(node)]
    at_hand = set(dir(builtins)).union(*map(bound, libraries))  # anybody can import einops
    cells, seen = build.read_notebook(FOLDER / f"{name}.ipynb").cells, 0
    hidden, first = form.deeper(cells), {sitting.first for sitting in form.sittings(cells)}
    setup = set().union(*(bound(tree(cell)) for cell in cells if "setup" in tags(cell)))
    known = setup
    for i, cell in enumerate(cells):
        known = setup if i in first else known
        if cell.cell_type != "code" or hidden[i]:
            continue
        for exercise in stubs(cell):
            used = {n.id for n in ast.walk(solutions[exercise]) if isinstance(n, ast.Name)}
            missing = used - bound(solutions[exercise]) - known - at_hand
            assert not missing, f"{exercise} needs {missing}, which no cell of its sitting brings"
            seen += 1
        known = known | bound(tree(cell))
    assert seen >= 4


def test_solutions_are_no_notebooks():
    assert list(FOLDER.glob("solutions/**/*.ipynb")) == []  # nbval would run them


def picture():
    return new_output("display_data", {"image/png": "iVBORw0KGgo=", "text/plain": "<Figure size 600x360 with 1 Axes>"})


def printed(text):
    return new_output("stream", name="stdout", text=text)


def finished(notebook):
    """As if built: executed in order, with the metadata of its text."""
    for i, cell in enumerate(code_cells(notebook), start=1):
        cell.execution_count = i
    for cell, data in zip(notebook.cells, form.metadata(notebook.cells), strict=True):
        cell.metadata = nbformat.from_dict(data)
    notebook.metadata = nbformat.from_dict(build.final_metadata(notebook))
    return notebook


def example():
    """A notebook 01_example that keeps every rule."""
    badge = f"https://colab.research.google.com/github/{build.address_of(FOLDER)}/blob/main/notebooks/01_example.ipynb"
    cells = [
        new_markdown_cell(f"# 1. Example\n\n[![Open in Colab](https://a.org/badge.svg)]({badge})"),
        new_code_cell((FOLDER / "setup_cell.py").read_text("utf-8").strip("\n"), metadata={"tags": ["setup"]}),
        new_markdown_cell("## 1.1 A figure\n\n```python\n# no title\n```", metadata={"tags": ["sitting"]}),
        new_code_cell("ax = plots.cloud(points)", outputs=[picture()], metadata={"tags": ["start"]}),
        new_markdown_cell("*Figure 1.1.* Two clusters. <!-- alt: Two clusters of points. -->"),
        new_code_cell("# NBVAL_IGNORE_OUTPUT\nplots.animate(draw, ts, alt='Noise.')", outputs=[picture()]),
        new_markdown_cell("*Figure 1.2.* They dissolve. <!-- alt: Points spread. -->"),
        new_markdown_cell("## 1.2 An exercise"),
        new_code_cell('def half(x):\n    """Half of x."""\n    ...'),
        new_code_cell("half = checks.half(half)", outputs=[printed("1.2 half: not attempted\n")]),
        new_markdown_cell(
            "**Exercise 1.1 (on paper, 3 minutes).** Halve.\n\n**Exercise 1.2 (design, 4 minutes).** Choose."
        ),
        new_markdown_cell("### Going deeper: quarters", metadata={"tags": ["deeper"]}),
        new_markdown_cell("## 1.3 A capstone", metadata={"tags": ["sitting", "capstone"]}),
        new_markdown_cell("**Exercise 1.3 (capstone, 20 minutes).** Build."),
        new_code_cell("x = 1", metadata={"tags": ["start"]}),
        new_markdown_cell("", metadata={"tags": ["sittings"]}),
    ]
    return finished(build.generate(new_notebook(cells=cells), "01_example", FOLDER))


def replace(i, old, new):
    def breach(notebook):
        assert old in notebook.cells[i].source
        notebook.cells[i].source = notebook.cells[i].source.replace(old, new)

    return breach


def append(*cells):
    return lambda notebook: notebook.cells.extend(cells)


def output(i, *outputs):
    return lambda notebook: notebook.cells[i].update(outputs=list(outputs))


def code(text, *outputs):
    return new_code_cell(text, outputs=list(outputs))


SIX_LINES, SIXTEEN_LINES = "\n\n".join("abcdef"), "\n".join("abcdefghijklmnop")
BREACHES = [
    (is_executed, lambda notebook: notebook.cells[3].update(execution_count=None)),
    (is_executed, lambda notebook: notebook.cells[3].update(execution_count=7)),
    (is_executed, output(3, new_output("error", ename="ValueError", evalue="", traceback=[]))),
    (has_plain_metadata, lambda notebook: notebook.metadata.kernelspec.update(name="mine")),
    (has_plain_metadata, lambda notebook: notebook.metadata.update(widgets={})),
    (has_plain_metadata, lambda notebook: notebook.cells[3].metadata.update(execution={})),
    (has_plain_metadata, replace(4, "Two", "Three")),  # edited since it was built
    (has_short_cells, append(code(SIXTEEN_LINES))),
    (has_short_cells, append(*[code(SIX_LINES)] * 5)),
    (has_narrow_code, append(code("x = '" + "a" * 100 + "'"))),
    (has_no_markdown_in_html, append(new_markdown_cell("<details><summary>Hint</summary>Call `f`.</details>"))),
    (has_no_markdown_in_html, append(new_markdown_cell("> <details><summary>Hint</summary>*Not* so.</details>"))),
    (begins_with_the_setup_cell, lambda notebook: notebook.cells[1].metadata.clear()),
    (begins_with_the_setup_cell, lambda notebook: notebook.cells[3].metadata.update(tags=["setup"])),
    (begins_with_the_setup_cell, replace(1, "import sys", "import  sys")),
    (begins_with_the_setup_cell, lambda notebook: notebook.cells.insert(1, code("import torch"))),
    (has_its_badge, replace(0, "/blob/", "/tree/")),
    (has_its_badge, replace(0, "01_example", "02_example")),
    (has_numbered_headings, replace(0, "# 1. ", "# ")),
    (has_numbered_headings, replace(7, "## 1.2", "## 1.3")),
    (has_numbered_headings, append(new_markdown_cell("# 1. Another title"))),
    (has_captions, replace(4, "*Figure 1.1.* ", "")),
    (has_captions, replace(6, "1.2", "1.1")),
    (has_captions, lambda notebook: notebook.cells.insert(4, code("x = 1"))),
    (has_captions, output(3, picture(), picture())),
    (
        has_captions,
        append(code("show()", new_output("display_data", {"text/html": "<img alt='A cat' src='cat.gif'>"}))),
    ),
    (has_alternative_texts, append(new_markdown_cell("![](cat.png)"))),
    (has_alternative_texts, append(new_markdown_cell('<img src="cat.png" alt="">'))),
    (has_alternative_texts, output(9, printed("not attempted"), new_output("display_data", {"text/html": "<img >"}))),
    (names_no_machine, append(new_markdown_cell(f"It lies in {Path.home()}/data."))),
    (names_no_machine, append(code("x", printed("File C:\\Users\\ann")))),
    (names_no_machine, append(code("x", new_output("execute_result", {"text/plain": f"Path('{Path.home()}/x')"})))),
    (marks_what_varies, append(code("# NBVAL_IGNORE_OUTPUT\nx"))),
    (marks_what_varies, append(new_code_cell("x", metadata={"tags": ["nbval-ignore-output"]}))),
    (marks_what_varies, append(code("# NBVAL_SKIP\nx"))),
    (marks_what_varies, append(new_code_cell("1 / 0", metadata={"tags": ["raises-exception"]}))),
    (marks_what_varies, append(code("%timeit x"))),
    (marks_what_varies, append(code("interact(show, t=(0, 9))"))),
    (checks_its_exercises, append(code("def third(x):\n    ..."))),
    (checks_its_exercises, replace(9, "(half)", "(third)")),
    (checks_its_exercises, replace(9, "half = ", "")),
    (checks_its_exercises, append(code("class Block(nn.Module):\n    def forward(self, x):\n        ..."))),
    (has_plain_metadata, lambda notebook: notebook.cells[11].metadata.pop("jp-MarkdownHeadingCollapsed")),
    (is_in_sittings, lambda notebook: notebook.cells[15].metadata.update(tags=[])),
    (is_in_sittings, lambda notebook: notebook.cells[12].metadata.update(tags=["sitting"])),
    (is_in_sittings, lambda notebook: notebook.cells[3].metadata.update(tags=[])),
    (is_in_sittings, replace(10, "3 minutes", "46 minutes")),
    (says_its_minutes, replace(10, "3 minutes", "30 minutes")),
    (says_its_minutes, replace(2, "minutes.*", "minutes, or so.*")),
    (has_a_deeper_part, lambda notebook: notebook.cells[11].metadata.update(tags=[])),
    (has_a_deeper_part, replace(11, "Going deeper", "More")),
    (has_a_deeper_part, replace(11, "quarters", "quarters\n\nMore.")),
    (describes_its_figures, replace(4, "<!-- alt: Two clusters of points. -->", "")),
    (has_every_kind_of_exercise, replace(10, "(on paper, ", "(one star, ")),
    (has_every_kind_of_exercise, replace(10, "(design, 4 minutes)", "(design)")),
    (checks_its_exercises, output(9, printed("1.2 half: yes (6 inputs)"))),
]


@pytest.mark.parametrize(("broken", "breach"), BREACHES)
def test_rule_finds_its_breach(broken, breach):
    notebook = deepcopy(example())
    breach(notebook)
    if broken not in (is_executed, has_plain_metadata):
        finished(notebook)
    assert broken in [rule for rule in [*RULES, *FORM] if list(rule(notebook, "01_example"))]


def test_example_keeps_every_rule():
    assert [sentence for rule in [*RULES, *FORM] for sentence in rule(example(), "01_example")] == []


def test_embedded_pictures_are_not_searched_for_paths():
    folder = "tmp"  # base64 may spell a path
    html = f"<img alt='Noise' src='data:image/png;base64,AAA=/{folder}/AAA'>"
    notebook = new_notebook(cells=[code("x", new_output("display_data", {"text/html": html}))])
    assert list(names_no_machine(notebook, "01_example")) == []

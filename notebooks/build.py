"""The notebooks in their two forms: source/*.py, the text that people edit, and *.ipynb, executed.

    python notebooks/build.py build [--all] [NAME ...]   execute the notebooks whose code changed, store their outputs
    python notebooks/build.py sync                       bring edits made in JupyterLab back to source/
    python notebooks/build.py address OWNER/NAME         write the repository's address wherever it stands

A built notebook keeps the digest of its cells in its metadata. A form with another digest was edited since; so the
older form is known, and where both were edited neither overwrites the other.

Three cells are generated: the one tagged `setup` is setup_cell.py, the one tagged `equations` is the chapter's part of
equations.csv as a table, the one tagged `sittings` says how long the core path takes. In a new source the tag alone is
enough. What the other tags mean stands in form.py. `build` also writes how long each notebook takes into the README.
"""

import argparse
import csv
import hashlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import jupytext
import nbformat
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

sys.path.insert(0, str(Path(__file__).resolve().parent))
import form  # noqa: E402
from client import client  # noqa: E402

ADDRESS = r"[\w.-]+/[\w.-]+"
IN_BADGE = re.compile(rf"(colab\.research\.google\.com/github/){ADDRESS}(/blob/main/notebooks/)(\w+)")
IN_PYPROJECT = re.compile(rf'^(repository = ")({ADDRESS})(?=")', re.M)
IN_SETUP = re.compile(rf'^(REPOSITORY = ")({ADDRESS})(?=")', re.M)
GENERATED = {"setup", "equations", "sittings"}
WIDGET = "application/vnd.jupyter.widget-view+json"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


class Refused(Exception):
    """A notebook could not be built or brought back; its files are as they were."""


def read_source(path: Path) -> NotebookNode:
    return jupytext.reads(path.read_text("utf-8"), fmt="py:percent")


def read_notebook(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def write_source(path: Path, notebook: NotebookNode) -> None:
    """Writes text and tags, a blank line between cells, no header. Refuses what would not come back equal."""
    plain = nbformat.v4.new_notebook(cells=deepcopy(notebook.cells))
    plain.metadata["jupytext"] = {"notebook_metadata_filter": "-all", "cell_metadata_filter": "tags,-all"}
    for (_, text, tags), cell in zip(cells(notebook), plain.cells, strict=True):
        cell.source = text
        cell.metadata = {"lines_to_next_cell": 1} | ({"tags": tags} if tags else {})
    text = jupytext.writes(plain, fmt="py:percent").rstrip("\n") + "\n"
    if (read := cells(jupytext.reads(text, fmt="py:percent"))) != cells(notebook):
        lost = [cell for cell in cells(notebook) if cell not in read]
        raise Refused(f"{path.name}: these cells would not come back equal from text: {lost}")
    write(path, text)


def write_notebook(path: Path, notebook: NotebookNode) -> None:
    write(path, nbformat.writes(notebook) + "\n")


def write(path: Path, text: str) -> None:
    """All or nothing: an interruption leaves the old file."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, "utf-8", newline="\n")
    os.replace(temporary, path)


def cells(notebook: NotebookNode) -> list[tuple[str, str, list[str]]]:
    """What both forms of a notebook hold: type, text and tags of each cell."""
    return [(c.cell_type, c.source.strip("\n"), list(c.metadata.get("tags", []))) for c in notebook.cells]


def digest(notebook: NotebookNode) -> str:
    """Of what people write, so without the generated cells and the badges' address."""
    kept = [
        (kind, "" if GENERATED & set(tags) else form.LINE.sub("", IN_BADGE.sub("", text)), tags)
        for kind, text, tags in cells(notebook)
    ]
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:16]


def generate(notebook: NotebookNode, name: str, folder: Path) -> NotebookNode:
    """The notebook with its generated cells and the address in its badge filled in."""
    notebook = deepcopy(notebook)
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "setup" in tags:
            cell.source = (folder / "setup_cell.py").read_text("utf-8").strip("\n")
        elif "equations" in tags:
            cell.source = equation_table(name, equations(folder))
        elif cell.cell_type == "markdown":
            cell.source = IN_BADGE.sub(rf"\g<1>{address_of(folder)}\g<2>{name}", cell.source)
    form.fill_in(notebook.cells)
    return notebook


def address_of(folder: Path) -> str:
    return IN_PYPROJECT.search((folder.parent / "pyproject.toml").read_text("utf-8"))[2]


def equations(folder: Path) -> list[dict[str, str]]:
    with open(folder / "equations.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def equation_table(name: str, rows: list[dict[str, str]]) -> str:
    """The rows whose tags begin with the notebook's number, as Markdown narrow enough for a page."""
    lines = ["| | equation | function, and the test that checks it |", "|---|:--|:--|"]
    for row in rows:
        if row["tag"].split(".")[0] == str(int(name[:2])):
            equation = f"{row['equation']} ({row['paper']})" if row["paper"] else row["equation"]
            function = breakable(row["function"].removeprefix("ddpm_lesson."))
            test = breakable(row["test"].removeprefix("tests/").replace("::", " "))
            lines.append(f"| {row['tag']} | {equation} | {function}<br>{test} |")
    return "\n".join(lines)


def breakable(names: str) -> str:
    """Names whose lines may end after a dot or an underscore.

    Not code: between backticks it cannot be broken, and the background of its lines covers underscores above.
    """
    return "<samp>" + re.sub(r"([._])", r"\1<wbr>", names) + "</samp>"


def newer_form(name: str, folder: Path) -> str:
    """Which form was edited since the notebook was built: "source", "notebook" or "neither". Refuses if both were."""
    source, path = folder / "source" / f"{name}.py", folder / f"{name}.ipynb"
    if not path.exists():
        return "source"
    notebook = read_notebook(path)
    now = {"source": digest(read_source(source)) if source.exists() else None, "notebook": digest(notebook)}
    edited = [form for form, found in now.items() if found != notebook.metadata.get("ddpm_lesson")]
    if now["source"] == now["notebook"]:
        return "neither"
    if len(edited) == 2:
        raise Refused(
            f"{name}: source and notebook were both edited since the last build. Carry one edit over by hand, or drop "
            f"one: `git checkout notebooks/{name}.ipynb` or `git checkout notebooks/source/{name}.py`"
        )
    return edited[0]


def final_metadata(notebook: NotebookNode) -> dict:
    known = {"kernelspec": KERNEL, "language_info": {"name": "python"}, "ddpm_lesson": digest(notebook)}
    collapsed = form.collapsed_in_colab(notebook.cells)
    return known | ({"colab": {"collapsed_sections": collapsed}} if collapsed else {})


def is_current(path: Path, source: NotebookNode) -> bool:
    """Whether the notebook holds the source's cells, executed in order, and no trace of another program or machine."""
    return kept_code(path, source) is not None and cells(read_notebook(path)) == cells(source)


def kept_code(path: Path, source: NotebookNode) -> list[NotebookNode] | None:
    """The notebook's code cells, if a build executed them in order, nobody saved it since, and the source has them."""
    if not path.exists():
        return None
    notebook = read_notebook(path)
    code = code_of(notebook)
    as_built = notebook.metadata == final_metadata(notebook)
    as_built &= [cell.metadata for cell in notebook.cells] == form.metadata(notebook.cells)
    as_built &= [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    return code if as_built and [cell.source for cell in code] == [cell.source for cell in code_of(source)] else None


def code_of(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def execute(source: NotebookNode, name: str, folder: Path) -> list[NotebookNode]:
    """The source's code cells with their outputs."""
    notebook = nbformat.v4.new_notebook(cells=deepcopy(source.cells))
    settings = {"kernel_name": "python3", "timeout": 600, "coalesce_streams": True}
    settings |= {"resources": {"metadata": {"path": str(folder)}}, "extra_arguments": ["--log-level=ERROR"]}
    try:
        client(notebook, **settings).execute()
    except CellExecutionError as error:
        raise Refused(f"{name}: " + re.sub(r"\x1b\[[\d;]*m", "", str(error))) from None
    return code_of(notebook)


def assemble(source: NotebookNode, code: list[NotebookNode]) -> NotebookNode:
    """The source with these executed cells, and nothing that differs from one build or machine to the next."""
    notebook, executed = nbformat.v4.new_notebook(cells=deepcopy(source.cells)), iter(code)
    notebook.metadata = final_metadata(source)
    seen, metadata = Counter(), form.metadata(source.cells)
    for (kind, text, _), cell, data in zip(cells(source), notebook.cells, metadata, strict=True):
        key = hashlib.sha256(f"{kind} {text}".encode()).hexdigest()[:8]
        seen[key] += 1
        cell.id = data.get("id", f"{key}-{seen[key]}")  # the same in both places where Colab may look for it
        cell.metadata = data
        if kind == "code":  # a widget lives only in the kernel that made it
            ran = next(executed)
            cell.execution_count = ran.execution_count
            cell.outputs = [output for output in ran.outputs if WIDGET not in output.get("data", {})]
    return notebook


def build(folder: Path, chosen: Sequence[str] = (), everything: bool = False) -> None:
    names = sorted(path.stem for path in folder.glob("source/*.py"))
    if unknown := sorted(set(chosen) - set(names)):
        raise Refused(f"no source {', '.join(unknown)}; there are {', '.join(names)}")
    names = chosen or names
    for name in names:
        if newer_form(name, folder) == "notebook":
            raise Refused(f"{name}: the notebook was edited in JupyterLab. Run `make sync` first")
    for name in names:
        path = folder / f"{name}.ipynb"
        source = fill_in(folder / "source" / f"{name}.py", folder)
        if everything or not is_current(path, source):
            code = None if everything else kept_code(path, source)
            print(f"{name}: {'executing' if code is None else 'only its text is new'}", flush=True)
            write_notebook(path, assemble(source, execute(source, name, folder) if code is None else code))
    write_minutes(folder)


def write_minutes(folder: Path) -> None:
    """Into the README's map, in both languages: minutes of core path, capstones, and what is collapsed."""
    for page in sorted(folder.parent.glob("README*.md")):
        text = page.read_text("utf-8")
        for path in sorted(folder.glob("source/*.py")):
            told = " | ".join(map(str, form.totals(read_source(path).cells)))
            row = rf"^(\| \[{path.stem}\]\(.*\|) \d+ \| \d+ \| \d+ \|$"
            text = re.sub(row, rf"\g<1> {told} |", text, flags=re.M)
        write(page, text)


def fill_in(path: Path, folder: Path) -> NotebookNode:
    """Writes the generated cells into one form of a notebook, and returns it."""
    read, write_back = (read_source, write_source) if path.suffix == ".py" else (read_notebook, write_notebook)
    notebook = read(path)
    filled = generate(notebook, path.stem, folder)
    if cells(filled) != cells(notebook):
        write_back(path, filled)
    return filled


def sync(folder: Path) -> None:
    names = [path.stem for path in sorted(folder.glob("*.ipynb"))]
    for name in [name for name in names if newer_form(name, folder) == "notebook"]:
        notebook = generate(read_notebook(folder / f"{name}.ipynb"), name, folder)
        if any(cell.get("attachments") for cell in notebook.cells):
            raise Refused(f"{name}: an image was pasted into a cell, which text cannot hold. Let a cell draw it")
        write_source(folder / "source" / f"{name}.py", notebook)
        print(f"{name}: brought back to the source; `make notebooks` executes it afresh")


def address(folder: Path, new: str) -> None:
    """Outputs do not depend on the address, so nothing is executed."""
    if not re.fullmatch(ADDRESS, new):
        raise Refused(f"the address must read OWNER/NAME, got {new!r}")
    root = folder.parent
    for path, pattern, text in (
        (root / "pyproject.toml", IN_PYPROJECT, rf"\g<1>{new}"),
        (folder / "setup_cell.py", IN_SETUP, rf"\g<1>{new}"),
        *((page, IN_BADGE, rf"\g<1>{new}\g<2>\g<3>") for page in sorted(root.glob("README*.md"))),
    ):
        write(path, pattern.sub(text, path.read_text("utf-8")))
    for path in sorted([*folder.glob("source/*.py"), *folder.glob("*.ipynb")]):
        fill_in(path, folder)


def main() -> None:
    folder = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("build")
    command.add_argument("names", nargs="*", metavar="NAME")
    command.add_argument("--all", action="store_true", help="execute what did not change, too")
    command.set_defaults(run=lambda given: build(folder, given.names, given.all))
    commands.add_parser("sync").set_defaults(run=lambda given: sync(folder))
    command = commands.add_parser("address")
    command.add_argument("address", metavar="OWNER/NAME")
    command.set_defaults(run=lambda given: address(folder, given.address))
    given = parser.parse_args()
    try:
        given.run(given)
    except Refused as refused:
        sys.exit(str(refused))


if __name__ == "__main__":
    main()

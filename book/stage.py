"""The book's source: a folder with copies of the pages and notebooks, in the places that they have in the repository.

So links among them stay as they are, but for README.md, which becomes index.md. What a reader of the site needs and a
notebook's file cannot say is added: which code is folded, which section collapses, a sentence where a slider stands.
"""

import ast
import re
import shutil
from pathlib import Path

import nbformat
from docstrings import inline

PAGES = ["*.md", "docs/*.md", "data/**/README.md", "benchmarks/README.md", "notebooks/*.ipynb"]
PARTS = {  # caption of the sidebar: its pages, in order; "docs/*" are those that are not named before
    "The course": ["notebooks/*", "docs/glossary", "docs/instructors"],
    "What it rests on": ["docs/coverage", "docs/errata", "data/index", "data/*/index", "benchmarks/index", "docs/*"],
    "The package": ["api/index"],
    "The project": ["CONTRIBUTING", "CHANGELOG", "LICENSE-prose"],
}
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")
SECTION = re.compile(r"(?<=\bsection )\d\.\d+\b|(?<=\| |; )\d\.\d+(?= \")")  # in a sentence; in a table: 1.2 "words"
HEADING = re.compile(r"^## (\d\.\d+) ", re.M)
BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\(([^)]*)\)")
SLIDER = re.compile(r"\binteract\(")
MAP = re.compile(r"^\| (`\w+(?:\.py|/)`[^|]*)\|", re.M)


def stage(root: Path, target: Path) -> list[str]:
    """Write the source of the book of the repository in root into the empty folder target; return its documents' names.

    A page is copied with the files that it links to. Raises FileNotFoundError if it links to a file that is not there.
    """
    pages = sorted({path.relative_to(root) for pattern in PAGES for path in root.glob(pattern)})
    sections = set()
    for page in pages:
        path = target / str(page).replace("README.md", "index.md")
        path.parent.mkdir(parents=True, exist_ok=True)
        if page.suffix == ".ipynb":
            notebook = nbformat.read(root / page, as_version=4)
            sections |= {number for cell in notebook.cells for number in HEADING.findall(cell.source)}
            nbformat.write(with_marks(notebook, page), path)
        else:
            text = (root / page).read_text("utf-8")
            copy_linked(text, page, root, target, pages)
            path.write_text(text, "utf-8")
    documents = [page.removesuffix("README") + "index" * page.endswith("README") for page in map(without_suffix, pages)]
    documents += write_api(root, target / "api")
    for path in target.rglob("*"):
        if path.suffix in (".md", ".ipynb"):
            path.write_text(linked(path.read_text("utf-8"), sections, path.suffix), "utf-8")
    front = target / "index.md"
    text = MAP.sub(lambda row: re.sub(r"`(\w+)(?:\.py|/)`", link_to_api, row[0]), front.read_text("utf-8"))
    front.write_text(text + contents(documents), "utf-8")
    return documents


def without_suffix(page: Path) -> str:
    return page.with_suffix("").as_posix()


def copy_linked(text: str, page: Path, root: Path, target: Path, pages: list[Path]) -> None:
    """What a page shows or offers beside other pages: pictures, the licence."""
    for link in LINK.findall(re.sub(r"`[^`\n]*`", "", text)):
        found = (root / page.parent / link).resolve()
        if not found.is_file():
            raise FileNotFoundError(f"{page} must link to files that exist, got {link}")
        name = found.relative_to(root.resolve())
        if name not in pages:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(found, target / name)


def linked(text: str, sections: set[str], suffix: str) -> str:
    """Links to README.md lead to index.md; the number of a section becomes a link to it."""
    if suffix == ".md":
        text = LINK.sub(lambda link: link[0].replace("README.md", "index.md"), text)
        return SECTION.sub(lambda n: f"[{n[0]}](#section-{n[0]})" if n[0] in sections else n[0], text)
    notebook = nbformat.reads(text, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":  # not within HTML, which is passed on as it is
            cell.source = "\n".join(
                line if re.match(r"(> )?<|#", line) else linked(line, sections, ".md")
                for line in cell.source.split("\n")
            )
    return nbformat.writes(notebook)


def with_marks(notebook: nbformat.NotebookNode, page: Path) -> nbformat.NotebookNode:
    """For MyST-NB: `hide-input` beside the course's tags, a target before each section, `% deeper` below a heading."""
    marked = []
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        marked.append(cell)
        if cell.cell_type == "markdown":
            cell.source = BADGE.sub(lambda badge: where_from(page, badge[1]), cell.source)
            if "deeper" in tags:
                cell.source = re.sub(r"^(#.*)", r"\1\n\n% deeper\n", cell.source, count=1)
            cell.source = HEADING.sub(r"(section-\1)=\n\g<0>", cell.source)
        elif {"setup", "folded"} & set(tags):
            cell.metadata.tags = [*tags, "hide-input"]
        if cell.cell_type == "code" and SLIDER.search(cell.source) and not cell.outputs:
            text = "*Here stands a slider, where a kernel runs: in JupyterLab, VS Code or Colab.*"
            marked.append(nbformat.v4.new_markdown_cell(text, id=f"{cell.id}-slider"))
    notebook.cells = marked
    return notebook


def where_from(page: Path, colab: str) -> str:
    """What stands in the place of the badge, an image from another site."""
    there = "" if "/OWNER/" in colab else f" [Open it in Colab]({colab})."
    return f"*This page is `{page.as_posix()}` with its outputs. [Start](../index.md#start) says how to run it.*{there}"


def modules(root: Path) -> dict[str, list[str]]:
    """Public modules in the order of the README's map: {"samplers": ["samplers", "samplers.implicit", ...], ...}."""
    rows = MAP.findall((root / "README.md").read_text("utf-8"))
    names = [name for row in rows for name in re.findall(r"`(\w+)(?:\.py|/)`", row) if not name.startswith("_")]
    package = root / "ddpm_lesson"
    found = {}
    for name in names:
        paths = [package / name / "__init__.py", *sorted((package / name).rglob("*.py"))]
        inside = [path.relative_to(package).with_suffix("").parts for path in paths[1:]]
        public = [parts for parts in inside if not any(part.startswith("_") for part in parts)]
        folders = [parts[:-1] for parts in inside if parts[-1] == "__init__" and len(parts) > 2]
        found[name] = [name, *(".".join(parts) for parts in sorted([*public, *folders]))]
    return found


def write_api(root: Path, folder: Path) -> list[str]:
    """A page for each module of the map, a package's with its public modules; what they say is read from docstrings."""
    folder.mkdir()
    found = modules(root)
    rows = []
    for name, inside in found.items():
        text = ""
        for module in inside:
            path = root.joinpath("ddpm_lesson", *module.split("."))
            parsed = ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text("utf-8"))
            described = ast.get_docstring(parsed) or ""
            if module == name:
                rows.append(f"* :doc:`{name}`: {inline(described.splitlines()[0])}")
            if module.count(".") == 2 and not any(map(is_described, parsed.body)):  # an exercise
                text += f"* ``{module}``: {inline(' '.join(described.split()))}\n\n"
            elif described or module == name:
                line = ("=" if module == name else "-") * len(module)
                text += f"{module}\n{line}\n\n.. automodule:: ddpm_lesson.{module}\n   :members:\n\n"
        (folder / f"{name}.rst").write_text(text, "utf-8")
    title = "The package ddpm_lesson"
    head = f"{title}\n{'=' * len(title)}\n\n.. automodule:: ddpm_lesson\n   :no-members:\n\n" + "\n".join(rows)
    tree = "\n\n.. toctree::\n   :hidden:\n\n" + "".join(f"   {name}\n" for name in found)
    (folder / "index.rst").write_text(head + tree, "utf-8")
    return ["api/index", *(f"api/{name}" for name in found)]


def is_described(node: ast.stmt) -> bool:
    kinds = (ast.FunctionDef, ast.ClassDef)
    return isinstance(node, kinds) and not node.name.startswith("_") and ast.get_docstring(node) is not None


def link_to_api(name: re.Match) -> str:
    return name[0] if name[1].startswith("_") else f"[{name[0]}](api/{name[1]}.rst)"


def contents(documents: list[str]) -> str:
    """The sidebar: every document in the first part that names it, but those of the package, which have their own."""
    left = [name for name in documents if name != "index" and not (name.startswith("api/") and name != "api/index")]
    text = ""
    for caption, patterns in PARTS.items():
        chosen = []
        for pattern in patterns:
            chosen += [name for name in left if Path(name).match(pattern) and name not in chosen]
            if pattern != "docs/*":
                left = [name for name in left if name not in chosen]
        left = [name for name in left if name not in chosen]
        text += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(chosen) + "\n```\n"
    return text

"""The book's source: a folder with copies of the pages and notebooks, in the places that they have in the repository.

So links among them stay as they are, but for README.md, which becomes index.md. What a reader of the site needs and a
notebook's file cannot say is added: which code is folded, which section collapses, a sentence where a slider stands.
"""

import re
import shutil
from pathlib import Path

import nbformat
from api import MAP, write_api

PAGES = ["*.md", "docs/*.md", "data/**/README.md", "benchmarks/README.md", "notebooks/*.ipynb"]
PARTS = {  # caption of the sidebar: its pages, in order; a page belongs to the first pattern that names it
    "The course": ["notebooks/*", "docs/glossary", "docs/instructors"],
    "The package": ["docs/package", "docs/command_line", "api/index"],
    "What it rests on": ["docs/coverage", "docs/errata", "data/index", "data/*/index", "benchmarks/index", "docs/*"],
    "The project": ["README.zh", "CONTRIBUTING", "CHANGELOG", "LICENSE-prose"],
}
TITLES = {"README.zh": "中文 <README.zh>"}  # its own would be that of the front page
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")
# In a sentence: "section 1.2", but not "(arXiv 2102.09672), section 3.2". In a table: 1.2 "words".
SECTION = re.compile(r"(?<=\bsection )(?<!\), section )\d\.\d+\b|(?<=\| |; )\d\.\d+(?= \")")
HEADING = re.compile(r"^## (\d\.\d+) ", re.M)
BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\(([^)]*)\)")
SLIDER = re.compile(r"\binteract\(")


def stage(root: Path, target: Path) -> None:
    """Write the source of the book of the repository in root into target, which does not exist yet.

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
    documents = [re.sub("README$", "index", page.with_suffix("").as_posix()) for page in pages]
    documents += write_api(root, target / "api")
    for path in target.rglob("*"):
        if path.suffix in (".md", ".ipynb"):
            path.write_text(linked(path.read_text("utf-8"), sections, path.suffix), "utf-8")
    listed = target / "docs" / "package.md"
    text = MAP.sub(lambda row: re.sub(r"`(\w+)(?:\.py|/)`", link_to_api, row[0]), listed.read_text("utf-8"))
    listed.write_text(text, "utf-8")
    front = target / "index.md"
    front.write_text(front.read_text("utf-8") + contents(documents), "utf-8")


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
            text = "*Sliders or menus stand here where a kernel runs (JupyterLab, Colab), and change a figure.*"
            marked.append(nbformat.v4.new_markdown_cell(text, id=f"{cell.id}-slider"))
    notebook.cells = marked
    return notebook


def where_from(page: Path, colab: str) -> str:
    """What stands in the place of the badge, an image from another site."""
    there = "" if "/OWNER/" in colab else f" [Open it in Colab]({colab})."
    return f"*This page is `{page.as_posix()}` with its outputs. [Start](../index.md#start) says how to run it.*{there}"


def link_to_api(name: re.Match) -> str:
    return name[0] if name[1].startswith("_") else f"[{name[0]}](../api/{name[1]}.rst)"


def contents(documents: list[str]) -> str:
    """The sidebar: every document in the first part that names it, but those of the package, which have their own."""
    left = [name for name in documents if name != "index" and not (name.startswith("api/") and name != "api/index")]
    text = ""
    for caption, patterns in PARTS.items():
        chosen: list[str] = []
        for pattern in patterns:
            chosen += [name for name in left if Path(name).match(pattern) and name not in chosen]
        left = [name for name in left if name not in chosen]
        entries = (TITLES.get(name, name) for name in chosen)
        text += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(entries) + "\n```\n"
    return text

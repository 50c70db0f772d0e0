"""The notebooks' stored figures as slides: python notebooks/slides.py [FOLDER]

Writes a PNG file for each figure and slides.md, which shows each with its section's title and its caption on a page of
its own: Marp, Quarto and pandoc make slides of it, and it reads as a page. Nothing is executed: figures are outputs
that the notebooks hold.
"""

import base64
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

NOTEBOOKS = Path(__file__).resolve().parent
CAPTION = re.compile(r"\*Figure (\d+\.\d+)\.\*\s*(.*)", re.S)
ALT = re.compile(r"<!-- alt: (.*?) -->", re.S)
HEADING = re.compile(r"^## (.*)", re.M)
PAGE = "slides.md"
START = "---\nmarp: true\nmath: mathjax\npaginate: true\nstyle: 'section img { max-height: 420px }'\n---\n"


class Figure(NamedTuple):
    """A stored picture. section: the title of the section that it stands in."""

    number: str
    section: str
    caption: str
    alt: str
    png: bytes

    @property
    def file(self) -> str:
        chapter, n = self.number.split(".")
        return f"figure_{chapter}_{int(n):02}.png"


def figures(path: Path) -> Iterator[Figure]:
    """The figures of a notebook, in their order; the caption is the cell after the picture's."""
    section, png = "", None
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            held = [output["data"]["image/png"] for output in cell["outputs"] if "image/png" in output.get("data", {})]
            png = base64.b64decode("".join(held[-1])) if held else None
            continue
        if png and (found := CAPTION.match(source)):
            paragraph = " ".join(ALT.sub("", found[2]).split("\n\n")[0].split())
            alt = ALT.search(source)
            yield Figure(found[1], section, paragraph, " ".join(alt[1].split()) if alt else "", png)
        section = (HEADING.findall(source) or [section])[-1]
        png = None


def write(folder: Path, notebooks: list[Path]) -> int:
    """All figures of the notebooks, as files and as one page.  Returns how many.

    Raises FileExistsError for a folder that holds anything but slides.
    """
    if folder.exists():
        others = [path.name for path in folder.iterdir() if path.name != PAGE and not path.match("figure_*_*.png")]
        if others:
            raise FileExistsError(f"{folder} holds other files ({others[0]}): name an empty or a new folder")
        for path in folder.iterdir():
            path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    pages = []
    for figure in [figure for path in notebooks for figure in figures(path)]:
        (folder / figure.file).write_bytes(figure.png)
        alt = figure.alt.replace("[", "(").replace("]", ")")
        pages.append(f"\n## {figure.section}\n\n![{alt}]({figure.file})\n\n*{figure.number}* {figure.caption}\n")
    (folder / PAGE).write_text(START + "\n---\n".join(pages), "utf-8")
    return len(pages)


if __name__ == "__main__":
    to = Path(sys.argv[1] if len(sys.argv) > 1 else "slides")
    try:
        print(f"{write(to, sorted(NOTEBOOKS.glob('*.ipynb')))} figures, and {to / PAGE}")
    except OSError as error:
        sys.exit(str(error))

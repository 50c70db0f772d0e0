"""The stored figures as slides."""

import json
import re
import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
slides = runpy.run_path(str(FOLDER / "slides.py"))
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def captions():
    """The numbers of all captions in the sources."""
    texts = [path.read_text("utf-8") for path in sorted(FOLDER.glob("source/*.py"))]
    return [number for text in texts for number in re.findall(r"^# \*Figure (\d+\.\d+)\.\*", text, re.M)]


def test_every_figure_has_a_file_and_a_page(tmp_path):
    assert slides["write"](tmp_path / "slides", NOTEBOOKS) == len(captions()) > 100
    text = (tmp_path / "slides" / "slides.md").read_text("utf-8")
    assert re.findall(r"^\*(\d+\.\d+)\* \w", text, re.M) == captions()
    named = re.findall(r"^!\[.{20,}\]\((.*)\)$", text, re.M)  # each with words for those who cannot see it
    files = sorted(path.name for path in (tmp_path / "slides").glob("*.png"))
    assert sorted(named) == files and len(files) == len(captions())
    assert all((tmp_path / "slides" / name).read_bytes().startswith(b"\x89PNG\r\n") for name in files)
    assert text.count("\n## ") == len(captions()) and "<!--" not in text


def test_slides_are_written_anew_and_nothing_else_is_touched(tmp_path):
    slides["write"](tmp_path, NOTEBOOKS)
    assert slides["write"](tmp_path, NOTEBOOKS[:1]) == len(list(tmp_path.glob("*.png"))) < 30
    (tmp_path / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="holds other files .mine.txt.: name an empty or a new folder"):
        slides["write"](tmp_path, NOTEBOOKS)


def test_a_picture_without_a_caption_is_no_figure(tmp_path):
    picture = {"cell_type": "code", "source": "", "outputs": [{"data": {"image/png": "iVBORw0KGgo="}}]}
    cells = [
        picture,
        {"cell_type": "markdown", "source": "Words."},
        {"cell_type": "markdown", "source": "*Figure 1.1.* A"},
    ]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells}))
    assert list(slides["figures"](tmp_path / "a.ipynb")) == []

"""Students' copies for the tests of grading: the course's notebooks with other code in the exercises' cells."""

import ast
import json
from pathlib import Path

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def original(chapter: int) -> dict:
    """The course's notebook, without its outputs."""
    held = json.loads(NOTEBOOKS[chapter - 1].read_text("utf-8"))
    for cell in held["cells"]:
        if cell["cell_type"] == "code":
            cell["source"], cell["outputs"] = "".join(cell["source"]), []
    return held


def solutions(chapter: int) -> dict[str, str]:
    """The source of each solution, with the imports that it needs in front."""
    text = (ROOT / "notebooks" / "solutions" / f"{NOTEBOOKS[chapter - 1].stem}.py").read_text("utf-8")
    nodes = ast.parse(text).body
    imports = [ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    defined = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return {node.name: "\n".join([*imports, "", "", ast.get_source_segment(text, node)]) for node in defined}


def stub_of(notebook: dict, name: str) -> dict:
    """The cell in which the exercise is to be written."""
    starts = (f"def {name}(", f"class {name}:", f"class {name}(")
    (found,) = [cell for cell in code(notebook) if cell["source"].startswith(starts)]
    return found


def check_cell(notebook: dict, name: str) -> dict:
    (found,) = [cell for cell in code(notebook) if cell["source"].startswith(f"{name} = checks.")]
    return found


def code(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def answered(chapter: int, answers: dict[str, str]) -> dict:
    """The notebook with these sources instead of the stubs."""
    notebook = original(chapter)
    for name, source in answers.items():
        stub_of(notebook, name)["source"] = source
    return notebook


def solved(chapter: int) -> dict:
    """The notebook with every solution.  A stub's class keeps what stands in its cell before it."""
    notebook = original(chapter)
    for name, source in solutions(chapter).items():
        stub_of(notebook, name)["source"] = source
    return notebook


def of_cells(*sources: str) -> dict:
    """A notebook of these code cells."""
    cells = [
        {"cell_type": "code", "source": source, "metadata": {}, "outputs": [], "execution_count": None}
        for source in sources
    ]
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}


def save(notebook: dict, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(notebook), "utf-8")
    return path

"""Whether what a table names exists: a function of the package, a test of this folder."""

import ast
import pkgutil
from pathlib import Path

ROOT = Path(__file__).parent.parent


def exists(test):
    """Whether `tests/test_x.py::test_y`, or `::TestX::test_y`, is defined. The file is read and not run."""
    file, *names = test.split("::")
    if not names or not names[-1].startswith("test_") or not (ROOT / file).is_file():
        return False
    node = ast.parse((ROOT / file).read_text("utf-8"))
    for name in names:
        kinds = ast.FunctionDef | ast.ClassDef
        node = next((child for child in node.body if isinstance(child, kinds) and child.name == name), None)
        if node is None:
            return False
    return True


def resolves(function):
    """Whether a dotted name leads to something that can be called, inside of the package."""
    try:
        return function.startswith("ddpm_lesson.") and callable(pkgutil.resolve_name(function))
    except (ImportError, AttributeError, ValueError):
        return False

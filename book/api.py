"""The pages of the package: one for each public module of the map, docs/package.md, in its order, filled by autodoc."""

import ast
import re
from pathlib import Path

from docstrings import inline

MAP = re.compile(r"^\| (`\w+(?:\.py|/)`[^|]*)\|", re.M)


def modules(root: Path) -> dict[str, list[str]]:
    """Public modules in the order of the map: {"samplers": ["samplers", "samplers.implicit", ...], ...}."""
    rows = MAP.findall((root / "docs" / "package.md").read_text("utf-8"))
    names = [name for row in rows for name in re.findall(r"`(\w+)(?:\.py|/)`", row) if not name.startswith("_")]
    package = root / "ddpm_lesson"
    found = {}
    for name in names:
        paths = [path.relative_to(package) for path in sorted((package / name).rglob("*.py"))]
        dotted = {".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths}
        found[name] = sorted({name} | {module for module in dotted if "._" not in module})
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

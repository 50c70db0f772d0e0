"""The course's wheel, built without the network from a copy of what it is built from."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def built(source: Path, out: Path) -> Path:
    """The wheel's path.  source: an empty folder for the copy; out: an empty folder for the wheel."""
    for name in ["pyproject.toml", "README.md", "LICENSE", "LICENSE-prose.md"]:
        shutil.copy(ROOT / name, source)
    for name in ["ddpm_lesson", "data"]:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", out, source)
    (wheel,) = out.glob("*.whl")
    return wheel


def pip(*arguments: object) -> None:
    """pip of the running Python.  Raises AssertionError with what it printed if it fails."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} said:\n{done.stdout}{done.stderr}"

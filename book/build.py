"""The course as a site, from the notebooks' stored outputs: nothing is executed, and nothing is fetched.

    python book/build.py [FOLDER]      (build/book)

Every warning of Sphinx, every link that leads nowhere and every file of another site is an error.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from check import problems  # noqa: E402
from stage import stage  # noqa: E402

BOOK = Path(__file__).resolve().parent


def build(folder: Path) -> None:
    """Build the book in folder, which is new, empty or an earlier book; one with faults ends in SystemExit instead."""
    if folder.exists() and any(folder.iterdir()) and not (folder / "objects.inv").is_file():
        sys.exit(f"{folder} must be new, empty or an earlier book, which would be replaced; it holds something else")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".book-") as scratch:
        source, site = Path(scratch, "source"), Path(scratch, "site")
        stage(BOOK.parent, source)
        sphinx = [sys.executable, "-m", "sphinx", "--builder", "html", "--quiet", "--fail-on-warning"]
        done = subprocess.run([*sphinx, "--conf-dir", BOOK, "--doctree-dir", Path(scratch, "doctrees"), source, site])
        if done.returncode:
            sys.exit(done.returncode)
        (site / ".nojekyll").touch()  # GitHub Pages otherwise leaves out the folders whose names begin with _
        if found := list(problems(site)):
            sys.exit("\n".join(found))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(site, folder)


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else BOOK.parent / "build" / "book").resolve()
    build(folder)
    print(f"{folder / 'index.html'}: open it in a browser")

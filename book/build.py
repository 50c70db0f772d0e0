"""The course as a site, from the notebooks' stored outputs: nothing is executed, and nothing is fetched.

    python book/build.py [FOLDER]      (build/book)

Every warning of Sphinx, every link that leads nowhere and every file of another site is an error.
"""

import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from check import problems  # noqa: E402
from stage import stage  # noqa: E402

BOOK = Path(__file__).resolve().parent


def build(folder: Path) -> None:
    """Replace the book in folder, with its source beside it in folder.source. Exits with a sentence if it has faults."""
    source = folder.with_name(folder.name + ".source")
    for old in (folder, source):
        shutil.rmtree(old, ignore_errors=True)
    stage(BOOK.parent, source)
    sphinx = [sys.executable, "-m", "sphinx", "--builder", "html", "--quiet", "--fail-on-warning", "--fresh-env"]
    subprocess.run([*sphinx, "--conf-dir", BOOK, "--doctree-dir", source / ".doctrees", source, folder], check=True)
    (folder / ".nojekyll").touch()  # GitHub Pages otherwise leaves out the folders whose names begin with _
    if found := list(problems(folder)):
        sys.exit("\n".join(found))


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else BOOK.parent / "build" / "book").resolve()
    build(folder)
    print(f"{folder / 'index.html'}: open it in a browser")

"""Each sitting of a notebook, started alone: from the installed wheel, offline, without what is collapsed."""

import os
import runpy
from copy import deepcopy
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
build = runpy.run_path(str(FOLDER / "build.py"))
form, read = build["form"], build["read_notebook"]
SITTINGS = [
    (path.stem, n) for path in sorted(FOLDER.glob("*.ipynb")) for n in range(len(form.sittings(read(path).cells)))
]
OFFLINE = """
import socket
import ddpm_lesson

assert ddpm_lesson.__file__.startswith({target!r}), ddpm_lesson.__file__


def local(connect):
    def checked(self, address):
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"a sitting needs no network, but asked for {{address}}")
        return connect(self, address)

    return checked


socket.socket.connect, socket.socket.connect_ex = local(socket.socket.connect), local(socket.socket.connect_ex)
"""


@pytest.mark.parametrize(("name", "n"), SITTINGS)
def test_sitting_starts_alone(name, n, installed, tmp_path):
    cells = read(FOLDER / f"{name}.ipynb").cells
    sitting, hidden = form.sittings(cells)[n], form.deeper(cells)
    chosen = [cell for cell in cells if "setup" in form.tags(cell)]
    chosen.append(nbformat.v4.new_code_cell(OFFLINE.format(target=str(installed))))
    for i in range(sitting.first, sitting.last + 1):
        if cells[i].cell_type == "code" and not hidden[i] and "setup" not in form.tags(cells[i]):
            chosen.append(cells[i])
    client = build["client"](
        nbformat.v4.new_notebook(cells=deepcopy(chosen)),
        kernel_name="python3",
        timeout=240,
        resources={"metadata": {"path": str(tmp_path)}},
        extra_arguments=["--log-level=ERROR"],
    )
    client.execute(env=os.environ | {"PYTHONPATH": str(installed)})

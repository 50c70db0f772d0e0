"""The notebooks on machines that are not the author's: an imitation of Colab, and a place where all is difficult.

    python tests/strangers.py colab [NAME ...] [--oldest VENV]
    python tests/strangers.py hostile [NAME ...]

colab: the packages of .venv-oldest (`make test-oldest` builds it: the oldest PyTorch, numpy and ipywidgets that the
course allows) with Colab's own IPython and ipykernel, without JupyterLab, without the course and without einops. Each
notebook is copied alone into an empty folder with the wheel beside it, and executed. No version of what was there may
change, what is added must be the course and einops (from PyPI), and the printed text must be what is stored.

hostile: nbval's strict mode, with one thread, without a network, in a checkout that cannot be written to and whose path
has spaces and letters of several scripts, and so has the home directory. Linux only (unshare).

No test collects it: a part takes some ten minutes on a core. Ends with 1 if anything is wrong.
"""

import argparse
import json
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient.exceptions import CellExecutionError
from wheels import ROOT, built

CLIENT = runpy.run_path(str(ROOT / "notebooks" / "client.py"))["client"]
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
COLAB = ["ipython==7.34.0", "ipykernel==6.17.1", "ipywidgets==7.7.1"]  # of Colab's list, which has an old IPython
LACKS = ["*ddpm_lesson*", "einops*", "jupyterlab", "jupyterlab-*"]
HOME, CHECKOUT = "Jürgen Müller 王小明", "a course ñ/дом 课程 (2)"
NOT_COMPARED = re.compile(r"^# NBVAL_", re.M)


def link(source: str, target: str) -> None:
    """A second name of a file, where the system has such: packages are gigabytes. pip replaces files, it edits none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def environment_like(given: Path, place: Path, without: list[str]) -> Path:
    """A virtual environment at place with the packages of another one.  Returns its Python."""
    ask = "import json, sys, sysconfig; print(json.dumps([sys._base_executable, sysconfig.get_path('purelib')]))"
    base, packages = json.loads(subprocess.check_output([given, "-c", ask], text=True))
    subprocess.run([base, "-m", "venv", "--without-pip", place], check=True)
    python = next(place.glob("*/python")) if os.name != "nt" else place / "Scripts" / "python.exe"
    own = json.loads(subprocess.check_output([python, "-c", ask], text=True))[1]
    shutil.rmtree(own)
    shutil.copytree(packages, own, copy_function=link, symlinks=True, ignore=shutil.ignore_patterns(*without))
    return python


def versions(python: Path) -> dict[str, str]:
    told = subprocess.check_output([python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"])
    return {package["name"]: package["version"] for package in json.loads(told)}


def execute(path: Path, python: Path, scratch: Path) -> list[str]:
    """Execute a notebook where it lies, with this Python's kernel.  Returns sentences about what is wrong."""
    kernel = scratch / "kernels" / "stranger"
    kernel.mkdir(parents=True, exist_ok=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=ERROR"]
    spec = {"argv": argv, "display_name": "stranger", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec), "utf-8")
    os.environ["JUPYTER_PATH"] = str(scratch)
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    stored = nbformat.read(path, 4)
    notebook = nbformat.v4.new_notebook(cells=nbformat.read(path, 4).cells)
    client = CLIENT(
        notebook,
        kernel_name="stranger",
        timeout=600,  # of a cell; the slowest takes half a minute
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    try:
        client.execute(env=environment)
    except CellExecutionError as error:
        return [re.sub(r"\x1b\[[\d;]*m", "", str(error))[-2000:]]
    pairs = enumerate(zip(stored.cells, notebook.cells, strict=True))
    # What pip says in the set-up cell is not the course's.
    compared = [(i, a, b) for i, (a, b) in pairs if not NOT_COMPARED.search(a.source) and "setup" not in tags(a)]
    return [
        f"cell {i} prints {printed(b)!r}, stored is {printed(a)!r}" for i, a, b in compared if printed(a) != printed(b)
    ]


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def printed(cell: nbformat.NotebookNode) -> list[str]:
    """The texts that a cell prints or shows."""
    outputs = cell.get("outputs", [])
    shown = [o.text if o.output_type == "stream" else o.data.get("text/plain", "") for o in outputs]
    return [text for text in shown if not text.startswith(("<Figure", "interactive(", "<IPython", "<ddpm_lesson"))]


def colab(names: list[str], oldest: Path) -> list[str]:
    if not (oldest / "pyvenv.cfg").exists():
        raise SystemExit(f"no environment {oldest}: `make test-oldest` builds one, --oldest names another")
    wrong = []
    # Environments on one disk with their files; notebooks outside of any checkout.
    environments = tempfile.TemporaryDirectory(dir=oldest.parent, prefix=".strangers-")
    with environments as folder, tempfile.TemporaryDirectory() as elsewhere:
        scratch = Path(folder)
        for name in ("source", "wheel"):
            (scratch / name).mkdir()
        wheel = built(scratch / "source", scratch / "wheel")
        given = environment_like(next(oldest.glob("*/python")), scratch / "colab", LACKS)
        pip = [given, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *COLAB], check=True)
        for name in names:
            begun, alone = time.monotonic(), Path(elsewhere) / name
            alone.mkdir()
            for path in (wheel, ROOT / "notebooks" / f"{name}.ipynb"):
                shutil.copy(path, alone)
            python = environment_like(given, scratch / name, [])
            before = versions(python)
            faults = execute(alone / f"{name}.ipynb", python, scratch)
            after = versions(python)
            added = {package: version for package, version in after.items() if package not in before}
            if changed := {n: (v, after.get(n)) for n, v in before.items() if after.get(n) != v}:
                faults.append(f"changed what was there: {changed}")
            if set(added) != {"ddpm_lesson", "einops"}:
                faults.append(f"must add ddpm_lesson and einops, added {added}")
            kept = ", ".join(f"{n} {before[n]}" for n in ("torch", "numpy", "matplotlib", "ipywidgets", "ipython"))
            told = f"{kept} and {len(before) - 5} more were there, {len(changed)} of them changed; added {added}"
            report(name, told, begun, faults)
            wrong += faults
            shutil.rmtree(scratch / name)
    return wrong


def hostile(names: list[str]) -> list[str]:
    """Start this script again where it has no network, and may mount."""
    if shutil.which("unshare") is None:
        raise SystemExit("hostile needs unshare, of Linux")
    with tempfile.TemporaryDirectory() as scratch:
        command = ["unshare", "--user", "--map-root-user", "--net", "--mount"]
        done = subprocess.run([*command, sys.executable, __file__, "inside", *names, "--scratch", scratch])
    return [] if done.returncode == 0 else ["see above"]


def inside(names: list[str], scratch: Path) -> list[str]:
    home, checkout = scratch / HOME, scratch / CHECKOUT
    home.mkdir()
    checkout.mkdir(parents=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)  # a kernel is asked through 127.0.0.1
    subprocess.run(["mount", "--bind", ROOT, checkout], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", checkout], check=True)
    must_fail("a file is written into the checkout", lambda: (checkout / "x").touch())
    must_fail("there is a network", lambda: socket.create_connection(("1.1.1.1", 443), 5))
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "JUPYTER", "DDPM_", "MPL"))
    }
    given = {"HOME": home, "PYTHONPATH": checkout, "OMP_NUM_THREADS": 1, "MKL_NUM_THREADS": 1}
    environment = kept | {name: str(value) for name, value in given.items()}
    wrong = []
    sample = ["ddpm_lesson", "sample", "--n", "4", "--out", home / "digits 数字.png"]
    nbval = ["pytest", "--quiet", "--nbval", "-p", "no:cacheprovider"]
    commands = {"sample": sample} | {name: [*nbval, f"notebooks/{name}.ipynb"] for name in names}
    for name, command in commands.items():
        begun = time.monotonic()
        run = [sys.executable, "-m", *map(str, command)]
        done = subprocess.run(run, cwd=checkout, env=environment, capture_output=True, text=True)
        said = done.stdout + done.stderr
        faults = [] if done.returncode == 0 else [f"ended with {done.returncode}:\n{said[-4000:]}"]
        report(name, said.strip().splitlines()[-1] if said.strip() else "", begun, faults)
        wrong += faults
    left = sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())
    print(f"left in the home directory: {', '.join(left)}")
    return wrong


def must_fail(what: str, action) -> None:
    try:
        action()
    except OSError:
        return
    raise SystemExit(f"the place is not hostile: {what}")


def report(name: str, told: str, begun: float, faults: list[str]) -> None:
    print(f"{name}: {told}, {time.monotonic() - begun:.0f} s, {len(faults)} faults", flush=True)
    for fault in faults:
        print(f"    {fault}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the notebooks on machines that are not the author's.")
    parser.add_argument("part", choices=["colab", "hostile", "inside"])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)} [all]")
    parser.add_argument("--oldest", type=Path, default=ROOT / ".venv-oldest", help="an environment [.venv-oldest]")
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.names or NAMES
    if unknown := sorted(set(names) - set(NAMES)):
        parser.error(f"no notebook {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if options.part == "colab":
        return 1 if colab(names, options.oldest.resolve()) else 0
    return 1 if (inside(names, options.scratch) if options.part == "inside" else hostile(names)) else 0


if __name__ == "__main__":
    sys.exit(main())

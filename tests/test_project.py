"""The project as a whole: who imports whom, the cost of an import, the wheel, the versions, the README, make."""

import ast
import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from oldest import constraints
from packaging.requirements import Requirement

import ddpm_lesson

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it on Python 3.10

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ddpm_lesson"

# A module imports only from those to its left; nothing imports a leaf.
ORDER = (
    "_tensors doors schedules spacing gaussian coefficients process predictions denoisers oracle bound losses "
    "timesteps samplers networks ddpm variants points files folders images data batches training experiments grading "
    "cli __main__"
).split()
LEAVES = ["plots", "plots_sampling", "plots_variants", "checks", "interop"]
ROOM = (  # likewise
    "distributed checkpoints fields recipes sizes generator_recipes sampling build conditions pretrained_generators "
    "pretrained drawing locks logs saved runs metrics features classifiers generators evaluation spaces"
).split()

needs_make = pytest.mark.skipif(
    sys.platform == "win32" or shutil.which("make") is None, reason="make is for Linux and macOS"
)


def modules(package: Path) -> list[str]:
    """Names of a package's top-level modules and subpackages, __init__ left out."""
    subpackages = [path.parent.name for path in package.glob("*/__init__.py")]
    return sorted(subpackages + [path.stem for path in package.glob("*.py") if path.stem != "__init__"])


def imported(path: Path, package: Path, level: int = 1) -> set[str]:
    """The package's top-level modules that a file imports, in functions too; "" is the package itself.

    level: 2 for the modules of the file's own subpackage.
    """
    here = [package.name, *path.relative_to(package).with_suffix("").parts]
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: -node.level] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            names += [".".join([*base, alias.name]) for alias in node.names]
    parts = [name.split(".") + ["", ""] for name in names]
    inside = package if level == 1 else path.parent
    parts = [part for part in parts if part[:level] == here[:level]]
    return {part[level] if part[level] in modules(inside) else "" for part in parts}


def violations(package: Path) -> list[str]:
    """One sentence for every import against the order, and for every module without a place in it."""
    found = []
    for module in modules(package):
        if module not in ORDER + LEAVES:
            found.append(f"{module} has no place in the order")
            continue
        allowed = ORDER[: ORDER.index(module)] if module in ORDER else ORDER
        if module == "cli":
            # The outermost: it writes pictures, exports, and says the package's version.
            allowed = [*allowed, "plots", "interop", ""]
        if module == "grading":
            allowed = ["checks", "experiments"]  # it judges answers; a learner's code may load trained networks
        if module in ("plots_sampling", "plots_variants"):
            allowed = ["plots"]  # its colours
        if module == "networks":
            allowed = ["_tensors"]  # networks know nothing of diffusion
        paths = sorted((package / module).rglob("*.py")) or [package / f"{module}.py"]
        for path in paths:
            for target in sorted(imported(path, package) - {module, *allowed}):
                found.append(f"{path.relative_to(package).as_posix()} imports {target or 'the package itself'}")
    return found


def test_modules_import_only_from_above():
    assert len(modules(PACKAGE)) > 5
    assert violations(PACKAGE) == []


def test_the_room_of_experiments_has_an_order_too():
    room = PACKAGE / "experiments"
    assert modules(room) == sorted(ROOM)
    for i, module in enumerate(ROOM):
        below = imported(room / f"{module}.py", PACKAGE, level=2) - set(ROOM[:i])
        assert not below, f"{module} imports {below}"


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("schedules.py", "from ddpm_lesson.process import extract", "schedules.py imports process"),
        ("schedules.py", "import ddpm_lesson.process as p", "schedules.py imports process"),
        ("schedules.py", "from . import process", "schedules.py imports process"),
        ("schedules.py", "def f():\n    from .process import extract", "schedules.py imports process"),
        ("process.py", "from ddpm_lesson import extract", "process.py imports the package itself"),
        ("process.py", "import ddpm_lesson", "process.py imports the package itself"),
        ("process.py", "from . import plots", "process.py imports plots"),
        ("networks/mlp.py", "from ..schedules import linear", "networks/mlp.py imports schedules"),
        ("plots.py", "from .checks import engine", "plots.py imports checks"),
        ("helpers.py", "import torch", "helpers has no place in the order"),
        ("process.py", "from .schedules import linear", None),
        ("networks/mlp.py", "from .blocks import Swish", None),
        ("checks/engine.py", "from ..process import extract\nfrom . import other", None),
        ("__init__.py", "from .process import extract", None),
    ],
)
def test_the_import_order_is_seen(tmp_path, file, line, message):
    package = tmp_path / "ddpm_lesson"
    for name in "__init__ schedules process plots networks/__init__ networks/mlp checks/__init__".split():
        path = package / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (package / file).write_text(line)
    assert violations(package) == ([message] if message else [])


def run(*command, **kwargs) -> str:
    """Output of a command; a failing one fails the test with all it said."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, f"{command} said:\n{done.stdout}{done.stderr}"
    return done.stdout


def test_import_is_cheap():
    code = "import time; a = time.perf_counter(); import torch; b = time.perf_counter(); import ddpm_lesson; "
    code += "print((time.perf_counter() - b) / (b - a))"  # a busy machine slows both
    shares = []
    while len(shares) < 5 and min(shares, default=1) > 0.05:
        shares.append(float(run(sys.executable, "-c", code, cwd=ROOT)))
    assert min(shares) <= 0.05


def test_slow_packages_load_when_used():
    core = [f"ddpm_lesson.{name}" for name in modules(PACKAGE) if name not in [*LEAVES, "__main__"]]
    core += [f"ddpm_lesson.experiments.{name}" for name in ROOM]
    code = f"import sys, ddpm_lesson, {', '.join(core)}; print(*sys.modules)"
    loaded = run(sys.executable, "-c", code, cwd=ROOT).split()
    assert "torch" in loaded and core[0] in loaded
    assert not {"torchvision", "matplotlib", "diffusers", "IPython"} & set(loaded)


def test_files_come_late():
    code = "import sys, ddpm_lesson; before = 'ddpm_lesson.experiments' in sys.modules; "
    code += "print(before, ddpm_lesson.Sampling.__name__, ddpm_lesson.load_pretrained('digits_ddpm').step)"
    assert run(sys.executable, "-c", code, cwd=ROOT).split() == ["False", "Sampling", "2500"]
    with pytest.raises(AttributeError, match="'ddpm_lesson' has no attribute 'load_pretraind'"):
        ddpm_lesson.load_pretraind  # noqa: B018


def test_all_packages_are_listed():
    listed = pyproject()["tool"]["setuptools"]["packages"]
    found = [path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in PACKAGE.rglob("__init__.py")]
    assert sorted(listed) == sorted([*found, "ddpm_lesson._bundled"])


def test_wheel_works_outside_of_the_repository(wheel, installed, tmp_path):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("ddpm_lesson/")}
    code = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.py")}
    data = [path.relative_to(ROOT / "data") for path in (ROOT / "data").rglob("*") if path.is_file()]
    read = {path.as_posix() for path in data if path.suffix in (".npz", ".json", ".safetensors")} | {"README.md"}
    assert {"digits.npz", "weights/digits_ddpm.json", "records/unet_ablations.json"} <= read
    assert held == code | {"ddpm_lesson/py.typed"} | {f"ddpm_lesson/_bundled/{path}" for path in read}
    use = (
        f"import sys; sys.path.insert(0, {str(installed)!r})\n"
        "import ddpm_lesson; from ddpm_lesson.data import bundled, digits\n"
        "x_0, labels = digits()[:]\n"
        "print(ddpm_lesson.__file__, bundled('digits.npz'), tuple(x_0.shape), len(labels), sep='\\n')\n"
        "print(ddpm_lesson.load_pretrained('mnist_ddpm').shape)"
    )
    lines = run(sys.executable, "-I", "-c", use, cwd=tmp_path).splitlines()
    assert Path(lines[0]) == installed / "ddpm_lesson" / "__init__.py"
    assert Path(lines[1]) == installed / "ddpm_lesson" / "_bundled" / "digits.npz"
    assert lines[2:] == ["(1797, 1, 8, 8)", "1797", "(1, 28, 28)"]


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def bounds(requirements) -> dict[str, str]:
    return {r.name: str(r.specifier) for r in map(Requirement, requirements)}


def test_versions_are_lower_bounds():
    project = pyproject()["project"]
    for requirements in [project["dependencies"], *project["optional-dependencies"].values()]:
        assert all(re.fullmatch(r">=[\d.]+", bound) for bound in bounds(requirements).values())


def test_the_oldest_versions_are_the_lower_bounds():
    lines = dict(line.split("==") for line in constraints((ROOT / "pyproject.toml").read_text(encoding="utf-8")))
    project = pyproject()
    listed = [project["project"]["dependencies"], *project["project"]["optional-dependencies"].values()]
    expected = bounds([requirement for each in [*listed, project["build-system"]["requires"]] for requirement in each])
    assert lines == {name: bound.removeprefix(">=") for name, bound in expected.items()}
    with pytest.raises(ValueError, match="torch must have one lower bound in pyproject.toml, got 2.4 and 2.5"):
        constraints('"torch>=2.4", "torch>=2.5"')


@needs_make
def test_make_builds_an_environment_of_the_oldest_versions(checkout):
    said = make(checkout, "-n", "test-oldest").stdout
    assert "--constraint .venv-oldest/constraints.txt" in said and ".venv-oldest/bin/python -m pytest tests" in said
    assert "test-oldest" in make(checkout, "help").stdout


@needs_make
def test_make_takes_the_oldest_python_that_runs(checkout, tmp_path, monkeypatch):
    """A version manager puts a python3.10 in the path that only says that none is chosen."""
    for name, text in [("python3.10", "exit 127"), ("python3.11", "echo /opt/python3.11"), ("python3.12", "echo no")]:
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert "/opt/python3.11 -m venv --clear .venv-oldest" in make(checkout, "-n", "test-oldest").stdout


def test_package_has_the_version_of_pyproject():
    assert ddpm_lesson.__version__ == pyproject()["project"]["version"]


def test_environment_yml_agrees_with_pyproject():
    project, extras = pyproject()["project"], pyproject()["project"]["optional-dependencies"]
    *conda, pip = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    assert conda == [f"python{project['requires-python']}", "pip"]
    *packages, this = pip["pip"]
    assert this == "-e .[notebooks,test,eval]"
    assert {"torch", "torchvision", "jupyterlab", "matplotlib", "einops", "nbval", "pytest"} <= set(bounds(packages))
    listed = bounds(project["dependencies"] + extras["notebooks"] + extras["test"])
    assert bounds(packages).items() <= listed.items()


def test_the_setup_cell_installs_what_the_notebooks_import_and_colab_may_lack():
    cell = (ROOT / "notebooks" / "setup_cell.py").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^modules = (.*)$", cell, re.MULTILINE)
    there = {"torch", "torchvision", "numpy", "matplotlib", "filelock"}  # torch brings the last one
    needed = set(bounds(pyproject()["project"]["dependencies"])) - there
    assert set(re.findall(r'"(\w+)"', listed)) == needed | {"ddpm_lesson", "ipywidgets"}
    imported = set()
    for source in (ROOT / "notebooks" / "source").glob("*.py"):
        nodes = list(ast.walk(ast.parse(source.read_text(encoding="utf-8"))))
        imported |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    outside = {name.split(".")[0] for name in imported} - set(sys.stdlib_module_names)
    assert outside <= needed | there | {"ddpm_lesson", "ipywidgets", "IPython"}  # a notebook brings IPython


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_code_runs():
    trained, drawn = re.findall(r"```python\n(.*?)```", readme(), re.DOTALL)
    names = {}
    exec(trained, names)
    assert names["samples"].shape == (16, 1, 8, 8)
    assert names["samples"].abs().max() <= 1
    exec(drawn, names)
    assert names["images"].shape == (10, 1, 28, 28)


def test_the_map_of_the_package_has_every_module():
    page = (ROOT / "docs" / "package.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`\w+(?:\.py|/)`[^|]*)\|", page, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(\w+)(?:\.py|/)`", row)]
    assert sorted(named) == modules(PACKAGE)


def test_links_inside_the_repository_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            there = "://" in target or (page.parent / target).exists()
            assert there, f"{page.name} links to {target}, which does not exist"


def test_no_file_names_a_path_of_one_machine():
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout: which files belong to the project is unknown")
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    path = re.compile(r"(?<![\w.+-])/(home|root|tmp|work|Users)/\w")
    for name in filter(lambda name: (ROOT / name).is_file(), listed):
        text = (ROOT / name).read_bytes().decode("utf-8", errors="ignore")
        assert not path.search(text), f"{name} names {path.search(text)[0]}..."


def test_no_network_blocks(no_network):
    with pytest.raises(OSError, match="blocked"):
        socket.create_connection(("localhost", 9))
    with pytest.raises(OSError, match="blocked"), socket.socket() as unconnected:
        unconnected.connect(("127.0.0.1", 9))


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    outer = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES", "VENV", "PYTHON")
    clean = {key: value for key, value in os.environ.items() if key not in outer}
    return subprocess.run(["make", *arguments], cwd=folder, env=clean, capture_output=True, text=True)


@pytest.fixture
def checkout(tmp_path):
    """A folder with a space in its name and the files that make reads."""
    folder = tmp_path / "a checkout"
    folder.mkdir()
    for name in ["Makefile", "pyproject.toml"]:
        shutil.copy(ROOT / name, folder)
    (folder / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "oldest.py", folder / "tests")
    return folder


@needs_make
def test_make_installs_once(checkout):
    assert "pip install" in make(checkout, "-n", "test").stdout
    stamp = checkout / ".venv" / ".installed"
    stamp.parent.mkdir()
    stamp.touch()
    second = make(checkout, "-n", "test").stdout
    assert "pip install" not in second
    assert re.findall(r"-m (\w+(?: --nbval| --doctest-modules| [^-\s]\S*)?)", second) == [
        "ruff check",
        "ruff format",
        "mypy",
        "pytest tests",
        "pytest --doctest-modules",
        "pytest --nbval",
    ]
    os.utime(stamp, (0, 0))  # older than pyproject.toml
    assert "pip install" in make(checkout, "-n", "test").stdout
    assert f'"{pyproject()["build-system"]["requires"][0]}"' in make(checkout, "-n", "test").stdout


@needs_make
def test_make_asks_for_a_newer_python(checkout):
    old = checkout / "old-python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.18\nexit 1\n')
    old.chmod(0o755)
    done = make(checkout, "lab", "PYTHON=./old-python")
    assert done.returncode != 0
    assert f"must be Python {pyproject()['project']['requires-python'][2:]} or newer, got: Python 3.9.18" in done.stderr
    assert not (checkout / ".venv").exists()

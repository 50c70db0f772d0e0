"""notebooks/build.py and the set-up cell: the way between source and notebook, and how ddpm_lesson is found."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell

FOLDER = Path(__file__).parent.parent / "notebooks"
build = SimpleNamespace(**runpy.run_path(str(FOLDER / "build.py")))

BADGE = "https://colab.research.google.com/github/{}/blob/main/notebooks/{}.ipynb"
SOURCE = rf"""# %% [markdown]
# # 1. A lesson
#
# [![Open in Colab](badge.svg)]({BADGE.format("someone/else", "zz_copied")})

# %% tags=["setup", "nbval-ignore-output"]

# %% [markdown]
# $$q(x_t\mid x_0) = \mathcal N\big(\sqrt{{\bar\alpha_t}}\,x_0,\ (1-\bar\alpha_t)I\big) \tag{{1.5: DDPM Eq. 4}}$$
#
# > **Predict.** Half?
# > <details><summary>Then look</summary>
# >
# > * 81 %
# > </details>

# %%
# NBVAL_IGNORE_OUTPUT
# %time x = 40 + 2

# %%
def half(x):
    ...

# %%
print(x)

# %% [markdown] tags=["equations"]
"""


@pytest.fixture
def folder(tmp_path):
    """The notebooks' folder of a course with one source, 01_lesson, not yet built."""
    folder = tmp_path / "notebooks"
    (folder / "source").mkdir(parents=True)
    (folder / "source" / "01_lesson.py").write_text(SOURCE, "utf-8")
    (folder / "setup_cell.py").write_text('REPOSITORY = "ann/course"\n', "utf-8")
    (folder / "equations.csv").write_text(
        'tag,paper,equation,function,test\n1.5,DDPM Eq. 4,"a, b",ddpm_lesson.f,tests/t.py::t\n2.1,,c,g,u\n1.6,,d,g,u\n',
        "utf-8",
    )
    (tmp_path / "pyproject.toml").write_text('[tool.ddpm_lesson]\nrepository = "ann/course"\n', "utf-8")
    (tmp_path / "README.md").write_text(f"[badge]({BADGE.format('ann/course', '01_lesson')})\n", "utf-8")
    return folder


@pytest.fixture
def built(folder):
    """The same course as if built, without the seconds that a kernel takes."""
    source = build.fill_in(folder / "source" / "01_lesson.py", folder)
    notebook = nbformat.v4.new_notebook(cells=source.cells, metadata=build.final_metadata(source))
    for cell, data in zip(notebook.cells, build.form.metadata(source.cells), strict=True):
        cell.metadata = data
    for i, cell in enumerate([cell for cell in notebook.cells if cell.cell_type == "code"], start=1):
        cell.execution_count = i
    build.write_notebook(folder / "01_lesson.ipynb", notebook)
    return folder


def edit_source(folder, old="Half?", new="A third?"):
    path = folder / "source" / "01_lesson.py"
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


def edit_notebook(folder, edit):
    """What JupyterLab writes: the edit, its own metadata, new ids."""
    notebook = build.read_notebook(folder / "01_lesson.ipynb")
    edit(notebook)
    notebook.metadata.kernelspec.display_name = "Python 3 (ipykernel)"
    for i, cell in enumerate(notebook.cells):
        cell.id = f"lab-{i}"
        cell.metadata["collapsed"] = False
    build.write_notebook(folder / "01_lesson.ipynb", notebook)


def texts(folder):
    return {path.name: path.read_text("utf-8") for path in folder.rglob("*.*") if path.suffix in (".py", ".ipynb")}


def test_build_executes_once_and_writes_the_same_bytes_again(folder, capsys):
    build.build(folder)
    first = texts(folder)
    notebook = build.read_notebook(folder / "01_lesson.ipynb")
    assert build.cells(notebook) == build.cells(build.read_source(folder / "source" / "01_lesson.py"))
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"] == [1, 2, 3, 4]
    assert notebook.cells[5].outputs == [{"output_type": "stream", "name": "stdout", "text": "42\n"}]
    assert notebook.metadata.kernelspec == {"name": "python3", "display_name": "Python 3", "language": "python"}
    assert [dict(cell.metadata) for cell in notebook.cells if cell.metadata] == [
        {"tags": ["setup", "nbval-ignore-output"], "jupyter": {"source_hidden": True}, "cellView": "form"},
        {"tags": ["equations"]},
    ]
    assert capsys.readouterr().out == "01_lesson: executing\n"
    build.build(folder)
    assert capsys.readouterr().out == "" and texts(folder) == first
    edit_source(folder, "# NBVAL_IGNORE_OUTPUT\n# %time x", "x")
    build.build(folder)
    once = texts(folder)
    build.build(folder, everything=True)
    assert capsys.readouterr().out == "01_lesson: executing\n" * 2 and texts(folder) == once
    before, after = (build.nbformat.reads(text["01_lesson.ipynb"], 4) for text in (first, once))
    assert sum(a.id != b.id for a, b in zip(before.cells, after.cells, strict=True)) == 1


def test_new_text_is_put_around_the_outputs_that_are_there(folder, capsys):
    edit_source(folder, "# NBVAL_IGNORE_OUTPUT\n# %time x", "x")  # whose output is always another
    build.build(folder)
    before = build.read_notebook(folder / "01_lesson.ipynb").cells
    edit_source(folder)
    build.build(folder)
    assert capsys.readouterr().out == "01_lesson: executing\n01_lesson: only its text is new\n"
    source = build.read_source(folder / "source" / "01_lesson.py")
    assert build.is_current(folder / "01_lesson.ipynb", source)
    after = build.read_notebook(folder / "01_lesson.ipynb").cells
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False, True, True, True, True]
    once = texts(folder)
    build.build(folder, everything=True)
    assert texts(folder) == once


def test_outputs_of_other_hands_are_not_kept(built):
    source, path = build.read_source(built / "source" / "01_lesson.py"), built / "01_lesson.ipynb"
    assert build.kept_code(path, source) is not None
    edit_notebook(built, lambda notebook: None)
    assert build.kept_code(path, source) is None


def test_a_failing_cell_leaves_the_old_notebook_and_is_shown(built):
    edit_source(built, "print(x)", "x = 1 / 0")
    before = texts(built)
    with pytest.raises(build.Refused, match=r"(?s)01_lesson: .*x = 1 / 0.*ZeroDivisionError") as refused:
        build.build(built)
    assert "\x1b" not in str(refused.value)
    assert texts(built) == before


def test_a_widget_leaves_no_trace(folder):
    pytest.importorskip("ipywidgets", reason="ipywidgets comes with the extra `notebooks`")
    edit_source(folder, "print(x)", "from ipywidgets import IntSlider\nIntSlider()")
    build.build(folder)
    notebook = build.read_notebook(folder / "01_lesson.ipynb")
    assert notebook.cells[5].outputs == [] and "widgets" not in notebook.metadata


def test_the_generated_cells_are_filled_in(built):
    cells = {name: build.cells(read(built / path)) for name, read, path in (
        ("source", build.read_source, "source/01_lesson.py"), ("notebook", build.read_notebook, "01_lesson.ipynb")
    )}  # fmt: skip
    assert cells["source"] == cells["notebook"]
    assert BADGE.format("ann/course", "01_lesson") in cells["source"][0][1]
    assert cells["source"][1][1] == 'REPOSITORY = "ann/course"'
    assert cells["source"][6][1].splitlines()[2:] == [
        "| 1.5 | a, b (DDPM Eq. 4) | <samp>f</samp><br><samp>t.<wbr>py t</samp> |",
        "| 1.6 | d | <samp>g</samp><br><samp>u</samp> |",
    ]


@pytest.mark.parametrize(
    "text",
    [
        r"$$\mathcal N\big(\sqrt{\bar\alpha_t}\,x_0,\ (1-\bar\alpha_t)I\big) \tag{1.7: DDPM Eq. 4}$$",
        "two spaces at the end  \nof a line, and\n\n    indented code",
        "| a | b |\n|---|---|\n| $|x|$ | `\\tag` |",
        "# %% no cell of its own? `# +` neither",
        "<details><summary>Hint</summary>\n\n$\\bar\\alpha$ und 扩散\n\n</details>",
        "",
    ],
)
def test_sync_brings_markdown_back_exactly(built, text):
    edit_notebook(built, lambda notebook: notebook.cells.insert(3, new_markdown_cell(text)))
    build.sync(built)
    assert build.read_source(built / "source" / "01_lesson.py").cells[3].source == text


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("# NBVAL_IGNORE_OUTPUT\n%timeit x\n!ls\nplot(x)", []),
        ("x", ["nbval-ignore-output", "mine"]),
        ("def f(x):\n    '''Doc.'''\n\n\n    ...", []),
        ("# %timeit is a comment here", []),
        ("%%time\nx = 1", []),
        ("# a comment\n\n# and another", []),
    ],
)
def test_sync_brings_code_and_tags_back_exactly(built, text, tags):
    cell = new_code_cell(text, metadata={"tags": tags} if tags else {})
    edit_notebook(built, lambda notebook: notebook.cells.insert(3, cell))
    build.sync(built)
    back = build.read_source(built / "source" / "01_lesson.py").cells[3]
    assert (back.source, back.metadata.get("tags", [])) == (text, tags)


@pytest.mark.parametrize(
    "cell",
    [
        new_code_cell("x = 1\n# %%\ny = 2"),  # would become two cells
        new_markdown_cell("![](attachment:a.png)", attachments={"a.png": {"image/png": "iVBORw0KGgo="}}),
    ],
)
def test_sync_refuses_what_text_cannot_hold(built, cell):
    edit_notebook(built, lambda notebook: notebook.cells.append(cell))
    before = texts(built)
    with pytest.raises(build.Refused, match="01_lesson.*text"):
        build.sync(built)
    assert texts(built) == before


def half_to_third(notebook):
    notebook.cells[2].source = notebook.cells[2].source.replace("Half?", "A third?")


def test_an_edit_in_jupyterlab_is_kept_by_build_and_brought_back_by_sync(built, capsys):
    before = texts(built)["01_lesson.py"]
    edit_notebook(built, half_to_third)
    assert build.newer_form("01_lesson", built) == "notebook"
    with pytest.raises(build.Refused, match="make sync"):
        build.build(built, everything=True)
    build.sync(built)
    assert texts(built)["01_lesson.py"] == before.replace("Half?", "A third?")
    assert build.newer_form("01_lesson", built) == "neither"
    source = build.read_source(built / "source" / "01_lesson.py")
    assert not build.is_current(built / "01_lesson.ipynb", source)  # so the next build executes it
    build.sync(built)
    assert capsys.readouterr().out.count("brought back") == 1


def test_sync_leaves_an_edited_source_alone(built):
    edit_source(built)
    before = texts(built)
    assert build.newer_form("01_lesson", built) == "source"
    build.sync(built)
    assert texts(built) == before


@pytest.mark.parametrize("command", [build.build, build.sync])
def test_neither_form_is_overwritten_when_both_were_edited(built, command):
    edit_source(built, "print(x)", "print(2 * x)")
    edit_notebook(built, half_to_third)
    before = texts(built)
    with pytest.raises(build.Refused, match="git checkout notebooks/01_lesson.ipynb"):
        command(built)
    assert texts(built) == before


def test_the_same_edit_in_both_forms_is_no_conflict(built):
    edit_source(built)
    edit_notebook(built, half_to_third)
    assert build.newer_form("01_lesson", built) == "neither"


def test_a_notebook_made_in_jupyterlab_gets_a_source_and_a_deleted_source_stays_deleted(built):
    notebook = build.read_notebook(built / "01_lesson.ipynb")
    del notebook.metadata["ddpm_lesson"]
    build.write_notebook(built / "02_own.ipynb", notebook)
    (built / "source" / "01_lesson.py").unlink()
    build.sync(built)
    assert [path.name for path in built.glob("source/*")] == ["02_own.py"]


@pytest.mark.parametrize(
    "change",
    [
        lambda notebook: notebook.cells[5].update(execution_count=None),
        lambda notebook: notebook.metadata.kernelspec.update(name="mine"),
        lambda notebook: notebook.cells[1].update(source="an older set-up cell"),
    ],
)
def test_a_notebook_that_is_not_as_built_is_built_again(built, change):
    source, path = build.read_source(built / "source" / "01_lesson.py"), built / "01_lesson.ipynb"
    assert build.is_current(path, source)
    notebook = build.read_notebook(path)
    change(notebook)
    build.write_notebook(path, notebook)
    assert not build.is_current(path, source)


def test_an_unknown_name_lists_the_known(folder):
    with pytest.raises(build.Refused, match="no source 09_none; there are 01_lesson"):
        build.build(folder, ["09_none"])


def test_address_is_written_wherever_it_stands_and_asks_for_no_execution(built):
    outputs = {path: path.read_text("utf-8") for path in [*built.parent.rglob("*.*")] if path.is_file()}
    build.address(built, "bob/fork.2")
    assert {path: path.read_text("utf-8") for path in outputs} == {
        path: text.replace("ann/course", "bob/fork.2") for path, text in outputs.items()
    }
    assert build.is_current(built / "01_lesson.ipynb", build.read_source(built / "source" / "01_lesson.py"))


@pytest.mark.parametrize("address", ["course", "https://github.com/a/b", "a/b/c", 'a/"b', ""])
def test_address_must_name_owner_and_repository(built, address):
    before = texts(built)
    with pytest.raises(build.Refused, match="OWNER/NAME"):
        build.address(built, address)
    assert texts(built) == before


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.ipynb"
    path.write_text("old", "utf-8")
    with pytest.raises(UnicodeEncodeError):
        build.write(path, "new \ud800")
    assert path.read_text("utf-8") == "old"


def test_the_set_up_cell_holds_the_address_of_pyproject():
    assert f'REPOSITORY = "{build.address_of(FOLDER)}"' in (FOLDER / "setup_cell.py").read_text("utf-8").splitlines()


DRIVER = """
import json, subprocess, sys, types
plt = types.SimpleNamespace(rcParams={})
sys.modules["matplotlib"] = types.ModuleType("matplotlib")
sys.modules["matplotlib"].pyplot = sys.modules["matplotlib.pyplot"] = plt
def ones(n, device):
    if sys.argv[2] != device:
        raise {"cuda": AssertionError, "mps": RuntimeError}[device]
    return types.SimpleNamespace(item=lambda: n)
sys.modules["torch"] = types.SimpleNamespace(ones=ones, device=str)
calls = []
subprocess.run = lambda command, check: calls.append(command[1:])
before = list(sys.path)
exec(open(sys.argv[1], encoding="utf-8").read())
assert device == sys.argv[2]
print(json.dumps([calls, [entry for entry in sys.path if entry not in before]]))
"""


def run_setup(cwd, *site, cell=FOLDER / "setup_cell.py", device="cpu"):
    """Runs the set-up cell with `site` for site-packages, where this device computes, which the cell must find.

    Returns its pip commands and what it added to sys.path.
    """
    command = [sys.executable, "-S", "-c", DRIVER, str(cell), device]
    environment = {"PYTHONPATH": os.pathsep.join(map(str, site))}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=True)
    return json.loads(result.stdout)  # so the cell itself printed nothing


def make_package(folder, *names):
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").touch()
    return folder


@pytest.fixture
def lone(tmp_path):
    """A folder that holds only a notebook."""
    (tmp_path / "lone").mkdir()
    return tmp_path / "lone"


def make_checkout(folder):
    make_package(folder, "ddpm_lesson")
    (folder / "pyproject.toml").touch()
    (folder / "notebooks").mkdir()
    return folder


SMALL = "einops", "safetensors", "tqdm", "ipywidgets"
PIP = ["-m", "pip", "install", "--quiet"]


def test_set_up_takes_the_installed_package(tmp_path, lone):
    site = make_package(tmp_path / "site", "ddpm_lesson", *SMALL)
    assert run_setup(lone, site) == [[], []]
    assert run_setup(make_checkout(tmp_path / "checkout") / "notebooks", site) == [[], []]


def test_set_up_takes_the_checkout_around_it(tmp_path):
    checkout = make_checkout(tmp_path / "checkout")
    site = make_package(tmp_path / "site", *SMALL)
    assert run_setup(checkout / "notebooks", site) == [[], [str(checkout)]]
    assert run_setup(checkout / "notebooks") == [[[*PIP, *SMALL]], [str(checkout)]]


def test_set_up_installs_only_the_small_packages_that_are_missing(tmp_path, lone):
    site = make_package(tmp_path / "site", "ddpm_lesson", "einops", "tqdm", "safetensors")
    assert run_setup(lone, site) == [[[*PIP, "ipywidgets"]], []]


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_set_up_takes_a_gpu_that_computes(tmp_path, lone, device):
    assert run_setup(lone, make_package(tmp_path / "site", "ddpm_lesson", *SMALL), device=device) == [[], []]


def addressed(tmp_path):
    """The set-up cell with an address of its own."""
    text = (FOLDER / "setup_cell.py").read_text("utf-8")
    path = tmp_path / "addressed.py"
    path.write_text(build.IN_SETUP.sub(r"\g<1>ann/course", text), "utf-8")
    return path


def test_set_up_fetches_the_package_without_its_dependencies(tmp_path, lone):
    package = [*PIP, "--no-deps", "https://github.com/ann/course/archive/refs/heads/main.zip"]
    assert run_setup(lone, cell=addressed(tmp_path)) == [[package, [*PIP, *SMALL]], []]
    site = make_package(tmp_path / "site", "einops", "tqdm", "ipywidgets")
    assert run_setup(lone, site, cell=addressed(tmp_path)) == [[package, [*PIP, "safetensors"]], []]


def test_set_up_is_not_misled_by_a_folder_of_the_package_s_name(tmp_path, lone):
    (lone / "ddpm_lesson").mkdir()  # a clone beside the notebook: a namespace package for Python
    assert run_setup(lone, lone, cell=addressed(tmp_path))[0][0][4] == "--no-deps"


def test_set_up_takes_a_wheel_beside_the_notebook(tmp_path, lone):
    for version in ("0.1.0", "0.2.0"):
        (lone / f"ddpm_lesson-{version}-py3-none-any.whl").touch()
    wheel = str(lone / "ddpm_lesson-0.2.0-py3-none-any.whl")
    site = make_package(tmp_path / "site", *SMALL)
    for cell in (FOLDER / "setup_cell.py", addressed(tmp_path)):
        assert run_setup(lone, site, cell=cell) == [[[*PIP, "--no-deps", wheel]], []]


def test_set_up_refuses_the_placeholder_of_an_address(tmp_path, lone):
    # Whoever is called OWNER on GitHub would decide what is installed.
    cell = tmp_path / "placeholder.py"
    cell.write_text(build.IN_SETUP.sub(r"\g<1>OWNER/ddpm_lesson", addressed(tmp_path).read_text("utf-8")), "utf-8")
    with pytest.raises(subprocess.CalledProcessError) as error:
        run_setup(lone, cell=cell)
    last = error.value.stderr.splitlines()[-1]
    assert "OWNER" in last and "wheel" in last and "make address REPO=" in last and error.value.stdout == ""


def test_what_a_widget_shows_is_not_told_to_the_kernel():
    """It would be on the channel on which the reply is awaited, and then the reply was seen to be missed."""
    shown = "import ipywidgets\nout = ipywidgets.Output()\nwith out:\n    print('seen')"
    cells = [new_code_cell(shown), new_code_cell("print(out.outputs)")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    build.client(notebook, kernel_name="python3", timeout=120).execute()
    assert [cell.outputs for cell in notebook.cells][0] == []
    assert notebook.cells[1].outputs[0].text == "()\n"

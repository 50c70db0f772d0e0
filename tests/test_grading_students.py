"""Whose copy lies where."""

import os
import sys

import pytest

from ddpm_lesson.grading.students import hand_ins


def laid(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


def found(*places):
    return {hand_in.student: [path.name for path in hand_in.paths] for hand_in in hand_ins([str(p) for p in places])}


@pytest.mark.parametrize(
    ("name", "student"),
    [
        ("alice.ipynb", "alice"),
        ("01_forward_process_alice.ipynb", "alice"),
        ("alice-02_loss.ipynb", "alice"),
        ("Alice Smith 3_unet (1).ipynb", "Alice Smith"),
        ("04_sampling_李雷-Copy2.ipynb", "李雷"),
        ("smithalice_678_91011_02_loss.ipynb", "smithalice_678"),
        ("smithalice_LATE_678_91012_05_variants-1.ipynb", "smithalice_678"),
        ("05_variants.ipynb", "class"),
    ],
)
def test_a_students_name_is_beside_the_notebooks(name, student, tmp_path):
    assert found(laid(tmp_path / "class", name)) == {student: [name]}
    assert found(tmp_path / "class" / name) == {student: [name]}


def test_a_sub_folder_is_a_student(tmp_path):
    names = "ann/01.ipynb", "ann/more/02.ipynb", "Bo Li_12345_assignsubmission_file/x.ipynb", "cy.ipynb"
    hidden = "ann/.ipynb_checkpoints/01-checkpoint.ipynb", "__MACOSX/ann/._01.ipynb", "ann/._01.ipynb", "ann/notes.txt"
    folder = laid(tmp_path, *names, *hidden)
    assert found(folder) == {"ann": ["01.ipynb", "02.ipynb"], "Bo Li": ["x.ipynb"], "cy": ["cy.ipynb"]}


def test_several_places_make_one_class(tmp_path):
    laid(tmp_path, "first/ann_01_forward_process.ipynb", "second/ann_02_loss.ipynb", "second/bob_02_loss.ipynb")
    both = found(tmp_path / "first", tmp_path / "second", tmp_path / "second" / "ann_02_loss.ipynb")
    assert both == {
        "ann": ["ann_01_forward_process.ipynb", "ann_02_loss.ipynb"],
        "bob": ["bob_02_loss.ipynb"],
    }


def test_two_students_of_one_name_stay_two(tmp_path):
    names = [f"Alice Smith_{n}_assignsubmission_file/x.ipynb" for n in (111, 222)]
    names += ["Alice Smith_111_assignsubmission_onlinetext/y.ipynb", "Bo Li_333_assignsubmission_file/x.ipynb"]
    names += ["Cy Ng_444_assignsubmission_file/x.ipynb", "Cy Ng/x.ipynb"]
    assert found(laid(tmp_path, *names)) == {
        "Alice Smith 111": ["x.ipynb", "y.ipynb"],
        "Alice Smith 222": ["x.ipynb"],
        "Bo Li": ["x.ipynb"],
        "Cy Ng": ["x.ipynb"],
        "Cy Ng 444": ["x.ipynb"],
    }


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names of files that are no UTF-8")
def test_names_that_are_no_utf_8_stay_two(tmp_path):
    laid(tmp_path, *(f"{os.fsdecode(name)}/x.ipynb" for name in (b"M\xe4ller", b"M\xfcller")))
    assert len(found(tmp_path)) == 2 and all(name.encode() for name in found(tmp_path))

"""The checks on answers from outside: none wrong is accepted, none correct rejected, and the mistake is named."""

import importlib

import pytest

from ddpm_lesson import checks

ANSWERS = [importlib.import_module(f"answers.notebook_0{number}").answers for number in (1, 2, 3)]
WRONGS = [wrong for answers in ANSWERS for wrong in answers.wrongs]
AWAITED = {"walk", "Forward", "training_loop", "ResBlock", "AttnBlock", "UNet"}  # nobody from outside has answered yet
CORRECTS = [correct for answers in ANSWERS for correct in answers.corrects]
every_check = pytest.mark.parametrize("check", checks.registry.values(), ids=list(checks.registry))


@every_check
def test_wrong_answer_is_named(check):
    """Both mistakes, where its author made two."""
    for _, function, mistake, _, words in [wrong for wrong in WRONGS if wrong.name == check.name]:
        verdict, detail = check.diagnose(function)
        assert verdict == "no" and words and all(word in detail for word in words), (mistake, detail)


@every_check
def test_correct_answer_is_accepted(check):
    for _, function, style in [correct for correct in CORRECTS if correct.name == check.name]:
        assert check.diagnose(function)[0] == "yes", style


def test_there_are_many():
    assert {wrong.name for wrong in WRONGS} == {correct.name for correct in CORRECTS} == set(checks.registry) - AWAITED
    assert len(WRONGS) >= 150 and len(CORRECTS) >= 60
    assert {"two", "gradient", "random", "brackets", "layout", "ignored-argument"} <= {wrong.kind for wrong in WRONGS}

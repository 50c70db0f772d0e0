"""The checks on answers from outside: none wrong is accepted, none correct rejected, and the mistake is named."""

import importlib

import pytest

from ddpm_lesson import checks

FILES = [f"answers.{kind}_0{number}" for kind in ("notebook", "built") for number in (1, 2, 3, 4, 5)]
FILES.append("answers.ddgan_05")
ANSWERS = [importlib.import_module(name).answers for name in FILES]
WRONGS = [wrong for answers in ANSWERS for wrong in answers.wrongs]
CORRECTS = [correct for answers in ANSWERS for correct in answers.corrects]
every_check = pytest.mark.parametrize("check", checks.registry.values(), ids=list(checks.registry))


@every_check
def test_wrong_answer_is_named(check):
    """Both mistakes, where its author made two."""
    for _, function, mistake, _, words in [wrong for wrong in WRONGS if wrong.name == check.name]:
        verdict, detail = check.diagnose(function)
        assert verdict == "no" and all(word in detail for word in words), (mistake, detail)


def test_nearly_all_are_named():
    """Those without words are answered with the first place that differs."""
    plain = [wrong for wrong in WRONGS if not wrong.words]
    assert len(plain) <= 0.05 * len(WRONGS)
    for wrong in plain:
        detail = checks.registry[wrong.name].diagnose(wrong.function)[1]
        assert "expected" in detail or "should not be there" in detail, (wrong.mistake, detail)


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")  # an answer may yield float(loss)
@every_check
def test_correct_answer_is_accepted(check):
    for _, function, style in [correct for correct in CORRECTS if correct.name == check.name]:
        assert check.diagnose(function)[0] == "yes", style


def test_there_are_many():
    assert {wrong.name for wrong in WRONGS} == {correct.name for correct in CORRECTS} == set(checks.registry)
    assert len(WRONGS) >= 150 and len(CORRECTS) >= 60
    assert {"two", "gradient", "random", "brackets", "layout", "ignored-argument"} <= {wrong.kind for wrong in WRONGS}

"""What is said of a wrong answer: a listed mistake, else the second stage, else the first difference.

The second stage knows no exercise. It asks, from the simplest explanation to the least simple: are these the right
numbers with something done to them; two listed mistakes at once; right everywhere but in one place; an argument that
is ignored; an image that depends on another's; a small number that was added; one wrong factor; a listed mistake's
numbers with something done to them?
Everything it says was seen to hold on all inputs. What an exercise adds are its `tables`, `terms`, `places`, `clues`.
"""

from collections.abc import Callable

import torch

from ddpm_lesson.checks._alike import one_like, outcome_of, two_like
from ddpm_lesson.checks._arguments import other_arguments
from ddpm_lesson.checks._dependence import another_image, ignored_argument
from ddpm_lesson.checks._evidence import ENOUGH, Evidence
from ddpm_lesson.checks._factors import wrong_at_steps, wrong_factor
from ddpm_lesson.checks._places import only_wrong_at
from ddpm_lesson.checks._products import wrong_product, wrong_term
from ddpm_lesson.checks._run import Outcome
from ddpm_lesson.checks._small import small_number
from ddpm_lesson.checks._state import Modes
from ddpm_lesson.checks._transforms import changed

STRICT = False  # in tests: a stage that raises is an error of its own


def explain(check, function: Callable, modes: Modes, outcomes: list[Outcome], problems: list[str]) -> str:
    """The sentence about an answer with these problems, one for each input, "" where it is right."""
    if check.problems(check.run(function, modes)) != problems:
        return _random(check)
    if found := one_like(check, outcomes):
        return found[0].made[0].sentence
    at, problem = next((i, problem) for i, problem in enumerate(problems) if problem)
    plain = f"For {check.cases[at].words}: {problem}{'' if problem.endswith(('.', '?')) else '.'}"
    if not any(check.problems(outcomes, exact=False, zeros=False)):
        return _nearly(check, outcomes, plain)
    if check.steps:
        return _two(two_like(check, outcomes)) or plain
    if not _has_values(outcomes):
        return plain
    return _second_stage(check, function, modes, outcomes) or _hint(check, outcomes, problems, plain)


def _second_stage(check, function, modes, outcomes):
    names = ["out"] if check.returns is list else check.right[0].names
    evidences = [Evidence(check, function, modes, outcomes, name) for name in names]
    wrong = [evidence for evidence in evidences if evidence.wrong]
    if all(evidence.got[i] is None for evidence in wrong for i in evidence.wrong):
        return ""  # nothing wrong was returned: what was raised says more
    if not any(got is not None and got.isfinite().any() for evidence in wrong for got in evidence.got):
        return ""
    own = [evidence for evidence in evidences if evidence.output in check.outputs]
    if any(evidence in own for evidence in wrong):  # what the script adds, as a gradient, follows from them
        wrong, evidences = [evidence for evidence in wrong if evidence in own], own
    if check.returns is int:  # several pairs may give one number: what is missing or too many says more
        pairs, found = two_like(check, outcomes), _joined(evidences, wrong, [_clues, *SIMPLEST])
        if len(pairs) == 1 and found:
            return f"{_two(pairs)} In all: {found[0].lower()}{found[1:]}"
    else:
        found = _joined(evidences, wrong, SIMPLEST)
    if found:
        return found
    if words := _two(two_like(check, outcomes)):
        in_all = _joined(evidences, wrong, FACTORS)
        return f"{words} In all: {in_all[0].lower()}{in_all[1:]}" if in_all else words
    return _joined(evidences, wrong, [*SIMPLEST, *STAGES])


def _two(found):
    """Two listed mistakes at once. Of several pairs only what is said of each is certain."""
    if not found:
        return ""
    said = [[a.brief for a in wrong.made] for wrong in found]
    shared = [a for a in found[0].made if all(a.brief in briefs for briefs in said)]
    if len(shared) == 2:
        return f"Your numbers are those of two mistakes at once. {shared[0].brief} And: {shared[1].brief}"
    return f"Your numbers are those of two mistakes at once. One of them: {shared[0].brief}" if shared else ""


def _joined(evidences, wrong, stages):
    """What the first stage that knows says of each wrong output; "" if none knows anything of some."""
    found = []
    for evidence in wrong:
        words = next((words for stage in stages if (words := _asked(stage, evidence))), "")
        if not words:
            return ""
        found.append(words)
    right = [evidence.output for evidence in evidences if evidence not in wrong]
    start = f"Your {' and '.join(right)} {'are' if len(right) > 1 else 'is'} right. " if right else ""
    return start + " ".join(_without_repeats(wrong, found))


def _without_repeats(wrong, found):
    """What is said of several outputs in the same words is said once."""
    said: dict[str, list[str]] = {}
    for evidence, words in zip(wrong, found, strict=True):
        said.setdefault(words.replace(evidence.subject, "?"), []).append(evidence.output)
    for words, (first, *more) in said.items():
        subject = f"Your {first}" if len(wrong[0].check.outputs) > 1 else "Your result"
        yield words.replace("?", subject) + (
            f" The same holds for {' and '.join(more)}." if more and "?" in words else ""
        )


def _asked(stage, evidence):
    """What a stage says. An answer that breaks under its questions, or a question that does, tells nothing."""
    try:
        return stage(evidence)
    except Exception:
        if STRICT:
            raise
        return ""


def _constant(evidence):
    """The same number everywhere, which is not the right one everywhere: no argument's change explains that."""
    given = [got for got in evidence.got if got is not None]
    if evidence.check.returns is int or not all(got.is_floating_point() for got in given):
        return ""
    numbers = torch.cat([got.double().flatten() for got in given])
    if len(numbers) < ENOUGH or not numbers.isfinite().all() or (numbers != numbers[0]).any():
        return ""
    return f"{evidence.subject} is {numbers[0].item():.4g} everywhere, whatever the arguments."


def _of_the_right_one(evidence):
    words = changed(evidence, evidence.want)
    return words and f"{evidence.subject} {words}"


def _of_another_output(evidence):
    """The right numbers of another output."""
    for name in evidence.check.outputs:
        other = Evidence(evidence.check, evidence.function, evidence.modes, evidence.outcomes, name)
        if name != evidence.output and evidence.is_like(other.want):
            return f"{evidence.subject} is what {name} should be."
    return ""


def _listed(evidence):
    """A listed mistake that is made in this output, and in no other."""
    if len(evidence.check.outputs) == 1:
        return ""
    for wrong in evidence.check.singles:
        values = [outcome_of(evidence.check, wrong, i) for i in range(len(evidence.check.cases))]
        others = [name for name in evidence.check.outputs if name != evidence.output]
        if evidence.is_like([evidence.value(value) for value in values]) and all(
            Evidence(evidence.check, wrong.function, evidence.modes, values, name).wrong == [] for name in others
        ):
            return wrong.made[0].sentence
    return ""


def _in_one_place(evidence):
    words = only_wrong_at(evidence, evidence.want)
    return words and f"{evidence.subject} is right everywhere but {words}"


def _of_a_listed_one(evidence):
    for wrong in evidence.check.singles:
        values = _values(evidence, wrong)
        if all(v is None or v.shape != w.shape for v, w in zip(values, evidence.want, strict=True)):
            continue
        scaled = evidence.check.returns not in (int, list)
        if words := changed(evidence, values, scaled):
            right = Evidence(evidence.check, evidence.function, evidence.modes, evidence.check.right, evidence.output)
            if changed(right, values, scaled) == words:  # a mistake that is taken back, as twice the half is
                continue
            return f"{wrong.made[0].brief} And {evidence.subject[0].lower()}{evidence.subject[1:]}, seen so, {words}"
    return ""


def _clues(evidence):
    return next((words for clue in evidence.check.clues if (words := clue(evidence))), "")


SIMPLEST = (_constant, _of_the_right_one, _of_another_output, _listed, wrong_term, other_arguments)
FACTORS = (wrong_factor, wrong_at_steps, wrong_product)
STAGES = (
    ignored_argument,
    another_image,
    small_number,
    _clues,
    *FACTORS,
    _in_one_place,
    _of_a_listed_one,
)


def _values(evidence, wrong):
    return [evidence.value(outcome_of(evidence.check, wrong, i)) for i in range(len(evidence.check.cases))]


def _has_values(outcomes):
    return any(not outcome.trouble and outcome.values for outcome in outcomes)


def _random(check):
    if check.random:
        return (
            f"Two calls with the same input gave two results. The randomness comes in as {check.random}: draw nothing."
        )
    return "Two calls with the same input gave two results. Randomness does not belong here: the result is determined."


def _nearly(check, outcomes, plain):
    """The values are right up to float32's rounding: a 0 that is none, or a dtype."""
    for name in check.exact_zeros:
        for outcome, right in zip(outcomes, check.right, strict=True):
            got, want = (dict(zip(o.names, o.values, strict=True)).get(name) for o in (outcome, right))
            if got is not None and (odd := (want == 0) & (got != 0)).any():
                value = got[odd][0].item()
                words = f"Your {name} must be exactly 0 where it is 0, and yours is {value:.3g}."
                return f"{words} Something keeps it away: a clamp?"
    return plain


def _hint(check, outcomes, problems, plain):
    """The first difference, and how many inputs it does not concern."""
    right = sum(not problem for problem in problems)
    drew = any(outcome.drew for outcome in outcomes) and not check.random
    words = " Your function draws random numbers, and none belong here." if drew else ""
    if right > len(problems) / 2:
        return f"{right} of {len(problems)} inputs come out right. {plain}{words}"
    return plain + words

from fractions import Fraction

import numpy as np
import pytest
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm_lesson import schedules, spacing
from ddpm_lesson.process import GaussianDiffusion

T_AND_S = st.integers(1, 4000).flatmap(lambda T: st.tuples(st.just(T), st.integers(1, T)))


def diffusers_steps(name, S, T=1000):
    scheduler = DDIMScheduler(num_train_timesteps=T, timestep_spacing=name)
    scheduler.set_timesteps(S)
    return scheduler.timesteps.flip(0).tolist()


def is_a_choice(steps, T):
    return all(a < b for a, b in zip(steps, steps[1:], strict=False)) and 0 <= steps[0] and steps[-1] < T


def has_ties(start, stride, S):
    """Whether start + i * stride falls exactly between two integers for some i < S: there rounding is a convention."""
    return any((start + i * stride) % 1 == Fraction(1, 2) for i in range(S))


@settings(deadline=None)
@given(T_AND_S)
def test_leading_has_S_steps_from_0(T_and_S):
    T, S = T_and_S
    steps = spacing.leading(T, S)
    assert len(steps) == S and steps[0] == 0 and is_a_choice(steps, T)


@settings(deadline=None)
@given(T_AND_S)
def test_trailing_has_S_steps_up_to_the_last(T_and_S):
    T, S = T_and_S
    steps = spacing.trailing(T, S)
    assert len(steps) == S and steps[-1] == T - 1 and is_a_choice(steps, T)
    assert all(abs(step + 1 - Fraction(T * i, S)) <= Fraction(1, 2) for i, step in enumerate(steps, start=1))


@settings(deadline=None)
@given(T_AND_S.filter(lambda T_and_S: T_and_S[1] > 1))
def test_linspace_has_S_steps_with_both_ends(T_and_S):
    T, S = T_and_S
    steps = spacing.linspace(T, S)
    assert len(steps) == S and steps[0] == 0 and steps[-1] == T - 1 and is_a_choice(steps, T)
    assert all(abs(step - Fraction(i * (T - 1), S - 1)) <= Fraction(1, 2) for i, step in enumerate(steps))


@settings(deadline=None)
@given(T_AND_S)
def test_quadratic_increases_and_has_at_most_S_steps(T_and_S):
    T, S = T_and_S
    steps = spacing.quadratic(T, S)
    assert len(steps) <= S and is_a_choice(steps, T)


@pytest.mark.parametrize("name", ["leading", "trailing", "linspace", "quadratic", "ddim"])
def test_all_steps_of_a_short_chain(name):
    every = list(range(12))
    assert spacing.SPACINGS[name](12, 12) == (every if name != "quadratic" else [0, 1, 2, 3, 5, 6, 7, 9])


def test_small_cases_by_hand():
    assert spacing.leading(10, 3) == [0, 3, 6]
    assert spacing.trailing(10, 3) == [2, 6, 9]
    assert spacing.linspace(10, 3) == [0, 4, 9]  # the middle lies at 4.5; ties go to the even number
    assert spacing.trailing(1000, 4) == [249, 499, 749, 999]
    assert spacing.trailing(1000, 1) == [999]


# diffusers' three conventions.


def test_leading_is_that_of_diffusers():
    assert [S for S in range(1, 1001) if spacing.leading(1000, S) != diffusers_steps("leading", S)] == []


@pytest.mark.parametrize("S", [1, 2, 4, 5, 8, 10, 20, 25, 40, 50, 100, 125, 200, 250, 500, 1000, 3, 7, 30, 150, 300])
def test_trailing_is_that_of_diffusers(S):
    assert not has_ties(Fraction(0), Fraction(1000, S), S)
    assert spacing.trailing(1000, S) == diffusers_steps("trailing", S)


@pytest.mark.parametrize("S", [2, 4, 8, 10, 20, 50, 100, 200, 250, 500, 1000])
def test_linspace_is_that_of_diffusers(S):
    assert not has_ties(Fraction(0), Fraction(999, S - 1), S)
    assert spacing.linspace(1000, S) == diffusers_steps("linspace", S)


def test_linspace_differs_from_diffusers_at_halves_only_and_by_one():
    differ = []
    for S in range(2, 1001):
        pairs = list(enumerate(zip(spacing.linspace(1000, S), diffusers_steps("linspace", S), strict=True)))
        apart = [i for i, (ours, theirs) in pairs if ours != theirs]
        assert all((i * Fraction(999, S - 1)) % 1 == Fraction(1, 2) for i in apart)
        assert all(abs(ours - theirs) <= 1 for _, (ours, theirs) in pairs)
        differ += [S] if apart else []
    assert differ[0] == 27 and len(differ) == 92


# What published code gets wrong, and what the choices mean.


def test_leading_keeps_its_promise_where_published_code_gives_334_steps():
    assert len(range(0, 1000, 1000 // 300)) == 334
    assert len(spacing.leading(1000, 300)) == 300


def test_trailing_keeps_its_promise_where_an_accumulated_float_stride_adds_a_step():
    theirs = diffusers_steps("trailing", 61)
    assert len(theirs) == 62 and theirs[0] == -1
    assert len(spacing.trailing(1000, 61)) == 61


def test_ten_leading_steps_begin_at_900_and_ten_trailing_ones_at_999():
    assert spacing.leading(1000, 10)[-1] == 900
    assert spacing.trailing(1000, 10)[-1] == 999


@pytest.mark.parametrize("S", [10, 50, 100, 500])
def test_quadratic_is_the_grid_of_the_ddim_code(S):
    """Their list repeats small indices; a repeated step moves nothing."""
    theirs = [int(s) for s in np.linspace(0, np.sqrt(1000 * 0.8), S) ** 2]
    assert spacing.quadratic(1000, S) == sorted(set(theirs))


def test_quadratic_steps_grow():
    assert spacing.quadratic(1000, 5) == [0, 50, 200, 450, 800]


def test_quadratic_ends_at_four_fifths():
    assert [T for T in range(5, 4001) if spacing.quadratic(T, 5)[-1] != 4 * T // 5] == []


@pytest.mark.parametrize(
    "T, S, expected",
    [
        (1000, 25, list(range(0, 1000, 40))),
        (1000, 10, list(range(0, 1000, 100))),
        (1000, 500, list(range(0, 1000, 2))),
        (10, 4, [0, 3, 6, 9]),
        (10, 3, [0, 4, 8]),
        (7, 1, [0]),
    ],
)
def test_ddim_takes_the_smallest_whole_stride(T, S, expected):
    assert spacing.ddim(T, S) == expected


@pytest.mark.parametrize("T, S", [(1000, 300), (10, 6)])
def test_ddim_says_so_where_no_whole_stride_fits(T, S):
    with pytest.raises(ValueError, match=f"no whole stride through {T} steps visits exactly {S}"):
        spacing.ddim(T, S)


@pytest.mark.parametrize(
    "T, counts, expected",
    [
        (10, [2, 3], [0, 4, 5, 7, 9]),
        (10, [1, 1, 1], [0, 4, 7]),  # sections of 4, 3 and 3 steps
        (10, [4], [0, 3, 6, 9]),
        (6, [3, 1], [0, 1, 2, 3]),
        (300, [2, 3, 4], [0, 99, 100, 150, 199, 200, 233, 266, 299]),  # 149.5 and 1.5 go to the even offset
    ],
)
def test_sections_by_hand(T, counts, expected):
    assert spacing.sections(T, counts) == expected


@settings(deadline=None)
@given(st.integers(1, 500), st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_sections_hold_the_counts_that_were_asked_for(T, counts):
    edges = np.cumsum([0] + [T // len(counts) + (k < T % len(counts)) for k in range(len(counts))])
    if any(count > size for count, size in zip(counts, np.diff(edges), strict=True)):
        with pytest.raises(ValueError, match=r"section \d holds \d+ steps, cannot choose \d+"):
            spacing.sections(T, counts)
    else:
        steps = spacing.sections(T, counts)
        assert is_a_choice(steps, T)
        assert np.histogram(steps, edges)[0].tolist()[:-1] == counts[:-1] and len(steps) == sum(counts)


def improved_ddpms(T, counts):
    """space_timesteps of Improved DDPM, by numpy: within a section the stride is summed up in float64, then rounded."""
    steps, starts = [], np.cumsum([0] + [T // len(counts) + (k < T % len(counts)) for k in range(len(counts))])
    for start, end, count in zip(starts, starts[1:], counts, strict=False):
        strides = np.full(count, (end - start - 1) / max(count - 1, 1))
        strides[0] = 0
        steps += (start + np.rint(np.cumsum(strides))).astype(int).tolist()
    return steps


def test_sections_are_improved_ddpms_for_every_single_count():
    assert [S for S in range(1, 1001) if spacing.sections(1000, [S]) != improved_ddpms(1000, [S])] == []
    evenly = {S: [round(i * 999 / (S - 1)) for i in range(S)] for S in range(2, 1001)}
    assert sum(spacing.sections(1000, [S]) != steps for S, steps in evenly.items()) > 200  # the test sees the halves


@pytest.mark.parametrize(
    "T, counts",
    [(300, [10, 15, 20]), (1000, [10, 15, 20]), (1000, [1, 2, 3, 4, 5]), (4000, [27] * 7), (999, [200, 50]), (7, [1])],
)
def test_sections_are_improved_ddpms_for_several_counts(T, counts):
    assert spacing.sections(T, counts) == improved_ddpms(T, counts)


def test_the_example_of_improved_ddpms_code():
    """The stride 99 / 14 seven times is 49.5 exactly, but their sum of floats lies below it and is rounded down."""
    assert Fraction(99, 14) * 7 == Fraction(99, 2) and round(99 / 14 * 7) == 50
    assert spacing.sections(300, [10, 15, 20])[17] == 149


# The front door.


@pytest.mark.parametrize(
    "text, expected",
    [
        ("leading10", spacing.leading(1000, 10)),
        ("trailing50", spacing.trailing(1000, 50)),
        ("linspace7", spacing.linspace(1000, 7)),
        ("quadratic20", spacing.quadratic(1000, 20)),
        ("ddim25", spacing.ddim(1000, 25)),
        ("10,15,20", spacing.sections(1000, [10, 15, 20])),
        ("8", spacing.sections(1000, [8])),
    ],
)
def test_named_choices(text, expected):
    assert spacing.named(text, 1000) == expected


@pytest.mark.parametrize("text", ["uniform10", "trailing", "10,", "", "ddim-5", "trailing 10"])
def test_an_unknown_choice_lists_the_forms(text):
    forms = "leadingN, trailingN, linspaceN, quadraticN, ddimN, log_snrN, karrasN with a number N, or counts like"
    with pytest.raises(ValueError, match=f"unknown step choice '{text}'; expected {forms}"):
        spacing.named(text, 1000)


@pytest.mark.parametrize("name", ["leading", "trailing", "linspace", "quadratic", "ddim"])
@pytest.mark.parametrize("S", [0, -1, 11])
def test_S_must_lie_between_1_and_T(name, S):
    with pytest.raises(ValueError, match=rf"number of steps S must lie in 1\.\.10, got {S}"):
        spacing.SPACINGS[name](10, S)


def test_linspace_needs_two_steps():
    with pytest.raises(ValueError, match="needs S >= 2, got 1; use trailing"):
        spacing.linspace(10, 1)


@pytest.mark.parametrize(
    "counts, message",
    [
        ([], "at least one section, got none"),
        ([6, 5], "section 0 holds 5 steps, cannot choose 6"),
        ([5, 0], "section 1 holds 5 steps, cannot choose 0"),
        ([1] * 11, "section 10 holds 0 steps, cannot choose 1"),
    ],
)
def test_sections_must_hold_what_is_asked_for(counts, message):
    with pytest.raises(ValueError, match=message):
        spacing.sections(10, counts)


# By level instead of by t.


@pytest.mark.parametrize("S", [2, 5, 20, 60])
@pytest.mark.parametrize("schedule", [schedules.linear, schedules.cosine])
def test_log_snr_steps_are_the_nearest_to_an_even_grid(schedule, S):
    snr = GaussianDiffusion(schedule(1000)).snr
    half = (0.5 * snr.log()).tolist()
    grid = [half[0] + (half[-1] - half[0]) * k / (S - 1) for k in range(S)]
    nearest = {min(range(1000), key=lambda t: abs(half[t] - wanted)) for wanted in grid}
    steps = spacing.log_snr(snr, S)
    assert steps == sorted(nearest) and steps[0] == 0 and steps[-1] == 999 and len(steps) <= S


@pytest.mark.parametrize("S", [2, 5, 20])
@pytest.mark.parametrize("rho", [7.0, 2.5])
def test_karras_steps_are_the_nearest_to_edms(S, rho):
    # EDM Eq. 5: (sigma_max^(1/rho) + k / (S - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho.
    snr = GaussianDiffusion(schedules.linear(1000)).snr
    sigma = [value**-0.5 for value in snr.tolist()]
    low, high = sigma[0] ** (1 / rho), sigma[-1] ** (1 / rho)
    grid = [(high + k / (S - 1) * (low - high)) ** rho for k in range(S)]
    assert spacing.karras(snr, S, rho) == sorted(
        {min(range(1000), key=lambda t: abs(sigma[t] - want)) for want in grid}
    )


def test_where_karras_steps_lie_depends_on_the_schedule():
    # What notebook 4 and the docstring say: EDM's choice has small sigmas in mind, the cosine schedule has huge ones.
    def clean(steps, snr):
        return sum(snr[t] > 1 for t in steps)

    snr = GaussianDiffusion(schedules.linear(1000)).snr
    for S in (10, 20, 50):
        assert clean(spacing.karras(snr, S), snr) > clean(spacing.trailing(1000, S), snr)
    snr = GaussianDiffusion(schedules.cosine(1000)).snr
    for S in (10, 20, 50):
        assert clean(spacing.karras(snr, S), snr) < clean(spacing.trailing(1000, S), snr)
    ten = spacing.karras(snr, 10)
    assert len(ten) == 7 and sum(t >= 895 for t in ten) == 5 and len(spacing.log_snr(snr, 10)) == 9


@pytest.mark.parametrize("choose", [spacing.log_snr, spacing.karras])
def test_steps_by_level_begin_in_pure_noise_where_there_is_some(choose):
    snr = GaussianDiffusion(schedules.zero_terminal_snr(schedules.linear(1000))).snr
    assert choose(snr, 10) == [*choose(snr[:-1], 9), 999]


@pytest.mark.parametrize("choose", [spacing.log_snr, spacing.karras])
def test_steps_by_level_that_end_in_pure_noise_count_the_step_of_noise(choose):
    snr = GaussianDiffusion(schedules.zero_terminal_snr(schedules.linear(100))).snr
    assert choose(snr, 2) == [0, 99] and choose(snr, 3) == [0, 98, 99]
    with pytest.raises(ValueError, match="needs S >= 2, got 1; use trailing"):
        choose(snr, 1)
    for S in (0, 101):
        with pytest.raises(ValueError, match=rf"number of steps S must lie in 1\.\.100, got {S}"):
            choose(snr, S)


@pytest.mark.parametrize("choose", [spacing.log_snr, spacing.karras])
def test_steps_by_level_hold_both_ends_and_need_the_levels(choose):
    snr = GaussianDiffusion(schedules.linear(10)).snr
    with pytest.raises(ValueError, match="needs S >= 2, got 1; use trailing"):
        choose(snr, 1)
    with pytest.raises(ValueError, match=r"number of steps S must lie in 1\.\.10, got 11"):
        choose(snr, 11)
    name = f"{choose.__name__}5"
    assert spacing.named(name, 10, snr) == choose(snr, 5)
    with pytest.raises(ValueError, match=f"{name} goes by the process's signal-to-noise ratios: give snr, got none"):
        spacing.named(name, 10)

"""Samplers of t: their distribution, that their weights keep the mean, and what they do to the variance."""

import math

import pytest
import torch

from ddpm_lesson.timesteps import Antithetic, LossSecondMoment, Uniform

T = 8
LOSSES = 2.0 ** -torch.arange(T, dtype=torch.float64)  # E|loss| of each t, falling by halves


def warmed(history=10, **options):
    """LossSecondMoment that has seen LOSSES, `history` times each."""
    sampler = LossSecondMoment(T, history=history, **options)
    for _ in range(history):
        sampler.update(torch.arange(T), LOSSES)
    return sampler


every_sampler = pytest.mark.parametrize(
    "make", [lambda: Uniform(T), lambda: Antithetic(T), lambda: LossSecondMoment(T), warmed]
)


def draw(sampler, n, seed=0):
    return sampler.sample(n, generator=torch.Generator().manual_seed(seed))


@every_sampler
def test_weighted_mean_is_the_uniform_mean(make):
    # The draws are independent, or negatively correlated in pairs, so this standard error is an upper bound.
    n = 20_000
    t, weights = draw(make(), n)
    weighted = weights * LOSSES[t]
    assert abs(weighted.mean() - LOSSES.mean()) < 4 * weighted.std() / n**0.5 + 1e-12
    assert abs(weights.mean() - 1) < 4 * weights.std() / n**0.5 + 1e-12


@every_sampler
def test_every_t_comes_as_often_as_its_weight_says(make):
    # Weights are 1 / (T p_t): t was drawn with probability 1 / (T weight), binomial within 5 standard errors.
    n = 40_000
    t, weights = draw(make(), n)
    for step in range(T):
        p = 1 / (T * weights[t == step])
        assert p.max() - p.min() < 1e-6
        assert abs((t == step).float().mean() - p[0]) < 5 * (p[0] / n) ** 0.5


@every_sampler
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_shapes_and_types(make, batch_size, device):
    t, weights = make().sample(batch_size, device=device)
    assert t.shape == weights.shape == (batch_size,)
    assert (t.dtype, weights.dtype) == (torch.int64, torch.float32)
    assert t.device.type == weights.device.type == device.type


@every_sampler
def test_seed_repeats_and_leaves_the_global_generator_alone(make):
    before = torch.get_rng_state()
    a, b, other = draw(make(), 50), draw(make(), 50), draw(make(), 50, seed=1)
    assert torch.equal(a[0], b[0]) and not torch.equal(a[0], other[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_uniform_draws_as_the_trainer_does():
    t, weights = draw(Uniform(1000), 64)
    assert torch.equal(t, torch.randint(1000, (64,), generator=torch.Generator().manual_seed(0)))
    assert torch.equal(weights, torch.ones(64))


@pytest.mark.parametrize("batch_size", [6, 7])
def test_antithetic_draws_come_in_pairs(batch_size):
    t, _ = draw(Antithetic(1000), batch_size)
    pairs = t[:6].view(3, 2)
    assert (pairs.sum(1) == 999).all()
    assert len(pairs[:, 0].unique()) == 3


def test_antithetic_means_of_a_monotone_loss_vary_less():
    # Exactly, over all t: the variance of (f(t) + f(T-1-t)) / 2 against that of a mean of two independent draws.
    pair = ((LOSSES + LOSSES.flip(0)) / 2).var(correction=0).item()
    independent = LOSSES.var(correction=0).item() / 2
    assert pair < 0.7 * independent
    # And as drawn: 4,000 pairs each; a sample variance has a relative standard error below 0.05 here.
    measured = [LOSSES[draw(kind(T), 8000)[0]].view(-1, 2).mean(1).var().item() for kind in (Antithetic, Uniform)]
    assert measured[0] == pytest.approx(pair, rel=0.2)
    assert measured[1] == pytest.approx(independent, rel=0.2)


# LossSecondMoment.


def test_uniform_until_every_t_has_its_history():
    sampler = LossSecondMoment(3, history=2)
    seen = torch.tensor([0, 0, 1, 1, 1, 2])
    sampler.update(seen, torch.tensor([4.0, 4.0, 1.0, 1.0, 1.0, 1.0]))
    assert sampler.probabilities().tolist() == [1 / 3] * 3
    assert torch.equal(draw(sampler, 50)[1], torch.ones(50))
    sampler.update(torch.tensor([2]), torch.tensor([1.0]))
    assert sampler.probabilities()[0] > 0.6


def test_probabilities_by_hand():
    # sqrt(mean of squares): of 3 and 4, sqrt(12.5); of 0 and 0, 0. Then 0.1 of the probability is spread evenly.
    sampler = LossSecondMoment(3, history=2, uniform_prob=0.1)
    sampler.update(torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([3.0, 1.0, 0.0, 4.0, 1.0, 0.0]))
    root = [12.5**0.5, 1, 0]
    assert sampler.probabilities().tolist() == pytest.approx([0.9 * r / sum(root) + 0.1 / 3 for r in root])


def test_oldest_losses_are_forgotten():
    sampler = LossSecondMoment(2, history=3)
    for loss in (100.0, 100.0, 100.0, 1.0, 2.0):
        sampler.update(torch.tensor([0, 1]), torch.tensor([loss, 1.0]))
    assert sorted(sampler.losses[0].tolist()) == [1, 2, 100]
    sampler.update(torch.tensor([0]), torch.tensor([2.0]))
    assert sorted(sampler.losses[0].tolist()) == [1, 2, 2]


def test_importance_sampling_lowers_the_variance_to_what_theory_says():
    # Var of L_t / (T p_t): with p_t proportional to L_t it would be 0; the uniform share keeps it near 0.
    p = warmed().probabilities()
    var = (p * (LOSSES / (T * p)) ** 2).sum() - LOSSES.mean() ** 2
    assert 0 < var < 0.01 * LOSSES.var(correction=0)
    t, weights = draw(warmed(), 10_000)
    assert (weights * LOSSES[t]).var() < 0.01 * LOSSES.var()


def test_no_t_is_forgotten():
    sampler = LossSecondMoment(2, history=1)
    sampler.update(torch.tensor([0, 1]), torch.tensor([1.0, 0.0]))
    assert sampler.probabilities()[1].item() == pytest.approx(0.001 / 2)
    # All losses 0: nothing to go by, so uniform, not 0 / 0.
    sampler.update(torch.tensor([0]), torch.tensor([0.0]))
    assert sampler.probabilities().tolist() == [0.5, 0.5]


def test_state_dict_resumes_exactly():
    first = warmed()
    first.update(torch.tensor([3]), torch.tensor([7.0]))
    second = LossSecondMoment(T)
    second.load_state_dict(first.state_dict())
    for sampler in (first, second):  # the next loss has to overwrite the same, the oldest one
        sampler.update(torch.tensor([3, 3]), torch.tensor([5.0, 6.0]))
    assert torch.equal(first.losses, second.losses) and torch.equal(first.counts, second.counts)
    assert all(torch.equal(a, b) for a, b in zip(draw(first, 20), draw(second, 20), strict=True))
    assert not Uniform(T).state_dict() and not Antithetic(T).state_dict()


def test_state_of_another_T_is_an_error():
    with pytest.raises(RuntimeError, match="size mismatch for losses"):
        LossSecondMoment(T + 1).load_state_dict(LossSecondMoment(T).state_dict())


@pytest.mark.parametrize("kind", [Uniform, Antithetic])
def test_updates_change_nothing_where_losses_do_not_count(kind):
    sampler = kind(T)
    expected = draw(sampler, 20)
    sampler.update(torch.arange(T), 100 * LOSSES)
    assert all(torch.equal(a, b) for a, b in zip(draw(sampler, 20), expected, strict=True))


@pytest.mark.parametrize("kind", [Uniform, Antithetic, LossSecondMoment])
def test_a_chain_without_steps_is_an_error(kind):
    with pytest.raises(ValueError, match="T must be positive, got 0"):
        kind(0)


@every_sampler
@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_without_images_is_an_error(make, batch_size):
    with pytest.raises(ValueError, match=f"batch_size must be positive, got {batch_size}"):
        make().sample(batch_size)


@pytest.mark.parametrize("uniform_prob", [0, -0.1, 1.5, math.nan])
def test_share_outside_of_its_range_is_an_error(uniform_prob):
    with pytest.raises(ValueError, match=r"uniform_prob must lie in \(0, 1\], got"):
        LossSecondMoment(T, uniform_prob=uniform_prob)


def test_no_history_is_an_error():
    with pytest.raises(ValueError, match="history must be positive, got 0"):
        LossSecondMoment(T, history=0)


@pytest.mark.parametrize("losses", [[1.0], [1.0, math.nan], [math.inf, 1.0], [[1.0, 1.0]]])
def test_losses_that_cannot_be_remembered_are_an_error(losses):
    sampler = LossSecondMoment(T)
    with pytest.raises(ValueError, match=r"losses must be finite and of t's shape \(2,\), got"):
        sampler.update(torch.tensor([0, 1]), torch.tensor(losses))
    assert sampler.counts.sum() == 0

"""The exact denoiser of a finite data set, and oracles that know classes."""

import pytest
import torch

from ddpm_lesson import oracle
from ddpm_lesson.data import digits
from ddpm_lesson.denoisers import clipped, make_denoiser
from ddpm_lesson.predictions import MEAN_TYPES, epsilon, fixedsmall
from ddpm_lesson.process import GaussianDiffusion
from ddpm_lesson.samplers import ancestral, ddim, last, reverse
from ddpm_lesson.schedules import jsd, linear

BASE = GaussianDiffusion(linear(10, 0.05, 0.6))
T1000 = GaussianDiffusion(linear(1000))


def points(n=30, shape=(2, 3), dtype=torch.float64):
    return torch.randn(n, *shape, dtype=dtype, generator=torch.Generator().manual_seed(5))


def noised(base, data, n=40):
    t = torch.randint(base.T, (n,))
    x_0 = data[torch.randint(len(data), (n,))]
    return base.q_sample(x_0, t, torch.randn_like(x_0)), t


def test_bayes_rule_by_hand():
    # Two points at -1 and 1 on the line: E[x_0 | x_t] = tanh(sqrt(a) x_t / (1 - a)).
    data = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    x_t, t = torch.linspace(-2, 2, 10, dtype=torch.float64)[:, None], torch.arange(10)
    a = torch.cumprod(1 - linear(10, 0.05, 0.6), 0)[:, None]
    expected = torch.tanh(a.sqrt() * x_t / (1 - a))
    torch.testing.assert_close(oracle.Empirical(BASE, data)(x_t, t).x_0, expected)


@pytest.mark.parametrize("name", MEAN_TYPES)
def test_any_mean_type(name):
    truth = oracle.Empirical(BASE, points())
    x_t, t = noised(BASE, points())
    decoded = make_denoiser(truth.as_model(MEAN_TYPES[name]), BASE, MEAN_TYPES[name])(x_t, t)
    torch.testing.assert_close(decoded, truth(x_t, t), rtol=0, atol=1e-10)


def test_first_step_finds_the_nearest_point_without_overflow():
    # 1 - a = 1e-4: log weights differ by thousands, and the answer is the point that was noised.
    x_0, _ = digits()[:]
    truth, t = oracle.Empirical(T1000, x_0), torch.zeros(50, dtype=torch.int64)
    x_t = T1000.q_sample(x_0[:50], t, torch.randn(50, 1, 8, 8))
    prediction = truth(x_t, t)
    torch.testing.assert_close(prediction.x_0, x_0[:50], rtol=0, atol=1e-6)
    assert prediction.eps.isfinite().all() and truth.log_prob(x_t, t).isfinite().all()
    # A point far from all data, where every density underflows, still has an answer: its nearest point.
    far = truth(torch.full((1, 1, 8, 8), 50.0), t[:1])
    nearest = ((x_0 - 50) ** 2).flatten(1).sum(1).argmin()
    torch.testing.assert_close(far.x_0[0], x_0[nearest], rtol=0, atol=1e-6)


def test_float32_answers_follow_float64_at_the_first_steps():
    # The weights come from float64 distances of the float32 x_t; what is left is the rounding of x_0 and of eps.
    x_0, _ = digits()[:200]
    truth, t = oracle.Empirical(T1000, x_0), torch.arange(0, 100, 10)
    x_t = T1000.q_sample(x_0[:10], t, torch.randn(10, 1, 8, 8))
    single, double = truth(x_t, t), truth(x_t.double(), t)
    assert single.x_0.dtype == single.eps.dtype == torch.float32
    torch.testing.assert_close(single.x_0.double(), double.x_0, rtol=0, atol=1e-6)
    torch.testing.assert_close(single.eps.double(), double.eps, rtol=0, atol=1e-6)


def test_where_no_signal_is_left_the_answer_is_the_mean_of_the_data():
    data = points()
    prediction = oracle.Empirical(GaussianDiffusion(jsd(10)), data)(3 * points(4), torch.full((4,), 9))
    torch.testing.assert_close(prediction.x_0, data.mean(0).expand(4, 2, 3))


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_it_samples_nothing_but_its_points(sampler):
    # The last step's answer is E[x_0 | x_1], at 1 - a = 1e-4 a single point for data that lie apart.
    data = points(20, (4,)).clamp(-1, 1)
    truth = clipped(oracle.Empirical(T1000, data), T1000)
    chain = T1000.respaced(range(0, 1000, 10))
    x_T = torch.randn(60, 4, dtype=torch.float64)
    states = (
        ancestral(chain, reverse(chain, truth, fixedsmall), x_T) if sampler == "ancestral" else ddim(chain, truth, x_T)
    )
    distance, nearest = torch.cdist(last(states), data).min(1)
    assert distance.max() < 1e-3
    assert len(nearest.unique()) > 10  # all 20 as likely: fewer than 11 of them in 60 draws has probability below 1e-4


@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches(batch):
    x_t, t = points(batch), torch.zeros(batch, dtype=torch.int64)
    truth = oracle.Empirical(BASE, points(), labels=torch.arange(30) % 3)
    assert truth(x_t, t).x_0.shape == truth(x_t, t).eps.shape == (batch, 2, 3)
    assert truth.classifier(x_t, t).shape == (batch, 3) and truth.log_prob(x_t, t).shape == (batch,)


def test_points_of_another_shape_than_x_t_are_an_error():
    with pytest.raises(ValueError, match=r"x_t must be \(B, \*\(2, 3\)\), got \(4, 6\)"):
        oracle.Empirical(BASE, points())(torch.zeros(4, 6), torch.zeros(4, dtype=torch.int64))


def test_no_points_are_an_error():
    with pytest.raises(ValueError, match=r"with K >= 1, got \(0,\), \(0, 2, 3\)"):
        oracle.Empirical(BASE, points(0))


# Classes.


def labelled():
    return oracle.Empirical(BASE, points(30, (2,)), labels=torch.arange(30) % 3)


def queries(n=12):
    return torch.randn(n, 2, dtype=torch.float64), torch.arange(n) % 10


def test_classifier_gradient_leads_from_one_score_to_the_other():
    # grad log p(y | x_t) = score given y - score without y: what guidance rests on.
    truth, (x_t, t) = labelled(), queries()
    x_t.requires_grad_()
    for y in range(3):
        (gradient,) = torch.autograd.grad(truth.classifier(x_t, t)[:, y].sum(), x_t)
        difference = truth.conditional(y).score(x_t, t) - truth.score(x_t, t)
        torch.testing.assert_close(gradient, difference.detach(), rtol=1e-9, atol=1e-9)


def test_classes_of_a_data_set():
    x_0, y = digits()[:]
    truth = oracle.Empirical(T1000, x_0, labels=y)
    t = torch.full((20,), 200)
    x_t = T1000.q_sample(x_0[:20], t, torch.randn(20, 1, 8, 8))
    torch.testing.assert_close(
        truth.conditional(3)(x_t, t), oracle.Empirical(T1000, x_0[y == 3])(x_t, t), rtol=0, atol=1e-5
    )
    assert (truth.classifier(x_t, t).argmax(1) == y[:20]).float().mean() > 0.9  # a = 0.66: digits are still legible


def test_it_can_be_called_like_a_class_conditional_network():
    truth, (x_t, t), y = labelled(), queries(), torch.arange(12) % 3
    free = make_denoiser(truth.as_model(epsilon), BASE, epsilon)(x_t, t)
    torch.testing.assert_close(free, truth(x_t, t))
    conditional = make_denoiser(truth.as_model(epsilon), BASE, epsilon, y=y)(x_t, t)
    torch.testing.assert_close(conditional, truth.conditional(y)(x_t, t))
    assert not torch.allclose(conditional.x_0, free.x_0)


def test_classes_of_another_batch_are_an_error():
    with pytest.raises(ValueError, match="expected a class for each x_t, got 3 for a batch of 12"):
        labelled().conditional(torch.tensor([0, 1, 2]))(*queries())

"""Guidance by a classifier, against a mixture whose classifier is known, and guided-diffusion's formulas."""

import pytest
import torch

from ddpm_lesson import GaussianDiffusion, load_pretrained, oracle, samplers, spacing
from ddpm_lesson.denoisers import clipped
from ddpm_lesson.predictions import fixedlarge, fixedsmall, learned_range
from ddpm_lesson.samplers import last, reverse
from ddpm_lesson.schedules import linear, zero_terminal_snr
from ddpm_lesson.variants.classifier_guidance import classifier_guided, log_prob_gradient, mean_shifted

PROCESS = GaussianDiffusion(linear(1000))
MIXTURE = oracle.Mixture(
    PROCESS,
    torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64),
    torch.tensor([[-1.0, 0.0], [0.5, 0.5], [0.5, -1.0]], dtype=torch.float64),
    torch.tensor([0.3, 0.1, 0.4], dtype=torch.float64),
    labels=torch.tensor([0, 1, 0]),
)


def points(n=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, dtype=torch.float64, generator=generator), torch.arange(n) % 2


@pytest.mark.parametrize("t", [0, 1, 20, 400, 999])
def test_at_scale_1_it_is_the_denoiser_of_the_class(t):
    x_t, y = points()
    found, exact = classifier_guided(MIXTURE, PROCESS, MIXTURE.classifier, y)(x_t, t), MIXTURE.conditional(y)(x_t, t)
    torch.testing.assert_close(found.eps, exact.eps, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.x_0, exact.x_0, rtol=0, atol=1e-10)


@pytest.mark.parametrize("sampler", [samplers.ddim, samplers.dpmpp_2m, samplers.heun])
def test_whole_chains_are_those_of_the_class(sampler):
    x_T, y = points()
    chain = PROCESS.respaced(spacing.trailing(1000, 20))
    guided = classifier_guided(MIXTURE, PROCESS, MIXTURE.classifier, y)
    exact = last(sampler(chain, MIXTURE.conditional(y), x_T))
    torch.testing.assert_close(last(sampler(chain, guided, x_T)), exact, rtol=0, atol=1e-10)


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.5, 3.0])
def test_score_is_that_of_the_product_of_densities(scale):
    x_t, y = points()
    t = torch.arange(40) * 25
    x = x_t.clone().requires_grad_(True)
    log_p = MIXTURE.log_prob(x, t) + scale * (MIXTURE.classifier(x, t)[range(40), y])
    (score,) = torch.autograd.grad(log_p.sum(), x)
    eps = classifier_guided(MIXTURE, PROCESS, MIXTURE.classifier, y, scale)(x_t, t).eps
    std = (1 - PROCESS.alphas_bar[t]).sqrt()[:, None]
    torch.testing.assert_close(-eps / std, score, rtol=1e-9, atol=1e-9)


def test_gradient_is_that_of_finite_differences():
    x_t, y = points(6)
    gradient, h = log_prob_gradient(MIXTURE.classifier, x_t, 200, y), 1e-5
    for axis in range(2):
        d = torch.zeros_like(x_t)
        d[:, axis] = h
        up, down = (MIXTURE.classifier(x_t + k * d, 200)[range(6), y] for k in (1, -1))
        torch.testing.assert_close(gradient[:, axis], (up - down) / (2 * h), rtol=1e-6, atol=1e-8)


def test_an_images_gradient_does_not_depend_on_the_batch():
    x_t, y = points()
    together = log_prob_gradient(MIXTURE.classifier, x_t, 200, y)
    alone = torch.cat([log_prob_gradient(MIXTURE.classifier, x_t[b : b + 1], 200, y[b : b + 1]) for b in range(40)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    x = x_t.clone().requires_grad_(True)
    (averaged,) = torch.autograd.grad(MIXTURE.classifier(x, torch.tensor([200] * 40))[range(40), y].mean(), x)
    torch.testing.assert_close(averaged * 40, together, rtol=0, atol=1e-12)  # the mistake: a 40th of it


@pytest.mark.parametrize("steps", [4, 50, 1000])
@pytest.mark.parametrize("variance", [fixedlarge, fixedsmall])
def test_mean_form_is_off_by_a_known_factor(steps, variance):
    """The exact shift of the mean is beta / sqrt(alpha) times the gradient; the mean form takes p's variance."""
    x_t, y = points()
    chain = PROCESS.respaced(spacing.trailing(1000, steps))
    plain, exact = reverse(chain, MIXTURE, variance), reverse(chain, MIXTURE.conditional(y), variance)
    shifted = mean_shifted(chain, plain, MIXTURE.classifier, y)
    for i in {1, steps // 2, steps - 1}:
        before = plain(x_t, i).p
        factor = before.log_var.exp() * chain.alphas[i].sqrt() / chain.betas[i]
        found, wanted = shifted(x_t, i).p.mean - before.mean, exact(x_t, i).p.mean - before.mean
        torch.testing.assert_close(found, factor * wanted, rtol=1e-8, atol=1e-10)
        assert torch.equal(shifted(x_t, i).p.log_var, before.log_var)


def in_the_wrong_class(form, steps, n=2000):
    """Share of points nearer to the other class when guided to the rarer one of two."""
    dtype, weights = torch.float64, torch.tensor([0.2, 0.8], dtype=torch.float64)
    means, stds = torch.tensor([[-1.0], [1.0]], dtype=dtype), torch.full((2,), 0.3, dtype=dtype)
    two = oracle.Mixture(PROCESS, weights, means, stds, labels=torch.arange(2))
    chain, y = PROCESS.respaced(spacing.trailing(1000, steps)), torch.zeros(n, dtype=torch.int64)
    if form == "mean":
        p = mean_shifted(chain, reverse(chain, two, fixedsmall), two.classifier, y)
    else:
        p = reverse(chain, classifier_guided(two, PROCESS, two.classifier, y), fixedsmall)
    generator = torch.Generator().manual_seed(0)
    x_T = torch.randn(n, 1, dtype=dtype, generator=generator)
    return (last(samplers.ancestral(chain, p, x_T, generator=generator)) > 0).double().mean().item()


def test_mean_form_loses_points_to_the_other_class_on_large_steps():
    few, more, many = (in_the_wrong_class("mean", steps) for steps in (20, 40, 160))
    assert few > 0.1 and few > 2 * more > 8 * many  # with fewer steps yet, points are thrown past their class
    assert in_the_wrong_class("score", 20) < 0.002


def guided_diffusion(classifier, process, denoise, variance, y, scale, x, i):
    """p's mean by condition_mean and by condition_score of guided-diffusion, written anew; the chain's step i."""
    t = process.timestep_map[i]
    base_a, log_var = process.base.alphas_bar[t], variance(process, i, denoise(x, int(t)), x)
    with torch.enable_grad():
        x_in = x.detach().requires_grad_(True)
        log_probs = torch.nn.functional.log_softmax(classifier(x_in, t.repeat(len(x))), dim=-1)
        gradient = torch.autograd.grad(log_probs[range(len(x)), y].sum(), x_in)[0] * scale
    a, beta, a_prev = process.alphas_bar[i], process.betas[i], process.alphas_bar_prev[i]

    def mean_of(x_0):
        return a_prev.sqrt() * beta / (1 - a) * x_0 + (1 - beta).sqrt() * (1 - a_prev) / (1 - a) * x

    x_0 = denoise(x, int(t)).x_0
    eps = (x / base_a.sqrt() - x_0) / (1 / base_a - 1).sqrt() - (1 - base_a).sqrt() * gradient
    by_score = mean_of(x / base_a.sqrt() - (1 / base_a - 1).sqrt() * eps)
    return mean_of(x_0) + log_var.exp() * gradient, by_score


@pytest.mark.parametrize("variance", [fixedlarge, learned_range])
def test_both_forms_are_guided_diffusions(variance):
    trained, judge = load_pretrained("digits_ddpm"), load_pretrained("digits_noise_classifier")
    chain, y = trained.process.respaced(spacing.trailing(1000, 25)), torch.tensor([3, 5, 0, 9])
    denoise, scale = trained.denoiser(), 2.5
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    plain = reverse(chain, denoise, variance)
    scored = classifier_guided(denoise, trained.process, judge.model, y, scale)
    for i in (0, 7, 23):
        by_mean, by_score = guided_diffusion(judge.model, chain, denoise, variance, y, scale, x, i)
        found = mean_shifted(chain, plain, judge.model, y, scale)(x, i).p.mean
        torch.testing.assert_close(found.double(), by_mean.double(), rtol=1e-5, atol=1e-5)
        found = reverse(chain, scored, variance)(x, i).p.mean
        torch.testing.assert_close(found.double(), by_score.double(), rtol=1e-5, atol=1e-5)


def test_nothing_of_the_callers_changes_and_no_graph_is_kept(device):
    x_t, y = (part.to(device) for part in points())
    x_t = x_t.float()
    model = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).to(device)
    with torch.no_grad():
        gradient = log_prob_gradient(lambda x, t: model(x), x_t, 5, y)
    assert not x_t.requires_grad and not gradient.requires_grad and gradient.device == x_t.device
    assert all(p.grad is None for p in model.parameters())


def test_half_precision_keeps_its_dtype():
    x_t, y = points()
    for dtype in (torch.bfloat16, torch.float32):
        x = x_t.to(dtype)
        found = classifier_guided(MIXTURE, PROCESS, MIXTURE.classifier, y)(x, 300)
        assert found.eps.dtype == found.x_0.dtype == dtype


def test_clipping_goes_around_it():
    x_t, y = points()
    found = clipped(classifier_guided(MIXTURE, PROCESS, MIXTURE.classifier, y, 30.0), PROCESS)(x_t, 900)
    assert found.x_0.abs().max() <= 1
    torch.testing.assert_close(PROCESS.q_sample(found.x_0, 900, found.eps), x_t, rtol=1e-9, atol=1e-9)


def test_what_does_not_fit_is_refused():
    x_t, y = points()
    with pytest.raises(ValueError, match=r"y must be \(40,\), a label for each image, got \(39,\)"):
        log_prob_gradient(MIXTURE.classifier, x_t, 5, y[:39])
    noise_only = GaussianDiffusion(zero_terminal_snr(linear(10)))
    denoise = oracle.GaussianData(noise_only, torch.zeros(2, dtype=torch.float64), 1.0)
    with pytest.raises(ValueError, match="alphas_bar is 0"):
        classifier_guided(denoise, noise_only, lambda x, t: x, y)(x_t, 9)

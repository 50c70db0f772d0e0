"""Classifier-free guidance against exact scores of a mixture whose classes are known."""

import pytest
import torch

from ddpm_lesson import GaussianDiffusion, oracle
from ddpm_lesson.predictions import Prediction
from ddpm_lesson.schedules import linear
from ddpm_lesson.variants.guidance import classifier_free

PROCESS = GaussianDiffusion(linear(1000))
WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
MEANS = torch.tensor([[-1.0, 0.0], [0.5, 0.5], [0.5, -1.0]], dtype=torch.float64)
STDS = torch.tensor([0.3, 0.1, 0.4], dtype=torch.float64)


def of(components):
    chosen = WEIGHTS[components] / WEIGHTS[components].sum()
    return oracle.Mixture(PROCESS, chosen, MEANS[components], STDS[components])


WHOLE, CLASS = of([0, 1, 2]), of([1])


def points(n=50):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 2, dtype=torch.float64, generator=generator), torch.randint(1000, (n,), generator=generator)


def log_q(x_t, t, components):
    """log of the density of x_t for these components, from their Gaussians."""
    a = PROCESS.alphas_bar[t][:, None]
    var = a * STDS[components] ** 2 + 1 - a  # (N, K)
    square = (x_t[:, None] - a.sqrt()[:, None] * MEANS[components]).square().sum(2)
    weights = WEIGHTS[components] / WEIGHTS[components].sum()
    return torch.logsumexp(weights.log() - square / (2 * var) - var.log(), 1)


@pytest.mark.parametrize("scale", [-0.5, 0.0, 0.3, 1.0, 2.0, 7.5])
def test_score_is_that_of_the_sharpened_classifier(scale):
    # grad log [p(x) p(y | x)^s] with p(y | x) = p(x | y) p(y) / p(x): by autograd, not from any denoiser.
    x_t, t = points()
    x_t.requires_grad_(True)
    target = log_q(x_t, t, [0, 1, 2]) + scale * (log_q(x_t, t, [1]) - log_q(x_t, t, [0, 1, 2]))
    (score,) = torch.autograd.grad(target.sum(), x_t)
    guided = classifier_free(CLASS, WHOLE, scale)(x_t.detach(), t)
    noise_std = (1 - PROCESS.alphas_bar[t]).sqrt()[:, None]
    torch.testing.assert_close(-guided.eps / noise_std, score, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("scale, same", [(0.0, WHOLE), (1.0, CLASS)])
def test_two_scales_are_the_denoisers_themselves(scale, same):
    x_t, t = points()
    guided, expected = classifier_free(CLASS, WHOLE, scale)(x_t, t), same(x_t, t)
    torch.testing.assert_close(guided.x_0, expected.x_0, rtol=0, atol=1e-9)
    torch.testing.assert_close(guided.eps, expected.eps, rtol=0, atol=1e-9)


def test_x_0_and_eps_still_make_x_t():
    x_t, t = points()
    guided = classifier_free(CLASS, WHOLE, 4.0)(x_t, t)
    torch.testing.assert_close(PROCESS.q_sample(guided.x_0, t, guided.eps), x_t, rtol=1e-9, atol=1e-9)


def test_the_variance_is_that_of_the_label_and_prev_is_handed_on():
    seen = []

    def denoiser(value):
        def denoise(x_t, t, prev=None):
            seen.append(prev)
            return Prediction(x_t, x_t, torch.full_like(x_t, value))

        return denoise

    before = Prediction(torch.zeros(1, 2), torch.zeros(1, 2))
    out = classifier_free(denoiser(0.25), denoiser(0.75), 3.0)(torch.ones(1, 2), torch.tensor([0]), before)
    assert torch.equal(out.var_frac, torch.full((1, 2), 0.25)) and seen == [before, before]

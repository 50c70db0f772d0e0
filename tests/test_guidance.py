"""Guidance without a classifier, against scores of a mixture whose classes are known, and lucidrains' formulas."""

import pytest
import torch

from ddpm_lesson import GaussianDiffusion, oracle
from ddpm_lesson.predictions import MEAN_TYPES, Prediction, epsilon, velocity, xstart
from ddpm_lesson.process import Noised
from ddpm_lesson.samplers import ddim, last
from ddpm_lesson.schedules import linear
from ddpm_lesson.variants.guidance import (
    cfg_plus_plus,
    classifier_free,
    extrapolated,
    guided,
    in_interval,
    orthogonal,
    rescaled,
)

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


def told():
    """Two denoisers, x_t and a step: what every rule of guidance makes one of."""
    return CLASS, WHOLE, points(30)[0], 400


@pytest.mark.parametrize("mean_type", MEAN_TYPES.values(), ids=lambda m: m.name)
@pytest.mark.parametrize("t", [5, 400, 999])
def test_the_straight_line_is_classifier_free_in_every_meaning(mean_type, t):
    cond, uncond, x_t, _ = told()
    found = guided(cond, uncond, extrapolated(4.0), PROCESS, mean_type)(x_t, t)
    expected = classifier_free(cond, uncond, 4.0)(x_t, t)
    torch.testing.assert_close(found.eps, expected.eps, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.x_0, expected.x_0, rtol=0, atol=1e-10)


def by_lucidrains(logits, null_logits, scale, phi=0.0, keep_parallel=None):
    """Its classifier-free guidance on a network's output, written anew: projection, extrapolation, rescale."""
    update = logits - null_logits
    if keep_parallel is not None:
        rows, along = update.double().reshape(len(update), -1), logits.double().reshape(len(logits), -1)
        unit = torch.nn.functional.normalize(along, dim=-1)
        parallel = (rows * unit).sum(-1, keepdim=True) * unit
        update = (rows - parallel + keep_parallel * parallel).reshape(update.shape).to(update.dtype)
    scaled = logits + update * (scale - 1)
    axes = tuple(range(1, logits.ndim))
    whole = scaled * logits.std(dim=axes, keepdim=True) / scaled.std(dim=axes, keepdim=True)
    return whole * phi + scaled * (1 - phi)


@pytest.mark.parametrize("shape", [(5, 2), (3, 2, 4, 4)])
@pytest.mark.parametrize("phi", [0.0, 0.7, 1.0])
def test_rescale_is_lucidrains_and_lins(shape, phi):
    generator = torch.Generator().manual_seed(3)
    a, b = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    found = rescaled(6.0, phi)(a, b)
    torch.testing.assert_close(found, by_lucidrains(a, b, 6.0, phi), rtol=0, atol=1e-12)
    ratio = found.flatten(1).std(1) / a.flatten(1).std(1)
    assert (phi < 1) == bool((ratio > 1.01).any())  # rescaled in full, each image has the spread it had


@pytest.mark.parametrize("keep", [0.0, 0.3, 1.0])
def test_projection_is_lucidrains(keep):
    generator = torch.Generator().manual_seed(4)
    a, b = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64, generator=generator)
    found = orthogonal(5.0, keep)(a, b)
    torch.testing.assert_close(found, by_lucidrains(a, b, 5.0, keep_parallel=keep), rtol=0, atol=1e-12)
    along = ((found - a) * a).flatten(1).sum(1)
    assert bool((along.abs() < 1e-10).all()) == (keep == 0)


def test_an_output_of_zeros_has_no_direction():
    a, b = torch.zeros(2, 3), torch.ones(2, 3)
    assert torch.equal(orthogonal(3.0)(a, b), torch.full((2, 3), -2.0))


@pytest.mark.parametrize("mean_type", [epsilon, xstart, velocity], ids=lambda m: m.name)
def test_a_rule_acts_on_what_the_network_predicts(mean_type):
    cond, uncond, x_t, t = told()
    at = torch.full((30,), t)
    outputs = [mean_type.target(PROCESS, Noised(p.x_0, at, p.eps, x_t)) for p in (cond(x_t, t), uncond(x_t, t))]
    expected = mean_type.decode(PROCESS, x_t, t, by_lucidrains(*outputs, 4.0, 0.7))
    found = guided(cond, uncond, rescaled(4.0), PROCESS, mean_type)(x_t, t)
    torch.testing.assert_close(found.x_0, expected.x_0, rtol=0, atol=1e-10)
    torch.testing.assert_close(PROCESS.q_sample(found.x_0, t, found.eps), x_t, rtol=0, atol=1e-10)


def test_the_meaning_matters_for_rescale():
    cond, uncond, x_t, t = told()
    by_eps, by_v = (guided(cond, uncond, rescaled(4.0), PROCESS, m)(x_t, t).x_0 for m in (epsilon, velocity))
    assert (by_eps - by_v).abs().max() > 0.01


@pytest.mark.parametrize("scale", [0.0, 0.4, 1.0])
def test_cfg_plus_plus_steps_to_the_guided_image_with_noise_of_no_class(scale):
    cond, uncond, x_t, _ = told()
    chain = PROCESS.respaced([100, 500, 999])
    x = x_t
    for t, before in ((999, 500), (500, 100), (100, None)):
        a = PROCESS.alphas_bar[t]
        eps = uncond(x, t).eps + scale * (cond(x, t).eps - uncond(x, t).eps)
        x_0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
        a_prev = 1 if before is None else PROCESS.alphas_bar[before]
        x = a_prev**0.5 * x_0 + (1 - a_prev) ** 0.5 * uncond(x, t).eps
    found = last(ddim(chain, cfg_plus_plus(cond, uncond, scale), x_t))
    torch.testing.assert_close(found, x, rtol=0, atol=1e-10)


def test_in_an_interval_only_its_steps_are_guided():
    asked = []

    def denoiser(name):
        def denoise(x_t, t, prev=None):
            asked.append((name, t))
            return Prediction(x_t, x_t)

        return denoise

    chain = PROCESS.respaced([0, 200, 400, 600, 999])
    last(ddim(chain, in_interval(denoiser("guided"), denoiser("plain"), 200, 600), torch.ones(1, 2)))
    assert asked == [("plain", 999), ("guided", 600), ("guided", 400), ("guided", 200), ("plain", 0)]


def variance_of_ddim(chain, coefficient):
    """Of the sample, where eps = coefficient(t) x_t: the chain is linear."""
    variance = 1.0
    for i in reversed(range(chain.T)):
        a, a_prev = chain.alphas_bar[i].item(), chain.alphas_bar_prev[i].item()
        c = coefficient(int(chain.timestep_map[i]))
        variance *= (a_prev**0.5 * (1 - (1 - a) ** 0.5 * c) / a**0.5 + (1 - a_prev) ** 0.5 * c) ** 2
    return variance


def test_other_scales_do_not_sample_the_sharpened_density():
    """Data N(0, 1), class N(0, 1/4): p(x) p(y | x)^s is N(0, 1 / (1 + 3 s)), and the guided chain ends elsewhere."""
    chain, a = PROCESS.respaced(list(range(1000))), PROCESS.alphas_bar
    whole, narrow = (oracle.GaussianData(PROCESS, torch.zeros(1, dtype=torch.float64), s) for s in (1.0, 0.5))
    found = {}
    for scale in (0.0, 1.0, 3.0):
        found[scale] = variance_of_ddim(
            chain,
            lambda t, s=scale: ((1 - a[t]).sqrt() * (1 + s * (1 / (1 - 0.75 * a[t]) - 1))).item(),
        )
        x_T = torch.ones(1, 1, dtype=torch.float64)
        drawn = last(ddim(chain, classifier_free(narrow, whole, scale), x_T)).item() ** 2
        assert drawn == pytest.approx(found[scale], rel=1e-9)
    assert found[0.0] == pytest.approx(1, rel=0.01) and found[1.0] == pytest.approx(1 / 4, rel=0.01)
    assert found[3.0] < 0.6 * (1 / 10)  # narrower than the sharpened density itself


def test_what_is_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"phi must lie in 0\.\.1, got 1\.5"):
        rescaled(2.0, 1.5)
    with pytest.raises(ValueError, match=r"the scale of CFG\+\+ must lie in 0\.\.1, got 7\.5"):
        cfg_plus_plus(CLASS, WHOLE, 7.5)
    with pytest.raises(ValueError, match="expected low <= high, got 5 and 4"):
        in_interval(CLASS, WHOLE, 5, 4)
    with pytest.raises(TypeError, match=r"t must be an int, .* got a tensor of shape \(2,\)"):
        in_interval(CLASS, WHOLE, 4, 5)(torch.ones(2, 2), torch.tensor([4, 5]))


@pytest.mark.parametrize("phi", [0.0, 0.7, 1.0])
def test_what_has_no_spread_is_not_rescaled(phi):
    flat = torch.ones(1, 1, 4, 4)
    for a, b in ((torch.tensor([[2.0]]), torch.tensor([[1.0]])), (flat, 0 * flat), (0.1 * flat, 0.3 * flat)):
        assert torch.equal(rescaled(3.0, phi)(a, b), extrapolated(3.0)(a, b))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("rule", [rescaled(4.0), orthogonal(4.0)])
def test_rules_keep_the_dtype_and_stay_finite(rule, dtype):
    generator = torch.Generator().manual_seed(5)
    a, b = torch.randn(2, 3, 8, generator=generator).to(dtype)
    a[0] = 0
    found = rule(a, b)
    assert found.dtype == dtype and found.isfinite().all()

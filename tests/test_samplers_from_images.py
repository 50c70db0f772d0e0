"""Samplers that begin with an image: inversion, the middle of a chain, jumping back, inpainting; and slerp."""

import itertools
import math

import numpy as np
import pytest
import torch

from ddpm_lesson import oracle
from ddpm_lesson.denoisers import dynamic_threshold, on_x_0
from ddpm_lesson.predictions import Prediction, fixedlarge, fixedsmall
from ddpm_lesson.process import GaussianDiffusion
from ddpm_lesson.samplers import ancestral, ddim, ddim_inversion, last, repaint, reverse, slerp, start_at
from ddpm_lesson.schedules import linear, linear_scaled, zero_terminal_snr
from ddpm_lesson.variants.inpainting import inpainting


def clusters(base):
    means = torch.tensor([[0.8, 0.2], [-0.6, -0.4]], dtype=torch.float64)
    return oracle.Mixture(base, torch.tensor([0.3, 0.7]), means, torch.tensor([0.25, 0.2]))


# Inversion.


def round_trip(S, x_0):
    """The error of an image that goes up S steps, even in log-SNR from sigma = 0.05 to 157, and comes down again."""
    sigma = torch.linspace(math.log(0.05), math.log(157), S, dtype=torch.float64).exp()
    chain = GaussianDiffusion.from_alphas_bar(1 / (1 + sigma**2))
    denoise = clusters(chain)
    x_T = last(ddim_inversion(chain, denoise, x_0))
    back = next(state.x_t for state in ddim(chain, denoise, x_T) if state.i == 1)  # the level at which it began
    return (back - x_0).abs().max().item()


def test_inversion_and_ddim_bring_an_image_back_the_better_the_more_steps():
    x_0 = torch.tensor([[0.7, 0.1], [-0.5, -0.3]], dtype=torch.float64)
    errors = [round_trip(S, x_0) for S in (200, 400, 800)]
    assert all(before / after == pytest.approx(2, rel=0.05) for before, after in itertools.pairwise(errors))
    assert errors[-1] < 0.005


def test_inversion_is_the_published_step():
    # DDIM Eq. 12 with t + 1 for t - 1 and sigma = 0, as in improved-diffusion's ddim_reverse_sample.
    base = GaussianDiffusion(linear(1000))
    steps = [0, 100, 400, 999]
    chain, denoise = base.respaced(steps), clusters(base)
    x = torch.tensor([[0.7, 0.1]], dtype=torch.float64)
    states = list(ddim_inversion(chain, denoise, x))
    assert [state.i for state in states] == [1, 2, 3, 4]
    for now, (t, to) in zip(states[1:], itertools.pairwise(steps), strict=True):
        x_0, eps, _ = denoise(x, torch.tensor([t]))
        a = torch.cumprod(1 - linear(1000), 0)[to]
        x = a.sqrt() * x_0 + (1 - a).sqrt() * eps
        torch.testing.assert_close(now.x_t, x, rtol=0, atol=1e-12)


def test_inversion_stops_before_pure_noise():
    base = GaussianDiffusion(zero_terminal_snr(linear(10, 0.01, 0.5)))
    states = list(ddim_inversion(base, clusters(base), torch.zeros(1, 2, dtype=torch.float64)))
    assert [state.i for state in states] == list(range(1, 10)) and states[-1].x_t.isfinite().all()


# The middle of a chain.


@pytest.mark.parametrize("i", [1, 37, 100])
def test_a_chain_starts_in_the_middle(i):
    base = GaussianDiffusion(linear(100, 1e-3, 0.2))
    x_0 = torch.randn(4, 2, dtype=torch.float64)
    chain, x_i = start_at(base, x_0, i, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert chain.T == i and chain.base is base
    torch.testing.assert_close(x_i, base.q_sample(x_0, torch.full((4,), i - 1), noise), rtol=0, atol=0)
    rest = list(ddim(chain, clusters(base), x_i))
    whole = ddim(base, clusters(base), x_i)  # the same steps, once the whole chain has come to i
    x = x_i
    for k in reversed(range(i)):
        q = base.q_posterior_ddim(*clusters(base)(x, torch.full((4,), k))[:2], torch.full((4,), k), 0.0)
        x = q.mean
    torch.testing.assert_close(rest[-1].x_t, x, rtol=0, atol=1e-12)
    assert next(whole).i == 100


@pytest.mark.parametrize("i", [0, 101, -1])
def test_a_start_outside_of_the_chain_is_refused(i):
    with pytest.raises(ValueError, match=rf"must lie in 1\.\.100, got {i}"):
        start_at(GaussianDiffusion(linear(100, 1e-3, 0.2)), torch.zeros(1, 2), i)


def test_noising_to_t_and_starting_one_step_below_is_another_image():
    # Published as `interpolate`: x_t is taken for x_{t-1}, so that one step of noise stays in the result.
    base = GaussianDiffusion(linear(10, 0.05, 0.5))
    denoise = oracle.GaussianData(base, torch.zeros(1, dtype=torch.float64), 0.0)
    chain, x_i = start_at(base, torch.zeros(100_000, 1, dtype=torch.float64), 4)
    too_short = base.respaced(range(3))
    right = next(state.x_t for state in ddim(chain, denoise, x_i) if state.i == 1)
    wrong = next(state.x_t for state in ddim(too_short, denoise, x_i) if state.i == 1)
    std = base.sqrt_one_minus_alphas_bar
    assert right.std().item() == pytest.approx(std[0].item(), rel=0.01)
    assert wrong.std().item() == pytest.approx((std[3] / std[2] * std[0]).item(), rel=0.01)
    assert std[3] / std[2] > 1.2


# slerp.


def test_slerp_keeps_the_norm_and_divides_the_angle():
    a, b = torch.randn(2, 5, 1, 8, 8, dtype=torch.float64)
    b = b * (a.flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)

    def angle(x, y):
        x, y = x.flatten(1), y.flatten(1)
        return ((x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1))).clamp(-1, 1).acos()

    for share in (0.0, 0.25, 0.5, 1.0):
        mixed = slerp(a, b, share)
        torch.testing.assert_close(mixed.flatten(1).norm(dim=1), a.flatten(1).norm(dim=1), rtol=1e-10, atol=0)
        torch.testing.assert_close(angle(a, mixed), share * angle(a, b), rtol=0, atol=1e-6)
    torch.testing.assert_close(slerp(a, b, 0.0), a, rtol=0, atol=1e-12)
    torch.testing.assert_close(slerp(a, b, 1.0), b, rtol=0, atol=1e-12)
    straight = 0.5 * (a + b)
    assert (straight.flatten(1).norm(dim=1) < 0.85 * a.flatten(1).norm(dim=1)).all()


def test_slerp_between_parallel_latents_is_a_straight_line():
    a = torch.randn(2, 3, dtype=torch.float64)
    torch.testing.assert_close(slerp(a, a, 0.3), a, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(slerp(a, 2 * a, 0.3), 1.3 * a, rtol=1e-7, atol=1e-7)


def test_slerp_of_two_shapes_is_refused():
    with pytest.raises(ValueError, match=r"one shape, got \(2, 3\) and \(2, 1\)"):
        slerp(torch.ones(2, 3), torch.ones(2, 1), 0.5)


def test_slerp_keeps_half_precision():
    assert slerp(torch.ones(2, 3).half(), -torch.ones(2, 3).half() + 0.5, 0.5).dtype == torch.float16


# Jumping back.


def published_jumps(T, length, times):
    """RePaint's schedule as its authors give it: labels from T - 1 down to -1, where -1 is the image."""
    jumps = {j: times - 1 for j in range(0, T - length, length)}
    t, labels = T, []
    while t >= 1:
        t -= 1
        labels.append(t)
        if jumps.get(t, 0) > 0:
            jumps[t] -= 1
            for _ in range(length):
                t += 1
                labels.append(t)
    return [*labels, -1]


@pytest.mark.parametrize("T, length, times", [(10, 3, 2), (50, 10, 10), (7, 1, 3), (5, 5, 4), (12, 5, 1), (1, 1, 1)])
def test_jumps_are_the_published_ones(T, length, times):
    base = GaussianDiffusion(linear(T, 0.1, 0.5))
    p = reverse(base, clusters(base), fixedsmall)
    states = repaint(base, p, torch.zeros(1, 2, dtype=torch.float64), jump_length=length, jump_n_sample=times)
    assert [state.i - 1 for state in states] == published_jumps(T, length, times)


def test_the_defaults_are_the_papers():
    base = GaussianDiffusion(linear(21, 0.1, 0.5))
    p = reverse(base, clusters(base), fixedsmall)
    states = repaint(base, p, torch.zeros(1, 2, dtype=torch.float64))
    assert [state.i - 1 for state in states] == published_jumps(21, length=10, times=10)


def test_jumps_keep_the_distribution():
    # With x_0 ~ N(0, 1) every x_t is N(0, 1): the exact reverse step (fixedlarge) and q_step both keep it.
    n, base = 50_000, GaussianDiffusion(linear(20, 0.01, 0.4))
    p = reverse(base, oracle.GaussianData(base, torch.zeros(1, dtype=torch.float64), 1.0), fixedlarge)
    generator = torch.Generator().manual_seed(0)
    x_T = torch.randn(n, 1, dtype=torch.float64, generator=generator)
    for state in repaint(base, p, x_T, jump_length=5, jump_n_sample=4, generator=generator):
        if state.i > 0:
            assert state.x_t.var().item() == pytest.approx(1, abs=5 * (2 / n) ** 0.5)
    assert abs(torch.corrcoef(torch.stack([x_T, state.x_t]).squeeze(2))[0, 1].item()) < 0.02


def test_one_walk_is_ancestral():
    base = GaussianDiffusion(linear(8, 0.1, 0.5))
    p, x_T = reverse(base, clusters(base), fixedsmall), torch.randn(3, 2, dtype=torch.float64)
    ours = last(repaint(base, p, x_T, jump_length=2, jump_n_sample=1, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(ours, last(ancestral(base, p, x_T, generator=torch.Generator().manual_seed(1))))


@pytest.mark.parametrize("options", [{"jump_length": 0}, {"jump_n_sample": 0}])
def test_jumps_of_nothing_are_refused(options):
    base = GaussianDiffusion(linear(8, 0.1, 0.5))
    with pytest.raises(ValueError, match="jump_length and jump_n_sample must be positive"):
        last(repaint(base, reverse(base, clusters(base), fixedsmall), torch.zeros(1, 2), **options))


# Inpainting.


def test_known_pixels_are_those_of_the_forward_process_and_at_the_end_of_the_image():
    base = GaussianDiffusion(linear(10, 0.05, 0.5))
    x_0, mask = torch.tensor([[0.5, -0.25]], dtype=torch.float64), torch.tensor([[True, False]])
    p = reverse(base, clusters(base), fixedsmall)
    mixed = inpainting(base, p, x_0, mask)
    x_t = torch.randn(4, 2, dtype=torch.float64)
    a = torch.cumprod(1 - linear(10, 0.05, 0.5), 0)
    for i in (9, 4, 1):
        step, plain = mixed(x_t, i).p, p(x_t, i).p
        torch.testing.assert_close(step.mean[:, 0], (a[i - 1].sqrt() * 0.5).expand(4), rtol=0, atol=1e-12)
        torch.testing.assert_close(
            step.log_var.exp()[:, 0], (1 - a[i - 1]).expand(len(step.log_var)), rtol=0, atol=1e-12
        )
        assert torch.equal(step.mean[:, 1], plain.mean[:, 1])
        assert (step.log_var[:, 1] == plain.log_var[0, 0]).all()
    drawn = last(ancestral(base, mixed, torch.randn(4, 2, dtype=torch.float64)))
    assert torch.equal(drawn[:, 0], torch.full((4,), 0.5, dtype=torch.float64))


def test_jumping_back_makes_the_rest_agree_with_what_is_known():
    # x = (y, z): clusters at (0.3, 0.3) and (-0.3, -0.3), y = 0.3 is known. Then z is near 0.3: the other cluster has a
    # posterior weight of e^-18. Mixing alone leaves some z at -0.3.
    base = GaussianDiffusion(linear(50, 1e-3, 0.3))
    means = torch.tensor([[0.3, 0.3], [-0.3, -0.3]], dtype=torch.float64)
    denoise = oracle.Mixture(base, torch.ones(2), means, torch.full((2,), 0.1, dtype=torch.float64))
    p = inpainting(base, reverse(base, denoise, fixedsmall), means[:1], torch.tensor([[True, False]]))
    generator = torch.Generator().manual_seed(0)
    x_T = torch.randn(2000, 2, dtype=torch.float64, generator=generator)

    def share_in_the_wrong_cluster(walks):
        drawn = last(repaint(base, p, x_T, jump_length=5, jump_n_sample=walks, generator=generator))
        return (drawn[:, 1] < 0).double().mean().item()

    once = share_in_the_wrong_cluster(1)
    assert once > 0.05 and share_in_the_wrong_cluster(5) < once / 3


def correlated(base, c):
    """The exact denoiser of two standard normal coordinates with correlation c, and its matrix at each step.

    E[x_0 | x_t] = sqrt(a) C (a C + (1 - a) I)^-1 x_t with the covariance C.
    """
    covariance = torch.tensor([[1.0, c], [c, 1.0]], dtype=torch.float64)

    def gain(t):
        a = base.row(t).alphas_bar
        return a**0.5 * covariance @ torch.linalg.inv(a * covariance + (1 - a) * torch.eye(2, dtype=torch.float64))

    def denoise(x_t, t, prev=None):
        x_0 = x_t @ gain(t).T
        return Prediction(x_0, base.eps_from_x_0(x_t, t, x_0))

    return denoise, gain


def moments_of_repaint(base, gain, known, length, times):
    """Mean and covariance of the last state: every step is linear, so that they are found without a draw."""
    betas, eye = base.betas.numpy(), np.eye(2)
    a = np.cumprod(1 - betas)
    before = np.concatenate([[1.0], a[:-1]])
    to_x_0, to_x_t = np.sqrt(before) * betas / (1 - a), np.sqrt(1 - betas) * (1 - before) / (1 - a)  # DDPM, Eq. 7
    steps = [to_x_0[t] * gain(t).numpy() + to_x_t[t] * eye for t in range(base.T)]
    mean, cov = np.zeros(2), eye
    for now, then in itertools.pairwise(published_jumps(base.T, length, times)):
        if then > now:  # up, by q(x_t | x_{t-1})
            mean, cov = np.sqrt(1 - betas[then]) * mean, (1 - betas[then]) * cov + betas[then] * eye
            continue
        mean, cov = steps[now] @ mean, steps[now] @ cov @ steps[now].T + betas[now] * (now > 0) * eye
        mean[0], cov[0, :], cov[:, 0] = np.sqrt(before[now]) * known, 0, 0  # the known part is drawn from q(x | x_0)
        cov[0, 0] = 1 - before[now]
    return mean, cov


@pytest.mark.parametrize("length, times", [(5, 1), (5, 4), (1, 3)])
def test_repaint_has_its_own_exact_moments_and_a_bias(length, times):
    # Correlation 0.9 and known y = 1.5: the true posterior of z is N(1.35, 0.19).
    n, base = 40_000, GaussianDiffusion(linear(20, 0.01, 0.4))
    denoise, gain = correlated(base, 0.9)
    x_0 = torch.tensor([[1.5, 0.0]], dtype=torch.float64)
    p = inpainting(base, reverse(base, denoise, fixedlarge), x_0, torch.tensor([[True, False]]))
    generator = torch.Generator().manual_seed(0)
    x_T = torch.randn(n, 2, dtype=torch.float64, generator=generator)
    z = last(repaint(base, p, x_T, jump_length=length, jump_n_sample=times, generator=generator))[:, 1]
    mean, cov = moments_of_repaint(base, gain, 1.5, length, times)
    var = cov[1, 1].item()
    assert z.mean().item() == pytest.approx(mean[1].item(), abs=4 * (var / n) ** 0.5)
    assert z.var().item() == pytest.approx(var, abs=4 * var * (2 / n) ** 0.5)
    assert mean[1] < 1.3  # too near to 0, whatever is drawn


def test_more_repeats_reduce_repaints_bias_and_do_not_remove_it():
    # The true posterior is N(1.35, 0.19). Many repeats lead to another limit, the nearer to it the smaller the steps.
    def repeated(T, times):
        base = GaussianDiffusion(linear_scaled(T))
        _, gain = correlated(base, 0.9)
        mean, cov = moments_of_repaint(base, gain, 1.5, 1, times)
        return mean[1].item(), cov[1, 1].item()

    means, variances = zip(*(repeated(50, times) for times in (1, 5, 50, 500)), strict=True)
    assert list(means) == sorted(means) and list(variances) == sorted(variances, reverse=True)
    assert means[0] == pytest.approx(0.90, abs=0.01) and variances[0] == pytest.approx(0.35, abs=0.01)
    assert means[-1] - means[-2] < 0.003 < 0.015 < 1.35 - means[-1]  # what is left does not go away
    finer, _ = repeated(200, 500)
    assert 0 < 1.35 - finer < 0.2 * (1.35 - means[-1])


def test_a_mask_of_numbers_is_refused():
    base = GaussianDiffusion(linear(10, 0.05, 0.5))
    with pytest.raises(TypeError, match="mask must be bool, True where the image is known, got torch.float32"):
        inpainting(base, reverse(base, clusters(base), fixedsmall), torch.zeros(1, 2), torch.ones(1, 2))


@pytest.mark.parametrize(
    "x_0, mask, got",
    [
        (torch.zeros(3, 2), torch.ones(1, 2).bool(), r"x_0 \(3, 2\) and mask \(1, 2\)"),
        (torch.zeros(1, 2), torch.ones(6, 2).bool(), r"x_0 \(1, 2\) and mask \(6, 2\)"),
        (torch.zeros(1, 1, 2), torch.ones(2).bool(), r"x_0 \(1, 1, 2\) and mask \(2,\)"),
    ],
)
def test_an_image_or_a_mask_of_another_shape_is_refused(x_0, mask, got):
    base = GaussianDiffusion(linear(10, 0.05, 0.5))
    mixed = inpainting(base, reverse(base, clusters(base), fixedsmall), x_0, mask)
    with pytest.raises(ValueError, match=rf"must broadcast to x_t \(4, 2\), got {got}"):
        mixed(torch.zeros(4, 2), 3)


def test_inpainting_keeps_the_dtype_of_x_T():
    base = GaussianDiffusion(linear(10, 0.05, 0.5))
    mixed = inpainting(
        base, reverse(base, clusters(base), fixedsmall), torch.zeros(1, 2).double(), torch.ones(2).bool()
    )
    assert last(ancestral(base, mixed, torch.randn(3, 2).bfloat16())).dtype == torch.bfloat16


# Hooks on the estimated x_0.


def of_size(size):
    return lambda x_t, t, prev=None: Prediction(torch.full_like(x_t, size), x_t, torch.ones_like(x_t))


def test_a_hook_changes_x_0_and_derives_eps_again():
    base = GaussianDiffusion(linear(10, 0.05, 0.5))
    hooked = on_x_0(of_size(3.0), base, lambda x_0: x_0 / 2)
    x_t, t = torch.randn(2, 3, dtype=torch.float64), torch.tensor([1, 7])
    for step in (t, 4):
        prediction = hooked(x_t, step)
        assert torch.equal(prediction.x_0, torch.full_like(x_t, 1.5)) and torch.equal(
            prediction.var_frac, torch.ones(2, 3)
        )
        torch.testing.assert_close(base.q_sample(prediction.x_0, step, prediction.eps), x_t, rtol=0, atol=1e-12)


def test_dynamic_threshold_scales_images_that_leave_the_range():
    # Imagen's rule: s is the quantile of |x_0|, at least 1; x_0 is clipped to s and divided by it.
    base = GaussianDiffusion(linear(10, 0.05, 0.5))
    images = torch.stack([torch.linspace(-0.5, 0.9, 101), torch.linspace(0, 5, 101)]).double()
    denoise = dynamic_threshold(lambda x_t, t, prev=None: Prediction(images, x_t), base, quantile=0.9)
    x_0 = denoise(torch.randn(2, 101, dtype=torch.float64), 3).x_0
    assert torch.equal(x_0[0], images[0])
    torch.testing.assert_close(x_0[1], images[1].clamp(-4.5, 4.5) / 4.5, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"quantile must lie in 0\.\.1, got 1.5"):
        dynamic_threshold(denoise, base, 1.5)


def test_dynamic_threshold_is_that_of_diffusers():
    from diffusers import DDIMScheduler

    base = GaussianDiffusion(linear(1000))
    scheduler = DDIMScheduler(num_train_timesteps=1000, thresholding=True, sample_max_value=math.inf, clip_sample=False)
    x_0 = 3 * torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    denoise = dynamic_threshold(lambda x_t, t, prev=None: Prediction(x_0, x_t), base)
    torch.testing.assert_close(denoise(torch.zeros_like(x_0), 5).x_0, scheduler._threshold_sample(x_0))

"""Consistency models: the boundary, the loss of the exact function, and drawing in one step and in several."""

import pytest
import torch

from ddpm_lesson import GaussianDiffusion, oracle, samplers, schedules
from ddpm_lesson.networks.mlp import MLP
from ddpm_lesson.points import eight_gaussians_mixture
from ddpm_lesson.variants.consistency import (
    boundary,
    consistency_function,
    consistency_loss,
    consistency_steps,
    on_a_line,
    on_a_trajectory,
)

PROCESS = GaussianDiffusion(schedules.cosine(20))
POINT = torch.tensor([0.5, -1.0], dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def of_point(x_t, t):
    """The exact function for data that are one point: along a trajectory the noise stays what it is."""
    bar = PROCESS.alphas_bar[t][:, None]
    noise = (x_t - bar.sqrt() * POINT) / (1 - bar).sqrt()
    return PROCESS.alphas_bar[0].sqrt() * POINT + (1 - PROCESS.alphas_bar[0]).sqrt() * noise


def test_at_the_boundary_the_network_has_no_say():
    torch.manual_seed(0)
    model = MLP(20, 2, 16, 1).double()
    f, x = consistency_function(model, PROCESS), normal(5, 2)
    assert torch.equal(f(x, torch.zeros(5, dtype=torch.int64)), x)
    assert not torch.equal(f(x, torch.ones(5, dtype=torch.int64)), x)


def test_coefficients_are_those_of_edm_for_data_of_variance_one():
    """Karras et al. 2022, Table 1, for x = x' + sigma n, where x' is the state of t = 0; here it is scaled by 1 / s."""
    t = torch.arange(20)
    a = PROCESS.alphas_bar / PROCESS.alphas_bar[0]
    sigma, s = ((1 - a) / a).sqrt(), a.sqrt()
    c_skip, c_out = boundary(PROCESS, t)
    torch.testing.assert_close(c_skip, 1 / (sigma**2 + 1) / s)
    torch.testing.assert_close(-c_out, sigma / (sigma**2 + 1).sqrt())


def test_the_exact_function_has_no_loss():
    t, noise = torch.arange(1, 20), normal(19, 2)
    x_0, teacher = POINT.expand(19, 2), oracle.GaussianData(PROCESS, POINT, 0.0)
    for pair in (on_a_line(PROCESS, x_0, t, noise), on_a_trajectory(PROCESS, teacher, x_0, t, noise)):
        found = consistency_loss(of_point, of_point, *pair, t, c=0.01)
        torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-12)
    trajectory = list(samplers.ddim(PROCESS, teacher, normal(3, 2, seed=1)))
    ends = torch.stack([of_point(s.x_t, torch.full((3,), s.i - 1)) for s in trajectory[:-1]])
    torch.testing.assert_close(ends, ends[:1].expand_as(ends), rtol=0, atol=1e-10)


def test_neighbours_on_a_line_have_one_x_0_and_one_noise():
    t, noise, x_0 = torch.tensor([1, 5, 19]), normal(3, 2), normal(3, 2, seed=1)
    bar, before = PROCESS.alphas_bar[t][:, None], PROCESS.alphas_bar[t - 1][:, None]
    x_t, x_prev = on_a_line(PROCESS, x_0, t, noise)
    torch.testing.assert_close(x_t, bar.sqrt() * x_0 + (1 - bar).sqrt() * noise)
    torch.testing.assert_close(x_prev, before.sqrt() * x_0 + (1 - before).sqrt() * noise)


def test_neighbours_on_a_trajectory_are_a_step_of_ddim_apart():
    teacher = oracle.Mixture(PROCESS, *eight_gaussians_mixture())
    t, noise, x_0 = torch.tensor([1, 5, 19]), normal(3, 2), normal(3, 2, seed=1)
    x_t, x_prev = on_a_trajectory(PROCESS, teacher, x_0, t, noise)
    for k, at in enumerate(t.tolist()):
        chain = samplers.ddim(PROCESS.respaced([at - 1, at]), teacher, x_t[k : k + 1])
        _, after, _ = chain
        torch.testing.assert_close(x_prev[k], after.x_t[0])


def test_the_loss_is_the_pseudo_huber_distance():
    t, x_t, x_prev = torch.tensor([1, 5, 19]), normal(3, 2), normal(3, 2, seed=1)
    f, target = (lambda x, t: 2 * x + t[:, None]), (lambda x, t: 3 * x - t[:, None])
    d2 = (2 * x_t + t[:, None] - 3 * x_prev + (t - 1)[:, None]).square().sum(1)
    torch.testing.assert_close(consistency_loss(f, target, x_t, x_prev, t, c=0.5), (d2 + 0.25).sqrt() - 0.5)
    with pytest.raises(ValueError, match="t must be at least 1, got 0"):
        consistency_loss(f, target, x_t, x_prev, torch.tensor([0, 1, 2]))


def test_no_gradient_flows_through_the_target():
    w = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    t, x_t, x_prev = torch.tensor([3, 7]), normal(2, 2), normal(2, 2, seed=1)
    consistency_loss(lambda x, t: w * x, lambda x, t: w * x, x_t, x_prev, t, c=0.1).sum().backward()
    difference = 2 * (x_t - x_prev)
    expected = (difference * x_t).sum(1) / (difference.square().sum(1) + 0.01).sqrt()
    torch.testing.assert_close(w.grad, expected.sum())


def test_each_further_step_noises_and_goes_back():
    x_T, generator = normal(4, 2), torch.Generator().manual_seed(3)
    first, second = consistency_steps(of_point, PROCESS, x_T, [9], generator=generator)
    torch.testing.assert_close(first, of_point(x_T, torch.full((4,), 19)))
    noise, a = normal(4, 2, seed=3), PROCESS.alphas_bar[9] / PROCESS.alphas_bar[0]
    expected = of_point(a.sqrt() * first + (1 - a).sqrt() * noise, torch.full((4,), 9))
    torch.testing.assert_close(second, expected)
    assert len(list(consistency_steps(of_point, PROCESS, x_T, []))) == 1
    for times in ([5, 10], [0], [19], [9, 9]):
        with pytest.raises(ValueError, match=r"times must be falling steps in 1..18, got \["):
            next(consistency_steps(of_point, PROCESS, x_T, times))

"""Progressive distillation: one step with the target ends where two of the teacher's steps end."""

import pytest
import torch

from ddpm_lesson import GaussianDiffusion, oracle, samplers, schedules
from ddpm_lesson.points import eight_gaussians_mixture
from ddpm_lesson.predictions import Prediction
from ddpm_lesson.variants.distillation import distillation_loss, halved, two_ddim_steps

BASE = GaussianDiffusion(schedules.cosine(1000))
TEACHER = BASE.respaced([124, 249, 374, 499, 624, 749, 874, 999])
EXACT = oracle.Mixture(BASE, *eight_gaussians_mixture())


def states(B=6, seed=0):
    return torch.randn(B, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def bars(chain):
    """alphas_bar of a chain, with 1 before its first step."""
    return torch.cat([torch.ones(1, dtype=torch.float64), BASE.alphas_bar[chain.timestep_map]])


def step(x_t, x_0, here, there):
    """DDIM, Song et al. 2021, Eq. 12 with sigma = 0, from alphas_bar `here` to `there`."""
    eps = (x_t - here.sqrt() * x_0) / (1 - here).sqrt()
    return there.sqrt() * x_0 + (1 - there).sqrt() * eps


@pytest.mark.parametrize("i", range(4))
def test_one_step_with_the_target_is_two_steps_of_the_teacher(i):
    x_t, at = states(), bars(TEACHER)
    target = two_ddim_steps(EXACT, TEACHER, x_t, i)
    x = x_t
    for j in (2 * i + 1, 2 * i):
        x = step(x, EXACT(x, TEACHER.timestep_map[j].item()).x_0, at[j + 1], at[j])
    torch.testing.assert_close(step(x_t, target, at[2 * i + 2], at[2 * i]), x, rtol=0, atol=1e-10)
    steps = torch.full((len(x_t),), i)
    torch.testing.assert_close(two_ddim_steps(EXACT, TEACHER, x_t, steps), target, rtol=0, atol=1e-10)


def test_a_batch_of_different_steps_has_for_each_its_own_target():
    x_t, i = states(4), torch.tensor([3, 0, 2, 1])
    alone = torch.cat([two_ddim_steps(EXACT, TEACHER, x_t[k : k + 1], i[k].item()) for k in range(4)])
    torch.testing.assert_close(two_ddim_steps(EXACT, TEACHER, x_t, i), alone, rtol=0, atol=1e-10)


def test_a_student_that_answers_with_the_target_draws_the_teachers_images():
    def student(x_t, t, prev=None):
        i = halved(TEACHER).timestep_map.tolist().index(t)
        x_0 = two_ddim_steps(EXACT, TEACHER, x_t, i)
        return Prediction(x_0, BASE.eps_from_x_0(x_t, t, x_0))

    of_teacher = samplers.last(samplers.ddim(TEACHER, EXACT, states()))
    of_student = samplers.last(samplers.ddim(halved(TEACHER), student, states()))
    torch.testing.assert_close(of_student, of_teacher, rtol=0, atol=1e-9)
    first = samplers.last(samplers.ddim(halved(TEACHER), EXACT, states()))  # the teacher, with half its steps
    assert (first - of_teacher).abs().max() > 0.1


def test_the_half_chain_keeps_every_second_step_and_the_last():
    assert halved(TEACHER).timestep_map.tolist() == [249, 499, 749, 999]
    assert halved(halved(TEACHER)).timestep_map.tolist() == [499, 999]
    assert halved(TEACHER).base is BASE
    with pytest.raises(ValueError, match="even, got 3"):
        halved(BASE.respaced([1, 2, 3]))


def test_the_loss_is_the_larger_of_the_errors_in_x_0_and_eps():
    """Salimans & Ho 2022, Section 4: max(|x - x'|^2, |eps - eps'|^2)."""
    chain = halved(TEACHER)
    x_t, x_0, target = torch.randn(3, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    i = torch.arange(4)
    a = BASE.alphas_bar[chain.timestep_map][:, None]
    eps, of_target = ((x_t - a.sqrt() * x) / (1 - a).sqrt() for x in (x_0, target))
    errors = [(x_0 - target).square().mean(1), (eps - of_target).square().mean(1)]
    torch.testing.assert_close(distillation_loss(x_0, target, chain, i), torch.maximum(*errors))
    assert (errors[1] > errors[0]).tolist() == [True, False, False, False]
    for k in range(4):
        alone = distillation_loss(x_0[k : k + 1], target[k : k + 1], chain, k)
        torch.testing.assert_close(alone[0], torch.maximum(*errors)[k])

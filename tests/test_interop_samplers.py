"""Exported networks with diffusers' schedulers draw the images of this package's samplers, from the same noise."""

import dataclasses

import pytest
import torch

from ddpm_lesson import GaussianDiffusion, Sampling, load_pretrained, spacing
from ddpm_lesson.interop import draw, to_diffusers, twin
from ddpm_lesson.interop.samplers import TWINS
from ddpm_lesson.schedules import linear

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers and numpy 2
STEPS = {"ancestral": "linspace20", "heun": "linspace10", "dpmpp_2m": "log_snr20", "dpmpp_2m_sde": "karras20"}


@pytest.fixture(scope="module", params=["digits_ddpm", "mnist_ddpm"])
def trained(request):
    return load_pretrained(request.param)


def both(trained, sampling, n=3):
    """Images of diffusers and ours, from the same noise and labels."""
    process, y = trained.process, trained.labels(n)
    timesteps = spacing.named(sampling.steps, process.T, process.snr)
    options = {"mean_type": trained.recipe.mean_type, "var_type": trained.recipe.var_type}
    unet2d, ddpm = to_diffusers(trained.model, process, clip_denoised=sampling.clip, **options)
    generator = torch.Generator().manual_seed(sampling.seed)
    x_T = torch.randn(n, *trained.shape, generator=generator)
    eta = {"eta": sampling.eta} if sampling.sampler == "ddim" else {}
    theirs = draw(unet2d.eval(), twin(sampling.sampler, ddpm), x_T, timesteps, y=y, generator=generator, **eta)
    return theirs, trained.sample(n, sampling, y=y)


@pytest.mark.parametrize("sampler", [name for name in TWINS if name != "plms"])
def test_every_scheduler_with_a_twin_draws_the_same_images(trained, sampler):
    sampling = Sampling(sampler, STEPS.get(sampler, "trailing20"), seed=3)
    theirs, ours = both(trained, sampling)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)
    _, other = both(trained, dataclasses.replace(sampling, seed=4))
    assert (theirs - other).abs().max() > 0.5


@pytest.mark.parametrize("sampler", TWINS)
def test_without_clipping_too(sampler):
    # Their tables are float32. Where alphas_bar_T is 2e-9, as in the shipped networks' cosine schedule, that costs
    # unclipped images all but two digits; a linear schedule ends at 4e-5.
    shipped = load_pretrained("digits_ddpm")
    linear_process = GaussianDiffusion(linear(shipped.process.T))
    trained = dataclasses.replace(shipped, process=linear_process)
    theirs, ours = both(trained, Sampling(sampler, STEPS.get(sampler, "trailing20"), clip=False, seed=3))
    assert ours.abs().max() > 1.05
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4 * ours.abs().max().item())


def test_ddim_with_noise_too():
    theirs, ours = both(load_pretrained("digits_ddpm"), Sampling("ddim", "trailing10", eta=0.7, seed=1))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)


def test_a_call_without_labels_takes_the_null_class():
    trained = load_pretrained("digits_ddpm")
    unet2d, ddpm = to_diffusers(trained.model, trained.process, var_type=trained.recipe.var_type)
    x_T = torch.randn(2, *trained.shape, generator=torch.Generator().manual_seed(5))
    theirs = draw(unet2d.eval(), twin("ddim", ddpm), x_T, spacing.trailing(trained.process.T, 5))
    ours = trained.sample(2, Sampling("ddim", "trailing5", seed=5))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)


def test_what_has_no_twin_is_refused():
    trained = load_pretrained("digits_ddpm")
    unet2d, ddpm = to_diffusers(trained.model, trained.process, var_type=trained.recipe.var_type)
    with pytest.raises(ValueError, match="diffusers has a twin of ancestral, ddim, .*, got 'dpmpp_3m'"):
        twin("dpmpp_3m", ddpm)
    with pytest.raises(ValueError, match="PNDMScheduler does not clip: expected clip_denoised=False"):
        twin("plms", ddpm)
    with pytest.raises(ValueError, match=r"DDIMScheduler visits \[.*\], expected \[.*\]"):
        draw(unet2d, twin("ddim", ddpm), torch.zeros(1, *trained.shape), [0, 5, 7])

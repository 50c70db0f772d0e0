"""Chains that begin with images, by their names: inpainting, SDEdit, inversion and back, each as by hand."""

import pytest
import torch

from ddpm_lesson import Sampling, data, load_pretrained, samplers, spacing
from ddpm_lesson._tensors import randn_like
from ddpm_lesson.doors import ImageRangeWarning
from ddpm_lesson.predictions import learned_range
from ddpm_lesson.samplers import last
from ddpm_lesson.variants.inpainting import inpainting

N = 6


@pytest.fixture(scope="module")
def trained():
    return load_pretrained("digits_ddpm")


@pytest.fixture(scope="module")
def images():
    return data.digits("test")[torch.arange(N)]


def half():
    """The left half is known."""
    return (torch.arange(8) < 4).expand(N, 1, 8, 8)


def drawn(trained, seed):
    """x_T as the network draws it, and the generator as it is afterwards."""
    generator = torch.Generator().manual_seed(seed)
    return randn_like(torch.empty(N, *trained.shape), generator), generator


@pytest.mark.parametrize("sampler", ["ancestral", "repaint"])
def test_a_mask_keeps_what_is_known(trained, images, sampler):
    x_0, y = images
    found = trained.sample(N, Sampling(sampler, steps="trailing12", seed=3), y=y, x_0=x_0, mask=half())
    assert torch.equal(found[..., :4], x_0[..., :4]) and (found[..., 4:] - x_0[..., 4:]).abs().max() > 0.1
    chain = trained.process.respaced(spacing.trailing(1000, 12))
    x_T, generator = drawn(trained, 3)
    p = inpainting(chain, samplers.reverse(chain, trained.denoiser(y), learned_range), x_0, half())
    expected = last(getattr(samplers, sampler)(chain, p, x_T, generator=generator))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpmpp_2m"])
def test_a_start_in_the_middle_is_that_of_start_at(trained, images, sampler):
    x_0, y = images
    found = trained.sample(N, Sampling(sampler, steps="trailing20", seed=4), y=y, x_0=x_0, start=0.4)
    chain = trained.process.respaced(spacing.trailing(1000, 20))
    generator = drawn(trained, 4)[1]
    short, x_t = samplers.start_at(chain, x_0, 8, generator=generator)
    denoise = trained.denoiser(y)
    if sampler == "ancestral":
        p = samplers.reverse(short, denoise, learned_range)
        expected = last(samplers.ancestral(short, p, x_t, generator=generator))
    else:
        expected = last(getattr(samplers, sampler)(short, denoise, x_t))
    torch.testing.assert_close(found, expected)


def test_the_later_it_starts_the_more_it_keeps(trained, images):
    x_0, y = images
    kept = [
        (trained.sample(N, Sampling("ddim", steps="trailing50"), y=y, x_0=x_0, start=start) - x_0).square().mean()
        for start in (0.02, 0.3, 0.9)
    ]
    assert kept[0] < kept[1] < kept[2]


def test_inversion_leads_to_the_latent_of_an_image(trained, images):
    x_0, y = images
    there = Sampling("ddim_inversion", steps="trailing100", clip=False)
    latents = trained.sample(N, there, y=y, x_0=x_0)
    chain = trained.process.respaced(spacing.trailing(1000, 100))
    torch.testing.assert_close(latents, last(samplers.ddim_inversion(chain, trained.denoiser(y, clip=False), x_0)))
    back = trained.sample(N, Sampling("ddim", steps="trailing100"), y=y, x_T=latents)
    drawn_anew = trained.sample(N, Sampling("ddim", steps="trailing100"), y=y)
    assert (back - x_0).square().mean() < 0.1 * (drawn_anew - x_0).square().mean()


def test_images_do_not_depend_on_the_batches(trained, images):
    x_0, y = images
    wishes = [
        (Sampling("repaint", steps="trailing12"), {"x_0": x_0, "mask": half()}),
        (Sampling("ancestral", steps="trailing12"), {"x_0": x_0, "start": 0.5}),
        (Sampling("ddim", steps="trailing12"), {"x_T": drawn(trained, 1)[0]}),
        (Sampling("ddim_inversion", steps="trailing12"), {"x_0": x_0}),
    ]
    for sampling, given in wishes:
        whole, parts = (trained.sample(N, sampling, y=y, **given, batch_size=size) for size in (N, 4))
        torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "sampler, given, message",
    [
        ("repaint", {}, "expected x_0 and mask, got no mask"),
        ("repaint", {"x_0": True}, "expected x_0 and mask, got no mask"),
        ("ancestral", {"mask": True}, "images are taken with a mask.*; got none, ancestral"),
        ("ancestral", {"x_0": True}, "and only then; got some, ancestral, start=1.0"),
        ("ddim", {"x_0": True, "mask": True}, "a mask goes with ancestral, repaint, alone.*; got ddim, mask given"),
        ("ddim_inversion", {}, "got none, ddim_inversion"),
        ("ddim_inversion", {"x_0": True, "start": 0.5}, "start with neither a mask nor ddim_inversion"),
        ("ancestral", {"x_0": True, "mask": True, "start": 0.5}, "start with neither a mask"),
        ("ddim", {"start": 0.5}, "got none, ddim, start=0.5"),
        ("ddim", {"x_0": True, "start": 0.0}, r"must lie in \(0, 1\], got 0.0"),
        ("ddim", {"x_0": True, "start": 1.5}, r"must lie in \(0, 1\], got 1.5"),
    ],
)
def test_what_does_not_go_together_is_refused(trained, images, sampler, given, message):
    told = {name: {"x_0": images[0], "mask": half()}.get(name, value) for name, value in given.items()}
    with pytest.raises(ValueError, match=message):
        trained.sample(N, Sampling(sampler, steps="trailing5"), y=images[1], **told)


def test_another_number_of_images_is_refused(trained, images):
    for name, of in (("x_0", images[0]), ("x_T", images[0]), ("mask", half())):
        with pytest.raises(ValueError, match=rf"{name} must be \(6, 1, 8, 8\), one for each image, got \(5, 1, 8, 8\)"):
            trained.sample(N, Sampling(), **{name: of[:5]})


def test_images_to_begin_with_have_to_lie_between_minus_1_and_1(trained, images):
    x_0, y = images
    sampling, unit = Sampling("ddim", steps="trailing2"), (x_0 + 1) / 2
    for draw in (trained.sample, trained.states):
        with pytest.warns(ImageRangeWarning, match=r"x_0 should lie in \[-1, 1\], got values from 0 to 1") as record:
            draw(N, sampling, y=y, x_0=unit, start=0.5)
        assert len(record) == 1 and record[0].filename == __file__
        with pytest.raises(ValueError, match=r"x_0 must lie in \[-1, 1\], got unscaled pixels, from 0 to 255"):
            draw(N, sampling, y=y, x_0=255 * unit, start=0.5)
        with pytest.raises(TypeError, match=r"x_0 must be floating point in \[-1, 1\], got torch.uint8"):
            draw(N, sampling, y=y, x_0=(255 * unit).byte(), start=0.5)


def test_small_images_have_to_lie_there_too():
    upscale, sampling = load_pretrained("digits_upscale"), Sampling("ddim", steps="trailing2")
    unit = torch.linspace(0, 1, N * 16).view(N, 1, 4, 4)
    for draw in (upscale.sample, upscale.states):
        with pytest.warns(ImageRangeWarning, match=r"cond should lie in \[-1, 1\], got values from 0 to 1") as record:
            draw(N, sampling, cond=unit)
        assert len(record) == 1 and record[0].filename == __file__
        with pytest.raises(ValueError, match=r"cond must lie in \[-1, 1\], got unscaled pixels, from 0 to 255"):
            draw(N, sampling, cond=255 * unit)
        draw(N, sampling, cond=2 * unit - 1)

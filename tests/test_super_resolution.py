"""Super-resolution by concatenation: improved-diffusion's area average and bilinear enlargement, and training."""

from functools import partial

import pytest
import torch
from torch.nn.functional import interpolate

from ddpm_lesson import GaussianDiffusion, samplers
from ddpm_lesson.denoisers import make_denoiser
from ddpm_lesson.losses import simple_loss
from ddpm_lesson.networks.unet import UNet
from ddpm_lesson.predictions import epsilon
from ddpm_lesson.samplers import last
from ddpm_lesson.schedules import linear_scaled
from ddpm_lesson.training import minibatches, train
from ddpm_lesson.variants.super_resolution import from_low_res, low_res, upsampled

PROCESS = GaussianDiffusion(linear_scaled(50))


def images(n=4, channels=3, side=8):
    return torch.rand(n, channels, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_small_images_are_means_of_squares(factor):
    x_0 = images()
    found = low_res(x_0, factor)
    side = 8 // factor
    expected = torch.empty(4, 3, side, side, dtype=torch.float64)
    for row in range(side):
        for column in range(side):
            square = x_0[:, :, row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
            expected[:, :, row, column] = square.mean((2, 3))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(found, interpolate(x_0, side, mode="area"), rtol=0, atol=1e-12)  # its data loader


def test_enlarging_weighs_the_two_nearest_pixels_by_three_to_one():
    row = torch.tensor([0.0, 4.0, 8.0, -8.0], dtype=torch.float64)
    found = upsampled(row.expand(4, 4)[None, None], 8)[0, 0]
    expected = torch.tensor([0.0, 1.0, 3.0, 5.0, 7.0, 4.0, -4.0, -8.0], dtype=torch.float64)
    torch.testing.assert_close(found, expected.expand(8, 8), rtol=0, atol=1e-12)


def test_the_network_sees_what_improved_diffusions_sees():
    """Its SuperResModel: x and the enlarged small image side by side, as channels, in this order."""
    seen = []
    model = UNet(50, ch=8, ch_mult=[1], attn=[], num_res_blocks=1, dropout=0.0, in_ch=3, cond_ch=3, num_groups=2)
    model.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x_0 = images().float()
    noised = PROCESS.noised(x_0, torch.arange(4))
    model(noised.x_t, noised.t, **from_low_res(2)(noised, {}))
    small = interpolate(x_0, (4, 4), mode="area")
    torch.testing.assert_close(
        seen[0], torch.cat([noised.x_t, interpolate(small, (8, 8), mode="bilinear")], dim=1), rtol=1e-5, atol=1e-6
    )


def test_training_and_sampling_use_the_small_image():
    torch.manual_seed(0)
    brightness = torch.tensor([-0.8, 0.8]).repeat(32).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)  # flat, dark and bright
    model = UNet(50, ch=16, ch_mult=[1], attn=[], num_res_blocks=1, dropout=0.0, in_ch=1, cond_ch=1, num_groups=4)
    batches = minibatches(brightness, batch_size=32, generator=torch.Generator().manual_seed(1))
    loss, generator = partial(simple_loss, PROCESS, epsilon), torch.Generator().manual_seed(2)
    for _ in train(model, PROCESS, batches, loss, steps=400, lr=5e-3, conditions=from_low_res(2), generator=generator):
        pass
    small = torch.tensor([-0.8, 0.8, 0.8, -0.8]).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    denoise = make_denoiser(model, PROCESS, epsilon, cond=upsampled(small, 4))
    x_T = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    drawn = last(samplers.ddim(PROCESS, denoise, x_T))
    torch.testing.assert_close(low_res(drawn, 2), small, rtol=0, atol=0.3)


def test_sides_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"sides that 3 divides, got \(4, 3, 8, 8\)"):
        low_res(images(), 3)
    with pytest.raises(ValueError, match="sides that 0 divides"):
        low_res(images(), 0)
    with pytest.raises(ValueError, match=r"got \(3, 8, 8\)"):
        low_res(images()[0], 2)


def test_conditions_keep_what_was_given():
    noised, y = PROCESS.noised(images(), torch.arange(4)), torch.arange(4)
    given = from_low_res(4)(noised, {"y": y})
    assert given["y"] is y and given["cond"].shape == (4, 3, 8, 8)

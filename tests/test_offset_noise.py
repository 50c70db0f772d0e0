"""Offset noise: lucidrains' formula, its moments, and training with it."""

from functools import partial

import pytest
import torch

from ddpm_lesson import GaussianDiffusion
from ddpm_lesson.networks.unet import UNet
from ddpm_lesson.schedules import linear_scaled
from ddpm_lesson.training import minibatches, train
from ddpm_lesson.variants.offset_noise import offset_noise


def test_it_is_lucidrains_formula():
    x_0, generator = torch.zeros(3, 2, 4, 4, dtype=torch.float64), torch.Generator().manual_seed(0)
    noise = torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=generator)
    offset = torch.randn(3, 2, dtype=torch.float64, generator=generator)
    found = offset_noise(x_0, 0.3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, noise + 0.3 * offset[:, :, None, None], rtol=0, atol=0)


def test_pixels_of_a_channel_share_their_offset():
    n, strength = 40_000, 0.5
    x = offset_noise(torch.zeros(n, 2, 2, 1, dtype=torch.float64), strength, generator=torch.Generator().manual_seed(1))
    covariance = torch.cov(x.flatten(1).T)  # of channel 0's two pixels, then channel 1's
    share = strength**2
    block = torch.tensor([[1 + share, share], [share, 1 + share]], dtype=torch.float64)
    # A variance of 1.25 has a standard error of 1.25 sqrt(2 / n) = 0.009; five of them.
    torch.testing.assert_close(covariance, torch.block_diag(block, block), rtol=0, atol=0.045)


def test_points_without_pixels_and_half_precision():
    assert offset_noise(torch.zeros(5, 2)).shape == (5, 2)
    assert offset_noise(torch.zeros(2, 1, 4, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_training_draws_it():
    process, seen = GaussianDiffusion(linear_scaled(25)), []

    def loss(output, noised):
        seen.append(noised)
        return (noised.noise - output) ** 2

    model = UNet(25, ch=8, ch_mult=[1], attn=[], num_res_blocks=1, dropout=0.0, in_ch=1, num_groups=2)
    batches = minibatches(torch.zeros(256, 1, 8, 8), batch_size=256)
    for strength in (0.0, 2.0):
        noise, generator = partial(offset_noise, strength=strength), torch.Generator().manual_seed(0)
        list(train(model, process, batches, loss, steps=1, noise=noise, generator=generator))
    means = [noised.noise.mean((1, 2, 3)).std().item() for noised in seen]
    assert means[0] == pytest.approx(1 / 8, rel=0.2)  # 64 independent pixels
    assert means[1] == pytest.approx((4 + 1 / 64) ** 0.5, rel=0.2)
    a = process.alphas_bar[seen[1].t].float().view(-1, 1, 1, 1)
    torch.testing.assert_close(seen[1].x_t, (1 - a).sqrt() * seen[1].noise)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"strength = -0\.1"):
        offset_noise(torch.zeros(2, 1, 4, 4), -0.1)
    with pytest.raises(ValueError, match=r"x_0 of shape \(2,\)"):
        offset_noise(torch.zeros(2))

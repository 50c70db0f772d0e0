"""What the doors ask: the table of ranges, of what comes in and of what a network returns."""

import math
import warnings
from functools import partial

import pytest
import torch

from ddpm_lesson import GaussianDiffusion, training
from ddpm_lesson.doors import ImageRangeWarning, answer, check_images
from ddpm_lesson.losses import simple_loss
from ddpm_lesson.networks.mlp import MLP
from ddpm_lesson.predictions import epsilon
from ddpm_lesson.schedules import linear

RAMP = torch.linspace(-1, 1, 2 * 3 * 16).view(2, 3, 4, 4)
UNIT = (RAMP + 1) / 2


@pytest.mark.parametrize(
    "x",
    [
        RAMP,
        1.4 * RAMP,
        RAMP.half(),
        RAMP.bfloat16(),
        RAMP.double(),
        torch.zeros(2, 3, 4, 4),
        torch.ones(2, 3, 4, 4),
        torch.zeros(0, 3, 4, 4),
        255 * UNIT.flatten(1),
        UNIT.flatten(1),
        100 * torch.randn(5, 2),
        torch.zeros(2, 3, 4, 4, device="meta"),
    ],
)
def test_what_is_in_range_or_no_image_passes(x):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_images(x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_ranges_are_told_apart(dtype):
    with pytest.warns(ImageRangeWarning, match="got values from 0 to 1, as ToTensor gives them"):
        check_images(UNIT.to(dtype))
    with pytest.warns(ImageRangeWarning, match="got values up to 3 in size; likely cause: a mean and std"):
        check_images((3 * RAMP).to(dtype))
    with pytest.raises(ValueError, match="got unscaled pixels, from 0 to 255"):
        check_images((255 * UNIT).to(dtype))
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="finite numbers .* got 1 NaN or inf"):
            check_images(torch.where(UNIT == 1, bad, RAMP).to(dtype))
        with pytest.raises(ValueError, match="got 1 NaN or inf"):  # of points, too
            check_images(torch.tensor([[bad, 0.0]], dtype=dtype))


def test_latents_pass_where_they_are_expected():
    check_images(30 * RAMP, far=False)
    with pytest.raises(ValueError, match="unscaled pixels"):
        check_images(255 * UNIT, far=False)


@pytest.mark.parametrize(
    "x, told",
    [
        ((RAMP, RAMP), r"must be one tensor, got a tuple of 2; of a batch \(x_0, labels\) give the first part"),
        ([RAMP] * 3, "must be one tensor, got a list of 3$"),
        ({"x": RAMP}, "must be one tensor, got a dict$"),
        (RAMP.numpy(), "must be one tensor, got a ndarray$"),
        (RAMP.byte(), "must be floating point in .*, got torch.uint8; 8-bit images: x / 127.5 - 1"),
    ],
)
def test_what_is_no_tensor_of_numbers_is_refused(x, told):
    with pytest.raises(TypeError, match=f"x_0 {told}"):
        check_images(x, name="x_0")


def test_values_are_read_back_once(device, monkeypatch):
    # For each of these a GPU has to be waited for.
    read, x = [], RAMP.to(device)
    for name in ("tolist", "item", "__bool__", "__float__", "__int__", "cpu", "numpy"):
        asked = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, asked=asked: read.append(asked.__name__) or asked(self))
    check_images(x)
    assert read == ["tolist"]


def test_training_looks_at_the_first_batch_only(monkeypatch):
    seen = []
    monkeypatch.setattr(training, "check_images", lambda x, **options: seen.append(x))
    process = GaussianDiffusion(linear(10, 0.1, 0.7))
    batches, loss = [torch.randn(4, 2) for _ in range(3)], partial(simple_loss, process, epsilon)
    list(training.train(MLP(10), process, batches, loss, steps=4, accumulate=2))
    assert len(seen) == 1 and seen[0] is batches[0]


def test_a_tensor_is_an_answer_and_the_first_of_a_pair_is_not():
    assert answer(RAMP) is RAMP
    for output in ((RAMP,), [RAMP], None, {"sample": RAMP}, 3.0):
        with pytest.raises(TypeError, match="the model must return a tensor, got a"):
            answer(output)
    with pytest.raises(TypeError, match=r"give a module whose forward returns model\(x, t\)\[0\] instead"):
        answer((RAMP,), module=True)


def test_the_models_of_diffusers_are_told_how_to_be_wrapped():
    from diffusers import UNet2DModel

    from ddpm_lesson import GaussianDiffusionTrainer

    block = {"block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1}
    types = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    unet2d = UNet2DModel(sample_size=4, in_channels=3, out_channels=3, **block, **types)
    with pytest.raises(TypeError, match=r"got a UNet2DOutput: give lambda x, t: model\(x, t\)\.sample instead"):
        GaussianDiffusionTrainer(unet2d, 1e-4, 0.02, 1000)(RAMP)
    loss = GaussianDiffusionTrainer(lambda x, t: unet2d(x, t).sample, 1e-4, 0.02, 1000)(RAMP)
    assert loss.shape == RAMP.shape

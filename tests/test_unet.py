"""The U-Net against a straight-line rewriting of it; its names, sizes and start; what it refuses; how it runs."""

import copy
import inspect
import io
import json
import pickle

import pytest
import torch
import unet_reference
from einops import rearrange
from torch import nn
from unet_reference import randomised

from ddpm_lesson.networks.blocks import ResBlock
from ddpm_lesson.networks.unet import SingleChannelGroupWarning, UNet

SMALL = {"T": 20, "ch": 8, "ch_mult": [1, 2], "attn": [1], "num_res_blocks": 1, "dropout": 0.0, "num_groups": 4}
MEANT = ("ch_mult", "attn", "num_res_blocks", "num_groups", "num_heads", "num_head_channels", "norm_eps")
MEANT += ("scale_shift_norm", "biggan", "same_padding")


def small(**options):
    return UNet(**{**SMALL, **options})


def inputs(model, B=3, H=8, W=8, dtype=torch.float32, device="cpu"):
    """x, t, y, cond for the model; y and cond are None where it takes none."""
    options = model.options
    x, cond = (torch.randn(B, options[name], H, W, dtype=dtype, device=device) for name in ("in_ch", "cond_ch"))
    t = torch.tensor([0, options["T"] - 1, 7, 12, 3], device=device)[:B]
    y = None if options["num_classes"] is None else t % (options["num_classes"] + options["null_class"])
    return x, t, y, cond if options["cond_ch"] else None


# The stack of skips.


@pytest.mark.parametrize(
    "options, channels",
    [  # what comes from below, and the skip
        ({}, [16 + 16, 16 + 8, 16 + 8, 8 + 8]),
        (
            {"ch_mult": [1, 3, 2], "num_res_blocks": 2, "attn": []},
            [16 + 16, 16 + 16, 16 + 24, 16 + 24, 24 + 24, 24 + 8, 24 + 8, 8 + 8, 8 + 8],
        ),
    ],
)
def test_blocks_on_the_way_up_get_what_comes_from_below_and_a_skip(options, channels):
    up = [block for block in small(**options).upblocks if isinstance(block, ResBlock)]
    assert [block.block1[0].num_channels for block in up] == channels


# Against the reference.

CONFIGURATIONS = {
    "one level": {"ch_mult": [1], "attn": []},
    "two levels, H is not W": {"num_res_blocks": 2, "H": 4},
    "levels that grow and shrink": {"ch_mult": [2, 1, 3], "attn": [0, 2]},
    "four levels": {"ch_mult": [1, 1, 2, 2], "attn": [1, 3], "W": 16},
    "three blocks a level": {"num_res_blocks": 3, "attn": [0, 1], "ch_mult": [2, 2]},
    "guided diffusion's": {
        "scale_shift_norm": True,
        "biggan": True,
        "num_heads": 2,
        "num_classes": 3,
        "learned_var": True,
    },
    "heads of one width at every level": {"ch_mult": [1, 2, 3], "attn": [0, 1], "num_head_channels": 4},
    "labels without a null class": {"num_classes": 3, "null_class": False},
    "the official layout": {"official_embedding": True, "same_padding": True, "norm_eps": 1e-6, "W": 4},
    "other channels": {"in_ch": 1, "out_ch": 2, "cond_ch": 3, "num_heads": 8},
}


def both(dtype, device, H=8, W=8, **options):
    """Names of the results; ours; and a function that computes the reference's in a given dtype.

    The results: the output, and the gradients of a weighted sum of it by x and by every trainable parameter.
    """
    model = randomised(small(**options)).to(device, dtype)
    x, t, y, cond = inputs(model, H=H, W=W, dtype=dtype, device=device)
    meaning = {name: model.options[name] for name in MEANT}
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    x.requires_grad_()
    ours = model(x, t, y, cond)
    weights = torch.randn_like(ours)
    ours = [ours, *torch.autograd.grad((ours * weights).sum(), [x, *map(model.get_parameter, names)])]

    def reference(dtype):
        w = {name: value.detach().to(dtype) for name, value in model.state_dict().items()}
        z = x.detach().to(dtype).requires_grad_()
        for name in names:
            w[name].requires_grad_()
        joined = z if cond is None else torch.cat([z, cond.to(dtype)], 1)
        out = unet_reference.unet(w, joined, t, y, **meaning)
        return [out, *torch.autograd.grad((out * weights.to(dtype)).sum(), [z, *(w[name] for name in names)])]

    return ["output", "x", *names], ours, reference


@pytest.mark.parametrize("options", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_unet_equals_the_reference_and_so_do_its_gradients(options, device):
    names, ours, reference = both(torch.float64, device, **options)
    for name, got, expected in zip(names, ours, reference(torch.float64), strict=True):
        if name.endswith("proj_k.bias"):  # it moves all logits of a row alike, and softmax does not see that
            assert expected.abs().max() < 1e-12 and got.abs().max() < 1e-12
            continue
        assert expected.abs().max() > 1e-4, name  # the weight matters to what is compared
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10 * expected.abs().max().item(), msg=name)


def parts(results):
    return results[0], results[1], torch.cat([gradient.flatten() for gradient in results[2:]])


@pytest.mark.parametrize("options", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_unet_in_float32_is_as_near_to_the_truth_as_float32_allows(options):
    # The truth is the reference in float64. What float32 costs is measured on the reference itself, for the output, the
    # gradient by x and that by all parameters: each a norm over hundreds of rounding errors.
    _, ours, reference = both(torch.float32, "cpu", **options)
    for got, slow, truth in zip(*map(parts, (ours, reference(torch.float32), reference(torch.float64))), strict=True):
        assert (got - truth).norm() < 3 * (slow - truth).norm() < 1e-5 * truth.norm()


def test_the_null_class_stands_for_no_label():
    model = randomised(small(num_classes=3))
    x, t, y, _ = inputs(model)
    null = torch.full_like(t, 3)
    assert torch.equal(model(x, t), model(x, t, null)) and torch.equal(model(x, t), model(x, t, null.int()))
    outputs = torch.stack([model(x, t, torch.full_like(t, label)) for label in range(4)]).flatten(1)
    assert torch.cdist(outputs, outputs).fill_diagonal_(1).min() > 1e-2
    assert model.class_embedding.weight.shape == (4, 32)


def test_without_a_null_class_every_image_needs_its_label():
    model = randomised(small(num_classes=3, null_class=False))
    x, t, y, _ = inputs(model)
    assert model.class_embedding.weight.shape == (3, 32)
    outputs = torch.stack([model(x, t, torch.full_like(t, label)) for label in range(3)]).flatten(1)
    assert torch.cdist(outputs, outputs).fill_diagonal_(1).min() > 1e-2
    with pytest.raises(ValueError, match="this network has no null class: y must hold labels in 0..2, got None"):
        model(x, t)
    with pytest.raises(ValueError, match="y must lie in 0..2, got values from 0 to 3"):
        model(x, t, torch.tensor([0, 1, 3]))


def test_without_classes_a_null_class_changes_nothing():
    model = small(null_class=False)
    x, t, _, _ = inputs(model)
    assert model(x, t).shape == x.shape and model.state_dict().keys() == small().state_dict().keys()


def test_the_condition_reaches_every_output_pixel():
    model = randomised(small(cond_ch=2))
    x, t, _, cond = inputs(model)
    assert ((model(x, t, cond=cond) - model(x, t, cond=cond + 1)).abs() > 1e-4).all()


@pytest.mark.parametrize(
    "options, in_ch, out_ch",
    [
        ({}, 3, 3),
        ({"learned_var": True}, 3, 6),
        ({"in_ch": 1}, 1, 1),
        ({"in_ch": 1, "out_ch": 4}, 1, 4),
        ({"in_ch": 4, "out_ch": 3, "learned_var": True}, 4, 6),
        ({"in_ch": 3, "cond_ch": 3}, 3, 3),
        ({"in_ch": 1, "cond_ch": 3, "learned_var": True}, 1, 2),
    ],
)
@pytest.mark.parametrize("B", [0, 1, 5])
def test_output_has_the_declared_channels(options, in_ch, out_ch, B, device):
    model = small(**options).to(device)
    x, t, y, cond = inputs(model, B=B, device=device)
    assert x.shape == (B, in_ch, 8, 8) and model(x, t, y, cond).shape == (B, out_ch, 8, 8)


# Sizes and names.


def test_the_cifar10_network_has_the_papers_number_of_parameters():
    # ERRATA 20: Ho et al. 2020 say 35.7 million. The post's repository divides by 2^20, and counts the
    # frozen time table too.
    with torch.device("meta"):
        model = UNet(1000, 128, [1, 2, 2, 2], [1], 2, 0.1)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 35_746_307
    assert round(sum(p.numel() for p in model.parameters()) / 2**20, 2) == 34.21


def test_state_dict_has_the_posts_names_and_shapes():
    def layer(name, out_ch, *rest):
        return {f"{name}.weight": (out_ch, *rest), f"{name}.bias": (out_ch,)}

    def res_block(name, in_ch, out_ch, attn=False):
        shapes = layer(f"{name}.block1.0", in_ch) | layer(f"{name}.block1.2", out_ch, in_ch, 3, 3)
        shapes |= layer(f"{name}.temb_proj.1", out_ch, 32)
        shapes |= layer(f"{name}.block2.0", out_ch) | layer(f"{name}.block2.3", out_ch, out_ch, 3, 3)
        if in_ch != out_ch:
            shapes |= layer(f"{name}.shortcut", out_ch, in_ch, 1, 1)
        if attn:
            shapes |= layer(f"{name}.attn.group_norm", out_ch)
            for proj in ("proj_q", "proj_k", "proj_v", "proj"):
                shapes |= layer(f"{name}.attn.{proj}", out_ch, out_ch, 1, 1)
        return shapes

    expected = {"time_embedding.timembedding.0.weight": (20, 8)}
    expected |= layer("time_embedding.timembedding.1", 32, 8) | layer("time_embedding.timembedding.3", 32, 32)
    expected |= layer("head", 8, 3, 3, 3)
    expected |= res_block("downblocks.0", 8, 8) | layer("downblocks.1.main", 8, 8, 3, 3)
    expected |= res_block("downblocks.2", 8, 16, attn=True)
    expected |= res_block("middleblocks.0", 16, 16, attn=True) | res_block("middleblocks.1", 16, 16)
    expected |= res_block("upblocks.0", 16 + 16, 16, attn=True) | res_block("upblocks.1", 16 + 8, 16, attn=True)
    expected |= layer("upblocks.2.main", 16, 16, 3, 3)
    expected |= res_block("upblocks.3", 16 + 8, 8) | res_block("upblocks.4", 8 + 8, 8)
    expected |= layer("tail.0", 8) | layer("tail.2", 3, 8, 3, 3)
    assert {name: tuple(value.shape) for name, value in small().state_dict().items()} == expected


@pytest.mark.parametrize("options", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_options_rebuild_the_network(options):
    model = small(**{name: value for name, value in options.items() if name not in ("H", "W")})
    again = UNet(**json.loads(json.dumps(model.options)))
    again.load_state_dict(model.state_dict())
    assert again.options == model.options and again.divisor == model.divisor


def test_options_stand_in_the_order_of_the_arguments():
    """They go into files and messages, which are to be the same on every version of Python."""
    assert list(small().options)[:7] == ["T", "ch", "ch_mult", "attn", "num_res_blocks", "dropout", "in_ch"]
    assert list(small().options) == list(inspect.signature(UNet).parameters)


def test_options_of_files_that_know_fewer_of_them_rebuild_the_network_too():
    """The weights that ship name no null_class and no num_head_channels; they have the former, and one head."""
    model = randomised(small(num_classes=3))
    known = {name: value for name, value in model.options.items() if name not in ("null_class", "num_head_channels")}
    again = UNet(**known)
    again.load_state_dict(model.state_dict())
    assert again.options == model.options
    given = inputs(model)
    assert torch.equal(again(*given), model(*given))


def test_channels_per_head_rename_no_weight():
    assert small(attn=[0, 1], num_head_channels=4).state_dict().keys() == small(attn=[0, 1]).state_dict().keys()


@pytest.mark.parametrize("kind", [tuple, lambda items: range(items[0], items[-1] + 1), iter])
def test_levels_may_come_as_any_iterable(kind):
    model = small(ch_mult=kind([1, 2]), attn=kind([0, 1]))
    assert json.loads(json.dumps(model.options)) == {**small().options, "attn": [0, 1]}
    model.load_state_dict(small(attn=[0, 1]).state_dict())


# How it starts.


@pytest.mark.parametrize("zero_init", [False, True])
def test_output_starts_at_zero(zero_init):
    model = small(zero_init=zero_init, num_classes=2)
    assert model(*inputs(model)).abs().max() <= (0.0 if zero_init else 1e-4)


def test_first_and_last_layer_start_as_glorot_says():
    # n uniform draws know their std to 0.45 / sqrt(n), relatively.
    model = UNet(20, 64, [1], [], 1, 0.0)
    for layer, gain in ((model.head, 1), (model.tail[2], 1e-5)):
        std, n = gain * (2 / (9 * (3 + 64))) ** 0.5, layer.weight.numel()
        assert layer.weight.std().item() == pytest.approx(std, rel=5 * 0.45 / n**0.5)
        assert layer.bias.count_nonzero() == 0


def effect_of_the_time(model):
    """Largest change of the output from the first step to the last, largest gradient of a time projection."""
    x, t = torch.randn(2, 3, 16, 16), torch.zeros(2, dtype=torch.int64)
    out = randomised(model)(x, t)
    out.square().mean().backward()
    change = (model(x, t + model.options["T"] - 1) - out).abs().max().item()
    return change, max(p.grad.abs().max().item() for name, p in model.named_parameters() if "temb_proj" in name)


@pytest.mark.parametrize("options", [{}, {"biggan": True}])
@pytest.mark.parametrize("ch, num_groups", [(32, 32), (8, 8)])
def test_a_norm_of_single_channels_takes_the_time_away(ch, num_groups, options):
    # ERRATA 35, and it is said where the network is built.
    options = {"ch": ch, "ch_mult": [1, 1], **options}
    with pytest.warns(
        SingleChannelGroupWarning, match=f"num_groups = {num_groups} makes every group .* Use fewer"
    ) as told:
        model = small(num_groups=num_groups, **options)
    assert told[0].filename == __file__ and len(told) == 1
    change, gradient = effect_of_the_time(model)
    assert change < 1e-5 and gradient < 1e-7
    change, gradient = effect_of_the_time(small(num_groups=ch // 4, **options))
    assert change > 0.1 and gradient > 1e-3


def test_time_that_comes_after_the_norm_survives_single_channels():
    # No warning (it would be an error here): with scale_shift_norm nothing is lost.
    change, gradient = effect_of_the_time(small(num_groups=8, ch_mult=[1, 1], scale_shift_norm=True))
    assert change > 0.1 and gradient > 1e-3


def test_one_level_of_single_channels_is_enough_for_the_warning():
    with pytest.warns(SingleChannelGroupWarning):
        small(num_groups=8, ch_mult=[2, 1])
    small(num_groups=8, ch_mult=[2, 2])  # the first norm has single channels, but the time enters behind it


# What it refuses.


@pytest.mark.parametrize(
    "levels, H, W",
    [(4, 28, 28), (4, 30, 30), (4, 33, 33), (4, 32, 28), (4, 4, 8), (2, 7, 8), (3, 8, 6)],
)
def test_sides_that_do_not_halve_often_enough_are_refused(levels, H, W):
    # ERRATA 17.
    divisor = 2 ** (levels - 1)
    model = small(ch_mult=[1] * levels)
    assert model.divisor == divisor
    message = rf"height and width must be divisible by {divisor} for {levels} levels, got \(1, 3, {H}, {W}\)"
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(1, 3, H, W), torch.zeros(1, dtype=torch.int64))


def test_sides_need_not_be_equal_nor_powers_of_two():
    model = small(ch_mult=[1] * 4)
    for H, W in ((32, 48), (8, 24)):
        assert model(torch.randn(1, 3, H, W), torch.tensor([3])).shape == (1, 3, H, W)
    assert small(ch_mult=[1], attn=[])(torch.randn(1, 3, 5, 7), torch.tensor([3])).shape == (1, 3, 5, 7)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 4, 8, 8), (2, 1, 8, 8), (2, 3, 8), (2, 3, 8, 8, 8)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"x must be \(B, 3, H, W\), got \(" + ", ".join(map(str, shape))):
        small()(torch.zeros(shape), torch.zeros(shape[0], dtype=torch.int64))


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1)])
def test_t_of_another_shape_is_refused(shape):
    got = str(shape).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=rf"t must be \(B,\) with the batch size of x, got {got} for \(2, 3, 8, 8\)"):
        small()(torch.zeros(2, 3, 8, 8), torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize(
    "t, error, message",
    [
        (torch.tensor([0, 20]), ValueError, "t must lie in 0..19, got values from 0 to 20"),
        (torch.tensor([-1, 5]), ValueError, "t must lie in 0..19, got values from -1 to 5"),
        (torch.tensor([0.0, 0.5]), TypeError, "t must hold integer indices .int64., got torch.float32"),
    ],
)
def test_t_that_is_no_step_is_refused(t, error, message):
    # ERRATA 17.
    with pytest.raises(error, match=message):
        small()(torch.zeros(2, 3, 8, 8), t)


@pytest.mark.parametrize(
    "y, error, message",
    [
        (torch.tensor([0, 4]), ValueError, "y must lie in 0..3, got values from 0 to 4"),
        (torch.tensor([-1, 0]), ValueError, "y must lie in 0..3, got values from -1 to 0"),
        (torch.tensor([0.0, 1.0]), TypeError, "y must hold integer labels .int64., got torch.float32"),
        (torch.tensor([0]), ValueError, r"y must be \(B,\) with the batch size of x, got \(1,\) for \(2, 3, 8, 8\)"),
        (torch.tensor(0), ValueError, r"y must be \(B,\) with the batch size of x, got \(\) for \(2, 3, 8, 8\)"),
    ],
)
def test_labels_that_are_none_are_refused(y, error, message):
    with pytest.raises(error, match=message):
        small(num_classes=3)(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]), y)


def test_labels_for_a_network_without_classes_are_refused():
    with pytest.raises(ValueError, match="y was given to a network without classes: build it with num_classes"):
        small()(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    "cond_ch, shape", [(2, None), (2, (2, 3, 8, 8)), (2, (1, 2, 8, 8)), (2, (2, 2, 4, 4)), (0, (2, 3, 8, 8))]
)
def test_conditions_of_another_shape_are_refused(cond_ch, shape):
    wanted = (2, cond_ch, 8, 8) if cond_ch else None
    message = f"cond must be {wanted} for a network with cond_ch = {cond_ch}, got {shape}"
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        small(cond_ch=cond_ch)(
            torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]), cond=None if shape is None else torch.zeros(shape)
        )


@pytest.mark.parametrize(
    "options, message",
    [
        ({"T": 0}, "T must be at least 1, got 0"),
        ({"ch": 0}, "ch must be at least 2, got 0"),
        ({"num_res_blocks": 0}, "num_res_blocks must be at least 1, got 0"),
        ({"in_ch": 0}, "in_ch must be at least 1, got 0"),
        ({"out_ch": 0}, "out_ch must be at least 1, got 0"),
        ({"cond_ch": -1}, "cond_ch must be at least 0, got -1"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"ch": 15, "num_groups": 3}, "ch must be even, .* got 15"),
        ({"ch": 2, "num_groups": 1, "official_embedding": True}, "d_model must be even and at least 4, got 2"),
        ({"ch_mult": []}, r"ch_mult must hold a positive integer for each level, got \[\]"),
        ({"ch_mult": [1, 0]}, r"ch_mult must hold a positive integer for each level, got \[1, 0\]"),
        ({"ch_mult": [1, 1.5]}, r"ch_mult must hold a positive integer for each level, got \[1, 1.5\]"),
        ({"attn": [2]}, r"attn must name levels in 0..1, got \[2\]"),
        ({"attn": [0, -1]}, r"attn must name levels in 0..1, got \[0, -1\]"),
        ({"num_groups": 3}, "channels must be divisible by num_groups = 3, got 8 channels"),
        ({"num_groups": 32}, "channels must be divisible by num_groups = 32, got 8 channels"),
        ({"num_groups": 0}, "channels must be divisible by num_groups = 0, got 8 channels"),
        ({"num_heads": 3}, "channels must be divisible by num_heads = 3, got 16 channels"),
        ({"num_heads": 0}, "channels must be divisible by num_heads = 0, got 16 channels"),
        ({"num_head_channels": 3}, "channels must be divisible by num_head_channels = 3, got 16 channels"),
        ({"num_head_channels": 16, "attn": [0]}, "divisible by num_head_channels = 16, got 8 channels"),
        ({"num_head_channels": 0}, "channels must be divisible by num_head_channels = 0, got 16 channels"),
        ({"num_head_channels": 4, "num_heads": 2}, "exclude each other: .* num_heads = 2 and num_head_channels = 4"),
        ({"dropout": 1.5}, "dropout probability has to be between 0 and 1, but got 1.5"),
        ({"biggan": True, "same_padding": True}, "same_padding pads strided convolutions.*choose one"),
    ],
)
def test_networks_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


# How it runs.


def test_dropout_is_active_in_training_only():
    model = randomised(small(dropout=0.5))
    x, t, _, _ = inputs(model)
    assert not torch.equal(model(x, t), model(x, t))
    model.eval()
    assert torch.equal(model(x, t), model(x, t))


@pytest.mark.parametrize("options", [{}, {"scale_shift_norm": True, "biggan": True, "num_classes": 2, "cond_ch": 1}])
def test_gradient_reaches_every_trained_parameter(options, device):
    model = randomised(small(**options)).to(device, torch.float64)
    model(*inputs(model, dtype=torch.float64, device=device)).square().sum().backward()
    frozen = {name for name, p in model.named_parameters() if p.grad is None}
    assert frozen == {"time_embedding.timembedding.0.weight"}
    reached = {name: p.grad.abs().max() > 1e-4 for name, p in model.named_parameters() if p.requires_grad}
    assert all(reached[name] != name.endswith("proj_k.bias") for name in reached)  # softmax does not see a shift


@pytest.mark.parametrize("grad", [False, True])
def test_inputs_are_left_as_they_were(grad):
    model = randomised(small(num_classes=3, cond_ch=1))
    given = inputs(model)
    given[0].requires_grad_(grad)
    before = copy.deepcopy(given)
    with torch.set_grad_enabled(grad):
        model(*given)
    assert all(torch.equal(one, other) for one, other in zip(given, before, strict=True))


def test_images_of_a_batch_do_not_meet():
    model = randomised(small(num_classes=3)).double()
    x, t, y, _ = inputs(model, dtype=torch.float64)
    alone = torch.cat([model(x[i : i + 1], t[i : i + 1], y[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(model(x, t, y), alone, rtol=0, atol=1e-12)


def test_copies_are_equal_and_apart():
    model = randomised(small(num_classes=3))
    x, t, y, _ = inputs(model)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    restored = UNet(**model.options)
    restored.load_state_dict(torch.load(file, weights_only=True))
    out = model(x, t, y)
    copies = copy.deepcopy(model), pickle.loads(pickle.dumps(model)), restored
    nn.init.zeros_(model.tail[2].weight)
    assert all(torch.equal(twin(x, t, y), out) for twin in copies)


@pytest.mark.parametrize("options", [{}, {"scale_shift_norm": True, "biggan": True, "num_classes": 2, "cond_ch": 1}])
def test_unet_compiles_into_one_graph_for_every_batch_size(options):
    torch._dynamo.reset()
    model = randomised(small(**options))
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    for B in (2, 3):
        given = inputs(model, B=B)
        torch.testing.assert_close(compiled(*given), model(*given))


CHANNELS_LAST = pytest.mark.parametrize(
    "options", [{}, {"num_heads": 2}, {"same_padding": True}, {"scale_shift_norm": True, "biggan": True}]
)


@CHANNELS_LAST
def test_channels_last_changes_no_value(options, device):
    model = randomised(small(**options)).to(device, torch.float64)
    x, t, _, _ = inputs(model, H=16, dtype=torch.float64, device=device)
    expected = model(x, t)
    model.to(memory_format=torch.channels_last)
    out = model(x.contiguous(memory_format=torch.channels_last), t)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


@CHANNELS_LAST
def test_channels_last_holds_from_layer_to_layer(options):
    # On the CPU: CUDA's GroupNorm gives its result in the other layout.
    model, images = small(**options).to(memory_format=torch.channels_last), []
    for module in model.modules():
        module.register_forward_hook(lambda module, args, out: images.append(out) if out.ndim == 4 else None)
    x, t, _, _ = inputs(model, H=16)
    model(x.contiguous(memory_format=torch.channels_last), t)
    assert len(images) > 40 and all(image.is_contiguous(memory_format=torch.channels_last) for image in images)


@pytest.mark.parametrize("options", [{}, {"scale_shift_norm": True, "biggan": True, "num_classes": 2}])
def test_half_the_digits_give_nearly_the_same(options, device):
    # bfloat16 keeps 8 bits, so rounding costs up to 2^-9, relatively; of some 100 roundings in a row the errors add as
    # independent ones do.
    model = randomised(small(**options)).to(device)
    given = inputs(model, device=device)
    expected = model(*given)
    with torch.autocast(device.type, torch.bfloat16):
        mixed = model(*given)
    half = model.to(torch.bfloat16)(given[0].bfloat16(), *given[1:])
    assert mixed.dtype == half.dtype == torch.bfloat16
    for out in (mixed, half):
        assert (out.float() - expected).norm() < 100**0.5 * 2**-9 * expected.norm()


# Patches


def test_a_patch_becomes_the_channels_of_one_position():
    """A network of patches is the plain one of the image that einops rearranges."""
    patched = randomised(small(in_ch=2, cond_ch=1, patch_size=2, learned_var=True)).eval()
    plain = small(in_ch=8, cond_ch=4, out_ch=16).eval()
    plain.load_state_dict(patched.state_dict())
    x, t, _, cond = inputs(patched, W=12)
    apart = [rearrange(each, "b c (h p) (w q) -> b (c p q) h w", p=2, q=2) for each in (x, cond)]
    expected = rearrange(plain(apart[0], t, cond=apart[1]), "b (c p q) h w -> b c (h p) (w q)", p=2, q=2)
    torch.testing.assert_close(patched(x, t, cond=cond), expected)
    assert patched.divisor == 4 and patched.options["patch_size"] == 2


def test_patches_must_fit():
    with pytest.raises(ValueError, match=r"divisible by 4 for 2 levels and patch_size = 2, got \(1, 3, 8, 6"):
        small(patch_size=2)(torch.zeros(1, 3, 8, 6), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="patch_size must be at least 1, got 0"):
        small(patch_size=0)

"""The U-Net's blocks against other libraries, closed forms and their own properties; how they start; their errors."""

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import nn
from torch.nn import functional as F
from torch.nn import init
from torch.utils._python_dispatch import TorchDispatchMode
from unet_reference import randomised

from ddpm_lesson.networks.blocks import AttnBlock, DownSample, ResBlock, UpSample, group_norm

DOUBLE = {"rtol": 0, "atol": 1e-12}  # float64 and sums of at most some hundred terms of size 1


# Group norm.


@pytest.mark.parametrize("size", [1.0, 0.001])
@pytest.mark.parametrize("eps", [1e-5, 1e-6])
def test_group_norm_is_its_formula_for_small_inputs_too(size, eps, device):
    # At size 0.001 the variance is 1e-6, no larger than eps: another eps, or one outside of the root, would show.
    norm = randomised(group_norm(6, 3, eps)).to(device, torch.float64)
    h = size * torch.randn(2, 6, 3, 5, dtype=torch.float64, device=device)
    expected = torch.empty_like(h)
    for image in range(2):
        for c in range(6):
            group = h[image, c - c % 2 : c - c % 2 + 2]
            mean = group.sum() / 30
            var = ((group - mean) ** 2).sum() / 30
            expected[image, c] = norm.weight[c] * (h[image, c] - mean) / (var + eps) ** 0.5 + norm.bias[c]
    torch.testing.assert_close(norm(h), expected, **DOUBLE)


class Norms(TorchDispatchMode):
    """Notes the dtype of what PyTorch's kernel normalises."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.native_group_norm.default:
            self.dtypes.append(args[0].dtype)
        return func(*args, **(kwargs or {}))

    def __enter__(self):
        self.dtypes = []
        return super().__enter__()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weights", ["float32", "half"])
def test_a_norm_in_half_precision_is_computed_in_float32_on_a_cpu(dtype, weights):
    norm = group_norm(32, 8, 1e-5)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    norm = norm.to(dtype) if weights == "half" else norm
    x = torch.randn(2, 32, 6, 6).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    with Norms() as seen:
        out = norm(x)
    assert seen.dtypes == [torch.float32] and out.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
    groups = x.detach().double().unflatten(1, (8, 4))
    mean, var = groups.mean((2, 3, 4), keepdim=True), groups.var((2, 3, 4), correction=0, keepdim=True)
    expected = ((groups - mean) / (var + 1e-5).sqrt()).flatten(1, 2)
    expected = expected * norm.weight.double().view(-1, 1, 1) + norm.bias.double().view(-1, 1, 1)
    error = (out.double() - expected).abs()
    assert (error <= torch.finfo(dtype).eps / 2 * expected.abs() + 1e-5).all()  # one rounding, at the end
    out.sum().backward()
    assert x.grad.dtype == dtype and all(p.grad.dtype == p.dtype for p in norm.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_norm_in_full_precision_is_pytorchs(dtype):
    norm, x = group_norm(32, 8, 1e-5).to(dtype), torch.randn(2, 32, 6, 6, dtype=dtype)
    assert torch.equal(norm(x), nn.functional.group_norm(x, 8, norm.weight, norm.bias, 1e-5))


# Residual blocks.


@pytest.mark.parametrize("out_ch", [8, 12])
@pytest.mark.parametrize("scale_shift_norm", [False, True])
@pytest.mark.parametrize("resample", [None, nn.AvgPool2d(2), nn.Upsample(scale_factor=2.0)])
def test_res_block_equals_diffusers(out_ch, scale_shift_norm, resample, device):
    block = ResBlock(8, out_ch, 5, 0.0, num_groups=4, scale_shift_norm=scale_shift_norm, resample=resample)
    peer = ResnetBlock2D(
        in_channels=8,
        out_channels=out_ch,
        temb_channels=5,
        groups=4,
        eps=1e-5,
        time_embedding_norm="scale_shift" if scale_shift_norm else "default",
        up=isinstance(resample, nn.Upsample),
        down=isinstance(resample, nn.AvgPool2d),
    )
    names = {"block1.0": "norm1", "block1.2": "conv1", "temb_proj.1": "time_emb_proj", "block2.0": "norm2"}
    names |= {"block2.3": "conv2", "shortcut": "conv_shortcut"}
    weights = {key.rpartition(".")[::2]: value for key, value in randomised(block).state_dict().items()}
    peer.load_state_dict({f"{names[layer]}.{kind}": value for (layer, kind), value in weights.items()})
    block, peer = block.to(device, torch.float64), peer.to(device, torch.float64)
    x = torch.randn(3, 8, 6, 4, dtype=torch.float64, device=device)
    temb = torch.randn(3, 5, dtype=torch.float64, device=device)
    torch.testing.assert_close(block(x, temb), peer(x, temb), **DOUBLE)


def test_scale_shift_norm_is_the_formula_of_its_paper():
    # Behind the second norm: h (1 + scale) + shift, the first half of the projection the scale.
    block = randomised(ResBlock(4, 4, 3, 0.0, num_groups=2, scale_shift_norm=True)).double()
    seen = {}
    block.block1[-1].register_forward_hook(lambda module, args, out: seen.update(first=out))
    block.block2[-1].register_forward_pre_hook(lambda module, args: seen.update(last=args[0]))
    x, temb = torch.randn(2, 4, 3, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    block(x, temb)
    time = (temb * temb.sigmoid()) @ block.temb_proj[1].weight.T + block.temb_proj[1].bias
    scale, shift = time[:, :4, None, None], time[:, 4:, None, None]
    modulated = block.block2[0](seen["first"]) * (1 + scale) + shift
    torch.testing.assert_close(seen["last"], modulated * modulated.sigmoid(), **DOUBLE)


def test_dropout_is_active_in_training_only():
    block, x, temb = randomised(ResBlock(8, 8, 4, 0.5, num_groups=4)), torch.randn(2, 8, 4, 4), torch.randn(2, 4)
    assert not torch.equal(block(x, temb), block(x, temb))
    block.eval()
    assert torch.equal(block(x, temb), block(x, temb))
    without = ResBlock(8, 8, 4, 0.0, num_groups=4)
    without.load_state_dict(block.state_dict())
    assert torch.equal(block(x, temb), without(x, temb))


def test_dropout_leaves_out_the_declared_share():
    block, n, rate = ResBlock(8, 8, 4, 0.3, num_groups=4), 40, 0.3
    shares = []
    block.block2[-1].register_forward_pre_hook(lambda module, args: shares.append((args[0] == 0).float().mean().item()))
    block(torch.randn(n, 8, 10, 10), torch.randn(n, 4))
    assert abs(shares[0] - rate) < 5 * (rate * (1 - rate) / (n * 800)) ** 0.5


# Attention.


def attention(channels, heads, **options):
    return randomised(AttnBlock(channels, num_groups=4, num_heads=heads, **options)).double()


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_attention_equals_torchs_multi_head_attention(heads, device):
    block, peer = (
        attention(16, heads).to(device),
        nn.MultiheadAttention(16, heads, batch_first=True).double().to(device),
    )
    projections = [block.proj_q, block.proj_k, block.proj_v]
    with torch.no_grad():
        peer.in_proj_weight.copy_(torch.cat([conv.weight.flatten(1) for conv in projections]))
        peer.in_proj_bias.copy_(torch.cat([conv.bias for conv in projections]))
        peer.out_proj.weight.copy_(block.proj.weight.flatten(1))
        peer.out_proj.bias.copy_(block.proj.bias)
    x = torch.randn(2, 16, 5, 3, dtype=torch.float64, device=device)
    pixels = block.group_norm(x).flatten(2).transpose(1, 2)  # (B, H W, C)
    expected = x + peer(pixels, pixels, pixels)[0].transpose(1, 2).unflatten(2, (5, 3))
    torch.testing.assert_close(block(x), expected, **DOUBLE)


@pytest.mark.parametrize("channels", [8, 16, 32])
def test_channels_per_head_make_wider_layers_have_more_heads(channels):
    x, one = torch.randn(2, channels, 4, 3, dtype=torch.float64), attention(channels, 1, num_head_channels=8)
    assert one.num_heads == channels // 8
    same = attention(channels, channels // 8)
    same.load_state_dict(one.state_dict())
    assert torch.equal(one(x), same(x))


def test_heads_are_not_one_wide_head():
    x, one, four = torch.randn(1, 16, 4, 4, dtype=torch.float64), attention(16, 1), attention(16, 4)
    four.load_state_dict(one.state_dict())
    assert (one(x) - four(x)).abs().max() > 0.01


def test_attention_follows_a_permutation_of_the_pixels():
    block, x, order = attention(8, 2), torch.randn(2, 8, 3, 4, dtype=torch.float64), torch.randperm(12)
    moved = x.flatten(2)[..., order].unflatten(2, (3, 4))
    torch.testing.assert_close(block(moved), block(x).flatten(2)[..., order].unflatten(2, (3, 4)), **DOUBLE)


def test_equal_keys_give_every_pixel_the_mean_value():
    block, x = attention(8, 2), torch.randn(2, 8, 3, 4, dtype=torch.float64)
    nn.init.zeros_(block.proj_k.weight)
    mean = block.proj_v(block.group_norm(x)).mean((2, 3), keepdim=True)
    torch.testing.assert_close(block(x), x + block.proj(mean), **DOUBLE)


# Down and up.


def test_down_sample_pads_as_declared(device):
    # ERRATA 19: zeros on every side, or as TensorFlow's "same" below and on the right only.
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64, device=device)
    for same_padding, pad in ((False, (1, 1, 1, 1)), (True, (0, 1, 0, 1))):
        block = randomised(DownSample(3, same_padding=same_padding)).double().to(device)
        expected = F.conv2d(F.pad(x, pad), block.main.weight, block.main.bias, stride=2)
        torch.testing.assert_close(block(x), expected, **DOUBLE)
        assert block(x).shape == (2, 3, 3, 4)


def test_the_two_paddings_look_one_pixel_apart():
    # ERRATA 19: with a kernel that takes its middle pixel, one reads the even rows and columns, the other the odd ones.
    x = torch.arange(64.0).reshape(1, 1, 8, 8)
    for same_padding, first in ((False, 0), (True, 1)):
        block = DownSample(1, same_padding=same_padding)
        with torch.no_grad():
            block.main.weight.zero_()[0, 0, 1, 1] = 1
        assert torch.equal(block(x), x[:, :, first::2, first::2])


def test_up_sample_repeats_every_pixel_before_its_convolution(device):
    block = randomised(UpSample(3)).double().to(device)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, device=device)
    twice = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(block(x), F.conv2d(twice, block.main.weight, block.main.bias, padding=1), **DOUBLE)


# How they start.


def layers(module):
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}


def small(name):
    return name.endswith("block2.3") or name in ("proj", "attn.proj")


@pytest.mark.parametrize(
    "block",
    [
        lambda: ResBlock(64, 128, 256, 0.1, attn=True),
        lambda: ResBlock(128, 128, 256, 0.1, scale_shift_norm=True),
        lambda: AttnBlock(128),
        lambda: DownSample(64),
        lambda: UpSample(64),
    ],
)
def test_layers_start_as_glorot_says(block):
    # Uniform with variance 2 gain^2 / (fan in + fan out): n draws know their std to 0.45 / sqrt(n), relatively.
    for name, layer in layers(block()).items():
        w = layer.weight
        taps = w[0, 0].numel()
        std = (2 / (taps * (w.shape[0] + w.shape[1]))) ** 0.5 * (1e-5 if small(name) else 1)
        assert abs(w.std().item() / std - 1) < 5 * 0.45 / w.numel() ** 0.5, name
        assert w.abs().max() <= 3**0.5 * std * (1 + 1e-6), name
        assert layer.bias.count_nonzero() == 0, name


@pytest.mark.parametrize("zero_init, bound", [(False, 1e-4), (True, 0.0)])
@pytest.mark.parametrize("out_ch, attn", [(64, False), (64, True), (32, True)])
def test_a_residual_block_starts_as_its_shortcut(zero_init, bound, out_ch, attn):
    block = ResBlock(64, out_ch, 16, 0.1, attn, zero_init=zero_init, num_groups=8)
    x = torch.randn(2, 64, 8, 8)
    assert (block(x, torch.randn(2, 16)) - block.shortcut(x)).abs().max() <= bound
    zeros = {name for name, layer in layers(block).items() if layer.weight.count_nonzero() == 0}
    assert zeros == {name for name in layers(block) if zero_init and small(name)}


def as_the_post_starts_it(block):
    """The post's ResBlock.initialize: it walks over all modules, the finished AttnBlock among them."""
    for layer in layers(block).values():
        init.xavier_uniform_(layer.weight)
        init.zeros_(layer.bias)
    init.xavier_uniform_(block.block2[-1].weight, gain=1e-5)
    return block


def test_attention_keeps_its_small_start_inside_of_a_residual_block():
    # ERRATA 9: the post's block overwrites it.
    block, x = ResBlock(128, 128, 512, 0.1, attn=True), torch.randn(4, 128, 16, 16)

    def start():
        with torch.no_grad():
            return block.attn.proj.weight.std().item(), (block.attn(x) - x).square().mean().sqrt().item()

    std, residual = start()
    assert std == pytest.approx(8.84e-7, rel=0.02) and residual == pytest.approx(1.3e-6, rel=0.1)
    as_the_post_starts_it(block)
    std, residual = start()
    assert std == pytest.approx(0.0884, rel=0.02) and residual == pytest.approx(0.130, rel=0.1)


# What they refuse.


@pytest.mark.parametrize("groups", [32, 3, 0, -1])
def test_channels_that_do_not_divide_by_the_groups_are_refused(groups):
    # ERRATA 17.
    message = f"channels must be divisible by num_groups = {groups}, got 40 channels"
    with pytest.raises(ValueError, match=message):
        AttnBlock(40, num_groups=groups)
    with pytest.raises(ValueError, match=message):
        ResBlock(40, 96, 4, 0.0, num_groups=groups)
    if groups > 0:
        with pytest.raises(ValueError, match=message):
            ResBlock(96, 40, 4, 0.0, num_groups=groups)


@pytest.mark.parametrize("heads", [3, 0, -1])
def test_channels_that_do_not_divide_by_the_heads_are_refused(heads):
    message = f"channels must be divisible by num_heads = {heads}, got 16 channels"
    with pytest.raises(ValueError, match=message):
        AttnBlock(16, num_groups=4, num_heads=heads)
    with pytest.raises(ValueError, match=message):
        ResBlock(16, 16, 4, 0.0, True, num_groups=4, num_heads=heads)


@pytest.mark.parametrize("size", [3, 32, 0, -1])
def test_channels_that_do_not_divide_by_the_channels_per_head_are_refused(size):
    message = f"channels must be divisible by num_head_channels = {size}, got 16 channels"
    with pytest.raises(ValueError, match=message):
        AttnBlock(16, num_groups=4, num_head_channels=size)
    with pytest.raises(ValueError, match=message):
        ResBlock(16, 16, 4, 0.0, True, num_groups=4, num_head_channels=size)


def test_heads_and_channels_per_head_exclude_each_other():
    message = "exclude each other: give one of them, got num_heads = 4 and num_head_channels = 4"
    with pytest.raises(ValueError, match=message):
        AttnBlock(16, num_groups=4, num_heads=4, num_head_channels=4)


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_a_dropout_that_is_no_rate_is_refused(rate):
    with pytest.raises(ValueError, match=f"dropout probability has to be between 0 and 1, but got {rate}"):
        ResBlock(8, 8, 4, rate, num_groups=4)

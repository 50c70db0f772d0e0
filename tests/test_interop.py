"""Weights in and out: the post's checkpoints, and diffusers' UNet2DModel and DDPMScheduler as the other side."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    PNDMScheduler,
    UNet2DConditionModel,
    UNet2DModel,
)
from safetensors.torch import load_file, save_file
from unet_reference import unet as reference

from ddpm_lesson import spacing
from ddpm_lesson.denoisers import clipped, make_denoiser
from ddpm_lesson.interop import from_diffusers, load_pytorch_ddpm, to_diffusers
from ddpm_lesson.networks.unet import UNet
from ddpm_lesson.predictions import MEAN_TYPES, VARIANCES
from ddpm_lesson.process import GaussianDiffusion
from ddpm_lesson.samplers import ancestral, ddim, last, reverse
from ddpm_lesson.schedules import cosine, linear, linear_scaled
from ddpm_lesson.variants.guidance import classifier_free

TABLE = "time_embedding.timembedding.0.weight"


def randomised(net):
    """The network with every weight drawn anew: last layers start near 0 and would hide the others."""
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name != TABLE:
                is_scale = p.ndim == 1 and name.endswith("weight")
                p.normal_(float(is_scale), 0.3 if p.ndim == 1 else p[0].numel() ** -0.5)
    return net.eval()


def small(**options):
    arguments = {"T": 1000, "ch": 16, "ch_mult": [1, 2], "attn": [1], "num_res_blocks": 1, "dropout": 0.1}
    return randomised(UNet(**(arguments | {"num_groups": 4} | options)))


def inputs(T=1000, channels=3, batch=4):
    return torch.randn(batch, channels, 8, 16), torch.tensor([0, T // 2, T - 2, T - 1])[:batch]


# The repository behind the post.


def post_net(T=12, ch=64, ch_mult=(1, 2), attn=(1,), num_res_blocks=1):
    return randomised(UNet(T, ch, list(ch_mult), list(attn), num_res_blocks, dropout=0.1))


def post_checkpoint(net, ema):
    optim = torch.optim.Adam(net.parameters(), lr=2e-4)
    sched = torch.optim.lr_scheduler.LambdaLR(optim, lr_lambda=lambda step: min(step, 5000) / 5000)
    net(*inputs(12)).square().mean().backward()
    optim.step()
    sched.step()
    states = {"net_model": net, "ema_model": ema, "sched": sched, "optim": optim}
    return {name: part.state_dict() for name, part in states.items()} | {"step": 1, "x_T": torch.randn(2, 3, 8, 8)}


@pytest.mark.parametrize("given", [str, Path, torch.load])
def test_post_checkpoint_gives_the_post_network(tmp_path, given):
    net, ema = post_net(), post_net()
    path = tmp_path / "ckpt.pt"
    torch.save(post_checkpoint(net, ema), path)
    x, t = inputs(12)
    for weights, source in (({}, ema), ({"weights": "ema_model"}, ema), ({"weights": "net_model"}, net)):
        loaded = load_pytorch_ddpm(given(path), dropout=0.25, **weights)
        assert not loaded.training
        assert loaded.options["dropout"] == loaded.downblocks[0].block2[2].p == 0.25
        state = {name: tensor.double() for name, tensor in source.state_dict().items()}
        expected = reference(state, x.double(), t, ch_mult=[1, 2], attn=[1], num_res_blocks=1)
        torch.testing.assert_close(loaded.double()(x.double(), t), expected)


@pytest.mark.parametrize(
    "T, ch, ch_mult, attn, num_res_blocks",
    [(5, 64, (1,), (), 1), (7, 64, (1, 2, 1), (0, 2), 2), (1000, 96, (2, 1), (1,), 3), (3, 64, (1, 1, 1), (), 1)],
)
def test_post_arguments_are_read_off_the_weights(T, ch, ch_mult, attn, num_res_blocks):
    net = post_net(T, ch, ch_mult, attn, num_res_blocks)
    loaded = load_pytorch_ddpm(net.state_dict(), dropout=0.1)
    assert loaded.options == net.options | {"out_ch": 3}
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in net.state_dict().items())


def test_post_state_dict_of_data_parallel():
    net = post_net()
    of_parallel = {f"module.{name}": tensor for name, tensor in net.state_dict().items()}
    loaded = load_pytorch_ddpm(of_parallel)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_post_weights_keep_their_dtype(dtype):
    """Weights that float32 does not hold, or that use half of its memory, stay what they are."""
    net = randomised(post_net().to(dtype))
    loaded = load_pytorch_ddpm(net.state_dict())
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {dtype}
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in net.state_dict().items())
    if dtype == torch.float64:
        assert not torch.equal(net.head.weight.float().double(), net.head.weight)
        x, t = inputs(12)
        expected = reference(net.state_dict(), x.double(), t, ch_mult=[1, 2], attn=[1], num_res_blocks=1)
        torch.testing.assert_close(loaded(x.double(), t), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "name, dtype, message",
    [
        ("tail.2.bias", torch.bfloat16, "expected tail.2.bias to be torch.float32 as the others, got torch.bfloat16"),
        (TABLE, torch.float64, f"expected {TABLE} to be torch.float32 as the others, got torch.float64"),
        ("head.weight", torch.int8, "expected floating-point weights, got head.weight of torch.int8"),
    ],
)
def test_post_weights_of_several_dtypes_or_of_integers_are_refused(name, dtype, message):
    state = post_net().state_dict()
    state[name] = state[name].to(dtype)
    with pytest.raises(ValueError, match=message):
        load_pytorch_ddpm(state)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_code_in_a_checkpoint_does_not_run(tmp_path, save):
    path, trace = tmp_path / "ckpt.pt", tmp_path / "trace"
    save(post_net().state_dict() | {"x_T": Malicious(trace)}, path)
    with pytest.raises(ValueError, match="expected a file that torch.load can read without running code"):
        load_pytorch_ddpm(path)
    assert not trace.exists()
    if save is torch.save:
        torch.load(path, weights_only=False)
        assert trace.exists()  # an ordinary load would have run it


def test_post_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_pytorch_ddpm(tmp_path / "ckpt.pt")


@pytest.mark.parametrize("part", [0, 0.5, "text"])
def test_post_file_that_is_broken(tmp_path, part):
    path = tmp_path / "ckpt.pt"
    torch.save(post_net().state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes(b"not a checkpoint" if part == "text" else whole[: int(part * len(whole))])
    with pytest.raises(ValueError, match="expected a file that torch.load can read .* got .*ckpt.pt: "):
        load_pytorch_ddpm(path)


def changed(**changes):
    state = post_net().state_dict() | {name.replace("__", "."): value for name, value in changes.items()}
    return {name: tensor for name, tensor in state.items() if tensor is not None}


@pytest.mark.parametrize(
    "checkpoint, message",
    [
        (lambda: [1, 2], "expected a dict of weights, got list"),
        (lambda: {"ema_model": [1]}, "expected a dict of weights, got list"),
        (lambda: {"net_model": {}, "step": 3}, "expected 'ema_model' in the checkpoint, got net_model, step"),
        (lambda: {"step": 3}, "expected a dict of names and tensors, got int under 'step'"),
        (lambda: {3: torch.zeros(1)}, "expected a dict of names and tensors, got Tensor under 3"),
        (dict, f"such as {TABLE} .T, ch., .* got none; missing or misshapen: '{TABLE}'"),
        (lambda: torch.nn.Linear(2, 2).state_dict(), "got bias, weight; missing or misshapen"),
        (lambda: changed(time_embedding__timembedding__0__weight=torch.zeros(4)), "missing or misshapen"),
        (lambda: changed(time_embedding__timembedding__0__weight=torch.zeros(4, 0)), "missing or misshapen"),
        (lambda: changed(head__weight=torch.zeros(())), "missing or misshapen"),
        (lambda: changed(downblocks__0__block1__2__weight=None), "misshapen: 'downblocks.0.block1.2.weight'"),
        (lambda: changed(upblocks__0__block2__0__bias=None), "missing upblocks.0.block2.0.bias; unexpected none"),
        (lambda: changed(extra__weight=torch.zeros(1)), "missing none; unexpected extra.weight"),
        (lambda: changed(tail__0__bias=torch.zeros(7)), r"expected tail.0.bias to be \(64,\), got \(7,\)"),
        (lambda: changed(tail__2__bias=torch.zeros(7)), r"expected tail.2.bias to be \(3,\), got \(7,\)"),
        (lambda: small(num_groups=16, ch=32, num_classes=2).state_dict(), "unexpected class_embedding.weight"),
        (lambda: small(num_groups=16, ch=64, scale_shift_norm=True).state_dict(), "expected downblocks.0.temb_proj.1"),
        (lambda: small(num_groups=16, ch=64, biggan=True).state_dict(), "missing .*; unexpected "),
        (lambda: small(ch=16).state_dict(), "channels must be divisible by num_groups = 32, got 16 channels"),
    ],
)
@pytest.mark.filterwarnings("ignore::ddpm_lesson.networks.unet.SingleChannelGroupWarning")
def test_post_weights_that_do_not_fit(tmp_path, checkpoint, message):
    torch.save(checkpoint(), tmp_path / "ckpt.pt")
    with pytest.raises(ValueError, match=message):
        load_pytorch_ddpm(tmp_path / "ckpt.pt")


def test_post_weights_that_do_not_exist():
    with pytest.raises(ValueError, match="weights must be 'ema_model' or 'net_model', got 'ema'"):
        load_pytorch_ddpm({}, weights="ema")


# Networks of this package, as diffusers'.

OPTIONS = {
    "the post's": {},
    "DDPM's own": {"official_embedding": True, "same_padding": True, "norm_eps": 1e-6},
    "guided-diffusion's": {"scale_shift_norm": True, "biggan": True, "num_heads": 2, "learned_var": True},
    "three levels": {"ch_mult": [1, 2, 3], "attn": [0, 2], "num_res_blocks": 2},
    "one level": {"ch_mult": [1], "attn": [], "num_heads": 4},
    "heads of one width": {"ch_mult": [1, 2, 2], "attn": [1], "num_heads": 8},
    "channels per head": {"ch_mult": [1, 2, 3], "attn": [0, 1], "num_head_channels": 8},
    "BigGAN without attention": {"ch_mult": [1, 2, 1], "attn": [], "biggan": True},
    "classes and grey images": {"num_classes": 3, "in_ch": 1, "out_ch": 2, "T": 50},
    "classes without a null class": {"num_classes": 4, "null_class": False},
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def both(ours, theirs, x, t):
    with torch.no_grad():
        if ours.options["num_classes"] is None:
            return ours(x, t), theirs(x, t).sample
        y = torch.tensor([0, 1, 2, 3], device=x.device)[: len(x)]
        return ours(x, t, y), theirs(x, t, class_labels=y).sample


@every_option
def test_outputs_are_those_of_diffusers(options):
    ours = small(**options)
    theirs, scheduler = to_diffusers(ours)
    assert scheduler is None
    out, expected = both(ours, theirs, *inputs(ours.options["T"], ours.options["in_ch"]))
    assert out.std() > 0.1
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)


@every_option
def test_outputs_are_those_of_diffusers_to_all_digits(options, device):
    """In float64, given their sines and cosines. Their angles, up to 999, have passed four roundings to float32."""
    ours = randomised(small(**options).double()).to(device)
    theirs, _ = to_diffusers(ours)
    T, ch, official = (ours.options[name] for name in ("T", "ch", "official_embedding"))
    table = theirs.time_proj(torch.arange(T, device=device)).view(T, 2, ch // 2)  # sines, cosines
    table = (table if official else table.transpose(1, 2)).reshape(T, ch).double()
    torch.testing.assert_close(ours.state_dict()[TABLE], table, rtol=0, atol=999 * 4 * 2**-24)
    ours.state_dict()[TABLE].copy_(table)
    x, t = (v.to(device) for v in inputs(T, ours.options["in_ch"]))
    out, expected = both(ours, theirs, x.double(), t)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


@every_option
def test_there_and_back_changes_nothing(options):
    ours = randomised(small(**options).double())
    null_class = ours.options["num_classes"] is not None and ours.options["null_class"]
    back, _ = from_diffusers(to_diffusers(ours)[0], T=ours.options["T"], null_class=null_class)
    assert ours.state_dict().keys() == back.state_dict().keys()
    assert all(torch.equal(back.state_dict()[name], tensor) for name, tensor in ours.state_dict().items())
    given = ours.options | {"out_ch": ours.tail[-1].out_channels, "learned_var": False}  # only a scheduler knows
    assert back.options == given


@pytest.mark.parametrize("wrong", ["official_embedding", "same_padding"])
def test_layouts_are_not_interchangeable(wrong):
    """ERRATA 18 and 19: the same weights under another embedding or another padding are another network."""
    ours = small()
    other = UNet(**(ours.options | {wrong: True})).eval()
    state = {name: tensor for name, tensor in ours.state_dict().items() if name != TABLE}
    other.load_state_dict(state, strict=False)
    out, theirs = both(other, to_diffusers(ours)[0], *inputs())
    assert (out - theirs).abs().max() > 0.05


def test_conversion_keeps_mode_and_type_and_copies():
    ours = small().to(torch.bfloat16).train()
    theirs, _ = to_diffusers(ours)
    back, _ = from_diffusers(theirs)
    for net in (theirs, back):
        assert net.training and {p.dtype for p in net.parameters()} == {torch.bfloat16}
    before = ours.head.weight.clone()
    theirs.conv_in.weight.data.zero_()
    assert back.head.weight.count_nonzero() and torch.equal(ours.head.weight, before)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"cond_ch": 1}, "cond_ch must be 0, got 1"),
        ({"latent": 3}, "latent must be 0, got 3"),
        ({"patch_size": 2}, "patch_size must be 1, got 2"),
        ({"ch_mult": [2, 2]}, r"ch_mult\[0\] must be 1, got \[2, 2\]"),
        ({"attn": [0], "num_heads": 2}, r"num_heads must be 1 unless .* = 2 for \[16, 32\] channels; num_head_ch"),
    ],
)
def test_options_that_diffusers_lacks(options, message):
    with pytest.raises(ValueError, match=message):
        to_diffusers(small(**options))


@pytest.mark.parametrize("size", [0, 7, (8, 9), (8, -2)])
def test_sample_size_must_fit(size):
    with pytest.raises(ValueError, match="sample_size must be divisible by 2, got"):
        to_diffusers(small(), sample_size=size)


# Networks of diffusers, as ours.

CIFAR10 = """{"_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", "act_fn": "silu", "attention_head_dim": null,
"block_out_channels": [128, 256, 256, 256], "center_input_sample": false, "down_block_types": ["DownBlock2D",
"AttnDownBlock2D", "DownBlock2D", "DownBlock2D"], "downsample_padding": 0, "flip_sin_to_cos": false, "freq_shift": 1,
"in_channels": 3, "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-06, "norm_num_groups": 32,
"out_channels": 3, "sample_size": 32, "time_embedding_type": "positional", "up_block_types": ["UpBlock2D", "UpBlock2D",
"AttnUpBlock2D", "UpBlock2D"]}"""  # of google/ddpm-cifar10-32

DOWN, UP = ("DownBlock2D", "AttnDownBlock2D"), ("AttnUpBlock2D", "UpBlock2D")
RESNET_DOWN, RESNET_UP = ("ResnetDownsampleBlock2D", "AttnDownBlock2D"), ("AttnUpBlock2D", "ResnetUpsampleBlock2D")
BASE = {"block_out_channels": (16, 32), "down_block_types": DOWN, "up_block_types": UP, "norm_num_groups": 4}
EVERYWHERE = {"down_block_types": DOWN[1:] * 2, "up_block_types": UP[:1] * 2}
BIGGAN = {"down_block_types": RESNET_DOWN, "up_block_types": RESNET_UP}
BIGGAN |= {"downsample_type": "resnet", "upsample_type": "resnet"}
CONFIGS = {
    "their defaults": {},
    "DDPM's own": {"freq_shift": 1, "flip_sin_to_cos": False, "downsample_padding": 0, "norm_eps": 1e-6},
    "sines first": {"flip_sin_to_cos": False, "layers_per_block": 1, "attention_head_dim": None},
    "cosines first": {"freq_shift": 1, "flip_sin_to_cos": True},
    "one head by its width": {"attention_head_dim": 32},
    "as many heads as channels": {"attention_head_dim": 1},
    "heads of one width on two levels": EVERYWHERE,
    "one head of 16 and two": EVERYWHERE | {"attention_head_dim": 16},
    "heads at the first level and in the middle": {"down_block_types": DOWN[::-1], "up_block_types": UP[::-1]},
    "the same said otherwise": {"act_fn": "swish", "time_embedding_dim": 64, "attn_norm_num_groups": 4},
    "AdaGN": {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 4},
    "BigGAN": BIGGAN,
    "BigGAN with an idle padding": BIGGAN | {"downsample_padding": 0},
    "classes": {"num_class_embeds": 4, "in_channels": 1, "out_channels": 2},
}


def their_model(**config):
    return randomised(UNet2DModel(**(BASE | config)))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_models_of_diffusers_and_back(config):
    theirs = their_model(**config)
    ours, process = from_diffusers(theirs)
    assert process is None and not ours.training
    x, t = inputs(channels=theirs.config.in_channels)
    out, expected = both(ours, theirs, x, t)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)
    back, _ = to_diffusers(ours)
    for name, tensor in theirs.state_dict().items():
        got = back.state_dict()[name]
        if name == "time_embedding.linear_1.weight" and theirs.config.flip_sin_to_cos:
            got = got.roll(8, 1)  # we hand over sines first
        assert torch.equal(got, tensor), name
    torch.testing.assert_close(back(x, t, *labels(theirs)).sample, expected, rtol=0, atol=1e-5)


def test_the_default_model_of_diffusers():
    """Levels of 224 to 896 channels with 8 channels per head: 28 to 112 heads."""
    theirs = UNet2DModel().eval()
    ours, _ = from_diffusers(theirs)
    assert (ours.options["num_heads"], ours.options["num_head_channels"]) == (1, 8)
    assert [block.attn.num_heads for block in (ours.downblocks[3], ours.middleblocks[0])] == [56, 112]
    out, expected = both(ours, theirs, *inputs(batch=2))
    assert out.std() > 0.1
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)


def labels(theirs):
    return () if theirs.config.num_class_embeds is None else (torch.tensor([0, 1, 2, 3]),)


def test_the_published_cifar10_layout():
    theirs = randomised(UNet2DModel.from_config(json.loads(CIFAR10)))
    scheduler = DDPMScheduler(variance_type="fixed_large")  # 1000 linear steps
    ours, process = from_diffusers(theirs, scheduler)
    assert sum(p.numel() for p in ours.parameters() if p.requires_grad) == 35_746_307
    named = {name: ours.options[name] for name in ("T", "ch", "ch_mult", "attn", "num_res_blocks")}
    assert named == {"T": 1000, "ch": 128, "ch_mult": [1, 2, 2, 2], "attn": [1], "num_res_blocks": 2}
    assert ours.options["official_embedding"] and ours.options["same_padding"] and ours.options["norm_eps"] == 1e-6
    assert torch.equal(process.betas.float(), scheduler.betas)
    out, expected = both(ours, theirs, *inputs(batch=2))
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)
    back, _ = to_diffusers(ours, sample_size=32)
    written, given = (json.loads(net.to_json_string()) for net in (back, theirs))
    assert {name: written[name] for name in given} == given
    assert all(torch.equal(back.state_dict()[name], tensor) for name, tensor in theirs.state_dict().items())


def test_old_names_of_attention(tmp_path):
    """Files from diffusers before 0.13 call the projections query, key, value and proj_attn."""
    theirs = their_model()
    theirs.save_pretrained(tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, tensor in load_file(path).items():
        for new, former in old.items():
            name = name.replace(f".{new}.", f".{former}.")
        state[name] = tensor
    assert any(".proj_attn." in name for name in state) and not any(".to_" in name for name in state)
    save_file(state, path, {"format": "pt"})
    ours, _ = from_diffusers(UNet2DModel.from_pretrained(tmp_path))
    out, expected = both(ours, theirs, *inputs())
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "config, message",
    [
        ({"act_fn": "gelu"}, "act_fn: expected 'silu'.* got 'gelu'"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type: expected 'positional'.* got 'fourier'"),
        ({"time_embedding_dim": 32}, "time_embedding_dim: expected None.* got 32"),
        ({"freq_shift": 0.5}, "freq_shift: expected 0.* got 0.5"),
        ({"center_input_sample": True}, "center_input_sample: expected False.* got True"),
        ({"mid_block_scale_factor": 2}, "mid_block_scale_factor: expected 1.* got 2"),
        ({"mid_block_type": None}, "mid_block_type: expected 'UNetMidBlock2D'.* got None"),
        ({"add_attention": False}, "add_attention: expected True.* got False"),
        ({"class_embed_type": "timestep"}, "class_embed_type: expected None.* got 'timestep'"),
        ({"downsample_padding": 2}, "downsample_padding: expected 1.* got 2"),
        ({"block_out_channels": (16, 24)}, r"block_out_channels: expected multiples of the first, got \[16, 24\]"),
        ({"block_out_channels": (32, 16)}, r"block_out_channels: expected multiples of the first, got \[32, 16\]"),
        ({"up_block_types": ("UpBlock2D",) * 2}, "up_block_types: expected .*Attn.*got ..UpBlock2D', 'UpBlock2D'.$"),
        ({"down_block_types": ("AttnDownBlock2D", "DownBlock2D")}, "up_block_types: expected .*got ..AttnUp"),
        ({"attention_head_dim": 3}, r"attention_head_dim: expected a divisor of the channels \[32\], got 3"),
        (EVERYWHERE | {"attention_head_dim": 5}, r"expected a divisor of the channels \[16, 32\], got 5"),
        ({"down_block_types": ("SkipDownBlock2D", "AttnDownBlock2D")}, "down_block_types: expected .*got .*'Skip"),
        ({"attn_norm_num_groups": 8}, "attn_norm_num_groups: expected None.* got 8"),
        ({"resnet_time_scale_shift": "scale_shift"}, "attn_norm_num_groups: expected 4.* got None"),
        ({"upsample_type": "resnet"}, "upsample_type: expected 'conv'.* got 'resnet'"),
        (BIGGAN | {"down_block_types": DOWN}, "down_block_types: expected .*Resnet.* got .*'DownBlock2D'"),
        (BIGGAN | {"upsample_type": "conv"}, "upsample_type: expected 'resnet'.* got 'conv'"),
    ],
)
def test_configurations_that_unet_lacks(config, message):
    with pytest.raises(ValueError, match=message):
        from_diffusers(UNet2DModel(**(BASE | config)))


def test_an_imported_network_has_no_silent_null_class():
    theirs = their_model(num_class_embeds=4)
    ours, process = from_diffusers(theirs, DDPMScheduler(num_train_timesteps=20))
    assert (ours.options["num_classes"], ours.options["null_class"]) == (4, False)
    x, t = inputs(20)
    message = "has no null class: y must hold labels in 0..3, got None"
    with pytest.raises(ValueError, match=message):
        ours(x, t)
    conditional = make_denoiser(ours, process, MEAN_TYPES["epsilon"], y=torch.tensor([0, 1, 2, 3]))
    guided = classifier_free(conditional, make_denoiser(ours, process, MEAN_TYPES["epsilon"]), 2.0)
    with pytest.raises(ValueError, match=message):
        guided(x, t)
    with pytest.raises(ValueError, match="y must lie in 0..3, got values from 0 to 4"):
        ours(x, t, torch.tensor([0, 1, 2, 4]))


def test_an_imported_network_has_a_null_class_if_you_say_so():
    theirs = their_model(num_class_embeds=4)
    ours, _ = from_diffusers(theirs, null_class=True)
    assert (ours.options["num_classes"], ours.options["null_class"]) == (3, True)
    x, t = inputs()
    with torch.no_grad():
        expected = theirs(x, t, class_labels=torch.full((4,), 3)).sample
        torch.testing.assert_close(ours(x, t), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("classes", [None, 1])
def test_a_null_class_must_be_one_of_several(classes):
    with pytest.raises(ValueError, match=f"num_class_embeds: expected a class and the null class, .* got {classes}"):
        from_diffusers(their_model(num_class_embeds=classes), null_class=True)


def test_a_model_of_several_dtypes_is_refused():
    theirs = their_model()
    theirs.mid_block.to(torch.float64)
    with pytest.raises(ValueError, match="expected middleblocks.0.* to be torch.float32 as the others, got .*float64"):
        from_diffusers(theirs)


def test_weights_that_do_not_fit_their_configuration():
    theirs = their_model()
    theirs.mid_block.attentions[0].adapter = torch.nn.Linear(1, 1, bias=False)
    with pytest.raises(ValueError, match="missing none; unexpected mid_block.attentions.0.adapter.weight"):
        from_diffusers(theirs)


# Processes.


@pytest.mark.parametrize("betas", [linear(1000), cosine(30), linear(1, 0.5, 0.5)])
def test_betas_there_and_back(betas):
    process = GaussianDiffusion(betas)
    theirs, scheduler = to_diffusers(small(T=len(betas)), process)
    assert torch.equal(scheduler.betas, betas.float())
    saved = DDPMScheduler.from_config(json.loads(scheduler.to_json_string()))
    ours, back = from_diffusers(theirs, saved)
    assert torch.equal(back.betas, betas) and ours.options["T"] == back.T == len(betas)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 40},
        {"trained_betas": [0.1, 0.2, 0.3]},
        {"trained_betas": [0.1, 0.2, 0.3], "rescale_betas_zero_snr": True},
    ],
)
def test_betas_of_diffusers_there_and_back(config):
    scheduler = DDPMScheduler(**config)
    ours, process = from_diffusers(their_model(), scheduler)
    assert torch.equal(process.betas.float(), scheduler.betas)
    assert ours.options["T"] == len(scheduler.betas)
    assert torch.equal(to_diffusers(ours, process)[1].betas, scheduler.betas)


def test_last_betas_of_1_are_imported():
    """With rescale_betas_zero_snr nothing of x_0 is left at the last step."""
    for scheduler in (DDPMScheduler, DDIMScheduler):
        given = scheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction")
        _, process = from_diffusers(their_model(), given, mean_type="v")
        assert process.betas[-1] == 1 and process.alphas_bar[-1] == 0
        assert torch.equal(process.betas.float(), given.betas)


@pytest.mark.parametrize("name", ["epsilon", "xstart", "v"])
def test_a_mean_type_is_a_name_or_an_object(name):
    unet, process, mean_type = small(T=10), GaussianDiffusion(linear(10)), MEAN_TYPES[name]
    (_, by_object), (_, by_name) = (to_diffusers(unet, process, mean_type=given) for given in (mean_type, name))
    assert by_object.config == by_name.config
    model, scheduler = to_diffusers(unet, process, mean_type=mean_type)
    assert torch.equal(from_diffusers(model, scheduler, mean_type=mean_type)[1].betas, process.betas)
    with pytest.raises(ValueError, match="diffusers knows the mean types epsilon, xstart, v, got 'xprev'"):
        to_diffusers(unet, process, mean_type=MEAN_TYPES["xprev"])


# Samples of exported networks.


def tiny(T, **options):
    return small(**{"T": T, "ch": 8, "ch_mult": [1], "attn": [], "dropout": 0.0} | options)


def pipeline_images(pipeline, **options):
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(2, torch.Generator().manual_seed(1), output_type="np", **options).images  # "pt" since 0.36 only
    return torch.from_numpy(images).movedim(3, 1)


VARIANCE = pytest.mark.parametrize("var_type", ["fixedsmall", "fixedlarge", "learned_range"])
STEPS = pytest.mark.parametrize("T, S", [(1000, 2), (1000, 20), (1000, 50), (200, 200)])


@STEPS
def test_exported_steps_run_from_the_last_to_the_first(T, S):
    _, scheduler = to_diffusers(tiny(T), GaussianDiffusion(linear(T)))
    scheduler.set_timesteps(S)
    assert scheduler.timesteps.tolist() == spacing.linspace(T, S)[::-1]


@VARIANCE
@STEPS
def test_no_noise_is_left_in_the_final_image(T, S, var_type):
    """The network says that x_0 = 0, so the last mean is 0, and with trailing steps the image was noise around it."""
    unet = UNet(T, 8, [1], [], 1, 0.0, num_groups=4, zero_init=True, learned_var=var_type == "learned_range").eval()
    process = GaussianDiffusion(linear_scaled(T))
    pipeline = DDPMPipeline(*to_diffusers(unet, process, mean_type="xstart", var_type=var_type, sample_size=8))
    images = pipeline_images(pipeline, num_inference_steps=S)
    assert torch.equal(images, torch.full((2, 3, 8, 8), 0.5))


@VARIANCE
@STEPS
@pytest.mark.parametrize("mean_type", ["epsilon", "v"])
def test_exported_images_are_those_of_our_respaced_chain(T, S, var_type, mean_type):
    """As users draw them. What remains is the rounding of diffusers' float32 tables: see the next test."""
    unet = tiny(T, learned_var=var_type == "learned_range")
    process = GaussianDiffusion(linear_scaled(T))
    pipeline = DDPMPipeline(*to_diffusers(unet, process, mean_type=mean_type, var_type=var_type, sample_size=8))
    theirs = pipeline_images(pipeline, num_inference_steps=S)
    generator = torch.Generator().manual_seed(1)
    x_T = torch.randn(2, 3, 8, 8, generator=generator)
    chain = process.respaced(spacing.linspace(T, S))
    p = reverse(chain, clipped(make_denoiser(unet, process, MEAN_TYPES[mean_type]), process), VARIANCES[var_type])
    ours = last(ancestral(chain, p, x_T, generator=generator)).clamp(-1, 1) / 2 + 0.5
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)


@VARIANCE
@pytest.mark.parametrize("T, S", [(1000, 2), (1000, 20), (1000, 27), (1000, 50), (200, 200)])
@pytest.mark.parametrize("mean_type", ["epsilon", "xstart", "v"])
@pytest.mark.parametrize("schedule", [linear_scaled, cosine])
def test_exported_schedulers_step_as_our_respaced_chain_to_all_digits(T, S, var_type, mean_type, schedule):
    """In float64, given our network and our alphas_bar: theirs have passed T products in float32.

    Where betas are small, 1 - alphas_bar[t] / alphas_bar[t - 1] loses EPS / 1e-4 of its relative precision.
    """
    unet = tiny(T, learned_var=var_type == "learned_range").double()
    process = GaussianDiffusion(schedule(T))
    _, scheduler = to_diffusers(unet, process, mean_type=mean_type, var_type=var_type)
    torch.testing.assert_close(scheduler.alphas_cumprod.double(), process.alphas_bar, rtol=T * 2**-24, atol=1e-7)
    scheduler.alphas_cumprod = process.alphas_bar
    scheduler.set_timesteps(S)
    generator = torch.Generator().manual_seed(1)
    x_T = x_t = torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)
    for t in scheduler.timesteps:
        with torch.no_grad():
            output = unet(x_t, t.expand(2))
        x_t = scheduler.step(output, t, x_t, generator=generator).prev_sample
    generator = torch.Generator().manual_seed(1)
    torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)  # x_T
    chain = process.respaced(scheduler.timesteps.flip(0).tolist())  # with S = 27 another one than spacing.linspace
    p = reverse(chain, clipped(make_denoiser(unet, process, MEAN_TYPES[mean_type]), process), VARIANCES[var_type])
    ours = last(ancestral(chain, p, x_T, generator=generator))
    assert ours.std() > 0.1
    torch.testing.assert_close(x_t, ours, rtol=0, atol=1e-11)


def ddim_images(unet, process, steps, eta):
    generator = torch.Generator().manual_seed(1)
    x_T = torch.randn(2, 3, 8, 8, generator=generator)
    denoise = clipped(make_denoiser(unet, process, MEAN_TYPES["epsilon"]), process)
    return last(ddim(process.respaced(steps), denoise, x_T, eta=eta, generator=generator)).clamp(-1, 1) / 2 + 0.5


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("S", [20, 50])
def test_ddim_of_an_exported_scheduler(S, eta):
    unet, process = tiny(1000), GaussianDiffusion(linear(1000))
    unet2d, scheduler = to_diffusers(unet, process, sample_size=8)
    pipeline = DDIMPipeline(unet2d, DDIMScheduler.from_config(scheduler.config, timestep_spacing="trailing"))
    theirs = pipeline_images(pipeline, num_inference_steps=S, eta=eta, use_clipped_model_output=True)
    ours = ddim_images(unet, process, spacing.trailing(1000, S), eta)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_of_an_imported_scheduler(eta):
    """Their defaults: leading steps, x_0 clipped. eta, clipping and steps are chosen at our sampler."""
    theirs, scheduler = randomised(UNet2DModel(**BASE, sample_size=8)), DDIMScheduler(beta_schedule="scaled_linear")
    ours, process = from_diffusers(theirs, scheduler)
    assert ours.options["T"] == process.T == 1000 and torch.equal(process.betas.float(), scheduler.betas)
    images = pipeline_images(
        DDIMPipeline(theirs, scheduler), num_inference_steps=20, eta=eta, use_clipped_model_output=True
    )
    expected = ddim_images(ours, process, spacing.leading(1000, 20), eta)
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        {"clip_sample": False, "timestep_spacing": "trailing", "steps_offset": 1},
        {"clip_sample_range": 2.0, "timestep_spacing": "linspace"},
    ],
)
@pytest.mark.parametrize("scheduler", [DDPMScheduler, DDIMScheduler])
def test_what_the_sampler_decides_does_not_change_an_import(scheduler, config):
    theirs = their_model()
    (ours, process), (other, same) = (from_diffusers(theirs, scheduler(**given)) for given in ({}, config))
    assert ours.options == other.options and torch.equal(process.betas, same.betas)


@pytest.mark.parametrize(
    "scheduler, config, message",
    [
        (DDPMScheduler, {"thresholding": True}, "thresholding: expected False, .* got True; DDPMScheduler.from_config"),
        (DDIMScheduler, {"thresholding": True}, "thresholding: expected False, .* got True; DDIMScheduler.from_config"),
        (DDIMScheduler, {"set_alpha_to_one": False}, "set_alpha_to_one: expected True, .* got False; DDIMScheduler"),
        (DDIMScheduler, {"prediction_type": "sample"}, "prediction_type: expected 'epsilon', .* got 'sample'"),
    ],
)
def test_schedulers_that_sample_otherwise_are_refused(scheduler, config, message):
    theirs, given = their_model(), scheduler(**config)
    with pytest.raises(ValueError, match=message):
        from_diffusers(theirs, given)
    if "prediction_type" not in config:  # the way out that the message names
        ((name, value),) = config.items()
        from_diffusers(theirs, scheduler.from_config(given.config, **{name: not value}))


@pytest.mark.parametrize(
    "mean_type, var_type, clip",
    [
        ("epsilon", "fixedlarge", True),
        ("epsilon", "learned_range", False),
        ("xstart", "fixedsmall", True),
        ("v", "fixedsmall", False),
        ("v", "learned_range", True),
    ],
)
def test_a_published_pipeline_draws_our_samples(tmp_path, mean_type, var_type, clip):
    process = GaussianDiffusion(linear(8, 0.01, 0.5))
    ours = small(T=8, learned_var=var_type == "learned_range")
    options = {"mean_type": mean_type, "var_type": var_type, "clip_denoised": clip, "sample_size": (8, 16)}
    pipeline = DDPMPipeline(*to_diffusers(ours, process, **options))
    pipeline.save_pretrained(tmp_path)
    published = DDPMPipeline.from_pretrained(tmp_path)
    drawn = [pipeline_images(each, num_inference_steps=8) for each in (pipeline, published)]
    assert torch.equal(*drawn)

    loaded, again = from_diffusers(published.unet, published.scheduler, mean_type=mean_type)
    assert loaded.options == ours.options | {"out_ch": 3}
    for net, chain in ((ours, process), (loaded, again)):
        generator = torch.Generator().manual_seed(1)
        x_T = torch.randn(2, 3, 8, 16, generator=generator)
        denoise = make_denoiser(net, chain, MEAN_TYPES[mean_type])
        p = reverse(chain, clipped(denoise, chain) if clip else denoise, VARIANCES[var_type])
        samples = last(ancestral(chain, p, x_T, generator=generator)).clamp(-1, 1) / 2 + 0.5
        torch.testing.assert_close(samples, drawn[0], rtol=0, atol=1e-4)


def test_the_default_variance_follows_the_network():
    process = GaussianDiffusion(linear(1000))
    for learned_var, expected in ((False, "fixed_large"), (True, "learned_range")):
        _, scheduler = to_diffusers(small(learned_var=learned_var), process)
        assert scheduler.config.variance_type == expected and scheduler.config.clip_sample


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mean_type": "xprev"}, "diffusers knows the mean types epsilon, xstart, v, got 'xprev'"),
        ({"mean_type": "eps"}, "unknown mean_type 'eps'"),
        ({"var_type": "small"}, "unknown var_type 'small'"),
        ({"var_type": "learned_range"}, "goes with learned_var, got 'learned_range', learned_var = False"),
        ({"process": GaussianDiffusion(linear(1000)).respaced([3, 9])}, "got a chain respaced from it"),
        ({"process": GaussianDiffusion(linear(1001))}, "at most the network's T = 1000 steps, got 1001"),
    ],
)
def test_processes_that_diffusers_lacks(options, message):
    with pytest.raises(ValueError, match=message):
        to_diffusers(small(), **({"process": GaussianDiffusion(linear(1000))} | options))


def test_learned_variance_is_not_dropped():
    with pytest.raises(ValueError, match="goes with learned_var, got 'fixedsmall', learned_var = True"):
        to_diffusers(small(learned_var=True), GaussianDiffusion(linear(9)), var_type="fixedsmall")


@pytest.mark.parametrize(
    "config, mean_type, message",
    [
        ({"prediction_type": "sample"}, "epsilon", "prediction_type: expected 'epsilon', .* got 'sample'"),
        ({}, "v", "prediction_type: expected 'v_prediction', .* got 'epsilon'"),
        ({}, "xprev", "diffusers knows the mean types"),
        ({"variance_type": "learned"}, "epsilon", "variance_type: expected learned_range .* got 'learned'"),
        ({"variance_type": "learned_range"}, "epsilon", "out_channels: expected 2, .* got 3"),
    ],
)
def test_schedulers_that_do_not_fit(config, mean_type, message):
    with pytest.raises(ValueError, match=message):
        from_diffusers(their_model(), DDPMScheduler(**config), mean_type=mean_type)


def test_other_objects_are_refused():
    with pytest.raises(TypeError, match="unet must be a UNet, got Linear"):
        to_diffusers(torch.nn.Linear(1, 1))
    with pytest.raises(TypeError, match=f"unet2d must be a UNet2DModel, got {UNet2DConditionModel.__name__}"):
        from_diffusers(UNet2DConditionModel.__new__(UNet2DConditionModel))
    with pytest.raises(TypeError, match="scheduler must be a DDPMScheduler or DDIMScheduler, got PNDMScheduler"):
        from_diffusers(their_model(), PNDMScheduler())


# The package diffusers.


def test_diffusers_is_asked_for_when_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    for convert in (to_diffusers, from_diffusers):
        with pytest.raises(ImportError, match="needs the package diffusers: pip install diffusers"):
            convert(small())


def test_diffusers_loads_when_used():
    code = "import sys, ddpm_lesson.interop; print('diffusers' in sys.modules, 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False True\n"

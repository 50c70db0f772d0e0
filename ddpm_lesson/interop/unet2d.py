"""diffusers' UNet2DModel and our UNet: the names of weights and of options in both languages."""

from collections.abc import Mapping
from inspect import Parameter

import torch
from torch import Tensor

from ddpm_lesson.networks.unet import TABLE, UNet

# A layer's name here and there: those that stand alone, then those inside of a block.
LAYERS = {
    "time_embedding.timembedding.1": "time_embedding.linear_1",
    "time_embedding.timembedding.3": "time_embedding.linear_2",
    "class_embedding": "class_embedding",
    "head": "conv_in",
    "tail.0": "conv_norm_out",
    "tail.2": "conv_out",
}
INNER_LAYERS = {
    "block1.0": "norm1",
    "block1.2": "conv1",
    "temb_proj.1": "time_emb_proj",
    "block2.0": "norm2",
    "block2.3": "conv2",
    "shortcut": "conv_shortcut",
    "attn.group_norm": "group_norm",
    "attn.proj_q": "to_q",
    "attn.proj_k": "to_k",
    "attn.proj_v": "to_v",
    "attn.proj": "to_out.0",
    "main": "conv",
}
# Options that have the same values here and there.
SAME = {"in_ch": "in_channels", "num_res_blocks": "layers_per_block", "dropout": "dropout"}
SAME |= {"num_groups": "norm_num_groups", "norm_eps": "norm_eps"}
FIRST_LINEAR = "time_embedding.timembedding.1.weight"  # its columns follow the order of sines and cosines


def names_of(unet: UNet) -> dict[str, str]:
    """The name of every weight here and there. Only the time table has no counterpart."""
    levels, n = range(len(unet.options["ch_mult"])), unet.options["num_res_blocks"]
    blocks = {"middleblocks.0": "mid_block.resnets.0", "middleblocks.1": "mid_block.resnets.1"}
    for way, count in (("down", n), ("up", n + 1)):  # both count up blocks from the coarsest level
        layers = [*(f"resnets.{j}" for j in range(count)), f"{way}samplers.0"]
        theirs = [f"{way}_blocks.{i}.{layer}" for i in levels for layer in layers]
        blocks |= {f"{way}blocks.{k}": name for k, name in enumerate(theirs)}
    names = {}
    for name in unet.state_dict().keys() - {TABLE}:
        layer, kind = name.rsplit(".", 1)
        if layer in LAYERS:
            names[name] = f"{LAYERS[layer]}.{kind}"
        else:
            group, k, inner = layer.split(".", 2)
            block = blocks[f"{group}.{k}"]
            block = block.replace("resnets", "attentions") if inner.startswith("attn.") else block
            names[name] = f"{block}.{INNER_LAYERS[inner]}.{kind}"
    return names


def time_columns(options: dict, *, cosine_first: bool = False) -> Tensor:
    """Which columns of our time table make diffusers': all sines, then all cosines, or the other way round."""
    columns = torch.arange(options["ch"])
    if not options["official_embedding"]:
        columns = torch.cat([columns[0::2], columns[1::2]])
    return columns.roll(len(columns) // 2) if cosine_first else columns


def config_of(options: dict) -> dict:
    """Our options as arguments of UNet2DModel. Raises ValueError that names the option that has no counterpart."""
    attn, heads, head_dim = (options[name] for name in ("attn", "num_heads", "num_head_channels"))
    classes = options["num_classes"]
    channels = [options["ch"] * mult for mult in options["ch_mult"]]
    widths = _attention_widths(channels, attn)
    if options["cond_ch"]:
        raise ValueError(f"diffusers' UNet2DModel takes no image cond: cond_ch must be 0, got {options['cond_ch']}")
    if options["latent"]:
        raise ValueError(f"diffusers' UNet2DModel takes no latent z: latent must be 0, got {options['latent']}")
    if options["patch_size"] > 1:
        raise ValueError(f"diffusers' UNet2DModel has no patches: patch_size must be 1, got {options['patch_size']}")
    if channels[0] != options["ch"]:
        raise ValueError(f"diffusers' first level has ch channels: ch_mult[0] must be 1, got {options['ch_mult']}")
    if heads > 1 and len(widths) > 1:
        raise ValueError(
            "diffusers' heads are equally wide: num_heads must be 1 unless the levels with attention (in the middle it "
            f"is the last level's) have equally many channels, got num_heads = {heads} for {widths} channels; "
            "num_head_channels can be expressed"
        )
    if head_dim is None and heads > 1:
        head_dim = widths[0] // heads
    resample, down, up = "conv", "DownBlock2D", "UpBlock2D"
    if options["biggan"]:
        resample, down, up = "resnet", "ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"
    levels = range(len(channels))
    return {theirs: options[ours] for ours, theirs in SAME.items()} | {
        "out_channels": (options["out_ch"] or options["in_ch"]) * (2 if options["learned_var"] else 1),
        "freq_shift": 1 if options["official_embedding"] else 0,
        "flip_sin_to_cos": False,
        "down_block_types": ["AttnDownBlock2D" if i in attn else down for i in levels],
        "up_block_types": ["AttnUpBlock2D" if i in attn else up for i in reversed(levels)],
        "block_out_channels": channels,
        "downsample_padding": 0 if options["same_padding"] else 1,
        "downsample_type": resample,
        "upsample_type": resample,
        "attention_head_dim": head_dim,  # None: one head
        "attn_norm_num_groups": options["num_groups"] if options["scale_shift_norm"] else None,
        "resnet_time_scale_shift": "scale_shift" if options["scale_shift_norm"] else "default",
        "num_class_embeds": None if classes is None else classes + options["null_class"],
    }


def options_of(config: dict, *, null_class: bool) -> dict:
    """The options, T and learned_var aside, that come closest to a UNet2DModel's configuration: see `compare`.

    null_class: the last of its classes stands for images without a label.
    """
    channels, down_types = config["block_out_channels"], config["down_block_types"]
    if any(c % channels[0] for c in channels):
        raise ValueError(f"block_out_channels: expected multiples of the first, got {channels}")
    attn = [i for i, kind in enumerate(down_types) if kind == "AttnDownBlock2D"]
    widths, head_dim = _attention_widths(channels, attn), config["attention_head_dim"]
    if any(width % (head_dim or width) for width in widths):
        raise ValueError(f"attention_head_dim: expected a divisor of the channels {widths}, got {head_dim}")
    heads = {width // (head_dim or width) for width in widths}
    biggan = config["downsample_type"] == "resnet" or "ResnetDownsampleBlock2D" in down_types
    classes = config["num_class_embeds"]
    if null_class and (classes or 0) < 2:
        raise ValueError(f"num_class_embeds: expected a class and the null class, at least 2, got {classes}")
    return {ours: config[theirs] for ours, theirs in SAME.items()} | {
        "ch": channels[0],
        "ch_mult": [c // channels[0] for c in channels],
        "attn": attn,
        "out_ch": config["out_channels"],
        "cond_ch": 0,
        "latent": 0,
        "patch_size": 1,
        "num_classes": None if classes is None else classes - null_class,
        "null_class": null_class or classes is None,
        "num_heads": min(heads) if len(heads) == 1 else 1,
        "num_head_channels": None if len(heads) == 1 else head_dim,
        "scale_shift_norm": config["resnet_time_scale_shift"] == "scale_shift",
        "biggan": biggan,
        "official_embedding": config["freq_shift"] == 1,
        "same_padding": config["downsample_padding"] == 0 and not biggan,
    }


def compare(config: dict, options: dict, parameters: Mapping[str, Parameter]) -> None:
    """Raise ValueError that names the entry of the configuration that these options do not express.

    parameters: UNet2DModel's. What our options do not set has to stand at its default.
    """
    expected = {name: p.default for name, p in parameters.items() if name != "self"} | config_of(options)
    also = {"act_fn": "swish", "time_embedding_dim": 4 * options["ch"], "attn_norm_num_groups": options["num_groups"]}
    if options["biggan"]:
        also["downsample_padding"] = 0  # nothing is padded there
    heeded = {"sample_size", "num_train_timesteps", "flip_sin_to_cos", "attention_head_dim"}  # or of no effect
    for name, wanted in expected.items():
        if name not in heeded and config[name] not in (wanted, also.get(name, wanted)):
            raise ValueError(f"{name}: expected {wanted!r}, which is what UNet can do, got {config[name]!r}")


def _attention_widths(channels, attn):
    return sorted({channels[i] for i in [*attn, -1]})

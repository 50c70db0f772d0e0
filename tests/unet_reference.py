"""The U-Net's forward pass written out: slow and explicit, from the source post's description, as a witness.

Plain functions of a dict of weights, `w`, under the post's names (`downblocks.0.block1.2.weight`). `name` says where in
the dict a layer's weights stand. Nothing here calls a layer of PyTorch.
"""

import torch


def unet(
    w,
    x,
    t,
    y=None,
    *,
    ch_mult,
    attn,
    num_res_blocks,
    num_groups=32,
    num_heads=1,
    num_head_channels=None,
    norm_eps=1e-5,
    scale_shift_norm=False,
    biggan=False,
    same_padding=False,
):
    temb = linear(w, "time_embedding.timembedding.1", w["time_embedding.timembedding.0.weight"][t])
    temb = linear(w, "time_embedding.timembedding.3", swish(temb))
    if y is not None:
        temb = temb + w["class_embedding.weight"][y]

    def block(name, h, has_attention=False, resample=None):
        h = residual(w, name, h, temb, num_groups, norm_eps, scale_shift_norm, resample)
        heads = h.shape[1] // num_head_channels if num_head_channels else num_heads
        return attention(w, name + ".attn", h, num_groups, heads, norm_eps) if has_attention else h

    h = conv3(w, "head", x)
    skips = [h]
    n = 0
    for level in range(len(ch_mult)):
        for _ in range(num_res_blocks):
            h = block(f"downblocks.{n}", h, level in attn)
            skips.append(h)
            n += 1
        if level < len(ch_mult) - 1:
            if biggan:
                h = block(f"downblocks.{n}", h, resample=halve)
            else:
                h = conv3(w, f"downblocks.{n}.main", h, stride=2, before=0 if same_padding else 1)
            skips.append(h)
            n += 1

    h = block("middleblocks.0", h, True)
    h = block("middleblocks.1", h)

    n = 0
    for level in range(len(ch_mult) - 1, -1, -1):
        for _ in range(num_res_blocks + 1):
            h = block(f"upblocks.{n}", torch.cat([h, skips.pop()], 1), level in attn)
            n += 1
        if level > 0:
            h = block(f"upblocks.{n}", h, resample=double) if biggan else conv3(w, f"upblocks.{n}.main", double(h))
            n += 1
    assert not skips
    return conv3(w, "tail.2", swish(norm(w, "tail.0", h, num_groups, norm_eps)))


def residual(w, name, x, temb, num_groups, norm_eps, scale_shift_norm=False, resample=None):
    h = swish(norm(w, name + ".block1.0", x, num_groups, norm_eps))
    if resample is not None:
        h, x = resample(h), resample(x)
    h = conv3(w, name + ".block1.2", h)
    time = linear(w, name + ".temb_proj.1", swish(temb))[:, :, None, None]
    if scale_shift_norm:
        out_ch = h.shape[1]
        h = norm(w, name + ".block2.0", h, num_groups, norm_eps)
        h = h + h * time[:, :out_ch] + time[:, out_ch:]
    else:
        h = norm(w, name + ".block2.0", h + time, num_groups, norm_eps)
    h = conv3(w, name + ".block2.3", swish(h))
    if name + ".shortcut.weight" in w:
        x = conv1(w, name + ".shortcut", x)
    return x + h


def attention(w, name, x, num_groups, num_heads, norm_eps):
    b, channels, height, width = x.shape
    h = norm(w, name + ".group_norm", x, num_groups, norm_eps)
    q, k, v = (conv1(w, f"{name}.proj_{letter}", h).reshape(b, channels, height * width) for letter in "qkv")
    size = channels // num_heads
    heads = []
    for first in range(0, channels, size):
        own = slice(first, first + size)
        logits = torch.einsum("bci,bcj->bij", q[:, own], k[:, own]) / size**0.5  # pixel i looks at pixel j
        weights = (logits - logits.amax(2, keepdim=True)).exp()
        weights = weights / weights.sum(2, keepdim=True)
        heads.append(torch.einsum("bij,bcj->bci", weights, v[:, own]))
    return x + conv1(w, name + ".proj", torch.cat(heads, 1).reshape(x.shape))


def swish(x):
    return x / (1 + torch.exp(-x))


def linear(w, name, x):
    return torch.einsum("bi,oi->bo", x, w[name + ".weight"]) + w[name + ".bias"]


def conv1(w, name, x):
    return torch.einsum("bihw,oi->bohw", x, w[name + ".weight"][:, :, 0, 0]) + w[name + ".bias"][:, None, None]


def conv3(w, name, x, stride=1, before=1):
    """Tap by tap, on an image with a border of zeros: `before` above and on the left, 1 below and on the right."""
    b, channels, height, width = x.shape
    padded = x.new_zeros(b, channels, height + before + 1, width + before + 1)
    padded[:, :, before : before + height, before : before + width] = x
    rows, cols = height + before - 1, width + before - 1  # where a 3x3 window can start
    out = w[name + ".bias"][:, None, None]
    for i in range(3):
        for j in range(3):
            seen = padded[:, :, i : i + rows : stride, j : j + cols : stride]
            out = out + torch.einsum("bihw,oi->bohw", seen, w[name + ".weight"][:, :, i, j])
    return out


def norm(w, name, x, num_groups, norm_eps):
    groups = x.reshape(x.shape[0], num_groups, -1)
    mean = groups.sum(2, keepdim=True) / groups.shape[2]
    var = ((groups - mean) ** 2).sum(2, keepdim=True) / groups.shape[2]
    h = ((groups - mean) / (var + norm_eps).sqrt()).reshape(x.shape)
    return h * w[name + ".weight"][:, None, None] + w[name + ".bias"][:, None, None]


def halve(x):
    """The average of every square of four pixels."""
    return (x[:, :, 0::2, 0::2] + x[:, :, 0::2, 1::2] + x[:, :, 1::2, 0::2] + x[:, :, 1::2, 1::2]) / 4


def double(x):
    """Every pixel four times."""
    rows = torch.arange(2 * x.shape[2]) // 2
    cols = torch.arange(2 * x.shape[3]) // 2
    return x[:, :, rows][:, :, :, cols]


def randomised(module):
    """The module, with weights of a size that keeps signals alive, in the place of those that start near zero."""
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.requires_grad:
                std = p[0].numel() ** -0.5 if p.ndim > 1 else 0.3
                p.normal_(std=std).add_(1.0 if p.ndim == 1 and name.endswith("weight") else 0.0)
    return module

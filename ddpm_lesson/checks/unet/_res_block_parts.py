"""What is seen of the layers of a residual block that cannot be used: those that the exercise names, or other ones."""

from torch import Tensor, nn

WANTED = {
    "block1": ("norm", "Swish", "convolution"),
    "temb_proj": ("Swish", "linear layer"),
    "block2": ("norm", "Swish", "dropout", "convolution"),
}
WORDS = {"GroupNorm": "norm", "SiLU": "Swish", "Conv2d": "convolution", "Linear": "linear layer", "Dropout": "dropout"}
TRAINED = ("norm", "convolution", "linear layer")


def other_layers(block: nn.Module, options: tuple) -> str:
    """For a block whose parameters have other names: the layers that are missing, too many or in another order."""
    in_ch, out_ch, *_ = options
    found = [_other_part(block, name, wanted) for name, wanted in WANTED.items()]
    return ". And ".join(filter(None, [*found, _other_shortcut(block, in_ch, out_ch)]))


def other_sizes(block: nn.Module, inputs: tuple) -> str:
    """For a block that breaks: the convolutions that change the size of the images."""
    x, shortcut = inputs[0], getattr(block, "shortcut", None)
    names = [name for name in ("block1", "block2") if _loses_the_border(block, name, inputs)]
    if len(names) == 2:
        return (
            "the convolutions of your block1 and block2 have no padding, so the images lose a border of one pixel in "
            "each. Take nn.Conv2d(..., 3, padding=1)"
        )
    if names:
        return (
            f"the convolution of your {names[0]} has no padding, so the images lose a border of one pixel and cannot "
            "be added to x. Take nn.Conv2d(..., 3, padding=1)"
        )
    if isinstance(shortcut, nn.Conv2d) and shortcut(x).shape[2] > x.shape[2]:
        return "the 1x1 convolution of your shortcut has padding, which makes the images larger: it needs none"
    return ""


def _other_part(block, name, wanted):
    if not hasattr(block, name):
        return ""
    part = getattr(block, name)
    if not isinstance(part, nn.Module):
        return f"{name} is a {type(part).__name__}, and PyTorch does not see its layers: make it an nn.Sequential"
    layers = _layers(part)
    kinds = [WORDS.get(type(layer).__name__, type(layer).__name__) for layer in layers]
    if len(layers) == len(wanted) and all(map(_in_place, layers, kinds, wanted)):
        return ""
    words = f"{name} is {', '.join(wanted)}, in this order; yours is {', '.join(kinds) or 'empty'}"
    missing = [kind for kind in wanted if kind not in kinds]
    return f"{words}: the {missing[0]} is missing" if len(missing) == 1 and len(kinds) < len(wanted) else words


def _in_place(layer, kind, wanted):
    """Whether it is the wanted layer, or may take its place: what has nothing to train has no name to be found by."""
    return kind == wanted or wanted not in TRAINED and not any(True for _ in layer.parameters())


def _other_shortcut(block, in_ch, out_ch):
    shortcut = getattr(block, "shortcut", None)
    trained = isinstance(shortcut, nn.Module) and any(True for _ in shortcut.parameters())
    if in_ch == out_ch and trained:
        return (
            "your shortcut has a layer to train although the channels do not change: where in_ch = out_ch, it is "
            "nn.Identity()"
        )
    if in_ch != out_ch and not trained:
        return (
            f"your shortcut has no convolution although the channels change, from {in_ch} to {out_ch}, and x cannot be "
            "added as it is. Where in_ch differs from out_ch, it is nn.Conv2d(in_ch, out_ch, 1)"
        )
    if isinstance(shortcut, nn.Conv2d) and shortcut.kernel_size != (1, 1):
        return "the convolution of your shortcut is not 1x1: take nn.Conv2d(in_ch, out_ch, 1)"
    return ""


def _loses_the_border(block, name, inputs):
    """Whether a 3x3 convolution of this part gets images that nobody has padded, and does not pad them either."""
    seen: list[Tensor] = []
    bare = [layer for layer in _layers(getattr(block, name, None)) if _is_bare(layer)]
    hooks = [layer.register_forward_pre_hook(lambda layer, given: seen.extend(given[:1])) for layer in bare]
    try:
        block(*inputs)
    except Exception:  # it is known that it breaks
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return any(h.shape[2] <= inputs[0].shape[2] for h in seen)


def _is_bare(layer):
    return isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3) and layer.padding in ("valid", (0, 0))


def _layers(part):
    if isinstance(part, nn.Sequential | nn.ModuleList):
        return list(part)
    return [part] if isinstance(part, nn.Module) else []

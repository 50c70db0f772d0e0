"""What training costs at several scales: memory, operations, GPU hours.  python benchmarks/scale.py [--write]

Every network is built on the device meta, where tensors have shapes and no numbers, and called once with one image.
PyTorch's counter counts its operations, as in notebook 03, and what autograd keeps for the backward pass is added up.
`--write` puts the table between the markers of docs/scale.md. It takes about a minute, and needs diffusers for the
latent models.
"""

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ddpm_lesson.experiments.build import make_network
from ddpm_lesson.experiments.recipes import PRESETS
from ddpm_lesson.experiments.sizes import COPIES
from ddpm_lesson.networks.unet import UNet

PAGE = Path(__file__).parent.parent / "docs" / "scale.md"
MARKERS = "<!-- table of scale.py -->\n", "<!-- end of the table -->\n"
RATE = 312e12  # operations in a second: an A100, dense, in bfloat16 (NVIDIA's data sheet)
USED = 0.3  # of it: what is assumed here
PASSES = 3  # the backward pass costs two forward passes


class Size(NamedTuple):
    """One call of a network with one image.  operations: of a multiplication and an addition two. kept: bytes."""

    parameters: int
    operations: int
    kept: int


class Run(NamedTuple):
    """A training run.  parts: (images in all, network, arguments of a call). reported: hours, of what, and where."""

    name: str
    parts: list[tuple[float, Callable[[], nn.Module], Callable[[], dict]]]
    reported: tuple[float | None, str] = (None, "")


def size_of(make: Callable[[], nn.Module], call: Callable[[], dict]) -> Size:
    """The size of the network that `make` makes, called with the arguments that `call` makes."""
    kept: dict[int, tuple[torch.UntypedStorage, int]] = {}  # a storage once, and held, so that no number comes again

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage, storage.nbytes()
        return tensor

    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of initialisations that mean nothing here
        net, given = make().train(), call()
        own = {tensor.untyped_storage()._cdata for tensor in (*net.parameters(), *net.buffers())}
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with FlopCounterMode(display=False) as counter, hooks:
            net(**given)
    parameters = sum(p.numel() for p in net.parameters() if p.requires_grad)
    return Size(parameters, counter.get_total_flops(), sum(n for at, (_, n) in kept.items() if at not in own))


def of_recipe(name: str, channels: int, classes: int, side: int) -> list:
    """The run of a preset of this course."""
    recipe = PRESETS[name]
    labels = {"y": torch.zeros(1, dtype=torch.int64, device="meta")} if recipe.conditional else {}
    images = recipe.steps * recipe.batch_size * recipe.accumulate
    return [(images, lambda: make_network(recipe, channels, classes), lambda: image(channels, side) | labels)]


def image(channels: int, side: int) -> dict:
    return {"x": torch.empty(1, channels, side, side), "t": torch.zeros(1, dtype=torch.int64)}


def improved(ch: int, **more: object) -> UNet:
    """The network of improved-diffusion and guided-diffusion for 64x64 images."""
    shape = {"T": 4000, "ch": ch, "ch_mult": [1, 2, 3, 4], "num_res_blocks": 3, "dropout": 0.0}
    return UNet(**{**shape, "scale_shift_norm": True, **more})


def openai64() -> UNet:
    return improved(128, attn=[2, 3], num_heads=4, learned_var=True)


def adm() -> UNet:
    return improved(192, attn=[1, 2, 3], num_head_channels=64, biggan=True, num_classes=1000, null_class=False)


def dit() -> nn.Module:
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(num_layers=28, num_attention_heads=16, attention_head_dim=72, sample_size=32)


def stable() -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(cross_attention_dim=768)


def latent(side: int, **more: Tensor) -> dict:
    return {"timestep": torch.zeros(1, dtype=torch.int64), **more} | {
        "sample" if "encoder_hidden_states" in more else "hidden_states": torch.empty(1, 4, side, side)
    }


def text(side: int) -> dict:
    return latent(side, encoder_hidden_states=torch.empty(1, 77, 768))


def labelled(make: Callable[[], dict]) -> dict:
    return make() | {"y": torch.zeros(1, dtype=torch.int64)}


RUNS = (
    Run("MNIST, this course (`--preset mnist`)", of_recipe("mnist", 1, 10, 28)),
    Run("CIFAR-10, DDPM (`--preset cifar10`)", of_recipe("cifar10", 3, 10, 32), (10.6 * 8, "TPU v3 cores [1]")),
    Run("ImageNet-64, improved-diffusion, 128 channels [5]", [(1.5e6 * 128, openai64, lambda: image(3, 64))]),
    Run(
        "ImageNet-64, guided-diffusion's network, trained by EDM",
        [(2.5e9, adm, lambda: labelled(lambda: image(3, 64)))],
        (32 * 13 * 24, "A100 [2]"),
    ),
    Run(
        "ImageNet-256 in latents, DiT-XL/2 [3]",
        [(7e6 * 256, dit, lambda: latent(32, class_labels=torch.zeros(1, dtype=torch.int64)))],
    ),
    Run(
        "Text to image in latents, Stable Diffusion v1 [4]",
        [(237e3 * 2048, stable, lambda: text(32)), (904e3 * 2048, stable, lambda: text(64))],
        (150_000, "A100 [4]"),
    ),
)


def hours(operations: float) -> float:
    """GPU hours of so many operations."""
    return operations / (RATE * USED) / 3600


def rounded(value: float) -> str:
    """Two digits, with commas: 1,234 as 1,200."""
    return f"{float(f'{value:.2g}'):,.6f}".rstrip("0").rstrip(".")


def row(run: Run) -> str:
    sizes = [size_of(make, call) for _, make, call in run.parts]
    last, images = sizes[-1], sum(part[0] for part in run.parts)
    operations = PASSES * sum(part[0] * size.operations for part, size in zip(run.parts, sizes, strict=True))
    state, (reported, where) = COPIES * 4 * last.parameters, run.reported
    told = f"{reported:,.0f}, {where}" if reported else ""
    used = f"{operations / reported / 3600 / RATE:.0%}" if reported and "A100" in where else ""
    cells = [run.name, f"{last.parameters / 1e6:.1f}", f"{last.operations / 1e9:.2f}", f"{state / 1e9:.2f}"]
    cells += [f"{last.kept / 1e6:,.0f}", f"{images / 1e6:,.1f}", f"{operations:.1e}", rounded(hours(operations))]
    return f"| {' | '.join([*cells, told, used])} |"


def table() -> str:
    head = "run | parameters, million | operations, billion | state, GB | kept for an image, MB | images, million | "
    head += "operations in all | GPU hours | reported | share of the rate"
    return "\n".join([f"| {head} |", "|---" + "|--:" * 7 + "|---|--:|", *map(row, RUNS)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="put the table into docs/scale.md")
    options, found = parser.parse_args(), table()
    print(found)
    if options.write:
        before, _, after = PAGE.read_text("utf-8").partition(MARKERS[0])
        PAGE.write_text(before + MARKERS[0] + found + MARKERS[1] + after.partition(MARKERS[1])[2], "utf-8")


if __name__ == "__main__":
    main()

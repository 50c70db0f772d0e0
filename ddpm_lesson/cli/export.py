"""The command export: a network for other libraries, as a diffusers pipeline or as the weights of the post's U-Net."""

import argparse
import inspect
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ddpm_lesson.cli.options import about, command_of, loaded, name
from ddpm_lesson.cli.outputs import check_file, check_new_folder
from ddpm_lesson.experiments.checkpoints import write_whole
from ddpm_lesson.experiments.pretrained import PretrainedDiffusion
from ddpm_lesson.networks.unet import UNet

LAST_OF_TIME = "time_embedding.timembedding.3.bias"  # a class's embedding is added to what this layer gives

NO_FORMATS = (".onnx", ".pt", ".pth", ".ckpt", ".bin", ".pkl", ".h5", ".npz", ".json", ".zip")  # to be asked for


def add(commands: Any) -> None:
    words = "Write a network for another library."
    more = "A folder is one for diffusers: DDPMPipeline.from_pretrained(FOLDER) draws with it."
    command = command_of(commands, export, words, more, computes=False)
    words = "a network that ships with the course, a file weights.safetensors, or the folder of a run"
    command.add_argument("network", nargs="?", type=name, metavar="WEIGHTS", help=words)
    command.add_argument("--weights", type=name, metavar="NAME", help="the same, as for sample")
    words = "FOLDER: a pipeline for diffusers; FILE.safetensors: a state dict of the post's U-Net (pytorch-ddpm)"
    command.add_argument("--out", required=True, type=name, metavar="PLACE", help=words)
    words = "of a network with classes: the part that draws this one, which needs no labels any more"
    command.add_argument("--label", metavar="CLASS", help=words)
    words = "of a network with classes: the part that draws images of no particular class"
    command.add_argument("--unlabelled", action="store_true", help=words)


def export(options: argparse.Namespace) -> int:
    """Write a pipeline folder of diffusers, or a state dict of the post's U-Net."""
    weights, out = _weights(options), Path(options.out)
    is_file = out.suffix.lower() == ".safetensors"
    if out.suffix.lower() in NO_FORMATS:
        told = "--out must be a folder, for diffusers, or a file that ends in .safetensors"
        raise ValueError(f"{told}, got {options.out}")
    check_file(out) if is_file else check_new_folder(out)
    if not is_file and find_spec("diffusers") is None:
        raise ImportError("export to a folder needs the package diffusers: pip install diffusers")
    trained = loaded(weights, "cpu", PretrainedDiffusion)
    unet = _unet(trained, options)
    if not options.quiet:
        print(about(weights, trained), file=sys.stderr)
    out.parent.mkdir(parents=True, exist_ok=True)
    if is_file:
        write_whole(out, _state(unet))
        print(f"{out}: read it with ddpm_lesson.interop.load_pytorch_ddpm(safetensors.torch.load_file(...))")
        return 0
    _pipeline(unet, trained, out)
    call = f"diffusers.DDPMPipeline.from_pretrained({str(out)!r})"
    if (classes := unet.options["num_classes"]) is None:
        print(f"{out}: draw with {call}(num_inference_steps={trained.process.T})")
    else:
        told = f"it takes class_labels, 0..{classes - 1}, {classes} for none, which DDPMPipeline does not give"
        print(f"{out}: load it with {call}; this does not draw by itself")
        print(f"  {told}: call pipeline.unet yourself, or export one class with --label, or --unlabelled")
    return 0


def _weights(options: argparse.Namespace) -> str:
    if (options.network is None) == (options.weights is None):
        raise ValueError("say once what to export: ddpm_lesson export WEIGHTS --out FOLDER")
    if options.label is not None and options.unlabelled:
        raise ValueError("give --label or --unlabelled, not both")
    return options.weights if options.network is None else options.network


def _unet(trained: PretrainedDiffusion, options: argparse.Namespace) -> UNet:
    """The network that is asked for.  ValueError that names what other libraries cannot express."""
    if trained.recipe.condition != "none":
        told = "other libraries' networks are told x_t and t, and maybe a class"
        raise ValueError(f"{told}: expected a recipe with condition none, got condition {trained.recipe.condition}")
    if options.label is None and not options.unlabelled:
        return trained.model
    if options.unlabelled and not trained.recipe.conditional:
        raise ValueError("--unlabelled is for networks with classes: this one knows none, leave it out")
    y = None if options.unlabelled else trained.labels(1, options.label)
    return of_class(trained.model, len(trained.classes) if y is None else int(y[0]))


def of_class(unet: UNet, label: int) -> UNet:
    """A network without classes that computes model(x_t, t, label).  label: one of its classes, or its null class."""
    made = UNet(**unet.options | {"num_classes": None, "null_class": True})
    state = {name: tensor for name, tensor in unet.state_dict().items() if not name.startswith("class_embedding.")}
    made.to(state[LAST_OF_TIME])
    state[LAST_OF_TIME] = state[LAST_OF_TIME] + unet.state_dict()["class_embedding.weight"][label]
    made.load_state_dict(state)
    return made.eval().requires_grad_(False)


def _pipeline(unet: UNet, trained: PretrainedDiffusion, out: Path) -> None:
    """Write the folder whole, or not at all."""
    from ddpm_lesson.interop import to_diffusers

    _, height, width = trained.shape
    recipe = trained.recipe
    side = height if height == width else (height, width)
    parts = to_diffusers(unet, trained.process, mean_type=recipe.mean_type, var_type=recipe.var_type, sample_size=side)
    from diffusers import DDPMPipeline

    pipeline: Any = DDPMPipeline(*parts)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".partial-") as scratch:
        pipeline.save_pretrained(scratch)
        made = Path(scratch)
        out.mkdir(exist_ok=True)  # it is empty
        for part in made.iterdir():
            part.rename(out / part.name)


def _state(unet: UNet) -> bytes:
    """The state dict, if the post's U-Net computes the same with it.  ValueError that names the options it has not."""
    from safetensors.torch import save

    from ddpm_lesson.interop import load_pytorch_ddpm

    options: dict[str, Any] = unet.options
    free = ("in_ch", "out_ch", "learned_var", "null_class", "zero_init")  # are read off the weights, or have no effect
    usual = {name: each.default for name, each in inspect.signature(UNet).parameters.items() if name not in free}
    differs = [f"{k} = {options[k]}" for k, v in usual.items() if v is not inspect.Parameter.empty and options[k] != v]
    if differs:
        raise ValueError(
            f"the post's U-Net has no such options: expected its own, got {', '.join(differs)}: name a folder"
        )
    state = {name: tensor.contiguous() for name, tensor in unet.state_dict().items()}
    side = unet.divisor
    x = torch.randn(1, options["in_ch"], side, side, generator=torch.Generator().manual_seed(0), device="cpu")
    t = torch.zeros(1, dtype=torch.int64, device="cpu")
    if not torch.allclose(load_pytorch_ddpm(state)(x, t), unet(x, t), rtol=1e-3, atol=1e-6):  # rounding
        raise ValueError("the post's U-Net computes something else with these weights: export a folder for diffusers")
    return save(state)

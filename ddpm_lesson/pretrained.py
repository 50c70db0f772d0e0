"""Trained networks from files: those that ship with the course, by name, and those of your own runs, by path."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from ddpm_lesson import spacing
from ddpm_lesson.checkpoints import CheckpointError, fill, load_tensors, sha256
from ddpm_lesson.data import bundled
from ddpm_lesson.gaussian import randn_like
from ddpm_lesson.networks.classifier import Classifier
from ddpm_lesson.networks.unet import UNet
from ddpm_lesson.predictions import (
    Denoiser,
    MeanType,
    Variance,
    clipped,
    make_denoiser,
    mean_type_named,
    variance_named,
)
from ddpm_lesson.process import GaussianDiffusion
from ddpm_lesson.recipes import Recipe, make_process
from ddpm_lesson.samplers import State, ancestral, ddim, reverse
from ddpm_lesson.variants.guidance import classifier_free


@dataclass(frozen=True)
class Pretrained:
    """A trained network and what has to be known to use it.

    model: in eval mode, without gradients. A U-Net (kind "ddpm"), called as model(x_t, t) or model(x_t, t, y); or a
    classifier, called as model(x), or as model(x_t, t) if it was trained on noisy images.
    process, mean_type, variance: what a ddpm was trained with; of a classifier mean_type and variance are None, and so
    is the process unless it was trained on noisy images. shape: (C, H, W). classes: names, by label.
    levels: how many values a pixel can take. about: all that the file says, its recipe for example.
    """

    model: nn.Module
    process: GaussianDiffusion | None
    mean_type: MeanType | None
    variance: Variance | None
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    levels: int
    about: dict

    def denoiser(self, y: Tensor | None = None, guidance: float = 1.0) -> Denoiser:
        """The network as a clipped denoiser. y: (B,) labels, or None for images of no particular class.

        guidance: the scale of `classifier_free`; another one than 1 asks the network twice, with y and without.
        Raises ValueError if it has no labels to guide to.
        """
        denoise = make_denoiser(self.model, self.process, self.mean_type, cond=y)
        if guidance != 1:
            if y is None:
                raise ValueError(f"guidance leads towards labels: expected some, got none and guidance = {guidance}")
            denoise = classifier_free(denoise, make_denoiser(self.model, self.process, self.mean_type), guidance)
        return clipped(denoise, self.process)

    def sample(
        self,
        n: int,
        *,
        y: Tensor | None = None,
        guidance: float = 1.0,
        steps: str | None = None,
        eta: float | None = None,
        generator: Generator | None = None,
    ) -> Iterator[State]:
        """Draw n images: yields every state, of which the last, of i = 0, holds the images (n, C, H, W).

        y: (n,) labels. guidance: as in `denoiser`. steps: a choice such as "trailing50" or "ddim25", see
        `spacing.named`; None for all. eta: None for `ancestral` with the network's own variance, a number for `ddim`.
        generator: on the CPU. `samplers.last(...)` of the result is the images alone.
        Raises ValueError if this is no ddpm.
        """
        if self.mean_type is None:
            raise ValueError("only a ddpm can draw images; this is a classifier")
        process = self.process if steps is None else self.process.respaced(spacing.named(steps, self.process.T))
        x_T = randn_like(torch.empty(n, *self.shape, device=self.process.betas.device), generator)
        denoise = self.denoiser(y, guidance)
        if eta is not None:
            return ddim(process, denoise, x_T, eta=eta, generator=generator)
        return ancestral(process, reverse(process, denoise, self.variance), x_T, generator=generator)


def load_weights(path: Path | str, *, device: torch.device | str = "cpu") -> Pretrained:
    """The network in a file that a run or the course's recipes have written, such as runs/digits/weights.safetensors.

    Raises FileNotFoundError, or CheckpointError if the file is damaged or of something else.
    """
    tensors, about = load_tensors(Path(path))
    if about.get("kind") not in ("ddpm", "classifier"):
        raise CheckpointError(f"{path} does not hold the weights of a network, but maybe the state of a run")
    try:
        recipe = Recipe.from_json(json.dumps(about["recipe"])) if about["kind"] == "ddpm" else None
        model = UNet(**about["unet"]) if recipe else Classifier(**about["classifier"])
        noise = recipe or (Recipe(T=about["T"], schedule=about["schedule"]) if about["T"] else None)
        told = {"shape": tuple(about["shape"]), "classes": tuple(about["classes"]), "levels": about["levels"]}
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not say what its network is ({error}): get it again") from error
    fill(model, tensors, Path(path))
    model = model.to(device=device, memory_format=torch.channels_last).eval().requires_grad_(False)
    process = None if noise is None else make_process(noise).to(device)
    meaning = (mean_type_named(recipe.mean_type), variance_named(recipe.var_type)) if recipe else (None, None)
    return Pretrained(model, process, *meaning, **told, about=about)


def load_pretrained(name: str, *, device: torch.device | str = "cpu") -> Pretrained:
    """A network that ships with the course, such as "digits_ddpm". data/weights/README.md says how good it is.

    Raises ValueError that lists what ships for another name, CheckpointError if the file is not the one that its
    recipe produced (its checksum stands beside it).
    """
    expected = about_shipped(name)["made"]["sha256"]
    path = bundled(f"weights/{name}.safetensors")
    if (got := sha256(path)) != expected:
        raise CheckpointError(
            f"{path} is damaged: expected the SHA-256 {expected}, got {got}. Install the course again"
        )
    return load_weights(path, device=device)


def about_shipped(name: str) -> dict:
    """What is written beside a network that ships: recipe, how it was scored, and what was made: time, scores.

    Raises ValueError that lists what ships for another name, CheckpointError for weights that were not scored yet.
    """
    folder = bundled("weights/README.md").parent
    names = sorted(path.stem for path in folder.glob("*.safetensors"))
    if name not in names:
        raise ValueError(f"no weights {name!r} ship with the course; there are {', '.join(names)}")
    held = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    if "made" not in held:
        raise CheckpointError(f"{folder / name}.json has no scores yet: python data/weights/make_weights.py {name}")
    return held

"""Trained generators that need few steps: how each kind draws."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from ddpm_lesson import spacing
from ddpm_lesson._tensors import frozen, randn_like
from ddpm_lesson.denoisers import Denoiser, clipped, make_denoiser
from ddpm_lesson.experiments.checkpoints import save_tensors
from ddpm_lesson.experiments.generator_recipes import GANS, GeneratorRecipe
from ddpm_lesson.networks.vae import VAE
from ddpm_lesson.predictions import fixedsmall, velocity, xstart
from ddpm_lesson.process import GaussianDiffusion
from ddpm_lesson.samplers import ancestral, ddim, last, reverse
from ddpm_lesson.variants.consistency import consistency_function, consistency_steps
from ddpm_lesson.variants.ddgan import latent


@dataclass(frozen=True)
class PretrainedGenerator:
    """A trained generator and what has to be known to draw from it.

    model: in eval mode and without gradients when loaded; called as model(x_t, t, z=z) by the GANs, with labels y after
    t by those that are told them, model(x_t, t, y) by students, model(x_t, t) by consistency models; of a VAE,
    model.decode(z). process: its steps; a VAE has no use for it. shape: (C, H, W), or (2,) of points. classes: names,
    by label. levels: values of a pixel, 0 for points.
    """

    model: nn.Module
    process: GaussianDiffusion
    recipe: GeneratorRecipe
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    levels: int

    @property
    def chain(self) -> GaussianDiffusion:
        """The steps that it takes: those of a student, of a consistency model, or all of the process."""
        if self.recipe.kind in ("distilled", "consistency"):
            return self.process.respaced(spacing.trailing(self.process.T, self.recipe.chain))
        return self.process

    def labels(self, n: int) -> Tensor | None:
        """Labels for n images, every class in turn, (n,), as `sample` draws them; None for kinds that are told none."""
        if self.recipe.kind != "distilled" and not self.recipe.conditional:
            return None
        return torch.arange(n, device=self.process.betas.device) % len(self.classes)

    def denoiser(self, y: Tensor | None = None, *, generator: Generator | None = None) -> Denoiser:
        """A GAN's or student's network as a denoiser.  y: (B,), labels. generator: for a GAN's latents.

        Of a student x_0 is clipped to [-1, 1]. Raises ValueError for the other kinds, which are none.
        """
        told = {} if y is None else {"y": y}
        if self.recipe.kind in GANS:
            z = latent(self.recipe.latent, generator=generator)
            return make_denoiser(self.model, self.process, xstart, z=z, **told)
        if self.recipe.kind == "distilled":
            return clipped(make_denoiser(self.model, self.process, velocity, **told), self.process)
        raise ValueError(f"a {self.recipe.kind} is no denoiser: use sample")

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """Draw n images (n, C, H, W) in [-1, 1], or points (n, 2), on the CPU.  With labels, every class in turn.

        ValueError for n below 1.

        >>> import ddpm_lesson
        >>> ddpm_lesson.load_pretrained("digits_ddgan").sample(4).shape
        torch.Size([4, 1, 8, 8])
        """
        if n < 1:
            raise ValueError(f"n must be positive, got {n}")
        generator, device = Generator().manual_seed(seed), self.process.betas.device
        size = (self.recipe.latent,) if self.recipe.kind == "vae" else self.shape
        x_T = randn_like(torch.empty(n, *size, device=device), generator)
        with frozen(self.model):
            x_0 = self._draw(x_T, generator)
        return (x_0.clamp(-1, 1) if self.levels else x_0).cpu()

    def _draw(self, x_T: Tensor, generator: Generator) -> Tensor:
        if isinstance(self.model, VAE):
            return self.model.decode(x_T)
        if self.recipe.kind == "consistency":
            f, times = consistency_function(self.model, self.process), self.chain.timestep_map.tolist()[-2::-1]
            return list(consistency_steps(f, self.process, x_T, times, generator=generator))[-1]
        if self.recipe.kind == "distilled":
            return last(ddim(self.chain, self.denoiser(self.labels(len(x_T))), x_T))
        p = reverse(self.process, self.denoiser(self.labels(len(x_T)), generator=generator), fixedsmall)
        return last(ancestral(self.process, p, x_T, generator=generator))

    def save(self, path: Path | str) -> None:
        """Write what `load_weights` reads."""
        of_data = {"classes": list(self.classes), "levels": self.levels, "shape": list(self.shape)}
        save_tensors(
            Path(path), self.model.state_dict(), {"kind": "generator", "recipe": asdict(self.recipe)} | of_data
        )

"""How images are drawn, as one value; str() of it is the one sentence that describes a chain.

This is a front door: samplers are names here, and are looked up once.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Generator, Tensor

from ddpm_lesson import spacing
from ddpm_lesson.denoisers import Denoiser
from ddpm_lesson.predictions import Variance
from ddpm_lesson.process import GaussianDiffusion
from ddpm_lesson.samplers import State, ancestral, ddim, reverse


@dataclass(frozen=True)
class Sampling:
    """Everything that a chain depends on, besides the network, the labels and the number of images.

    sampler: a name in `SAMPLERS`. steps: "all", or a choice such as "trailing50", "ddim25" or "10,15,20", see
    `spacing.named`. eta: of ddim, 0 is deterministic. guidance: the scale of `classifier_free`, 1 for none.
    clip: the estimated x_0 is clipped to [-1, 1]. seed: of x_T and of all noise.
    Raises ValueError for a sampler that does not exist, an eta outside of 0..1, and an option that the sampler has not.

    >>> str(Sampling("ddim", steps="ddim25", guidance=1.5))
    'ddim25 steps of ddim, eta 0, guidance 1.5, seed 0'
    """

    sampler: str = "ancestral"
    steps: str = "all"
    eta: float = 0.0
    guidance: float = 1.0
    clip: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"unknown sampler {self.sampler!r}, expected one of {', '.join(SAMPLERS)}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in 0..1, got {self.eta}")
        for field in dataclasses.fields(self):
            if field.name in OF_SOME and getattr(self, field.name) != field.default and field.name not in self._takes:
                have = ", ".join(name for name, named in SAMPLERS.items() if field.name in named.takes)
                got = f"{field.name} = {getattr(self, field.name)} and the sampler {self.sampler}"
                raise ValueError(f"{field.name} is an option of {have}, got {got}")

    def __str__(self) -> str:
        parts = [f"{self.steps} steps of {self.sampler}"]
        parts += [f"{name} {getattr(self, name):g}" for name in self._takes]
        parts += [f"guidance {self.guidance:g}"] if self.guidance != 1 else []
        parts += [] if self.clip else ["x_0 not clipped"]
        return ", ".join([*parts, f"seed {self.seed}"])

    @property
    def _takes(self) -> tuple[str, ...]:
        return SAMPLERS[self.sampler].takes

    def states(
        self,
        base: GaussianDiffusion,
        denoise: Denoiser,
        variance: Variance,
        x_T: Tensor,
        *,
        generator: Generator | None = None,
    ) -> Iterator[State]:
        """Walk from x_T (B, *D) to the sample, as `samplers` do.  base: the process the denoiser knows.

        Guidance and clipping belong to the denoiser, see `PretrainedDiffusion.denoiser`; the seed to the generator.
        Raises ValueError for steps that do not fit base.
        """
        process = base if self.steps == "all" else base.respaced(spacing.named(self.steps, base.T))
        return SAMPLERS[self.sampler].walk(self, process, denoise, variance, x_T, generator)


class Walk(Protocol):
    """A sampler of `samplers`, called in one way whatever its options are."""

    def __call__(
        self,
        sampling: Sampling,
        process: GaussianDiffusion,
        denoise: Denoiser,
        variance: Variance,
        x_T: Tensor,
        generator: Generator | None,
        /,
    ) -> Iterator[State]: ...


class Named(NamedTuple):
    """A sampler and the fields of `Sampling` that it takes and others do not."""

    walk: Walk
    takes: tuple[str, ...] = ()


def _ancestral(sampling, process, denoise, variance, x_T, generator):
    return ancestral(process, reverse(process, denoise, variance), x_T, generator=generator)


def _ddim(sampling, process, denoise, variance, x_T, generator):
    return ddim(process, denoise, x_T, eta=sampling.eta, generator=generator)


SAMPLERS = {"ancestral": Named(_ancestral), "ddim": Named(_ddim, takes=("eta",))}
OF_SOME = {name for named in SAMPLERS.values() for name in named.takes}
ANCESTRAL = Sampling()

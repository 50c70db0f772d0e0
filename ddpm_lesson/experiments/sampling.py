"""How images are drawn, as one value; str() of it is the one sentence that describes a chain.

This is a front door: samplers are names here, and are looked up once.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Generator, Tensor

from ddpm_lesson import samplers, spacing
from ddpm_lesson.denoisers import Denoiser
from ddpm_lesson.predictions import Variance
from ddpm_lesson.process import GaussianDiffusion
from ddpm_lesson.samplers import Reverse, State, start_at
from ddpm_lesson.variants.inpainting import inpainting


def _field(default: Any, words: str, metavar: str | None = None) -> Any:
    return dataclasses.field(default=default, metadata={"help": words, "metavar": metavar})


@dataclass(frozen=True)
class Sampling:
    """Everything that a chain depends on, besides the network, the labels and the number of images.

    sampler: a name in `SAMPLERS`. steps: "all", or a choice such as "trailing50", "log_snr20" or "10,15,20", see
    `spacing.named`. eta: of ddim, 0 is deterministic. churn: of heun, noise added anew, 0 for none. guidance: the scale
    of `classifier_free`, 1 for none. clip: the estimated x_0 is clipped to [-1, 1]. seed: of x_T and of all noise.
    Raises ValueError for a sampler that does not exist, steps that are no text, an eta outside of 0..1, a churn below
    0, a guidance that is not finite, a seed outside of 0..2^63 - 1, and an option that the sampler has not.

    >>> str(Sampling("ddim", steps="ddim25", guidance=1.5))
    'ddim25 steps of ddim, eta 0, guidance 1.5, seed 0'
    """

    sampler: str = _field("ancestral", "how to step; ancestral has the variance of the recipe")
    steps: str = _field("all", "steps to take: all, or a choice such as trailing50, ddim25 or 10,15,20", "CHOICE")
    eta: float = _field(0.0, "of ddim, 0 is deterministic")
    churn: float = _field(0.0, "of heun, noise added anew over the whole chain")
    guidance: float = _field(1.0, "classifier-free guidance towards the labels, 1: none", "SCALE")
    clip: bool = _field(True, "clip the estimated x_0 to [-1, 1]")
    seed: int = _field(0, "seed of the noise")

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"unknown sampler {self.sampler!r}, expected one of {', '.join(SAMPLERS)}")
        if not isinstance(self.steps, str):
            raise ValueError(f"steps must be 'all' or a choice such as 'trailing50', got {self.steps!r}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in 0..1, got {self.eta}")
        if not (self.churn >= 0 and math.isfinite(self.churn)):
            raise ValueError(f"churn must be a finite number, not negative, got {self.churn}")
        if not math.isfinite(self.guidance):
            raise ValueError(f"guidance must be a finite number, got {self.guidance}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must lie in 0..{2**63 - 1}, got {self.seed}")
        for field in dataclasses.fields(self):
            if getattr(self, field.name) != field.default:
                check_option(self.sampler, field.name, getattr(self, field.name))

    def __str__(self) -> str:
        parts = [f"{self.steps} steps of {self.sampler}"]
        options = {name: getattr(self, name) for name in SAMPLERS[self.sampler].takes}
        parts += [f"{name} {v:g}" if isinstance(v, float) else f"{name} {v}" for name, v in options.items()]
        parts += [f"guidance {self.guidance:g}"] if self.guidance != 1 else []
        parts += [] if self.clip else ["x_0 not clipped"]
        return ", ".join([*parts, f"seed {self.seed}"])

    def states(
        self,
        base: GaussianDiffusion,
        denoise: Denoiser,
        variance: Variance,
        x_T: Tensor,
        *,
        x_0: Tensor | None = None,
        mask: Tensor | None = None,
        start: float = 1.0,
        generator: Generator | None = None,
    ) -> Iterator[State]:
        """Walk from x_T (B, *D) to the sample, as `samplers` do.  base: the process the denoiser knows.

        x_0: images (B, *D) to begin with, of which use one: mask, bool, True where a pixel is known and stays (for
        ancestral and repaint); start in 0..1, the share of the chain's steps that is walked, from x_0 noised so far
        (SDEdit); or the sampler ddim_inversion, which leads from x_0 to its x_T.
        Guidance and clipping belong to the denoiser, see `PretrainedDiffusion.denoiser`; the seed to the generator.
        Raises ValueError for steps that do not fit base, and for images or a mask that are missing or not used.
        """
        process = base if self.steps == "all" else base.respaced(spacing.named(self.steps, base.T, base.snr))
        named = SAMPLERS[self.sampler]
        self._check_images(x_0, mask, start)
        p = samplers.reverse(process, denoise, variance)
        if x_0 is not None:
            if mask is not None:
                p = inpainting(process, p, x_0, mask)
            elif start < 1:
                process, x_T = start_at(process, x_0, max(1, round(start * process.T)), generator=generator)
                p = samplers.reverse(process, denoise, variance)
            else:
                x_T = x_0
        return named.walk(self, process, denoise, p, x_T, generator)

    def _check_images(self, x_0: Tensor | None, mask: Tensor | None, start: float) -> None:
        """That images are there if something begins with them, and not otherwise."""
        if not 0 < start <= 1:
            raise ValueError(f"start, a share of the chain, must lie in (0, 1], got {start}")
        inverting, named = self.sampler == "ddim_inversion", SAMPLERS[self.sampler]
        uses = [use for use, there in (("mask", mask is not None), ("start", start < 1), ("", inverting)) if there]
        if len(uses) > 1 or (mask is not None and not named.takes_mask):
            able = ", ".join(name for name, each in SAMPLERS.items() if each.takes_mask)
            told = f"a mask goes with {able}, alone, and start with neither a mask nor ddim_inversion"
            raise ValueError(f"{told}; got {self.sampler}, mask {'given' if mask is not None else 'none'}, {start=}")
        if self.sampler == "repaint" and mask is None:
            raise ValueError("repaint fills in what is unknown of images: expected x_0 and mask, got no mask")
        if bool(uses) != (x_0 is not None):
            told = "images are taken with a mask, a start below 1 or ddim_inversion, and only then"
            raise ValueError(f"{told}; got {'none' if x_0 is None else 'some'}, {self.sampler}, {start=}")


class Walk(Protocol):
    """A sampler of `samplers`, called in one way whatever its options are."""

    def __call__(
        self,
        sampling: Sampling,
        process: GaussianDiffusion,
        denoise: Denoiser,
        p: Reverse,
        x_T: Tensor,
        generator: Generator | None,
        /,
    ) -> Iterator[State]: ...


class Named(NamedTuple):
    """A sampler, the fields of `Sampling` that it takes and others do not, and what it can do with images."""

    walk: Walk
    takes: tuple[str, ...] = ()
    takes_mask: bool = False
    from_noise: bool = True  # draws without being given an image


def _ancestral(sampling, process, denoise, p, x_T, generator):
    return samplers.ancestral(process, p, x_T, generator=generator)


def _repaint(sampling, process, denoise, p, x_T, generator):
    return samplers.repaint(process, p, x_T, generator=generator)


def _ddim(sampling, process, denoise, p, x_T, generator):
    return samplers.ddim(process, denoise, x_T, eta=sampling.eta, generator=generator)


def _heun(sampling, process, denoise, p, x_T, generator):
    return samplers.heun(process, denoise, x_T, churn=sampling.churn, generator=generator)


def _sde(sampling, process, denoise, p, x_T, generator):
    return samplers.dpmpp_2m_sde(process, denoise, x_T, generator=generator)


def _solver(solver):
    """A deterministic sampler without options."""
    return lambda sampling, process, denoise, p, x_T, generator: solver(process, denoise, x_T)


SAMPLERS = {
    "ancestral": Named(_ancestral, takes_mask=True),
    "ddim": Named(_ddim, takes=("eta",)),
    "heun": Named(_heun, takes=("churn",)),
    "dpmpp_2m": Named(_solver(samplers.dpmpp_2m)),
    "dpmpp_3m": Named(_solver(samplers.dpmpp_3m)),
    "dpmpp_2s": Named(_solver(samplers.dpmpp_2s)),
    "dpmpp_2m_sde": Named(_sde),
    "plms": Named(_solver(samplers.plms)),
    "repaint": Named(_repaint, takes_mask=True, from_noise=False),
    "ddim_inversion": Named(_solver(samplers.ddim_inversion), from_noise=False),
}


def takers(option: str) -> list[str]:
    """The samplers that take this option; none for what belongs to every chain, such as the seed."""
    return [name for name, named in SAMPLERS.items() if option in named.takes]


def check_option(sampler: str, option: str, value: object) -> None:
    """Raise ValueError if other samplers take this option, and this one does not."""
    if takers(option) and sampler not in takers(option):
        got = f"{option} = {value} and the sampler {sampler}"
        raise ValueError(f"{option} is an option of {', '.join(takers(option))}, got {got}")


@contextmanager
def watching(n: int, show: bool) -> Iterator[Callable[[Iterator[State], int], Iterator[State]]]:
    """watched(states, size) inside: the states of a chain of `size` images, counted in one bar with the time left.

    n: images in all chains together. show: False for no bar. A chain that an error ends is not counted.
    """
    if not show:
        yield lambda states, size: states
        return
    from tqdm.auto import tqdm

    def watched(states: Iterator[State], size: int) -> Iterator[State]:
        first, counted = None, 0
        try:
            for state in states:
                if first is None:
                    first = state.i
                    bar.total = n * first or None  # unknown for a chain that goes from images to noise
                made = abs(first - state.i) * size - counted
                if made > 0:  # not where repaint jumps back
                    bar.update(made)
                    counted += made
                yield state
        except Exception:
            bar.update(-counted)
            raise
        done.append(size)
        bar.set_description(f"{sum(done)} of {n} images")

    done: list[int] = []
    with tqdm(desc=f"0 of {n} images", unit=" steps", unit_scale=True) as bar:
        yield watched


ANCESTRAL = Sampling()

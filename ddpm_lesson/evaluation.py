"""Every score of a trained network in one call: what `python -m ddpm_lesson evaluate` prints."""

import torch
from torch import Generator, Tensor

from ddpm_lesson.bound import bits_per_dim, discretized
from ddpm_lesson.data import Images
from ddpm_lesson.metrics import Score, bits_score, evaluate
from ddpm_lesson.pretrained import Pretrained
from ddpm_lesson.samplers import last


def draw(
    trained: Pretrained,
    n: int,
    *,
    guidance: float = 1.0,
    steps: str | None = None,
    eta: float | None = None,
    seed: int = 0,
    batch_size: int = 250,
) -> tuple[Tensor, Tensor | None]:
    """n images (n, C, H, W) on the CPU and, from a network with classes, the labels asked for: every class in turn.

    guidance, steps, eta: as in `Pretrained.sample`. The images follow from seed and batch_size.
    """
    generator, device = Generator().manual_seed(seed), trained.process.betas.device
    labels = torch.arange(n) % len(trained.classes) if trained.model.options["num_classes"] is not None else None
    images = []
    for first in range(0, n, batch_size):
        y = None if labels is None else labels[first : first + batch_size].to(device)
        size = min(batch_size, n - first)
        states = trained.sample(size, y=y, guidance=guidance, steps=steps, eta=eta, generator=generator)
        images.append(last(states).cpu())
    return torch.cat(images), labels


def scores(
    trained: Pretrained,
    classifier: Pretrained,
    features: str,
    real: Images,
    held_out: Images,
    *,
    n: int,
    guidance: float = 1.0,
    steps: str | None = None,
    eta: float | None = None,
    seed: int = 0,
    bits_images: int = 0,
) -> dict[str, Score]:
    """Draw n images and score them against `real` by `metrics.evaluate`; then the bound on images held out.

    classifier: a clean one, features: its name. bits_images: how many of `held_out` for bits/dim, which asks the
    network T times for each; 0 for none. The other arguments: as in `draw`.
    """
    images, labels = draw(trained, n, guidance=guidance, steps=steps, eta=eta, seed=seed)
    found = evaluate(images, real[:][0], classifier.model, features, labels=labels, seed=seed)
    if bits_images:
        x_0, y = held_out[some(held_out, bits_images, seed)]
        bits = bits_per_dim(
            *(
                trained.model,
                trained.process,
                trained.mean_type,
                trained.variance,
                x_0.to(trained.process.betas.device),
            ),
            cond=None if labels is None else y.to(trained.process.betas.device),
            decoder=discretized(trained.levels),
            generator=Generator().manual_seed(seed),
        )
        score = bits_score(bits, len(x_0), seed)
        found[score.name] = score
    return found


def anchor(
    classifier: Pretrained, features: str, real: Images, held_out: Images, *, n: int, seed: int = 0
) -> dict[str, Score]:
    """The scores of n real images that were held out: what a network without fault would reach with n samples."""
    images, labels = held_out[some(held_out, n, seed)]
    return evaluate(images, real[:][0], classifier.model, features, labels=labels, seed=seed)


def some(images: Images, n: int, seed: int) -> Tensor:
    """Indices of n images, drawn without repetition.  ValueError if there are fewer."""
    if not 1 <= n <= len(images):
        raise ValueError(f"there are {len(images)} images held out, expected 1..{len(images)}, got {n}")
    return torch.randperm(len(images), generator=Generator().manual_seed(seed))[:n]

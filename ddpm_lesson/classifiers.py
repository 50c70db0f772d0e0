"""Training of the course's classifiers: of clean images, for the scores, and of noisy ones, for guidance."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from ddpm_lesson.batches import ordered, seed_of
from ddpm_lesson.data import Images
from ddpm_lesson.gaussian import randn_like
from ddpm_lesson.metrics import Interval, share_interval
from ddpm_lesson.networks.classifier import Classifier
from ddpm_lesson.pretrained import Pretrained
from ddpm_lesson.process import GaussianDiffusion
from ddpm_lesson.schedules import named
from ddpm_lesson.training import cosine


@dataclass(frozen=True)
class ClassifierRecipe:
    """What a classifier's weights depend on.  Dhariwal & Nichol 2021, Section 4, in small.

    data: as in `recipes.Recipe`. T, schedule: of the noise it is trained on; T None for clean images. ch, ch_mult,
    dropout: of the network. steps, batch_size, lr, weight_decay, seed: of AdamW, whose rate falls along a cosine.
    shift: images are moved by up to so many pixels each way, -1 coming in from the border.
    """

    data: str
    T: int | None = None
    schedule: str = "cosine"
    ch: int = 32
    ch_mult: tuple[int, ...] = (1, 2)
    dropout: float = 0.1
    steps: int = 1000
    batch_size: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.05
    shift: int = 1
    seed: int = 0

    def about(self, model: Classifier, images: Images) -> dict:
        """What has to be known to use the weights, for JSON."""
        told = {"classes": list(images.classes), "levels": images.levels, "shape": list(images.data.shape[1:])}
        recipe = dataclasses.asdict(self)
        return {"kind": "classifier", "classifier": model.options, "recipe": recipe, **told} | {
            name: recipe[name] for name in ("T", "schedule")
        }


def fit(recipe: ClassifierRecipe, images: Images, *, device: torch.device | str = "cpu") -> Iterator[Classifier]:
    """Train a classifier: yields it after every step, in train mode; the last one is the result.

    The loss is the cross-entropy; with T it is of x_t, at t drawn uniformly.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)  # not torch.manual_seed: that seeds the GPUs, too
        sizes = {"ch": recipe.ch, "ch_mult": recipe.ch_mult, "dropout": recipe.dropout, "T": recipe.T}
        model = Classifier(len(images.classes), in_ch=images.data.shape[1], **sizes)
    model = model.to(device=device, memory_format=torch.channels_last).train()
    process = None if recipe.T is None else GaussianDiffusion(named(recipe.schedule, recipe.T)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=recipe.weight_decay)
    batches, rate = ordered(images, batch_size=recipe.batch_size, seed=recipe.seed), cosine(recipe.steps)
    generator = Generator()
    for step in range(recipe.steps):
        generator.manual_seed(seed_of(recipe.seed, 2, step))
        x_0, y = next(batches)
        x, y = shifted(x_0, recipe.shift, generator).to(device), y.to(device)
        noise_level = ()
        if process is not None:
            noise_level = (torch.randint(process.T, y.shape, generator=generator).to(device),)
            x = process.q_sample(x, *noise_level, randn_like(x, generator))
        with torch.random.fork_rng(devices=[device] if torch.device(device).type == "cuda" else []):
            torch.manual_seed(seed_of(recipe.seed, 1, step))  # for dropout
            loss = cross_entropy(model(x, *noise_level), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = recipe.lr * rate(step + 1) * min(1, (step + 1) / 100)
        optimizer.step()
        yield model


def shifted(x_0: Tensor, by: int, generator: Generator | None = None) -> Tensor:
    """Each image (B, C, H, W) moved by up to `by` pixels each way; -1, black, comes in from the border."""
    B, C, H, W = x_0.shape
    padded = torch.nn.functional.pad(x_0, [by] * 4, value=-1.0)
    down, right = torch.randint(2 * by + 1, (2, B, 1, 1), generator=generator)
    rows, columns = torch.arange(H)[:, None] + down, torch.arange(W) + right  # (B, H, 1), (B, 1, W)
    return padded[torch.arange(B)[:, None, None], :, rows, columns].permute(0, 3, 1, 2)


def accuracy(
    trained: Pretrained, images: Images, t: int | None = None, *, seed: int = 0, batch_size: int = 250
) -> Interval:
    """Share of images that are recognised, and its 95 % interval.  t: the step whose noise they get, if it knows t."""
    generator, device = Generator().manual_seed(seed), next(trained.model.parameters()).device
    hits = []
    for rows in torch.arange(len(images)).split(batch_size):
        x, y = (part.to(device) for part in images[rows])
        noise_level = ()
        if trained.process is not None:
            noise_level = (torch.full_like(y, t),)
            x = trained.process.q_sample(x, *noise_level, randn_like(x, generator))
        with torch.no_grad():
            hits.append(trained.model(x, *noise_level).argmax(1) == y)
    return share_interval(torch.cat(hits))

"""Training of the course's classifiers: of clean images, for the scores, and of noisy ones, for guidance."""

from collections.abc import Iterator

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from ddpm_lesson._tensors import Device, frozen, home, positive, seed_of, seeded
from ddpm_lesson.batches import ordered
from ddpm_lesson.data import Images
from ddpm_lesson.experiments.build import make_process
from ddpm_lesson.experiments.metrics import Interval, share_interval
from ddpm_lesson.experiments.pretrained import PretrainedClassifier, PretrainedNoisyClassifier
from ddpm_lesson.experiments.recipes import ClassifierRecipe
from ddpm_lesson.networks.classifier import Classifier
from ddpm_lesson.training import cosine


def fit(recipe: ClassifierRecipe, images: Images, *, device: Device = "cpu") -> Iterator[PretrainedClassifier]:
    """Train a classifier: yields it after every step, in train mode; the last one is the result.

    The loss is the cross-entropy; with T it is of x_t, at t drawn uniformly.
    """
    channels, classes = images.shape[0], len(images.classes)
    with seeded(recipe.seed):
        model = Classifier(classes, recipe.ch, recipe.ch_mult, in_ch=channels, T=recipe.T, dropout=recipe.dropout)
    model = model.to(device).to(memory_format=torch.channels_last).train()
    told = (model, recipe, images.shape, images.classes, images.levels)
    process = None if recipe.T is None else make_process(recipe).to(device)
    trained = PretrainedClassifier(*told) if process is None else PretrainedNoisyClassifier(*told, process)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=recipe.weight_decay)
    batches, rate = ordered(images, batch_size=recipe.batch_size, seed=recipe.seed), cosine(recipe.steps)
    generator = Generator()
    for step in range(recipe.steps):
        generator.manual_seed(seed_of(recipe.seed, 2, step))
        x_0, y = next(batches)
        x, y = shifted(x_0, recipe.shift, generator).to(device), y.to(device)
        t = None
        if process is not None:
            t = torch.randint(process.T, y.shape, generator=generator, device=home(generator)).to(device)
            x = process.noised(x, t, generator=generator).x_t
        with seeded(seed_of(recipe.seed, 1, step), device):  # for dropout
            loss = cross_entropy(model(x, t), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = recipe.lr * rate(step + 1) * min(1, (step + 1) / 100)
        optimizer.step()
        yield trained


def shifted(x_0: Tensor, by: int, generator: Generator | None = None) -> Tensor:
    """Each image (B, C, H, W) moved by up to `by` pixels each way; -1, black, comes in from the border."""
    B, C, H, W = x_0.shape
    padded = torch.nn.functional.pad(x_0, [by] * 4, value=-1.0)
    down, right = torch.randint(2 * by + 1, (2, B, 1, 1), generator=generator, device=home(generator)).to(x_0.device)
    b, h, w = (torch.arange(size, device=x_0.device) for size in (B, H, W))
    return padded[b[:, None, None], :, h[:, None] + down, w + right].permute(0, 3, 1, 2)


def accuracy(
    trained: PretrainedClassifier, images: Images, t: int = 0, *, seed: int = 0, batch_size: int = 250
) -> Interval:
    """Share of images that are recognised, and its 95 % interval.  t: the step whose noise they get, if it knows t.

    Raises ValueError if batch_size is below 1.
    """
    generator, device = Generator().manual_seed(seed), next(trained.model.parameters()).device
    hits = []
    for rows in torch.arange(len(images)).split(positive("batch_size", batch_size)):
        x, y = (part.to(device) for part in images[rows])
        at = None
        if isinstance(trained, PretrainedNoisyClassifier):
            at = torch.full_like(y, t)
            x = trained.process.noised(x, at, generator=generator).x_t
        with frozen(trained.model):  # `fit` yields it in train mode
            hits.append(trained.model(x, at).argmax(1) == y)
    return share_interval(torch.cat(hits))

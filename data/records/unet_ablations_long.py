"""What the pieces of a small U-Net are worth once it can draw: python data/records/unet_ablations_long.py

Writes unet_ablations_long.json beside this file, which notebook 03, section 3.8, shows: the experiments of
unet_ablations.py, trained until digits appear, scored and sampled with averaged weights. A quarter of an hour
on one thread. A drawn image is a string of its 64 pixels, row after row, each a digit to the base 17.
"""

import json
from functools import partial
from pathlib import Path

import torch
from tqdm.auto import tqdm
from unet_ablations import (
    NOISE_TEST,
    PROCESS,
    T_TEST,
    X_TEST,
    X_TRAIN,
    cut_skips,
    drop_attention,
    hide_time,
    unchanged,
    wake,
)

from ddpm_lesson import losses, samplers, spacing, training
from ddpm_lesson.data import to_uint8
from ddpm_lesson.denoisers import clipped, make_denoiser
from ddpm_lesson.experiments.checkpoints import write_whole
from ddpm_lesson.experiments.features import classified, load_moments
from ddpm_lesson.experiments.metrics import frechet_distance, nearest_neighbours
from ddpm_lesson.experiments.pretrained import load_pretrained
from ddpm_lesson.networks.unet import UNet
from ddpm_lesson.predictions import epsilon, fixedsmall

SEEDS, MARKS, DRAWN_AT = 3, (60, 200, 800), (200, 800)
DRAWN, SHOWN = 192, 8
EXPERIMENTS = {
    "full": unchanged,
    "no attention": drop_attention,
    "no start at 0": wake,
    "no time": hide_time,
    "no skips": cut_skips,
}
X_T_TEST = PROCESS.q_sample(X_TEST, T_TEST, NOISE_TEST)


def held_out_loss(net) -> float:
    """As in unet_ablations.py."""
    with torch.no_grad():
        return (net(X_T_TEST, T_TEST) - NOISE_TEST).square().mean().item()


def draw(net) -> torch.Tensor:
    """(DRAWN, 1, 8, 8), with 100 of the steps."""
    denoise = clipped(make_denoiser(net, PROCESS, epsilon), PROCESS)
    short = PROCESS.respaced(spacing.trailing(PROCESS.T, 100))
    generator = torch.Generator().manual_seed(0)
    x_T = torch.randn(DRAWN, 1, 8, 8, generator=generator)
    p = samplers.reverse(short, denoise, fixedsmall)
    return samplers.last(samplers.ancestral(short, p, x_T, generator=generator))


def scores(images, classifier, real) -> dict:
    """How far the samples' features lie from the training images', and each sample from its nearest one."""
    features, _ = classified(classifier, images)
    distances, _ = nearest_neighbours(images, X_TRAIN)
    frechet = frechet_distance(features, real)
    return {"frechet": round(frechet, 4), "nearest": round(distances.mean().item(), 4)}


def as_text(image) -> str:
    digits = "0123456789abcdefg"
    return "".join(digits[level] for level in to_uint8(image, 17).flatten().tolist())


def trained(change, seed: int, classifier, real) -> dict:
    """One network: its held-out loss at each mark, the scores of its samples, and a few of them."""
    torch.manual_seed(seed)
    net = UNet(1000, 16, [1, 2], [1], 1, 0.0, in_ch=1, num_groups=4)
    change(net)
    generator, ema = torch.Generator().manual_seed(seed), training.EMA(net, 0.99)
    batches = training.minibatches(X_TRAIN, batch_size=32, generator=generator)
    loss = partial(losses.simple_loss, PROCESS, epsilon)
    options = {"lr": 4e-3, "warmup": 10, "ema": ema, "generator": generator}
    found: dict = {"loss": {}, "scores": {}, "drawn": {}}
    for step in training.train(net, PROCESS, batches, loss, steps=MARKS[-1], **options):
        if step.step in MARKS:
            found["loss"][step.step] = round(held_out_loss(ema.model), 4)
        if step.step in DRAWN_AT:
            images = draw(ema.model)
            found["scores"][step.step] = scores(images, classifier, real)
            found["drawn"][step.step] = [as_text(image) for image in images[:SHOWN]]
    return found


def main() -> None:
    torch.set_num_threads(1)
    classifier, real = load_pretrained("digits_classifier").model, load_moments("digits_classifier")
    anchor = scores(X_TEST[:DRAWN], classifier, real)
    runs: dict = {name: [] for name in EXPERIMENTS}
    with tqdm(total=SEEDS * len(EXPERIMENTS)) as bar:
        for seed in range(SEEDS):
            for name, change in EXPERIMENTS.items():
                runs[name].append(trained(change, seed, classifier, real))
                bar.update()
    record = {"made_by": "python data/records/unet_ablations_long.py", "real, held out": anchor, "runs": runs}
    write_whole(Path(__file__).with_suffix(".json"), (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()

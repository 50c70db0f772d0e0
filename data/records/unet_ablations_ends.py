"""Two numbers that notebook 03 needs beside its ablations: python data/records/unet_ablations_ends.py

Writes unet_ablations_ends.json beside this file, for section 3.8. "ends": held-out loss of the networks without skips
and without time, trained two and a half times as long as in unet_ablations_long.py, otherwise the same. "designs":
held-out loss of the small networks that exercise 3.9 names, and of the one that they are compared with, trained as the
exercise trains. About ten minutes on one idle core.
"""

import json
from functools import partial
from pathlib import Path

import torch
from tqdm.auto import tqdm
from unet_ablations import PROCESS, X_TRAIN, cut_skips, hide_time, unchanged
from unet_ablations_long import held_out_loss

from ddpm_lesson import losses, training
from ddpm_lesson.experiments.checkpoints import write_whole
from ddpm_lesson.networks.unet import UNet
from ddpm_lesson.predictions import epsilon

END_SEEDS, MARKS = 2, (200, 800, 2000)
END_EXPERIMENTS = {"full": unchanged, "no time": hide_time, "no skips": cut_skips}
DESIGN_SEEDS, DESIGN_STEPS = 3, 300
DESIGNS = {  # ch, ch_mult, attn, num_res_blocks
    "the network of section 3.7": (16, [1, 2], [1], 1),
    "the exercise as given": (8, [1, 2], [1], 1),
    "two levels": (8, [1, 2], [], 2),
    "one level": (16, [1], [], 2),
}


def network(ch: int, ch_mult: list[int], attn: list[int], num_res_blocks: int, seed: int) -> UNet:
    torch.manual_seed(seed)
    return UNet(1000, ch, ch_mult, attn, num_res_blocks, 0.0, in_ch=1, num_groups=4)


def losses_at(net: UNet, marks, *, seed: int, batch_size: int, warmup: int) -> dict[int, float]:
    """Held-out loss of the averaged weights after each number of steps in `marks`."""
    generator, ema = torch.Generator().manual_seed(seed), training.EMA(net, 0.99)
    batches = training.minibatches(X_TRAIN, batch_size=batch_size, generator=generator)
    loss = partial(losses.simple_loss, PROCESS, epsilon)
    options = {"lr": 4e-3, "warmup": warmup, "ema": ema, "generator": generator}
    found = {}
    for step in tqdm(training.train(net, PROCESS, batches, loss, steps=marks[-1], **options), total=marks[-1]):
        if step.step in marks:
            found[step.step] = round(held_out_loss(ema.model), 4)
            tqdm.write(f"{step.step} steps: {found[step.step]}")
    return found


def main() -> None:
    torch.set_num_threads(1)
    ends: dict = {name: [] for name in END_EXPERIMENTS}
    for seed in range(END_SEEDS):
        for name, change in END_EXPERIMENTS.items():
            net = network(16, [1, 2], [1], 1, seed=seed)
            change(net)
            ends[name].append(losses_at(net, MARKS, seed=seed, batch_size=32, warmup=10))
    designs: dict = {}
    for name, design in DESIGNS.items():
        found = []
        for seed in range(DESIGN_SEEDS):
            net = network(*design, seed=seed)
            found += losses_at(net, (DESIGN_STEPS,), seed=seed, batch_size=64, warmup=20).values()
        parameters = sum(p.numel() for p in net.parameters() if p.requires_grad)
        designs[name] = {"parameters": parameters, "loss": found}
    record = {"made_by": "python data/records/unet_ablations_ends.py", "ends": ends, "designs": designs}
    write_whole(Path(__file__).with_suffix(".json"), (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()

"""What the pieces of a small U-Net are worth, over 20 seeds: python data/records/unet_ablations.py

Writes unet_ablations.json beside this file. Notebook 03, sections 3.12 and 3.13, makes some of the same experiments
with three seeds, and takes the numbers of its text from here. About ten minutes on one thread.
"""

import json
from functools import partial
from pathlib import Path

import torch
from torch import nn
from tqdm.auto import tqdm

from ddpm_lesson import GaussianDiffusion, data, losses, schedules, training
from ddpm_lesson.experiments.checkpoints import write_whole
from ddpm_lesson.networks.blocks import AttnBlock, ResBlock
from ddpm_lesson.networks.unet import UNet
from ddpm_lesson.predictions import epsilon

SEEDS = 20
PROCESS = GaussianDiffusion(schedules.linear(1000))
X_TRAIN, X_TEST = data.digits("train")[:][0], data.digits("test")[:][0]
T_TEST = torch.linspace(0, 999, 382).long()[torch.randperm(382, generator=torch.Generator().manual_seed(0))]
NOISE_TEST = torch.randn(X_TEST.shape, generator=torch.Generator().manual_seed(1))


def unchanged(net: UNet) -> None:
    """The whole network."""


def overwrite_attention(net: UNet) -> None:
    """The post's initialisation: the attention's last layer gets the gain 1."""
    for block in net.modules():
        if isinstance(block, AttnBlock):
            nn.init.xavier_uniform_(block.proj.weight)


def wake(net: UNet) -> None:
    """Gain 1 in the last layer of every branch, and of the network."""
    for block in net.modules():
        if isinstance(block, ResBlock | AttnBlock):
            nn.init.xavier_uniform_(block.block2[-1].weight if isinstance(block, ResBlock) else block.proj.weight)
    nn.init.xavier_uniform_(net.tail[-1].weight)


def hide_time(net: UNet) -> None:
    """The network is told t = 0 at every step."""
    net.register_forward_pre_hook(lambda _, args: (args[0], torch.zeros_like(args[1])))


def cut_skips(net: UNet) -> None:
    """What comes across from the way down is 0."""
    channels = net.middleblocks[-1].block2[-1].out_channels
    for block in net.upblocks:
        if isinstance(block, ResBlock):
            block.register_forward_pre_hook(partial(_zero_from, channels))
            channels = block.block2[-1].out_channels


def _zero_from(channels, block, args):
    h, temb = args
    return torch.cat([h[:, :channels], torch.zeros_like(h[:, channels:])], 1), temb


def drop_attention(net: UNet) -> None:
    """Nothing in the place of attention."""
    for block in net.modules():
        if isinstance(block, ResBlock):
            block.attn = nn.Identity()


def held_out_loss(change, seed: int, steps: int, **options) -> float:
    """Loss on the held-out digits after training, as in the notebook."""
    torch.manual_seed(seed)
    net = UNet(1000, 16, [1, 2], [1], 1, 0.0, in_ch=1, num_groups=4, **options)
    change(net)
    generator = torch.Generator().manual_seed(seed)
    batches = training.minibatches(X_TRAIN, batch_size=32, generator=generator)
    loss = partial(losses.simple_loss, PROCESS, epsilon)
    for _ in training.train(net, PROCESS, batches, loss, steps=steps, lr=4e-3, warmup=10, generator=generator):
        pass
    with torch.no_grad():
        return (net(PROCESS.q_sample(X_TEST, T_TEST, NOISE_TEST), T_TEST) - NOISE_TEST).square().mean().item()


EXPERIMENTS = {
    "no skips": (cut_skips, 60, {}),
    "no start at 0": (wake, 60, {}),
    "no time": (hide_time, 60, {}),
    "no attention": (drop_attention, 60, {}),
    "AdaGN": (unchanged, 60, {"scale_shift_norm": True}),
    "attention overwritten": (overwrite_attention, 100, {}),
}


def main() -> None:
    torch.set_num_threads(1)
    whole = {
        steps: torch.tensor(
            [held_out_loss(unchanged, seed, steps) for seed in tqdm(range(SEEDS), f"full, {steps} steps")]
        )
        for steps in (60, 100)
    }
    found = {}
    for name, (change, steps, options) in EXPERIMENTS.items():
        changed = [held_out_loss(change, seed, steps, **options) for seed in tqdm(range(SEEDS), name)]
        more = torch.tensor(changed) / whole[steps] - 1
        found[name] = {
            **{"steps": steps, "mean_change": round(more.mean().item(), 4), "std_change": round(more.std().item(), 4)},
            **{"seeds_worse": int((more > 0).sum()), "seeds": SEEDS},
        }
    told = {f"full, {steps} steps": round(values.mean().item(), 4) for steps, values in whole.items()}
    record = {"made_by": "python data/records/unet_ablations.py", "loss": told, "change": found}
    write_whole(Path(__file__).with_suffix(".json"), (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()

"""The command evaluate: every score of a network, and the same of real images."""

import argparse
import json
import math
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ddpm_lesson.cli.options import (
    about,
    add_drawing,
    check_root,
    command_of,
    device_named,
    file_of,
    loaded,
    name,
    not_negative,
    sampling_of,
    within_memory,
)
from ddpm_lesson.cli.outputs import check_file
from ddpm_lesson.cli.real import Beside, beside
from ddpm_lesson.experiments import distributed, drawing, metrics, pretrained
from ddpm_lesson.experiments.checkpoints import write_whole
from ddpm_lesson.experiments.conditions import made_small
from ddpm_lesson.experiments.metrics import Score
from ddpm_lesson.experiments.sampling import Sampling


def add(commands: Any) -> None:
    words = "Print the scores of a network, and of real images."
    more = f"What is left open is as it was for the recorded scores. For a network of your own: n 1000, {Sampling()}."
    command = command_of(commands, evaluate, words, more)
    add_drawing(command, "as recorded", None)
    words = "clean classifier whose features and classes are used: a name or a file; own: one that is trained on the "
    words += "images and kept; pixels: their principal components [the one that ships for the data, else Inception if "
    words += "its weights are in torch's cache, else own, or pixels for images of one class]"
    command.add_argument("--classifier", type=name, metavar="NAME", help=words)
    words = "FID, sFID and Inception score by torchmetrics, with torch-fidelity's weights [torch's cache]"
    command.add_argument("--inception", nargs="?", const="", metavar="FILE", help=words)
    words = "held-out images for bits/dim, each costs T calls; 0 leaves it out [0]"
    command.add_argument("--bits", type=not_negative, default=0, metavar="N", help=words)
    words = "where torchvision's files, or the images of a folder, lie [as in training]"
    command.add_argument("--root", type=name, metavar="FOLDER", help=words)
    words = "of a network trained on a folder: images that it has not seen [a tenth of the images that it has seen]"
    command.add_argument("--held-out", type=name, metavar="FOLDER", help=words)
    command.add_argument("--json", type=name, metavar="FILE", help="write the scores into a file, too; null: no number")


def evaluate(options: argparse.Namespace) -> int:
    """Print every score of a network, and the same of real images that were held out."""
    if distributed.rank():
        return drawing.follow(lambda: loaded(options.weights, options.device, pretrained.PretrainedDiffusion))
    with drawing.leading():
        return _evaluate(options)


def _evaluate(options: argparse.Namespace) -> int:
    if options.json:
        check_file(Path(options.json))
    # What the options leave open is as it was for the recorded scores, if the network ships.
    recorded: dict = {} if file_of(options.weights) else pretrained.about_shipped(options.weights)
    scoring = {"n": 1000, "sampling": {}, "classifier": None} | recorded.get("scoring", {})
    usual = Sampling(**scoring["sampling"])
    sampling = sampling_of(options, usual)
    device = device_named(options.device)
    with within_memory(device, "these images", "take a smaller --n or another --device"):
        trained = loaded(options.weights, options.device, pretrained.PretrainedDiffusion)
        wanted = scoring["n"] if options.n is None else options.n
        check_root(options.root, trained.recipe.data)
        _check(trained, sampling, wanted, options.bits)
        if not options.quiet:
            print(about(options.weights, trained), file=sys.stderr)
        beside_it = beside(options, trained, scoring["classifier"])
        n = min(wanted, len(beside_it.real.held_out))
        if options.bits > len(beside_it.real.held_out):
            told = f"there are {len(beside_it.real.held_out)} images held out"
            raise ValueError(f"{told}, expected --bits 0..{len(beside_it.real.held_out)}, got {options.bits}")
        usual_space = options.inception is None and options.classifier in (None, scoring["classifier"])
        same = recorded and usual_space and (n, sampling) == (scoring["n"], usual)
        _say(options, trained.recipe.data, n, wanted, sampling, beside_it)
        known = recorded["made"]["scores"] if same else {}
        found, real = _scores(options, trained, n, sampling, beside_it, known)
    if options.json:
        scored = {"scores": _plain(found), "real": _plain(real), "notes": beside_it.notes}
        written = {"weights": options.weights, "sampling": asdict(sampling)} | scored
        Path(options.json).parent.mkdir(parents=True, exist_ok=True)
        write_whole(Path(options.json), (json.dumps(written, indent=1) + "\n").encode())
    return 0


def _check(trained: pretrained.PretrainedDiffusion, sampling: Sampling, n: int, bits: int) -> None:
    """What would else fail after minutes, such as steps that do not fit the chain: one image makes one step."""
    if n < metrics.GROUPS:
        raise ValueError(f"an interval needs at least {metrics.GROUPS} samples, got {n}")
    if bits and trained.recipe.condition == "previous":
        raise ValueError(
            "there are no bits/dim of a network with self-conditioning, whose steps depend on each other: leave out "
            f"--bits, got {bits}"
        )
    cond = made_small(trained.recipe, torch.zeros(1, *trained.shape))
    states = trained.states(1, sampling, y=trained.labels(1), cond=cond)
    for _ in range(2):  # x_T, and the first step
        next(states, None)


def _say(options: argparse.Namespace, data: str, n: int, wanted: int, sampling: Sampling, beside_it: Beside) -> None:
    against = f"{len(beside_it.real.reference)} of the" if beside_it.real.part else "the"
    print(f"Samples of {options.weights}, {sampling}, against {against} training images of {data}:", flush=True)
    if n < wanted and options.n is not None:
        beside_it.notes.append(f"n is {n}, not {wanted}: as many as there are real images to stand beside the samples")
    for note in beside_it.notes:
        print(f"  ({note})", flush=True)
    if not options.quiet:
        parts = ["real images", "their neighbours", f"{n} images drawn"]
        parts += [f"bits/dim of {options.bits} images"] if options.bits else []
        print(f"{len(parts)} parts, each with the time it has left: {', '.join(parts)}", file=sys.stderr)


def _scores(
    options: argparse.Namespace,
    trained: pretrained.PretrainedDiffusion,
    n: int,
    sampling: Sampling,
    beside_it: Beside,
    known: dict,
) -> tuple[dict[str, Score], dict[str, Score]]:
    """Print the scores of the network and of real images, and return both."""
    from ddpm_lesson.experiments.evaluation import Space, anchor, reference_of, scores

    progress = {"progress": not options.quiet}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        reference = reference_of(beside_it.real.reference.x_0.to(trained.device), beside_it.network, **progress)
        space = Space(beside_it.network, beside_it.name, reference, beside_it.real.held_out)
        drawing = {"bits_images": options.bits, "batch_size": options.batch, **progress}
        found = scores(trained, space, n, sampling, **drawing)
        for key, score in found.items():
            before, text = known.get(key), ""
            if before and before["n"] == score.n:  # of bits/dim the number is an option of its own
                text = "; recorded {value:.4g} ({low:.4g}..{high:.4g})".format(**before)
            print(f"  {score}{text}")
        if "Bits/dim" in known and not options.bits:
            print(f"  Bits/dim was recorded too: --bits {known['Bits/dim']['n']} finds it again, which takes longer")
        print(f"As many images of {trained.recipe.data} {beside_it.real.origin}:")
        real = anchor(space, n, seed=sampling.seed)
    for score in real.values():
        print(" ", score)
    for message in dict.fromkeys(str(each.message) for each in caught):
        print(f"  ({message})")
    return found, real


def _plain(scores: dict[str, Score]) -> dict[str, dict]:
    """For a file.  What is no number, such as the interval of one image's bits/dim, is None: JSON has no NaN."""

    def known(value: object) -> object:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {name: {key: known(value) for key, value in score._asdict().items()} for name, score in scores.items()}

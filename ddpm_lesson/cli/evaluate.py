"""The command evaluate: every score of a network, and the same of real images."""

import argparse
from pathlib import Path
from typing import Any

from ddpm_lesson.cli.options import add_drawing, command_of, device_named, loaded, sampling_of
from ddpm_lesson.experiments import pretrained
from ddpm_lesson.experiments.build import load_images
from ddpm_lesson.experiments.sampling import Sampling


def add(commands: Any) -> None:
    words = "Print the scores of a network, and of real images."
    more = f"What is left open is as it was for the recorded scores. For a network of your own: n 1000, {Sampling()}."
    command = command_of(commands, evaluate, words, more)
    add_drawing(command, "as recorded", None)
    words = "clean classifier whose features and classes are used; default: the one that ships for the data"
    command.add_argument("--classifier", metavar="NAME", help=words)
    words = "held-out images for bits/dim, each costs T calls (0: leave it out)"
    command.add_argument("--bits", type=int, default=0, metavar="N", help=words)
    command.add_argument("--root", metavar="FOLDER", help="where torchvision's files lie; see --root of train")


def evaluate(options: argparse.Namespace) -> int:
    """Print every score of a network, and the same of real images that were held out."""
    from ddpm_lesson.experiments.evaluation import Space, anchor, reference_of, scores

    # What the options leave open is as it was for the recorded scores, if the network ships.
    is_file = Path(options.weights).suffix or Path(options.weights).is_dir()
    recorded: dict = {} if is_file else pretrained.about_shipped(options.weights)
    scoring = recorded.get("scoring", {"n": 1000, "sampling": {}, "classifier": None})
    usual = Sampling(**scoring["sampling"])
    trained = loaded(options.weights, options.device, pretrained.PretrainedDiffusion)
    sampling = sampling_of(options, usual)
    held_out = load_images(trained.recipe, options.root, train=False)
    n = min(scoring["n"] if options.n is None else options.n, len(held_out))
    data = trained.recipe.data
    features = options.classifier or scoring["classifier"] or f"{data}_classifier"
    classifier = loaded(features, options.device, pretrained.PretrainedClassifier).model
    print(f"Samples of {options.weights}, {sampling}, against the training images of {data}:", flush=True)
    real = load_images(trained.recipe, options.root).x_0.to(device_named(options.device))
    space = Space(classifier, Path(features).stem, reference_of(real, classifier), held_out)  # minutes for MNIST
    same = recorded and (n, sampling, features) == (scoring["n"], usual, scoring["classifier"])
    known = recorded["made"]["scores"] if same else {}
    for key, score in scores(trained, space, n, sampling, bits_images=options.bits).items():
        before, beside = known.get(key), ""
        if before and before["n"] == score.n:  # of bits/dim the number is an option of its own
            beside = "; recorded {value:.4g} ({low:.4g}..{high:.4g})".format(**before)
        print(f"  {score}{beside}")
    if "Bits/dim" in known and not options.bits:
        print(f"  Bits/dim was recorded too: --bits {known['Bits/dim']['n']} finds it again, which takes longer")
    print(f"As many images of {data} that were held out:")
    for score in anchor(space, n, seed=sampling.seed).values():
        print(" ", score)
    return 0

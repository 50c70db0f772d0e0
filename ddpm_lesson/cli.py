"""The command line: python -m ddpm_lesson train | sample | evaluate.  Every error is one line that says what to do."""

import argparse
import dataclasses
import io
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from tqdm.auto import tqdm

from ddpm_lesson.experiments import pretrained
from ddpm_lesson.experiments.build import load_images
from ddpm_lesson.experiments.checkpoints import write_whole
from ddpm_lesson.experiments.conditions import made_small
from ddpm_lesson.experiments.recipes import PRESETS, Recipe
from ddpm_lesson.experiments.runs import Run
from ddpm_lesson.experiments.sampling import SAMPLERS, Sampling, check_option, takers
from ddpm_lesson.samplers import last

T = TypeVar("T")
Command = Callable[[argparse.Namespace], int]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of the usage of all options."""
        self.exit(2, f"{self.prog}: {message}; see --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command line. Returns the exit status: 0 done, 1 an error, in one line, 130 interrupted.

    Exits with 2 for options that do not exist. With --debug an error is raised.
    """
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        return options.command(options)
    except (ValueError, OSError, FloatingPointError, ImportError, torch.cuda.OutOfMemoryError) as error:
        if options.debug:
            raise
        print(f"ddpm_lesson: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def train(options: argparse.Namespace) -> int:
    """Carry out a recipe in a folder, or go on with the one that lies there."""
    recipe = _recipe(options)
    run = Run(recipe, options.out, load_images(recipe), device=_device(options.device))
    board = _tensorboard(run.folder) if options.tensorboard else None
    begun, per_step = run.step, recipe.batch_size * recipe.accumulate
    bar = tqdm(total=recipe.steps * per_step, initial=begun * per_step, unit=" images", unit_scale=True)
    with _stopping() as stop, bar, board or nullcontext():
        for step in run.steps():
            bar.set_postfix(step=step.step, loss=f"{step.loss:.4f}", refresh=False)
            bar.update(per_step)
            if board:
                board.add_scalar("loss", step.loss, step.step)
                board.add_scalar("grad_norm", step.grad_norm, step.step)
            if stop.is_set() or step.step == recipe.steps:
                break
            if step.step % options.save_every == 0:
                run.save()
            if step.step % options.preview_every == 0:
                _preview(run)
        if run.step > begun:
            run.save()
            _preview(run)
    if run.step < recipe.steps:
        print(f"Stopped after step {run.step} of {recipe.steps}. The same command goes on from there.")
        return 130
    print(f"Done: {run.folder / 'weights.safetensors'} holds the averaged network after {run.step} steps.")
    return 0


def sample(options: argparse.Namespace) -> int:
    """Draw images and write them as a PNG grid, or as an animated PNG that shows them coming out of the noise."""
    out = Path(options.out)
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out must end in .png, got {out}")
    trained = _loaded(options.weights, options.device, pretrained.PretrainedDiffusion)
    sampling = _sampling(options, Sampling())
    if trained.recipe.condition == "low_res":
        cond, labels = _to_enlarge(trained, options, sampling)
    else:
        cond, labels = None, trained.labels(options.n, options.label)
    states = tqdm(trained.states(options.n, sampling, y=labels, cond=cond), unit=" steps")
    picture = _animation([state.x_t.cpu() for state in states]) if options.animate else _grid(last(states).cpu())
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, picture)
    print(f"{out}: {options.n} images, {sampling}")
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """Print every score of a network, and the same of real images that were held out."""
    from ddpm_lesson.experiments.evaluation import Space, anchor, reference_of, scores

    # What the options leave open is as it was for the recorded scores, if the network ships.
    is_file = Path(options.weights).suffix or Path(options.weights).is_dir()
    recorded: dict = {} if is_file else pretrained.about_shipped(options.weights)
    scoring = recorded.get("scoring", {"n": 1000, "sampling": {}, "classifier": None})
    usual = Sampling(**scoring["sampling"])
    trained = _loaded(options.weights, options.device, pretrained.PretrainedDiffusion)
    sampling = _sampling(options, usual)
    held_out = load_images(trained.recipe, options.root, train=False)
    n = min(scoring["n"] if options.n is None else options.n, len(held_out))
    data = trained.recipe.data
    features = options.classifier or scoring["classifier"] or f"{data}_classifier"
    classifier = _loaded(features, options.device, pretrained.PretrainedClassifier).model
    print(f"Samples of {options.weights}, {sampling}, against the training images of {data}:", flush=True)
    real = load_images(trained.recipe, options.root).x_0.to(_device(options.device))
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


def _to_enlarge(
    trained: pretrained.PretrainedDiffusion, options: argparse.Namespace, sampling: Sampling
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The small images for a network that enlarges images, and their labels if it takes them."""
    from ddpm_lesson.experiments.evaluation import some

    if options.label is not None:
        raise ValueError(f"this network enlarges images, whose classes are what they are: got --label {options.label}")
    images = load_images(trained.recipe, options.root, train=trained.recipe.data == "folder")  # which holds none back
    x_0, y = images[some(images, options.n, sampling.seed)]
    return made_small(trained.recipe, x_0), y.to(trained.device) if trained.recipe.conditional else None


def _sampling(options: argparse.Namespace, usual: Sampling) -> Sampling:
    """How to draw: what the options say, else the usual; another sampler takes over no option of the usual one."""
    given = _given(options, Sampling)
    sampler = given.get("sampler", usual.sampler)
    for name, value in given.items():
        check_option(sampler, name, value)  # also of a value that would change nothing
    if sampler != usual.sampler:
        given = {field.name: field.default for field in dataclasses.fields(Sampling) if takers(field.name)} | given
    return dataclasses.replace(usual, **given)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("python -m ddpm_lesson", description="Train, sample and evaluate diffusion models.")
    commands = parser.add_subparsers(required=True, metavar="train | sample | evaluate")

    words = "Train a network, or go on with a run that was stopped: the same command again goes on."
    command = _command(commands, train, words)
    command.add_argument("--preset", choices=PRESETS, help="a recipe to start from; the options below change it")
    command.add_argument("--recipe", metavar="FILE", help="a recipe.json to start from, such as a run has saved")
    command.add_argument("--out", metavar="FOLDER", help="folder of the run; default: runs/ and the preset's name")
    for what in ("save", "preview"):
        words = f"steps between {what}s (500)"
        command.add_argument(f"--{what}-every", type=_positive, default=500, metavar="N", help=words)
    command.add_argument("--tensorboard", action="store_true", help="also write a log for TensorBoard")
    fields = command.add_argument_group("the recipe", "Defaults in brackets are those without a preset.")
    for field in dataclasses.fields(Recipe):
        _add_field(fields, field, field.default)

    words = "A network that enlarges images is given images of its data that were held out, made small."
    command = _command(commands, sample, "Draw images from a network.", words)
    _add_drawing(command, "64", Sampling())
    command.set_defaults(n=64)
    command.add_argument("--label", metavar="CLASS", help="a class, by name; default: every class in turn")
    words = "images to enlarge: where torchvision's files, or the images of a folder, lie"
    command.add_argument("--root", metavar="FOLDER", help=words)
    command.add_argument("--out", default="samples.png", metavar="FILE.png", help="default: samples.png")
    command.add_argument("--animate", action="store_true", help="an animated PNG: the images come out of the noise")

    words = "Print the scores of a network, and of real images."
    more = f"What is left open is as it was for the recorded scores. For a network of your own: n 1000, {Sampling()}."
    command = _command(commands, evaluate, words, more)
    _add_drawing(command, "as recorded", None)
    words = "clean classifier whose features and classes are used; default: the one that ships for the data"
    command.add_argument("--classifier", metavar="NAME", help=words)
    words = "held-out images for bits/dim, each costs T calls (0: leave it out)"
    command.add_argument("--bits", type=int, default=0, metavar="N", help=words)
    command.add_argument("--root", metavar="FOLDER", help="where torchvision's files lie; see --root of train")
    return parser


def _command(commands: Any, function: Command, words: str, more: str = "") -> argparse.ArgumentParser:
    command = commands.add_parser(function.__name__, description=f"{words} {more}", help=words)
    command.set_defaults(command=function)
    command.add_argument("--device", metavar="NAME", help="cpu, cuda, mps; default: a GPU if there is one")
    command.add_argument("--threads", type=_positive, metavar="N", help="CPU threads; default: PyTorch's choice")
    command.add_argument("--debug", action="store_true", help="show where in the code an error came from")
    return command


def _add_drawing(command: argparse.ArgumentParser, n: str, usual: Sampling | None) -> None:
    """The options of how to draw.  usual: what holds where nothing is given, None for as it was recorded."""
    words = "a network that ships with the course, a file weights.safetensors, or the folder of a run"
    command.add_argument("--weights", default="digits_ddpm", metavar="NAME", help=f"{words}; default: digits_ddpm")
    command.add_argument("--n", type=_positive, metavar="N", help=f"number of images [{n}]")
    for field in dataclasses.fields(Sampling):
        _add_field(command, field, getattr(usual, field.name) if usual else "as recorded")


def _add_field(group: Any, field: dataclasses.Field, default: object) -> None:
    """An option for a field of `Recipe` or `Sampling`, read by `_given`.  default: what its help names."""
    options: dict[str, Any]
    if field.type is bool:
        options = {"action": argparse.BooleanOptionalAction}
    elif field.type == tuple[int, ...]:
        options = {"type": int, "nargs": "*", "metavar": "N"}
    else:
        kind = next(kind for kind in (int, float, str) if field.type in (kind, kind | None))
        choices = (
            [name for name, each in SAMPLERS.items() if each.from_noise]
            if field.name == "sampler"
            else field.metadata.get("choices")
        )
        options = {"type": kind, "choices": choices, "metavar": field.metadata.get("metavar")}
    words = f"{field.metadata['help']} [{default}]".replace("%", "%%")
    group.add_argument(f"--{field.name.replace('_', '-')}", default=argparse.SUPPRESS, help=words, **options)


def _given(options: argparse.Namespace, kind: type[Recipe] | type[Sampling]) -> dict[str, Any]:
    """The fields that the command line names."""
    return {f.name: getattr(options, f.name) for f in dataclasses.fields(kind) if hasattr(options, f.name)}


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text}")
    return int(text)


def _recipe(options: argparse.Namespace) -> Recipe:
    """What the options ask for; sets options.out, too. A run that lies there is gone on with."""
    if options.preset and options.recipe:
        raise ValueError("give --preset or --recipe, not both")
    options.out = Path(options.out or f"runs/{options.preset or 'own'}")
    given = _given(options, Recipe)
    source = Path(options.recipe) if options.recipe else options.out / "recipe.json"
    if options.preset:
        recipe = PRESETS[options.preset]
    elif source.exists() or options.recipe:
        recipe = Recipe.from_json(source.read_text(encoding="utf-8"))
    elif given:
        return Recipe(**given)
    else:
        raise ValueError(f"say what to train: --preset {' | '.join(PRESETS)}, --recipe FILE, or options; see --help")
    return dataclasses.replace(recipe, **given)


def _loaded(name: str, device: str | None, kind: type[T]) -> T:
    """A network by the name it ships under, by its file, or by the folder of its run."""
    path = Path(name)
    path = path / "weights.safetensors" if path.is_dir() else path
    at = _device(device)
    trained = pretrained.load_weights(path, device=at) if path.suffix else pretrained.load_pretrained(name, device=at)
    if not isinstance(trained, kind):
        raise ValueError(f"{name} must be a {kind.__name__}, got a {type(trained).__name__}")
    return trained


def _device(name: str | None) -> torch.device:
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        first = str(error).split("\n")[0]
        raise ValueError(f"--device {name} cannot be used on this machine: {first}") from error


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that Ctrl-C, or a request to terminate, sets; the second Ctrl-C stops at once."""
    stop = threading.Event()

    def ask(number, frame):
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _preview(run: Run) -> None:
    """A grid from the averaged network, and the loss so far, as pictures in the folder of the run."""
    from ddpm_lesson.plots import loss_curve

    trained, S = run.result(), min(run.process.T, 25)
    sampling = Sampling("ddim", f"trailing{S}", seed=run.recipe.seed)
    if run.recipe.condition == "low_res":
        x_0, labels = run.images[torch.arange(min(64, len(run.images)))]
        y = labels if run.recipe.conditional else None
        images = trained.sample(len(x_0), sampling, y=y, cond=made_small(run.recipe, x_0))
    else:
        images = trained.sample(64, sampling, y=trained.labels(64))
    (run.folder / "previews").mkdir(exist_ok=True)
    write_whole(run.folder / "previews" / f"{run.step:07}.png", _grid(images))
    losses = run.losses()
    curve = _png(lambda ax: loss_curve(losses, smooth=max(len(losses) // 50, 1), ax=ax), (6, 3.5))
    write_whole(run.folder / "loss.png", curve)


def _grid(images: torch.Tensor) -> bytes:
    from ddpm_lesson.plots import image_grid

    return _png(lambda ax: image_grid(images, ax=ax), _size(len(images)))


def _animation(images: list[torch.Tensor]) -> bytes:
    """At most about 40 of the states, the first and the last among them."""
    from ddpm_lesson.plots import animate, image_grid

    chosen = sorted({round(i * (len(images) - 1) / 40) for i in range(41)})
    draw = lambda figure, i: image_grid(images[i], ax=figure.add_subplot())  # noqa: E731
    return animate(draw, chosen, alt="Images come out of the noise.", size=_size(len(images[0]))).png


def _size(n: int) -> tuple[float, float]:
    """Of a square grid of n images, in inches."""
    side = math.ceil(math.sqrt(n))
    return 0.6 * side, 0.6 * side


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("--tensorboard needs the extra: pip install 'ddpm_lesson[tensorboard]'") from error
    return SummaryWriter(str(folder / "tensorboard"))


def _png(draw: Callable[[Any], object], size: tuple[float, float]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=120, layout="constrained")
    draw(figure.add_subplot())
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()

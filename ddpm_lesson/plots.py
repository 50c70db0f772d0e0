"""Figures of the course: each function draws its data on one Axes and returns that Axes.

Without `ax` a new figure is made, sized for what it holds. Nothing here trains, shows a figure or changes
matplotlib's settings. The colours are those of Okabe and Ito (2008), which colour-blind readers tell apart; on
matplotlib's opaque white they read on a dark page as well. In a notebook write `ax = plots.cloud(...)`: a cell
that ends with the bare call prints the Axes too.
"""

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from PIL import Image
from torch import Tensor, nn

from ddpm_lesson.networks.blocks import AttnBlock, DownSample, ResBlock, UpSample
from ddpm_lesson.networks.unet import UNet

BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9",
)  # fmt: skip
LINE_STYLES = ("-", "--", "-.", ":")
LABEL = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}
GAP, TITLE_GAP = 0.06, 0.3  # between rows of images without and with titles, in widths of an image
Frame = TypeVar("Frame")


def image_grid(
    images: Tensor, *, ncols: int | None = None, titles: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """Images side by side, row after row, all on the scale from -1 (black) to 1 (white).

    images: (N, H, W) or (N, 1, H, W) grey, (N, 3, H, W) colour; floats. Values outside [-1, 1], as in a noisy
    x_t, show as black or white.  ncols: a square grid if not given.  titles: N texts, above the images.
    Raises ValueError for another shape, for integers, for NaN, and for a number of titles other than N.
    Not (C, H, W): three dimensions are N grey images, never one colour image.
    """
    pixels = _pixels(images)
    _check_count("titles", titles, len(pixels), "image")
    ncols = ncols or math.ceil(math.sqrt(len(pixels)))
    nrows = math.ceil(len(pixels) / ncols)
    height, gap = pixels.shape[1] / pixels.shape[2], GAP if titles is None else TITLE_GAP
    ax = ax or _new_axes(0.8 * ncols, 0.8 * nrows * (height + gap))
    for i, image in enumerate(pixels):
        x, y = i % ncols * (1 + GAP), i // ncols * (height + gap)
        _show(ax, image, x, y, height)
        if titles is not None:
            ax.text(x + 0.5, y - GAP / 2, titles[i], ha="center", va="bottom", fontsize="small")
    ax.set(xlim=(0, ncols * (1 + GAP) - GAP), ylim=(nrows * (height + gap) - gap, 0))
    ax.axis("off")
    return ax


def chain(
    images: Tensor, timesteps: Iterable[int | str], *, names: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """Chains of images over t: a row for each chain, a column for each t.

    images: (R, T, C, H, W), C = 1 or 3; floats, shown as `image_grid` shows them.
    timesteps: T whole numbers, written above the columns as $t = 7$, or T texts.  names: R texts, beside the rows.
    Raises ValueError for another shape, and if timesteps or names do not match it.
    Not (T, R, ...): a sampler's states stacked along dim 0 need `.transpose(0, 1)` first.
    """
    if images.ndim != 5:
        raise ValueError(f"images must be (R, T, C, H, W), got {tuple(images.shape)}")
    columns = [t if isinstance(t, str) else f"$t = {int(t)}$" for t in timesteps]
    _check_count("timesteps", columns, images.shape[1], "column")
    _check_count("names", names, len(images), "row")
    ax = image_grid(images.flatten(0, 1), ncols=len(columns), ax=ax)
    height = images.shape[3] / images.shape[4]
    for i, text in enumerate(columns):
        ax.text(i * (1 + GAP) + 0.5, -GAP, text, ha="center", va="bottom", fontsize="small")
    for i, text in enumerate(names or ()):
        ax.text(-2 * GAP, i * (height + GAP) + height / 2, text, ha="right", va="center", fontsize="small")
    return ax


def forward_and_reverse(images: Tensor, steps: Sequence[int], *, ax: Axes | None = None) -> Axes:
    """One walk as two chains: q adds noise from left to right, p takes it away from right to left.

    After Ho et al. 2020, Fig. 2.  images: (N, C, H, W), shown as `image_grid` shows them.
    steps: N whole numbers, how many steps of noise each image has seen (the papers' t).
    Raises ValueError for another shape, and for a number of steps other than N.
    """
    pixels = _pixels(images)
    _check_count("steps", steps, len(pixels), "image")
    height, pitch = pixels.shape[1] / pixels.shape[2], 1.7
    ax = ax or _new_axes(1.1 * pitch * len(pixels), 1.9 * height)
    for i, (image, step) in enumerate(zip(pixels, steps, strict=True)):
        x = i * pitch
        _show(ax, image, x, 0, height)
        ax.text(x + 0.5, height + GAP, f"$x_{{{step}}}$", ha="center", va="top")
        if i > 0:
            ends = (x - pitch + 1 + GAP, x - GAP)
            for (start, end), y, color in ((ends, height / 3, BLUE), (ends[::-1], 2 * height / 3, VERMILION)):
                ax.annotate("", (end, y), (start, y), arrowprops={"arrowstyle": "-|>", "color": color})
    width = (len(pixels) - 1) * pitch + 1
    q, p = r"$q(x_t\mid x_{t-1})$", r"$p_\theta(x_{t-1}\mid x_t)$"
    ax.text(0, -0.1, f"forward, fixed: {q} adds noise", ha="left", va="bottom", color=BLUE)
    ax.text(width, height + 0.35, f"reverse, learned: {p} removes noise", ha="right", va="top", color=VERMILION)
    ax.set(xlim=(-GAP, width + GAP), ylim=(height + 0.65, -0.4))
    ax.axis("off")
    return ax


def schedule(alphas_bar: Mapping[str, Tensor], *, ax: Axes | None = None) -> Axes:
    """alphas_bar over t, the share of x_0's variance that is left in x_t.  Ho et al. 2020, Eq. 4.

    alphas_bar: name -> (T,) in [0, 1]; one line each. Chains of one length share the axis t in 0..T-1; chains
    of several lengths are drawn over (t + 1) / T, so that all of them end at 1.
    Raises ValueError for no chain, another shape, or values outside [0, 1] (betas given as alphas_bar pass).
    Not the amplitude: that is the square root.
    """
    return _over_time(alphas_bar, lambda a: a, r"$\bar\alpha_t$", ax)


def log_snr(alphas_bar: Mapping[str, Tensor], *, ax: Axes | None = None) -> Axes:
    """log(alphas_bar / (1 - alphas_bar)) over t, the logarithm of the signal-to-noise ratio of x_t.

    Takes and refuses what `schedule` does. Natural logarithm; where alphas_bar is 0 or 1 the line has a gap.
    """
    return _over_time(alphas_bar, torch.logit, r"$\log\,\mathrm{SNR}(t)$", ax)


def cloud(points: Tensor, *, color: str = BLUE, label: str | None = None, ax: Axes | None = None) -> Axes:
    """Points of a 2-D data set, both axes on the same scale.

    points: (N, 2).  label: for the legend, which the caller draws with `ax.legend()`.
    Raises ValueError for another shape.
    """
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points must be (N, 2), got {tuple(points.shape)}")
    ax = ax or _new_axes(3.5, 3.5)
    x, y = _numpy(points).T
    ax.scatter(x, y, s=6, color=color, alpha=0.6, linewidths=0, label=label)
    return _plane(ax)


def vector_field(
    field: Callable[[Tensor], Tensor],
    *,
    extent: tuple[float, float, float, float] = (-3, 3, -3, 3),
    n: int = 17,
    color: str = VERMILION,
    ax: Axes | None = None,
) -> Axes:
    """Arrows of a vector field on an n by n grid, such as the exact score at one t.

    field: takes (n * n, 2) points in torch's default dtype and returns as many vectors.
    extent: left, right, bottom, top. The longest arrow is as long as the grid is wide between two points, and
    all others in proportion.
    Raises ValueError if field returns another shape.
    """
    left, right, bottom, top = extent
    points = torch.cartesian_prod(torch.linspace(left, right, n), torch.linspace(bottom, top, n))
    vectors = field(points)
    if vectors.shape != points.shape:
        raise ValueError(f"field must return {tuple(points.shape)}, got {tuple(vectors.shape)}")
    ax = ax or _new_axes(3.5, 3.5)
    x, y, u, v = *_numpy(points).T, *_numpy(vectors).T
    scale = np.hypot(u, v).max() * (n - 1) / (right - left) or 1
    ax.quiver(x, y, u, v, color=color, angles="xy", scale_units="xy", scale=scale, width=0.004)
    return _plane(ax)


def loss_curve(losses: Sequence[float] | Tensor, *, smooth: int = 1, ax: Axes | None = None) -> Axes:
    """Training losses over steps; with smooth > 1 also the mean of the last `smooth` losses.

    losses: (N,), one for each step.  Raises ValueError for another shape, and for smooth outside 1..N.
    """
    values = _numpy(torch.as_tensor(losses))
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"losses must be (N,), got {values.shape}")
    if not 1 <= smooth <= len(values):
        raise ValueError(f"smooth must lie in 1..{len(values)}, got {smooth}")
    ax = ax or _new_axes(5, 3)
    steps = np.arange(1, len(values) + 1)
    ax.plot(steps, values, color=BLUE, alpha=1 if smooth == 1 else 0.35, linewidth=0.8, label="each step")
    if smooth > 1:
        means = np.convolve(values, np.full(smooth, 1 / smooth), mode="valid")
        ax.plot(steps[smooth - 1 :], means, color=VERMILION, linewidth=1.8, label=f"mean of {smooth} steps")
        ax.legend()
    ax.set(xlabel="training step", ylabel="loss")
    return ax


def unet_diagram(unet: UNet, *, ax: Axes | None = None) -> Axes:
    """The blocks of a U-Net and the skips between them, read off its modules.  After Ronneberger et al. 2015, Fig. 1.

    From left to right the blocks run in this order, each on the row of its level, the finest on top, with the channels
    that it returns; the middle hangs below. A line above the boxes is a skip, with the channels that it carries
    from the block at its left end to the one at its right end. Blue: residual blocks; purple: with attention; orange:
    blocks that change the resolution; grey: the convolutions at both ends.
    """
    blocks = [unet.head, *unet.downblocks, *unet.middleblocks, *unet.upblocks, unet.tail[-1]]
    rows = len(unet.options["ch_mult"]) - 0.4
    ax = ax or _new_axes(0.36 * len(blocks), 0.9 * (rows + 1))
    stack, level, passed = [], 0, 0
    for x, block in enumerate(blocks):
        channels, color, change = _block(block)
        level, passed = level + change, 0 if change else passed
        middle = block in [*unet.middleblocks]
        y = -1.6 * (rows if middle else level)
        ax.add_patch(Rectangle((x - 0.45, y - 0.6), 0.9, 0.6, facecolor=color, alpha=0.3))
        ax.text(x, y - 0.3, channels, ha="center", va="center", fontsize=7)
        if x <= len(unet.downblocks):
            stack.append((x, channels))
        elif isinstance(block, ResBlock) and not middle and not change:
            (start, carried), passed = stack.pop(), passed + 1
            top = y + 0.2 * passed
            ax.plot([start, start, x, x], [y, top, top, y], color="0.5", linewidth=0.8)
            ax.text((start + x) / 2, top, carried, ha="center", va="center", fontsize=6, bbox=LABEL)
    ax.set(xlim=(-0.6, len(blocks) - 0.4), ylim=(-1.6 * rows - 0.7, 1))
    ax.axis("off")
    return ax


KINDS = {"residual block": BLUE, "residual block with attention": PURPLE, "half or twice the side": ORANGE}


def unet_map(unet: UNet, side: int, *, highlight: Sequence[str] = (), ax: Axes | None = None) -> Axes:
    """`unet_diagram` with the sides of its rows, arrows between them and a legend.

    side: of the image, so that each row can be named.  highlight: what stays in full colour while the rest fades:
    "residual block", "residual block with attention", "half or twice the side", "skip"; empty: everything does.
    Raises ValueError for another name.
    """
    if unknown := sorted(set(highlight) - {*KINDS, "skip"}):
        raise ValueError(f"highlight must name some of {', '.join(KINDS)}, skip, got {unknown[0]}")
    count = 2 + len(unet.downblocks) + len(unet.middleblocks) + len(unet.upblocks)
    ax = unet_diagram(unet, ax=ax or _new_axes(max(8, 0.36 * count), 0.9 * len(unet.options["ch_mult"]) + 1.2))
    shown = [KINDS[name].lower() for name in highlight if name in KINDS]
    boxes = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    before = boxes[0].get_y()
    for patch in boxes:
        x, y = patch.get_xy()
        patch.set_alpha(0.1 if highlight and to_hex(patch.get_facecolor()) not in shown else 0.45)
        if y != before:
            leave, arrive = (-0.05, 0.65) if y < before else (0.65, -0.05)
            arrow = {"arrowstyle": "-|>", "color": "0.4", "linewidth": 0.8}
            ax.annotate("", (x + 0.12, y + arrive), (x - 0.1, before + leave), arrowprops=arrow)
        before = y
    for line in ax.lines:
        faded = highlight and "skip" not in highlight
        line.set(alpha=0.3 if faded else 1, linewidth=1.6 if "skip" in highlight else 0.8)
    levels = len(unet.options["ch_mult"])
    rows = {level: f"{side >> level}x{side >> level}" for level in range(levels)} | {levels - 0.4: "middle"}
    for row, text in rows.items():
        ax.text(-0.8, -1.6 * row - 0.3, text, ha="right", va="center", fontsize="small")
    handles: list = [Patch(facecolor=color, alpha=0.45, label=name) for name, color in KINDS.items()]
    handles += [Patch(facecolor="0.5", alpha=0.45, label="convolution"), Line2D([], [], color="0.5", label="skip")]
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=5, fontsize="small", frameon=False)
    return ax


@dataclass(frozen=True)
class Animation:
    """An animated PNG that a notebook shows as a picture.  `png`: the file's bytes.  `alt`: what it shows.

    It needs no script, no server and no trusted notebook: JupyterLab, Colab and browsers play it as they show
    any PNG, and a viewer that knows no animated PNG shows the last frame.
    """

    png: bytes
    alt: str

    def _repr_png_(self) -> bytes:
        return self.png

    def __repr__(self) -> str:
        return f"Animation: {self.alt}"


def animate(
    draw: Callable[[Figure, Frame], object],
    frames: Iterable[Frame],
    *,
    alt: str,
    size: tuple[float, float] = (6, 3),
    fps: float = 10,
) -> Animation:
    """A picture that moves: draw(figure, frame) fills an empty figure for each of the frames.

    frames: whatever draw takes, such as timesteps.  alt: one sentence, for readers who cannot see it.
    size: inches, at 80 pixels each.  The last frame stays for 1.5 s, then the animation starts again.
    draw sets the limits of its axes itself; otherwise every frame has its own. All frames share 64 colours,
    half of them greys, which keeps 40 frames of the default size below 300 kB.
    Raises ValueError if there are no frames or alt is empty.
    """
    if not alt.strip():
        raise ValueError("alt must say what the animation shows, got an empty text")
    figure = Figure(figsize=size, dpi=80, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    pictures = []
    for frame in frames:
        figure.clear()
        draw(figure, frame)
        canvas.draw()
        pictures.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    if not pictures:
        raise ValueError("frames must hold at least one frame, got none")
    palette = _palette(pictures[:: math.ceil(len(pictures) / 8)])
    moving = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    durations = [1000 / fps] * (len(moving) - 1) + [1500]
    file, still = io.BytesIO(), moving[-1]
    still.save(file, "PNG", save_all=True, default_image=True, append_images=moving, duration=durations, loop=0)
    return Animation(file.getvalue(), alt)


def _palette(pictures):
    """64 colours at most, half of them greys, so that grey images have no coloured pixels."""
    pixels = np.concatenate([np.asarray(picture).reshape(-1, 3) for picture in pictures])
    is_grey = (pixels == pixels[:, :1]).all(1)
    greys, coloured = np.unique(pixels[is_grey], axis=0), pixels[~is_grey]
    if len(greys) > 32:
        greys = greys[np.linspace(0, len(greys) - 1, 32).round().astype(int)]
    entries = greys.flatten().tolist()
    if len(coloured):
        found = Image.fromarray(coloured[None]).quantize(32, Image.Quantize.MAXCOVERAGE)
        entries += (found.getpalette() or [])[: 3 * 32]
    palette = Image.new("P", (1, 1))
    palette.putpalette(entries)
    return palette


def _over_time(alphas_bar, transform, ylabel, ax):
    if not alphas_bar:
        raise ValueError("alphas_bar must name at least one chain, got none")
    for name, values in alphas_bar.items():
        if values.ndim != 1 or len(values) == 0:
            raise ValueError(f"alphas_bar of {name!r} must be (T,), got {tuple(values.shape)}")
        if not 0 <= values.min() <= values.max() <= 1:
            got = f"{values.min():.4g} to {values.max():.4g}"
            raise ValueError(f"alphas_bar of {name!r} must lie in [0, 1], got {got}")
    ax = ax or _new_axes(5, 3)
    one_length = len({len(values) for values in alphas_bar.values()}) == 1
    for i, (name, values) in enumerate(alphas_bar.items()):
        t = np.arange(len(values)) if one_length else np.arange(1, len(values) + 1) / len(values)
        style, color = LINE_STYLES[i % len(LINE_STYLES)], COLOURS[i % len(COLOURS)]
        ax.plot(t, transform(torch.from_numpy(_numpy(values))), style, color=color, label=name)
    ax.set(xlabel="$t$" if one_length else "$(t + 1) / T$", ylabel=ylabel)
    ax.legend()
    return ax


def _block(block):
    """Channels that a block of a U-Net returns, its colour, and how many levels it goes down."""
    if isinstance(block, nn.Conv2d):
        return block.out_channels, "0.5", 0
    if isinstance(block, ResBlock):
        change = {nn.AvgPool2d: 1, nn.Upsample: -1}.get(type(block.resample), 0)
        color = ORANGE if change else PURPLE if isinstance(block.attn, AttnBlock) else BLUE
        return block.block2[-1].out_channels, color, change
    return block.main.out_channels, ORANGE, {DownSample: 1, UpSample: -1}[type(block)]


def _pixels(images):
    """(N, H, W) in [-1, 1] if the images are grey, (N, H, W, 3) in [0, 1] if they are coloured."""
    if not images.is_floating_point():
        raise ValueError(f"images must be floats in [-1, 1], got {images.dtype}")
    batch = images.unsqueeze(1) if images.ndim == 3 else images
    if batch.ndim != 4 or batch.shape[1] not in (1, 3) or batch.numel() == 0:
        raise ValueError(f"images must be (N, H, W), (N, 1, H, W) or (N, 3, H, W), got {tuple(images.shape)}")
    if batch.isnan().any():
        raise ValueError("images must be numbers, got NaN")
    if batch.shape[1] == 1:
        return _numpy(batch[:, 0])
    return _numpy((batch.permute(0, 2, 3, 1) + 1) / 2).clip(0, 1)


def _check_count(name: str, values: Sequence | None, n: int, what: str) -> None:
    if values is not None and len(values) != n:
        raise ValueError(f"{name} must be {n}, one for each {what}, got {len(values)}")


def _show(ax: Axes, image: np.ndarray, x: float, y: float, height: float) -> None:
    """An image of width 1 in a thin frame, its upper left corner at x, y."""
    ax.imshow(image, extent=(x, x + 1, y + height, y), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    ax.add_patch(Rectangle((x, y), 1, height, fill=False, edgecolor="0.6", linewidth=0.5, clip_on=False))


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().cpu().double().numpy()


def _new_axes(width: float, height: float) -> Axes:
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def _plane(ax: Axes) -> Axes:
    ax.set(xlabel="$x^{(1)}$", ylabel="$x^{(2)}$", aspect="equal")
    return ax

"""plots: each function draws what it was given, on the Axes it was given, and leaves matplotlib as it was."""

import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from ddpm_lesson import plots
from ddpm_lesson.networks.unet import UNet

matplotlib.use("Agg")

with torch.device("meta"):
    TWO_LEVELS = UNet(10, 8, [1, 3], [1], 1, 0.0, num_groups=4)
    RESAMPLED_INSIDE = UNet(10, 8, [1, 3], [1], 1, 0.0, num_groups=4, biggan=True)
IMAGES = torch.linspace(-1.5, 1.5, 6 * 2 * 4).reshape(6, 1, 2, 4)
CALLS = {
    "image_grid": lambda ax: plots.image_grid(IMAGES, titles="abcdef", ax=ax),
    "chain": lambda ax: plots.chain(IMAGES.reshape(2, 3, 1, 2, 4), [0, 5, 9], names=["a", "b"], ax=ax),
    "schedule": lambda ax: plots.schedule({"a": torch.tensor([0.9, 0.5, 0.0])}, ax=ax),
    "log_snr": lambda ax: plots.log_snr({"a": torch.tensor([0.9, 0.5, 0.0])}, ax=ax),
    "cloud": lambda ax: plots.cloud(torch.randn(5, 2), ax=ax),
    "vector_field": lambda ax: plots.vector_field(lambda x: -x, ax=ax),
    "loss_curve": lambda ax: plots.loss_curve(torch.arange(9.0), smooth=3, ax=ax),
    "unet_diagram": lambda ax: plots.unet_diagram(TWO_LEVELS, ax=ax),
    "unet_map": lambda ax: plots.unet_map(TWO_LEVELS, 8, ax=ax),
}


@pytest.fixture(autouse=True)
def no_figure_is_left():
    yield
    plt.close("all")


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_draws_on_the_axes_given(call):
    ax = Figure().subplots()
    assert call(ax) is ax and ax.has_data()
    assert plt.get_fignums() == []


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_makes_one_figure_if_no_axes_is_given(call):
    settings = dict(matplotlib.rcParams)
    ax = call(None)
    assert plt.get_fignums() == [ax.figure.number] and ax.figure.axes == [ax]
    ax.figure.canvas.draw()
    assert dict(matplotlib.rcParams) == settings


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_nothing_is_clipped_and_the_background_is_opaque(call):
    figure = call(None).figure
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (border == 255).all()


def test_image_grid_holds_the_images_on_one_scale():
    ax = plots.image_grid(IMAGES, ncols=4)
    assert [artist.get_clim() for artist in ax.images] == [(-1, 1)] * 6
    assert [artist.get_cmap().name for artist in ax.images] == ["gray"] * 6
    for artist, image in zip(ax.images, IMAGES, strict=True):
        assert np.array_equal(artist.get_array(), image[0].double())
    lefts, bottoms = zip(*[artist.get_extent()[0::2] for artist in ax.images], strict=True)
    assert lefts[:2] == lefts[4:] and lefts[0] < lefts[1] < lefts[2] < lefts[3]
    assert len(set(bottoms[:4])) == 1 and bottoms[4] > bottoms[0]
    assert ax.yaxis_inverted()  # the first row is the upper one, and images stand upright
    left, right, bottom, top = ax.images[0].get_extent()
    assert (right - left) / (bottom - top) == 2  # 2 by 4 pixels, not distorted


def test_image_grid_is_as_square_as_it_can_be():
    ax = plots.image_grid(torch.zeros(7, 5, 5))
    assert len({artist.get_extent()[0] for artist in ax.images}) == 3
    assert len({artist.get_extent()[2] for artist in ax.images}) == 3


def test_image_grid_shows_colours():
    images = torch.tensor([-1.0, 0.0, 2.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    (artist,) = plots.image_grid(images).images
    assert np.array_equal(artist.get_array(), np.broadcast_to([0, 0.5, 1], (4, 4, 3)))


def test_image_grid_writes_its_titles():
    ax = plots.image_grid(IMAGES, titles=list("abcdef"), ncols=3)
    places = {text.get_text(): text.get_position() for text in ax.texts}
    for title, artist in zip("abcdef", ax.images, strict=True):
        left, right, _, top = artist.get_extent()
        assert left < places[title][0] < right and 0 < top - places[title][1] < 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_of_any_float_type_and_with_gradients(dtype):
    (artist,) = plots.image_grid(torch.full((1, 2, 2), 0.5, dtype=dtype, requires_grad=True)).images
    assert (artist.get_array() == 0.5).all()


def test_images_of_any_device(device):
    assert len(plots.image_grid(torch.zeros(2, 4, 4, device=device)).images) == 2


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(8, 8), r"\(N, 3, H, W\), got \(8, 8\)"),
        (torch.zeros(1, 2, 8, 8), r"\(N, 3, H, W\), got \(1, 2, 8, 8\)"),
        (torch.zeros(0, 1, 8, 8), r"\(N, 3, H, W\), got \(0, 1, 8, 8\)"),
        (torch.zeros(2, 8, 8, dtype=torch.uint8), r"floats in \[-1, 1\], got torch.uint8"),
        (torch.full((2, 8, 8), torch.nan), "got NaN"),
    ],
)
def test_image_grid_refuses_what_is_no_batch_of_images(images, message):
    with pytest.raises(ValueError, match=message):
        plots.image_grid(images)
    assert plt.get_fignums() == []


def test_image_grid_refuses_a_wrong_number_of_titles():
    with pytest.raises(ValueError, match="titles must be 6, one for each image, got 2"):
        plots.image_grid(IMAGES, titles=["a", "b"])


def test_chain_has_a_row_for_each_chain_and_a_column_for_each_t():
    images = IMAGES.reshape(2, 3, 1, 2, 4)
    ax = plots.chain(images, torch.tensor([0, 500, 999]), names=["walked", "jumped"])
    assert [text.get_text() for text in ax.texts] == ["$t = 0$", "$t = 500$", "$t = 999$", "walked", "jumped"]
    for i, artist in enumerate(ax.images):
        left, right, bottom, top = artist.get_extent()
        assert np.array_equal(artist.get_array(), images[i // 3, i % 3, 0].double())
        assert left < ax.texts[i % 3].get_position()[0] < right
        assert top < ax.texts[3 + i // 3].get_position()[1] < bottom


def test_columns_of_a_chain_may_have_texts():
    ax = plots.chain(IMAGES.reshape(2, 3, 1, 2, 4), ["9 left", "1 left", 0])
    assert [text.get_text() for text in ax.texts] == ["9 left", "1 left", "$t = 0$"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": IMAGES}, r"images must be \(R, T, C, H, W\), got \(6, 1, 2, 4\)"),
        ({"timesteps": [0, 1]}, "timesteps must be 3, one for each column, got 2"),
        ({"names": ["a"]}, "names must be 2, one for each row, got 1"),
    ],
)
def test_chain_refuses_what_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        plots.chain(**{"images": IMAGES.reshape(2, 3, 1, 2, 4), "timesteps": [0, 1, 2]} | arguments)


def test_schedule_draws_alphas_bar_over_t():
    values = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    ax = plots.schedule({"linear": values, "cosine": values**2})
    assert [line.get_label() for line in ax.lines] == ["linear", "cosine"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["linear", "cosine"]
    for line, expected in zip(ax.lines, [values, values**2], strict=True):
        assert line.get_xdata().tolist() == [0, 1, 2] and line.get_ydata().tolist() == expected.tolist()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$t$", r"$\bar\alpha_t$")


def test_chains_of_several_lengths_end_at_1():
    ax = plots.schedule({"short": torch.tensor([0.9, 0.8]), "long": torch.tensor([0.9, 0.7, 0.5, 0.1])})
    assert [line.get_xdata().tolist() for line in ax.lines] == [[0.5, 1], [0.25, 0.5, 0.75, 1]]
    assert ax.get_xlabel() == "$(t + 1) / T$"


def test_log_snr_is_zero_where_signal_and_noise_are_equal():
    ax = plots.log_snr({"a": torch.tensor([0.75, 0.5, 0.0], dtype=torch.float64)})
    assert ax.lines[0].get_ydata() == pytest.approx([np.log(3), 0, -np.inf], abs=1e-12)


def test_twelve_lines_differ_in_colour_or_dashes():
    ax = plots.schedule({str(i): torch.tensor([0.5, 0.4]) for i in range(12)})
    assert len({(line.get_color(), line.get_linestyle()) for line in ax.lines}) == 12


@pytest.mark.parametrize("draw", [plots.schedule, plots.log_snr])
@pytest.mark.parametrize(
    ("alphas_bar", "message"),
    [
        ({}, "at least one chain"),
        ({"a": torch.zeros(2, 2)}, r"'a' must be \(T,\), got \(2, 2\)"),
        ({"a": torch.zeros(0)}, r"'a' must be \(T,\), got \(0,\)"),
        ({"a": torch.tensor([0.5, -0.25])}, r"'a' must lie in \[0, 1\], got -0.25 to 0.5"),
        ({"a": torch.tensor([0.5, torch.nan])}, r"'a' must lie in \[0, 1\], got nan"),
    ],
)
def test_schedules_refuse_what_is_no_alphas_bar(draw, alphas_bar, message):
    with pytest.raises(ValueError, match=message):
        draw(alphas_bar)
    assert plt.get_fignums() == []


def test_cloud_shows_every_point_undistorted():
    points = torch.randn(50, 2)
    ax = plots.cloud(points, color=plots.GREEN, label="data")
    (dots,) = ax.collections
    assert np.array_equal(dots.get_offsets(), points.double()) and ax.get_aspect() == 1
    assert (dots.get_label(), matplotlib.colors.to_hex(dots.get_facecolor()[0])) == ("data", plots.GREEN.lower())
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$x^{(1)}$", "$x^{(2)}$")


@pytest.mark.parametrize("shape", [(2,), (5, 3), (2, 5, 2)])
def test_cloud_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"points must be \(N, 2\), got"):
        plots.cloud(torch.zeros(shape))


def test_vector_field_has_the_vectors_at_their_points():
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    ax = plots.vector_field(lambda x: x @ turn, extent=(-1, 3, 0, 2), n=5)
    (arrows,) = ax.collections
    points = torch.tensor(arrows.get_offsets(), dtype=torch.float32)
    assert sorted({*points[:, 0].tolist()}) == [-1, 0, 1, 2, 3] and sorted({*points[:, 1].tolist()}) == [
        0,
        0.5,
        1,
        1.5,
        2,
    ]
    assert torch.equal(torch.tensor(np.stack([arrows.U, arrows.V], 1), dtype=torch.float32), points @ turn)


def test_longest_arrow_is_one_spacing_long():
    ax = plots.vector_field(lambda x: 100 * x, extent=(0, 4, 0, 4), n=5)
    (arrows,) = ax.collections
    assert np.hypot(arrows.U, arrows.V).max() / arrows.scale == pytest.approx(1)


def test_a_field_that_vanishes_can_be_drawn():
    plots.vector_field(torch.zeros_like).figure.canvas.draw()


def test_vector_field_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"field must return \(9, 2\), got \(9,\)"):
        plots.vector_field(lambda x: x[:, 0], n=3)


def test_loss_curve_draws_losses_and_their_running_mean():
    losses = [5.0, 1.0, 3.0, 2.0]
    raw, mean = plots.loss_curve(losses, smooth=2).lines
    assert (raw.get_xdata().tolist(), raw.get_ydata().tolist()) == ([1, 2, 3, 4], losses)
    assert (mean.get_xdata().tolist(), mean.get_ydata().tolist()) == ([2, 3, 4], [3, 2, 2.5])
    assert len(plots.loss_curve(losses).lines) == 1


@pytest.mark.parametrize(
    ("losses", "smooth", "message"),
    [
        ([], 1, r"losses must be \(N,\), got \(0,\)"),
        (torch.zeros(2, 2), 1, r"losses must be \(N,\), got \(2, 2\)"),
        ([1.0, 2.0], 3, "smooth must lie in 1..2, got 3"),
        ([1.0, 2.0], 0, "smooth must lie in 1..2, got 0"),
    ],
)
def test_loss_curve_refuses_what_does_not_fit(losses, smooth, message):
    with pytest.raises(ValueError, match=message):
        plots.loss_curve(losses, smooth=smooth)


def noisy(figure, t):
    """A frame as in the notebooks: digits and a cloud, t of 40 steps into the noise."""
    left, right = figure.subplots(1, 2)
    generator = torch.Generator().manual_seed(0)
    digits, points = torch.randn(9, 8, 8, generator=generator), torch.randn(1000, 2, generator=generator)
    plots.image_grid(digits * t / 39, ax=left)
    plots.cloud(points * t / 39, ax=right).set(xlim=(-3, 3), ylim=(-3, 3), title=f"$t = {t}$")


def test_animation_of_40_frames_stays_below_300_kb():
    animation = plots.animate(noisy, range(40), alt="Noise grows.")
    assert len(animation.png) < 300_000
    assert plt.get_fignums() == []
    with Image.open(io.BytesIO(animation.png)) as file:
        assert (file.format, file.n_frames, file.size, file.info["loop"]) == ("PNG", 41, (480, 240), 0)  # and the still


def flat(figure, grey):
    figure.set_facecolor(str(grey))


def test_animation_shows_its_frames_in_order_and_the_last_one_longest_and_as_its_still():
    animation = plots.animate(flat, [0, 0.4, 1], alt="From black to white.", size=(1, 1), fps=20)
    levels, durations = [], []
    with Image.open(io.BytesIO(animation.png)) as file:
        for i in range(file.n_frames):
            file.seek(i)
            levels.append(file.convert("RGB").getpixel((40, 40)))
            durations.append(file.info.get("duration"))
        assert file.default_image  # the first picture is what a viewer shows that plays no animations
    assert levels == [(255,) * 3, (0,) * 3, (102,) * 3, (255,) * 3] and durations == [None, 50, 50, 1500]


def test_animation_is_the_same_each_time_and_a_notebook_shows_it_as_a_picture():
    first, second = (plots.animate(flat, [0, 1], alt="From black to white.") for _ in range(2))
    assert first == second and first._repr_png_() == first.png
    assert repr(first) == "Animation: From black to white."


@pytest.mark.parametrize(
    ("frames", "alt", "message"), [([], "Noise.", "at least one frame, got none"), ([1], " ", "alt must say what")]
)
def test_animation_refuses_no_frames_and_no_text(frames, alt, message):
    with pytest.raises(ValueError, match=message):
        plots.animate(flat, frames, alt=alt)


def test_colours_stand_out_from_white():
    """Contrast of at least 2 by the formula of WCAG 2; Okabe and Ito's yellow, with 1.3, is left out for that."""
    rgb = torch.tensor([matplotlib.colors.to_rgb(color) for color in plots.COLOURS])
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ torch.tensor([0.2126, 0.7152, 0.0722])
    assert (1.05 / (luminance + 0.05)).min() > 2


def test_forward_and_reverse_draws_each_image_and_both_arrows():
    images = torch.linspace(-1, 1, 3 * 64).view(3, 1, 8, 8)
    ax = plots.forward_and_reverse(images, [0, 60, 1000])
    assert [image.get_array().shape for image in ax.images] == [(8, 8)] * 3
    assert all(image.get_clim() == (-1, 1) for image in ax.images)
    texts = [text.get_text() for text in ax.texts]
    assert [text for text in texts if text.startswith("$x_")] == ["$x_{0}$", "$x_{60}$", "$x_{1000}$"]
    arrows = [(text.xyann[0], text.xy[0]) for text in ax.texts if getattr(text, "arrow_patch", None)]
    assert sum(start < end for start, end in arrows) == sum(start > end for start, end in arrows) == 2
    plt.close(ax.figure)


def test_forward_and_reverse_needs_a_step_for_each_image():
    with pytest.raises(ValueError, match="steps must be 3, one for each image, got 2"):
        plots.forward_and_reverse(torch.zeros(3, 1, 8, 8), [0, 60])


@pytest.mark.parametrize("unet", [TWO_LEVELS, RESAMPLED_INSIDE], ids=["two levels", "biggan"])
def test_unet_diagram_shows_every_block_and_what_each_skip_carries(unet):
    ax = plots.unet_diagram(unet)
    skips = [[line.get_xdata()[0], line.get_xdata()[-1]] for line in ax.lines]
    inside = [text.get_text() for text in ax.texts if text.get_bbox_patch() is None]
    assert inside == ["8", "8", "8", "24", "24", "24", "24", "24", "24", "8", "8", "3"]
    assert skips == [[3, 6], [2, 7], [1, 9], [0, 10]]  # the block before an up-sampler takes the down-sampler's output
    assert [text.get_text() for text in ax.texts if text.get_bbox_patch()] == ["24", "8", "8", "8"]
    joined = [unet.upblocks[i].block1[2].in_channels for i in (0, 1, 3, 4)]
    assert joined == [24 + 24, 24 + 8, 24 + 8, 8 + 8]


def test_unet_map_names_its_rows_and_fades_what_is_not_highlighted():
    ax = plots.unet_map(TWO_LEVELS, 8, highlight=["half or twice the side"])
    words = [text.get_text() for text in ax.texts]
    assert {"8x8", "4x4", "middle"} <= set(words)
    assert [i for i, patch in enumerate(ax.patches) if patch.get_alpha() > 0.2] == [2, 8]  # down and up
    assert len(ax.get_legend().get_texts()) == 5
    with pytest.raises(ValueError, match="highlight must name some of residual block, .*, skip, got head"):
        plots.unet_map(TWO_LEVELS, 8, highlight=["head"])


def test_unet_diagram_colours_attention_and_changes_of_resolution():
    ax = plots.unet_diagram(TWO_LEVELS)
    colors = [matplotlib.colors.to_hex(patch.get_facecolor()) for patch in ax.patches]
    orange, purple = plots.ORANGE.lower(), plots.PURPLE.lower()
    assert [i for i, color in enumerate(colors) if color == orange] == [2, 8]
    assert [i for i, color in enumerate(colors) if color == purple] == [3, 4, 6, 7]
    rows = [patch.get_y() for patch in ax.patches]
    assert rows[0] == rows[1] == rows[8] == rows[-1] > rows[2] == rows[3] == rows[6] > rows[4] == rows[5]

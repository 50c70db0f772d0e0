"""Rows of the tables of misconceptions that several exercises share: the same sentences for the same slots."""

import torch

from ddpm_lesson.checks._inputs import before

Rows = dict[str, dict]

FIRST_T = "You used the first image's t for the whole batch. Every image has its own t."
LATE = "You took alpha_bar_prev, the table one step late. x_t was mixed with the entry at t."
COLUMNS = (
    "Your coefficients have shape (B,)<, and broadcasting lines that up with the last axis, the columns of an image. "
    "It runs where B happens to be the width, and is wrong there>: extract adds the axes that they lack."
)
ROUNDED_FIRST = (
    "Your numbers have only the precision of float32: they were rounded before they became float64, and converting "
    "later brings no digit back. Ask for dtype=torch.float64 where the numbers are made."
)
UPSIDE_DOWN = (
    "Your ratio is upside down<, and the betas come out negative>. alpha_bar falls: the later value goes on top."
)


def in_float32(why: str) -> Rows:
    """Slot dtype: what is done with the result. why: what float32 spoils here."""
    returned = f"You return float32, torch's default. {why}: ask for dtype=torch.float64 where the numbers are made."
    return {
        returned: dict(dtype=lambda out: out.float()),
        ROUNDED_FIRST: dict(dtype=lambda out: out.float().double()),
    }


def mixed(x_t: str = "") -> Rows:
    """Slots signal and spread: the factors of x_0 and noise, functions of alpha_bar. x_t: " in x_t" where it helps."""
    return {
        f"You scaled the noise{x_t} by 1 - alpha_bar: that is the variance. Noise is multiplied by a standard "
        "deviation, its square root.": dict(spread=lambda a_bar: 1 - a_bar),
        f"You scaled x_0{x_t} by alpha_bar. Each step multiplies the image by sqrt(1 - beta), so after all of them it "
        "is multiplied by sqrt(alpha_bar)<: the images fade too fast without the root>.": dict(
            signal=lambda a_bar: a_bar
        ),
        f"Both square roots are missing{x_t}. alpha_bar and 1 - alpha_bar are shares of the variance; images and noise "
        "are multiplied by the roots<, or data of variance 1 do not keep it>.": dict(
            signal=lambda a_bar: a_bar, spread=lambda a_bar: 1 - a_bar
        ),
        f"The two coefficients{x_t} are swapped<: your x_t is noise at t = 0 and the image at the end>. "
        "sqrt(alpha_bar) belongs to x_0.": dict(signal=lambda a_bar: (1 - a_bar).sqrt(), spread=torch.sqrt),
        f"The two coefficients{x_t} are swapped and have no roots. x_0 has sqrt(alpha_bar), the noise "
        "sqrt(1 - alpha_bar).": dict(signal=lambda a_bar: 1 - a_bar, spread=lambda a_bar: a_bar),
        f"You scaled the noise{x_t} by 1 - sqrt(alpha_bar)<, so that the two weights add up to 1>. It is the variances "
        "that add up to 1, and they are the squares of the weights.": dict(spread=lambda a_bar: 1 - a_bar.sqrt()),
        f"You added the noise{x_t} without scaling it<. x_t then has too much noise at every t, the first as well>: "
        "multiply the noise by sqrt(1 - alpha_bar).": dict(spread=torch.ones_like),
        f"You did not shrink x_0{x_t}<. The image never fades and the variance grows past 1>: multiply x_0 by "
        "sqrt(alpha_bar).": dict(signal=torch.ones_like),
        f"You subtracted the noise{x_t}<. The samples look alike, but a network trained on them would learn -noise>: "
        "the noise is added.": dict(spread=lambda a_bar: -(1 - a_bar).sqrt()),
    }


def looked_up(late: str = LATE) -> Rows:
    """Slots table, of alphas_bar, and look_up, of table, t and images: what else than alphas_bar[t] meets x_t."""
    return {
        "You read alphas_bar at t - 1. In code t = 0 is already the papers' t = 1, and index -1 wraps around to the "
        "noisiest step: read it at t.": dict(table=lambda alphas_bar: alphas_bar.roll(1)),
        late: dict(table=before),
        "You took the running product of alphas_bar, which is one already: alphas_bar[t] is what you need.": dict(
            table=lambda alphas_bar: alphas_bar.cumprod(0)
        ),
        "You used the alpha of the single step t. x_t holds the noise of all steps up to t: alpha_bar.": dict(
            table=lambda alphas_bar: alphas_bar / before(alphas_bar)
        ),
        "You took alphas_bar for betas, and built alphas_bar from it once more. It is given: look it up.": dict(
            table=lambda alphas_bar: (1 - alphas_bar).cumprod(0)
        ),
        FIRST_T: dict(look_up=lambda table, t, x: table[t[0]]),
        "Your alphas_bar[t] has shape (B,)<, and broadcasting lines shapes up from the right: your coefficients meet "
        "the columns of the images. It runs where B happens to be the width, and is wrong there>. Each image needs its "
        "own coefficient, so they must meet the batch axis: extract adds the axes.": dict(
            look_up=lambda table, t, x: table[t]
        ),
        "Your coefficients have shape (B, 1)<: that is right for points, but on images it lines up with the rows>. "
        "They need one axis for each axis of the images: (B, 1, ..., 1).": dict(
            look_up=lambda table, t, x: table[t][:, None]
        ),
        "Your coefficients have shape (B, 1, 1, 1)<: that is right for images only>. Points are (B, 2) and videos have "
        "five axes: count the axes of the images.": dict(look_up=lambda table, t, x: table[t].view(-1, 1, 1, 1)),
    }

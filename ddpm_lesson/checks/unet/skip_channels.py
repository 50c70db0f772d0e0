"""Exercise 3.8: the input channels of the blocks on the way up."""

import math

import torch

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks.unet._skip_channels_ways import carried_on, first_only, late, very_first_only


def _skip_channels(ch, ch_mult, num_res_blocks):
    """Exercise 3.8: the input channels of the residual blocks on the way up, first to last.  Ho et al. 2020, App. B.

    ch: int.  ch_mult: list of ints, the channels of each level as multiples of ch.  num_res_blocks: int, per level on
    the way down; one more on the way up.  Returns a list of ints, len(ch_mult) * (num_res_blocks + 1) of them.
    Not the skips alone: a block's input is what comes from below, joined with a skip.
    """
    channels, inputs = [ch * mult for mult in ch_mult], []
    for level in reversed(range(len(channels))):
        coarser = channels[min(level + 1, len(channels) - 1)]  # the middle keeps the last level's channels
        start = channels[level - 1] if level else ch  # what the level began with: a down-sampler's or the head's
        for i in range(num_res_blocks + 1):
            last = i == num_res_blocks
            inputs.append((channels[level] if i else coarser) + (start if last else channels[level]))
    return inputs


def _widths(ch, ch_mult):
    return [ch * mult for mult in ch_mult]


def _stacked(
    ch: int,
    ch_mult: list[int],
    num_res_blocks: int,
    *,
    head=lambda ch: [ch],
    widths=_widths,
    rising=lambda widths: widths,  # on the way up
    blocks=lambda n: n,  # on the way down, for each level
    down=lambda level, last: level < last,  # whether a down-sampler follows
    extra=1,
    down_width=lambda levels, level: levels[level],  # what a down-sampler puts out
    bottom=lambda widths: widths[-1],
    take=list.pop,
    order=reversed,
    entry=lambda now, skip, width, is_last: now + skip,
    after=lambda now, width: width,  # what a block puts out
) -> list[int]:
    skips = head(ch)
    levels = widths(ch, ch_mult)
    for level, width in enumerate(levels):
        skips = skips + [width] * blocks(num_res_blocks)
        skips = skips + [down_width(levels, level)] * down(level, len(levels) - 1)
    inputs, now = [], bottom(levels)
    for width in order(rising(levels)):
        for i in range(num_res_blocks + extra):
            inputs.append(entry(now, take(skips), width, i == num_res_blocks))
            now = after(now, width)
    return inputs


def _multiplied(ch, ch_mult):
    return [ch * math.prod(ch_mult[: i + 1]) for i in range(len(ch_mult))]


def _early(ch, ch_mult, num_res_blocks):
    """The channels change before a level's first block, and not after it."""
    inputs, skips = [], [ch]
    for level, mult in enumerate(ch_mult):
        skips += [ch * mult] * (num_res_blocks + (level < len(ch_mult) - 1))
    for mult in reversed(ch_mult):
        inputs += [ch * mult + skips.pop() for _ in range(num_res_blocks + 1)]
    return inputs


def _early_and_short(ch, ch_mult, num_res_blocks):
    inputs, skips = [], [ch]
    for level, mult in enumerate(ch_mult):
        skips += [ch * mult] * (num_res_blocks + (level < len(ch_mult) - 1))
    for mult in reversed(ch_mult):
        inputs += [ch * mult + skips.pop() for _ in range(num_res_blocks)]
    return inputs


def _growing(ch, ch_mult, num_res_blocks):
    """Every block on the way down multiplies what it got by the level's mult."""
    skips, now, inputs = [ch], ch, []
    for level, mult in enumerate(ch_mult):
        for _ in range(num_res_blocks):
            now *= mult
            skips.append(now)
        if level < len(ch_mult) - 1:
            skips.append(now)
    for mult in reversed(ch_mult):
        for _ in range(num_res_blocks + 1):
            inputs.append(now + skips.pop())
            now = ch * mult
    return inputs


def _places(ch, ch_mult, num_res_blocks):
    index = torch.arange(len(ch_mult) * (num_res_blocks + 1))
    first, last = index % (num_res_blocks + 1) == 0, index % (num_res_blocks + 1) == num_res_blocks
    yield "in the first block of each level", first
    yield "in the last block of each level", last
    yield "in the first and the last block of each level", first | last
    yield "in the blocks between the first and the last of each level", ~(first | last)
    yield "in the coarsest level", index <= num_res_blocks
    yield "in the finest level", index >= (len(ch_mult) - 1) * (num_res_blocks + 1)


skip_channels = Check(
    number="3.8",
    name="skip_channels",
    specification=_skip_channels,
    form=_stacked,
    places=_places,
    cases=tuple(
        Case(f"ch = {ch}, ch_mult = {ch_mult}, num_res_blocks = {num_res_blocks}", (ch, ch_mult, num_res_blocks))
        for ch, ch_mult, num_res_blocks in [
            (128, [1, 2, 2, 2], 2),
            (32, [1, 2], 1),
            (64, [1, 2, 3, 5], 3),
            (16, [3, 1, 2], 2),
            (8, [2], 1),
            (4, [2, 7, 3], 4),
        ]
    ),
    among="one level and levels that narrow",
    returns=list,
    misconceptions={
        "You have num_res_blocks blocks in each level<, so that skips are left over and meet the wrong level>. On the "
        "way up there is one more: it takes the skip that the level began with.": dict(extra=0),
        "<Your list of skips runs empty. >The head's output is the first of the skips<, every down-sampler's is one "
        "too>.": dict(head=lambda ch: []),
        "<Your list of skips runs empty as soon as there are two levels. >The down-samplers' "
        "outputs are skips too.": dict(down=lambda level, last: 0),
        "The last block of each of your levels has no skip. It takes the output of the down-sampler before the level, "
        "and in the finest level that of the head.": dict(
            entry=lambda now, skip, width, is_last: now + (0 if is_last else skip)
        ),
        "You counted a down-sampler after the last level<, where the middle follows at the same size>, or an output of "
        "the middle, which is no skip<. All skips are shifted, and the head's output is missing or never taken: the "
        "last skip of each of your levels has the level's own channels>.": dict(down=lambda level, last: 1),
        "You took the skips in the order in which they were made. The last one made has the size at which the way up "
        "begins: a stack, and no queue.": dict(take=lambda skips: skips.pop(0)),
        "You looked at the last skip without taking it off<: every block gets the same one>.": dict(
            take=lambda skips: skips[-1]
        ),
        "You went through ch_mult forwards on the way up. It begins at the coarsest level: backwards.": dict(
            order=list
        ),
        "You took the larger of what comes from below and the skip. torch.cat joins them: their channels add up.": dict(
            entry=lambda now, skip, width, is_last: max(now, skip)
        ),
        "You multiplied the channels from below by the skip's. torch.cat joins them: their channels add up.": dict(
            entry=lambda now, skip, width, is_last: now * skip
        ),
        "You added the level's channels to those from below and of the skip. A block's input is the two joined.": dict(
            entry=lambda now, skip, width, is_last: now + skip + width
        ),
        "You return twice the level's channels. What comes from below has the channels of the coarser level, and the "
        "last skip of a level those of the finer one.": dict(entry=lambda now, skip, width, is_last: 2 * width),
        "Your numbers are twice what comes from below: you doubled it, or your stack has two entries too many at its "
        "end, as for the middle, whose outputs are no skips. The last skip of a level has other channels.": dict(
            entry=lambda now, skip, width, is_last: 2 * now
        ),
        "The first block of a level gets what the coarser level put out. You counted the level's own channels.": dict(
            instead=_early
        ),
        "The first block of a level gets what the coarser level put out, and you counted the level's own channels. And "
        "every level has one block more than on the way down, num_res_blocks + 1.": dict(instead=_early_and_short),
        "The blocks of your levels add up: each puts out its input's channels. It puts out "
        "the level's, ch * mult.": dict(after=lambda now, width: now),
        "You return the channels of the skips alone. A block's input also holds what comes from below: torch.cat joins "
        "the two, and their channels add up.": dict(entry=lambda now, skip, width, is_last: skip),
        "You return what comes from below alone. torch.cat joins it with a skip, and their channels add up.": dict(
            entry=lambda now, skip, width, is_last: now
        ),
        "You return what the blocks put out. Their inputs are asked for.": dict(
            entry=lambda now, skip, width, is_last: width
        ),
        "The way up begins with the channels of the coarsest level, ch * ch_mult[-1]. Yours begins with ch.": dict(
            instead=lambda ch, ch_mult, n: _stacked(ch, ch_mult, n, bottom=lambda widths: ch)
        ),
        "You multiplied the entries of ch_mult with one another. Each is a multiple of ch itself.": dict(
            widths=_multiplied
        ),
        "You multiplied the entries of ch_mult with one another on the way down. Each is a "
        "multiple of ch itself.": dict(
            instead=lambda ch, ch_mult, n: _stacked(
                ch, ch_mult, n, widths=_multiplied, rising=lambda widths: [ch * mult for mult in ch_mult]
            )
        ),
        "Every block of yours on the way down multiplies its channels by mult. A level has ch * mult channels, "
        "whatever came before.": dict(instead=_growing),
        "You left ch out: the entries of ch_mult are multiples of it.": dict(
            instead=lambda ch, ch_mult, n: _stacked(1, ch_mult, n)
        ),
        "Your list is in reverse order. The first block on the way up is in the coarsest level.": dict(
            give=lambda inputs: inputs[::-1]
        ),
        "Your down-samplers put out the channels of the next level. A down-sampler keeps the channels: those of the "
        "level that it ends.": dict(
            down=lambda level, last: level < last,
            down_width=lambda levels, level: levels[min(level + 1, len(levels) - 1)],
        ),
        "The input of a block grows from block to block in yours: you took each for what the block puts out. It puts "
        "out ch * mult.": dict(instead=carried_on),
        "What comes from below changes at the end of each level in yours. It changes after "
        "the level's first block.": dict(instead=late),
        "Only the first block of each of your levels has a skip. Every block on the way up takes one.": dict(
            instead=first_only
        ),
        "On the way up your levels have ch * 2^level channels. They have ch * mult, as on the way down.": dict(
            instead=lambda ch, ch_mult, n: _stacked(
                ch, ch_mult, n, rising=lambda widths: [ch * 2**i for i in range(len(widths))]
            )
        ),
        "You went through the way up as through the way down: from ch, with ch_mult forwards and the skips in the "
        "order in which they were made. It goes backwards.": dict(
            instead=lambda ch, ch_mult, n: _stacked(
                ch, ch_mult, n, take=lambda skips: skips.pop(0), order=list, bottom=lambda widths: ch
            )
        ),
        "Only the very first of your blocks has a skip. Every block on the way up takes one.": dict(
            instead=very_first_only
        ),
    },
)

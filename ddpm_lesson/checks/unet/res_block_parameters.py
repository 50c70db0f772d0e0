"""Exercise 3.12: counting the parameters of a residual block."""

import itertools

import torch

from ddpm_lesson.checks._engine import Case, Check

NAMES = ("in_ch", "out_ch", "tdim")


def _res_block_parameters(in_ch, out_ch, tdim):
    """Exercise 3.12: the number of trainable parameters of a residual block without attention.  Ho et al. 2020, App. B.

    in_ch, out_ch, tdim: ints, channels of input and output and width of the time embedding.  Returns an int: GroupNorm,
    3x3 convolution, the time's linear layer, GroupNorm, 3x3 convolution, and a 1x1 convolution as shortcut if the
    channels change; every layer with a bias.
    Not the memory that it takes: Adam keeps two more numbers for each.
    """
    norm_1 = in_ch + in_ch
    conv_1 = 3 * 3 * in_ch * out_ch + out_ch
    time = tdim * out_ch + out_ch
    norm_2 = out_ch + out_ch
    conv_2 = 3 * 3 * out_ch * out_ch + out_ch
    shortcut = 0 if in_ch == out_ch else in_ch * out_ch + out_ch
    return norm_1 + conv_1 + time + norm_2 + conv_2 + shortcut


def _counted(
    in_ch: int,
    out_ch: int,
    tdim: int,
    *,
    norm=lambda channels: 2 * channels,
    norms=lambda i, o: (i, o),  # the channels of the two
    kernel=9,
    second=lambda i, o: (o, o),  # what the second convolution gets and puts out
    bias_1=1,
    biased=lambda i, o: o,  # how many numbers the first convolution's bias has
    bias_2=1,
    time=lambda i, o, t: (t, o),  # what the time's layer gets and puts out
    bias_time=1,
    shortcut=lambda i, o: i != o,
    shortcut_size=1,
    bias_shortcut=1,
) -> int:
    (gets, puts_out), (t_in, t_out) = second(in_ch, out_ch), time(in_ch, out_ch, tdim)
    total = sum(map(norm, norms(in_ch, out_ch)))
    total += kernel * in_ch * out_ch + bias_1 * biased(in_ch, out_ch)
    total += kernel * gets * puts_out + bias_2 * puts_out
    total += t_in * t_out + bias_time * t_out
    return total + shortcut(in_ch, out_ch) * (shortcut_size * in_ch * out_ch + bias_shortcut * out_ch)


def _miscounted(evidence) -> str:
    """By which products of the sizes the number is off: found on all inputs, whole numbers only."""
    rows = [
        (case.args, int(got - want))
        for case, got, want in zip(evidence.check.cases, evidence.got, evidence.want, strict=True)
        if got is not None
    ]
    parts = []
    for words, use in (("where in_ch = out_ch", True), ("where in_ch differs from out_ch", False)):
        off = [(args, gap) for args, gap in rows if (args[0] == args[1]) == use]
        if any(gap for _, gap in off):
            found = _as_polynomial(off, NAMES[1:] if use else NAMES)
            if not found:
                return ""
            parts.append((words, found))
    if len(parts) == 2 and parts[0][1] == parts[1][1]:
        parts = [("", parts[0][1])]
    return (
        "Compared with the right number, yours has "
        + "; ".join(f"{found} {words}".strip() for words, found in parts)
        + "."
    )


def _as_polynomial(rows, names):
    """A sum of products of up to two sizes, with whole factors, in words; "" if it is none of few terms."""
    products = [
        (),
        *itertools.combinations_with_replacement(names, 1),
        *itertools.combinations_with_replacement(names, 2),
    ]
    values = [[_value(product, args) for product in products] for args, _ in rows]
    matrix, target = torch.tensor(values).double(), torch.tensor([gap for _, gap in rows]).double()
    if len(rows) <= len(products):
        return ""
    scale = matrix.norm(dim=0)
    found = torch.linalg.lstsq(matrix / scale, target[:, None], driver="gelsd").solution[:, 0] / scale
    factors = [round(factor) for factor in found.tolist()]
    exact = all(
        sum(f * v for f, v in zip(factors, row, strict=True)) == gap for row, (_, gap) in zip(values, rows, strict=True)
    )
    if not exact or sum(map(bool, factors)) > 4:
        return ""
    many = [_term(f, product) for f, product in zip(factors, products, strict=True) if f > 0]
    few = [_term(-f, product) for f, product in zip(factors, products, strict=True) if f < 0]
    words = [f"{' + '.join(terms)} too {what}" for terms, what in ((many, "many"), (few, "few")) if terms]
    return " and ".join(words)


def _value(product, args):
    sizes, value = dict(zip(NAMES, args, strict=True)), 1
    for name in product:
        value *= sizes[name]
    return value


def _term(factor, product):
    return " * ".join([str(factor)] * (factor != 1 or not product) + list(product))


res_block_parameters = Check(
    number="3.12",
    name="res_block_parameters",
    specification=_res_block_parameters,
    form=_counted,
    clues=(_miscounted,),
    cases=tuple(
        Case(f"in_ch = {in_ch}, out_ch = {out_ch}, tdim = {tdim}", (in_ch, out_ch, tdim))
        for in_ch, out_ch, tdim in [
            (64, 64, 256),
            (128, 256, 512),
            (384, 128, 512),
            (32, 96, 64),
            *((32, 32, 96), (96, 96, 32), (128, 128, 64), (160, 160, 416), (32, 32, 32), (96, 96, 224), (64, 64, 32)),
            *((64, 32, 32), (96, 32, 160), (32, 128, 96), (160, 64, 64), (96, 160, 32), (64, 128, 352), (128, 32, 192)),
            *((32, 160, 288), (160, 96, 128), (64, 96, 416)),
        ]
    ),
    among="equal, growing and shrinking channels",
    returns=int,
    misconceptions={
        "You forgot the biases of convolutions and linear layer: one for each channel that they put out.": dict(
            bias_1=0, bias_2=0, bias_time=0, bias_shortcut=0
        ),
        "You forgot all biases, those of the norms too: one for each channel that a layer puts out.": dict(
            bias_1=0, bias_2=0, bias_time=0, bias_shortcut=0, norm=lambda channels: channels
        ),
        "2 * out_ch numbers are missing: the biases of two layers, of the two 3x3 convolutions for example, or the "
        "second norm.": dict(bias_1=0, bias_2=0),
        "You counted one number for each channel of a norm. It has two, weight and bias.": dict(
            norm=lambda channels: channels
        ),
        "You forgot the norms. Each has a weight and a bias for each of its channels.": dict(norm=lambda channels: 0),
        "You counted four numbers for each channel of a norm. Mean and variance are not "
        "trained: two, weight and bias.": dict(norm=lambda channels: 4 * channels),
        "You counted one norm only, that of out_ch. A first one stands before the first convolution.": dict(
            norms=lambda i, o: (o,)
        ),
        "Your second norm has in_ch channels. It comes after the first convolution: out_ch.": dict(
            norms=lambda i, o: (i, i)
        ),
        "Your first norm has out_ch channels. It comes before the first convolution: in_ch.": dict(
            norms=lambda i, o: (o, o)
        ),
        "Your second convolution maps in_ch to out_ch. The first did that already: the second keeps out_ch.": dict(
            second=lambda i, o: (i, o)
        ),
        "Your second convolution keeps in_ch channels. It comes after the first, which puts out out_ch.": dict(
            second=lambda i, o: (i, i)
        ),
        "You forgot the time: a linear layer from tdim to out_ch.": dict(time=lambda i, o, t: (0, 0)),
        "Your time goes to in_ch channels. It is added after the first convolution, where there are out_ch.": dict(
            time=lambda i, o, t: (t, i)
        ),
        "A 3x3 convolution or the time's linear layer lacks its bias, one number for each of its out_ch outputs.": dict(
            bias_time=0
        ),
        "You counted a second linear layer, from tdim to tdim. It belongs to the time embedding, which all blocks "
        "share.": dict(instead=lambda i, o, t: _counted(i, o, t) + t * t + t),
        "Your time layer puts out 2 out_ch numbers, a scale and a shift. Here the time is only added.": dict(
            time=lambda i, o, t: (t, 2 * o)
        ),
        "You counted a shortcut in every block. Where the channels stay, the input is added as it is.": dict(
            shortcut=lambda i, o: True
        ),
        "You counted a shortcut where the channels stay, and none where they change. It is the other way round.": dict(
            shortcut=lambda i, o: i == o
        ),
        "You counted a shortcut only where the channels grow. It is there whenever they change.": dict(
            shortcut=lambda i, o: i < o
        ),
        "You counted a shortcut only where the channels shrink. It is there whenever they change.": dict(
            shortcut=lambda i, o: i > o
        ),
        "You forgot the shortcut. Where the channels change, a 1x1 convolution leads from in_ch to out_ch.": dict(
            shortcut=lambda i, o: False
        ),
        "Your shortcut is a 3x3 convolution. It is 1x1: one number for each pair of channels.": dict(shortcut_size=9),
        "Your shortcut lacks its bias: the 1x1 convolution has one number for each of its out_ch outputs.": dict(
            bias_shortcut=0
        ),
        "You counted 3 weights for each pair of channels of the 3x3 convolutions. A 3x3 kernel has 9.": dict(kernel=3),
        "Your first convolution's bias has in_ch numbers. It has one for each channel that is put out: out_ch.": dict(
            biased=lambda i, o: i
        ),
    },
)

"""Exercise 3.6: attention over the pixels of an image."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import fractions
from ddpm_lesson.checks.unet._attention_clues import wrong_weights


def _attention(q, k, v):
    """Exercise 3.6: attention over the pixels of an image, one head.  Vaswani et al. 2017, Eq. 1.

    q, k, v: (B, C, H, W).  Returns (B, C, H, W): at every pixel the average of v over all pixels, with the weights
    softmax(q . k / sqrt(C)), where q is this pixel's and k and the softmax run over all pixels.
    Not over channels, and not over rows: any pixel may look at any other.
    """
    B, C, H, W = q.shape
    out = torch.empty(q.shape, dtype=torch.float64)
    places = [(i, j) for i in range(H) for j in range(W)]
    for b in range(B):
        for i, j in places:
            mine = q[b, :, i, j].tolist()
            scores = [sum(x * y for x, y in zip(mine, k[b, :, m, n].tolist(), strict=True)) for m, n in places]
            weights = [math.exp(score / math.sqrt(C)) for score in scores]
            for c in range(C):
                average = sum(w * v[b, c, m, n].item() for w, (m, n) in zip(weights, places, strict=True))
                out[b, c, i, j] = average / sum(weights)
    return out


def _rows(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H W, C)."""
    return x.flatten(2).mT


def _columns(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, W H, C)."""
    return x.mT.flatten(2).mT


def _unsorted(x: Tensor) -> Tensor:
    """(B, C, H, W) read as if it were (B, H W, C)."""
    return x.reshape(len(x), -1, x.shape[1])


def _attended(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    parts=lambda q, k, v: (q, k, v),
    flatten=(_rows, _rows, _rows),  # of q, k and v
    scores=lambda q, k: q @ k.mT,
    scale=lambda C, pixels: math.sqrt(C),
    softmax=lambda scores: scores.softmax(-1),
    after=lambda weights, C: weights,
    average=lambda weights, v: weights @ v,
    put_back=lambda out, shape: out.mT.reshape(shape),
) -> Tensor:
    queries, keys, values = (order(x) for order, x in zip(flatten, parts(q, k, v), strict=True))
    weights = softmax(scores(queries, keys) / scale(q.shape[1], queries.shape[1]))
    return put_back(average(after(weights, q.shape[1]), values), v.shape)


def _over_channels(axis: int):
    """attention in which channels look at one another; the scale is the length of this axis of (B, C, H W)."""

    def attention(q, k, v):
        q_c, k_c, v_c = (x.flatten(2) for x in (q, k, v))  # (B, C, H W)
        return ((q_c @ k_c.mT / math.sqrt(q_c.shape[axis])).softmax(-1) @ v_c).reshape(v.shape)

    return attention


def _along_rows(q, k, v):
    q, k, v = (x.movedim(1, -1) for x in (q, k, v))  # (B, H, W, C)
    return ((q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v).movedim(-1, 1)


def _in_two_heads(q, k, v):
    return torch.cat([_attended(*head) for head in zip(*(x.chunk(2, 1) for x in (q, k, v)), strict=True)], 1)


attention = Check(
    number="3.6",
    name="attention",
    specification=_attention,
    form=_attended,
    gradients=("q", "k", "v"),
    batch=("q", "k", "v"),
    clues=(wrong_weights,),
    cases=tuple(
        Case(
            f"q, k, v of shape {shape}",
            (2 * fractions(*shape), 2 * fractions(*shape, start=11), fractions(*shape, start=30)),
        )
        for shape in [(2, 3, 2, 4), (2, 6, 2, 3), (1, 4, 2, 2), (3, 2, 3, 1), (1, 1, 3, 3)]
    ),
    among="H different from W and as many channels as pixels",
    misconceptions={
        "You forgot to divide by sqrt(C). q . k grows with C<, and the softmax then looks at a single pixel>.": dict(
            scale=lambda C, pixels: 1.0
        ),
        "You divided by C. A sum of C products grows like sqrt(C)<: with C the weights become nearly equal>.": dict(
            scale=lambda C, pixels: C
        ),
        "You multiplied by sqrt(C). q . k grows with C already: divide.": dict(
            scale=lambda C, pixels: 1 / math.sqrt(C)
        ),
        "You multiplied by C. q . k grows with C already: divide by its root.": dict(scale=lambda C, pixels: 1 / C),
        "You divided by sqrt(H W), the number of pixels. q . k is a sum over channels: divide by sqrt(C).": dict(
            scale=lambda C, pixels: math.sqrt(pixels)
        ),
        "You divided by H W, the number of pixels. q . k is a sum over channels: divide by sqrt(C).": dict(
            scale=lambda C, pixels: pixels
        ),
        "You divided both q and k by sqrt(sqrt(C)) twice, or took the fourth root: the scale is sqrt(C).": dict(
            scale=lambda C, pixels: C**0.25
        ),
        "You divided by sqrt(C) after the softmax<, and its weights no longer add up to 1>. Divide before it.": dict(
            scale=lambda C, pixels: 1.0, after=lambda weights, C: weights / math.sqrt(C)
        ),
        "You divided by sqrt(C) once more after the softmax<, and its weights no longer add up to 1>. Divide before it "
        "only.": dict(scale=lambda C, pixels: math.sqrt(C), after=lambda weights, C: weights / math.sqrt(C)),
        "Your softmax runs over the queries. For each query the weights of the keys must add up to 1<, or the result "
        "is no average>: take the axis of the keys.": dict(softmax=lambda scores: scores.softmax(-2)),
        "Your softmax runs over the images of the batch, its first axis. Weights (B, query, key) must add up to 1 over "
        "the keys, the last.": dict(softmax=lambda scores: scores.softmax(0)),
        "Your softmax runs over all pairs of pixels at once. For each query the weights of the "
        "keys must add up to 1.": dict(softmax=lambda scores: scores.flatten(1).softmax(-1).view_as(scores)),
        "You forgot the softmax. Its weights are positive and add up to 1; q . k / sqrt(C) are not.": dict(
            softmax=lambda scores: scores
        ),
        "You took exp without dividing by the sum. The weights of a softmax add up to 1.": dict(softmax=torch.exp),
        "You took a sigmoid instead of a softmax. The weights of a pixel must add up to 1.": dict(
            softmax=torch.sigmoid
        ),
        "You took log_softmax. The weights themselves are needed, and they add up to 1.": dict(
            softmax=lambda scores: scores.log_softmax(-1)
        ),
        "You divided the scores by their sum, without exp. They may be negative, and so may "
        "your weights: softmax.": dict(softmax=lambda scores: scores / scores.sum(-1, keepdim=True)),
        "Your scores have the wrong sign<: alike pixels get the smallest weight>.": dict(scores=lambda q, k: -q @ k.mT),
        "q and k are exchanged. The pixel that receives the average asks with its q, and is answered by k.": dict(
            parts=lambda q, k, v: (k, q, v)
        ),
        "You averaged over the queries: the weights multiply v from the wrong side. At pixel i the sum over j of "
        "weight (i, j) times v at j is asked for.": dict(average=lambda weights, v: weights.mT @ v),
        "You added v to the average. That is the block's business: return the average alone.": dict(
            instead=lambda q, k, v: _attended(q, k, v) + v
        ),
        "You added q to the average. That is the block's business: return the average alone.": dict(
            instead=lambda q, k, v: _attended(q, k, v) + q
        ),
        "Your pixels come back in another order than they went in: flattened column by column, (w h), and put back as "
        "(h w). Use one order both ways.": dict(flatten=(_columns, _columns, _columns)),
        "Your pixels come back in another order than they went in: flattened row by row, (h w), and put back as (w h). "
        "Use one order both ways.": dict(
            put_back=lambda out, shape: out.mT.reshape(shape[0], shape[1], shape[3], shape[2]).mT
        ),
        "The pixels of v are in another order than those of k: every weight meets the value of another pixel. Flatten "
        "all three alike, (h w).": dict(flatten=(_rows, _rows, _columns)),
        "You reshaped (B, H W, C) into (B, C, H, W)<. The shape is right, but channels and pixels get mixed up>: "
        "rearrange it, 'b (h w) c -> b c h w'.": dict(put_back=torch.Tensor.reshape),
        "You reshaped (B, C, H, W) into (B, H W, C)<. The shape is right, but a row of it is no pixel>: rearrange, 'b "
        "c h w -> b (h w) c', and back in the same way.": dict(
            flatten=(_unsorted, _unsorted, _unsorted), put_back=torch.Tensor.reshape
        ),
        "You reshaped (B, C, H, W) into (B, H W, C), where a row of it is no pixel. Only on the way back channels are "
        "moved: rearrange both ways.": dict(flatten=(_unsorted, _unsorted, _unsorted)),
        "Your channels look at one another: your weights are (C, C). Pixels should: (H W, H W).": dict(
            instead=_over_channels(1)
        ),
        "You flattened to (B, C, H W) only, so that channels look at one another. The last axis is the one that is "
        "summed over: (B, H W, C).": dict(instead=_over_channels(2)),
        "You gave (B, C, H, W) to the attention as it is: in every channel the rows look at one another. It wants all "
        "pixels in one axis, (B, H W, C).": dict(instead=F.scaled_dot_product_attention),
        "Your attention runs over the batch as well: pixels look at the pixels of other images.": dict(
            flatten=(lambda x: _rows(x).flatten(0, 1),) * 3,
            put_back=lambda out, shape: out.unflatten(0, (shape[0], -1)).mT.reshape(shape),
        ),
        "You normalised q and k to length 1. The scores are their inner products as they are, over sqrt(C).": dict(
            parts=lambda q, k, v: (F.normalize(q, dim=1), F.normalize(k, dim=1), v)
        ),
        "Your scores are minus the squared distances of q and k. They are inner products, q . k.": dict(
            scores=lambda q, k: -((q[:, :, None] - k[:, None]) ** 2).sum(3)
        ),
        "You masked the later pixels: each sees only itself and those before it. Every "
        "pixel looks at all pixels.": dict(
            softmax=lambda scores: (scores + scores.new_full(scores.shape[-2:], -math.inf).triu(1)).softmax(-1)
        ),
        "Each pixel looks at the pixels of its own row only. It looks at all pixels of the image.": dict(
            instead=_along_rows
        ),
        "Each pixel looks at the pixels of its own column only. It looks at all pixels of the image.": dict(
            instead=lambda q, k, v: _along_rows(q.mT, k.mT, v.mT).mT
        ),
        "You used two heads, each with half of the channels. One head with all channels is asked for.": dict(
            instead=_in_two_heads
        ),
    },
)

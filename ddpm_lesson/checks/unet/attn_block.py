"""Exercise 3.7: the attention block as a module."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import fractions
from ddpm_lesson.checks._rows import Rows
from ddpm_lesson.checks.unet._modules import script, trained

ROLES = ("proj_q", "proj_k", "proj_v")


class _AttnBlock(nn.Module):
    """Exercise 3.7: attention over the pixels, added to the features.  Ho et al. 2020, App. B.

    in_ch: channels. num_groups: of the norm.  forward: x (B, in_ch, H, W).  Returns the same shape.
    Parts: group_norm, proj_q, proj_k, proj_v and proj, four 1x1 convolutions; proj stands after the average and starts
    at 0.
    Not the average alone: it is added to x as it came.
    """

    def __init__(self, in_ch, num_groups=32):
        super().__init__()
        self.group_norm = nn.GroupNorm(num_groups, in_ch)
        self.proj_q, self.proj_k, self.proj_v, self.proj = (nn.Conv2d(in_ch, in_ch, 1) for _ in range(4))
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x):
        out = torch.empty_like(x)
        for b, h in enumerate(self.group_norm(x)):
            pixels = h.flatten(1).T  # (H W, C)
            q, k, v = (F.linear(pixels, p.weight[:, :, 0, 0], p.bias) for p in (self.proj_q, self.proj_k, self.proj_v))
            weights = [((k @ query) / math.sqrt(len(query))).softmax(0) for query in q]
            average = torch.stack([weight @ v for weight in weights])
            out[b] = x[b] + F.linear(average, self.proj.weight[:, :, 0, 0], self.proj.bias).T.reshape(h.shape)
        return out


class _Built(_AttnBlock):
    """The same with choices."""

    def __init__(
        self,
        in_ch: int,
        num_groups: int = 32,
        *,
        groups=lambda num_groups: num_groups,
        start=nn.init.zeros_,
        norm=lambda block, x: block.group_norm(x),
        roles=ROLES,
        raw=(),  # the projections of x as it came
        scale=math.sqrt,
        axis=-1,
        weights=torch.softmax,
        project=lambda block, out: block.proj(out),
        join=lambda x, normed, out: x + out,
    ):
        super().__init__(in_ch, num_groups)
        start(self.proj.weight)
        self.group_norm = nn.GroupNorm(groups(num_groups), in_ch)
        self.norm, self.roles, self.raw, self.scale, self.axis = norm, roles, raw, scale, axis
        self.weights, self.project, self.join = weights, project, join

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(self, x)
        plain = {"x": x, "normed": normed}
        parts = [
            plain[role] if role in plain else getattr(self, role)(x if role in self.raw else normed)
            for role in self.roles
        ]
        q, k, v = (part.flatten(2).mT for part in parts)
        out = self.weights(q @ k.mT / self.scale(x.shape[1]), self.axis) @ v
        return self.join(x, normed, self.project(self, out.mT.reshape(x.shape)))


def _of_x() -> Rows:
    """Rows of the table: some of the three come from x, the others from the normalised x."""
    some = [(role,) for role in ROLES] + [tuple(other for other in ROLES if other != role) for role in ROLES]
    words = {"proj_q": "queries", "proj_k": "keys", "proj_v": "values"}
    end = "come from x as it is. Queries, keys and values all come from the normalised x."
    return {f"Your {' and '.join(words[role] for role in raw)} {end}": dict(raw=raw) for raw in some}


def _case(in_ch: int, num_groups: int, *size: int) -> Case:
    batch, height, width = size
    x = 2 * fractions(batch, in_ch, height, width, start=101).double() + 0.5
    return Case(f"in_ch = {in_ch}, num_groups = {num_groups}, x of shape {tuple(x.shape)}", ((in_ch, num_groups), (x,)))


AttnBlock = Check(
    number="3.7",
    name="AttnBlock",
    specification=_AttnBlock,
    form=_Built,
    script=script(_AttnBlock, "the identity", lambda block, x: block(x) - x, {}),
    steps=True,
    inputs=("x",),
    gradients=("x",),
    trained=trained(_AttnBlock),
    cuts={
        "You detached x where it is added: what lies before the block learns through the attention only.": dict(
            join=lambda x, normed, out: x.detach() + out
        ),
        "You detached the normalised x: the norm, and what lies before it, do not learn through the attention.": dict(
            norm=lambda block, x: block.group_norm(x).detach()
        ),
        "You detached x before the norm: what lies before the block learns through the sum only.": dict(
            norm=lambda block, x: block.group_norm(x.detach())
        ),
        "You detached the weights of the pixels, or queries and keys: proj_q and proj_k would never learn.": dict(
            weights=lambda scores, axis: scores.softmax(axis).detach()
        ),
    },
    cases=(_case(4, 2, 2, 3, 5), _case(6, 3, 1, 2, 3), _case(2, 1, 3, 4, 1)),
    among="H different from W and as many channels as pixels",
    misconceptions={
        "Your block does not start as x: set weight and bias of proj to 0 where you build "
        "it, nn.init.zeros_(...).": dict(start=nn.init.ones_),
        "Queries, keys and values come from x as it is. They come from the normalised x.": dict(
            norm=lambda block, x: x, raw=()
        ),
        **_of_x(),
        "You return the average without x. The block adds to what it got.": dict(join=lambda x, normed, out: out),
        "You add the average to the normalised x. It is added to x as it came.": dict(
            join=lambda x, normed, out: normed + out
        ),
        "You never use proj. It stands after the average.": dict(project=lambda block, out: out),
        "Your norm has 32 groups, whatever num_groups is: pass num_groups to nn.GroupNorm.": dict(
            groups=lambda num_groups: 32
        ),
        **{
            f"Your {what} are not projected: you never call {role}. They are {role} of the normalised x.": dict(
                roles=tuple("normed" if other == role else other for other in ROLES)
            )
            for what, role in zip(("queries", "keys", "values"), ROLES, strict=True)
        },
        "Your values are x itself: you never call proj_v. They are proj_v of the normalised x.": dict(
            roles=("proj_q", "proj_k", "x")
        ),
        "You exchanged query and key: the pixel that looks has the query.": dict(roles=("proj_k", "proj_q", "proj_v")),
        "You took the keys for the values.": dict(roles=("proj_q", "proj_k", "proj_k")),
        "You forgot to divide by sqrt(C).": dict(scale=lambda C: 1),
        "You divided by C. Divide by its root.": dict(scale=lambda C: C),
        "Your softmax runs over the queries. It runs over the keys, the last axis.": dict(axis=-2),
    },
)

"""Sentences that several exercises of notebook 01 share."""

ROUNDED_FIRST = (
    "Your numbers have only the precision of float32: they were rounded before they became float64, and converting "
    "later brings no digit back. Ask for dtype=torch.float64 where the numbers are made."
)
UPSIDE_DOWN = (
    "Your ratio is upside down<, and the betas come out negative>. alpha_bar falls: the later value goes on top."
)

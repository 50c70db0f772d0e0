"""Rows of the tables of misconceptions that exercises of notebook 03 share."""

from ddpm_lesson.checks._rows import Rows


def placed(slot: str) -> Rows:
    """What becomes of the time, (B, C), before it is added to features, (B, C, H, W)."""
    ways = {
        "You added the time along the width<: column j got channel j's number. It runs where C happens to be the "
        "width>. The new axes come last, (B, C, 1, 1).": lambda time: time[:, None, None, :],
        "You added the time along the height<: row i got channel i's number. It runs where C happens to be the "
        "height>. The new axes come last, (B, C, 1, 1).": lambda time: time[:, None, :, None],
        "You added (B, C) as it is<, and broadcasting lines that up with height and width. It runs where the numbers "
        "happen to agree>. Add two axes at the end, (B, C, 1, 1).": lambda time: time,
        "You added (B, C, 1)<, and broadcasting lines that up with channels, height and width. It runs where the "
        "numbers happen to agree>. Two axes are missing, (B, C, 1, 1).": lambda time: time[:, :, None],
        "You added (C, B, 1, 1), batch and channels exchanged<. It runs where B happens to be C, and gives images the "
        "time of others>. Batch and channels stay first: (B, C, 1, 1).": lambda time: time.T[:, :, None, None],
        "You used the first image's temb for the whole batch. Every image has its own.": lambda time: time[
            :1, :, None, None
        ],
    }
    return {sentence: {slot: way} for sentence, way in ways.items()}

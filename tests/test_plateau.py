"""Notebook 02's record of several seeds: whole, and quoted as it is."""

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent
RECORD = json.loads((ROOT / "data/records/plateau.json").read_text("utf-8"))
NEAR = {steps: [seed[steps]["near"] for seed in RECORD["seeds"]] for steps in ("2000", "8000")}


def test_no_seed_ends_at_the_first_plateau():
    best = RECORD["exact"]["loss"]
    assert len(RECORD["seeds"]) == 5
    assert all(best < seed["8000"]["loss"] < seed["2000"]["loss"] < 1.2 * best for seed in RECORD["seeds"])
    assert max(NEAR["2000"]) < 0.6 < 0.9 < min(NEAR["8000"]) < RECORD["exact"]["near"]


def test_notebook_quotes_the_record():
    prose = (ROOT / "notebooks/source/02_loss.py").read_text("utf-8")
    early, late = (
        [f"{share:.0%}".replace("%", " %") for share in (min(NEAR[steps]), max(NEAR[steps]))]
        for steps in ("2000", "8000")
    )
    quote = (
        f"{' to '.join(early)} of the samples lie near a cluster after 2000 steps, and {' to '.join(late)} after 8000"
    )
    assert f"With {len(RECORD['seeds'])} seeds, {quote}" in prose

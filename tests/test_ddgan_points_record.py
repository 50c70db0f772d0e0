"""The record of generators on eight clusters: whole, and what notebook 05 says of it."""

import json
from pathlib import Path

HELD = json.loads((Path(__file__).parent.parent / "data/records/ddgan_points.json").read_text("utf-8"))


def rows(T):
    return [row for row in HELD["rows"] if row["T"] == T]


def test_it_holds_both_kinds_with_five_seeds():
    assert {(row["T"], row["seed"]) for row in HELD["rows"]} == {(T, seed) for T in (4, 1) for seed in range(5)}
    assert len(HELD["rows"]) == 10 and HELD["settings"]["steps"] == 2600
    for row in HELD["rows"]:
        assert len(row["shares"]) == 8 and abs(sum(row["shares"]) - row["near"]) < 0.002


def test_both_find_the_clusters_and_one_step_is_no_worse():
    four, one = ([row["near"] for row in rows(T)] for T in (4, 1))
    assert 0.87 < min(four) and max(four) < 0.94 < min(one) + 0.005 and max(one) < 0.965


def test_each_has_nearly_lost_a_cluster_with_one_seed_of_five():
    for T in (4, 1):
        assert sum(min(row["shares"]) < 0.01 for row in rows(T)) == 1
        assert all(min(row["shares"]) > 0.07 for row in rows(T) if min(row["shares"]) >= 0.01)

"""The table that compares the benchmark of two commits."""

from __future__ import annotations

from typing import Any

import pytest


def result(short: str, **milliseconds: tuple[float, float]) -> dict[str, Any]:
    """A run in which `bundle_rows` and one read took so long in each case."""
    cases = [
        {"group": "regime", "name": name, "times": {
            contender: {"median_s": ms / 1e3, "is_peer": False} for contender, ms in
            zip(("bundle_rows", "read"), pair, strict=True)}}
        for name, pair in milliseconds.items()
    ]  # fmt: skip
    return {"commit": {"short": short}, "machine": {"load_average": [0, 0, 0]}, "cases": cases}


def test_only_what_differs_is_shown_in_reads_and_the_largest_gain_first() -> None:
    module = pytest.importorskip("bench.before_after", reason="bench: NOT TESTED HERE (not in a wheel)")
    before = result("aaaaaaaa", slower=(1, 1), same=(2, 1), twice=(4, 1), thrice=(9, 1), memory_was_slow=(4, 2))
    after = result(
        "bbbbbbbb", slower=(2, 1), same=(2.1, 1), twice=(2, 1), thrice=(3, 1), memory_was_slow=(2, 1), new=(1, 1)
    )
    text = module.table(before, after, "before.json", "after.json")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "`bundle_rows`" in line
    ]
    assert [(cells[1], cells[7]) for cells in rows] == [("thrice", "3.00"), ("twice", "2.00"), ("slower", "0.50")]
    assert rows[0][3:7] == ["9", "9", "3", "3"]
    assert "5 cases were measured in both; these 3 differ" in text
    assert text.startswith("From `before.json` (commit `aaaaaaaa`, load [0, 0, 0]) and `after.json` (commit `bbbbbbbb`")

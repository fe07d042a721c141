"""The table that compares the benchmark of two commits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "performance.md"


def module() -> Any:
    return pytest.importorskip("bench.before_after", reason="bench: NOT TESTED HERE (not in a wheel)")


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
    before = result("aaaaaaaa", slower=(1, 1), same=(2, 1), twice=(4, 1), thrice=(9, 1), memory_was_slow=(4, 2))
    after = result(
        "bbbbbbbb", slower=(2, 1), same=(2.1, 1), twice=(2, 1), thrice=(3, 1), memory_was_slow=(2, 1), new=(1, 1)
    )
    text = module().table(before, after, "before.json", "after.json")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "`bundle_rows`" in line
    ]
    assert [(cells[1], cells[7]) for cells in rows] == [("thrice", "3.00"), ("twice", "2.00"), ("slower", "0.50")]
    assert rows[0][3:7] == ["9", "9", "3", "3"]
    assert "5 cases were measured in both; these 3 differ" in text
    assert text.startswith("From `before.json` (commit `aaaaaaaa`, load [0, 0, 0]) and `after.json` (commit `bbbbbbbb`")


def test_what_cannot_be_compared_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert module().main(["nosuchcommit"]) == 1
    assert capsys.readouterr().err == "'nosuchcommit' is no commit of this repository; name one that git log shows\n"
    short = tmp_path / "quick.json"
    short.write_text(json.dumps({**result("aaaaaaaa", case=(1, 1)), "mode": "quick", "complete": True}))
    before = DOCUMENT.read_text() if DOCUMENT.exists() else None
    assert module().main([str(short), str(short)]) == 1
    assert "are not both complete runs with BENCH=full; use --print" in capsys.readouterr().err
    assert (DOCUMENT.read_text() if DOCUMENT.exists() else None) == before
    assert module().main([str(short), str(short), "--print"]) == 0
    assert "1 cases were measured in both; these 0 differ" in capsys.readouterr().out

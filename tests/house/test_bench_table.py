"""The table of the benchmark on a CPU: verdicts of goals, peers that are missing, and what counts as a loss."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "bench").is_dir(), reason="bench: NOT TESTED HERE (no source tree)")


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    yield importlib.import_module("bench.table")
    for name in [name for name in sys.modules if name.split(".")[0] == "bench"]:
        del sys.modules[name]


def case(group: str, shape: tuple[int, int], data: str, seconds: dict[str, float], **more: Any) -> dict[str, Any]:
    ours = ("read", "bundle_rows", "BundleEntropy", "conflict_margin")
    times = {
        name: {
            "median_s": s,
            "min_s": s,
            "max_s": s,
            "rounds": 5,
            "state": "cold",
            "is_peer": not name.startswith(ours),
        }
        for name, s in seconds.items()
    }
    return {
        "name": f"{shape[0]}x{shape[1]} {data}", "group": group, "shape": list(shape), "measured_shape": list(shape),
        "data": data, "layout": "rows", "dtype": "float32", "bytes": 10**9, "bundles": 1, "hot": False,
        "times": times, "skipped": {}, "work": {}, **more,
    }  # fmt: skip


def lines_with(text: str, words: str) -> list[str]:
    return [line for line in text.splitlines() if words in line]


@pytest.mark.parametrize(
    ("regime", "entry", "must"),
    [
        ("any layout and memory order", case("strided", (512, 16384), "equal", {"read": 1, "bundle_rows": 2.6}), False),
        ("any layout and memory order", case("strided", (512, 16384), "equal", {"read": 1, "bundle_rows": 2.4}), True),
        ("no peer faster", case("dtype", (512, 16384), "equal", {"bundle_rows": 1.0, "np.unique": 0.94}), False),
        ("no peer faster", case("dtype", (512, 16384), "equal", {"bundle_rows": 1.0, "np.unique": 0.96}), True),
        ("streaming", case("streaming", (2, 9), "x", {"BundleEntropy.update, all rows": 1, "xxh3 + dict": 0.9}), False),
        ("streaming", case("streaming", (2, 9), "x", {"BundleEntropy.update, all rows": 1, "xxh3 + dict": 1.1}), True),
        ("conflict_margin", case("margin", (512, 16384), "collapsed", {"conflict_margin": 0.036}), False),
        ("conflict_margin", case("margin", (512, 16384), "collapsed", {"conflict_margin": 0.034}), True),
        ("update grid", case("regime", (512, 16384), "x", {"bundle_rows": 1, "bundle_rows, grid": 1.11}), False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_verdicts(table: Any, regime: str, entry: dict[str, Any], must: bool) -> None:
    (line,) = lines_with(table.goals([entry]), regime)
    assert line.split(" | ")[3] == ("reached" if must else "**NOT reached**")


def test_a_stream_aims_at_bytes_a_second(table: Any) -> None:
    entry = case("streaming", (2, 9), "x", {"BundleEntropy.update, all rows": 0.04, "xxh3 + dict": 1.0})
    (line,) = lines_with(table.goals([entry]), "streaming")
    assert line.split(" | ")[4:7] == [">= 25 GB/s", "25 GB/s (2x9 x)", "reached |"]


def test_a_missing_peer_is_said_loudly(table: Any) -> None:
    entry = case(
        "regime", (50000, 512), "equal", {"read": 1.0, "bundle_rows": 1.0},
        skipped={"polars group_by": "polars is not installed: NOT MEASURED", "pandas ngroup": "estimated 99 s"},
    )  # fmt: skip
    assert "| **not installed** | skipped |" in table.regimes([entry])
    assert "* **a peer is missing: polars is not installed: NOT MEASURED.**" in table.losses({"cases": [entry]})


def test_data_frames_group_by_the_values_of_all_columns(table: Any) -> None:
    np, peers = pytest.importorskip("numpy"), pytest.importorskip("bench.peers")
    acts = np.array([[1, 2], [3, 4], [1, 2], [1, 4], [3, 4]], np.float32)
    for name, run in peers.OF_SHORT_ROWS.items():
        if not peers.absent(name):
            for same in (acts, np.asfortranarray(acts), acts[:, :, None]):
                assert list(peers.by_leader(run(same))) == [0, 1, 0, 2, 1], name

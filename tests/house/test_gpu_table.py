"""The measured part of docs/gpu.md comes from the JSON of a run on a GPU, and from nothing else."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "bench").is_dir(), reason="gpu_table: NOT TESTED HERE (no source tree)")


@pytest.fixture
def gpu_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    module = importlib.import_module("gpu_table")
    document = tmp_path / "gpu.md"
    document.write_text(f"before\n{module.BEGIN}\nof another run\n{module.END}\nafter\n")
    monkeypatch.setattr(module, "DOCUMENT", document)
    return module


def summary(median: float) -> dict[str, float]:
    return {"median_us": median}


def part(number: int, *phases: dict[str, Any], is_rehearsal: bool = False) -> dict[str, Any]:
    return {
        "part": number, "is_rehearsal": is_rehearsal, "date": "2026-01-02T03:04:05+00:00",
        "commit": {"short": f"c0ffee0{number}"}, "phases": list(phases),
        "device": {"name": "NVIDIA H999", "multiprocessors": 77, "l2_bytes": 50 << 20},
        "versions": {"driver": "580", "nvcc": "13.0", "torch": "2.11", "python": "3.12"},
    }  # fmt: skip


def case(shape: list[int], data: str, size: int, calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    name = f"{tuple(shape)} float32 {data}"
    return {"name": name, "shape": shape, "data": data, "dtype": "float32", "bytes": size, "calls": calls, **more}


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    equal = {"bundle_rows": {"graph": summary(1000.0), "host": summary(30.0)}}
    distinct = {
        "bundle_rows": {"graph": summary(64.0), "host": summary(27.0)},
        "row_fingerprints": {"graph": summary(500.0)}, "update": {"host": summary(112.0)},
        "margin queued": {"graph": summary(450.0)},
    }  # fmt: skip
    layers = {"bundle_entropy_layers, check_nan=False": {"host": summary(1200.0)},
              "counts queued": {"host": summary(90.0)}, "counts queued and read": {"host": summary(230.0)}}  # fmt: skip
    measured = {
        "how": "events", "yardsticks": {"copy_bytes_per_s": 2e12, "read_bytes_per_s": 3e12,
                                        "smallest_launch": summary(4.3)},
        "cases": [case([10, 10], "distinct", 10**9, distinct), case([10, 10], "equal", 10**9, equal),
                  case([3, 10, 10], "equal", 10**8, layers, kernels={"group_rows_kernel": summary(100.0)})],
        "goals": [{"goal": "be quick", "limit_us": 45.0, "median_us": 64.0, "reached": False}],
    }  # fmt: skip
    one = part(1, {"name": "times", "outcome": "passed", "seconds": 22.4, "measured": measured},
               {"name": "smoke", "outcome": "failed", "seconds": 3.0})  # fmt: skip
    peers = {"goal": 20.0, "not_installed": {"cuDF": "cudf NOT INSTALLED on this machine"},
             "cases": [{"name": "x", "bundle_rows": summary(25.0), "skipped": {"cupy": "slow"},
                        "peers": {"torch.unique(dim=0)": {"median_us": 5800.0, "ratio": 232.0}}},
                       {"name": "y", "bundle_rows": summary(25.0), "skipped": {},
                        "peers": {"torch.unique(dim=0)": {"median_us": 480.0, "ratio": 19.2}}}]}  # fmt: skip
    two = part(2, {"name": "peers", "outcome": "passed", "seconds": 1.0, "measured": peers})
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    for path, content in zip(paths, (one, two), strict=True):
        path.write_text(json.dumps(content))
    return paths


def test_every_figure_is_that_of_the_run(gpu_table: Any, parts: list[Path]) -> None:
    assert gpu_table.main([str(path) for path in parts]) == 0
    text = gpu_table.DOCUMENT.read_text()
    assert text.startswith(f"before\n{gpu_table.BEGIN}\nFrom `one.json`, `two.json` (2026-01-02): NVIDIA H999")
    assert text.endswith(f"{gpu_table.END}\nafter\n")
    assert "of another run" not in text
    for line in (
        "| 1 | smoke | c0ffee01 | failed | 3 |  |",
        "| (10, 10) float32 | 64 | - | 1000 (0.50) | - | -, - | 27 |",
        "| (3, 10, 10) float32 equal | 100 | 0.50 | 90 | 230 | 1200 |",
        "| (10, 10) float32 distinct | 500 | 1.00 | 112 | - | 450 |",
        "| be quick | 45 | 64 | NOT reached |",
        "| x: 20x torch.unique(dim=0) | 290 | 25 | reached |",
        "| y: 20x torch.unique(dim=0) | 24 | 25 | NOT reached |",
        "**cuDF: cudf NOT INSTALLED on this machine: NOT MEASURED.**",
        "| x | 25 | torch.unique(dim=0) | 5800 | 232 |",
        "| x | 25 | cupy | not measured: slow | |",
    ):
        assert line in text, line
    assert "copies 2.00 TB/s" in text
    assert text.split("### Beside training")[1].strip().startswith("Not measured.")


def test_a_later_run_completes_an_earlier_one(gpu_table: Any, parts: list[Path], tmp_path: Path) -> None:
    later = part(2, {"name": "peers", "outcome": "timed out", "seconds": 9.0, "measured": None})
    (tmp_path / "later.json").write_text(json.dumps(later | {"commit": {"short": "decaf000"}}))
    assert gpu_table.main([*map(str, parts), str(tmp_path / "later.json")]) == 0
    text = gpu_table.DOCUMENT.read_text()
    assert "| 2 | peers | decaf000 | timed out | 9 |  |" in text
    assert "`two.json`, `later.json`" in text


LAUNCH = {
    "kernel": "group_rows_kernel<Float32>", "grid": "(264, 1, 1)", "block": "(256, 1, 1)", "call": "long rows",
    "sections": {
        "Speed": {"Memory Throughput [%]": "40.13", "DRAM Throughput [%]": "40.13", "Duration [ms]": "2.78"},
        "Memory": {"Memory Throughput [Tbyte/s]": "1.93"},
        "Launch": {"Registers Per Thread [register/thread]": "128"},
    },
    "waits": [{"for": "scoreboard dependency on a L1TEX operation", "percent": "78.0"}],
}  # fmt: skip


def with_launches(path: Path, launches: list[Any]) -> None:
    content = json.loads(path.read_text())
    content["phases"].append({"name": "counters", "outcome": "passed", "seconds": 1.0, "launches": launches})
    path.write_text(json.dumps(content))


def test_what_ncu_counted_is_a_table(gpu_table: Any, parts: list[Path]) -> None:
    assert gpu_table.main([str(path) for path in parts]) == 0
    assert "### What the hardware counted\n\nNot measured." in gpu_table.DOCUMENT.read_text()
    with_launches(parts[0], [LAUNCH, {"Duration [us]": "7.00"}])
    assert gpu_table.main([str(path) for path in parts]) == 0
    text = gpu_table.DOCUMENT.read_text()
    line = "| long rows | `group_rows_kernel<Float32>` | 2.78 ms | 1.93 Tbyte/s | 40.13 | 128 | - | - | 78.0 | - |"
    assert line in text
    assert "| 1 | counters | c0ffee01 | passed | 1 | 2 launches read |" in text
    assert "7.00" not in text, "an earlier form of the file, without sections"


def test_an_earlier_run_on_another_card_is_shown_beside_this_one(
    gpu_table: Any, parts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = json.loads(parts[0].read_text())
    earlier["device"]["name"], earlier["commit"]["short"] = "NVIDIA H111", "decaf000"
    measured = earlier["phases"][0]["measured"]
    measured["yardsticks"]["copy_bytes_per_s"] = 1e12
    distinct, equal, layers = measured["cases"]
    distinct["calls"]["bundle_rows"]["graph"] = summary(90.0)
    distinct["calls"]["conflict_margin"] = {"host": summary(8858.0)}
    equal["calls"]["bundle_rows"]["graph"] = summary(1250.0)
    layers["kernels"]["group_rows_kernel"] = summary(125.0)
    measured["cases"].append(distinct | {"name": "(9, 9) float32 distinct", "shape": [9, 9]})
    path = tmp_path / "earlier.json"
    path.write_text(json.dumps(earlier))
    now = json.loads(parts[0].read_text())
    now["phases"][0]["measured"]["cases"][0]["calls"]["conflict_margin"] = {"host": summary(430.0)}
    parts[0].write_text(json.dumps(now))

    assert gpu_table.main([*map(str, parts), "--before", str(path)]) == 0
    text = gpu_table.DOCUMENT.read_text()
    assert "From `one.json`, `two.json` (2026-01-02): NVIDIA H999" in text, "the other card's file is not this run's"
    assert "Before: `earlier.json`, NVIDIA H111 at decaf000, which copies 1.00 TB/s. Now: NVIDIA H999 at" in text
    table = text.split("### Before and now")[1].split("###")[0]
    assert "| (10, 10) float32 | 90 -> 64 | - | 1250 (0.80) -> 1000 (0.50) | - | 8858 -> 430 |" in table
    assert "| (3, 10, 10) float32 | - | - | 125 (0.80) -> 100 (0.50) | - | - |" in table
    assert "(9, 9)" not in table, "this run has no such case"

    assert gpu_table.main([*map(str, parts), "--before", str(parts[1])]) == 1
    assert "these are not part 1, part 2 and, behind --before, an earlier part 1" in capsys.readouterr().err


def test_a_rehearsal_never_gets_into_the_document(
    gpu_table: Any, parts: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(parts[1].read_text())
    parts[1].write_text(json.dumps(content | {"is_rehearsal": True}))
    before = gpu_table.DOCUMENT.read_text()
    assert gpu_table.main([str(path) for path in parts]) == 1
    assert "not parts 1 and 2 of a run on a GPU" in capsys.readouterr().err
    assert gpu_table.main([str(parts[0])]) == 1
    assert gpu_table.DOCUMENT.read_text() == before
    assert gpu_table.main(["--print", *map(str, parts)]) == 0
    assert "### Goals" in capsys.readouterr().out


def test_the_document_has_its_place_for_it() -> None:
    text = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    assert text.count("<!-- gpu:begin -->") == text.count("<!-- gpu:end -->") == 1


def test_every_run_that_the_document_names_is_kept() -> None:
    text = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(gpu-[a-z0-9-]+\.json)`", text))
    assert len(named) >= 3
    missing = [name for name in sorted(named) if not (ROOT / "bench" / "results" / name).is_file()]
    assert missing == []

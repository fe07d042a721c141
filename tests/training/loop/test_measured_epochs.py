"""What belongs to the time of measuring, and what is measured only where somebody reads it."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="measured epochs: NOT TESTED HERE (no torch)")
pytest.importorskip("safetensors", reason="measured epochs: NOT TESTED HERE (no safetensors)")

from cbkernels.filters import overlap  # noqa: E402
from cbkernels.training import AutotuneConfig, TrainConfig, autotune_configured, load_trained, train  # noqa: E402
from cbkernels.training.trained_run import fit  # noqa: E402

CNN = TrainConfig(
    model="cnn", depth=2, width=6, epochs=2, train_size=200, test_size=60, probe_size=40, threads=1, device="cpu"
)
SLOW = 100.0
"""Seconds of the overlap of one layer, by the clock below."""


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets the number of filters of every layer of which the overlap is taken; only that makes the clock go on."""
    layers: list[int] = []
    overlaps = overlap.overlaps

    def slow(weights: Any) -> Any:
        layers.append(len(weights))
        return overlaps(weights)

    monkeypatch.setattr(overlap, "overlaps", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: SLOW * len(layers))
    return layers


def history_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("with_repr", [False, True], ids=["standard", "repr"])
def test_the_overlap_of_filters_is_in_the_time_of_measuring(
    compared: list[int], tmp_path: Path, with_repr: bool
) -> None:
    cycle = {"repr_full_epochs": 1, "repr_reduced_epochs": 1, "repr_cycles": 1, "repr_max_layer_share": 0.5}
    result = train(TrainConfig(**{**asdict(CNN), **cycle, "epochs": 3, "repr": with_repr}), tmp_path)
    assert len(compared) == 2 * 4, "both layers after every epoch"
    lines = history_of(tmp_path)
    assert [line["seconds_measuring"] for line in lines] == [2 * SLOW] * 4
    assert all(line["seconds_training"] == line["seconds_evaluating"] == 0 for line in lines)
    assert (result["seconds_measuring"], result["measuring_share"]) == (2 * SLOW * 4, 1)
    assert all(line["orthogonality"] > 0 for line in lines)


def test_the_overlap_is_not_taken_where_nobody_reads_it(compared: list[int], tmp_path: Path) -> None:
    """The comparison with RePr reads it, of runs of ``train``; auto-tune and fine-tuning have none."""
    train(CNN, tmp_path / "train")
    assert len(compared) == 2 * 3
    run = load_trained(tmp_path / "train", device="cpu")
    compared.clear()
    tuned = asdict(CNN) | {"probe_size": 40}
    assert autotune_configured(AutotuneConfig(**tuned), tmp_path / "tuned")["status"] == "trained"
    lines = [*fit(run.model, run, epochs=1, seed=0), *history_of(tmp_path / "tuned")]
    assert compared == []
    assert not any("orthogonality" in line for line in lines)

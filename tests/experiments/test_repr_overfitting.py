"""The script that gathers comparisons of RePr gives what the runs' own files say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from . import experiment

repr_overfitting = experiment("repr_overfitting")

from cbkernels import training  # noqa: E402
from cbkernels.training.config import TrainConfig  # noqa: E402

from ..sample_runs import SMALL  # noqa: E402


def test_runs_beside_a_comparison_are_compared_with_the_same_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {**SMALL, "model": "cnn", "depth": 1, "width": 8, "epochs": 3}
    cycle = {"repr_full_epochs": 1, "repr_reduced_epochs": 1, "repr_cycles": 1, "repr_share": 0.1}
    compared = training.compare(
        TrainConfig(**options, **cycle), tmp_path / "compared", criteria=("standard", "random"), seeds=2
    )
    beside = [tmp_path / f"norm-seed{seed}" for seed in range(2)]
    for seed, out in enumerate(beside):
        training.train(TrainConfig(**options, **cycle, repr=True, repr_criterion="weight_norm", seed=seed), out)
    given = ["repr_overfitting", str(tmp_path / "compared"), "--also", *map(str, beside)]
    monkeypatch.setattr(sys, "argv", given)
    repr_overfitting.main()
    content = json.loads((tmp_path / "compared" / "summary.json").read_text())
    assert list(content["criteria"]) == ["standard", "random", "weight_norm"]
    reached = {row["criterion"]: row["test_accuracies"] for row in compared["rows"]}
    reached["weight_norm"] = [json.loads((out / "result.json").read_text())["test_accuracy"] for out in beside]
    for name, of_criterion in content["criteria"].items():
        assert of_criterion["test_mean"] == pytest.approx(sum(reached[name]) / 2)
        differences = [one - other for one, other in zip(reached[name], reached["standard"], strict=True)]
        assert of_criterion["differences"] == ([] if name == "standard" else pytest.approx(differences))
        assert all(0 <= run["train_accuracy"] <= 1 for run in content["runs"][name])
    assert "weight_norm" in capsys.readouterr().out

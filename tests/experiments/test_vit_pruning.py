"""The experiment with a vision transformer, tiny: every figure of its JSON is there, and a seed is run only once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from . import experiment

vit_pruning = experiment("vit_pruning")
RANKINGS = ["margin", "similarity", "random"]
TINY = [
    "--dataset=digits", "--train-size=120", "--test-size=60", "--image-size=8", "--patch=4", "--width=8", "--blocks=2",
    "--epochs=1", "--heal-epochs=1", "--batch-size=32", "--max-drop=0.5", "--seeds=2",
]  # fmt: skip


def summary(out: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> Any:
    monkeypatch.setattr("sys.argv", ["vit_pruning", *TINY, *more, "--out", str(out)])
    vit_pruning.main()
    return json.loads((out / "summary.json").read_text())


def test_it_measures_every_ranking_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = summary(tmp_path, monkeypatch)
    assert found["seeds"] == [0, 1]
    assert {"command", "commit", "date", "machine", "versions"} <= found.keys()
    names = [f"blocks.{i}" for i in range(2)]
    for result in found["results"]:
        assert result["blocks"] == {name: [f"{name}.attention", f"{name}.mlp"] for name in names}
        assert result["samples"] == {"train": 110, "guard": 10, "test": 60, "probe": 110}
        assert [line["epoch"] for line in result["epochs"]] == [0, 1]
        assert result["epochs"][0]["margin_bits"].keys() == {name + part for name in names
                                                             for part in ("", ".attention", ".mlp")}  # fmt: skip
        assert list(result["alone"]) == names
        assert len(result["whole"]) == 2
        assert result["whole"][0] == result["test_accuracy"]
        for rank in RANKINGS:
            assert result["scores"][rank].keys() == set(names)
            steps = result["prunings"][rank]["steps"]
            assert [step["num_removed"] for step in steps] == [0, 1]  # one block stays
            assert steps[0]["accuracy_healed"] == result["guard_accuracy"]
            assert steps[0]["accuracy_test"] == result["test_accuracy"]
    for rank, curve in found["curves"].items():
        seeds = [result["prunings"][rank]["steps"] for result in found["results"]]
        assert curve["removed"] == [0, 1]
        for field in ("accuracy_removed", "accuracy_healed", "accuracy_test"):
            pairs = zip(*([step[field] for step in steps] for steps in seeds), strict=True)
            assert curve[field]["mean"] == pytest.approx([sum(pair) / 2 for pair in pairs])
    assert (tmp_path / "vit-pruning.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.count(" of 2") == 2 * len(RANKINGS)
    # a copy was pruned, and what is there is not made again
    monkeypatch.setattr(vit_pruning, "Experiment", None)
    assert summary(tmp_path, monkeypatch)["results"] == found["results"]
    with pytest.raises(SystemExit, match=r"seed0\.json is of the options .*; name another folder by --out"):
        summary(tmp_path, monkeypatch, "--epochs", "2")


def test_guard_probe_and_test_are_of_different_samples() -> None:
    """The guard's samples are neither trained on, nor ranked on, nor tested on."""
    samples = vit_pruning.samples_of(
        vit_pruning.cb.training.load_data_set("digits", train_size=120, test_size=60),
        vit_pruning.TrainConfig(train_size=120, test_size=60, validation_share=0.1, batch_size=32),
        vit_pruning.torch.device("cpu"),
    )
    held_back = set(samples.validation_indices.tolist())
    assert held_back.isdisjoint(samples.train_indices.tolist())
    assert held_back.isdisjoint(samples.probe_indices.tolist())


def test_of_the_steps_within_the_guard_the_one_without_most_blocks_counts() -> None:
    healed = [0.8, 0.7, 0.79, 0.78]
    log = {"steps": [{"num_removed": i, "accuracy_healed": accuracy} for i, accuracy in enumerate(healed)]}
    assert vit_pruning.within_the_guard(log, 0.01)["num_removed"] == 2
    assert vit_pruning.within_the_guard(log, 0.0)["num_removed"] == 0
    assert vit_pruning.within_the_guard(log, 0.02)["num_removed"] == 3

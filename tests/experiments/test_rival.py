"""Auto-tune beside a plain search over depth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from . import experiment


@pytest.fixture
def rival(monkeypatch: pytest.MonkeyPatch) -> Any:
    """With networks that are trained for an epoch on 100 digits."""
    module, goal = experiment("rival"), experiment("autotune_goal")
    convolutional = {"model": "vgg", "blocks": (1, 1, 1, 0), "width_multiplier": 0.05, "batch_size": 20}
    monkeypatch.setitem(goal.NETWORKS, "fnn 50x10", {**goal.DENSE, "depth": 6, "width": 4})
    monkeypatch.setitem(goal.NETWORKS, "vgg 59 blocks", convolutional)
    monkeypatch.setitem(goal.DATA, "digits", {"epochs": 1, "train_size": 100, "test_size": 40})
    monkeypatch.setitem(module.DEPTHS, "fnn", [{"depth": depth} for depth in (1, 2, 7)])
    monkeypatch.setitem(module.DEPTHS, "vgg", [{"blocks": (1, 0, 0, 0)}, {"blocks": (1, 1, 0, 0)}])
    return module


def test_the_rival_is_chosen_by_what_was_held_back(rival: Any, tmp_path: Path, capsys: Any) -> None:
    command = ["--data", "digits", "--networks", "fnn 50x10", "vgg 59 blocks", "--seeds", "1", "--out", str(tmp_path)]
    rival.main(command)
    said = capsys.readouterr()
    content = json.loads((tmp_path / "summary.json").read_text())
    dense, convolutional = content["runs"]
    assert [each["blocks"] for each in dense["search"]] == ["1", "2", "7"]
    assert [each["blocks"] for each in convolutional["search"]] == ["1-0-0-0", "1-1-0-0"]
    for row in (dense, convolutional):
        networks, search = row["networks"], row["search"]
        assert networks["chosen"]["validation_accuracy"] == max(each["validation_accuracy"] for each in search)
        size = networks["tuned"]["parameters"]
        nearest = abs(networks["nearest"]["parameters"] - size)
        assert nearest == min(abs(each["parameters"] - size) for each in search)
        assert all(each["latency_ms"] > 0 and each["peak_memory_bytes"] > 0 for each in networks.values())
        assert (row["took"]["chosen"]["networks"], row["took"]["chosen"]["epochs"]) == (len(search), len(search))
        assert row["took"]["tuned"]["networks"] == len(row["rounds"])
    assert dense["networks"]["before"]["blocks"] == dense["rounds"][0] == "6"
    assert content["summary"]["of"] == 2
    assert said.out.count("| digits, ") == 2 * len(rival.SHOWN)
    assert said.err.count(": trained, ") == 9
    rival.main(command)
    assert capsys.readouterr().err == "", "what has a result is not run again"


def test_of_networks_that_are_as_good_the_smaller_one_is_chosen(rival: Any, tmp_path: Path, monkeypatch: Any) -> None:
    described = rival.described
    monkeypatch.setattr(rival, "described", lambda *of: {**described(*of), "validation_accuracy": 0.5})
    rival.main(["--data", "digits", "--networks", "fnn 50x10", "--seeds", "1", "--out", str(tmp_path)])
    (row,) = json.loads((tmp_path / "summary.json").read_text())["runs"]
    assert row["networks"]["chosen"]["blocks"] == "1"


def test_one_pass_of_each_network_is_timed_in_turns(rival: Any, monkeypatch: Any, tmp_path: Path) -> None:
    from types import SimpleNamespace

    import torch

    sizes = {"before": 5, "tuned": 3}
    samples = SimpleNamespace(example=lambda size: torch.zeros(size, 4))
    runs = {
        Path(name): SimpleNamespace(model=torch.nn.Linear(4, width), samples=samples, batch_size=2)
        for name, width in sizes.items()
    }
    monkeypatch.setattr(rival, "load_trained", lambda folder, **options: runs[folder])
    costs = rival.costs_in_turns({name: Path(name) for name in sizes}, None)
    assert {name: cost["parameters"] for name, cost in costs.items()} == {"before": 25, "tuned": 15}
    assert {name: cost["macs"] for name, cost in costs.items()} == {"before": 40, "tuned": 24}

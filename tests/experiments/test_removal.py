"""The script that gathers removals gives what the runs' own files say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from . import experiment

removal = experiment("removal")

from cbkernels import training  # noqa: E402
from cbkernels.training.config import RemoveConfig, TrainConfig  # noqa: E402


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained network of four blocks, removed from with healing and without."""
    folder = tmp_path_factory.mktemp("removal") / "resnet"
    training.train(
        TrainConfig(
            train_size=100, test_size=40, validation_share=0.2, model="resnet", blocks=(2, 2, 0, 0), batch_size=20,
            width_multiplier=0.05, epochs=1, probe_size=16, margin=True, threads=1, device="cpu",
        ),
        folder,
    )  # fmt: skip
    for out, heal, study in (("resnet/removal", "each", True), ("resnet-unhealed", "none", False)):
        config = RemoveConfig(
            heal=heal, heal_epochs=1, max_drop=1.0, target=0.5, compare=("margin", "random"), study=study, draws=1,
            study_size=20, probe_size=16, threads=1, device="cpu",
        )  # fmt: skip
        training.remove_blocks(training.load_trained(folder, device="cpu"), config, folder.parent / out)
    return folder


def test_removals_are_gathered(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["removal", str(run), str(run), "--healings", "1", "--out", str(tmp_path)])
    removal.main()
    content = json.loads((tmp_path / "summary.json").read_text())
    assert len(content["runs"]) == 2
    seed = content["runs"][0]
    found = [(each["heal"], each["rank"], len(each["removed"])) for each in seed["prunings"]]
    assert found == [("each", "margin", 2), ("each", "random", 2), ("none", "margin", 2), ("none", "random", 2)]
    stored = json.loads((run / "removal" / "result.json").read_text())
    assert seed["cost_alone"] == {
        block["branch"]: stored["study"]["accuracy"] - block["accuracy_without"] for block in stored["blocks"]
    }
    assert seed["prunings"][0]["parameters"] == [stored["before"]["parameters"], stored["after"]["parameters"]]
    assert set(seed["spearman_margin_at"]) == {"0", "1"}
    (trained_on,) = seed["nothing_removed"]
    assert 0 <= trained_on <= 1
    assert seed["nothing_removed"] == content["runs"][1]["nothing_removed"], "the run itself is left as it is"
    assert "2 of 4" in capsys.readouterr().out
    for name in ("removal-curves.png", "margins.png"):
        assert (tmp_path / name).stat().st_size > 10_000


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [([1.0, 2.0, 3.0], [5.0, 6.0, 9.0], 1.0), ([1.0, None, 2.0, 3.0], [9.0, 0.0, 6.0, 5.0], -1.0), ([1.0], [2.0], None),
     ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], None)],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_rank_correlation(one: list[float | None], other: list[float], expected: float | None) -> None:
    assert removal.spearman(one, other) == (expected if expected is None else pytest.approx(expected))

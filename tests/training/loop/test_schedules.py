"""How the learning rate goes, update by update, and that all who train follow it. Resuming: ``procedures/``."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="schedules: NOT TESTED HERE (no torch)")
pytest.importorskip("safetensors", reason="schedules: NOT TESTED HERE (no safetensors)")

from cbkernels import UpdateGrid  # noqa: E402
from cbkernels.training import (  # noqa: E402
    AutotuneConfig,
    RemoveConfig,
    TrainConfig,
    autotune_configured,
    load_trained,
    remove_blocks,
    train,
)
from cbkernels.training.loop.schedules import SCHEDULES, build_schedule  # noqa: E402

SMALL: dict[str, Any] = {
    "train_size": 100, "test_size": 40, "batch_size": 20, "probe_size": 20, "threads": 1, "device": "cpu",
    "learning_rate": 0.01,
}  # fmt: skip
PEAK = SMALL["learning_rate"]


def rates(updates_an_epoch: int, **options: Any) -> list[float]:
    """Of every update and of the one that would come next, as parts of the peak; the grid takes the peak in each."""
    model, config = torch.nn.Linear(1, 1), TrainConfig(learning_rate=0.5, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=config.learning_rate)
    schedule, found = build_schedule(optimizer, config, updates_an_epoch), []
    for _ in range(config.epochs * updates_an_epoch):
        found.append(optimizer.param_groups[0]["lr"])
        assert UpdateGrid.from_optimizer(model, optimizer, 8).learning_rate == config.learning_rate
        optimizer.step()
        schedule.step()
    return [rate / 0.5 for rate in (*found, optimizer.param_groups[0]["lr"])]


def test_the_rate_of_every_update() -> None:
    half = math.sqrt(0.5)
    falling = [1, (1 + half) / 2, 0.5, (1 - half) / 2, 0]
    assert rates(2, schedule="constant", epochs=2) == [1.0] * 5
    assert rates(4, schedule="constant", epochs=2, warmup_epochs=1) == pytest.approx([0.2, 0.4, 0.6, 0.8, *[1.0] * 5])
    assert rates(4, schedule="cosine", epochs=1) == pytest.approx(falling)
    assert rates(4, schedule="cosine", epochs=2, warmup_epochs=1) == pytest.approx([0.2, 0.4, 0.6, 0.8, *falling])
    assert rates(4, schedule="cosine", epochs=2, warmup_epochs=0.5)[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    first, last = 1 / 25, 1 / 250_000
    for warmup in (None, 1):  # 0.3 of the 12 updates are 4 as well
        cycle = rates(4, schedule="onecycle", epochs=3, warmup_epochs=warmup)
        assert cycle[:5] == pytest.approx([first + (1 - first) * (1 - part) for part in falling[:4]] + [1.0])
        assert cycle[4::2] == pytest.approx([last + (1 - last) * part for part in falling])
    assert rates(4, schedule="onecycle", epochs=1, warmup_epochs=0) == pytest.approx([first, 1, 0.75, 0.25, last], 1e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_training_is_long_enough_for_every_schedule(schedule: str) -> None:
    for epochs, updates in ((1, 1), (1, 2), (2, 1), (3, 5)):
        for warmup in (None, 0, 1e-9, 0.5, epochs - 1e-9):
            found = rates(updates, schedule=schedule, epochs=epochs, warmup_epochs=warmup)
            assert 0 <= min(found) <= max(found) <= 1, (epochs, updates, warmup)


def test_a_warm_up_is_shorter_than_the_training() -> None:
    with pytest.raises(ValueError, match="warmup_epochs is 3; it must be less than the 3 epochs"):
        TrainConfig(epochs=3, warmup_epochs=3)
    with pytest.raises(ValueError, match="warmup_epochs is -1; it must be at least 0"):
        TrainConfig(warmup_epochs=-1)


def history_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def grids_of(folder: Path) -> set[str]:
    with (folder / "layers.csv").open(newline="") as file:
        return {line["grid"].split(" w=")[0] for line in csv.DictReader(file)}


def test_a_training_its_teacher_its_cycles_and_its_fine_tuning_follow_it(tmp_path: Path) -> None:
    resnet = {"model": "resnet", "blocks": (1, 1, 0, 0), "width_multiplier": 1 / 16, "epochs": 2}
    train(TrainConfig(**SMALL, **resnet, schedule="cosine", warmup_epochs=1), tmp_path / "cosine")
    went = [PEAK / 6, PEAK, 0.0]
    assert [line["learning_rate"] for line in history_of(tmp_path / "cosine")] == pytest.approx(went)
    assert grids_of(tmp_path / "cosine") == {f"float32 lr={PEAK} batch_size=20"}
    removal = RemoveConfig(max_drop=1.0, heal="end", heal_epochs=4, study=False, probe_size=20, device="cpu")
    result = remove_blocks(load_trained(tmp_path / "cosine", device="cpu"), removal, tmp_path / "removal")
    assert result["removed"]
    went = [line["learning_rate"] for line in history_of(tmp_path / "removal")]
    assert went == pytest.approx([PEAK / 11, 6 * PEAK / 11, PEAK, PEAK / 2, 0.0]), "a warm-up of 2 of its 4 epochs"
    cycle = {"repr": True, "repr_full_epochs": 1, "repr_reduced_epochs": 1, "repr_cycles": 1, "repr_share": 0.1}
    config = TrainConfig(
        **SMALL, **cycle, model="cnn", depth=2, width=8, epochs=3, schedule="onecycle",
        distill_from=str(tmp_path / "cosine"),
    )  # fmt: skip
    train(config, tmp_path / "cycle")
    lines = history_of(tmp_path / "cycle")
    assert [line["dropped_filters"] > 0 for line in lines] == [False, False, True, False]
    went = [line["learning_rate"] for line in lines]
    assert (went[0], went[3]) == pytest.approx((PEAK / 25, PEAK / 250_000))
    assert went[0] < went[1] > went[2] > went[3]
    assert grids_of(tmp_path / "cycle") == {f"float32 lr={PEAK} batch_size=20"}


def test_every_round_of_auto_tune_begins_its_schedule_anew(tmp_path: Path) -> None:
    config = AutotuneConfig(
        **SMALL, depth=30, width=4, epochs=2, schedule="cosine", baseline=False, min_conflicting_rows=2
    )
    result = autotune_configured(config, tmp_path / "run")
    assert len(result["rounds"]) > 1
    cosine = [PEAK, PEAK / 2, 0.0]
    for line in history_of(tmp_path / "run"):
        assert line["learning_rate"] == pytest.approx(cosine[line["epoch"]])
    assert grids_of(tmp_path / "run") == {f"float32 lr={PEAK} batch_size=20"}


def test_the_report_tells_the_schedule_and_what_the_grid_takes(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the schedule in the report: NOT TESTED HERE (no matplotlib)")
    pytest.importorskip("jinja2", reason="the schedule in the report: NOT TESTED HERE (no Jinja2)")
    from cbkernels.page.run_page import write_report

    for schedule, told in (
        ("cosine", "cosine, 0 to 0.01 after the epochs; the grid takes the peak, 0.01, in all of them"),
        ("constant", "constant, 0.01<"),
    ):
        train(TrainConfig(**SMALL, depth=2, width=4, epochs=2, schedule=schedule), tmp_path / schedule)
        assert told in write_report([tmp_path / schedule], tmp_path / schedule / "report.html").read_text()

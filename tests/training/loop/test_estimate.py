"""How long a training takes is said once, after its first batches, and beside it nothing changes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training: NOT TESTED HERE (no torch)")
pytest.importorskip("safetensors", reason="training: NOT TESTED HERE (no safetensors)")

from cbkernels.command_line import main  # noqa: E402
from cbkernels.training.loop import estimate  # noqa: E402
from cbkernels.training.loop.estimate import Estimate, in_words  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("batches", "seconds", "after", "said"),
    [
        (1000, 6.48, 2, "120 epochs: about 9 days on this CPU"),  # long batches: the second one is enough
        (1000, 0.5, 11, "120 epochs: about 17 hours on this CPU"),
        (1000, 0.01, 20, "120 epochs: about 20 minutes on this CPU"),
        (3, 0.1, 3, "120 epochs: about 36 seconds on this CPU"),
        (1, 0.1, 1, "120 epochs: about 12 seconds on this CPU"),
    ],
)
def test_the_first_batches_tell_how_long_all_take(
    clock: list[float], batches: int, seconds: float, after: int, said: str
) -> None:
    lines: list[str] = []
    of_run = Estimate(120, 0.0, CPU, lines.append)
    for done in range(1, batches + 1):
        clock[0] += seconds if done > 1 or batches == 1 else 1000.0  # what the first one sets up is not counted
        of_run(done, batches)
        assert bool(lines) == (done >= after)
    assert lines == [said]


def test_measurements_count_too(clock: list[float]) -> None:
    lines: list[str] = []
    of_run = Estimate(100, 2.0, CPU, lines.append)
    for done in range(1, 11):
        of_run(done, 10)
    assert lines == ["100 epochs: about 3 minutes on this CPU"]


def test_durations_in_words() -> None:
    told = [in_words(seconds) for seconds in (0, 1, 1.6, 89, 91, 5399, 5401, 129_599, 129_601)]
    assert told == ["1 second", "1 second", "2 seconds", "89 seconds", "2 minutes", "90 minutes", "2 hours", "36 hours",
                    "2 days"]  # fmt: skip


def test_train_says_it_before_the_first_epoch_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["train", "--depth", "2", "--width", "4", "--train-size", "128", "--test-size", "20", "--device", "cpu"]
    assert main([*options, "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in lines if line.startswith("epoch")] == ["epoch 0 of 1", "epoch 1 of 1"]
    assert re.fullmatch(r"1 epoch: about \d+ \w+ on this CPU", lines[1])
    assert main([*options, "--epochs", "3", "--resume", "--out", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().err.startswith("2 epochs: about ")  # those that are left

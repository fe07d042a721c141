"""Progress on stderr: a bar in a terminal, a line an epoch in a log, nothing in stdout."""

from __future__ import annotations

import builtins
import io
from typing import Any

import pytest

from cbkernels.commands.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(log=True) as progress:
        progress.epoch("one", 0, 2)
        progress.epoch("two", 1, 2)
    captured = capsys.readouterr()
    assert captured.err == "one\ntwo\n"
    assert captured.out == ""


def test_a_silent_log_gets_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(log=False) as progress:
        progress.epoch("one", 0, 2)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_that_starts_again_with_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tqdm", reason="the progress bar: NOT TESTED HERE (no tqdm)")
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress(log=True) as progress:
        for epoch in range(3):
            progress.epoch(f"first, epoch {epoch}", epoch, 2)
        assert progress._bar.n == progress._bar.total == 2
        progress.epoch("second, epoch 0", 0, 2)
        assert progress._bar.n == 0
    written = terminal.getvalue()
    assert "first, epoch 2 |" in written
    assert "█" in written or "#" in written
    assert "\n" not in written  # nothing of it stays
    assert written.split("\r")[-1].strip() == ""


def test_a_terminal_without_tqdm_gets_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without_tqdm(name: str, *rest: Any, **more: Any) -> Any:
        if name == "tqdm":
            raise ImportError(name)
        return imported(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_tqdm)
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress(log=True) as progress:
        progress.epoch("one", 0, 2)
    assert terminal.getvalue().startswith("\rone")


@pytest.mark.parametrize("run", ["", "round 9: "])
def test_a_terminal_of_80_columns_has_room_for_the_bar(monkeypatch: pytest.MonkeyPatch, run: str) -> None:
    """Epoch, loss and accuracy stay; the conflicting layers, whose names may be long, are in the log and the tables."""
    pytest.importorskip("tqdm", reason="the progress bar: NOT TESTED HERE (no tqdm)")
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    with Progress(log=True) as progress:
        for epoch in range(61, 63):
            status = f"{run}epoch {epoch} of 99, loss 2.3021, test accuracy 10.3%, 49 layers conflict from hidden.6 on"
            progress.epoch(status, epoch, 99)
    *_, line, wiped = (part for part in terminal.getvalue().split("\r") if part)
    assert wiped.strip() == ""
    assert f"{run}epoch 62 of 99, loss 2.3021, test accuracy 10.3% |" in line
    assert len(line) <= 80
    assert line.count("|") == 2
    assert "<" in line  # how long it takes still


LINE = {"run": "autotune", "round": 0, "epoch": 12, "train_loss": 2.3021, "test_accuracy": 0.103,
        "first_conflicting": "a.6", "num_conflicting_layers": 44, "most_conflicting_rows": 0.97}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "round 0: epoch 12 of 15, loss 2.302, test 10.3 %, 44 layers conflict (97.0 %)"),
        ({"run": "train"}, "epoch 12 of 15, loss 2.302, test 10.3 %, 44 layers conflict, 97.0 % of rows"),
        ({"epoch": 0, "train_loss": None, "test_accuracy": None, "num_conflicting_layers": 1,
          "most_conflicting_rows": 2 / 512},
         "round 0: epoch 0 of 15, 1 layer conflicts, 0.4 % of rows, from a.6 on"),
        ({"num_conflicting_layers": 0}, "round 0: epoch 12 of 15, loss 2.302, test 10.3 %, no conflict"),
    ],
)  # fmt: skip
def test_a_line_says_how_many_rows_conflict_in_80_columns(changed: dict[str, Any], said: str) -> None:
    pytest.importorskip("torch", reason="trainings: NOT TESTED HERE (no torch)")
    from cbkernels.training.loop import measured_epochs

    assert measured_epochs.progress_line({**LINE, **changed}, 15) == said
    assert len(said) <= 80
    told = measured_epochs.progress_line({**LINE, **changed}, 15, "trained on for the comparison")
    assert told.endswith(", trained on for the comparison")
    assert len(told) <= 80

"""Runs that are killed, interrupted or short of room at random moments, and resumed, end as undisturbed ones."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="killed runs: NOT TESTED HERE (no torch)")
pytest.importorskip("safetensors", reason="killed runs: NOT TESTED HERE (no safetensors)")

from . import chance, times
from .conftest import Answer, Record, Run
from .small_runs import RUNS, TRAINED, arguments_of, assert_same, assert_whole

pytestmark = pytest.mark.slow
Undisturbed = Callable[[str], tuple[Path, float]]


@pytest.fixture(scope="module")
def trained(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    answer = run([*TRAINED, "--out", str(folder)])
    assert answer["code"] == 0, answer["said"]
    return folder


@pytest.fixture(scope="module")
def undisturbed(run: Run, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The folder of a whole run of a command, and the seconds that it took."""
    known: dict[str, tuple[Path, float]] = {}

    def of(command: str) -> tuple[Path, float]:
        if command not in known:
            folder = tmp_path_factory.mktemp("undisturbed") / "run"
            answer = run(arguments_of(command, folder, trained))
            assert answer["code"] == 0, answer["said"]
            known[command] = folder, answer["seconds"]
        return known[command]

    return of


def largest(folder: Path) -> int:
    return max(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def was_killed(answer: Answer) -> bool:
    return bool(answer["code"] == -signal.SIGKILL)


def was_interrupted(answer: Answer) -> bool:
    """Checks also what was said."""
    if answer["code"] != 130:
        return False
    lines = [line for line in answer["said"].splitlines() if line.startswith("cbkernels: ")]
    assert lines[-1:] == [answer["said"].splitlines()[-1]]
    assert lines[-1].startswith("cbkernels: interrupted")
    return True


def lacked_room(answer: Answer) -> bool:
    """Checks also that it was one sentence."""
    if answer["code"] != 1:
        return False
    (said,) = [line for line in answer["said"].splitlines() if line.startswith("cbkernels: ")]
    assert "File too large" in said, said
    return True


DISTURBANCES: dict[str, tuple[Callable[[Any, float, int], dict[str, Any]], Callable[[Answer], bool], int, int]] = {
    "SIGKILL": (lambda moment, seconds, _: {"seconds": moment.uniform(0, 0.7 * seconds)}, was_killed, 30, 2),
    "SIGINT": (
        lambda moment, seconds, _: {"seconds": moment.uniform(0, 0.7 * seconds), "number": signal.SIGINT},
        was_interrupted, 10, 1,
    ),
    "no room for a file": (lambda moment, _, size: {"most_bytes": moment.randrange(size)}, lacked_room, 10, 1),
}  # fmt: skip
"""Name -> what the fork is asked for, whether it came to that, how often in full and in short."""


@pytest.mark.parametrize("disturbance", DISTURBANCES)
@pytest.mark.parametrize("command", RUNS)
def test_a_disturbed_run_goes_on_and_ends_the_same(
    command: str, disturbance: str, run: Run, undisturbed: Undisturbed, trained: Path, tmp_path: Path, record: Record
) -> None:
    whole, seconds = undisturbed(command)
    folder = tmp_path / "run"
    asked, came, *counts = DISTURBANCES[disturbance]
    wanted, disturbed, finished = times(*counts), 0, 0
    moments = chance(f"{command}, {disturbance}")
    while disturbed < wanted and finished < 2 * wanted:
        answer = run(arguments_of(command, folder, trained), **asked(moments, seconds, largest(whole)))
        assert "Traceback" not in answer["said"], answer["said"]
        if came(answer):
            disturbed += 1
            assert_whole(folder)
            continue
        assert answer["code"] == 0, answer
        finished += 1
        assert_same(folder, whole)
        shutil.rmtree(folder)
    assert run(arguments_of(command, folder, trained))["code"] == 0
    assert_same(folder, whole)
    record(f"{disturbance}, then resumed", command, disturbed, "ends as an undisturbed run, files and weights")

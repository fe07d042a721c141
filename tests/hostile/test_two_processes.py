"""Two processes on one folder: what is there in the end is one's or the other's, and whoever cannot go on says so."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="two processes: NOT TESTED HERE (no torch)")
pytest.importorskip("safetensors", reason="two processes: NOT TESTED HERE (no safetensors)")

from . import times
from .conftest import Record, Run
from .small_runs import arguments_of, assert_same

pytestmark = pytest.mark.slow
OTHERS: dict[str, list[str]] = {
    "train": ["--seed=1", "--overwrite"], "autotune": ["--seed=1", "--overwrite"], "repr compare": ["--threads=1"]
}  # fmt: skip
"""Command -> options of the second process; the first one is the small run of that command."""


@pytest.mark.parametrize("command", OTHERS)
def test_two_processes_on_one_folder(command: str, run: Run, tmp_path: Path, record: Record) -> None:
    undisturbed = [tmp_path / "one", tmp_path / "two"]
    for out, options in zip(undisturbed, ([], OTHERS[command]), strict=True):
        assert run(arguments_of(command, out, None, *options))["code"] == 0
    count = times(10)
    for attempt in range(count):
        out = tmp_path / f"both-{attempt}"
        requests = [{"arguments": arguments_of(command, out, None, *options)} for options in ([], OTHERS[command])]
        answers = run(requests)
        assert any(answer["code"] == 0 for answer in answers), answers
        for answer in answers:
            assert "Traceback" not in answer["said"], answer["said"]
            assert (answer["code"] != 0) == answer["said"].count("cbkernels: error: "), answer
        mixed = 0
        for folder in undisturbed:
            try:
                assert_same(out, folder)
            except AssertionError:
                mixed += 1
        assert mixed < 2, "the files are of both runs"
    record("two processes on one folder", command, count, "one ends with a sentence, nothing is mixed")

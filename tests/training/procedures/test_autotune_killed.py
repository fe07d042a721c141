"""An auto-tune that is killed at random moments and resumed each time ends as an undisturbed one, times aside."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="killed runs: NOT TESTED HERE (no torch)")
pytest.importorskip("safetensors", reason="killed runs: NOT TESTED HERE (no safetensors)")

from cbkernels.files.checkpoints import load_checkpoint  # noqa: E402

MANY_KILLS = os.environ.get("CBKERNELS_KILLS")
"""A number: so many, and in the drawing of the report too, which takes longer than all else."""
KILLS = int(MANY_KILLS or 6)
SEED = 5
TIMES = {
    "seconds_training", "seconds_measuring", "seconds_evaluating", "measuring_share", "latency_ms", "latency_ms_p10",
    "latency_ms_p90",
}  # fmt: skip
"""All fields that may differ from an undisturbed run."""
ARGUMENTS = [
    "autotune", "--depth=20", "--width=6", "--learning-rate=0.01", "--batch-size=32", "--epochs=4", "--check-epochs=2",
    "--train-size=200", "--test-size=100", "--policy=stage", "--margin", "--device=cpu",
]  # fmt: skip
Answer = dict[str, Any]
Run = Callable[[list[str], "float | None"], Answer]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Runs a command in a fork; kills it after so many seconds."""
    if not hasattr(os, "fork"):
        pytest.skip("killed runs: NOT TESTED HERE (no fork)")
    script = Path(__file__).resolve().parents[2] / "forked_commands.py"
    command = [sys.executable, str(script), *([] if MANY_KILLS else ["--without-report"])]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes) as server:
        assert server.stdin is not None
        assert server.stdout is not None

        def ask(arguments: list[str], seconds: float | None) -> Answer:
            print(json.dumps({"arguments": arguments, "seconds": seconds}), file=server.stdin, flush=True)
            return dict(json.loads(server.stdout.readline()))

        yield ask
        server.stdin.close()


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in TIMES}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def lines_of(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def assert_whole(folder: Path) -> None:
    """After a kill every file is whole, and the checkpoint is never ahead of the files that it goes with."""
    for name in ("config.json", "env.json", "result.json"):
        if (folder / name).exists():
            json.loads((folder / name).read_text())
    if not (folder / "checkpoint.safetensors").exists():
        return
    content = load_checkpoint(folder / "checkpoint.safetensors")
    for name, count in content["lines"].items():
        assert len((folder / name).read_text().splitlines()) >= count, name
    last = lines_of(folder)[content["lines"]["history.jsonl"] - 1]
    assert last["epoch"] == content["measured"]["next"] - 1
    assert last["round"] == len(content["rounds"])


def assert_same(folder: Path, undisturbed: Path) -> None:
    one, other = (json.loads((each / "result.json").read_text()) for each in (folder, undisturbed))
    assert timeless(one) == timeless(other)
    assert timeless(lines_of(folder)) == timeless(lines_of(undisturbed))
    for name in ("layers.csv", "margins.csv"):
        assert (folder / name).read_text() == (undisturbed / name).read_text(), name
    weights = [load_checkpoint(each / "checkpoint.safetensors")["measured"]["training"]["model"]
               for each in (folder, undisturbed)]  # fmt: skip
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[1])
    assert {p.name for p in folder.iterdir()} == {p.name for p in undisturbed.iterdir()}, "nothing half written is left"


def resumed(folder: Path) -> list[str]:
    """There is nothing to go on with before the config is written."""
    return ["--resume"] if (folder / "config.json").exists() else []


@pytest.mark.slow
def test_killed_at_random_moments(run: Run, tmp_path: Path) -> None:
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "run"
    answer = run([*ARGUMENTS, "--out", str(undisturbed)], None)
    assert answer["code"] == 0
    rounds = json.loads((undisturbed / "result.json").read_text())["rounds"]
    assert len(rounds) > 1, "a kill must be able to fall between two rounds"
    moments = random.Random(SEED)
    kills, finished = 0, 0
    while kills < KILLS:
        attempt = run([*ARGUMENTS, *resumed(folder), "--out", str(folder)], moments.uniform(0, 0.6 * answer["seconds"]))
        if attempt["killed"]:
            # before the first checkpoint nothing could go wrong: such kills happen, and are not counted
            kills += (folder / "checkpoint.safetensors").exists()
            if folder.exists():
                assert_whole(folder)
            continue
        assert attempt["code"] == 0
        finished += 1
        assert finished < 3 * KILLS, "the runs end before they are killed"
        assert_same(folder, undisturbed)
        shutil.rmtree(folder)
    assert run([*ARGUMENTS, *resumed(folder), "--out", str(folder)], None)["code"] == 0
    assert_same(folder, undisturbed)

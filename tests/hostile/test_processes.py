"""Real processes: signals at any moment, imports included; streams and surroundings of every kind; ranks that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="disturbed processes: NOT TESTED HERE (no torch)")
pytest.importorskip("safetensors", reason="disturbed processes: NOT TESTED HERE (no safetensors)")

from ..all_of import all_of
from ..forked_commands import listens
from . import chance, times
from .conftest import Record, Run
from .small_runs import RUNS, TRAINED, arguments_of

pytestmark = pytest.mark.slow
COMMAND = [sys.executable, "-m", "cbkernels"]
PIPES: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
ENDED_SECONDS = 120
"""Far more than any of them takes."""


def heeds_interrupts() -> None:
    """A background job of a shell ignores them, and so does what it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


SAID = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="signals: NOT TESTED HERE (no /proc)")
def test_a_signal_at_any_moment_is_one_line(tmp_path: Path, record: Record) -> None:
    """From the first line of ours on, so in the imports of torch too; what is before is Python's own start."""
    moments, count = chance("signals"), times(60, 3)
    with all_of("signals") as case:
        for attempt in range(count):
            number, wait = moments.choice(list(SAID)), moments.uniform(0, 4)
            arguments = arguments_of("train", tmp_path / str(attempt), None, "--epochs=1000")
            started = subprocess.Popen([*COMMAND, *arguments], preexec_fn=heeds_interrupts, **PIPES)
            while not listens(started.pid):
                time.sleep(0.001)
            time.sleep(wait)
            started.send_signal(number)
            out, said = started.communicate(timeout=ENDED_SECONDS)
            with case(number, f"after {wait:.3f} s"):
                assert (started.returncode, out) == (128 + number, "")
                assert "Traceback" not in said
                assert said.splitlines()[-1].startswith(f"cbkernels: {SAID[number]}")
                assert said.count("cbkernels: ") == 1
    record("SIGINT or SIGTERM in the first 4 s, imports included", "train", count, "one line, 130 or 143")


def test_every_command_keeps_its_exit_code_whatever_its_streams_are(run: Run, tmp_path: Path, record: Record) -> None:
    trained = tmp_path / "trained"
    assert run([*TRAINED, "--out", str(trained)])["code"] == 0
    streams: list[dict[int, str]] = [
        {1: ""},
        {2: ""},
        {1: "", 2: ""},
        {1: "/dev/full"},
        {1: "/dev/full", 2: "/dev/full"},
    ]
    chosen, count = chance("streams"), min(times(5), len(streams))
    commands = {name: lambda out, name=name: arguments_of(name, out, trained) for name in RUNS}
    commands |= {"info": lambda out: ["info"], "report": lambda out: ["report", str(trained), "--out", f"{out}.html"]}
    with all_of("commands and streams") as case:
        for name, arguments in commands.items():
            for number, each in enumerate(chosen.sample(streams, count)):
                with case(name, each):
                    answer = run(arguments(tmp_path / f"{name}-{number}"), streams=each)
                    assert answer["code"] == 0, answer
                    assert "Traceback" not in answer["said"]
    record("stdout, stderr or both closed or full", "all", len(commands) * count, "the exit code of the command")


SURROUNDINGS = {
    "no HOME": "unset HOME;",
    "64 open files": "ulimit -n 64;",
    "LANG=C and ASCII": "export LANG=C LC_ALL=C PYTHONIOENCODING=ascii;",
    "20 columns": "export COLUMNS=20;",
}


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_surroundings(surroundings: str, tmp_path: Path, record: Record) -> None:
    """A folder whose name is not ASCII, too."""
    out = os.fsencode(tmp_path) + "/größe".encode()
    arguments = arguments_of("train", Path("OUT"), None)[:-1]
    line = f'{SURROUNDINGS[surroundings]} exec {sys.executable} -m cbkernels "$@"'
    done = subprocess.run(["bash", "-c", line, "bash", *arguments, out], cwd=tmp_path, capture_output=True, timeout=300,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    record(surroundings, "train", 1, "as anywhere")


def test_an_unwritable_working_folder_is_one_sentence(tmp_path: Path, record: Record) -> None:
    options = arguments_of("train", Path("runs/train"), None)
    done = subprocess.run([*COMMAND, *options], cwd="/proc", capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == ["cbkernels: error: runs: No such file or directory"]
    record("a working folder that cannot be written", "train", 1, "one sentence")


def test_a_network_that_does_not_fit_is_one_sentence(tmp_path: Path, record: Record) -> None:
    options = [*RUNS["train"], "--width=30000000", "--out", str(tmp_path / "run")]
    done = subprocess.run([*COMMAND, *options], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    (said,) = done.stderr.splitlines()
    assert said.startswith("cbkernels: error: not enough memory")
    assert "--batch-size" in said
    record("a network of 3.6 PB", "train", 1, "one sentence")


def ranks_of(launcher: int) -> dict[int, int]:
    """Rank -> process, of those that torchrun started."""
    found = {}
    for process in Path("/proc").iterdir():
        try:
            environment = (process / "environ").read_bytes().split(b"\0") if process.name.isdigit() else []
            parent = int((process / "stat").read_text().rpartition(") ")[2].split()[1]) if environment else 0
        except OSError:
            continue
        if parent == launcher:
            found |= {int(each[5:]): int(process.name) for each in environment if each.startswith(b"RANK=")}
    return found


@pytest.mark.xdist_group("ranks")
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="ranks that die: NOT TESTED HERE (no /proc)")
def test_the_first_rank_ends_when_another_one_is_killed(tmp_path: Path, record: Record) -> None:
    moments, count = chance("ranks"), times(10)
    for attempt in range(count):
        out = tmp_path / str(attempt)
        options = arguments_of("train", out, None, "--epochs=100000", "--batch-size=50")
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "cbkernels", *options]
        launcher = subprocess.Popen(
            [sys.executable, *launch], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while not (out / "history.jsonl").exists():
            assert launcher.poll() is None
            time.sleep(0.05)
        time.sleep(moments.uniform(0, 1))
        os.kill(ranks_of(launcher.pid)[1], signal.SIGKILL)
        _, said = launcher.communicate(timeout=ENDED_SECONDS)
        assert launcher.returncode == 1
        ours = [line for line in said.splitlines() if line.startswith("cbkernels: ")]
        assert len(ours) <= 1, ours
        assert all("lost the other ranks" in line or "terminated; the same command" in line for line in ours)
        assert "[rank0]" not in said, "a traceback of rank 0"
    record("SIGKILL of rank 1", "torchrun train", count, "rank 0 ends, with a sentence at most")

"""SIGINT and SIGTERM: one line and the shell's exit code, in whatever a command is busy; memory that is not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cbkernels.command_line import main

from ..all_of import all_of
from .test_output import COMMANDS

SCRIPT = """
import hashlib, os, signal, sys, threading, time
import cbkernels.commands.info as info
from cbkernels.__main__ import main

class Slow:
    def __del__(self):
        time.sleep(60)

def in_a_destructor():
    Slow()
    time.sleep(60)

def swallowed():
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(60)

def turned_into_an_import_error():
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        raise ImportError("numpy failed to import") from None

def run(arguments):
    threading.Timer(0.2, os.kill, [os.getpid(), number]).start()
    BUSY[busy]()
    return 0

BUSY = {
    "python": lambda: time.sleep(60), "exec": lambda: exec("time.sleep(60)"), "swallowed": swallowed,
    "import": turned_into_an_import_error, "destructor": in_a_destructor,
    "compiled code": lambda: hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9),
}
info.run = run
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
busy, number = sys.argv[1], int(sys.argv[2])
sys.argv = ["cbkernels", "info"]
sys.exit(main())
"""


@pytest.mark.parametrize("busy", ["python", "exec", "swallowed", "import", "compiled code", "destructor"])
def test_a_signal_ends_a_command_with_one_line(busy: str) -> None:
    with all_of("signals") as case:
        for number, said in {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}.items():
            with case(said):
                command = [sys.executable, "-c", SCRIPT, busy, str(int(number))]
                done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
                assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", f"cbkernels: {said}\n")


def test_a_child_of_a_command_ends_as_any_process(tmp_path: Path) -> None:
    """A signal to a child that was forked, as libraries do, ends neither its parent nor anything with a traceback."""
    if not hasattr(os, "fork"):
        pytest.skip("children: NOT TESTED HERE (no fork)")
    code = """
import os, signal, sys, time
import cbkernels.commands.info as info
from cbkernels.__main__ import main

def run(arguments):
    child = os.fork()
    if child == 0:
        time.sleep(60)
    time.sleep(0.2)
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    time.sleep(1.5)  # longer than a stop waits
    return 0 if os.WTERMSIG(status) == signal.SIGTERM else 1

info.run = run
sys.argv = ["cbkernels", "info"]
sys.exit(main())
"""
    quiet = ["-W", "ignore:This process:DeprecationWarning"]  # Python 3.12 warns of every fork beside a thread
    done = subprocess.run([sys.executable, *quiet, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def interrupted(arguments: Any) -> int:
    raise KeyboardInterrupt


def test_the_line_says_how_to_go_on_where_there_is_something_to_go_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun, empty = tmp_path / "begun", tmp_path / "empty"
    begun.mkdir()
    (begun / "config.json").write_text("{}")
    advice = {
        "train": "the same command with --resume goes on after the last complete epoch",
        "autotune": "the same command with --resume goes on after the last complete epoch",
        "remove": "the same command with --resume goes on",
        "demo": f"cbkernels autotune --resume --out {begun} goes on after the last complete epoch",
        "repr": "the same command goes on: what is trained is not trained again",
    }
    with all_of("commands") as case:
        for command, words in advice.items():
            monkeypatch.setattr(f"cbkernels.commands.{command}.run", interrupted)
            for out, said in ((begun, f"cbkernels: interrupted; {words}\n"), (empty, "cbkernels: interrupted\n")):
                with case(command, out.name):
                    assert main([command, *COMMANDS[command], "--out", str(out)]) == 130
                    assert capsys.readouterr() == ("", said)


def test_too_little_memory_is_one_sentence_that_says_what_to_make_smaller(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cpu = (
        "[enforce fail at alloc_cpu.cpp:118] data. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
        "40000000000 bytes. Error code 12 (Cannot allocate memory)\nException raised from alloc_cpu at ...\nframe #0"
    )
    gpu = "CUDA out of memory. Tried to allocate 37.25 GiB. GPU 0 has a total capacity of 79.19 GiB of which ..."
    errors = [
        (RuntimeError(cpu), " for 40000000000 bytes"), (RuntimeError(gpu), " for 37.25 GiB"), (MemoryError(), ""),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), ""),
        (MemoryError("Unable to allocate 7.28 TiB for an array with shape (10, 10)"), " for 7.28 TiB"),
    ]  # fmt: skip
    less = {
        "measure": "--stream", "train": "--batch-size, --probe-size", "autotune": "--batch-size, --probe-size",
        "remove": "--probe-size", "repr": "--batch-size, --probe-size", "report": "fewer runs", "demo": "--model fnn",
    }  # fmt: skip
    with all_of("commands and errors") as case:
        for (command, words), (error, size) in ((c, e) for c in less.items() for e in errors):

            def run(arguments: Any, error: Exception = error) -> int:
                raise error

            monkeypatch.setattr(f"cbkernels.commands.{command}.run", run)
            with case(command, error):
                assert main([command, *COMMANDS[command]]) == 1
                said = capsys.readouterr().err
                assert said.startswith(f"cbkernels: error: not enough memory{size}; ")
                assert words in said
                assert said.count("\n") == 1


def test_what_else_torch_raises_is_one_sentence_without_its_stack(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(arguments: Any) -> int:
        raise RuntimeError("NCCL error\nsystem error\nException raised from check at nccl.cpp:1\nframe #0: c10::Error")

    monkeypatch.setattr("cbkernels.commands.info.run", run)
    assert main(["info"]) == 1
    assert capsys.readouterr().err == "cbkernels: error: NCCL error system error\n"

"""Runs ``cbkernels`` commands in forks of one process that has imported torch, and disturbs them on request.

A line of JSON on stdin, the arguments of ``forked``, starts one, a list of such lines several at once. The answer on
stdout is, or are: ``{"code": ..., "seconds": ..., "said": ...}``, what it said on stderr. Starting Python and torch
for every one of them would take longer than what is killed, and so would drawing its report (``--without-report``).
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cbkernels.page.run_page
import cbkernels.training.procedures.autotune  # noqa: F401
from cbkernels.__main__ import main as process
from cbkernels.command_line import main
from cbkernels.commands import training_command

HUNG_SECONDS = 600.0
"""A command that is asked to end and has not ended after so long."""


class Forked:
    """A command in a fork."""

    def __init__(
        self, arguments: list[str], seconds: float | None = None, number: int = signal.SIGKILL,
        most_bytes: int | None = None, streams: dict[int, str] | None = None,
    ) -> None:  # fmt: skip
        """After so many seconds it gets signal ``number``; its files have at most ``most_bytes``.

        ``streams``: descriptor -> file that it is; "" closes it.
        """
        self.began = time.perf_counter()
        self.seconds, self.number, self.said = seconds, number, b""
        self.reader, writer = os.pipe()
        self.child = os.fork()
        if self.child == 0:
            self._run(writer, arguments, most_bytes, streams or {})
        os.close(writer)
        os.set_blocking(self.reader, False)

    def _run(self, writer: int, arguments: list[str], most_bytes: int | None, streams: dict[int, str]) -> None:
        code = 99
        try:
            os.dup2(2, 1)  # stdout is for the answers
            os.dup2(writer, 2)
            for stream, name in streams.items():
                os.close(int(stream))
                if name:
                    assert os.open(name, os.O_WRONLY) == int(stream)
            if most_bytes is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
            signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
            sys.argv = ["cbkernels", *arguments]
            code = process()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            os._exit(code)

    def answer(self) -> dict[str, Any]:
        """Send the signal when it is time, and wait."""
        code, asked = None, False
        while code is None:
            time.sleep(0.001)
            finished, status = os.waitpid(self.child, os.WNOHANG)
            self._listen()
            spent = time.perf_counter() - self.began
            if finished:
                code = os.waitstatus_to_exitcode(status)
            elif self.seconds is not None and not asked and spent > self.seconds and self._is_ready():
                os.kill(self.child, self.number)
                asked = True
            elif spent > HUNG_SECONDS:
                os.kill(self.child, signal.SIGKILL)
                self.said += b"\nit hangs"
                asked = True
        os.close(self.reader)
        return {"code": code, "seconds": spent, "said": self.said.decode(errors="replace")}

    def _listen(self) -> None:
        try:
            while more := os.read(self.reader, 1 << 16):
                self.said += more
        except BlockingIOError:
            pass

    def _is_ready(self) -> bool:
        return self.number == signal.SIGKILL or listens(self.child)


def listens(process_id: int) -> bool:
    """Does a process handle SIGTERM, as a command does from its first line on?"""
    try:
        status = Path(f"/proc/{process_id}/status").read_text()
    except OSError:
        return False
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


if __name__ == "__main__":
    if "--without-report" in sys.argv:
        training_command.write_report = lambda folders, out: None
    with tempfile.TemporaryDirectory() as folder:  # all imports are made, and the first use of everything is behind us
        sys.stdout, answers = sys.stderr, sys.stdout
        main(["autotune", "--depth=2", "--epochs=1", "--train-size=100", "--device=cpu", "--out", folder])
        sys.stdout = answers
    for line in sys.stdin:
        asked = json.loads(line)
        if isinstance(asked, list):
            print(json.dumps([each.answer() for each in [Forked(**one) for one in asked]]), flush=True)
        else:
            print(json.dumps(Forked(**asked).answer()), flush=True)

"""Runs ``cbkernels`` commands in forks of one process that has imported torch, and kills them on request.

A line of JSON on stdin, ``{"arguments": [...], "seconds": 0.3}``, starts one; it is killed with SIGKILL after so many
seconds (null: never). The answer on stdout: ``{"killed": ..., "code": ..., "seconds": ...}``. Starting Python and torch
for every one of them would take longer than what is killed, and so would drawing its report (``--without-report``).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from typing import Any

import cbkernels.page.run_page
import cbkernels.training.procedures.autotune  # noqa: F401
from cbkernels.command_line import main
from cbkernels.commands import training_command


def forked(arguments: list[str], seconds: float | None) -> dict[str, Any]:
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)  # stdout is for the answers
        os._exit(main(arguments))
    while True:
        finished, status = os.waitpid(child, os.WNOHANG)
        spent = time.perf_counter() - began
        if finished:
            break
        if seconds is not None and spent > seconds:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(0.001)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return {"killed": killed, "code": None if killed else os.waitstatus_to_exitcode(status), "seconds": spent}


if __name__ == "__main__":
    if "--without-report" in sys.argv:
        training_command.write_report = lambda folders, out: None
    with tempfile.TemporaryDirectory() as folder:  # all imports are made, and the first use of everything is behind us
        sys.stdout, answers = sys.stderr, sys.stdout
        main(["autotune", "--depth=2", "--epochs=1", "--train-size=100", "--device=cpu", "--out", folder])
        sys.stdout = answers
    for line in sys.stdin:
        print(json.dumps(forked(**json.loads(line))), flush=True)

"""What a hostile trial counts, and the commands in forks that it disturbs."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cbkernels import __version__

from . import SCALE, SEED

ROOT = Path(__file__).resolve().parents[2]
Answer = dict[str, Any]
Run = Callable[..., Answer]
Record = Callable[..., None]


@pytest.fixture(scope="session")
def record() -> Iterator[Record]:
    """Notes a row of what was tried; ``CBKERNELS_HOSTILE_OUT`` names the file that they end in."""
    rows: list[dict[str, Any]] = []

    def note(tried: str, command: str, count: int, held: str) -> None:
        rows.append({"tried": tried, "command": command, "times": count, "held": held})

    yield note
    out = os.environ.get("CBKERNELS_HOSTILE_OUT")
    if out and rows:
        commit = subprocess.run(["git", "rev-parse", "--short=8", "HEAD"], cwd=ROOT, capture_output=True, text=True,
                                check=False).stdout.strip()  # fmt: skip
        about = {"version": __version__, "commit": commit, "python": platform.python_version(),
                 "machine": platform.platform(), "scale": SCALE, "seed": SEED}  # fmt: skip
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


@pytest.fixture(scope="session")
def run() -> Iterator[Run]:
    """Runs a command in a fork of a process that has imported everything; a list of requests runs several at once."""
    pytest.importorskip("torch", reason="disturbed runs: NOT TESTED HERE (no torch)")
    pytest.importorskip("safetensors", reason="disturbed runs: NOT TESTED HERE (no safetensors)")
    if not hasattr(os, "fork") or not Path("/proc/self/status").exists():
        pytest.skip("disturbed runs: NOT TESTED HERE (no fork, or no /proc)")
    command = [sys.executable, str(ROOT / "tests" / "forked_commands.py"), "--without-report"]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes) as server:
        assert server.stdin is not None
        assert server.stdout is not None

        def ask(request: Any, **options: Any) -> Any:
            arguments = {"arguments": request, **options} if isinstance(request[0], str) else request
            print(json.dumps(arguments), file=server.stdin, flush=True)
            return json.loads(server.stdout.readline())

        yield ask
        server.stdin.close()

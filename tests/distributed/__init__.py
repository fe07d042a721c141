"""What several ranks run, and how tests start them: in forks of one process, or with torchrun itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent


def torchrun(count: int, *command: str | Path, seconds: int = 180) -> subprocess.CompletedProcess[str]:
    """Run a script, or ``-m`` and a module, on so many ranks."""
    options = ["--standalone", "--nproc-per-node", str(count)]
    return _run([sys.executable, "-m", "torch.distributed.run", *options, *map(str, command)], seconds)


def on_forked_ranks(count: int, *command: str | Path, seconds: int = 180) -> subprocess.CompletedProcess[str]:
    """The same as ``torchrun`` without torchrun, which takes longer to start than most scripts run."""
    return _run([sys.executable, str(SCRIPTS / "forked_ranks.py"), str(count), *map(str, command)], seconds)


def _run(command: list[str], seconds: int) -> subprocess.CompletedProcess[str]:
    """What the ranks said; those that hang are ended after so long, and the exit code is then not 0."""
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},
    )  # fmt: skip
    try:
        out, errors = started.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        started.terminate()  # which ends its ranks
        out, errors = started.communicate(timeout=60)
        errors += f"\nended after {seconds} s"
    return subprocess.CompletedProcess(command, started.returncode, out, errors)

"""Starts a script, or ``-m`` and a module, on several ranks, in forks of one process that has imported torch.

    python tests/distributed/forked_ranks.py 3 tests/distributed/same_as_one_process.py 60

torchrun imports torch once for itself and once for each rank: on two cores that takes longer than most scripts. When a
rank fails the others are ended, and so is the whole group when this process is.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

import cbkernels.training.procedures.train  # noqa: F401  (imported once, for all ranks)


def run_as(rank: int, count: int, port: int, command: list[str]) -> int:
    """What a rank does; its exit code."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip
    try:
        if command[0] == "-m":
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            sys.path.insert(0, str(Path(command[0]).resolve().parent))
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.stderr.write(f"rank {rank}:\n{traceback.format_exc()}\n")
        return 1
    return 0


@contextmanager
def ended(children: dict[int, int]) -> Iterator[None]:
    """Whatever happens, no rank stays behind."""
    try:
        yield
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def start(count: int, command: list[str]) -> int:
    """Fork the ranks, lend them a store to meet in, and wait; the first exit code that is not 0."""
    told, tells = os.pipe()
    children: dict[int, int] = {}
    for rank in range(count):  # before there is a store: its threads would not be in the forks
        child = os.fork()
        if child == 0:
            code = run_as(rank, count, int(os.read(told, 8)), command)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # the interpreter's end would tear gloo's threads down, now and then with SIGABRT
        children[child] = rank
    with ended(children):
        store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        os.write(tells, f"{store.port:8}".encode() * count)
        while children:
            child, status = os.wait()
            rank, code = children.pop(child), os.waitstatus_to_exitcode(status)
            if code:
                sys.stderr.write(f"rank {rank} ended with {code}\n")  # in one piece: the ranks write there, too
                return 1
    return 0


def terminated(*_: object) -> None:
    raise SystemExit(1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, terminated)
    sys.exit(start(int(sys.argv[1]), sys.argv[2:]))

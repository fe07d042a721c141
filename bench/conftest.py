"""The `race` fixture, a line per case while it runs, and the JSON at the end."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("POLARS_MAX_THREADS", "1")  # read when it is imported

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from . import record
from .limits import limits
from .race import Race
from .table import case_line

STARTED = time.monotonic()
CASES: list[dict[str, Any]] = []
DESELECTED: list[str] = []


@pytest.fixture
def race(benchmark: Any) -> Iterator[Callable[..., None]]:
    """Call it with a case and contenders; it asserts, measures and records."""
    torch.set_num_threads(1)
    runner = Race(benchmark, lambda: limits().total_s - (time.monotonic() - STARTED), record.flush_bytes())

    def run(*args: Any, **options: Any) -> None:
        entry = runner(*args, **options)
        if entry:
            CASES.append(entry)

    yield run
    torch.set_num_threads(1)


class Progress:
    """Prints each case when it is done."""

    def __init__(self, reporter: Any) -> None:
        self._reporter = reporter
        self._printed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed and len(CASES) > self._printed:
            self._printed = len(CASES)
            self._reporter.write("\n" + case_line(CASES[-1]))


def pytest_sessionstart(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        session.config.pluginmanager.register(Progress(reporter))


def pytest_deselected(items: list[pytest.Item]) -> None:
    DESELECTED.extend(item.nodeid for item in items)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if not CASES:
        return
    folders_only = all(os.path.isdir(argument) for argument in session.config.args)
    complete = exitstatus == 0 and not DESELECTED and folders_only
    record.write(CASES, complete=complete, seconds=time.monotonic() - STARTED)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if record.written is not None:
        terminalreporter.write_line(f"bench: {record.written}")

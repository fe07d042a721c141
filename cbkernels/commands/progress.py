"""One line of progress on stderr: rewritten in a terminal, absent or line by line in a log."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Any

from ..tables import shown

_BAR = "{desc} |{bar}| {elapsed}<{remaining}"
_BESIDE = 20
"""Columns beside the status: those of the bar and of two times."""


class Progress:
    """A status line.

    Args:
        log: what to do when stderr is not a terminal: True prints every status on a line of its
            own, False prints nothing.

    Use as a context manager: the line is wiped at the end, also after an error.
    """

    def __init__(self, *, log: bool) -> None:
        self._terminal = sys.stderr.isatty()
        self._log = log
        self._shown = 0
        self._bar: Any = None

    def show(self, status: str) -> None:
        """Replace the line by ``status``."""
        status = shown(status)
        if self._terminal:
            status = status[: _columns() - 1]  # a longer one is broken, and only its last line replaced
            print(f"\r{status.ljust(self._shown)}", end="", file=sys.stderr, flush=True)
            self._shown = len(status)
        elif self._log:
            print(status, file=sys.stderr, flush=True)

    def epoch(self, status: str, epoch: int, epochs: int) -> None:
        """Replace the line by ``status``; in a terminal beside a bar, ``epoch`` of ``epochs`` of it filled."""
        if not self._terminal or (tqdm := _tqdm()) is None:
            self.show(status)
            return
        if self._bar is None or epoch <= self._bar.n:
            self._close_bar()
            self._bar = tqdm(total=epochs, initial=epoch, leave=False, bar_format=_BAR)
        self._bar.ncols = _columns() - 1
        self._bar.set_description_str(_fitting(shown(status), _columns() - _BESIDE), refresh=False)
        self._bar.update(epoch - self._bar.n)
        self._bar.refresh()

    def say(self, line: str) -> None:
        """A line that stays."""
        self._close_bar()
        print(shown(line), file=sys.stderr, flush=True)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._close_bar()
        if self._shown:
            print("\r" + " " * self._shown + "\r", end="", file=sys.stderr, flush=True)
            self._shown = 0


def _fitting(status: str, columns: int) -> str:
    """As many of the status's parts, from the first on, as there is room for."""
    while len(status) > columns and ", " in status:
        status = status.rpartition(", ")[0]
    return status


def _columns() -> int:
    """Of the terminal that stderr is; stdout may be a file."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:
        return shutil.get_terminal_size().columns


def _tqdm() -> Any:
    try:
        from tqdm import tqdm  # type: ignore[import-untyped]
    except ImportError:
        return None
    return tqdm

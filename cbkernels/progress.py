"""One line of progress on stderr: rewritten in a terminal, absent or line by line in a log."""

from __future__ import annotations

import sys


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

    def show(self, status: str) -> None:
        """Replace the line by ``status``."""
        if self._terminal:
            print(f"\r{status.ljust(self._shown)}", end="", file=sys.stderr, flush=True)
            self._shown = len(status)
        elif self._log:
            print(status, file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self._shown:
            print("\r" + " " * self._shown + "\r", end="", file=sys.stderr, flush=True)
            self._shown = 0

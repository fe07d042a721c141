"""SIGINT and SIGTERM end a command with one line and the shell's exit code, in whatever it is busy.

The first signal raises KeyboardInterrupt. Compiled code may be too long for that, and a library may swallow it or make
another error of it: a thread waits for ``GRACE_SECONDS`` and ends the process then, which is no worse than a kill.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

GRACE_SECONDS = 1.0
_SAID: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Stop:
    """What ended a command before its end, if anything did.

    Args:
        advice: says what to do now; "" for nothing.
    """

    def __init__(self, advice: Callable[[], str] = str) -> None:
        self.advice = advice
        self.number: int = signal.SIGINT
        self.is_asked_for = False
        """Has there been a signal?"""
        self._is_said = False
        self._ended = threading.Event()

    @property
    def exit_code(self) -> int:
        """As a shell tells it."""
        return 128 + self.number

    def line(self) -> str:
        """What is said on stderr, once and by the first rank only; "" for nothing."""
        is_said, self._is_said = self._is_said or os.environ.get("RANK", "0") != "0", True
        return "" if is_said else f"cbkernels: {'; '.join(filter(None, [_SAID[self.number], self.advice()]))}\n"

    def say(self) -> None:
        """Write the line as a signal's thread can: past ``sys.stderr``, and only if that cannot block."""
        if select.select([], [2], [], 0)[1]:
            with suppress(OSError):
                os.write(2, self.line().encode("utf-8", "backslashreplace"))

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Stop at the process's signals; afterwards they end it as the system does."""
        heard = [each for each in _SAID if signal.getsignal(each) is not signal.SIG_IGN]  # as under nohup
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        for each in heard:
            signal.signal(each, self._stop)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=lambda: self._leave(heard))
        threading.Thread(target=self._watch, args=[reader, heard], daemon=True).start()
        sys.unraisablehook = self._unraisable
        try:
            yield
        finally:
            self._leave(heard)

    def _stop(self, number: int, frame: Any) -> None:
        if not self.is_asked_for and not self._ended.is_set():
            self.number, self.is_asked_for = number, True
            raise KeyboardInterrupt

    def _leave(self, heard: list[int]) -> None:
        self._ended.set()
        signal.set_wakeup_fd(-1)
        for each in heard:
            signal.signal(each, signal.SIG_DFL)

    def _watch(self, reader: int, heard: list[int]) -> None:
        while (number := os.read(reader, 1)[0]) not in heard:
            pass
        if not self._ended.wait(GRACE_SECONDS):
            self.number = number
            self.say()
            os._exit(self.exit_code)

    @staticmethod
    def _unraisable(unraisable: Any) -> None:
        """Be quiet about an interrupt that fell where nothing can be raised, such as a destructor."""
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            sys.__unraisablehook__(unraisable)

"""stdout and stderr of a command: what cannot be written or encoded never ends it, nor changes its exit code."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any


class Output:
    """A text stream that takes everything; in all else it is the stream that it stands for.

    Args:
        stream: None where there is none; any object with ``write`` otherwise.
        whole_lines: hold back what was written until its line ends, or until a flush: ``print`` writes a line and its
            end apart, and another process that shares the stream may write between them.
    """

    def __init__(self, stream: Any, *, whole_lines: bool = False) -> None:
        self._stream = stream
        self._whole_lines = whole_lines
        self._held = ""
        self.failure: Exception | None = None
        """The first that was met; what was written since may be missing."""

    def write(self, text: str) -> int:
        """Write; characters that the stream's encoding lacks, such as those of odd file names, are escaped."""
        self._held += text
        if not self._whole_lines or text.endswith("\n"):
            self._write_held()
        return len(text)

    def flush(self) -> None:
        """Write out what is held back."""
        if self._held:
            self._write_held()
        self._attempt("flush")

    def _write_held(self) -> None:
        text, self._held = self._held, ""
        try:
            self._attempt("write", text)
        except UnicodeEncodeError:
            encoding = getattr(self._stream, "encoding", None) or "ascii"
            self._attempt("write", text.encode(encoding, "backslashreplace").decode(encoding))

    def isatty(self) -> bool:
        """Is it a terminal?"""
        return bool(self._attempt("isatty"))

    def close_down(self) -> None:
        """Flush for the last time; what could not be written is not tried again, aloud, when the interpreter ends."""
        self.flush()
        if self.failure is not None:
            with suppress(AttributeError, OSError, ValueError), open(os.devnull, "w") as nothing:
                os.dup2(nothing.fileno(), self._stream.fileno())

    def _attempt(self, name: str, *arguments: str) -> Any:
        try:
            return getattr(self._stream, name)(*arguments)
        except UnicodeEncodeError:
            raise
        except AttributeError:
            return None  # there is no stream, or it lacks what is optional
        except (OSError, ValueError) as error:
            self.failure = self.failure or error
            return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

"""Changes that can be taken back exactly: everything surgery does to models and optimizers is made of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MISSING: Any = object()
"""Stands for no entry at all."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One assignment to a key of a dictionary, ``vars(object)`` included."""

    owner: Any
    key: Any
    old: Any
    new: Any

    def put(self) -> None:
        """Assign the new value."""
        self._assign(self.new)

    def take_back(self) -> None:
        """Assign the old value."""
        self._assign(self.old)

    def _assign(self, value: Any) -> None:
        if value is MISSING:
            self.owner.pop(self.key, None)
        else:
            self.owner[self.key] = value


def put(entries: Sequence[Entry]) -> None:
    """Make all changes, in order."""
    for entry in entries:
        entry.put()


def take_back(entries: Sequence[Entry]) -> None:
    """Undo all changes, the last one first."""
    for entry in reversed(entries):
        entry.take_back()

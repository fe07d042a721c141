"""Changes that can be taken back exactly: everything surgery does to models and optimizers is made of these."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


def put(entries: Iterable[Entry]) -> None:
    """Make all changes, in order."""
    for entry in entries:
        _assign(entry, entry.new)


def take_back(entries: Sequence[Entry]) -> None:
    """Undo all changes, the last one first."""
    for entry in reversed(entries):
        _assign(entry, entry.old)


def _assign(entry: Entry, value: Any) -> None:
    if value is MISSING:
        entry.owner.pop(entry.key, None)
    else:
        entry.owner[entry.key] = value

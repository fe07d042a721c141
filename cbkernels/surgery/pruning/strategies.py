"""How many blocks are tried at once: a table; ``strategy=`` names one. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

from ...choices import Choice, Choices

Sizes = Generator[int, bool, None]
"""Yields how many blocks to try next, and is sent whether they could go; ends when no more are to be tried."""


@dataclass(frozen=True)
class RemovalStrategy(Choice):
    """How many blocks are removed together before the model heals and is evaluated.

    Args:
        sizes: makes ``Sizes`` of the number of blocks that may go.
        patience: it ends after so many blocks in a row could not go, each tried alone; None: every block is tried.
    """

    sizes: Callable[[int], Sizes]
    patience: int | None = None


def _one(most: int) -> Sizes:
    while True:
        yield 1


def _geometric(most: int) -> Sizes:
    size, grows = 1, True
    while True:
        if (yield size):
            size *= 2 if grows else 1
        else:
            grows, size = False, max(1, size // 2)


def _at_once(most: int) -> Sizes:
    while most:
        yield most
        most //= 2


STRATEGIES = Choices("strategy", [
    RemovalStrategy(
        "geometric",
        "1, 2, 4, ... blocks together until that costs too much, then half as many after every such failure",
        _geometric,
        patience=3,
    ),
    RemovalStrategy("one", "each block alone, and each once", _one),
    RemovalStrategy(
        "at_once", "the whole target together, or all blocks but one; if that costs too much, half as many, and so on",
        _at_once, patience=1,
    ),
])  # fmt: skip

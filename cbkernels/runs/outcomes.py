"""What a result says beyond its fields, once for pages, terminals and notebooks. Needs no other package."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..files.typed_json import typed
from ..wording import counted
from .schema import AutotuneResult, RemoveResult, Result


class Removed(NamedTuple):
    """Blocks that the network of the end lacks, of those that the network of the beginning had."""

    number: int
    of: int | None
    """None where the file does not say it."""
    thing: str = "block"

    def __str__(self) -> str:
        return (
            counted(self.number, self.thing) if self.of is None else f"{self.number} of {counted(self.of, self.thing)}"
        )

    @property
    def said(self) -> str:
        """A sentence without its full stop."""
        if self.number:
            return f"{self} were removed"
        return f"None of the {'' if self.of is None else f'{self.of} '}{self.thing}s was removed"


def removed_from(result: Result | None) -> Removed | None:
    """The one count of removed blocks; None of a run that removes none.

    An exhausted auto-tune keeps the network of an earlier round: what was removed after that round is not counted.
    """
    if isinstance(result, RemoveResult):
        return Removed(len(result.removed), len(result.blocks) or None, "residual block")
    if not isinstance(result, AutotuneResult):
        return None
    kept = math.inf if result.after is None or result.after.round is None else result.after.round
    gone = sum(len(each.removed) for place, each in enumerate(result.rounds) if place < kept)
    blocks = (result.before.architecture or {}).get("blocks") if result.before else None
    if not isinstance(blocks, list) or not all(isinstance(count, int) for count in blocks):
        return Removed(gone, None)
    return Removed(gone, sum(blocks))


def baseline_of(result: Result | None) -> str:
    """What is to be said of a first round that conflicted and was trained on all the same; "" of any other run."""
    if not isinstance(result, AutotuneResult) or not result.rounds or result.before is None:
        return ""
    stopped, epochs = result.rounds[0].conflict_epoch, result.before.epochs
    if stopped is None or epochs is None or epochs <= stopped:
        return ""
    return (
        f"round 0: stopped by a conflict after epoch {stopped}, trained on for comparison: {counted(epochs, 'epoch')}"
    )


def told_of(kind: type[Result], written: Mapping[str, Any]) -> list[str]:
    """Sentences on a ``result.json`` that was just written: what was removed, and what its first network is."""
    result = typed(kind, written, [])
    removed, baseline = removed_from(result), baseline_of(result)
    said = [removed.said if removed else "", baseline]
    return [f"{each[:1].upper()}{each[1:]}." for each in said if each]

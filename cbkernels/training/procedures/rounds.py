"""The rounds of an auto-tune as a table, for the console and for notebooks. Needs no torch."""

from __future__ import annotations

from typing import Any

from ...wording import NOTHING, nats

TITLES = ["round", "network", "epochs", "conflict at epoch", "removed", "entropy (nats)"]


def rows_of_rounds(result: dict[str, Any]) -> list[list[object]]:
    """A row a round, under ``TITLES``.

    Args:
        result: ``result.json``. The first round's epochs are those of the network before, which may have been trained
            on behind its conflict for the comparison.
    """
    return [
        [each["round"], each["name"], each["epochs"] if each["round"] else result["before"]["epochs"],
         NOTHING if each["conflict_epoch"] is None else each["conflict_epoch"], len(each["removed"]),
         nats(each["entropy"])]
        for each in result["rounds"]
    ]  # fmt: skip

"""The rounds of an auto-tune as a table, for the console and for notebooks. Needs no torch."""

from __future__ import annotations

from typing import Any

TITLES = ["round", "network", "epochs", "conflict at epoch", "removed", "entropy (nats)"]


def rows_of_rounds(result: dict[str, Any]) -> list[list[object]]:
    """A row a round, under ``TITLES``.

    Args:
        result: ``result.json``. The first round's epochs are those of the network before, which may have been trained
            on behind its conflict for the comparison.
    """
    return [
        [each["round"], each["name"], each["epochs"] if each["round"] else result["before"]["epochs"],
         _shown(each["conflict_epoch"]), len(each["removed"]), _shown(each["entropy"], ".3f")]
        for each in result["rounds"]
    ]  # fmt: skip


def _shown(value: float | None, form: str = "") -> str:
    return "-" if value is None else format(value, form)

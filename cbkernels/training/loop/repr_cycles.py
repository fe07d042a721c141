"""What a training with RePr went through, cycle by cycle, from the lines of its history. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..config import TrainConfig

MEASURED = (
    "test_accuracy", "orthogonality", "mean_entropy", "mean_entropy_bfloat16", "mean_entropy_float16",
    "num_conflicting_layers", "least_margin_bits",
)  # fmt: skip
"""Columns of a history's line that a cycle can change."""


def cycles_of(history: Sequence[Mapping[str, Any]], config: TrainConfig) -> list[dict[str, Any]]:
    """Before the filters went, without them, and when they are back and trained: does RePr remove conflicts?

    Args:
        history: lines of one run, one an epoch.
        config: its schedule.

    Returns:
        For every cycle that was reached: cycle, dropped_filters, and ``before`` (end of S1), ``reduced`` (end of S2)
        and ``after`` (end of the next S1, or of the training), each with its epoch and what was measured then.
    """
    of_epoch = {line["epoch"]: line for line in history}
    last = max(of_epoch)
    full, reduced = config.repr_full_epochs, config.repr_reduced_epochs
    found = []
    for cycle in range(config.repr_cycles):
        before = cycle * (full + reduced) + full
        if before + reduced > last:
            break
        when = {"before": before, "reduced": before + reduced, "after": min(before + reduced + full, last)}
        if cycle == config.repr_cycles - 1:
            when["after"] = last
        found.append({
            "cycle": cycle, "dropped_filters": of_epoch[before + reduced]["dropped_filters"],
            **{name: _measured(of_epoch[epoch]) for name, epoch in when.items()},
        })  # fmt: skip
    return found


def _measured(line: Mapping[str, Any]) -> dict[str, Any]:
    return {"epoch": line["epoch"], **{name: line[name] for name in MEASURED if name in line}}

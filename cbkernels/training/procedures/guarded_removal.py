"""One block at a time goes while the accuracy on held-back samples stays; what is left is measured again each time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...models.branches import BlockMeasurement
from ..rankings import RANKINGS
from .removal import Removal

_ROUNDING = 1e-9
"""Accuracies are shares of whole numbers of samples; the limit is a difference of two of them."""


def guarded(removal: Removal, blocks: Sequence[BlockMeasurement]) -> tuple[list[dict[str, Any]], list[str], str]:
    """Try each block once, measured again after each removal.

    Args:
        removal: its network stays whole.
        blocks: measured before any removal.

    Returns:
        The steps; the removed blocks, in the order of their removal; why it ended.
    """
    config, steps, removed = removal.config, list[dict[str, Any]](), list[str]()
    limit = removal.accuracy(removal.parts.guard, ()) - config.max_drop
    most = len(removal.names) - 1 if config.max_removed is None else min(config.max_removed, len(removal.names) - 1)
    tried, ranking = set[str](), RANKINGS.chosen(config.rank)
    while len(removed) < most:
        candidate = next((b for b in removal.ranked(blocks, ranking) if b.block not in tried), None)
        if candidate is None:
            break
        tried.add(candidate.block)
        accuracy = removal.accuracy(removal.parts.guard, [*removed, candidate.block])
        goes = accuracy >= limit - _ROUNDING
        verdict = f"{accuracy:.2%} {'is not' if goes else 'is'} below {limit:.2%}"
        reason = f"{ranking.why(candidate)}; {removal.parts.guard.name} accuracy {verdict}"
        steps.append({"block": candidate.block, "kept": goes, "accuracy": accuracy, "reason": reason})
        removal.progress.save()
        removal.report(f"{candidate.block} {'removed' if goes else 'stays'}: {reason}")
        if goes:
            removed.append(candidate.block)
            blocks = removal.measured(removed)
    return steps, removed, _why_ended(removal, tried, removed, most)


def _why_ended(removal: Removal, tried: set[str], removed: list[str], most: int) -> str:
    if len(removed) == most:
        return f"{most} blocks were removed" if removal.config.max_removed == most else "one block has to stay"
    ranking = RANKINGS.chosen(removal.config.rank)
    return f"every {'conflicting ' * ranking.only_conflicting}block was tried" if tried else ranking.none_tried

"""One block at a time goes while the accuracy on held-back samples stays; what is left is measured again each time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...models.branches import BlockMeasurement
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
    limit = removal.guard_accuracy(()) - config.max_drop
    most = len(removal.names) - 1 if config.max_removed is None else min(config.max_removed, len(removal.names) - 1)
    tried: set[str] = set()
    while len(removed) < most:
        candidate = next((b for b in removal.ranked(blocks, config.rank) if b.block not in tried), None)
        if candidate is None:
            break
        tried.add(candidate.block)
        accuracy = removal.guard_accuracy([*removed, candidate.block])
        goes = accuracy >= limit - _ROUNDING
        verdict = f"{accuracy:.2%} {'is not' if goes else 'is'} below {limit:.2%}"
        reason = f"{_why(candidate, config.rank)}; {removal.parts.guard.name} accuracy {verdict}"
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
    if not tried and removal.config.rank == "conflicts":
        return "no block conflicts, so none was tried; --rank margin tries all"
    left = "conflicting block" if removal.config.rank == "conflicts" else "block"
    return f"every {left} was tried"


def _why(block: BlockMeasurement, rank: str) -> str:
    if rank == "random":
        return "drawn"
    if rank == "similarity":
        return f"similarity {block.similarity:.4f} of input and output"
    if rank == "conflicts":
        return f"{block.result.num_conflicting} conflicting bundles, entropy {block.result.entropy:.3g}"
    bits = f" ({block.margin_bits:.1f} bits)" if math.isfinite(block.margin_bits) else ""
    return f"margin {block.margin:.3g}{bits}"

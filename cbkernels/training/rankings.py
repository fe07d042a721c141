"""In which order ``remove`` tries the blocks of a trained network: a table; ``--rank`` names one. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..choices import Choice, Choices

if TYPE_CHECKING:
    from ..models.branches import BlockMeasurement


@dataclass(frozen=True)
class Ranking(Choice):
    """An order of blocks.

    Args:
        key: (block, its place in a random order) -> the smallest is tried first; among equals the later block.
        why: words for a block that is tried.
        only_conflicting: blocks without a conflict are not tried at all.
        none_tried: why it ended, when there was nothing to try.
    """

    key: Callable[[BlockMeasurement, int], tuple[float, ...]]
    why: Callable[[BlockMeasurement], str]
    only_conflicting: bool = False
    none_tried: str = "there was no block to try"


def _entropy(block: BlockMeasurement) -> float:
    return math.inf if math.isnan(block.result.entropy) else block.result.entropy


def _margin(block: BlockMeasurement) -> str:
    bits = f" ({block.margin_bits:.1f} bits)" if math.isfinite(block.margin_bits) else ""
    return f"margin {block.margin:.3g}{bits}"


MARGIN = Ranking("margin", "the smallest conflict margin first", lambda b, _: (b.margin, -_entropy(b)), _margin)
RANKINGS = Choices("rank", [
    Ranking(
        "conflicts", "the highest entropy first, of those that conflict", lambda b, _: (-_entropy(b), b.margin),
        lambda b: f"{b.result.num_conflicting} conflicting bundles, entropy {b.result.entropy:.3g}",
        only_conflicting=True, none_tried=f"no block conflicts, so none was tried; --rank {MARGIN.name} tries all",
    ),
    MARGIN,
    Ranking(
        "similarity", "those whose output is most like their input first", lambda b, _: (-b.similarity, b.margin),
        lambda b: f"similarity {b.similarity:.4f} of input and output",
    ),
    Ranking("random", "drawn by the seed", lambda _, place: (place,), lambda _: "drawn"),
])  # fmt: skip

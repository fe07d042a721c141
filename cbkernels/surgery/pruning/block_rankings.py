"""Which residual block goes first: a table of scores; ``rank=`` names one. Needs no torch.

The smallest score goes first. Read next: ``block_scores.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...choices import Choice, Choices

if TYPE_CHECKING:
    from torch import nn

    from .block_scores import Candidates

    Scores = Callable[[Candidates], Mapping[str, float]]


@dataclass(frozen=True)
class BlockRanking(Choice):
    """An order of blocks.

    Args:
        scores: name -> score; the smallest goes first, among equals the later block. A block without one stays.
        none_left: why it ended when no block had a score.
    """

    scores: Scores
    none_left: str = "every block that could go was tried"


def ranked(ranking: BlockRanking, candidates: Candidates) -> dict[str, float]:
    """Names of blocks and their scores, the one to remove first first; a score that is NaN counts as the largest.

    Raises:
        ValueError: a user's function gave a score to what is no block, or something that is no number.
    """
    scores = dict(ranking.scores(candidates))
    names = candidates.names
    for name, score in scores.items():
        if name not in names:
            raise ValueError(f"rank gave {name!r} a score, which is no block that could go; score {names[:6]}")
        try:
            scores[name] = float("" if isinstance(score, (bool, str)) else score)
        except (TypeError, ValueError):
            raise ValueError(f"rank gave {name!r} the score {score!r}; it must be a number") from None
    order = sorted(scores, key=lambda name: (math.isnan(scores[name]), scores[name], -names.index(name)))
    return {name: scores[name] for name in order}


def of_user(function: Callable[[nn.Module, list[str]], Mapping[str, float]]) -> BlockRanking:
    """A user's own ranking."""
    name = getattr(function, "__name__", type(function).__name__)

    def scores(asked: Candidates) -> Mapping[str, float]:
        try:
            found = function(asked.model, asked.names)
        except Exception as error:
            told = f"rank raised {type(error).__name__} ({error})"
            raise RuntimeError(f"{told}; the model was put back as it was") from error
        if not isinstance(found, Mapping):
            raise TypeError(f"rank returned {found!r:.80}; it must return a mapping from names to scores")
        return found

    return BlockRanking(name, "your function", scores)


def _later(name: str) -> Scores:
    """A function of ``block_scores.py``, which needs torch."""

    def scores(asked: Candidates) -> Mapping[str, float]:
        from . import block_scores

        found: Mapping[str, float] = getattr(block_scores, name)(asked)
        return found

    return scores


RANKINGS = Choices("rank", [
    BlockRanking("margin", "the blocks whose branches have the smallest conflict margin first", _later("margin")),
    BlockRanking(
        "conflicts", "the blocks that conflict, those of the highest bundle entropy first", _later("conflicts"),
        none_left="no block that conflicts is left; rank='margin' tries all",
    ),
    BlockRanking(
        "similarity", "the blocks whose output is closest to what their shortcut alone gives first",
        _later("similarity"),
    ),
    BlockRanking(
        "taylor", "the blocks whose absence changes the loss least first, by a first-order estimate", _later("taylor")
    ),
    BlockRanking(
        "weight_norm", "the blocks with the smallest weights in the last layer of the branch first",
        _later("weight_norm"),
    ),
    BlockRanking(
        "bn_scale", "the blocks with the smallest scale of the branch's last batch norm first", _later("bn_scale")
    ),
    BlockRanking("random", "an order that the seed draws", _later("random")),
])  # fmt: skip

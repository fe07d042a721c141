"""Accuracy against the number of removed blocks: random subsets of several kinds, and the lowest margins together.

The removal study of arXiv 2103.04331; how accurate a network without some blocks is, is the caller's function.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Accuracy = Callable[[Sequence[str]], float]
"""Accuracy of the network without the branches of these blocks."""

KINDS = ("conflicting", "non_conflicting", "any", "lowest_margin")
"""Which blocks are removed."""


def removal_curves(
    conflicting: Sequence[str], non_conflicting: Sequence[str], lowest_margin: Sequence[str], accuracy: Accuracy, *,
    draws: int = 15, most: int | None = None, seed: int = 0,
    on_point: Callable[[str, dict[str, Any]], object] = lambda kind, point: None,
) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
    """All four curves.

    Args:
        conflicting: blocks of the first curve.
        non_conflicting: the other blocks.
        lowest_margin: all blocks, the smallest margin first; of these the first k go.
        accuracy: asked for every subset.
        draws: random subsets for each number k; where there are no more than that, each is taken once.
        most: largest k; None: all.
        seed: of the draws; a point does not depend on the other points, and is the same for the same blocks.
        on_point: called with (kind, point) after each.

    Returns:
        Kind -> for k = 1, 2, ... {"removed": k, "mean", "std" (of the population), "draws"}; empty where there are
        no such blocks.

    Example:
        >>> lost = {"a": 0.5, "b": 0.25, "c": 0.0}
        >>> curves = removal_curves(["c"], ["a", "b"], ["c", "b", "a"], lambda names: 1 - sum(lost[n] for n in names))
        >>> curves["non_conflicting"][0]
        {'removed': 1, 'mean': 0.625, 'std': 0.125, 'draws': 2}
        >>> [point["mean"] for point in curves["lowest_margin"]]
        [1.0, 0.75, 0.25]
    """
    pools = dict(zip(KINDS, (conflicting, non_conflicting, [*conflicting, *non_conflicting]), strict=False))
    curves: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}

    def add(kind: str, k: int, subsets: Sequence[Sequence[str]]) -> None:
        reached = [accuracy(subset) for subset in subsets]
        mean, std = statistics.fmean(reached), statistics.pstdev(reached)
        curves[kind].append({"removed": k, "mean": mean, "std": std, "draws": len(reached)})
        on_point(kind, curves[kind][-1])

    for kind, pool in pools.items():
        for k in range(1, min(len(pool), most or len(pool)) + 1):
            add(kind, k, subsets_of(sorted(pool), k, draws, (seed % 2**32, seed // 2**32, k)))
    for k in range(1, min(len(lowest_margin), most or len(lowest_margin)) + 1):
        add("lowest_margin", k, [lowest_margin[:k]])
    return curves


def subsets_of(pool: Sequence[str], k: int, draws: int, seed: Sequence[int]) -> list[tuple[str, ...]]:
    """Random subsets of ``k`` names, or all of them where there are at most ``draws``.

    Example:
        >>> subsets_of(["a", "b", "c"], 2, 15, [0])
        [('a', 'b'), ('a', 'c'), ('b', 'c')]
    """
    if math.comb(len(pool), k) <= draws:
        return list(itertools.combinations(pool, k))
    random = np.random.RandomState(list(seed))
    return [tuple(pool[i] for i in random.permutation(len(pool))[:k]) for _ in range(draws)]

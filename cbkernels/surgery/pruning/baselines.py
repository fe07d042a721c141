"""From which score ``max_drop`` counts: a table; ``baseline=`` names one. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...choices import Choice, Choices


@dataclass(frozen=True)
class Baseline(Choice):
    """A score to compare with.

    Args:
        score: of the scores of the model as it was and of the steps that stay, in their order.
    """

    score: Callable[[Sequence[float]], float]


BASELINES = Choices("baseline", [
    Baseline("first", "the score before the first removal", lambda scores: scores[0]),
    Baseline("best", "the best score so far", max),
])  # fmt: skip

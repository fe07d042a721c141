"""How long a run may take: BENCH=full (about 10 minutes), quick (about 2) or tiny (seconds, no measurement).

A peer that would take longer than `peer_skip_s` is not run and the JSON says so; one that takes longer
than `peer_s` is called once, without a warm-up, and the JSON says that too.
"""

from __future__ import annotations

import os
from typing import NamedTuple


class Limits(NamedTuple):
    """Seconds and rounds for one case."""

    mode: str
    min_rounds: int
    max_rounds: int
    ours_s: float
    """Our contenders and the reads repeat for so long, between min_rounds and max_rounds."""
    peer_s: float
    """One peer repeats for so long, at most as many rounds as ours."""
    peer_skip_s: float
    loop_skip_s: float
    """The same for the plain pairwise loop."""
    total_s: float
    """After so long, peers above a tenth of a second are skipped."""


LIMITS = {
    "full": Limits("full", 7, 21, 1.2, 1.0, 30.0, 2.5, 600.0),
    "quick": Limits("quick", 5, 9, 0.3, 0.2, 1.0, 0.3, 110.0),
    "tiny": Limits("tiny", 5, 5, 0.05, 0.05, 1.0, 1.0, 60.0),
}


def limits() -> Limits:
    mode = os.environ.get("BENCH", "full")
    if mode not in LIMITS:
        raise ValueError(f"BENCH is {mode!r}; choose one of {', '.join(LIMITS)}")
    return LIMITS[mode]

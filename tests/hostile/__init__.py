"""A hostile trial: kills, damaged files, two processes on one folder, streams and signals. ``make hostile`` runs it.

``CBKERNELS_HOSTILE`` scales the counts: 1, as ``make hostile`` sets it, is minutes; without it everything is tried once
or a few times. Chosen inputs (rows that make the routing hashes equal, forged fingerprints) belong here too.
"""

from __future__ import annotations

import os
import random

SCALE = float(os.environ.get("CBKERNELS_HOSTILE") or 0)
SEED = int(os.environ.get("CBKERNELS_HOSTILE_SEED") or 5)


def times(full: int, short: int = 1) -> int:
    """How often something is tried."""
    return max(short, round(full * SCALE))


def chance(of: str) -> random.Random:
    """Random numbers of one test, the same in every run with the same seed, which is printed."""
    print(f"CBKERNELS_HOSTILE_SEED={SEED} ({of})")
    return random.Random(f"{SEED} {of}")

"""From integers to the one floating-point number: bundle entropy in nats.

Source: Peer et al., "Conflicting Bundles" (WACV 2021), section 3; DESIGN: pure bundles
contribute exactly 0.0, so only conflicting bundles come here. The result depends on the
multiset of counts alone: neither the order of rows, ranks or batches nor the backend
can change a bit of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BundleCounts:
    """Everything a backend reports about one layer; integers only.

    ``label_counts`` holds, for each conflicting bundle, how often each of its labels occurs,
    ascending; bundle ``b`` is ``label_counts[starts[b]:starts[b + 1]]``.
    """

    num_rows: int
    num_bundles: int
    num_nan_rows: int
    num_conflicting: int
    num_conflicting_rows: int
    label_counts: Integers
    starts: Integers


def entropy_of_counts(counts: BundleCounts, log_epsilon: float | None = None) -> float:
    """Bundle entropy ``(1/N) * sum_b n_b * H(labels in b)``.

    Args:
        counts: integers of one layer.
        log_epsilon: None for the exact definition; a number for the authors' published-code
            variant ``-sum p ln(p + eps)`` per bundle, clipped at 0.

    Returns:
        float, nats; NaN when a row holds a NaN; exactly 0.0 when no bundle conflicts.
    """
    if counts.num_nan_rows:
        return math.nan
    if counts.num_conflicting == 0:
        return 0.0
    # an exactly rounded sum does not depend on the order of the bundles
    return math.fsum(chain.from_iterable(_contributions(counts, log_epsilon))) / counts.num_rows


_BUNDLES_AT_ONCE = 1 << 14


def _contributions(counts: BundleCounts, log_epsilon: float | None) -> Iterator[list[float]]:
    """``n_b * H(labels in b)`` of all conflicting bundles, in pieces that need little memory."""
    for first in range(0, counts.num_conflicting, _BUNDLES_AT_ONCE):
        starts = counts.starts[first : first + _BUNDLES_AT_ONCE + 1]
        of_label = counts.label_counts[starts[0] : starts[-1]]
        begins = starts[:-1] - starts[0]
        of_bundle = np.add.reduceat(of_label, begins)
        n_b = np.repeat(of_bundle, np.diff(starts))
        if log_epsilon is None:
            yield np.add.reduceat(of_label * np.log(n_b / of_label), begins).tolist()
        else:
            p = of_label / n_b
            plain = np.add.reduceat(-p * np.log(p + log_epsilon), begins)
            yield (of_bundle * np.maximum(plain, 0.0)).tolist()

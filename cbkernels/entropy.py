"""From integers to the one floating-point number: bundle entropy in nats.

Source: Peer et al., "Conflicting Bundles" (WACV 2021), section 3; DESIGN: pure bundles
contribute exactly 0.0, so only conflicting bundles come here. The result depends on the
multiset of counts alone: neither the order of rows, ranks or batches nor the backend
can change a bit of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
    starts = counts.starts[:-1]
    of_label = counts.label_counts.astype(np.float64)
    of_bundle = np.add.reduceat(counts.label_counts, starts)
    n_b = np.repeat(of_bundle, np.diff(counts.starts)).astype(np.float64)
    if log_epsilon is None:
        terms = of_label * np.log(n_b / of_label)
        contributions = np.add.reduceat(terms, starts)
    else:
        p = of_label / n_b
        plain = np.add.reduceat(-p * np.log(p + log_epsilon), starts)
        contributions = of_bundle * np.maximum(plain, 0.0)
    return math.fsum(contributions.tolist()) / counts.num_rows

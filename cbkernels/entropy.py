"""From integers to the one floating-point number: bundle entropy in nats.

Source: Peer et al., "Conflicting Bundles" (WACV 2021), section 3; DESIGN: pure bundles
contribute exactly 0.0, so only conflicting bundles come here. The result depends on the
multiset of counts alone: neither the order of rows, ranks or batches nor the backend
can change a bit of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

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
    contributions = chain.from_iterable(_contributions([counts], log_epsilon))
    return entropy_of_parts(contributions, counts.num_rows, counts.num_nan_rows)


def entropies_of_counts(layers: Sequence[BundleCounts], log_epsilon: float | None = None) -> list[float]:
    """``entropy_of_counts`` of every layer, the same to the last bit; small layers share a pass of NumPy."""
    whole = [counts for counts in layers if not counts.num_nan_rows]
    contributions = chain.from_iterable(_contributions(whole, log_epsilon))
    return [
        entropy_of_parts(
            islice(contributions, 0 if counts.num_nan_rows else counts.num_conflicting),
            counts.num_rows,
            counts.num_nan_rows,
        )
        for counts in layers
    ]


def entropy_of_parts(parts: Iterable[float], num_rows: int, num_nan_rows: int) -> float:
    """Bundle entropy from floats that add up to ``sum_b n_b * H(labels in b)``, however they are split."""
    if num_nan_rows:
        return math.nan
    # an exactly rounded sum depends neither on the order of the bundles nor on who added up which
    return math.fsum(parts) / num_rows


def exact_parts(counts: BundleCounts, log_epsilon: float | None = None) -> list[float]:
    """``sum_b n_b * H(labels in b)`` as a few floats that add up to it without any rounding.

    ``entropy_of_parts`` of the parts of several ranks is what ``entropy_of_counts`` gives for all their bundles.
    """
    parts: list[float] = []
    for some in _contributions([counts], log_epsilon):
        parts = _added_exactly([*parts, *some])
    return parts


def _added_exactly(terms: list[float]) -> list[float]:
    """The rounded sum of all terms, the rounded sum of what is then missing, and so on until nothing is."""
    found: list[float] = []
    while rest := math.fsum(terms):
        found.append(rest)
        terms.append(-rest)
    return found


_BUNDLES_AT_ONCE = 1 << 14


def _contributions(layers: Iterable[BundleCounts], log_epsilon: float | None) -> Iterator[list[float]]:
    """``n_b * H(labels in b)`` of all conflicting bundles of all layers, in pieces that need little memory."""
    for of_label, sizes in _pieces(layers):
        begins = np.cumsum(sizes) - sizes
        of_bundle = np.add.reduceat(of_label, begins)
        n_b = np.repeat(of_bundle, sizes)
        if log_epsilon is None:
            yield np.add.reduceat(of_label * np.log(n_b / of_label), begins).tolist()
        else:
            p = of_label / n_b
            plain = np.add.reduceat(-p * np.log(p + log_epsilon), begins)
            yield (of_bundle * np.maximum(plain, 0.0)).tolist()


def _pieces(layers: Iterable[BundleCounts]) -> Iterator[tuple[Integers, Integers]]:
    """The label counts of consecutive bundles, and how many each bundle has; a layer of few bundles is not cut."""
    of_label: list[Integers] = []
    sizes: list[Integers] = []
    num_bundles = 0
    for counts in layers:
        for first in range(0, counts.num_conflicting, _BUNDLES_AT_ONCE):
            starts = counts.starts[first : first + _BUNDLES_AT_ONCE + 1]
            of_label.append(counts.label_counts[starts[0] : starts[-1]])
            sizes.append(starts[1:] - starts[:-1])
            num_bundles += len(starts) - 1
            if num_bundles >= _BUNDLES_AT_ONCE:
                yield _joined(of_label), _joined(sizes)
                of_label, sizes, num_bundles = [], [], 0
    if num_bundles:
        yield _joined(of_label), _joined(sizes)


def _joined(arrays: list[Integers]) -> Integers:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)

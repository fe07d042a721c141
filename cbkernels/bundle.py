"""One-shot measurements: bundles of rows, their entropy, several layers at once, the margin.

Exact: a hash may route rows, a comparison decides (``docs/method.md``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import backends
from .arrays import Rows, as_labels, as_rows
from .entropy import BundleCounts, entropy_of_counts
from .grid import UpdateGrid
from .options import Tolerance, check_options
from .result import BundleResult


def bundle_entropy(
    acts: object,
    labels: object,
    *,
    grid: UpdateGrid | None = None,
    log_epsilon: float | None = None,
    tolerance: Tolerance | None = None,
    check_nan: bool = True,
    backend: str = "auto",
) -> BundleResult:
    """Bundle entropy of one layer (Peer et al., WACV 2021, section 3).

    Args:
        acts: (N, ...) activations, N >= 1; everything behind the first axis is one row. NumPy,
            torch or a DLPack producer; floats down to 8 bits, integers, bool (bytes 0 or 1);
            any strides, read in place.
        labels: (N,) integers, any values.
        grid: compare values as the next weight update would see them; None compares plain values
            (IEEE: ``-0.0 == 0.0``, a NaN equals nothing).
        log_epsilon: the authors' published-code variant ``-sum p ln(p + eps)``, clipped at 0.
        tolerance: ``(rtol, atol)``: a row joins the first bundle whose leader ``l`` satisfies
            ``|a - l| <= atol + rtol * |l|`` everywhere, in float64, infinities only near
            themselves (the authors' later variant). Not
            transitive: the result depends on the order of the rows. Excludes ``grid``.
        check_nan: look for NaN in every row, at the price of one read of the data. False looks only
            where rows are read anyway: bundles stay exact, but a NaN in a row that is alone may go
            unnoticed.
        backend: "auto" (where the input lives), "cpu", "cuda" or "reference".

    Returns:
        BundleResult; entropy in nats.

    Raises:
        TypeError, ValueError: one sentence that quotes what is wrong.

    Example:
        >>> import numpy as np
        >>> r = bundle_entropy(np.zeros((4, 3), np.float32), np.array([0, 0, 1, 1]))
        >>> r.num_bundles, r.num_conflicting, round(r.entropy, 4)
        (1, 1, 0.6931)
    """
    rows = as_rows(acts)
    of_row = as_labels(labels, rows)
    check_options(grid, tolerance, log_epsilon)
    chosen = backends.choose(backend, rows)
    counts = chosen.count_bundles(rows, of_row, grid, tolerance, check_nan)
    return _result(rows, counts, chosen.name, grid, log_epsilon, tolerance)


def bundle_rows(
    acts: object,
    *,
    grid: UpdateGrid | None = None,
    tolerance: Tolerance | None = None,
    backend: str = "auto",
) -> Any:
    """Number the bundles: equal rows get the same id, a fast ``unique(dim=0, return_inverse=True)``.

    Args:
        acts: as in ``bundle_entropy``.
        grid: as in ``bundle_entropy``.
        tolerance: as in ``bundle_entropy``.
        backend: as in ``bundle_entropy``.

    Returns:
        (N,) int64, a torch tensor on the same device where torch came in, else a NumPy array.
        Ids count upward in the order of the first rows of the bundles; a row with a NaN is a
        bundle of its own.

    Example:
        >>> import numpy as np
        >>> bundle_rows(np.array([[1.0, 2.0], [0.0, 5.0], [1.0, 2.0], [-0.0, 5.0]])).tolist()
        [0, 1, 0, 1]
    """
    rows = as_rows(acts)
    check_options(grid, tolerance, None)
    return backends.choose(backend, rows).bundle_ids(rows, grid, tolerance)


def bundle_entropy_layers(
    layers: Mapping[str, object],
    labels: object,
    *,
    grid: UpdateGrid | None = None,
    log_epsilon: float | None = None,
    check_nan: bool = True,
    backend: str = "auto",
) -> dict[str, BundleResult]:
    """Bundle entropy of many layers for the same samples.

    Args:
        layers: name -> (N, ...) activations; shapes and types may differ between layers.
        labels: (N,) integers.
        grid: as in ``bundle_entropy``.
        log_epsilon: as in ``bundle_entropy``.
        check_nan: as in ``bundle_entropy``.
        backend: as in ``bundle_entropy``.

    Returns:
        name -> BundleResult, in the order given.

    Example:
        >>> import numpy as np
        >>> acts = {"fc1": np.eye(4), "fc2": np.zeros((4, 2))}
        >>> [r.num_bundles for r in bundle_entropy_layers(acts, np.array([0, 1, 2, 3])).values()]
        [4, 1]
    """
    if not isinstance(layers, Mapping):
        raise TypeError(f"layers is a {type(layers).__name__}; pass a dict of name -> activations")
    # every layer is checked before the first is measured
    views = {name: as_rows(acts, f"layers[{name!r}]") for name, acts in layers.items()}
    of_row = {name: as_labels(labels, rows) for name, rows in views.items()}
    check_options(grid, None, log_epsilon)
    results = {}
    for name, rows in views.items():
        chosen = backends.choose(backend, rows)
        counts = chosen.count_bundles(rows, of_row[name], grid, None, check_nan)
        results[name] = _result(rows, counts, chosen.name, grid, log_epsilon, None)
    return results


def conflict_margin(acts: object, labels: object, *, backend: str = "auto") -> float:
    """How far a layer is from a conflict: the smallest distance of two rows with different labels.

    ``min over i, j with y_i != y_j of max_k |a_i[k] - a_j[k]|``. Above the grid's step no conflict
    exists; ``grid.bits(margin)`` says how many bits of precision are left. Pairs are given up as
    soon as one component exceeds the best so far; the worst case is all pairs of all columns.

    Args:
        acts: as in ``bundle_entropy``.
        labels: (N,) integers.
        backend: as in ``bundle_entropy``.

    Returns:
        float, in units of the activations, computed in float64 (integers exactly, then rounded);
        inf when fewer than two labels remain. Equal values are 0 apart, infinities included.
        Rows that hold a NaN are left out.

    Example:
        >>> import numpy as np
        >>> conflict_margin(np.array([[0.0, 1.0], [0.25, 1.5], [9.0, 9.0]]), np.array([0, 1, 0]))
        0.5
    """
    rows = as_rows(acts)
    of_row = as_labels(labels, rows)
    return backends.choose(backend, rows).conflict_margin(rows, of_row)


def _result(
    rows: Rows,
    counts: BundleCounts,
    backend: str,
    grid: UpdateGrid | None,
    log_epsilon: float | None,
    tolerance: Tolerance | None,
) -> BundleResult:
    return BundleResult(
        entropy=entropy_of_counts(counts, log_epsilon),
        num_bundles=counts.num_bundles,
        num_conflicting=counts.num_conflicting,
        num_nan_rows=counts.num_nan_rows,
        num_rows=counts.num_rows,
        num_conflicting_rows=counts.num_conflicting_rows,
        num_columns=rows.num_columns,
        dtype=rows.dtype,
        device=rows.device,
        backend=backend,
        grid=grid,
        tolerance=tolerance,
        log_epsilon=log_epsilon,
    )

"""Bundle entropy over many batches: 24 bytes a row instead of the rows.

Keeps a 128-bit fingerprint (``docs/fingerprint.md``) and the label of each row. Two different rows
share a fingerprint with probability at most 2**-120, so results are probabilistic, not exact.
Batches may be split, ordered and merged in any way: the result is the same, bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from . import backends
from .arrays import DTYPES, as_labels, as_rows
from .entropy import entropy_of_counts
from .grid import UpdateGrid
from .options import check_options
from .result import BundleResult

_FORMAT = 1
_LARGEST_BLOCK_ROWS = 1 << 16


class BundleEntropy:
    """Streaming bundle entropy: ``update`` with batches, ``compute`` when asked.

    Args:
        grid: as in ``bundle_entropy``.
        log_epsilon: as in ``bundle_entropy``.
        backend: as in ``bundle_entropy``.

    Example:
        >>> import numpy as np
        >>> metric = BundleEntropy()
        >>> for label in (0, 1):
        ...     metric.update(np.zeros((2, 3)), np.array([label, label]))
        >>> metric.compute().num_conflicting
        1
    """

    higher_is_better = False
    is_differentiable = False

    def __init__(
        self, *, grid: UpdateGrid | None = None, log_epsilon: float | None = None, backend: str = "auto"
    ) -> None:
        check_options(grid, None, log_epsilon)
        backends.require_name(backend)
        self.grid = grid
        self.log_epsilon = log_epsilon
        self._backend = backend
        self.reset()

    def reset(self) -> None:
        """Forget all rows; the options stay."""
        self._rows = _RowStore()
        self._num_nan_rows = 0
        self._dtype: str | None = None
        self._num_columns = 0
        self._device = "cpu"
        self._backend_used = "cpu"

    @property
    def num_rows(self) -> int:
        """Rows seen since the last reset."""
        return self._rows.size + self._num_nan_rows

    def update(self, acts: object, labels: object) -> None:
        """Add a batch.

        Args:
            acts: (N, ...) activations; the type and the number of values per row must be those of
                the first batch.
            labels: (N,) integers.

        Raises:
            TypeError, ValueError: one sentence; the state is then unchanged.
        """
        rows = as_rows(acts)
        of_row = as_labels(labels, rows)
        self._require_same_rows(rows.dtype, rows.num_columns)
        chosen = backends.choose(self._backend, rows)
        label_values = of_row.raw(rows.num_rows)
        if label_values.dtype == np.uint64 and (label_values > np.uint64(2**63 - 1)).any():
            raise ValueError(f"labels holds {int(label_values.max())}; streaming takes labels below 2**63")
        fingerprints, holds_nan = chosen.row_fingerprints(rows, self.grid)
        if holds_nan.any():
            fingerprints, label_values = fingerprints[~holds_nan], label_values[~holds_nan]
        self._rows.append(fingerprints, label_values)
        self._num_nan_rows += int(holds_nan.sum())
        self._dtype, self._num_columns = rows.dtype, rows.num_columns
        self._device, self._backend_used = rows.device, chosen.name

    def merge(self, other: BundleEntropy) -> None:
        """Add everything another metric has seen; the other is left as it is.

        Raises:
            ValueError: the other has another grid, or rows of another type or width.
        """
        if not isinstance(other, BundleEntropy):
            raise TypeError(f"other is a {type(other).__name__}; pass a BundleEntropy")
        if other.grid != self.grid:
            raise ValueError(f"other has grid {other.grid} and this metric {self.grid}; they must agree")
        if other._dtype is None:
            return
        self._require_same_rows(other._dtype, other._num_columns)
        for fingerprints, labels in list(other._rows.blocks()):
            self._rows.append(fingerprints, labels)
        self._num_nan_rows += other._num_nan_rows
        self._dtype, self._num_columns = other._dtype, other._num_columns
        self._device, self._backend_used = other._device, other._backend_used

    def compute(self) -> BundleResult:
        """Result over all rows so far.

        Raises:
            ValueError: no rows yet.
        """
        if self._dtype is None:
            raise ValueError("no rows yet: call update() before compute()")
        counts = backends.count_fingerprints(list(self._rows.blocks()), self._num_nan_rows)
        return BundleResult(
            entropy=entropy_of_counts(counts, self.log_epsilon),
            num_bundles=counts.num_bundles,
            num_conflicting=counts.num_conflicting,
            num_nan_rows=counts.num_nan_rows,
            num_rows=counts.num_rows,
            num_conflicting_rows=counts.num_conflicting_rows,
            num_columns=self._num_columns,
            dtype=self._dtype,
            device=self._device,
            backend=self._backend_used,
            grid=self.grid,
            log_epsilon=self.log_epsilon,
            exact=False,
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything seen so far, as plain types and NumPy arrays."""
        fingerprints, labels = self._rows.concatenated()
        return {
            "format": _FORMAT,
            "fingerprints": fingerprints,
            "labels": labels,
            "num_nan_rows": self._num_nan_rows,
            "dtype": self._dtype,
            "num_columns": self._num_columns,
            "grid": None if self.grid is None else self.grid.to_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replace what was seen by what ``state_dict`` returned.

        Raises:
            ValueError: the state is damaged, from another format, or of another grid; this metric is
                then unchanged.
        """
        fingerprints, labels = _checked_state(state, self.grid)
        self.reset()
        self._rows.append(fingerprints, labels)
        self._num_nan_rows = state["num_nan_rows"]
        self._dtype, self._num_columns = state["dtype"], state["num_columns"]

    def _require_same_rows(self, dtype: str, num_columns: int) -> None:
        if self._dtype is None:
            return
        if dtype != self._dtype:
            raise TypeError(f"acts has dtype {dtype} after batches of {self._dtype}; they must agree")
        if num_columns != self._num_columns:
            raise ValueError(
                f"acts has {num_columns} values per row after batches of {self._num_columns}; they must agree"
            )


def _checked_state(
    state: dict[str, Any], own_grid: UpdateGrid | None
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """The state's two arrays, after everything in it was found to be what ``state_dict`` writes."""
    if not isinstance(state, dict):
        raise TypeError(f"the state is a {type(state).__name__}; pass what BundleEntropy.state_dict() returned")
    missing = {"format", "fingerprints", "labels", "num_nan_rows", "dtype", "num_columns", "grid"} - set(state)
    if missing:
        raise ValueError(f"the state lacks {sorted(missing)}; it is not one of BundleEntropy.state_dict()")
    if state["format"] != _FORMAT:
        raise ValueError(f"the state has format {state['format']!r}; this version reads {_FORMAT}")
    for key in ("num_nan_rows", "num_columns"):
        if not isinstance(state[key], int) or state[key] < 0:
            raise ValueError(f"the state has {key} {state[key]!r}; it must be an integer that is not negative")
    try:
        grid = None if state["grid"] is None else UpdateGrid(**state["grid"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"the state has grid {state['grid']!r}, which is none: {error}") from error
    if grid != own_grid:
        raise ValueError(f"the state has grid {grid} and this metric {own_grid}; they must agree")
    fingerprints, labels = np.asarray(state["fingerprints"]), np.asarray(state["labels"])
    expected = (len(labels) if labels.ndim else 0, 2)
    if (
        fingerprints.dtype != np.uint64
        or labels.dtype != np.int64
        or labels.ndim != 1
        or fingerprints.shape != expected
    ):
        raise ValueError(
            f"the state has fingerprints {fingerprints.dtype}{fingerprints.shape} and labels "
            f"{labels.dtype}{labels.shape}; they must be uint64 (n, 2) and int64 (n,)"
        )
    is_empty = len(labels) + state["num_nan_rows"] == 0
    if state["dtype"] not in DTYPES and not (state["dtype"] is None and is_empty):
        raise ValueError(f"the state has dtype {state['dtype']!r}; it must be one of {', '.join(DTYPES)}")
    return fingerprints, labels


class _RowStore:
    """Growing arrays of (fingerprint, label), 24 bytes a row, in blocks that are never copied again."""

    def __init__(self) -> None:
        self._full: list[tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]] = []
        self._open_fingerprints = np.empty((0, 2), np.uint64)
        self._open_labels = np.empty(0, np.int64)
        self._used = 0
        self.size = 0

    def append(self, fingerprints: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
        done = 0
        while done < len(labels):
            if self._used == len(self._open_labels):
                self._open_new_block()
            take = min(len(labels) - done, len(self._open_labels) - self._used)
            self._open_fingerprints[self._used : self._used + take] = fingerprints[done : done + take]
            self._open_labels[self._used : self._used + take] = labels[done : done + take]
            self._used += take
            done += take
        self.size += done

    def _open_new_block(self) -> None:
        if self._used:
            self._full.append((self._open_fingerprints, self._open_labels))
        # half of what is there already: at most a third of the memory is ever unused
        rows = min(_LARGEST_BLOCK_ROWS, max(64, self.size // 2))
        self._open_fingerprints = np.empty((rows, 2), np.uint64)
        self._open_labels = np.empty(rows, np.int64)
        self._used = 0

    def blocks(self) -> Any:
        yield from self._full
        if self._used:
            yield self._open_fingerprints[: self._used], self._open_labels[: self._used]

    def concatenated(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        blocks = list(self.blocks())
        if not blocks:
            return np.empty((0, 2), np.uint64), np.empty(0, np.int64)
        return np.concatenate([b[0] for b in blocks]), np.concatenate([b[1] for b in blocks])

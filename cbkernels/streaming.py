"""Bundle entropy over many batches: 24 bytes a row instead of the rows.

Keeps a 128-bit fingerprint (``docs/fingerprint.md``) and the label of each row, where the row was:
``row_store.py``, ``gpu_row_store.py``. Two different rows share a fingerprint with probability at
most 2**-120, so results are probabilistic, not exact. Batches may be split, ordered and merged in
any way: the result is the same, bit for bit.
"""

from __future__ import annotations

import copy
import sys
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from . import backends
from .arrays import DTYPES, Labels, Rows, as_labels, as_rows, torch_with_gpu
from .entropy import BundleCounts, entropy_of_counts
from .gpu_row_store import GpuRowStore
from .grid import UpdateGrid
from .options import check_options
from .result import BundleResult
from .row_store import RowStore

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_FORMAT = 1


class BundleEntropy:
    """Streaming bundle entropy: ``update`` with batches, ``compute`` when asked.

    Args:
        grid: as in ``bundle_entropy``.
        log_epsilon: as in ``bundle_entropy``.
        backend: as in ``bundle_entropy``.

    On a GPU ``update`` never waits for the device and the state stays there in torch tensors, 24
    bytes a row; ``compute`` waits once. A row that holds a NaN is kept as the fingerprint (0, 0),
    which another row has with probability 2**-128. Rows of several devices may be mixed; they are
    then counted on the CPU. Pickles and ``state_dict`` hold CPU memory only.

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
        self._rows = RowStore()
        self._num_nan_rows = 0  # of rows on the CPU
        self._on_gpus: dict[str, GpuRowStore] = {}
        self._dtype: str | None = None
        self._num_columns = 0
        self._device = "cpu"
        self._backend_used = "cpu"

    @property
    def num_rows(self) -> int:
        """Rows seen since the last reset."""
        return self._rows.size + self._num_nan_rows + sum(store.size for store in self._on_gpus.values())

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
        if isinstance(chosen, backends._Cuda) and _has_tensors_for(rows):
            if DTYPES[of_row.code] == "uint64":
                raise ValueError("labels has dtype uint64, whose range a GPU stream does not look at; convert to int64")
            self._store_of(rows.device, chosen.name, rows.dtype).append(rows, of_row, self.grid)
        else:
            self._append_on_cpu(rows, of_row, chosen)
        self._dtype, self._num_columns = rows.dtype, rows.num_columns
        self._device, self._backend_used = rows.device, chosen.name

    def _append_on_cpu(self, rows: Rows, labels: Labels, chosen: backends.Backend) -> None:
        label_values = labels.raw(rows.num_rows)
        if label_values.dtype == np.uint64 and (label_values > np.uint64(2**63 - 1)).any():
            raise ValueError(f"labels holds {int(label_values.max())}; streaming takes labels below 2**63")
        fingerprints, holds_nan = chosen.row_fingerprints(rows, self.grid)
        if holds_nan.any():
            fingerprints, label_values = fingerprints[~holds_nan], label_values[~holds_nan]
        self._rows.append(fingerprints, label_values)
        self._num_nan_rows += int(holds_nan.sum())

    def _store_of(self, device: str, backend: str, dtype: str) -> GpuRowStore:
        store = self._on_gpus.get(device)
        if store is None or not store.size:  # an empty one was left by an update that failed, perhaps of another type
            store = self._on_gpus[device] = GpuRowStore(backend, device, dtype)
        return store

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
        for device, store in other._on_gpus.items():
            self._store_of(device, store.backend, store.dtype).extend(store)
        for fingerprints, labels in list(other._rows.blocks()):
            self._rows.append(fingerprints, labels)
        self._num_nan_rows += other._num_nan_rows
        self._dtype, self._num_columns = other._dtype, other._num_columns
        self._device, self._backend_used = other._device, other._backend_used

    def compute(self, process_group: ProcessGroup | Literal["world"] | None = None) -> BundleResult:
        """Result over all rows so far; the metric stays as it is.

        Args:
            process_group: None for the rows of this process, without a word to any other. "world"
                or a group of ``torch.distributed`` for the rows of all its ranks; then each of them
                must call, and gets the same result. Many layers: ``compute_across_ranks``.

        Raises:
            ValueError: no rows yet, or what ``compute_across_ranks`` says.
        """
        if process_group is not None:
            from .distributed import compute_across_ranks

            return compute_across_ranks({"": self}, process_group)[""]
        if self._dtype is None or not self.num_rows:
            raise ValueError("no rows yet: call update() before compute()")
        counts = self._counts()
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

    def _counts(self) -> BundleCounts:
        """On the GPU if everything is on one; else on the CPU."""
        stores = [store for store in self._on_gpus.values() if store.size]
        if len(stores) == 1 and stores[0].size == self.num_rows <= backends.MOST_ROWS_ON_A_GPU:
            return stores[0].count()
        gathered, num_nan_rows = self._gathered()
        return backends.count_fingerprints(list(gathered.blocks()), num_nan_rows)

    def _gathered(self) -> tuple[RowStore, int]:
        """All rows without NaN on the CPU, and the number of rows with NaN."""
        if not self._on_gpus:
            return self._rows, self._num_nan_rows
        gathered, num_nan_rows = RowStore(), self._num_nan_rows
        for fingerprints, labels in self._rows.blocks():
            gathered.append(fingerprints, labels)
        for store in self._on_gpus.values():
            if store.size:
                fingerprints, labels, nan_rows = store.on_host()
                gathered.append(fingerprints, labels)
                num_nan_rows += nan_rows
        return gathered, num_nan_rows

    def __getstate__(self) -> dict[str, Any]:
        gathered, num_nan_rows = self._gathered()
        return {**self.__dict__, "_rows": gathered, "_num_nan_rows": num_nan_rows, "_on_gpus": {}}

    def __deepcopy__(self, memo: dict[int, Any]) -> BundleEntropy:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update({name: copy.deepcopy(value, memo) for name, value in self.__dict__.items()})
        return twin

    def state_dict(self) -> dict[str, Any]:
        """Everything seen so far, as plain types and NumPy arrays; waits for a GPU that holds some of it."""
        gathered, num_nan_rows = self._gathered()
        fingerprints, labels = gathered.concatenated()
        return {
            "format": _FORMAT,
            "fingerprints": fingerprints,
            "labels": labels,
            "num_nan_rows": num_nan_rows,
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


def _has_tensors_for(rows: Rows) -> bool:
    """Can the state of these rows be torch tensors on their device? No, without torch, on an emulated GPU.

    Raises:
        ValueError: no, and there is no other place for it.
    """
    if rows.device == "cpu":
        return "torch" in sys.modules
    if not torch_with_gpu():
        raise ValueError(
            f"acts is on {rows.device}, where a stream is kept in torch tensors; import torch with CUDA first"
        )
    return True


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

"""What a stream holds of one layer: a fingerprint and a label of each row, where the row was, and what the rows are.

``streaming.py`` adds to it and counts it, ``distributed.py`` counts that of all ranks.
"""

from __future__ import annotations

import copy
import sys
from typing import Any

import numpy as np

from . import backends, row_store, stream_keys
from .arrays import DTYPES, Labels, Rows, torch_with_gpu
from .entropy import BundleCounts
from .gpu_row_store import GpuRowStore
from .grid import UpdateGrid
from .row_store import RowStore

FORMAT = 3
"""Of states and pickles: a new one whenever the same row gets another fingerprint, or a state holds something else.

A pickle is read by the version that wrote it.
"""


class HeldRows:
    """Rows of one type and width, on the CPU and on GPUs; pickles hold CPU memory only.

    Args:
        key: of the fingerprints; None takes the default one, or that of rows which come from another metric.

    Attributes:
        dtype: type of the activations; None before the first.
        num_columns: D, values per row.
        device: where the last rows were.
        backend: name of what read the last rows.
        on_gpus: device -> what is held there.
    """

    def __init__(self, key: int | None = None) -> None:
        self._given_key = self._key = key
        self.dtype: str | None = None
        self.num_columns = 0
        self.device = "cpu"
        self.backend = "cpu"
        self.on_gpus: dict[str, GpuRowStore] = {}
        self._on_cpu = RowStore()
        self._num_nan_rows = 0  # of rows on the CPU

    @property
    def num_rows(self) -> int:
        """Rows with NaN included."""
        return self._on_cpu.size + self._num_nan_rows + sum(store.size for store in self.on_gpus.values())

    @property
    def key(self) -> int:
        """Key of the fingerprints, chosen when it is first asked for."""
        self._key = self._key_to_choose()
        return self._key

    def _key_to_choose(self) -> int:
        return stream_keys.default_key() if self._key is None else self._key

    def require_key(self, key: int, whose: str) -> None:
        """Raise ValueError unless fingerprints under this key may join those held; the sentence keeps both secret."""
        if key != self._key and (self.num_rows or self._given_key is not None):
            held = f"the {self.num_rows} rows" if self.num_rows else "the key="
            raise ValueError(
                f"{whose} was made under another key than {held} of this metric; pass the same key= to all metrics "
                "whose rows meet, such as BundleEntropy(key=first.key), where workers make them too"
            )

    def add(self, rows: Rows, labels: Labels, grid: UpdateGrid | None, backend: backends.Backend) -> None:
        """Add rows; never waits for a GPU.

        Raises:
            TypeError, ValueError: rows of another type or width, or labels that cannot be kept; nothing is added.
        """
        num_columns = rows.num_columns
        self._require_same_rows(rows.dtype, num_columns)
        key = self._key_to_choose()
        if backend.on_gpu is not None and _has_tensors_for(rows):
            after = self._with_rows_on_gpu(rows, labels, grid, key, backend.on_gpu)
        else:
            after = self._with_rows_on_cpu(rows, labels, grid, key, backend)
        after |= {"_key": key, "dtype": rows.dtype, "num_columns": num_columns}
        after |= {"device": rows.device, "backend": backend.name}
        vars(self).update(after)  # one step for Python: Ctrl-C comes before or behind it

    def _with_rows_on_gpu(
        self, rows: Rows, labels: Labels, grid: UpdateGrid | None, key: int, backend: backends.Cuda
    ) -> dict[str, Any]:
        """What this will hold, by the names of its attributes."""
        if DTYPES[labels.code] == "uint64":
            raise ValueError("labels has dtype uint64, whose range a GPU stream does not look at; convert to int64")
        after = copy.copy(self)
        after._store_of(rows.device, backend, rows.dtype).append(rows, labels, grid, key)
        return vars(after)

    def _with_rows_on_cpu(
        self, rows: Rows, labels: Labels, grid: UpdateGrid | None, key: int, backend: backends.Backend
    ) -> dict[str, Any]:
        """The same; what is not named stays as it is."""
        label_values = labels.raw()
        if DTYPES[labels.code] == "uint64" and (label_values > np.uint64(2**63 - 1)).any():
            raise ValueError(f"labels holds {int(label_values.max())}; streaming takes labels below 2**63")
        fingerprints, holds_nan = backend.row_fingerprints(rows, grid, key)
        num_nan_rows = holds_nan.tobytes().count(True)
        if num_nan_rows:
            fingerprints, label_values = fingerprints[~holds_nan], label_values[~holds_nan]
        on_cpu = self._on_cpu.with_rows(fingerprints, np.array(label_values, np.int64))
        return {"_on_cpu": on_cpu, "_num_nan_rows": self._num_nan_rows + num_nan_rows}

    def _store_of(self, device: str, backend: backends.Cuda, dtype: str) -> GpuRowStore:
        store = self.on_gpus.get(device)
        if store is None or not store.size:  # an empty one was left by an update that failed, perhaps of another type
            store = self.on_gpus[device] = GpuRowStore(backend, device, dtype)
        return store

    def extend(self, other: HeldRows) -> None:
        """Add what another one holds.

        Raises:
            TypeError, ValueError: rows of another type or width, or under another key; nothing is added.
        """
        if other.dtype is None:
            return
        self._require_same_rows(other.dtype, other.num_columns)
        self.require_key(other.key, "other")
        after = copy.copy(self)
        after._key = other.key
        for device, store in other.on_gpus.items():
            after._store_of(device, store.backend, store.dtype).extend(store)
        after._on_cpu = after._on_cpu.with_all_of(other._on_cpu)
        after._num_nan_rows += other._num_nan_rows
        after._remember(other.dtype, other.num_columns, other.device, other.backend)
        self._become(after)

    def restore(
        self, fingerprints: row_store.Fingerprints, labels: row_store.Labels, key: int, num_nan_rows: int,
        dtype: str | None, num_columns: int,
    ) -> None:  # fmt: skip
        """Add what ``on_host`` of another one told, to nothing so far."""
        self._on_cpu = self._on_cpu.with_rows(fingerprints.copy(), labels.copy())
        self._key = key
        self._num_nan_rows = num_nan_rows
        self.dtype, self.num_columns = dtype, num_columns

    def _remember(self, dtype: str, num_columns: int, device: str, backend: str) -> None:
        self.dtype, self.num_columns, self.device, self.backend = dtype, num_columns, device, backend

    def _require_same_rows(self, dtype: str, num_columns: int) -> None:
        if self.dtype is None:
            return
        if dtype != self.dtype:
            raise TypeError(f"acts has dtype {dtype} after batches of {self.dtype}; they must agree")
        if num_columns != self.num_columns:
            raise ValueError(
                f"acts has {num_columns} values per row after batches of {self.num_columns}; they must agree"
            )

    def counts(self) -> BundleCounts:
        """Count labels per bundle of equal fingerprints: on the GPU if everything is on one; else on the CPU."""
        stores = [store for store in self.on_gpus.values() if store.size]
        if len(stores) == 1 and stores[0].size == self.num_rows <= backends.MOST_ROWS_ON_A_GPU:
            return stores[0].count()
        gathered, num_nan_rows = self.on_host()
        return backends.count_fingerprints(list(gathered.blocks()), num_nan_rows)

    def on_host(self) -> tuple[RowStore, int]:
        """All rows without NaN on the CPU, and the number of rows with NaN; waits for a GPU that holds some."""
        if not self.on_gpus:
            return self._on_cpu, self._num_nan_rows
        gathered, num_nan_rows = self._on_cpu, self._num_nan_rows
        for store in self.on_gpus.values():
            if store.size:
                fingerprints, labels, nan_rows = store.on_host()
                gathered = gathered.with_rows(fingerprints, labels)
                num_nan_rows += nan_rows
        return gathered, num_nan_rows

    def __copy__(self) -> HeldRows:
        twin = HeldRows()
        on_gpus = {device: copy.copy(store) for device, store in self.on_gpus.items()}
        vars(twin).update(vars(self), on_gpus=on_gpus)
        return twin

    def _become(self, after: HeldRows) -> None:
        vars(self).update(vars(after))  # one step for Python: Ctrl-C comes before or behind it

    def __getstate__(self) -> dict[str, Any]:
        gathered, num_nan_rows = self.on_host()
        held = {"_key": self.key, "_on_cpu": gathered, "_num_nan_rows": num_nan_rows, "on_gpus": {}}
        return {**vars(self), **held, "format": FORMAT}

    def __setstate__(self, state: dict[str, Any]) -> None:
        require_format(state.pop("format", None), "the pickle")
        vars(self).update(state)

    def __deepcopy__(self, memo: dict[int, Any]) -> HeldRows:
        twin = HeldRows()  # not by __getstate__: what is on a GPU stays there
        vars(twin).update(copy.deepcopy(vars(self), memo))
        return twin


def require_format(found: object, whose: str) -> None:
    """Raise ValueError unless rows that were held in this format may be gone on with."""
    if found != FORMAT:
        raise ValueError(
            f"{whose} has format {found!r} and this version reads {FORMAT}, in which the same rows have other "
            "fingerprints; stream the rows again, or go on with the version that wrote it"
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

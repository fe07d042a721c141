"""The table of implementations. A new one is tested the day its name appears here.

Every backend keeps the same promise (``csrc/contract.h``) and gives the same integers. ``cpu`` and
``cuda`` are the two halves of the compiled module, ``reference`` is the definition in NumPy, slow.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from . import _core, reference
from .arrays import Labels, Rows
from .entropy import BundleCounts
from .grid import UpdateGrid

Array = npt.NDArray[Any]


class Backend(Protocol):
    """What an implementation offers."""

    name: str

    def count_bundles(
        self,
        rows: Rows,
        labels: Labels,
        grid: UpdateGrid | None,
        tolerance: tuple[float, float] | None,
        check_nan: bool,
    ) -> BundleCounts:
        """Group the rows and count labels per conflicting bundle."""

    def bundle_ids(self, rows: Rows, grid: UpdateGrid | None, tolerance: tuple[float, float] | None) -> Any:
        """(N,) int64, where the input lives."""

    def row_fingerprints(self, rows: Rows, grid: UpdateGrid | None) -> tuple[Array, Array]:
        """(N, 2) uint64 and (N,) bool: does the row hold a NaN."""

    def conflict_margin(self, rows: Rows, labels: Labels) -> float:
        """Smallest L-infinity distance of two rows with different labels."""


class _Compiled:
    """One half of the compiled module."""

    def __init__(self, name: str, functions: Any) -> None:
        self.name = name
        self._functions = functions

    def count_bundles(
        self, rows: Rows, labels: Labels, grid: UpdateGrid | None,
        tolerance: tuple[float, float] | None, check_nan: bool,
    ) -> BundleCounts:  # fmt: skip
        bundles, nan_rows, conflicting, conflicting_rows, counts, starts = self._functions.count_bundles(
            rows.pointer, rows.shape, rows.strides, rows.code,
            labels.pointer, labels.stride, labels.code,
            None if grid is None else grid.parameters, tolerance, check_nan, num_threads(),
        )  # fmt: skip
        return BundleCounts(rows.shape[0], bundles, nan_rows, conflicting, conflicting_rows, counts, starts)

    def bundle_ids(self, rows: Rows, grid: UpdateGrid | None, tolerance: tuple[float, float] | None) -> Any:
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(rows.owner, torch.Tensor):
            ids = torch.empty(rows.shape[0], dtype=torch.int64, device=rows.owner.device)
            pointer = ids.data_ptr()
        else:
            ids = np.empty(rows.shape[0], np.int64)
            pointer = ids.ctypes.data
        self._functions.bundle_ids(
            rows.pointer, rows.shape, rows.strides, rows.code,
            None if grid is None else grid.parameters, tolerance, pointer, num_threads(),
        )  # fmt: skip
        return ids

    def row_fingerprints(self, rows: Rows, grid: UpdateGrid | None) -> tuple[Array, Array]:
        fingerprints = np.empty((rows.shape[0], 2), np.uint64)
        holds_nan = np.empty(rows.shape[0], np.bool_)
        self._functions.row_fingerprints(
            rows.pointer, rows.shape, rows.strides, rows.code,
            None if grid is None else grid.parameters,
            fingerprints.ctypes.data, holds_nan.ctypes.data, num_threads(),
        )  # fmt: skip
        return fingerprints, holds_nan

    def conflict_margin(self, rows: Rows, labels: Labels) -> float:
        margin: float = self._functions.conflict_margin(
            rows.pointer, rows.shape, rows.strides, rows.code,
            labels.pointer, labels.stride, labels.code, num_threads(),
        )  # fmt: skip
        return margin


TABLE: dict[str, Backend] = {
    "reference": reference.Reference(),
    "cpu": _Compiled("cpu", _core.cpu),
    "cuda": _Compiled("cuda", _core.cuda),
}


def require_name(name: str) -> None:
    """Raise ValueError unless a backend, or "auto", is called ``name``."""
    if name != "auto" and name not in TABLE:
        raise ValueError(f"backend is {name!r}; choose one of auto, {', '.join(TABLE)}")


def choose(name: str, rows: Rows) -> Backend:
    """The backend called ``name``; "auto" goes by the device of the input."""
    if name == "auto":
        return TABLE["cpu" if rows.device == "cpu" else "cuda"]
    require_name(name)
    if name != "cuda" and rows.device != "cpu":
        raise ValueError(f"acts is on {rows.device}, where backend {name!r} cannot work; use backend 'auto'")
    if name == "cuda" and rows.device == "cpu":
        _core.cuda.require()
        raise ValueError("acts is on cpu, where backend 'cuda' cannot work; move it to a GPU or use 'auto'")
    return TABLE[name]


def num_threads() -> int:
    """Threads a kernel may use: torch's setting, else OMP_NUM_THREADS, else the cores we may run on."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):
        return int(torch.get_num_threads())
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def count_fingerprints(blocks: list[tuple[Array, Array]], num_nan_rows: int) -> BundleCounts:
    """Count labels per bundle of equal fingerprints; ``blocks`` holds ((n, 2) uint64, (n,) int64) pairs."""
    addresses = [(f.ctypes.data, y.ctypes.data, len(y)) for f, y in blocks]
    num_rows = sum(len(y) for _, y in blocks) + num_nan_rows
    bundles, _, conflicting, conflicting_rows, counts, starts = _core.count_fingerprints(addresses, num_threads())
    return BundleCounts(num_rows, bundles + num_nan_rows, num_nan_rows, conflicting, conflicting_rows, counts, starts)

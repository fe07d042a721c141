"""The table of implementations. A new one is tested the day its name appears here.

Every backend keeps the same promise (``csrc/contract.h``) and gives the same integers. ``cpu`` and
``cuda`` are the two halves of the compiled module, ``reference`` is the definition in NumPy, slow.
"""

# ruff: noqa: D102 (what the methods promise is said once, in Backend)

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from . import _core, reference
from .arrays import Labels, Rows, may_hold_nan
from .choices import MOST_THREADS
from .device_arrays import OwnersInUse, give_back_reserve_of_torch, handed_back, new_ids, streams_of
from .entropy import BundleCounts
from .grid import UpdateGrid
from .options import Tolerance
from .stream_keys import FIXED_KEY

Array = npt.NDArray[Any]

MOST_ROWS_ON_A_GPU = 2**30 - 1
"""Rows that one call of the CUDA backend can count."""


class Backend(Protocol):
    """What an implementation offers."""

    name: str
    on_gpu: Cuda | None
    """Itself where its rows can stay on a GPU, which counts many layers at once and streams them; else None."""

    def takes(self, rows: Rows) -> bool:
        """Can it read memory on the device of these rows?"""

    def require(self) -> None:
        """Raise ValueError with the reason when it cannot be used on this machine."""

    def count_bundles(
        self, rows: Rows, labels: Labels, grid: UpdateGrid | None, tolerance: Tolerance | None, check_nan: bool
    ) -> BundleCounts:
        """Group the rows and count labels per conflicting bundle."""

    def count_layers(
        self, layers: Sequence[Rows], labels: Labels, grid: UpdateGrid | None, check_nan: bool
    ) -> list[BundleCounts]:
        """``count_bundles`` of every layer, all on one device; on a GPU in one launch for every kind of value."""

    def bundle_ids(self, rows: Rows, grid: UpdateGrid | None, tolerance: Tolerance | None) -> Any:
        """(N,) int64, where the input lives."""

    def row_fingerprints(self, rows: Rows, grid: UpdateGrid | None, key: int = FIXED_KEY) -> tuple[Any, Any]:
        """(N, 2) uint64 and (N,) bool: does the row hold a NaN. NumPy, or tensors on the GPU of the input."""

    def conflict_margin(self, rows: Rows, labels: Labels) -> float:
        """Smallest L-infinity distance of two rows with different labels."""

    def queue_layers(
        self, layers: Sequence[Rows], labels: Labels, grid: UpdateGrid | None, check_nan: bool
    ) -> Callable[[], list[BundleCounts]]:
        """``count_layers`` without a wait: what comes back gives the counts, and waits for them if they are on a GPU.

        A CUDA graph may capture it: what comes back then gives the counts of the latest replay.

        Raises:
            RuntimeError: by what comes back: the graph has not been replayed.
        """

    def queue_margin(self, rows: Rows, labels: Labels) -> Callable[[], float]:
        """``conflict_margin`` without a wait; see ``queue_layers``."""


class _OnCpu:
    """What backends share that read CPU memory: layers are counted one by one."""

    on_gpu: Cuda | None = None

    def takes(self, rows: Rows) -> bool:
        return rows.device == "cpu"

    def require(self) -> None:
        return None

    def count_layers(
        self: Backend, layers: Sequence[Rows], labels: Labels, grid: UpdateGrid | None, check_nan: bool
    ) -> list[BundleCounts]:
        return [self.count_bundles(rows, labels, grid, None, check_nan) for rows in layers]

    def queue_layers(
        self: Backend, layers: Sequence[Rows], labels: Labels, grid: UpdateGrid | None, check_nan: bool
    ) -> Callable[[], list[BundleCounts]]:
        counts = self.count_layers(layers, labels, grid, check_nan)
        return lambda: counts

    def queue_margin(self: Backend, rows: Rows, labels: Labels) -> Callable[[], float]:
        margin = self.conflict_margin(rows, labels)
        return lambda: margin


class _Reference(_OnCpu, reference.Reference):
    """The definition."""


class _Cpu(_OnCpu):
    """The half of the compiled module for CPU memory."""

    def __init__(self, name: str, functions: Any) -> None:
        self.name = name
        self._functions = functions

    def count_bundles(
        self, rows: Rows, labels: Labels, grid: UpdateGrid | None, tolerance: Tolerance | None, check_nan: bool
    ) -> BundleCounts:
        counts = self._functions.count_bundles(
            *_memory(rows), labels.pointer, labels.stride, labels.code,
            _parameters(grid), tolerance, check_nan, num_threads(),
        )  # fmt: skip
        return BundleCounts(rows.num_rows, *counts)

    def bundle_ids(self, rows: Rows, grid: UpdateGrid | None, tolerance: Tolerance | None) -> Any:
        ids, address = new_ids(rows)
        self._functions.bundle_ids(*_memory(rows), _parameters(grid), tolerance, address, num_threads())
        return ids

    def row_fingerprints(self, rows: Rows, grid: UpdateGrid | None, key: int = FIXED_KEY) -> tuple[Any, Any]:
        fingerprints = np.empty((rows.num_rows, 2), np.uint64)
        holds_nan = np.empty(rows.num_rows, np.bool_)
        self._functions.row_fingerprints(
            *_memory(rows), _parameters(grid), _halves(key), _core.address_of(fingerprints),
            _core.address_of(holds_nan), num_threads(),
        )  # fmt: skip
        return fingerprints, holds_nan

    def conflict_margin(self, rows: Rows, labels: Labels) -> float:
        margin: float = self._functions.conflict_margin(
            *_memory(rows), labels.pointer, labels.stride, labels.code, num_threads()
        )
        return margin


class Cuda:
    """The half of the compiled module for GPU memory.

    Work is queued on the caller's stream; only what returns numbers waits for them. Under another
    name than "cuda" the functions are an emulation, whose GPU memory is this process's memory.
    """

    def __init__(self, name: str, functions: Any) -> None:
        self.name = name
        self.on_gpu: Cuda | None = self
        self._functions = functions
        self._is_emulated = name != "cuda"
        self._owners_in_use = OwnersInUse()

    def takes(self, rows: Rows) -> bool:
        return self._is_emulated or rows.device != "cpu"

    def require(self) -> None:
        self._functions.require()

    def count_bundles(
        self, rows: Rows, labels: Labels, grid: UpdateGrid | None, tolerance: Tolerance | None, check_nan: bool
    ) -> BundleCounts:
        return self._counts([rows], labels, grid, tolerance, check_nan)[0]

    def count_layers(
        self, layers: Sequence[Rows], labels: Labels, grid: UpdateGrid | None, check_nan: bool
    ) -> list[BundleCounts]:
        return self._counts(layers, labels, grid, None, check_nan) if layers else []

    def _counts(
        self, layers: Sequence[Rows], labels: Labels, grid: UpdateGrid | None,
        tolerance: Tolerance | None, check_nan: bool,
    ) -> list[BundleCounts]:  # fmt: skip
        where = self._stream([*layers, labels])
        counts = self._run(
            self._functions.count_bundles, [_memory(rows) for rows in layers], labels.pointer, labels.stride,
            labels.code, _parameters(grid), tolerance, check_nan, *where,
        )  # fmt: skip
        return [BundleCounts(layers[0].num_rows, *of_layer) for of_layer in counts]

    def bundle_ids(self, rows: Rows, grid: UpdateGrid | None, tolerance: Tolerance | None) -> Any:
        ids, address = new_ids(rows)
        where = self._stream([rows], ids)
        self._run(self._functions.bundle_ids, *_memory(rows), _parameters(grid), tolerance, address, *where)
        self._owners_in_use.hold([rows], ids)
        return handed_back(ids, rows)

    def row_fingerprints(self, rows: Rows, grid: UpdateGrid | None, key: int = FIXED_KEY) -> tuple[Any, Any]:
        torch = sys.modules.get("torch")
        if rows.device == "cpu" and (torch is None or not isinstance(rows.owner, torch.Tensor)):  # emulated
            found = np.empty((rows.num_rows, 2), np.uint64)
            self._fill(rows, grid, key, _core.address_of(found), self._stream([rows]))
            return found, (found == 0).all(axis=1) & may_hold_nan(rows.dtype)
        if torch is None:
            raise ValueError(f"acts is on {rows.device}, where fingerprints are tensors; import torch first")
        patterns = torch.empty((rows.num_rows, 2), dtype=torch.int64, device=rows.device)
        self.write_fingerprints(rows, grid, key, patterns)
        holds_nan = (patterns == 0).all(1) if may_hold_nan(rows.dtype) else torch.zeros_like(patterns[:, 0]).bool()
        return patterns.view(torch.uint64), holds_nan

    def write_fingerprints(
        self, rows: Rows, grid: UpdateGrid | None, key: int, patterns: Any, labels: Labels | None = None
    ) -> None:
        """Fill a contiguous (N, 2) int64 tensor with the bits of the fingerprints; a NaN row gets (0, 0).

        ``labels`` may be read on torch's current stream afterwards; then call ``hold_labels``. Never waits.
        """
        where = self._stream([rows] if labels is None else [rows, labels], patterns)
        self._fill(rows, grid, key, patterns.data_ptr(), where)
        self._owners_in_use.hold([rows], patterns)

    def _fill(
        self, rows: Rows, grid: UpdateGrid | None, key: int, fingerprints: int, where: tuple[int, int]
    ) -> None:  # fmt: skip
        """Write the bits of the fingerprints to an address."""
        self._run(
            self._functions.row_fingerprints, *_memory(rows), _parameters(grid), _halves(key), fingerprints, *where
        )

    def hold_labels(self, labels: Labels, copy: Any) -> None:
        """Keep the labels of another library alive until the tensor ``copy`` holds them."""
        self._owners_in_use.hold([labels], copy)

    def count_fingerprints(self, patterns: Any, labels: Any, dtype: str) -> BundleCounts:
        """Count labels per bundle of equal fingerprints of rows of type ``dtype``; waits for the GPU once.

        Args:
            patterns: (N, 2) int64 tensor, contiguous, as ``write_fingerprints`` leaves it.
            labels: (N,) int64 tensor, contiguous, on the same device.
        """
        torch = sys.modules["torch"]
        device = max(patterns.get_device(), 0)  # -1 is the CPU
        stream = torch.cuda.current_stream(device).cuda_stream if patterns.is_cuda else 0
        counts = self._run(
            self._functions.count_fingerprints, patterns.data_ptr(), labels.data_ptr(), len(labels),
            may_hold_nan(dtype), device, stream,
        )  # fmt: skip
        return BundleCounts(len(labels), *counts)

    def conflict_margin(self, rows: Rows, labels: Labels) -> float:
        margin: float = self._run(
            self._functions.conflict_margin, *_memory(rows), labels.pointer, labels.stride, labels.code,
            *self._stream([rows, labels]),
        )  # fmt: skip
        return margin

    def queue_layers(
        self, layers: Sequence[Rows], labels: Labels, grid: UpdateGrid | None, check_nan: bool
    ) -> Callable[[], list[BundleCounts]]:
        if not layers:
            return list
        num_rows = layers[0].num_rows
        read = self._run(
            self._functions.queue_bundles, [_memory(rows) for rows in layers], labels.pointer, labels.stride,
            labels.code, _parameters(grid), check_nan, *self._stream([*layers, labels]),
        )  # fmt: skip
        self._owners_in_use.hold([*layers, labels], None)
        return lambda: [BundleCounts(num_rows, *of_layer) for of_layer in read()]

    def queue_margin(self, rows: Rows, labels: Labels) -> Callable[[], float]:
        read: Callable[[], float] = self._run(
            self._functions.queue_margin, *_memory(rows), labels.pointer, labels.stride, labels.code,
            *self._stream([rows, labels]),
        )  # fmt: skip
        self._owners_in_use.hold([rows, labels], None)
        return read

    def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """A call of the module; where the GPU has no memory left, once more without what torch holds in reserve.

        Raises:
            MemoryError: there is not enough memory then either.
        """
        try:
            return function(*arguments)
        except MemoryError:
            give_back_reserve_of_torch()
        try:
            return function(*arguments)
        except MemoryError:
            raise MemoryError(
                "the GPU has no memory left for the call (at most 64 bytes a row of working memory); free some of it, "
                "or pass fewer rows at a time to BundleEntropy"
            ) from None

    def _stream(self, views: Sequence[Rows], result: Any = None) -> tuple[int, int]:
        """Device and stream to work on; it waits (on the GPU) for the streams that the inputs name."""
        stream, others = streams_of(views, result)
        device = views[0].device_index
        for other in others:
            self._functions.wait_for(device, stream, other)
        return device, stream


def _memory(rows: Rows) -> tuple[int, tuple[int, ...], tuple[int, ...], int]:
    return rows.pointer, rows.shape, rows.strides, rows.code


def _parameters(grid: UpdateGrid | None) -> tuple[int, float, float, float] | None:
    return None if grid is None else grid.parameters


def _halves(key: int) -> tuple[int, int]:
    return key & (1 << 64) - 1, key >> 64


TABLE: dict[str, Backend] = {
    "reference": _Reference(),
    "cpu": _Cpu("cpu", _core.cpu),
    "cuda": Cuda("cuda", _core.cuda),
}


def require_name(name: str) -> None:
    """Raise ValueError unless a backend, or "auto", is called ``name``."""
    if name != "auto" and name not in TABLE:
        raise ValueError(f"backend is {name!r}; choose one of auto, {', '.join(TABLE)}")


def choose(name: str, rows: Rows) -> Backend:
    """The backend called ``name``; "auto" goes by the device of the input.

    Raises:
        ValueError: no such backend, not usable on this machine, not for this device, or too many rows.
    """
    if name == "auto":
        backend = TABLE["cpu" if rows.device == "cpu" else "cuda"]
    else:
        require_name(name)
        backend = TABLE[name]
    if backend.on_gpu is None and rows.device == "cpu":
        return backend
    backend.require()
    if not backend.takes(rows):
        there = "move it to a GPU or use 'auto'" if rows.device == "cpu" else "use backend 'auto'"
        raise ValueError(f"acts is on {rows.device}, where backend {name!r} cannot work; {there}")
    if rows.num_rows > MOST_ROWS_ON_A_GPU:
        raise ValueError(f"acts has {rows.num_rows} rows; a GPU counts at most {MOST_ROWS_ON_A_GPU}, so pass fewer")
    return backend


def num_threads() -> int:
    """Threads a kernel may use, at most 1024: torch's setting, else OMP_NUM_THREADS, else the cores we may run on."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):
        return min(MOST_THREADS, int(torch.get_num_threads()))
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if wanted.isdecimal() and (threads := int(wanted[:9])):
        return min(MOST_THREADS, threads)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def count_fingerprints(blocks: list[tuple[Array, Array]], num_nan_rows: int) -> BundleCounts:
    """Count labels per bundle of equal fingerprints; ``blocks`` holds ((n, 2) uint64, (n,) int64) pairs."""
    addresses = [(_core.address_of(f), _core.address_of(y), len(y)) for f, y in blocks]
    num_rows = sum(len(y) for _, y in blocks) + num_nan_rows
    bundles, _, conflicting, conflicting_rows, counts, starts = _core.count_fingerprints(addresses, num_threads())
    return BundleCounts(num_rows, bundles + num_nan_rows, num_nan_rows, conflicting, conflicting_rows, counts, starts)

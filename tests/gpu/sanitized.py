"""A small part of everything, for compute-sanitizer; `bench/gpu_checks/programs/sanitized_calls.py` runs it.

No torch: the driver itself allocates every array with its exact size, so that one byte read behind an end is seen,
and the sanitizer watches our kernels only. Answers are compared with the CPU's.
"""

from __future__ import annotations

import ctypes
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

import cbkernels as cb
from cbkernels import backends
from cbkernels.arrays import as_labels, as_rows

GRIDS = (None, cb.UpdateGrid(1e-3, 50, 0.7), cb.UpdateGrid(1e-3, 50, 0.7, dtype="float64"),
         cb.UpdateGrid(1e-3, 50, 0.7, dtype="bfloat16"))  # fmt: skip
SHAPES = ((1, 1), (5, 0), (7, 3), (33, 130), (64, 1000), (300, 9), (1500, 2), (20, 5001))
TYPES = ("float32", "float16", "float64", "int8", "uint64", "bool")
NAN_ROW = 2


class Memory(Protocol):
    """Where the functions work."""

    def put(self, values: Any) -> int:
        """A copy of the bytes there; its address."""

    def get(self, address: int, shape: tuple[int, ...], kind: Any) -> Any:
        """The array at an address, after all queued work."""

    def clear(self) -> None:
        """Give everything back."""


class GpuMemory:
    """Device memory straight from the driver, one allocation of the exact size for each array."""

    def __init__(self) -> None:
        self._driver = ctypes.CDLL("libcuda.so.1")
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        self._addresses: list[int] = []

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._driver, name)(*arguments)
        if status != 0:
            raise RuntimeError(f"{name} ended with error {status}")

    def put(self, values: Any) -> int:
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(values.nbytes, 1)))
        self._addresses.append(address.value)
        if values.nbytes:
            source = ctypes.c_void_p(values.ctypes.data)
            self._call("cuMemcpyHtoD_v2", address, source, ctypes.c_size_t(values.nbytes))
        return address.value

    def get(self, address: int, shape: tuple[int, ...], kind: Any) -> Any:
        values = np.empty(shape, kind)
        self._call("cuCtxSynchronize")
        if values.nbytes:
            target = ctypes.c_void_p(values.ctypes.data)
            self._call("cuMemcpyDtoH_v2", target, ctypes.c_uint64(address), ctypes.c_size_t(values.nbytes))
        return values

    def clear(self) -> None:
        self._call("cuCtxSynchronize")
        for address in self._addresses:
            self._call("cuMemFree_v2", ctypes.c_uint64(address))
        self._addresses.clear()


def rows_of(shape: tuple[int, int], dtype: str, seed: int) -> Any:
    """Few bundles, some rows apart in one value, both zeros, a NaN."""
    rng = np.random.default_rng(seed)
    values = np.array([0.0, -0.0, 1.0, 2.0, 3.5, 90.0]) if dtype[0] == "f" else np.array([0, 1, 2, 3, 4, 90])
    leaders = values[rng.integers(6, size=(5, shape[1]))]
    acts = leaders[rng.integers(5, size=shape[0])].astype(dtype)
    if shape[1] and shape[0] > NAN_ROW:
        acts[rng.integers(shape[0], size=3), rng.integers(shape[1], size=3)] = 1
        if dtype[0] == "f":
            acts[NAN_ROW, -1] = np.nan
    return acts


class Calls:
    """Every function of the cuda half on one input; ``wrong`` names the answers that are not the CPU's."""

    def __init__(self, functions: Any, memory: Memory) -> None:
        self.functions, self.memory, self.count = functions, memory, 0
        self.wrong: list[str] = []

    def compare(self, name: str, found: Any, expected: Any) -> None:
        self.count += 1
        if repr(found) != repr(expected):
            self.wrong.append(f"{name}: {str(found)[:80]} instead of {str(expected)[:80]}")

    def there(self, acts: Any) -> tuple[int, tuple[int, ...], tuple[int, ...], int]:
        """The array in device memory with its own strides, nothing behind its last value."""
        rows = as_rows(acts)
        behind = sum((n - 1) * s for n, s in zip(rows.shape, rows.strides, strict=True)) if acts.size else -1
        memory = np.ctypeslib.as_array((ctypes.c_uint8 * max(behind + acts.itemsize, 0)).from_address(rows.pointer))
        return self.memory.put(memory), rows.shape, rows.strides, rows.code

    def run(self, name: str, acts: Any, grid: cb.UpdateGrid | None) -> None:
        n, parameters = len(acts), None if grid is None else grid.parameters
        labels = np.random.default_rng(n).integers(0, 3, n)
        rows, of_row = as_rows(acts), as_labels(labels, as_rows(acts))
        cpu, f, m = backends.TABLE["cpu"], self.functions, self.memory
        there, names = self.there(acts), (m.put(labels), 8, of_row.code)
        ids = m.put(np.full(n, -1))
        f.bundle_ids(*there, parameters, None, ids, 0, 0)
        self.compare(
            f"{name} bundle_ids", m.get(ids, (n,), np.int64).tolist(), cpu.bundle_ids(rows, grid, None).tolist()
        )
        c = cpu.count_bundles(rows, of_row, grid, None, True)
        expected = _plain((c.num_bundles, c.num_nan_rows, c.num_conflicting, c.num_conflicting_rows,
                           c.label_counts, c.starts))  # fmt: skip
        for counts in f.count_bundles([there, there, there], *names, parameters, None, True, 0, 0):
            self.compare(f"{name} count_bundles", _plain(counts), expected)
        read = f.queue_bundles([there, there], *names, parameters, True, 0, 0)
        self.compare(f"{name} queued counts", [_plain(counts) for counts in read()], [expected] * 2)
        patterns, holds_nan = cpu.row_fingerprints(rows, grid, 2 << 64 | 1)
        found = m.put(np.full((n, 2), 7, np.uint64))
        f.row_fingerprints(*there, parameters, (1, 2), found, 0, 0)
        self.compare(f"{name} fingerprints", m.get(found, (n, 2), np.uint64).tolist(), patterns.tolist())
        counts = f.count_fingerprints(found, names[0], n, bool(holds_nan.any()), 0, 0)
        self.compare(f"{name} count_fingerprints", _plain(counts), expected)
        if grid is None and n <= 300:
            self.compare(f"{name} margin", f.conflict_margin(*there, *names, 0, 0), cpu.conflict_margin(rows, of_row))
            read_margin = f.queue_margin(*there, *names, 0, 0)
            self.compare(f"{name} queued margin", read_margin(), cpu.conflict_margin(rows, of_row))
            f.bundle_ids(*there, None, (0.0, 0.5), ids, 0, 0)
            near = cpu.bundle_ids(rows, None, (0.0, 0.5)).tolist()
            self.compare(f"{name} tolerance", m.get(ids, (n,), np.int64).tolist(), near)
        m.clear()


def _plain(counts: Any) -> list[Any]:
    *numbers, label_counts, starts = counts
    by_bundle = [sorted(label_counts[a:b].tolist()) for a, b in itertools.pairwise(starts)]
    return [*map(int, numbers), sorted(by_bundle)]


def inputs() -> Iterator[tuple[str, Any, cb.UpdateGrid | None]]:
    """The most telling ones first; endless, so that the time limit decides."""
    seed = 0
    while True:
        for dtype in TYPES:
            for k, shape in enumerate(SHAPES):
                acts = rows_of(shape, dtype, seed)
                layout = ("contiguous", "columns first", "every other column")[(k + seed) % 3]
                if layout == "columns first":
                    acts = np.asfortranarray(acts)
                elif layout == "every other column":
                    acts = acts.repeat(2, axis=1)[:, ::2]
                grid = GRIDS[(k + seed) % len(GRIDS)]
                yield f"{dtype} {shape} {layout} {'no grid' if grid is None else grid.dtype}", acts, grid
        seed += 1


def workload(
    functions: Any, memory: Memory, seconds: float, clock: Callable[[], float] = time.monotonic, most: int = 10**9
) -> Calls:
    """Runs inputs, and launch shapes that put many blocks on few rows, until the time is over."""
    calls, end = Calls(functions, memory), clock() + seconds
    launch_shapes = ((0, 0), (3, 64), (0, 0), (1, 256))
    for k, (name, acts, grid) in enumerate(inputs()):
        functions.use_launch_shape(*launch_shapes[k % len(launch_shapes)])
        calls.run(name, acts, grid)
        if clock() >= end or k + 1 >= most or calls.wrong:
            break
    functions.use_launch_shape(0, 0)
    return calls

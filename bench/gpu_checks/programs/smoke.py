"""One function of the cuda half on small inputs, with one block first: ``python smoke.py bundle_ids``.

No torch. Every line is printed before the call it announces, so that the last line of a hung process names it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import doors  # type: ignore[import-not-found]
import numpy as np
from sanitized import Calls, rows_of  # type: ignore[import-not-found]

import cbkernels as cb
from cbkernels import backends
from cbkernels.arrays import as_labels, as_rows

SHAPES = ((1, 1), (5, 0), (7, 3), (33, 130), (300, 9), (64, 1000), (5000, 20))
GRID = cb.UpdateGrid(1e-3, 50, 0.7)


class One:
    """An input in both memories, and the answers of both halves."""

    def __init__(self, calls: Calls, acts: Any) -> None:
        self.calls, self.n = calls, len(acts)
        self.labels = np.random.default_rng(self.n).integers(0, 3, self.n)
        self.rows, self.there = as_rows(acts), calls.there(acts)
        self.of_row = as_labels(self.labels, self.rows)
        self.names = (calls.memory.put(self.labels), 8, self.of_row.code)

    def ids(self, tolerance: tuple[float, float] | None) -> tuple[Any, Any]:
        ids = self.calls.memory.put(np.full(self.n, -1))
        self.calls.functions.bundle_ids(*self.there, None, tolerance, ids, 0, 0)
        expected = backends.TABLE["cpu"].bundle_ids(self.rows, None, tolerance)
        return self.calls.memory.get(ids, (self.n,), np.int64).tolist(), expected.tolist()

    def counts(self, num_layers: int) -> tuple[Any, Any]:
        found = self.calls.functions.count_bundles(
            [self.there] * num_layers, *self.names, GRID.parameters, None, True, 0, 0
        )
        c = backends.TABLE["cpu"].count_bundles(self.rows, self.of_row, GRID, None, True)
        expected = [c.num_bundles, c.num_nan_rows, c.num_conflicting, c.num_conflicting_rows]
        return [list(map(int, counts[:4])) for counts in found], [expected] * num_layers

    def fingerprints(self) -> tuple[Any, Any, Any]:
        found = self.calls.memory.put(np.full((self.n, 2), 7, np.uint64))
        self.calls.functions.row_fingerprints(*self.there, None, (1, 2), found, 0, 0)
        patterns, _ = backends.TABLE["cpu"].row_fingerprints(self.rows, None, 2 << 64 | 1)
        return self.calls.memory.get(found, (self.n, 2), np.uint64).tolist(), patterns.tolist(), found

    def counted_fingerprints(self) -> tuple[Any, Any]:
        *_, address = self.fingerprints()
        found = self.calls.functions.count_fingerprints(address, self.names[0], self.n, True, 0, 0)
        c = backends.TABLE["cpu"].count_bundles(self.rows, self.of_row, None, None, True)
        return list(map(int, found[:4])), [c.num_bundles, c.num_nan_rows, c.num_conflicting, c.num_conflicting_rows]

    def margin(self) -> tuple[Any, Any]:
        few = self.n <= 300
        found = self.calls.functions.conflict_margin(*self.there, *self.names, 0, 0) if few else 0.0
        return found, backends.TABLE["cpu"].conflict_margin(self.rows, self.of_row) if few else 0.0


KERNELS: dict[str, Callable[[One], tuple[Any, Any]]] = {
    "bundle_ids": lambda one: one.ids(None),
    "count_bundles": lambda one: one.counts(1),
    "layers": lambda one: one.counts(5),
    "row_fingerprints": lambda one: one.fingerprints()[:2],
    "count_fingerprints": lambda one: one.counted_fingerprints(),
    "conflict_margin": lambda one: one.margin(),
    "tolerance": lambda one: one.ids((0.0, 0.5)) if one.n <= 300 else (0, 0),
}


def main() -> int:
    kernel, core, memory = sys.argv[1], doors.core(), doors.memory()
    calls = Calls(core.cuda, memory)
    for launch_shape in ((1, 32), (0, 256), (0, 0)):
        core.cuda.use_launch_shape(*launch_shape)
        for shape in SHAPES:
            for dtype in ("float32", "float16", "int8"):
                name = f"{kernel} {dtype} {shape} blocks and threads {launch_shape}"
                print(name, flush=True)
                calls.compare(name, *KERNELS[kernel](One(calls, rows_of(shape, dtype, 1))))
                memory.clear()
    print(f"smoke: {calls.count} calls, {len(calls.wrong)} wrong answers", flush=True)
    for wrong in calls.wrong[:10]:
        print(f"  WRONG {wrong}", flush=True)
    return 1 if calls.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

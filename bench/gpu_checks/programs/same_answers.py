"""The same rows under many shapes of the launch, against the CPU: the cheapest test of the memory model.

``python same_answers.py SECONDS`` prints a line for every shape and JSON behind ``SAME`` at the end. No torch.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import doors  # type: ignore[import-not-found]
import numpy as np

import cbkernels as cb
from cbkernels import backends
from cbkernels.arrays import as_labels, as_rows

BLOCKS = (1, 2, 7, 33, 66, 131, 132)
THREADS = (32, 64, 128, 256, 0)
"""0: the kernel's own number (384 where rows are grouped)."""
ROWS_OF_A_BLOCK = (64, 4096)
SHAPES = ((2500, 20), (700, 257), (20_000, 3), (5000, 64), (150, 4096), (4096, 33))
GRID = cb.UpdateGrid(1e-3, 50, 0.7)


def inputs(number: int) -> tuple[str, Any, Any]:
    """A matrix of few, some, many or no equal rows; float32 and float16 in turn; a NaN in every fifth."""
    rng = np.random.default_rng(number)
    n, d = SHAPES[number % len(SHAPES)]
    bundles = (1, 7, n // 2, n)[number // len(SHAPES) % 4]
    acts = rng.integers(-3, 4, size=(bundles, d)).astype(("float32", "float16", "int8")[number % 3])
    acts = acts[rng.integers(bundles, size=n)]
    if number % 5 == 0 and number % 3 != 2:
        acts[rng.integers(n), -1] = np.nan
    return f"{acts.dtype} {acts.shape} of {bundles}", acts, rng.integers(0, 4, n)


def launch_shapes() -> Iterator[tuple[int, int, int]]:
    while True:
        for rows_of_a_block in ROWS_OF_A_BLOCK:
            for threads in THREADS:
                for blocks in BLOCKS:
                    yield blocks, threads, rows_of_a_block


def differences(cuda: Any, memory: Any, acts: Any, labels: Any, grid: Any) -> list[str]:
    """ids, counts and fingerprints that are not the CPU's."""
    cpu, rows = backends.TABLE["cpu"], as_rows(acts)
    of_row, n = as_labels(labels, rows), len(acts)
    parameters = None if grid is None else grid.parameters
    there = (memory.put(acts), rows.shape, rows.strides, rows.code)
    names, ids = (memory.put(labels), 8, of_row.code), memory.put(np.full(n, -1))
    found = memory.put(np.full((n, 2), 7, np.uint64))
    wrong = []
    cuda.bundle_ids(*there, parameters, None, ids, 0, 0)
    if not np.array_equal(memory.get(ids, (n,), np.int64), cpu.bundle_ids(rows, grid, None)):
        wrong.append("bundle_ids")
    c = cpu.count_bundles(rows, of_row, grid, None, True)
    expected = [c.num_bundles, c.num_nan_rows, c.num_conflicting, c.num_conflicting_rows]
    counts = cuda.count_bundles([there, there], *names, parameters, None, True, 0, 0)
    if any(list(map(int, of_layer[:4])) != expected for of_layer in counts):
        wrong.append(f"count_bundles {[list(map(int, of_layer[:4])) for of_layer in counts]} instead of {expected}")
    if any(sum(of_layer[4].tolist()) != expected[3] for of_layer in counts):
        wrong.append("label counts")
    cuda.row_fingerprints(*there, parameters, (1, 2), found, 0, 0)
    if not np.array_equal(memory.get(found, (n, 2), np.uint64), cpu.row_fingerprints(rows, grid, 2 << 64 | 1)[0]):
        wrong.append("row_fingerprints")
    memory.clear()
    return wrong


def main() -> int:
    seconds = float(sys.argv[1])
    core, memory = doors.core(), doors.memory()
    end, wrong, number = time.monotonic() + seconds, list[str](), 0
    for number, shape in enumerate(launch_shapes()):
        if time.monotonic() >= end:
            break
        core.cuda.use_launch_shape(*shape)
        name, acts, labels = inputs(number)
        grid = GRID if number % 4 == 3 else None
        line = f"{number}: blocks, threads, rows of a block {shape}: {name}{' on a grid' if grid else ''}"
        print(line, flush=True)
        found = differences(core.cuda, memory, acts, labels, grid)
        if found:
            print(f"  WRONG {'; '.join(found)}", flush=True)
            wrong.append(f"{line}: {'; '.join(found)}")
    all_shapes = len(BLOCKS) * len(THREADS) * len(ROWS_OF_A_BLOCK)
    print("SAME " + json.dumps({"inputs": number, "launch_shapes": min(number, all_shapes), "of": all_shapes,
                                "wrong": wrong[:30], "num_wrong": len(wrong)}))  # fmt: skip
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""Large enough for every parallel loop, from several Python threads at once; run under a sanitizer by run.sh.

The suite's cases are small, and small work opens no parallel region: this is what lets ThreadSanitizer see
threads at all. Answers are compared with those of one thread, exactly.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

import cbkernels as cb
from cbkernels import _core

THREADS = "4"


def inputs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(7)

    def some(n: int, d: int, bundles: int) -> np.ndarray:
        return rng.standard_normal((bundles, d)).astype(np.float32)[rng.integers(0, bundles, n)]

    last_column = np.zeros((2000, 3000), np.float32)
    last_column[:, -1] = np.arange(2000) % 7
    staircase = np.tri(1500, 1500, dtype=np.float32)
    holds_nan = some(3000, 1000, 50)
    holds_nan[::17, 999] = np.nan
    acts = {
        "distinct": rng.standard_normal((4000, 1024)).astype(np.float32),
        "equal": np.ones((3000, 1500), np.float32),
        "fifty": some(3000, 1500, 50),
        "last_column": last_column,
        "staircase": staircase,
        "pairs": np.repeat(rng.standard_normal((1500, 1024)).astype(np.float32), 2, axis=0),
        "holds_nan": holds_nan,
        "short": rng.integers(0, 3, (200_000, 8)).astype(np.float32),
        "short_distinct": np.arange(300_000, dtype=np.int64)[:, None],
        "many_distinct": rng.standard_normal((270_000, 40)).astype(np.float32),
        "half": some(3000, 2048, 40).astype(np.float16),
        "transposed": np.asfortranarray(some(3000, 1000, 60)),
    }
    return {name: (a, rng.integers(0, 5, len(a))) for name, a in acts.items()}


GRID = cb.UpdateGrid(learning_rate=1e-3, batch_size=50, weight_amplitude=1.5)


SERIAL_HERE = {"near"}  # searches on several threads from 65,536 leaders on: minutes under a sanitizer
IN_PARALLEL: set[str] = set()


def note_parallel(question: str) -> None:
    if _core.last_work()["parallel_regions"]:
        IN_PARALLEL.add(question)


def streamed(acts: np.ndarray, labels: np.ndarray) -> Any:
    metric = cb.BundleEntropy(grid=GRID)
    for part in np.array_split(np.arange(len(acts)), 3):
        metric.update(acts[part[0] : part[-1] + 1], labels[part[0] : part[-1] + 1])
        note_parallel("streamed")
    return metric.compute()


QUESTIONS: dict[str, Callable[[np.ndarray, np.ndarray], Any]] = {
    "entropy": lambda a, y: repr(cb.bundle_entropy(a, y)),
    "unchecked": lambda a, y: cb.bundle_entropy(a, y, check_nan=False).num_bundles,
    "grid": lambda a, y: repr(cb.bundle_entropy(a, y, grid=GRID)),
    "ids": lambda a, y: cb.bundle_rows(a).tobytes(),
    "near": lambda a, y: cb.bundle_rows(np.mod(a[:, :2], 3), tolerance=(0.0, 0.9)).tobytes(),
    "streamed": lambda a, y: repr(streamed(a, y)),
    "margin": lambda a, y: cb.conflict_margin(a[:600], y[:600]),
}


def ask(question: str, acts: np.ndarray, labels: np.ndarray, threads: str) -> Any:
    os.environ["OMP_NUM_THREADS"] = threads  # read at every call
    return QUESTIONS[question](acts, labels)


def main() -> int:
    given = inputs()
    expected = {(n, q): ask(q, *given[n], "1") for n in given for q in QUESTIONS}
    wrong: list[str] = []

    def check(name: str, question: str) -> None:
        answer = ask(question, *given[name], THREADS)
        note_parallel(question)
        if answer != expected[name, question]:
            wrong.append(f"{name}, {question}: {THREADS} threads and 1 thread disagree")

    def everything(order: list[tuple[str, str]]) -> None:
        for name, question in order:
            check(name, question)

    order = list(expected)
    callers = [threading.Thread(target=everything, args=(o,)) for o in (order, order[::-1])]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    missing = set(QUESTIONS) - IN_PARALLEL - SERIAL_HERE
    if missing:
        wrong.append(f"never ran on several threads: {sorted(missing)}")
    print("\n".join(wrong) or f"stress: {2 * len(order)} calls from 2 callers on {THREADS} threads agree with 1 thread")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""Gates on the work of the CUDA backend, never on time: launches, reads of the data, memory, waits. By emulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cbkernels as cb

from . import emulation

core, missing = emulation.load()
pytestmark = pytest.mark.skipif(core is None, reason=f"{emulation.NAME}: NOT TESTED HERE ({missing})")

N, D = 256, 4096
LABELS = np.arange(N) % 3


def normal(num_rows: int, num_columns: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((num_rows, num_columns), np.float32)


def count(acts: np.ndarray, **options: Any) -> dict[str, int]:
    cb.bundle_entropy(acts, LABELS[: len(acts)], backend=emulation.NAME, **options)
    return core.last_work()


def reads(acts: np.ndarray, **options: Any) -> float:
    work = count(acts, **options)
    assert work["bytes_total"] == acts.nbytes
    return work["bytes_touched"] / work["bytes_total"]


def test_rows_alone_are_never_read_again() -> None:
    # 8 places of 128 bytes of 16 KiB
    assert reads(normal(N, D), check_nan=False) == 8 * 128 / (4 * D)
    work = count(normal(N, D), check_nan=False)
    assert (work["rows_sampled"], work["rows_compared"], work["rows_fingerprinted"]) == (N, 0, 0)


def test_nan_costs_one_read() -> None:
    assert reads(normal(N, D)) == 1 + 8 * 128 / (4 * D)
    assert reads(np.arange(N * D, dtype=np.int32).reshape(N, D)) == 8 * 128 / (4 * D), "integers hold none"


def test_a_row_whose_nan_a_comparison_has_seen_is_not_hashed() -> None:
    acts = np.repeat(normal(1, D), N, 0)
    acts[5, 0] = np.nan  # in no place of the sample
    work = count(acts)
    assert (work["rows_compared"], work["rows_fingerprinted"]) == (N - 1, 0)


def test_equal_rows_are_read_once() -> None:
    equal = np.repeat(normal(1, D), N, 0)
    assert reads(equal) < 1.07
    assert count(equal)["rows_compared"] == N - 1
    fifty = normal(50, D)[np.arange(N) % 50]
    assert reads(fifty) < 1.07


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: np.where(np.arange(D) == D - 1, np.arange(N)[:, None], 1.0), id="last_column"),
        pytest.param(lambda: (np.arange(D) == 17 * np.arange(N)[:, None] % D) * 1.0, id="one_column_each"),
        pytest.param(lambda: np.where(np.arange(D) == 5, np.arange(N)[:, None] // 2, 1.0), id="pairs"),
        pytest.param(lambda: np.where(np.arange(D) % 100 == 99, normal(N, D), 0.0), id="dead_channels"),
    ],
)
def test_the_worst_rows_are_read_three_times(make: Any) -> None:
    acts = np.ascontiguousarray(make(), np.float32)
    assert reads(acts, check_nan=False) < 3.2
    assert reads(acts) < 3.2
    assert count(acts)["rows_searched"] == 0


def test_colliding_hashes_cost_a_search_and_nothing_else() -> None:
    acts = normal(N, 64)[np.arange(N) // 2]
    right = cb.bundle_rows(acts, backend="cpu")
    core.use_routing_bits(0)
    try:
        assert np.array_equal(cb.bundle_rows(acts, backend=emulation.NAME), right)
        assert count(acts)["rows_searched"] > N - 6
    finally:
        core.use_routing_bits(64)


@pytest.mark.parametrize("num_layers", [1, 3, 70])
def test_all_layers_of_one_kind_are_one_launch_and_one_wait(num_layers: int) -> None:
    layers = {f"layer{i}": normal(20, 4 + 8 * i) for i in range(num_layers)}
    core.emulation.reset_counters()
    found = cb.bundle_entropy_layers(layers, LABELS[:20], backend=emulation.NAME)
    counters = core.emulation.counters()
    assert (counters["launches"], counters["synchronisations"], counters["allocations"]) == (1, 1, 1)
    assert core.last_work()["launches"] == 1
    assert [r.num_bundles for r in found.values()] == [20] * num_layers


def test_rows_in_words_are_not_read_value_by_value() -> None:
    """Rows in words have kernels of their own; what is read value by value, whatever its type, shares one."""
    layers = {"chunks": normal(20, 8), "words": normal(20, 7), "behind the base": normal(20, 9)[:, 1:]}
    strided = {"strided": normal(20, 8)[:, ::2], "bytes": np.ones((20, 7), np.int8)}
    for some, launches in ((layers, 2), (strided, 1), (layers | strided, 3)):
        cb.bundle_entropy_layers(some, LABELS[:20], backend=emulation.NAME)
        assert core.last_work()["launches"] == launches


def test_ids_and_fingerprints_never_wait() -> None:
    acts = normal(300, 40)
    core.emulation.reset_counters()
    cb.bundle_rows(acts, backend=emulation.NAME)
    cb.bundle_rows(acts, tolerance=(0.1, 0.1), backend=emulation.NAME)
    ids = np.empty((300, 2), np.uint64)
    core.cuda.row_fingerprints(acts.ctypes.data, acts.shape, acts.strides, 1, None, (1, 2), ids.ctypes.data, 0, 0)
    counters = core.emulation.counters()
    assert (counters["launches"], counters["synchronisations"], counters["pageable_copies"]) == (4, 0, 0)


@pytest.mark.parametrize("make", [normal, lambda n, d: np.zeros((n, d), np.float32)], ids=["distinct", "equal"])
@pytest.mark.parametrize("num_rows", [4000, 20000])
def test_working_memory_is_at_most_64_bytes_a_row(make: Any, num_rows: int) -> None:
    acts, labels = make(num_rows, 2), np.arange(num_rows) % 10
    fingerprints = np.zeros((num_rows, 2), np.uint64)
    where = (acts.ctypes.data, acts.shape, acts.strides, 1)
    calls = {
        "bundle_rows": lambda: cb.bundle_rows(acts, backend=emulation.NAME),
        "bundle_entropy": lambda: cb.bundle_entropy(acts, labels, backend=emulation.NAME),
        "row_fingerprints": lambda: core.cuda.row_fingerprints(*where, None, (1, 2), fingerprints.ctypes.data, 0, 0),
        "count_fingerprints": lambda: core.cuda.count_fingerprints(
            fingerprints.ctypes.data, labels.ctypes.data, num_rows, True, 0, 0
        ),
    }
    for name, call in calls.items():
        core.emulation.reset_counters()
        call()
        peak = core.emulation.counters()["peak_bytes"]
        assert 0 < peak <= 64 * num_rows, (name, peak / num_rows)

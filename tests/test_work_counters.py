"""Gates on work, never on time: what the kernel says it read, hashed, compared and how it ran.

``bytes_touched`` counts a row's bytes once per pass over them; one read is ``bytes_total``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cbkernels as cb
from cbkernels import _core, backends

from .all_of import all_of
from .cases import CASES, Case
from .test_named_cases import name_of

N, D = 256, 4096


def work_of(call: Callable[[], Any]) -> dict[str, int]:
    call()
    return _core.last_work()


def reads_of(acts: np.ndarray) -> float:
    """Full reads of the data that numbering the bundles took."""
    work = work_of(lambda: cb.bundle_rows(acts))
    assert work["bytes_total"] == acts.nbytes
    return work["bytes_touched"] / work["bytes_total"]


def normal(num_rows: int, num_columns: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((num_rows, num_columns), np.float32)


# --- layouts that were built to make a kernel read too much ----------------------------------------


def dead_prefix() -> np.ndarray:
    acts = normal(N, D)
    acts[:, : D // 4] = 0
    return acts


def dead_channels() -> np.ndarray:
    acts = np.zeros((N, 64, 64), np.float32)
    acts[:, ::10] = normal(N, 7 * 64).reshape(N, 7, 64)
    return acts.reshape(N, D)


def channels_off_per_sample() -> np.ndarray:
    rng = np.random.default_rng(1)
    return (normal(N, D).reshape(N, 64, 64) * (rng.random((N, 64, 1)) < 0.1)).reshape(N, D).astype(np.float32)


def staircase() -> np.ndarray:
    return (np.arange(D) >= (D // N) * np.arange(N)[:, None]).astype(np.float32)


def pairs() -> np.ndarray:
    return np.repeat(normal(N // 2, D), 2, axis=0)


def last_column() -> np.ndarray:
    acts = np.zeros((N, D), np.float32)
    acts[:, -1] = np.arange(N)
    return acts


def one_column_each() -> np.ndarray:
    acts = np.zeros((N, D), np.float32)
    acts[np.arange(N), np.arange(N) * 37 % D] = 1
    return acts


def one_column_each_many_rows() -> np.ndarray:
    acts = np.zeros((4000, 2048), np.float32)
    acts[np.arange(4000), np.arange(4000) * 1021 % 2048] = 1 + np.arange(4000) // 2048
    return acts


def two_bundles() -> np.ndarray:
    return normal(2, D)[np.random.default_rng(2).integers(2, size=N)]


def fifty_bundles() -> np.ndarray:
    return normal(50, D)[np.random.default_rng(3).integers(50, size=N)]


def fifty_bundles_of_short_rows() -> np.ndarray:
    return normal(50, 200)[np.random.default_rng(3).integers(50, size=20 * N)]


def two_columns_each() -> np.ndarray:
    """Rows leave their leader, then leave the next one, again and again."""
    acts = np.zeros((N, D), np.float32)
    for i in range(N):
        acts[i, (i * 16) % D :: 512] = i % 3
    return acts


def late_twins() -> np.ndarray:
    """Pairs that agree with everybody until the last page."""
    acts = np.ones((N, D), np.float32)
    acts[:, -7] = np.arange(N) // 2
    return acts


def nested() -> np.ndarray:
    """A binary tree of differences: each page halves what is left of a group."""
    acts = np.zeros((N, 8 * 1024), np.float32)
    for level in range(8):
        acts[:, 1024 * level + 500] = np.arange(N) >> level & 1
    return acts


ADVERSARIAL = [
    dead_prefix, dead_channels, channels_off_per_sample, staircase, pairs, last_column, one_column_each,
    one_column_each_many_rows, two_bundles, fifty_bundles, fifty_bundles_of_short_rows, two_columns_each, late_twins,
    nested,
]  # fmt: skip


@pytest.mark.parametrize("make", ADVERSARIAL, ids=lambda f: f.__name__)
def test_any_layout_is_read_at_most_two_and_a_half_times(make: Callable[[], np.ndarray]) -> None:
    acts = make()
    assert reads_of(acts) <= 2.5
    assert reads_of(acts[::-1]) <= 2.5
    assert reads_of(np.ascontiguousarray(acts[:, ::-1])) <= 2.5


@pytest.mark.parametrize(("num_rows", "num_columns"), [(512, 4096), (256, 16384), (64, 65536)])
def test_different_rows_are_hardly_read(num_rows: int, num_columns: int) -> None:
    work = work_of(lambda: cb.bundle_rows(normal(num_rows, num_columns)))
    assert work["bytes_touched"] <= 0.01 * work["bytes_total"]
    assert (work["rows_sampled"], work["rows_compared"], work["rows_fingerprinted"]) == (num_rows, 0, 0)


@pytest.mark.parametrize("columns", [slice(0, D // 4), slice(D * 3 // 4, D), slice(D // 8, D // 4), slice(0, 1024)])
def test_dead_columns_are_no_reason_to_read(columns: slice) -> None:
    """Samples are spread: neither a dead beginning nor a dead end makes rows look equal."""
    acts = normal(N, D)
    acts[:, columns] = 0
    assert reads_of(acts) <= 0.02


def test_different_rows_are_read_once_to_find_nan_and_hardly_where_nan_are_not_looked_for() -> None:
    acts, labels = normal(256, 8192), np.arange(256) % 10
    assert work_of(lambda: cb.bundle_entropy(acts, labels))["bytes_touched"] <= 1.02 * acts.nbytes
    unchecked = work_of(lambda: cb.bundle_entropy(acts, labels, check_nan=False))
    assert unchecked["bytes_touched"] <= 0.01 * acts.nbytes
    integers = acts.view(np.int32)  # integers hold no NaN
    assert work_of(lambda: cb.bundle_entropy(integers, labels))["bytes_touched"] <= 0.01 * acts.nbytes


@pytest.mark.parametrize("num_columns", [16, 64, 512, 1024, 1100, 4096, 16384])
def test_equal_rows_are_read_once_and_little_more(num_columns: int) -> None:
    acts = np.full((4 * 2**20 // (4 * num_columns), num_columns), 1.5, np.float32)
    assert reads_of(acts) <= 1.25
    work = work_of(lambda: cb.bundle_entropy(acts, np.arange(len(acts)) % 3))
    assert work["bytes_touched"] <= 1.25 * work["bytes_total"]


@pytest.mark.parametrize(("num_columns", "together"), [(2**16 - 16, 8), (2**16, 4)])
def test_of_long_equal_rows_fewer_are_compared_at_once(num_columns: int, together: int) -> None:
    """From 256 KiB on a leader is read once for four rows; the pair that was compared first, whether samples tell rows
    apart, is not compared again."""
    whole, runs = np.ones((17, num_columns), np.float32), np.ones((17, 16, num_columns // 16 + 9), np.float32)[:, :, 9:]
    for acts in (whole, runs):
        work = work_of(lambda acts=acts: cb.bundle_rows(acts))
        row_bytes, samples = 4 * num_columns, 17 * 2 * 64
        assert work["bytes_touched"] == samples + (2 + 15 + 16 // together) * row_bytes


@pytest.mark.parametrize("num_columns", [3, 16, 64, 200, 512, 1024])
def test_rows_of_few_bundles_go_straight_to_their_leaders(num_columns: int) -> None:
    """Only a leader is looked at twice; what follows it is read beside it, once."""
    acts = normal(120, num_columns)[np.random.default_rng(3).integers(120, size=5000)]
    assert np.array_equal(cb.bundle_rows(acts), cb.bundle_rows(acts, backend="reference")), "some share a slot"
    work, pilots = work_of(lambda: cb.bundle_rows(acts)), 512 * 64
    assert work["bytes_touched"] <= 2.02 * work["bytes_total"] + pilots
    assert work["rows_sampled"] <= 130 * backends.num_threads(), "each thread looks for leaders by itself"


@pytest.mark.parametrize(("num_bundles", "num_columns"), [(400, 64), (1000, 64), (2000, 16), (1000, 512)])
def test_rows_of_many_bundles_go_straight_to_their_leaders_too(num_bundles: int, num_columns: int) -> None:
    """512 rows show such bundles too seldom twice; a second look is taken, and only leaders are sampled."""
    acts = normal(num_bundles, num_columns)[np.random.default_rng(3).integers(num_bundles, size=40_000)]
    assert np.array_equal(cb.bundle_rows(acts), cb.bundle_rows(acts, backend="reference"))
    work, pilots = work_of(lambda: cb.bundle_rows(acts)), (512 + 4096) * 64
    assert work["bytes_touched"] <= 2.1 * work["bytes_total"] + pilots
    assert work["rows_sampled"] <= 1.2 * num_bundles * backends.num_threads()


@pytest.mark.parametrize(
    ("num_rows", "num_alike", "num_bundles"),
    [(40_000, 0, 1), (40_000, 2000, 1), (40_000, 8000, 1), (300_000, 120_000, 300), (300_000, 120_000, 30)],
)
def test_different_short_rows_are_sampled_first(num_rows: int, num_alike: int, num_bundles: int) -> None:
    """A second look, where a first one finds some rows twice, does not take different rows for bundles: beside rows of
    some hundred bundles most are alone."""
    acts, rng = normal(num_rows, 16), np.random.default_rng(4)
    acts[rng.permutation(num_rows)[:num_alike]] = acts[rng.integers(num_bundles, size=num_alike)]
    assert work_of(lambda: cb.bundle_rows(acts))["rows_sampled"] >= num_rows


@pytest.mark.parametrize("num_rows", [70_000, 300_000])
def test_most_keys_of_different_rows_need_no_table(num_rows: int) -> None:
    acts, num_threads = normal(num_rows, 64), backends.num_threads()
    work = work_of(lambda: cb.bundle_rows(acts))
    assert work["keys_in_tables"] <= 0.14 * num_rows, f"one in eight shares a slot, {num_threads} threads"
    assert work["bytes_touched"] <= 0.26 * work["bytes_total"], "a line of four, and the pilots"
    acts[num_rows // 2] = acts[7]
    assert work_of(lambda: cb.bundle_rows(acts))["rows_compared"] > 0


@pytest.mark.parametrize("make", [dead_prefix, one_column_each, pairs, fifty_bundles], ids=lambda f: f.__name__)
def test_other_memory_layouts_cost_no_more_reads(make: Callable[[], np.ndarray]) -> None:
    acts = make()
    image = acts.reshape(N, 16, 256)
    channels_last = np.ascontiguousarray(image.transpose(0, 2, 1)).transpose(0, 2, 1)
    work = work_of(lambda: cb.bundle_rows(channels_last))
    assert work["bytes_touched"] <= 2.5 * work["bytes_total"]
    grid = cb.UpdateGrid(learning_rate=1e-3, batch_size=50, weight_amplitude=1e-9)
    assert work_of(lambda: cb.bundle_rows(acts, grid=grid))["bytes_touched"] <= 2.5 * acts.nbytes


def test_fingerprints_take_one_read() -> None:
    metric, acts = cb.BundleEntropy(), normal(N, D)
    work = work_of(lambda: metric.update(acts, np.zeros(N, int)))
    assert work["bytes_touched"] == work["bytes_total"] == acts.nbytes


@pytest.mark.parametrize(
    ("num_rows", "num_columns"),
    [(1, 1), (64, 16), (64, 4096), (1000, 100), (512, 512), (120, 4096), (30, 16384), (1900, 256)],
)
def test_small_work_opens_no_parallel_region(monkeypatch: pytest.MonkeyPatch, num_rows: int, num_columns: int) -> None:
    monkeypatch.setattr(backends, "num_threads", lambda: 8)
    for acts in (normal(num_rows, num_columns), np.zeros((num_rows, num_columns), np.float32)):
        labels = np.arange(num_rows) % 10
        for call in (
            lambda a=acts: cb.bundle_rows(a),
            lambda a=acts, y=labels: cb.bundle_entropy(a, y),
            lambda a=acts, y=labels: cb.BundleEntropy().update(a, y),
        ):
            work = work_of(call)
            assert (work["parallel_regions"], work["threads"]) == (0, 1)


def test_few_parallel_regions_for_large_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "num_threads", lambda: 2)
    for make in (one_column_each_many_rows, fifty_bundles):
        acts = np.tile(make(), (2, 1))
        assert work_of(lambda a=acts: cb.bundle_rows(a))["parallel_regions"] <= 10


def test_counters_start_again_with_every_call() -> None:
    first = work_of(lambda: cb.bundle_rows(pairs()))
    assert work_of(lambda: cb.bundle_rows(pairs())) == first
    small = work_of(lambda: cb.bundle_rows(np.zeros((2, 2))))
    assert small["bytes_total"] == 32
    assert small["bytes_touched"] <= 4 * 32


# --- colliding hashes: slower, still exact ---------------------------------------------------------


@pytest.mark.parametrize("case", [c for c in CASES if len(c.ids) <= 1000 and c.tolerance is None], ids=name_of)
def test_collisions_change_no_named_case(routing_bits: Callable[[int], None], case: Case) -> None:
    acts = case.acts()
    with all_of("routing bits") as number:
        for bits in range(9):
            with number(bits):
                routing_bits(bits)
                assert cb.bundle_rows(acts, grid=case.grid).tolist() == list(case.ids)


@pytest.mark.parametrize("make", ADVERSARIAL, ids=lambda f: f.__name__)
def test_collisions_change_no_adversarial_layout(
    routing_bits: Callable[[int], None], make: Callable[[], np.ndarray]
) -> None:
    acts = make()[:200]
    forward, backward = (cb.bundle_rows(a, backend="reference").tolist() for a in (acts, acts[::-1]))
    with all_of("routing bits") as number:
        for bits in (0, 1, 2, 4, 8):
            with number(bits):
                routing_bits(bits)
                assert cb.bundle_rows(acts).tolist() == forward
                assert cb.bundle_rows(acts[::-1]).tolist() == backward


def test_every_way_out_of_a_collision_is_taken(routing_bits: Callable[[int], None]) -> None:
    """Sampled, compared, regrouped, hashed to the end, searched: no step of the kernel is dead code in these tests."""
    routing_bits(0)
    work = work_of(lambda: cb.bundle_rows(normal(100, D)))
    for step in ("rows_sampled", "rows_compared", "rows_fingerprinted", "rows_searched"):
        assert work[step] > 0, step


def test_no_search_without_forced_collisions() -> None:
    for make in ADVERSARIAL:
        assert work_of(lambda make=make: cb.bundle_rows(make()))["rows_searched"] == 0

"""Streaming: the same result however rows are split, ordered and merged; small; safe against damaged states."""

from __future__ import annotations

import copy
import itertools
import json
import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cbkernels as cb
from cbkernels import BundleEntropy, UpdateGrid
from cbkernels.arrays import as_rows
from cbkernels.row_store import RowStore

from . import emulation
from .inputs import INTEGERS, place

GRID = UpdateGrid(learning_rate=1e-3, batch_size=50, weight_amplitude=0.7)


def data(num_rows: int = 300, num_columns: int = 11, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    acts = rng.normal(size=(max(1, num_rows // 5), num_columns)).astype(np.float32)
    return acts[rng.integers(len(acts), size=num_rows)], rng.integers(4, size=num_rows)


def numbers(result: cb.BundleResult) -> tuple[Any, ...]:
    return (
        result.entropy.hex(), result.num_bundles, result.num_conflicting, result.num_nan_rows, result.num_rows,
        result.num_conflicting_rows, result.num_columns, result.dtype, result.grid, result.log_epsilon,
    )  # fmt: skip


def streamed(
    acts: np.ndarray, labels: np.ndarray, cuts: list[int], backend: str = "auto", **options: Any
) -> BundleEntropy:
    metric = BundleEntropy(backend=backend, **options)
    for part, names in zip(np.split(acts, cuts), np.split(labels, cuts), strict=True):
        if len(part):
            metric.update(place(part, backend), place(names, backend))
    return metric


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6), cuts=st.lists(st.integers(0, 60), max_size=6).map(sorted),
    grid=st.sampled_from([None, GRID]), log_epsilon=st.sampled_from([None, 1e-5]), nan=st.booleans(),
)  # fmt: skip
def test_any_split_gives_the_one_shot_result(
    backend: str, seed: int, cuts: list[int], grid: UpdateGrid | None, log_epsilon: float | None, nan: bool
) -> None:
    acts, labels = data(60, 5, seed)
    if nan:
        acts[seed % 60, seed % 5] = math.nan
    whole = cb.bundle_entropy(
        place(acts, backend), place(labels, backend), grid=grid, log_epsilon=log_epsilon, backend=backend
    )
    result = streamed(acts, labels, cuts, backend, grid=grid, log_epsilon=log_epsilon).compute()
    assert numbers(result) == numbers(whole)
    assert (whole.exact, result.exact) == (True, False)
    assert result.backend == backend


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.permutations(range(6)), shape=st.integers(0, 4))
def test_any_order_of_merging_gives_the_same(seed: int, order: list[int], shape: int) -> None:
    acts, labels = data(120, 4, seed)
    acts[[seed % 120, 7, 119], seed % 4] = math.nan
    whole = streamed(acts, labels, []).compute()
    assert whole.num_nan_rows in (2, 3)
    parts = [streamed(a, y, []) for a, y in zip(np.split(acts, 6), np.split(labels, 6), strict=True)]
    parts = [parts[i] for i in order]
    if shape == 0:  # a chain
        total = BundleEntropy()
        for part in parts:
            total.merge(part)
    else:  # a tree, of one form or another
        while len(parts) > 1:
            first = parts.pop(shape % len(parts))
            second = parts.pop(0)
            second.merge(first)
            parts.append(second)
        total = parts[0]
    assert numbers(total.compute()) == numbers(whole)


def test_order_of_rows_is_irrelevant() -> None:
    acts, labels = data()
    order = np.random.default_rng(1).permutation(len(acts))
    shuffled = streamed(acts[order], labels[order], [7, 50])
    assert numbers(shuffled.compute()) == numbers(streamed(acts, labels, []).compute())


def test_merging_leaves_the_other_as_it_is_and_apart() -> None:
    acts, labels = data()
    one, other = streamed(acts[:100], labels[:100], []), streamed(acts[100:], labels[100:], [])
    before = numbers(other.compute())
    one.merge(other)
    assert numbers(other.compute()) == before
    one.update(acts[:5], labels[:5])
    assert numbers(other.compute()) == before
    assert one.num_rows == 305


def test_merging_with_itself_counts_twice() -> None:
    acts, labels = data()
    metric = streamed(acts, labels, [])
    metric.merge(metric)
    twice = streamed(np.concatenate([acts, acts]), np.concatenate([labels, labels]), [])
    assert numbers(metric.compute()) == numbers(twice.compute())


def test_merging_an_empty_one_into_another_and_the_other_way() -> None:
    acts, labels = data()
    metric = streamed(acts, labels, [])
    expected = numbers(metric.compute())
    metric.merge(BundleEntropy())
    assert numbers(metric.compute()) == expected
    fresh = BundleEntropy()
    fresh.merge(metric)
    assert numbers(fresh.compute()) == expected


def test_nothing_yet() -> None:
    metric = BundleEntropy()
    assert metric.num_rows == 0
    with pytest.raises(ValueError, match=re.escape("no rows yet: call update() before compute()")):
        metric.compute()
    metric.reset()
    with pytest.raises(ValueError, match="no rows yet"):
        metric.compute()


def test_only_nan_rows() -> None:
    metric = BundleEntropy()
    metric.update(np.full((3, 2), math.nan), np.array([0, 1, 0]))
    result = metric.compute()
    assert (result.num_bundles, result.num_nan_rows, result.num_rows, result.num_conflicting) == (3, 3, 3, 0)
    assert math.isnan(result.entropy)


def test_reset_forgets_rows_and_keeps_options() -> None:
    acts, labels = data()
    metric = streamed(acts, labels, [], grid=GRID, log_epsilon=1e-5)
    metric.reset()
    assert metric.num_rows == 0
    metric.update(acts.astype(np.float64)[:, :3], labels)  # another type and width are now welcome
    assert metric.compute().grid == GRID
    assert metric.compute().log_epsilon == 1e-5
    assert metric.compute().num_columns == 3


def test_computing_twice_and_updating_between() -> None:
    acts, labels = data()
    metric = streamed(acts[:100], labels[:100], [])
    assert numbers(metric.compute()) == numbers(metric.compute())
    metric.update(acts[100:], labels[100:])
    assert numbers(metric.compute()) == numbers(streamed(acts, labels, []).compute())


def test_rows_may_change_after_update() -> None:
    acts, labels = data()
    metric = BundleEntropy()
    given_acts, given_labels = acts.copy(), labels.copy()
    metric.update(given_acts, given_labels)
    given_acts[:] = 0
    given_labels[:] = 9
    assert numbers(metric.compute()) == numbers(streamed(acts, labels, []).compute())


def test_result_when_a_stream_holds_many_blocks() -> None:
    num_rows = 200_000
    acts = (np.arange(num_rows) % 1000).astype(np.float32)[:, None]
    labels = np.arange(num_rows) // 1000 % 2
    result = streamed(acts, labels, list(range(0, num_rows, 7919))).compute()
    assert (result.num_rows, result.num_bundles, result.num_conflicting) == (num_rows, 1000, 1000)
    assert math.isclose(result.entropy, math.log(2), rel_tol=1e-12)


@pytest.mark.parametrize("label_type", [*INTEGERS, "bool"])
def test_labels_of_every_type_mean_the_same(label_type: str) -> None:
    acts, labels = data()
    binary = labels % 2
    converted = streamed(acts, binary.astype(label_type), [9])
    assert numbers(converted.compute()) == numbers(streamed(acts, binary, []).compute())


def test_labels_beyond_int64_are_refused_before_anything_is_stored() -> None:
    acts, labels = data(4)
    metric = streamed(acts, labels, [])
    before = numbers(metric.compute())
    with pytest.raises(ValueError, match=f"labels holds {2**63}; streaming takes labels below"):
        metric.update(acts, np.array([0, 2**63, 1, 2], np.uint64))
    assert numbers(metric.compute()) == before
    metric.update(acts, np.array([0, 2**63 - 1, 1, 2], np.uint64))
    assert metric.num_rows == 8


@pytest.mark.parametrize("labels", [[], (), np.zeros(0, np.int64)])
def test_a_batch_without_a_row_adds_nothing(labels: Any) -> None:
    acts, of_row = data()
    metric, untouched = cb.BundleEntropy(), streamed(acts, of_row, [100])
    metric.update(np.zeros((0, 7), np.float64), labels)  # whatever it has for a type and a width
    metric.update(acts, of_row)
    metric.update(acts[:0], labels)
    assert numbers(metric.compute()) == numbers(untouched.compute())


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        (lambda m: m.update(np.zeros((2, 11)), [0, 1]), TypeError, "acts has dtype float64 after batches of float32"),
        (lambda m: m.update(np.zeros((2, 7), np.float32), [0, 1]), ValueError, "7 values per row after batches of 11"),
        (lambda m: m.update(np.zeros((2, 11), np.float32), [0]), ValueError, "labels has 1 entries for 2 rows"),
        (lambda m: m.update(np.zeros((0, 11), np.float32), [0]), ValueError, "at least one row is needed"),
        (lambda m: m.update(np.zeros((2, 11), np.float32), np.zeros(0, int)), ValueError, "labels has 0 entries for 2"),
        (lambda m: m.merge("other"), TypeError, "other is a str; pass a BundleEntropy"),
        (lambda m: m.merge(streamed(*data(), [], grid=GRID)), ValueError, "other has grid UpdateGrid"),
        (lambda m: m.merge(streamed(data()[0][:, :3], data()[1], [])), ValueError, "3 values per row after batches"),
        (lambda m: m.merge(streamed(data()[0].astype(np.float64), data()[1], [])), TypeError, "dtype float64 after"),
    ],
)  # fmt: skip
def test_refusals_leave_the_stream_as_it_was(wrong: Callable[[Any], Any], kind: type[Exception], message: str) -> None:
    acts, labels = data()
    metric = streamed(acts, labels, [100])
    before = numbers(metric.compute())
    with pytest.raises(kind, match=re.escape(message)):
        wrong(metric)
    assert numbers(metric.compute()) == before
    metric.update(acts, labels)
    assert metric.num_rows == 600


def test_updates_never_wait_for_the_gpu_and_computing_waits_once() -> None:
    torch = pytest.importorskip("torch", reason="updates on an emulated GPU: NOT TESTED HERE (torch is not installed)")
    core, reason = emulation.load()
    if core is None:
        pytest.skip(f"updates on an emulated GPU: NOT TESTED HERE ({reason})")
    acts, labels = data(60)
    metric = BundleEntropy(backend=emulation.NAME)
    core.emulation.reset_counters()
    for _ in range(20):
        metric.update(torch.from_numpy(acts), torch.from_numpy(labels))
    waits = core.emulation.counters()
    assert (waits["launches"] >= 20, waits["synchronisations"], waits["pageable_copies"]) == (True, 0, 0)
    assert metric.compute().num_rows == 1200
    assert core.emulation.counters()["synchronisations"] == 1


# --- state ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [None, GRID])
def test_state_goes_round(grid: UpdateGrid | None) -> None:
    acts, labels = data()
    acts[5, 0] = math.nan
    metric = streamed(acts[:200], labels[:200], [50], grid=grid)
    state = pickle.loads(pickle.dumps(metric.state_dict()))
    again = BundleEntropy(grid=grid)
    again.load_state_dict(state)
    assert numbers(again.compute()) == numbers(metric.compute())
    again.update(acts[200:], labels[200:])
    assert numbers(again.compute()) == numbers(streamed(acts, labels, [], grid=grid).compute())


def test_state_of_nothing_goes_round() -> None:
    again = BundleEntropy()
    again.load_state_dict(BundleEntropy().state_dict())
    assert again.num_rows == 0
    with pytest.raises(ValueError, match="no rows yet"):
        again.compute()
    again.update(*data())
    assert again.num_rows == 300


def test_state_of_a_type_without_rows() -> None:
    again = BundleEntropy()
    again.load_state_dict({**BundleEntropy().state_dict(), "dtype": "float32", "num_columns": 11})
    with pytest.raises(ValueError, match="no rows yet"):
        again.compute()
    again.update(*data())
    assert again.compute().num_rows == 300


def test_loading_replaces_what_was_there() -> None:
    acts, labels = data()
    metric = streamed(acts, labels, [])
    metric.load_state_dict(streamed(acts[:10, :3], labels[:10], []).state_dict())
    assert metric.num_rows == 10
    assert metric.compute().num_columns == 3


def test_state_is_a_copy() -> None:
    acts, labels = data()
    metric = streamed(acts, labels, [])
    before = numbers(metric.compute())
    state = metric.state_dict()
    state["fingerprints"][:] = 0
    state["labels"][:] = 0
    assert numbers(metric.compute()) == before
    other = BundleEntropy()
    state = metric.state_dict()
    other.load_state_dict(state)
    state["fingerprints"][:] = 0
    assert numbers(other.compute()) == before


def test_state_may_come_from_a_json_file() -> None:
    acts, labels = data(20)
    metric = streamed(acts, labels, [], grid=GRID)
    plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in metric.state_dict().items()}
    read = json.loads(json.dumps(plain))
    read["fingerprints"] = np.array(read["fingerprints"], np.uint64)
    read["labels"] = np.array(read["labels"], np.int64)
    again = BundleEntropy(grid=GRID)
    again.load_state_dict(read)
    assert numbers(again.compute()) == numbers(metric.compute())


def _without(key: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda s: {k: v for k, v in s.items() if k != key}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        *[(_without(key), f"the state lacks ['{key}']") for key in
          ("format", "fingerprints", "labels", "num_nan_rows", "dtype", "num_columns", "grid", "key")],
        (lambda s: {}, "the state lacks ["),
        (lambda s: {**s, "format": 4}, "the state has format 4 and this version reads 3"),
        (lambda s: {**s, "grid": GRID.to_dict()}, "the state has grid UpdateGrid("),
        (lambda s: {**s, "labels": s["labels"][:-1]}, "fingerprints uint64(300, 2) and labels int64(299,)"),
        (lambda s: {**s, "labels": s["labels"].astype(np.int32)}, "labels int32(300,)"),
        (lambda s: {**s, "labels": s["labels"][:, None]}, "labels int64(300, 1)"),
        (lambda s: {**s, "labels": None}, "labels"),
        (lambda s: {**s, "fingerprints": s["fingerprints"].astype(np.int64)}, "fingerprints int64(300, 2)"),
        (lambda s: {**s, "fingerprints": s["fingerprints"][:, :1]}, "fingerprints uint64(300, 1)"),
        (lambda s: {**s, "fingerprints": s["fingerprints"].ravel()}, "fingerprints uint64(600,)"),
        (lambda s: {**s, "num_nan_rows": -1}, "num_nan_rows"),
        (lambda s: {**s, "num_nan_rows": "many"}, "num_nan_rows"),
        (lambda s: {**s, "num_nan_rows": None}, "num_nan_rows"),
        (lambda s: {**s, "num_columns": -3}, "num_columns"),
        (lambda s: {**s, "num_columns": "x"}, "num_columns"),
        (lambda s: {**s, "dtype": "float31"}, "dtype"),
        (lambda s: {**s, "dtype": None}, "dtype"),
        (lambda s: {**s, "dtype": 3}, "dtype"),
        (lambda s: {**s, "grid": {"learning_rate": 1e-3}}, "grid"),
        (lambda s: {**s, "grid": 5}, "grid"),
        (lambda s: [], "state"),
        (lambda s: None, "state"),
    ],
)  # fmt: skip
def test_damaged_state_is_refused_and_nothing_is_lost(damage: Callable[[Any], Any], message: str) -> None:
    acts, labels = data()
    metric = streamed(acts, labels, [100])
    before, state = numbers(metric.compute()), metric.state_dict()
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        metric.load_state_dict(damage(state))
    assert numbers(metric.compute()) == before
    metric.update(acts, labels)
    assert metric.num_rows == 600


def test_copies_are_apart() -> None:
    acts, labels = data()
    metric = streamed(acts, labels, [])
    for twin in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        twin.update(acts, labels)
        assert (twin.num_rows, metric.num_rows) == (600, 300)


# --- memory ---------------------------------------------------------------------------------------


def _arrays_in(x: Any, seen: set[int]) -> int:
    """Bytes of all arrays that an object holds."""
    if id(x) in seen:
        return 0
    seen.add(id(x))
    if isinstance(x, np.ndarray):
        return _arrays_in(x.base, seen) if x.base is not None else x.nbytes
    if isinstance(x, dict):
        return sum(_arrays_in(v, seen) for v in x.values())
    if isinstance(x, (list, tuple)):
        return sum(_arrays_in(v, seen) for v in x)
    return sum(_arrays_in(v, seen) for v in vars(x).values()) if hasattr(x, "__dict__") else 0


@pytest.mark.parametrize("batches", [[1], [64], [5000], [30_000], [65_535], [65_536], [100, 70_000], [1, 1, 65_536]])
def test_streams_are_few_arrays_and_no_long_ones_are_joined(batches: list[int]) -> None:
    """An array takes a hundred bytes beside its rows; joining two takes their memory once more, and its time."""
    store, sizes = RowStore(), itertools.cycle(batches)
    for _ in range(100):
        size = next(sizes)
        store = store.with_rows(np.zeros((size, 2), np.uint64), np.zeros(size, np.int64))
        lengths = [len(labels) for _, labels in store._blocks + store._batches]
        assert sum(lengths) == store.size
        assert len(lengths) <= 32 + 2 * store.size / 65_536
        assert max(lengths) < 2 * 65_536


def test_what_was_merged_is_held_once() -> None:
    """Of a batch that is longer than a block, too, of which other metrics hold nothing any more."""
    metric = BundleEntropy()
    for _ in range(3):
        other = BundleEntropy()
        other.update(np.arange(131_071, dtype=np.float32)[:, None], np.zeros(131_071, np.int8))
        metric.merge(other)
        del other
        for _ in range(40):
            metric.update(np.ones((1, 1), np.float32), np.zeros(1, np.int8))
    assert _arrays_in(metric, set()) == 24 * metric.num_rows


@pytest.mark.parametrize("batch", [1, 64, 5000])
def test_twenty_four_bytes_a_row(batch: int) -> None:
    num_rows = 2000 if batch == 1 else 300_000
    acts, labels = np.arange(num_rows, dtype=np.float32)[:, None], np.zeros(num_rows, np.int8)
    metric = BundleEntropy()
    for begin in range(0, num_rows, batch):
        metric.update(acts[begin : begin + batch], labels[begin : begin + batch])
    assert _arrays_in(metric, set()) == 24 * num_rows
    assert max(len(labels) for _, labels in metric.held._on_cpu.blocks()) <= 65_536, "a rank sends a block at once"
    state = metric.state_dict()
    assert state["fingerprints"].nbytes + state["labels"].nbytes == 24 * num_rows


def test_memory_does_not_depend_on_the_width_of_rows() -> None:
    labels = np.zeros(50, np.int64)
    narrow, wide = BundleEntropy(), BundleEntropy()
    for _ in range(20):
        narrow.update(np.zeros((50, 1), np.float32), labels)
        wide.update(np.zeros((50, 20_000), np.float32), labels)
    assert _arrays_in(narrow, set()) == _arrays_in(wide, set())


def test_resetting_gives_the_memory_back() -> None:
    metric = streamed(*data(50_000, 1), [])
    metric.reset()
    assert _arrays_in(metric, set()) < 10_000


def test_a_look_at_memory_makes_no_class() -> None:
    """A class takes as long as fingerprinting 200 KB, and stays until the cycle collector runs."""
    rows = as_rows(np.ones((2, 3))).part(0, 1)
    assert type(rows.raw().base) is type(rows.raw().base)
    assert rows.raw().base.owner is rows.owner

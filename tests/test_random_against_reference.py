"""Whatever hypothesis thinks of: every backend gives what the reference gives, to the last bit."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cbkernels as cb
from cbkernels import backends
from cbkernels.arrays import DTYPES, as_labels, as_rows

from . import emulation
from .inputs import (
    FLOATS,
    LAYOUTS,
    not_a_number,
    numpy_type,
    on_host,
    patterns_of_sixteen_bits,
    place,
    special_values,
    typed,
)


def drawn(most: int, **strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[[str], None]]:
    """A test of every compiled backend with so many examples; a quarter on the emulation, see `make fuzz-emulated`."""

    def tested(check: Callable[..., None]) -> Callable[[str], None]:
        def test(compiled: str) -> None:
            def once(**values: Any) -> None:
                check(compiled, **values)

            once.__name__ = check.__name__  # under which hypothesis keeps what failed
            examples = most // 4 if compiled == emulation.NAME else most
            settings(max_examples=examples, deadline=None)(given(**strategies)(once))()

        return test

    return tested


@st.composite
def rows_of(draw: st.DrawFn, dtypes: tuple[str, ...] = DTYPES, most_columns: int = 70) -> np.ndarray:
    """(N, ...) rows taken from a few different ones, in any layout."""
    dtype = draw(st.sampled_from(dtypes))
    num_columns = draw(st.integers(0, most_columns))
    small = typed([0, 1, 2, 3], dtype)
    values = np.concatenate([small, special_values(dtype)])
    if dtype in FLOATS and draw(st.booleans()):
        values = np.concatenate([values, not_a_number(dtype)])
    base = draw(st.lists(st.integers(0, len(values) - 1), min_size=num_columns, max_size=num_columns))
    row = values[np.array(base, np.int64)]
    rows = np.tile(row, (draw(st.integers(1, 9)), 1))
    if num_columns:
        places = st.tuples(
            st.integers(0, len(rows) - 1), st.integers(0, num_columns - 1), st.integers(0, len(values) - 1)
        )
        for i, k, value in draw(st.lists(places, max_size=8)):
            rows[i, k] = values[value]
    return LAYOUTS[draw(st.sampled_from(list(LAYOUTS)))](rows)


@st.composite
def labels_for(draw: st.DrawFn, num_rows: int) -> np.ndarray:
    dtype = draw(st.sampled_from(["int64", "int32", "int8", "uint8", "uint64", "bool"]))
    names = special_values(dtype)
    picks = draw(st.lists(st.integers(0, min(3, len(names) - 1)), min_size=num_rows, max_size=num_rows))
    return names[np.array(picks)][:: draw(st.sampled_from([1, -1]))]


grids = st.builds(
    cb.UpdateGrid,
    learning_rate=st.sampled_from([1.0, 1e-3, 0.1, 0.03, 1e3, 1e-20]),
    batch_size=st.sampled_from([1, 7, 32, 50, 64, 100]),
    weight_amplitude=st.sampled_from([0.0, 0.7, 1.0, 3.3, 1e-5, 1e38]),
    dtype=st.sampled_from(["float32", "float64", "float16", "bfloat16"]),
)
tolerances = st.tuples(st.sampled_from([0.0, 1e-5, 0.3, 2.0]), st.sampled_from([0.0, 1e-8, 1.0]))


def assert_same_counts(acts: np.ndarray, labels: np.ndarray, backend: str, **options: Any) -> None:
    there = cb.bundle_entropy(place(acts, backend), place(labels, backend), backend=backend, **options)
    here = cb.bundle_entropy(acts, labels, backend="reference", **options)
    for name in ("num_rows", "num_bundles", "num_conflicting", "num_nan_rows", "num_conflicting_rows", "num_columns"):
        assert getattr(there, name) == getattr(here, name), name
    assert there.entropy.hex() == here.entropy.hex()


@drawn(400, data=st.data(), acts=rows_of(), grid=st.none() | grids)
def test_rows_and_grids(compiled: str, data: st.DataObject, acts: np.ndarray, grid: cb.UpdateGrid | None) -> None:
    labels = data.draw(labels_for(len(acts)))
    before = acts.tobytes()
    ids = cb.bundle_rows(place(acts, compiled), grid=grid, backend=compiled)
    assert ids.tolist() == cb.bundle_rows(acts, grid=grid, backend="reference").tolist()
    assert_same_counts(acts, labels, compiled, grid=grid)
    assert_same_counts(acts, labels, compiled, grid=grid, log_epsilon=1e-5)
    assert acts.tobytes() == before


@drawn(150, data=st.data(), acts=rows_of(most_columns=2600))
def test_long_rows(compiled: str, data: st.DataObject, acts: np.ndarray) -> None:
    labels = data.draw(labels_for(len(acts)))
    ids = cb.bundle_rows(place(acts, compiled), backend=compiled)
    assert ids.tolist() == cb.bundle_rows(acts, backend="reference").tolist()
    assert_same_counts(acts, labels, compiled)


@drawn(400, acts=rows_of(), grid=st.none() | grids)
def test_fingerprints(compiled: str, acts: np.ndarray, grid: cb.UpdateGrid | None) -> None:
    found = backends.TABLE[compiled].row_fingerprints(as_rows(place(acts, compiled)), grid)
    right = backends.TABLE["reference"].row_fingerprints(as_rows(acts), grid)
    assert np.array_equal(on_host(found[0]), right[0])
    assert np.array_equal(on_host(found[1]), right[1])


@drawn(400, data=st.data(), acts=rows_of())
def test_margin(compiled: str, data: st.DataObject, acts: np.ndarray) -> None:
    labels = data.draw(labels_for(len(acts)))
    margin = cb.conflict_margin(place(acts, compiled), place(labels, compiled), backend=compiled)
    assert margin == cb.conflict_margin(acts, labels, backend="reference")


@drawn(400, data=st.data(), acts=rows_of(), tolerance=tolerances)
def test_tolerance(compiled: str, data: st.DataObject, acts: np.ndarray, tolerance: tuple[float, float]) -> None:
    labels = data.draw(labels_for(len(acts)))
    ids = cb.bundle_rows(place(acts, compiled), tolerance=tolerance, backend=compiled)
    assert ids.tolist() == cb.bundle_rows(acts, tolerance=tolerance, backend="reference").tolist()
    assert_same_counts(acts, labels, compiled, tolerance=tolerance)


@pytest.mark.parametrize("bits", [64, 18, 13])
def test_more_rows_than_one_table_holds(
    bits: int, routing_bits: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that are alone, rows that are twice there, NaN and zeros of both signs; few bits make all keys doubtful."""
    rng = np.random.default_rng(bits)
    palette = rng.standard_normal((60_000, 16), np.float32)  # wide enough for several threads
    palette[::7, 0] = 0
    acts = palette[rng.integers(len(palette), size=140_000)]
    acts[::5, 0] *= -1
    acts[::9000, 1] = np.nan
    right = cb.bundle_rows(acts, backend="reference")
    entropy = cb.bundle_entropy(acts, np.arange(len(acts)) % 3, backend="reference")
    routing_bits(bits)
    for threads in (1, 2, 3):
        monkeypatch.setattr(backends, "num_threads", lambda threads=threads: threads)
        assert np.array_equal(cb.bundle_rows(acts), right), threads
        found = cb.bundle_entropy(acts, np.arange(len(acts)) % 3)
        assert (found.num_bundles, found.num_nan_rows) == (entropy.num_bundles, entropy.num_nan_rows), threads


def test_rows_may_begin_anywhere_in_a_line_of_the_cache() -> None:
    memory = np.zeros(64 + 1500 * 256, np.uint8)
    rng = np.random.default_rng(0)
    palette = rng.standard_normal((1000, 64), np.float32)
    for offset in range(0, 64, 4):
        for num_different, columns in ((40, 64), (1000, 64), (1000, 16), (1000, 32)):
            acts = memory[offset:][: 1500 * columns * 4].view(np.float32).reshape(1500, columns)
            acts[:] = palette[rng.integers(num_different, size=1500), :columns]
            right = np.unique(acts, axis=0, return_index=True, return_inverse=True)
            first = right[1][right[2].ravel()]  # of each row the first one that is equal to it
            ids = cb.bundle_rows(acts)
            assert np.array_equal(np.unique(first, return_inverse=True)[1], ids), (offset, num_different, columns)


@pytest.mark.parametrize("dtype", FLOATS)
def test_reference_calls_equal_what_ieee_calls_equal(dtype: str) -> None:
    """The reference compares patterns; the processor's own == must agree on every special pair."""
    values = np.concatenate([special_values(dtype), not_a_number(dtype)])
    with np.errstate(invalid="ignore"):
        as_numbers = values.astype(np.float64)
    for (x, a), (y, b) in itertools.combinations(zip(as_numbers, values, strict=True), 2):
        ids = cb.bundle_rows(np.array([[a], [b]], values.dtype), backend="reference")
        assert (ids[0] == ids[1]) == (x == y), (x, y)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_all_values_of_a_small_type(dtype: str, compiled: str) -> None:
    """Every pattern twice: bundles, NaN and fingerprints of a whole type; on the emulation of its exponents' edges."""
    kind = numpy_type(dtype)
    codes = np.arange(256, dtype=np.uint8) if kind.itemsize == 1 else patterns_of_sixteen_bits(dtype, compiled)
    check_all_values(codes.view(kind), compiled)


def check_all_values(codes: np.ndarray, compiled: str) -> None:
    acts = np.tile(codes, 2)[:, None]
    ids = on_host(cb.bundle_rows(place(acts, compiled), backend=compiled))
    with np.errstate(invalid="ignore"):
        numbers = acts[:, 0].astype(np.float64)
    is_nan = np.isnan(numbers)
    assert np.array_equal(ids, cb.bundle_rows(acts, backend="reference"))
    # numbers that differ, zero once, and every NaN on its own
    assert len(np.unique(ids)) == len(np.unique(numbers[~is_nan])) + is_nan.sum()
    fingerprints, holds_nan = map(
        on_host, backends.TABLE[compiled].row_fingerprints(as_rows(place(acts, compiled)), None)
    )
    assert np.array_equal(holds_nan, is_nan)
    assert len(np.unique(fingerprints[~is_nan], axis=0)) == len(np.unique(numbers[~is_nan]))


def test_counts_are_built_as_promised(backend: str) -> None:
    """Label counts ascend within each conflicting bundle; bundles come in the order of their leaders."""
    acts = np.array([[1], [2], [2], [1], [1], [3], [2], [2], [2], [1]], np.float32)
    labels = np.array([5, 1, 2, 5, 9, 3, 2, 2, 1, 7])
    rows = as_rows(place(acts, backend))
    counts = backends.TABLE[backend].count_bundles(rows, as_labels(place(labels, backend), rows), None, None, True)
    assert counts.label_counts.tolist() == [1, 1, 2, 2, 3]
    assert counts.starts.tolist() == [0, 3, 5]
    assert (counts.label_counts.dtype, counts.starts.dtype) == (np.int64, np.int64)
    pure = backends.TABLE[backend].count_bundles(
        rows, as_labels(place(np.zeros(10, np.int64), backend), rows), None, None, True
    )
    assert (pure.label_counts.tolist(), pure.starts.tolist()) == ([], [0])
    assert (pure.label_counts.dtype, pure.starts.dtype) == (np.int64, np.int64)


@pytest.mark.parametrize(
    ("num_rows", "num_bundles", "num_labels"),
    [(3000, 1, 1023), (3000, 1, 1024), (3000, 2, 1025), (6000, 40, 5000), (6000, 2000, 900), (6000, 2000, 2)],
)
def test_counts_of_many_labels_or_many_bundles(compiled: str, num_rows: int, num_bundles: int, num_labels: int) -> None:
    rng = np.random.default_rng(num_labels)
    acts = np.sort(rng.integers(num_bundles, size=num_rows)).astype(np.float32)[rng.permutation(num_rows), None]
    labels = np.concatenate([np.arange(num_labels), rng.integers(num_labels, size=num_rows)])[:num_rows] * 10**12
    labels = rng.permutation(labels) - 7 * 10**14
    rows, here = as_rows(place(acts, compiled)), as_rows(acts)
    found = backends.TABLE[compiled].count_bundles(rows, as_labels(place(labels, compiled), rows), None, None, True)
    right = backends.TABLE["reference"].count_bundles(here, as_labels(labels, here), None, None, True)
    assert found.label_counts.tolist() == right.label_counts.tolist()
    assert found.starts.tolist() == right.starts.tolist()
    assert (found.num_bundles, found.num_conflicting) == (right.num_bundles, right.num_conflicting)
    assert found.num_conflicting_rows == right.num_conflicting_rows

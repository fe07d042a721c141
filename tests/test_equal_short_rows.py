"""Runs of equal short rows, which the CPU reads as several streams: a row that differs is found wherever it lies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cbkernels as cb

from .all_of import all_of

# bytes a row: compared row by row, and line by line; the streams hold 16 KiB each, whole rows
SHAPES = [(256, 2000), (2048, 300), (520, 1000), (4096, 150), (17, 30_000)]
DTYPES = {"float32": 4, "float64": 8, "float16": 2, "int8": 1}


def equal_rows(row_bytes: int, num_rows: int, dtype: str) -> Any:
    num_columns = max(1, row_bytes // DTYPES[dtype])
    one = np.random.default_rng(0).integers(-100, 100, num_columns).astype(dtype)
    return np.tile(one, (num_rows, 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("row_bytes", "num_rows"), SHAPES)
def test_a_row_that_differs_is_found_in_every_stream(row_bytes: int, num_rows: int, dtype: str) -> None:
    acts = equal_rows(row_bytes, num_rows, dtype)
    rng = np.random.default_rng(1)
    places = {1, num_rows - 1, *rng.integers(1, num_rows, 40).tolist()}
    with all_of("places") as number:
        for place in sorted(places):
            with number(place):
                column = int(rng.integers(acts.shape[1]))
                kept = acts[place, column]
                acts[place, column] += 1
                expected = np.zeros(num_rows, np.int64)
                expected[place] = 1
                assert np.array_equal(cb.bundle_rows(acts), expected)
                acts[place, column] = kept


@pytest.mark.parametrize(("row_bytes", "num_rows"), SHAPES)
def test_runs_of_any_length(row_bytes: int, num_rows: int) -> None:
    """Rows that come in runs, forwards, backwards and a part of a wider matrix, as the definition groups them."""
    rng = np.random.default_rng(2)
    with all_of("lengths") as number:
        for length in (3, 60, 64, 65, 130, 257, 520):
            with number(length):
                bundles = rng.integers(5, size=-(-num_rows // length)).repeat(length)[:num_rows]
                leaders = rng.standard_normal((5, max(1, row_bytes // 4)), np.float32)
                acts = leaders[bundles]
                first = np.unique(bundles, return_index=True, return_inverse=True)
                expected = first[1].argsort().argsort()[first[2]]
                assert np.array_equal(cb.bundle_rows(acts), expected)
                backwards = np.ascontiguousarray(acts[::-1])[::-1]
                assert np.array_equal(cb.bundle_rows(backwards), expected)
                part = np.concatenate([acts, acts + 1], axis=1)[:, : acts.shape[1]]
                assert np.array_equal(cb.bundle_rows(part), expected)

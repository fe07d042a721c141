"""Rows that are alone after a sample are looked through for NaN, many at once where they lie behind each other."""

from __future__ import annotations

import numpy as np
import pytest

import cbkernels as cb

from .all_of import all_of

SHAPES = [(3000, 64), (700, 512), (260, 1000), (9, 65536), (30, 16384 + 7), (40, 20000)]


def different_rows(num_rows: int, num_columns: int, dtype: str) -> np.ndarray:
    acts = np.random.default_rng(0).standard_normal((num_rows, num_columns)).astype(dtype)
    acts[:, num_columns // 2] = np.arange(num_rows)  # float16 as well
    return acts


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize(("num_rows", "num_columns"), SHAPES)
def test_a_nan_is_found_wherever_it_is(num_rows: int, num_columns: int, dtype: str) -> None:
    acts, labels = different_rows(num_rows, num_columns, dtype), np.arange(num_rows) % 3
    assert cb.bundle_entropy(acts, labels).num_nan_rows == 0
    rng = np.random.default_rng(1)
    places = [(0, 0), (num_rows - 1, num_columns - 1)]
    places += zip(rng.integers(num_rows, size=30).tolist(), rng.integers(num_columns, size=30).tolist(), strict=True)
    with all_of("places") as number:
        for place in places:
            with number(place):
                kept, acts[place] = acts[place], np.nan
                assert cb.bundle_entropy(acts, labels).num_nan_rows == 1
                acts[place] = kept


@pytest.mark.parametrize(("num_rows", "num_columns"), SHAPES)
def test_rows_with_nan_are_counted_beside_equal_ones(num_rows: int, num_columns: int) -> None:
    """Some rows are equal to others, and so were read before: what is left to read has gaps."""
    acts, labels = different_rows(num_rows, num_columns, "float32"), np.arange(num_rows) % 3
    rng = np.random.default_rng(2)
    acts[rng.integers(num_rows, size=num_rows // 5)] = acts[0]
    with all_of("shares of rows with a NaN") as number:
        for share in (0.01, 0.3, 1.0):
            with number(share):
                has_nan = rng.random(num_rows) < share
                broken = acts.copy()
                broken[has_nan, rng.integers(num_columns, size=has_nan.sum())] = np.nan
                for part in (broken, broken[::-1], broken[::2], np.asfortranarray(broken)):
                    expected = int(np.isnan(part).any(axis=1).sum())
                    assert cb.bundle_entropy(part, labels[: len(part)]).num_nan_rows == expected

"""Random inputs that break kernels: few different rows, small changes, special values, odd layouts.

``random_case(seed, index)`` gives the same case for the same numbers, so that a failure can be run
again alone. Used by ``fuzz.py``; the hypothesis tests draw their own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cbkernels import UpdateGrid
from cbkernels.arrays import DTYPES

from .inputs import FLOATS, LAYOUTS, not_a_number, numpy_type, special_values, typed

LABEL_TYPES = ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool")
COLUMNS = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 130, 255, 257)
MANY_COLUMNS = (511, 512, 1023, 1024, 1025, 1100, 2047, 2049, 3000, 4097, 8200)


class RandomCase(NamedTuple):
    acts: np.ndarray
    labels: np.ndarray
    grid: UpdateGrid | None
    tolerance: tuple[float, float] | None
    layout: str

    def __str__(self) -> str:
        return (
            f"{self.acts.dtype.name}{list(self.acts.shape)} strides {list(self.acts.strides)} ({self.layout}), "
            f"labels {self.labels.dtype.name}, grid {self.grid}, tolerance {self.tolerance}"
        )


def random_case(seed: int, index: int) -> RandomCase:
    rng = np.random.default_rng([seed, index])
    dtype = DTYPES[rng.integers(len(DTYPES))]
    num_rows, num_columns = _shape(rng, numpy_type(dtype).itemsize)
    rows = _rows(rng, dtype, num_rows, num_columns)
    layout = list(LAYOUTS)[rng.integers(len(LAYOUTS))]
    grid = _grid(rng) if rng.random() < 0.4 else None
    tolerance = None
    if grid is None and num_rows <= 300 and rng.random() < 0.25:
        tolerance = (float(rng.choice([0.0, 1e-5, 0.1])), float(rng.choice([0.0, 1e-8, 0.5, 2.0])))
    return RandomCase(LAYOUTS[layout](rows), _labels(rng, num_rows), grid, tolerance, layout)


def _shape(rng: np.random.Generator, itemsize: int) -> tuple[int, int]:
    kind = rng.random()
    if kind < 1 / 1000:  # large enough for several threads
        num_columns = int(rng.choice([1, 20, 300, 2000, 9000]))
        return int(rng.choice([5, 9]) * 2**20) // (itemsize * max(8, num_columns)) + 1, num_columns
    if kind < 4 / 1000:  # so many keys that not all of them go into tables
        return int(rng.integers(65_537, 80_000)), int(rng.choice([1, 2, 3, 5, 16]))
    if kind < 0.7:
        return int(rng.integers(1, 17)), int(rng.choice(COLUMNS))
    if kind < 0.93:
        return int(rng.integers(1, 12)), int(rng.choice(MANY_COLUMNS))
    if kind < 0.98:
        return int(rng.integers(17, 300)), int(rng.choice(COLUMNS[:16]))
    return int(rng.integers(40, 120)), int(rng.choice(MANY_COLUMNS[4:]))


def _values(rng: np.random.Generator, dtype: str, count: int) -> np.ndarray:
    kind = rng.integers(6)
    if kind == 0:
        return rng.choice(special_values(dtype), count)
    if kind == 1:
        return typed(rng.integers(0, 3, count), dtype)
    if kind == 2 and dtype != "bool":  # any pattern at all
        size = numpy_type(dtype).itemsize
        return rng.integers(0, 256, count * size).astype(np.uint8).view(numpy_type(dtype))
    if kind in (3, 4):
        return typed(np.zeros(count), dtype)
    return typed(rng.normal(0, 2, count), dtype)


def _rows(rng: np.random.Generator, dtype: str, num_rows: int, num_columns: int) -> np.ndarray:
    """Copies of a few rows, some of them changed in one value."""
    num_different = int(rng.choice([1, 2, 3, num_rows]))
    palette = _values(rng, dtype, num_different * num_columns).reshape(num_different, num_columns)
    rows = palette[rng.integers(num_different, size=num_rows)]
    if num_columns and rng.random() < 0.6:
        for _ in range(int(rng.integers(1, 4))):
            column = num_columns - 1 if rng.random() < 0.4 else int(rng.integers(num_columns))
            rows[rng.integers(num_rows), column] = _values(rng, dtype, 1)[0]
    if dtype in FLOATS and num_columns:
        if rng.random() < 0.3:
            _flip_signs_of_zeros(rng, rows)
        if rng.random() < 0.15:
            kinds = not_a_number(dtype)
            for _ in range(int(rng.integers(1, 4))):
                rows[rng.integers(num_rows), rng.integers(num_columns)] = kinds[rng.integers(len(kinds))]
    return rows


def _flip_signs_of_zeros(rng: np.random.Generator, rows: np.ndarray) -> None:
    bits = rows.view(f"u{rows.dtype.itemsize}")
    sign = np.array(1 << (8 * rows.dtype.itemsize - 1), bits.dtype)
    bits[((bits & ~sign) == 0) & (rng.random(rows.shape) < 0.5)] = sign


def _grid(rng: np.random.Generator) -> UpdateGrid:
    return UpdateGrid(
        learning_rate=float(rng.choice([1e-3, 0.1, 1.0, 3.7e-2, 1e3, 1e-30])),
        batch_size=int(rng.choice([1, 7, 32, 50, 64, 100, 1000])),
        weight_amplitude=float(rng.choice([0.0, 0.0, 0.7, 1.0, 1.7, 1e-3, 1e4, 1e38])),
        dtype=str(rng.choice(["float32", "float64", "float16", "bfloat16"])),
    )


def _labels(rng: np.random.Generator, num_rows: int) -> np.ndarray:
    dtype = LABEL_TYPES[rng.integers(len(LABEL_TYPES))]
    if dtype == "bool":
        return rng.integers(0, 2, num_rows).astype(bool)
    info = np.iinfo(dtype)
    names = np.array([0, 1, 2, info.max, info.min, info.max - 1], dtype)[: int(rng.integers(1, 7))]
    labels = rng.choice(names, num_rows)
    kind = rng.integers(3)
    if kind == 0:
        return np.repeat(labels, 3)[1::3]
    return labels if kind == 1 else np.ascontiguousarray(labels[::-1])[::-1]


def small_bundles(seed: int, num_rows: int) -> np.ndarray:
    """Many bundles of one to four rows; some rows differ from the others of their bundle, or hold a NaN, at one place.

    Every row begins at a multiple of 16 bytes, so that a GPU reads it in chunks.
    """
    rng = np.random.default_rng([seed, num_rows])
    num_columns = int(rng.choice([8, 16, 24, 64, 136, 264, 1032, 2400]))
    palette = rng.normal(0, 1, (num_rows // int(rng.integers(2, 5)) + 1, num_columns))
    rows = palette[rng.integers(len(palette), size=num_rows)].astype(rng.choice(["float32", "float16", "float64"]))
    for row in rng.integers(num_rows, size=num_rows // 10):
        rows[row, rng.integers(num_columns)] = rng.choice([np.nan, 0.0, 7.0])
    return rows


BOTH_TAILS = (206, 434, 455, 953, 1280, 1839)
"""Seeds of `rows_in_both_tails` whose closest pair is lost without a look at which of two rows is the higher one."""


def rows_in_both_tails(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and labels; in every column most rows are far from some higher and from some lower row."""
    rng = np.random.default_rng(seed)
    num_rows, num_columns = int(rng.integers(12, 70)), int(rng.integers(2, 7))
    acts = rng.integers(0, rng.integers(2, 12), (num_rows, num_columns)) * rng.choice([1.0, 2, 5], size=num_columns)
    acts = acts + rng.choice([0, 0.5, 0.25], size=acts.shape)
    acts[:, 0] = np.sort(rng.random(num_rows)) * rng.choice([10, 40, 80])
    return acts, np.arange(num_rows) if rng.random() < 0.5 else rng.integers(3, size=num_rows)


def rows_of_one_close_pair(first: int, second: int) -> tuple[np.ndarray, float]:
    """1,100 rows of which the two with these numbers, counted along the widest column, are the closest by far; and
    how far apart they are."""
    rng = np.random.default_rng(first)
    acts = rng.random((1100, 60))
    acts[second] = acts[first]
    acts[:, 7] = np.arange(1100) * 0.002
    return acts[rng.permutation(1100)], float(acts[second, 7] - acts[first, 7])

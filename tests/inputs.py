"""Arrays of every type, in every layout: what the tests feed to the backends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from cbkernels.arrays import DTYPES

from . import emulation

FLOATS = DTYPES[:6]
INTEGERS = DTYPES[6:14]
WITHOUT_NUMPY_TYPE = ("bfloat16", "float8_e4m3fn", "float8_e5m2")


def numpy_type(dtype: str) -> np.dtype[Any]:
    """NumPy's type of this name; ml_dtypes lends those that NumPy lacks."""
    if dtype in WITHOUT_NUMPY_TYPE:
        ml_dtypes = pytest.importorskip("ml_dtypes", reason=f"ml_dtypes: {dtype} NOT TESTED HERE")
        return np.dtype(getattr(ml_dtypes, dtype))
    return np.dtype(dtype)


def typed(values: Any, dtype: str) -> np.ndarray:
    """Values rounded to a type."""
    with np.errstate(all="ignore"):
        return np.asarray(values).astype(numpy_type(dtype))


def patterns(bits: Iterable[Any] | np.ndarray, dtype: str) -> np.ndarray:
    """An array of this type from its bit patterns."""
    kind = numpy_type(dtype)
    return np.asarray(bits, np.uint64).astype(f"u{kind.itemsize}").view(kind)


def _columns_first(a: np.ndarray) -> np.ndarray:
    return np.asfortranarray(a)


def _inside_a_larger_array(a: np.ndarray) -> np.ndarray:
    n, d = a.shape
    big = np.full((n + 2, d + 5), 77).astype(a.dtype)
    big[1 : n + 1, 3 : d + 3] = a
    return big[1 : n + 1, 3 : d + 3]


def _every_third_column(a: np.ndarray) -> np.ndarray:
    n, d = a.shape
    big = np.full((n, 3 * d), 77).astype(a.dtype)
    big[:, 1::3] = a
    return big[:, 1::3]


def _every_other_row(a: np.ndarray) -> np.ndarray:
    n, d = a.shape
    big = np.full((2 * n, d), 77).astype(a.dtype)
    big[::2] = a
    return big[::2]


def _backwards(a: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(a[::-1, ::-1])[::-1, ::-1]


def _rows_backwards(a: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(a[::-1])[::-1]


def _channels_last(a: np.ndarray) -> np.ndarray:
    n, d = a.shape
    channels = next((c for c in (3, 4, 5, 2, 7) if d % c == 0 and d), 1)
    image = a.reshape(n, channels, d // channels, 1)
    return np.ascontiguousarray(image.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def _samples_last(a: np.ndarray) -> np.ndarray:
    n, d = a.shape
    width = next((c for c in (3, 2, 5) if d % c == 0 and d), 1)
    image = a.reshape(n, width, d // width)
    return np.ascontiguousarray(image.transpose(2, 0, 1)).transpose(1, 2, 0)


def _time_major(a: np.ndarray) -> np.ndarray:
    """Steps, rows, features: long contiguous pieces of rows, whose other pieces are far away."""
    n, d = a.shape
    steps = next((s for s in (5, 3, 4, 2, 11) if d % s == 0 and d), 1)
    return np.ascontiguousarray(a.reshape(n, steps, d // steps).transpose(1, 0, 2)).transpose(1, 0, 2)


def _rows_in_the_middle(a: np.ndarray) -> np.ndarray:
    """Of four axes, with gaps: one axis of the columns lies outside the rows, one inside, both around a short run."""
    n, d = a.shape
    outer = next((s for s in (2, 3, 5) if d % s == 0 and d), 1)
    inner = next((s for s in (3, 4, 2, 5) if d // outer % s == 0 and d), 1)
    run = d // outer // inner
    big = np.full((outer, n, inner + 1, run + 2), 77).astype(a.dtype)
    big[:, :, :inner, 1 : run + 1] = a.reshape(n, outer, inner, run).transpose(1, 0, 2, 3)
    return big[:, :, :inner, 1 : run + 1].transpose(1, 0, 2, 3)


def _columns_of_a_larger_array(a: np.ndarray) -> np.ndarray:
    """Columns first, every other value of every column, the last row first."""
    n, d = a.shape
    big = np.full((d, 2 * n + 3), 77).astype(a.dtype)
    big[:, 2 : 2 * n + 2 : 2] = a[::-1].T
    return big[:, 2 : 2 * n + 2 : 2].T[::-1]


def _columns_backwards(a: np.ndarray) -> np.ndarray:
    return np.asfortranarray(a[::-1])[::-1]


def _not_aligned(a: np.ndarray) -> np.ndarray:
    memory = np.zeros(a.nbytes + 1, np.uint8)
    out = memory[1:].view(a.dtype).reshape(a.shape)
    out[...] = a
    return out


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "contiguous": np.ascontiguousarray,
    "columns_first": _columns_first,
    "inside_a_larger_array": _inside_a_larger_array,
    "every_third_column": _every_third_column,
    "every_other_row": _every_other_row,
    "backwards": _backwards,
    "rows_backwards": _rows_backwards,
    "channels_last": _channels_last,
    "samples_last": _samples_last,
    "time_major": _time_major,
    "rows_in_the_middle": _rows_in_the_middle,
    "columns_of_a_larger_array_backwards": _columns_of_a_larger_array,
    "columns_backwards": _columns_backwards,
    "not_aligned": _not_aligned,
}
"""(N, D) -> the same rows elsewhere in memory; shape (N, ...) with the same logical order of columns."""


def special_values(dtype: str) -> np.ndarray:
    """The values of a type that are most likely to be treated wrongly."""
    if dtype == "bool":
        return np.array([False, True])
    if dtype in INTEGERS:
        info = np.iinfo(dtype)
        return np.array([0, 1, 2, info.max, info.max - 1, info.min, info.min + 1], dtype)
    width = 8 * numpy_type(dtype).itemsize
    fraction = {
        "float64": 52,
        "float32": 23,
        "float16": 10,
        "bfloat16": 7,
        "float8_e4m3fn": 3,
        "float8_e5m2": 2,
    }
    top = ((1 << (width - 1)) - 1) >> fraction[dtype] << fraction[dtype]  # exponent full, fraction 0
    one = (1 << (width - 2)) - (1 << fraction[dtype])
    positive = [0, 1, 2, (1 << fraction[dtype]) - 1, 1 << fraction[dtype], one, one + 1, top - 1, top]
    if dtype == "float8_e4m3fn":
        positive.append(top + 6)
    sign = 1 << (width - 1)
    return patterns(np.array(positive + [sign | p for p in positive], np.uint64), dtype)


def not_a_number(dtype: str) -> np.ndarray:
    """Every kind of NaN of a floating-point type: quiet, signalling, negative, full."""
    width = 8 * numpy_type(dtype).itemsize
    full = (1 << (width - 1)) - 1
    sign = 1 << (width - 1)
    if dtype == "float8_e4m3fn":
        return patterns(np.array([full, sign | full], np.uint64), dtype)
    fraction = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7, "float8_e5m2": 2}[dtype]
    top = full >> fraction << fraction
    return patterns(np.array([full, sign | full, top + 1, sign | (top + 1)], np.uint64), dtype)


def patterns_of_sixteen_bits(dtype: str, backend: str) -> np.ndarray:
    """Every pattern as uint16; for the emulation, which is slow, those around the edges of every exponent.

    ``make fuzz-emulated`` goes through all of them.
    """
    numbers = np.arange(65536, dtype=np.uint16)
    if backend != emulation.NAME:
        return numbers
    fraction_bits = {"float16": 10, "bfloat16": 7}[dtype]
    fraction = numbers & ((1 << fraction_bits) - 1)
    last = (1 << fraction_bits) - 1
    edges = (0, 1, 2, last // 2, last // 2 + 1, last - 1, last)
    return numbers[np.isin(fraction, edges)]


def place(x: Any, backend: str) -> Any:
    """The array where the backend can read it."""
    if backend == emulation.NAME and isinstance(x, np.ndarray) and not x.flags.aligned:
        return x.copy()  # a GPU reads whole values only, at multiples of their size
    if backend != "cuda":
        return x
    torch = pytest.importorskip("torch")
    if isinstance(x, np.ndarray):
        if any(s < 0 for s in x.strides) or not x.flags.writeable:
            x = x.copy()
        if x.dtype.kind == "V" or x.dtype.name.startswith(("bfloat16", "float8")):
            return torch.from_numpy(x.view(f"u{x.dtype.itemsize}")).view(getattr(torch, x.dtype.name)).cuda()
        return torch.from_numpy(x).cuda()
    return torch.as_tensor(x).cuda()


def on_host(x: Any) -> np.ndarray:
    """What a backend returned as a NumPy array, wherever it is."""
    return x if isinstance(x, np.ndarray) else np.asarray(x.cpu())

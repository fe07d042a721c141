"""The definition in NumPy: slow, obvious, and unlike the kernels in shape.

Written from the definition (README, ``docs/method.md``) and from ``docs/fingerprint.md``, never from
a kernel: rows become byte strings in a dict, pairs are two loops, keys are Python integers. Every
other backend must give the same integers. Plain equality works on patterns, so that a processor
that flushes subnormal numbers to zero cannot change an answer. Read next: ``backends.py``.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .arrays import Labels, Rows
from .entropy import BundleCounts
from .grid import UpdateGrid
from .options import Tolerance
from .stream_keys import FIXED_KEY

Array = npt.NDArray[Any]


class _Format(NamedTuple):
    """A binary floating-point type: sign, exponent, fraction."""

    exponent_bits: int
    fraction_bits: int
    has_infinity: bool

    @property
    def width(self) -> int:
        """Bits of one value."""
        return 1 + self.exponent_bits + self.fraction_bits

    @property
    def largest_pattern(self) -> int:
        """Positive patterns above this one are NaN: infinity, or the largest number where there is none."""
        exponent_full = ((1 << self.exponent_bits) - 1) << self.fraction_bits
        return exponent_full if self.has_infinity else exponent_full + (1 << self.fraction_bits) - 2


_FORMATS = {
    "float64": _Format(11, 52, True),
    "float32": _Format(8, 23, True),
    "float16": _Format(5, 10, True),
    "bfloat16": _Format(8, 7, True),
    "float8_e4m3fn": _Format(4, 3, False),
    "float8_e5m2": _Format(5, 2, True),
}


class Reference:
    """The backend that says what is right."""

    name = "reference"

    def count_bundles(
        self, rows: Rows, labels: Labels, grid: UpdateGrid | None, tolerance: Tolerance | None, check_nan: bool
    ) -> BundleCounts:
        """Group the rows, then count the labels in every bundle; NaN rows are always looked for."""
        ids, holds_nan = _bundles(rows, grid, tolerance)
        labels_of: dict[int, Counter[int]] = {}
        for bundle, label in zip(ids, labels.raw().tolist(), strict=True):
            labels_of.setdefault(bundle, Counter())[int(label)] += 1
        conflicting = [labels_of[bundle] for bundle in sorted(labels_of) if len(labels_of[bundle]) > 1]
        return BundleCounts(
            num_rows=rows.num_rows,
            num_bundles=len(labels_of),
            num_nan_rows=sum(holds_nan),
            num_conflicting=len(conflicting),
            num_conflicting_rows=sum(counter.total() for counter in conflicting),
            label_counts=np.array([n for c in conflicting for n in sorted(c.values())], np.int64),
            starts=np.array([*accumulate(map(len, conflicting), initial=0)], np.int64),
        )

    def bundle_ids(self, rows: Rows, grid: UpdateGrid | None, tolerance: Tolerance | None) -> Any:
        """(N,) int64; a tensor where a tensor came in."""
        ids = np.array(_bundles(rows, grid, tolerance)[0], np.int64)
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(rows.owner, torch.Tensor):
            return torch.from_numpy(ids)
        return ids

    def row_fingerprints(self, rows: Rows, grid: UpdateGrid | None, key: int = FIXED_KEY) -> tuple[Array, Array]:
        """(N, 2) uint64 and (N,) bool, step by step as in ``docs/fingerprint.md``; (0, 0) for a NaN row."""
        patterns, holds_nan = _compared(rows, grid)
        row_sums = np.zeros((rows.num_rows, 4), np.uint64)
        # a grid gives one word a value, also where its type has 16 bits
        words = _words(patterns if grid is None or patterns.itemsize > 2 else patterns.astype(np.uint32))
        for block in range(-(-words.shape[1] // 1024)):
            row_sums += _block_term(words[:, 1024 * block : 1024 * (block + 1)], block, key)
        fingerprints = _compress(row_sums, key)
        fingerprints[holds_nan] = 0
        return fingerprints, holds_nan

    def conflict_margin(self, rows: Rows, labels: Labels) -> float:
        """Every pair of rows with different labels, every component."""
        holds_nan = _compared(rows, None)[1]
        values = _numbers(rows).tolist()
        names = labels.raw().tolist()
        kept = [i for i in range(rows.num_rows) if not holds_nan[i]]
        smallest = math.inf
        for position, i in enumerate(kept):
            for j in kept[:position]:
                if names[i] != names[j]:
                    smallest = min(smallest, _distance(values[i], values[j]))
        return float(smallest)


def _distance(a: list[Any], b: list[Any]) -> float:
    """Largest difference of two rows; exact for integers, equal infinities are 0 apart."""
    return max((0 if x == y else abs(x - y) for x, y in zip(a, b, strict=True)), default=0)


def _bundles(rows: Rows, grid: UpdateGrid | None, tolerance: Tolerance | None) -> tuple[list[int], list[bool]]:
    """Number of the bundle and "holds a NaN" for every row."""
    patterns, holds_nan = _compared(rows, grid)
    if tolerance is not None:
        with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
            values = _numbers(rows).astype(np.float64)
        return _follow_leaders(values, *tolerance), holds_nan.tolist()
    ids: list[int] = []
    number_of: dict[bytes, int] = {}
    num_bundles = 0
    for row, is_nan in zip(patterns, holds_nan, strict=True):
        number = num_bundles if is_nan else number_of.setdefault(row.tobytes(), num_bundles)
        num_bundles += number == num_bundles
        ids.append(number)
    return ids, holds_nan.tolist()


def _follow_leaders(values: Array, rtol: float, atol: float) -> list[int]:
    """Each row joins the first leader that is near in every component, or becomes a leader."""
    ids: list[int] = []
    leaders: list[Array] = []
    for row in values:
        for number, leader in enumerate(leaders):
            with np.errstate(invalid="ignore", over="ignore"):
                near = np.abs(row - leader) <= atol + rtol * np.abs(leader)
            # an infinity is near to itself alone, although inf <= rtol * inf
            if ((near & np.isfinite(row) & np.isfinite(leader)) | (row == leader)).all():
                ids.append(number)
                break
        else:
            ids.append(len(leaders))
            leaders.append(row)
    return ids


def _compared(rows: Rows, grid: UpdateGrid | None) -> tuple[Array, Array]:
    """(N, D) unsigned patterns, equal where the values are equal numbers, and (N,) "holds a NaN"."""
    if grid is not None:
        values, name = _on_grid(_numbers(rows), grid)
        patterns = values.view(f"u{values.itemsize}")
    else:
        values, name = rows.raw().reshape(rows.num_rows, rows.num_columns), rows.dtype
        patterns = np.ascontiguousarray(values).view(f"u{values.itemsize}")
    if name not in _FORMATS:
        return patterns, np.zeros(rows.num_rows, np.bool_)
    kind = _FORMATS[name]
    sign = patterns.dtype.type(1 << (kind.width - 1))
    patterns = np.where(patterns == sign, patterns.dtype.type(0), patterns)
    return patterns, ((patterns & ~sign) > kind.largest_pattern).any(axis=1)


def _numbers(rows: Rows) -> Array:
    """(N, D) values in a type that NumPy knows; nothing is rounded."""
    raw = rows.raw().reshape(rows.num_rows, rows.num_columns)
    if rows.dtype in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        return _decode(raw, _FORMATS[rows.dtype])
    return raw


def _decode(patterns: Array, kind: _Format) -> Array:
    """float32 from the fields of a format of at most 16 bits."""
    fields = patterns.astype(np.int64)
    fraction = fields & ((1 << kind.fraction_bits) - 1)
    exponent = (fields >> kind.fraction_bits) & ((1 << kind.exponent_bits) - 1)
    bias = (1 << (kind.exponent_bits - 1)) - 1
    # exponent 0 has no hidden one, and the scale of exponent 1
    significand = np.where(exponent == 0, fraction, fraction + (1 << kind.fraction_bits))
    scale = np.maximum(exponent, 1) - bias - kind.fraction_bits
    magnitude = np.ldexp(significand.astype(np.float64), scale)
    positive = fields & ((1 << (kind.width - 1)) - 1)
    if kind.has_infinity:
        magnitude[positive == kind.largest_pattern] = math.inf
    magnitude[positive > kind.largest_pattern] = math.nan
    signed: Array = np.where(positive == fields, magnitude, -magnitude)
    return signed.astype(np.float32)


def _on_grid(values: Array, grid: UpdateGrid) -> tuple[Array, str]:
    """``w - (a * lr) * (1 / batch_size)``, every operation rounded on its own; and the result's type."""
    code, w, lr, inverse = grid.parameters
    work: type[np.floating[Any]] = np.float64 if code == 2 else np.float32
    with np.errstate(all="ignore"):
        update = values.astype(work) * work(lr)
        update = update * work(inverse)
        seen = work(w) - update
        if code == 3:
            return seen.astype(np.float16), "float16"
    if code == 4:
        return _rounded_to_bfloat16(seen), "bfloat16"
    return seen, np.dtype(work).name


def _rounded_to_bfloat16(values: Array) -> Array:
    """float32 to the pattern of the nearest bfloat16, ties to the even one."""
    patterns = values.view(np.uint32).astype(np.uint64)
    kept, dropped = patterns >> np.uint64(16), patterns & np.uint64(0xFFFF)
    up = (dropped > 0x8000) | ((dropped == 0x8000) & (kept % 2 == 1))
    return np.where(np.isnan(values), 0x7FC0, kept + up).astype(np.uint16)


def _words(patterns: Array) -> Array:
    """(N, W) 32-bit words in 64-bit integers, W a multiple of 16: section 1 of the specification."""
    num_rows, num_columns = patterns.shape
    bits = 8 * patterns.itemsize
    values = patterns.astype(np.uint64)
    if bits == 64:
        words = np.empty((num_rows, 2 * num_columns), np.uint64)
        words[:, 0::2], words[:, 1::2] = values & np.uint64(_MASK32), values >> np.uint64(32)
    else:
        per_word = 32 // bits
        padded = np.zeros((num_rows, -(-num_columns // per_word) * per_word), np.uint64)
        padded[:, :num_columns] = values
        words = np.zeros((num_rows, padded.shape[1] // per_word), np.uint64)
        for position in range(per_word):
            words |= padded[:, position::per_word] << np.uint64(bits * position)
    full = np.zeros((num_rows, -(-words.shape[1] // 16) * 16), np.uint64)
    full[:, : words.shape[1]] = words
    return full


_MASK32 = (1 << 32) - 1
_MASK64 = (1 << 64) - 1


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK64
    return z ^ (z >> 31)


def _stream(key: int, purpose: int, i: int) -> int:
    """SplitMix64 from the low half of the key, and once more with the high half if that is not 0."""
    high, low = divmod(key, 1 << 64)
    z = _mix(((low ^ purpose) + 0x9E3779B97F4A7C15 * (i + 1)) & _MASK64)
    return _mix(z ^ high) if high else z


@lru_cache(8)
def _key1(key: int) -> Array:
    return np.array([_stream(key, 0, j) >> 32 for j in range(2048)], np.uint64)


@lru_cache(1024)
def _key2(key: int, block: int) -> Array:
    return np.array([_stream(key, _MASK64, 8 * block + i) >> 32 for i in range(8)], np.uint64)


@lru_cache(8)
def _key3(key: int) -> Array:
    return np.array([[_stream(key, 0x5555555555555555, 9 * m + i) for i in range(9)] for m in range(4)], np.uint64)


_SYMBOLS = [[0], [1], [2], [3], [1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
"""Of which symbols each encoded one is the exclusive or."""
_SUMS = [[0, 3, 5, 7], [1, 3, 6, 7], [2, 3, 5, 6], [4, 5, 6, 7]]
"""Of which encoded symbols' sums each block sum is the sum."""


def _block_sums(words: Array, key: int) -> Array:
    """(N, 4) from the (N, W) words of one block, W a multiple of 16."""
    num_rows, num_words = words.shape
    num_units = num_words // 16
    units = np.zeros((num_rows, -(-num_units // 4) * 4, 16), np.uint64)
    units[:, :num_units] = words.reshape(num_rows, num_units, 16)
    hashes = np.empty((num_rows, 8), np.uint64)
    for i, entering in enumerate(_SYMBOLS):
        of_symbol = np.bitwise_xor.reduce([units[:, k::4] for k in entering])
        present = of_symbol[:, : -(-(num_units - min(entering)) // 4)].reshape(num_rows, -1)
        keyed = (present + _key1(key)[256 * i :][: present.shape[1]]) & np.uint64(_MASK32)
        hashes[:, i] = (keyed[:, 0::2] * keyed[:, 1::2]).sum(axis=1, dtype=np.uint64)
    return np.stack([hashes[:, summed].sum(axis=1, dtype=np.uint64) for summed in _SUMS], axis=1)


def _block_term(words: Array, block: int, key: int) -> Array:
    """(N, 4): what one block adds to the row sums."""
    low32, half = np.uint64(_MASK32), np.uint64(32)
    block_sums, key2 = _block_sums(words, key), _key2(key, block)
    first = ((block_sums & low32) + key2[0::2]) & low32
    second = ((block_sums >> half) + key2[1::2]) & low32
    terms: Array = first * second
    return terms


def _compress(row_sums: Array, key: int) -> Array:
    """(N, 4) row sums to (N, 2) fingerprints."""
    half = np.uint64(32)
    halves = np.empty((row_sums.shape[0], 8), np.uint64)
    halves[:, 0::2], halves[:, 1::2] = row_sums & np.uint64(_MASK32), row_sums >> half
    parts = [((of_m[:8] * halves).sum(axis=1, dtype=np.uint64) + of_m[8]) >> half for of_m in _key3(key)]
    return np.stack([parts[0] | (parts[1] << half), parts[2] | (parts[3] << half)], axis=1)

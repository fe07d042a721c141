"""Named, seeded data with known bundles: the regimes of the speed table, adversarial layouts, strides, types.

A layout is a function (rng, n, d) -> (bundle of each row, block(a, b) -> rows a..b as float32). `build`
writes the blocks into one 64-byte aligned buffer that all cases share, so only the latest case is valid.
No value is NaN or -0.0: the peers compare bytes and would give another answer.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .limits import limits

Array = np.ndarray[Any, Any]
Block = Callable[[int, int], Array]

SHAPES = ((64, 16384), (512, 16384), (2048, 4096), (50000, 512), (1000000, 64), (4096, 65536))
DATA = ("distinct", "50 bundles", "equal")
SHORT_SHAPES = ((50000, 512), (1000000, 64))
MANY_BUNDLES = ("1000 bundles", "20000 bundles")
"""Of short rows, whose leaders fill the L2 cache or leave it."""
ADVERSARIAL_SHAPES = ((512, 16384), (8192, 4096))
STRIDED_SHAPES = ((512, 16384), (50000, 512))
DTYPES = ("bfloat16", "float16", "float64", "int8", "bool")
CHUNK_VALUES = 1 << 21
CHANNEL_COLUMNS = 256
IN_CACHE_BYTES = 8 << 20
"""Smaller matrices are measured where a network leaves them: in the cache. All others come from memory."""


@dataclass(frozen=True)
class Case:
    """One matrix and what is known about it."""

    name: str
    group: str
    shape: tuple[int, int]
    data: str
    layout: str
    dtype: str
    acts: Any
    """(N, ...) NumPy array; bfloat16 is a torch tensor."""
    small: Any
    """A few rows of the same type, to bring code, not data, into the cache."""
    ids: Array
    labels: Array
    storage: Array
    """As many bytes as the values have, without gaps: what `one_read` reads."""

    @property
    def hot(self) -> bool:
        return self.storage.nbytes <= IN_CACHE_BYTES


# ---- which rows are equal


def distinct(rng: np.random.Generator, n: int, d: int) -> tuple[Array, Block]:
    return np.arange(n), lambda a, b: rng.standard_normal((b - a, d), dtype=np.float32)


def bundles(count: int) -> Callable[..., tuple[Array, Block]]:
    def layout(rng: np.random.Generator, n: int, d: int) -> tuple[Array, Block]:
        leaders = rng.standard_normal((count, d), dtype=np.float32)
        which = rng.integers(0, count, n)
        return which, lambda a, b: leaders[which[a:b]]

    return layout


def relu(zeros: float) -> Callable[..., tuple[Array, Block]]:
    def layout(rng: np.random.Generator, n: int, d: int) -> tuple[Array, Block]:
        def block(a: int, b: int) -> Array:
            values = np.abs(rng.standard_normal((b - a, d), dtype=np.float32))
            values[rng.random((b - a, d), dtype=np.float32) < zeros] = 0
            return values

        return np.arange(n), block

    return layout


def dead_prefix(rng: np.random.Generator, n: int, d: int) -> tuple[Array, Block]:
    def block(a: int, b: int) -> Array:
        values = np.abs(rng.standard_normal((b - a, d), dtype=np.float32))
        values[:, : d // 4] = 0
        return values

    return np.arange(n), block


def channels_dead(rng: np.random.Generator, n: int, d: int) -> tuple[Array, Block]:
    live = rng.random(_channels(d)) < 0.1
    live[-1] = True
    return np.arange(n), _masked_channels(rng, d, np.broadcast_to(live, (n, len(live))))


def channels_off(rng: np.random.Generator, n: int, d: int) -> tuple[Array, Block]:
    """Each sample switches its own 90 % of the channels off; some samples switch off all of them."""
    live = rng.random((n, _channels(d))) < 0.1
    bundle = np.where(live.any(axis=1), np.arange(n), -1)
    return bundle, _masked_channels(rng, d, live)


def last_column(rng: np.random.Generator, n: int, d: int) -> tuple[Array, Block]:
    leader = np.abs(rng.standard_normal((1, d), dtype=np.float32))

    def block(a: int, b: int) -> Array:
        values = np.repeat(leader, b - a, axis=0)
        values[:, -1] = np.arange(a, b)
        return values

    return np.arange(n), block


def random_column(rng: np.random.Generator, n: int, d: int) -> tuple[Array, Block]:
    leader = np.abs(rng.standard_normal((1, d), dtype=np.float32))
    column = rng.integers(0, d, n)

    def block(a: int, b: int) -> Array:
        values = np.repeat(leader, b - a, axis=0)
        values[np.arange(b - a), column[a:b]] += 1 + np.arange(a, b, dtype=np.float32)
        return values

    return np.arange(n), block


def pairs(rng: np.random.Generator, n: int, d: int) -> tuple[Array, Block]:
    half = rng.standard_normal((n // 2, d), dtype=np.float32)
    which = rng.permutation(n) % (n // 2)
    return which, lambda a, b: half[which[a:b]]


def staircase(rng: np.random.Generator, n: int, d: int) -> tuple[Array, Block]:
    """Row i equals the others up to column i * d / n and is its own from there on."""
    leader = rng.standard_normal((1, d), dtype=np.float32)

    def block(a: int, b: int) -> Array:
        values = np.repeat(leader, b - a, axis=0)
        for row in range(a, b):
            column = row * d // n
            values[row - a, column:] = rng.standard_normal(d - column, dtype=np.float32)
        return values

    return np.arange(n), block


def ten_late(rng: np.random.Generator, n: int, d: int) -> tuple[Array, Block]:
    leaders = np.repeat(rng.standard_normal((1, d), dtype=np.float32), 10, axis=0)
    leaders[:, -1] = np.arange(10)
    which = rng.integers(0, 10, n)
    return which, lambda a, b: leaders[which[a:b]]


def _channels(d: int) -> int:
    return d // min(CHANNEL_COLUMNS, max(1, d // 16))


def _masked_channels(rng: np.random.Generator, d: int, live: Array) -> Block:
    def block(a: int, b: int) -> Array:
        values = np.abs(rng.standard_normal((b - a, live.shape[1], d // live.shape[1]), dtype=np.float32))
        values[~live[a:b]] = 0
        return values.reshape(b - a, d)

    return block


LAYOUTS: dict[str, Callable[..., tuple[Array, Block]]] = {
    "distinct": distinct,
    "50 bundles": bundles(50),
    "1000 bundles": bundles(1000),
    "20000 bundles": bundles(20000),
    "equal": bundles(1),
    "relu50": relu(0.5),
    "relu90": relu(0.9),
    "dead prefix": dead_prefix,
    "channels dead": channels_dead,
    "channels off per sample": channels_off,
    "last column": last_column,
    "one random column": random_column,
    "pairs": pairs,
    "staircase": staircase,
    "2 bundles": bundles(2),
    "10 bundles late": ten_late,
}
ADVERSARIAL = tuple(name for name in LAYOUTS if name not in DATA + MANY_BUNDLES)


# ---- where the values lie


def in_rows(flat: Array, n: int, d: int) -> Array:
    return flat[: n * d].reshape(n, d)


def channels_last(flat: Array, n: int, d: int) -> Array:
    side = 16 if d >= 4096 else 8
    return flat[: n * d].reshape(n, side, side, d // side**2).transpose(0, 3, 1, 2)


def column_major(flat: Array, n: int, d: int) -> Array:
    return flat[: n * d].reshape(d, n).T


def slice_of_columns(flat: Array, n: int, d: int) -> Array:
    return flat[: 2 * n * d].reshape(n, 2 * d)[:, d // 2 : d // 2 + d]


def time_major(flat: Array, n: int, d: int) -> Array:
    steps = 1 << (d.bit_length() - 1) // 2
    return flat[: n * d].reshape(steps, n, d // steps).transpose(1, 0, 2)


def batch_in_the_middle(flat: Array, n: int, d: int) -> Array:
    """Between the pixels and their eight channels: of a row, 32 bytes lie together."""
    return flat[: n * d].reshape(d // 8, n, 8).transpose(1, 0, 2)


STRIDES: dict[str, Callable[[Array, int, int], Array]] = {
    "rows": in_rows,
    "channels-last": channels_last,
    "column-major": column_major,
    "slice of columns": slice_of_columns,
    "time-major": time_major,
    "batch in the middle": batch_in_the_middle,
}
STRIDED = tuple(name for name in STRIDES if name != "rows")


# ---- building


def build(group: str, shape: tuple[int, int], data: str, *, layout: str = "rows", dtype: str = "float32") -> Case:
    """The case of that name, always with the same values; overwrites the case built before."""
    name = " ".join([f"{shape[0]}x{shape[1]}", data] + [s for s in (layout, dtype) if s not in ("rows", "float32")])
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    n, d = _scaled(shape)
    bundle, block = LAYOUTS[data](rng, n, d)
    kind = np.dtype({"bfloat16": "uint16"}.get(dtype, dtype))
    raw = _reserve(n * d * kind.itemsize * (2 if layout == "slice of columns" else 1))
    acts = STRIDES[layout](raw.view(kind), n, d)
    step = max(1, CHUNK_VALUES // d)
    for a in range(0, n, step):
        rows = acts[a : a + step]
        rows[...] = _converted(block(a, a + len(rows)), dtype).reshape(rows.shape)
    small = _converted(rng.standard_normal((16, min(d, 2048)), dtype=np.float32), dtype)
    return Case(
        name, group, shape, data, layout, dtype, _typed(acts, dtype), _typed(small, dtype),
        by_leader(bundle), rng.integers(0, 10, n), raw[: n * d * kind.itemsize],
    )  # fmt: skip


def by_leader(partition: Array) -> Array:
    """The same partition with ids that count upward in the order of the first rows."""
    _, first, inverse = np.unique(np.asarray(partition), return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def _scaled(shape: tuple[int, int]) -> tuple[int, int]:
    return (min(shape[0], 64), min(shape[1], 256)) if limits().mode == "tiny" else shape


def _converted(values: Array, dtype: str) -> Array:
    if dtype == "bfloat16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    if dtype == "int8":
        return np.clip(values * 40, -127, 127).astype(np.int8)
    return values > 0 if dtype == "bool" else values.astype(dtype, copy=False)


def _typed(values: Array, dtype: str) -> Any:
    if dtype != "bfloat16":
        return values
    import torch

    return torch.from_numpy(values).view(torch.bfloat16)


_MEMORY: list[Array] = []


def _reserve(nbytes: int) -> Array:
    """The front of one 64-byte aligned buffer; untouched pages of it cost nothing."""
    if not _MEMORY or _MEMORY[0].nbytes < nbytes:
        size = max(nbytes, 4 * max(n * d for n, d in map(_scaled, SHAPES)))
        whole = np.empty(size + 64, np.uint8)
        _MEMORY[:] = [whole[-whole.ctypes.data % 64 :][:size]]
    return _MEMORY[0][:nbytes]

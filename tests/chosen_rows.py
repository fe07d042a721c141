"""Rows and labels made by somebody who knows a key: under it, and under no other, their hashes are all the same."""

from __future__ import annotations

import numpy as np

from cbkernels.stream_keys import FIXED_KEY

Key = tuple[int, int]
"""The low and the high 64 bits."""

FIXED: Key = (FIXED_KEY, 0)
_MASK = (1 << 64) - 1
_DIRECTIONS = np.array([
    [53, 1170, -3305, 3447, -647, 513, 2238, 2182, -3514, -4508, 1816, 1249, -3907, 3512],
    [-70, 1434, 2811, -4581, -1339, -1825, -779, 811, 2941, -4588, -626, -75, -2465, 3587],
])  # fmt: skip
"""By lattice reduction (LLL): integers whose sum with the keys of every second word is 0, for all symbols x0 enters."""
_ROUTING_DIRECTIONS = np.array([
    [3840, -1788, 217, -2348, -459, -193, 3361, -1147, -583, 2255, -3199, 4254, -1968, -27],
    [2373, 982, -4167, -3065, -1584, 1512, -704, -447, -2162, 1848, 313, 1268, 4268, -781],
])  # fmt: skip
"""The same for the keys of both sums on a GPU."""


def mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def block_keys(key: Key, count: int) -> np.ndarray:
    """(count,) uint32: the first keys of the block sums."""
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = mix(np.uint64(key[0]) + steps)
    return ((mix(z ^ np.uint64(key[1])) if key[1] else z) >> np.uint64(32)).astype(np.uint32)


def routed_alike(key: Key, num_rows: int, num_columns: int, dtype: str = "uint32", at: int = 0) -> np.ndarray:
    """(N, D) different rows of one routing hash on the CPU: one factor of the product that differs is 0."""
    rows = np.zeros((num_rows, num_columns), np.uint32)
    rows[:, at] = 0 - block_keys(key, at + 1)[at:]
    rows[:, at + 1] = np.arange(num_rows) + 0x3F800000
    return rows.view(dtype)


def forged() -> np.ndarray:
    """(100, 76) uint32: different rows of one fingerprint under the fixed key. They differ in the symbol x0 only."""
    rows = np.zeros((100, 76), np.uint32)
    rows[:, [*range(1, 16, 2), *range(65, 76, 2)]] = _in_two_directions(_DIRECTIONS)
    return rows


def routed_alike_on_a_gpu() -> np.ndarray:
    """(100, 28) uint32: different rows of one routing hash on a GPU under the fixed key."""
    rows = np.zeros((100, 28), np.uint32)
    rows[:, 1::2] = _in_two_directions(_ROUTING_DIRECTIONS)
    return rows


def _in_two_directions(directions: np.ndarray) -> np.ndarray:
    """(100, 14): so little apart that no sum with a key wraps around in one of them alone."""
    i, j = np.divmod(np.arange(100), 10)
    return (1 << 31) + i[:, None] * directions[0] + j[:, None] * directions[1]


def labels_of_one_slot(key: Key, count: int) -> np.ndarray:
    """(count,) different labels that all belong into one slot of the table of labels on the CPU."""
    labels = np.arange(1 << 22, dtype=np.uint64)
    slots = mix(labels * np.uint64(key[1] | 1) + np.uint64(key[0])) % np.uint64(4096)
    return labels[slots == 7][:count].astype(np.int64)


def fingerprints_routed_alike(key: Key, count: int) -> np.ndarray:
    """(count, 2) uint64: different fingerprints of one routing hash."""
    second = np.arange(count, dtype=np.uint64)
    return np.stack([-(second * np.uint64(key[1] | 1)), second], axis=1)

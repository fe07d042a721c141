"""The conflict margin: exact against every pair, with few of the pairs looked at."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cbkernels as cb
from cbkernels import _core, backends

from .all_of import all_of
from .inputs import FLOATS, INTEGERS, LAYOUTS, place, typed
from .random_inputs import BOTH_TAILS, rows_in_both_tails, rows_of_one_close_pair

ROWS, COLUMNS = 512, 16384


def brute_force(acts: np.ndarray, labels: np.ndarray) -> float:
    """Every pair, in float64, one row against all others."""
    a = acts.reshape(len(acts), -1).astype(np.float64)
    usable = ~np.isnan(a).any(axis=1)
    a, labels = a[usable], labels[usable]
    best = math.inf
    for row, label in zip(a, labels, strict=True):
        others = a[labels != label]
        with np.errstate(invalid="ignore"):
            apart = np.where(others == row, 0.0, np.abs(others - row))
        if len(others):
            best = min(best, float(apart.max(axis=1, initial=0.0).min()))
    return best


def normal(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(120, 333))


def relu(rng: np.random.Generator) -> np.ndarray:
    return np.maximum(rng.normal(size=(120, 333)) - 1, 0)


def clusters(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(7, 333))[rng.integers(7, size=120)] + 1e-4 * rng.normal(size=(120, 333))


def one_hot(rng: np.random.Generator) -> np.ndarray:
    return np.eye(120, 333)


def nearly_equal(rng: np.random.Generator) -> np.ndarray:
    return 1000 + 1e-9 * rng.normal(size=(120, 333))


def hardly_different_distances(rng: np.random.Generator) -> np.ndarray:
    """All pairs are 1 + k / 2**30 apart: less than a float32 can say, so that only exact comparisons find the best."""
    acts = np.repeat(-rng.permutation(120)[:, None] * 2.0**-30, 333, axis=1)
    acts[np.arange(120), np.arange(120) * 2] = 1
    return acts


def distances_on_a_fine_ladder(rng: np.random.Generator) -> np.ndarray:
    """All pairs are 1 + k / 2**20 apart."""
    acts = np.zeros((120, 333))
    acts[np.arange(120), rng.permutation(120) * 2] = 1 + rng.permutation(120) * 2.0**-20
    return acts


def few_values(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 3, (120, 9)).astype(np.float64)


def dead_columns(rng: np.random.Generator) -> np.ndarray:
    acts = np.zeros((120, 333))
    acts[:, 200:204] = rng.normal(size=(120, 4))
    return acts


def infinite(rng: np.random.Generator) -> np.ndarray:
    acts = rng.normal(size=(120, 40))
    acts[rng.random(acts.shape) < 0.02] = math.inf
    acts[rng.random(acts.shape) < 0.02] = -math.inf
    return acts


def with_nan(rng: np.random.Generator) -> np.ndarray:
    acts = rng.normal(size=(120, 40))
    acts[rng.random(acts.shape) < 0.01] = math.nan
    return acts


def enormous(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(60, 12)) * 1e308


KINDS = [
    normal,
    relu,
    clusters,
    one_hot,
    nearly_equal,
    hardly_different_distances,
    distances_on_a_fine_ladder,
    few_values,
    dead_columns,
    infinite,
    with_nan,
    enormous,
]


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("make", KINDS, ids=lambda f: f.__name__)
def test_equals_every_pair(compiled: str, make: Callable[[Any], np.ndarray]) -> None:
    with all_of("numbers of labels") as case:
        for num_labels in (1, 2, 10, 1000):
            with case(num_labels):
                check_every_pair(compiled, make, num_labels)


def check_every_pair(compiled: str, make: Callable[[Any], np.ndarray], num_labels: int) -> None:
    rng = np.random.default_rng(num_labels)
    acts = make(rng)
    labels = rng.integers(num_labels, size=len(acts)) - 3
    for dtype in ("float64", "float32", "float16", "bfloat16"):
        rounded = typed(acts, dtype)
        found = cb.conflict_margin(place(rounded, compiled), place(labels, compiled), backend=compiled)
        assert found == brute_force(rounded, labels)


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, "bool"])
def test_every_type(backend: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    acts = typed(rng.integers(0, 60, (25, 20)), dtype)
    labels = rng.integers(3, size=25)
    found = cb.conflict_margin(place(acts, backend), place(labels, backend), backend=backend)
    assert found == brute_force(acts, labels)
    assert type(found) is float


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_sixty_four_bit_integers_are_exact(backend: str, dtype: str) -> None:
    """In float64 all of these would be the same number."""
    acts = np.array([2**62 + 1000 * i + k for i, k in enumerate((0, 3, 1, 7))], dtype)[:, None]
    labels = np.array([0, 0, 1, 1])
    found = cb.conflict_margin(place(acts, backend), place(labels, backend), backend=backend)
    assert found == 998.0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(backend: str, layout: str) -> None:
    rng = np.random.default_rng(1)
    acts = rng.normal(size=(30, 60)).astype(np.float32)
    labels = rng.integers(3, size=30)
    moved = place(LAYOUTS[layout](acts), backend)
    assert cb.conflict_margin(moved, place(labels, backend), backend=backend) == brute_force(acts, labels)


@pytest.mark.parametrize("num_columns", [1, 2, 31, 32, 33, 63, 64, 65, 511, 512, 513, 1500])
def test_every_width(compiled: str, num_columns: int) -> None:
    rng = np.random.default_rng(num_columns)
    acts = rng.normal(size=(40, num_columns)).astype(np.float32)
    labels = rng.integers(2, size=40)
    found = cb.conflict_margin(place(acts, compiled), place(labels, compiled), backend=compiled)
    assert found == brute_force(acts, labels)


def in_clusters_of(size: int) -> Callable[[np.random.Generator, tuple[int, int]], np.ndarray]:
    def rows(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        centres = 4 * rng.normal(size=(shape[0] // size + 1, shape[1]))
        return centres[rng.permutation(shape[0]) // size] + 1e-3 * rng.random(shape)

    return rows


MANY_ROWS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "collapsed": lambda rng, shape: rng.normal(size=shape[1]) + 1e-3 * rng.random(shape),
    "pairs": in_clusters_of(2),
    "some clusters": in_clusters_of(100),
    "one cluster of 600": in_clusters_of(600),
    "ties": lambda rng, shape: rng.integers(0, 4, shape),
    "far from one": lambda rng, shape: np.eye(*shape),
    "infinite": lambda rng, shape: np.where(rng.random(shape) < 0.05, math.inf, rng.normal(size=shape)),
    "spread in the sort column": lambda rng, shape: rng.normal(size=shape) * ([100] + [1] * (shape[1] - 1)),
}
"""More rows than are looked at together: in groups with and without gaps between them."""


@pytest.mark.parametrize("make", MANY_ROWS.values(), ids=MANY_ROWS)
@pytest.mark.parametrize(
    ("shape", "dtype", "num_labels"), [((511, 20), "float32", 3), ((513, 40), "float64", 2), ((900, 6), "int64", 1000)]
)
def test_many_rows(
    instruction_set: str,
    shape: tuple[int, int],
    dtype: str,
    num_labels: int,
    make: Callable[[Any, tuple[int, int]], np.ndarray],
) -> None:
    rng = np.random.default_rng(shape[0])
    acts = make(rng, shape)
    acts = np.rint(1000 * np.nan_to_num(acts, posinf=9)).astype(dtype) if dtype == "int64" else acts.astype(dtype)
    labels = rng.integers(num_labels, size=len(acts))
    assert cb.conflict_margin(acts, labels, backend="cpu") == brute_force(acts, labels)


@pytest.mark.parametrize("pair", [(250, 260), (254, 513), (700, 950), (1098, 1099)], ids=str)
def test_the_closest_pair_may_lie_in_two_groups_of_rows(instruction_set: str, pair: tuple[int, int]) -> None:
    acts, apart = rows_of_one_close_pair(*pair)
    assert cb.conflict_margin(acts, np.arange(1100), backend="cpu") == apart


@pytest.mark.parametrize("seed", BOTH_TAILS)
def test_a_row_may_lie_in_both_tails_of_a_column(instruction_set: str, seed: int) -> None:
    acts, labels = rows_in_both_tails(seed)
    assert cb.conflict_margin(acts, labels, backend="cpu") == brute_force(acts, labels)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    rng = np.random.default_rng(2)
    acts = np.round(rng.normal(size=(900, 40)), 1).astype(np.float32)
    labels = rng.integers(5, size=900)
    monkeypatch.setattr(backends, "num_threads", lambda: threads)
    assert cb.conflict_margin(acts, labels) == brute_force(acts, labels)


def test_zero_exactly_when_a_bundle_conflicts(compiled: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(60):
        acts = rng.integers(0, 3, (int(rng.integers(2, 9)), 2)).astype(np.float32)
        labels = rng.integers(2, size=len(acts))
        margin = cb.conflict_margin(place(acts, compiled), place(labels, compiled), backend=compiled)
        result = cb.bundle_entropy(place(acts, compiled), place(labels, compiled), backend=compiled)
        assert (margin == 0) == (result.num_conflicting > 0)


def test_the_closest_pair_may_hide_anywhere(compiled: str) -> None:
    rng = np.random.default_rng(4)
    acts = rng.normal(size=(100, 700)).astype(np.float32)
    for i, j in ((0, 99), (50, 51), (98, 99), (0, 1), (7, 63)):
        pair = acts.copy()
        pair[j] = pair[i]
        pair[j, (37 * i + j) % 700] += np.float32(0.125)
        labels = np.zeros(100, np.int64)
        labels[j] = 1
        found = cb.conflict_margin(place(pair, compiled), place(labels, compiled), backend=compiled)
        assert found == brute_force(pair, labels) < 0.13


# --- work: element comparisons of 512 rows of 16,384 columns, ten labels (all pairs: 1.9e9) -----------


def uniform_large() -> np.ndarray:
    return np.random.default_rng(0).random((ROWS, COLUMNS), np.float32)


def normal_large() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((ROWS, COLUMNS), np.float32)


def relu_large() -> np.ndarray:
    return np.maximum(normal_large(), 0)


def around_one_point_large() -> np.ndarray:
    return np.linspace(-3, 3, COLUMNS, dtype=np.float32) + np.float32(1e-3) * normal_large()


def two_clusters_large() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal((2, COLUMNS), np.float32)[np.arange(ROWS) % 2] + np.float32(1e-3) * uniform_large()


def equal_large() -> np.ndarray:
    return np.ones((ROWS, COLUMNS), np.float32)


def one_hot_large() -> np.ndarray:
    return np.eye(ROWS, COLUMNS, dtype=np.float32)


def one_hot_at_the_end_large() -> np.ndarray:
    return np.eye(ROWS, COLUMNS, k=COLUMNS - ROWS, dtype=np.float32)


@pytest.mark.parametrize(
    ("make", "most_of_all"),
    [
        (normal_large, 0.01),
        (relu_large, 0.015),
        (uniform_large, 0.015),
        (around_one_point_large, 0.01),
        (two_clusters_large, 0.01),
        (equal_large, 0.001),
        (one_hot_large, 0.002),  # all pairs are equally far apart: the first value that reaches the best ends a pair
        (one_hot_at_the_end_large, 0.02),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_few_elements_are_compared(
    make: Callable[[], np.ndarray], most_of_all: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "num_threads", lambda: 1)  # threads find good bounds in another order every time
    labels = np.random.default_rng(1).integers(10, size=ROWS)
    cb.conflict_margin(make(), labels)
    pairs = sum(int((labels[i + 1 :] != labels[i]).sum()) for i in range(ROWS))
    assert 0 < _core.last_work()["comparisons"] <= most_of_all * pairs * COLUMNS

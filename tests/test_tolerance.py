"""The authors' later variant, isclose to the leader of a bundle: exact against a plain double loop."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import cbkernels as cb

from .all_of import all_of
from .inputs import LAYOUTS, place, typed

TOLERANCES = [(0.0, 0.0), (1e-5, 1e-8), (0.0, 0.5), (0.1, 0.0), (0.05, 0.25), (3.0, 0.0)]


def double_loop(acts: np.ndarray, rtol: float, atol: float) -> list[int]:
    """Python floats, one component after the other."""
    rows = acts.reshape(len(acts), -1).astype(np.float64).tolist()

    def near(a: float, leader: float) -> bool:
        if math.isinf(a) or math.isinf(leader):
            return a == leader
        return abs(a - leader) <= atol + rtol * abs(leader)

    ids: list[int] = []
    leaders: list[list[float]] = []
    for row in rows:
        for number, leader in enumerate(leaders):
            if all(near(a, b) for a, b in zip(row, leader, strict=True)):
                ids.append(number)
                break
        else:
            ids.append(len(leaders))
            leaders.append(row)
    return ids


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "int32", "uint8", "bool"])
def test_equals_a_double_loop(backend: str, dtype: str) -> None:
    with all_of("tolerances and widths") as case:
        for (seed, num_columns), tolerance in itertools.product(enumerate((1, 2, 3, 40)), TOLERANCES):
            with case(num_columns, tolerance):
                rng = np.random.default_rng(seed)
                acts = typed(np.abs(rng.normal(0, 2, (60, num_columns))), dtype)
                found = cb.bundle_rows(place(acts, backend), tolerance=tolerance, backend=backend)
                assert found.tolist() == double_loop(acts, *tolerance)


@pytest.mark.parametrize("tolerance", TOLERANCES)
def test_infinities_and_nan(backend: str, tolerance: tuple[float, float]) -> None:
    rng = np.random.default_rng(0)
    acts = rng.choice([0.0, -0.0, 1.0, 1.05, -1.0, math.inf, -math.inf, math.nan, 1e308, -1e308], (80, 2))
    found = cb.bundle_rows(place(acts, backend), tolerance=tolerance, backend=backend)
    assert found.tolist() == double_loop(acts, *tolerance)
    result = cb.bundle_entropy(
        place(acts, backend), place(np.zeros(80, int), backend), tolerance=tolerance, backend=backend
    )
    assert result.num_nan_rows == int(np.isnan(acts).any(axis=1).sum())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_agrees_with_isclose_of_torch(backend: str, dtype: str) -> None:
    """Their loop, with their defaults, where float64 and their arithmetic cannot disagree: 1e-3 away from ties."""
    torch = pytest.importorskip("torch", reason="torch: NOT TESTED HERE")
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(6, 5))
    acts = typed(centres[rng.integers(6, size=50)] * (1 + 2e-6 * rng.uniform(-1, 1, (50, 1))), dtype)
    tensor = torch.from_numpy(acts)
    ids: list[int] = []
    leaders: list[int] = []
    for i in range(50):
        close = [n for n, leader in enumerate(leaders) if torch.isclose(tensor[i], tensor[leader]).all()]
        ids.append(close[0] if close else len(leaders))
        if not close:
            leaders.append(i)
    found = cb.bundle_rows(place(acts, backend), tolerance=(1e-5, 1e-8), backend=backend)
    assert found.tolist() == ids
    assert len(leaders) == 6


def test_zero_tolerance_is_equality(backend: str) -> None:
    rng = np.random.default_rng(2)
    acts = rng.integers(0, 3, (200, 3)).astype(np.float32)
    with_tolerance = cb.bundle_rows(place(acts, backend), tolerance=(0.0, 0.0), backend=backend)
    assert with_tolerance.tolist() == cb.bundle_rows(place(acts, backend), backend=backend).tolist()


def test_depends_on_the_order_as_documented(backend: str) -> None:
    forward = np.array([[0.0], [0.6], [1.2]])
    assert cb.bundle_rows(place(forward, backend), tolerance=(0.0, 0.7), backend=backend).tolist() == [0, 0, 1]
    middle = forward[[1, 0, 2]]
    assert cb.bundle_rows(place(middle, backend), tolerance=(0.0, 0.7), backend=backend).tolist() == [0, 0, 0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(backend: str, layout: str) -> None:
    acts = np.random.default_rng(3).normal(size=(40, 6)).astype(np.float32)
    moved = LAYOUTS[layout](acts)
    found = cb.bundle_rows(place(moved, backend), tolerance=(0.0, 1.5), backend=backend)
    assert found.tolist() == double_loop(acts, 0.0, 1.5)


def test_long_rows(backend: str) -> None:
    acts = np.zeros((6, 5000))
    acts[1, 4999], acts[2, 4999], acts[3, 0], acts[4, 2500] = 0.5, 1.5, 1.5, -0.9
    found = cb.bundle_rows(place(acts, backend), tolerance=(0.0, 1.0), backend=backend)
    assert found.tolist() == [0, 0, 1, 2, 0, 0]


def test_the_first_leader_wins_among_many(compiled: str) -> None:
    acts = np.concatenate([np.arange(2000) * 10.0, np.array([3.0, 19_991.0, 10_005.0, 10_001.0, 10_004.0])])[:, None]
    found = cb.bundle_rows(place(acts, compiled), tolerance=(0.0, 4.0), backend=compiled).tolist()
    assert found[:2000] == list(range(2000))
    assert found[2000:] == [0, 1999, 2000, 1000, 1000]

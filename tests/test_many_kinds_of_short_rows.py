"""Short rows of some thousand kinds: all are sampled, and each is compared with the first row of its sample.

Where samples take rows for equal that are not, those are grouped once more (``csrc/cpu/group_rows.cpp``).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import cbkernels as cb
from cbkernels import _core, backends

from .inputs import typed

NUM_ROWS, NUM_KINDS = 9000, 3000
SAMPLED, NOT_SAMPLED = 40, 5
"""Columns of 64 float32: inside and outside of the cache line in the middle, which is the sample."""
GRID = cb.UpdateGrid(learning_rate=1e-3, batch_size=50, weight_amplitude=1e-9)


def kinds_of_rows(num_misled: int, dtype: str = "float32") -> np.ndarray:
    """Every kind three times on average; ``num_misled`` rows, in pairs, differ from it where no sample is taken."""
    rng = np.random.default_rng(num_misled)
    acts = typed(rng.integers(0, 100, (NUM_KINDS, 64)), dtype)[rng.integers(NUM_KINDS, size=NUM_ROWS)]
    pairs = rng.choice(NUM_ROWS, (num_misled // 2, 2), replace=False)
    acts[pairs[:, 1]] = acts[pairs[:, 0]]
    acts[pairs, NOT_SAMPLED] = typed(101 + np.arange(len(pairs)) % 20, dtype)[:, None]
    return acts


def bundles_by_sorting(acts: np.ndarray) -> list[int]:
    _, first, inverse = np.unique(acts, axis=0, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse.reshape(-1)].tolist()


@pytest.fixture(params=[1, 3], ids="{} threads".format)
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(backends, "num_threads", lambda: request.param)
    return request.param


@pytest.mark.parametrize("num_misled", [0, 2, 400, 2000, 9000])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "int8"])
def test_bundles(num_misled: int, dtype: str, threads: int) -> None:
    acts = kinds_of_rows(num_misled, dtype)
    right = bundles_by_sorting(acts)
    framed = np.zeros((NUM_ROWS, 130), acts.dtype)
    framed[:, 1:-1:2] = acts
    for given in (acts, framed[:, 1:-1:2], np.ascontiguousarray(acts[::-1])[::-1]):
        assert cb.bundle_rows(given, backend="cpu").tolist() == right
        assert cb.bundle_rows(given, backend="cpu", grid=GRID).tolist() == right


@pytest.mark.parametrize("num_misled", [0, 300, 70_000])
def test_rows_for_several_threads(num_misled: int, threads: int) -> None:
    """18 MB; those that differ from their sample lie side by side."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(20_000, size=70_000)
    acts = rng.standard_normal((20_000, 64), np.float32)[kinds]
    right = kinds.copy()
    acts[1000 : 1000 + num_misled, NOT_SAMPLED] = 9
    right[1000 : 1000 + num_misled] += 20_000
    rank = np.empty(40_000, np.int64)
    present, first = np.unique(right, return_index=True)
    rank[present[np.argsort(first)]] = np.arange(len(present))
    assert cb.bundle_rows(acts, backend="cpu").tolist() == rank[right].tolist()
    work = _core.last_work()
    assert work["threads"] == threads
    assert work["bytes_touched"] <= 2.5 * acts.nbytes, "few rows that differ must not make all be read again"


@pytest.mark.parametrize("bits", [0, 2, 9])
def test_samples_that_collide(bits: int, threads: int, routing_bits: Callable[[int], None]) -> None:
    acts = kinds_of_rows(400)
    routing_bits(bits)
    assert cb.bundle_rows(acts, backend="cpu").tolist() == bundles_by_sorting(acts)


def test_nan_is_found_in_and_outside_of_samples(threads: int) -> None:
    acts = kinds_of_rows(400)
    acts[100, SAMPLED] = acts[8999, NOT_SAMPLED] = acts[4000, NOT_SAMPLED] = np.nan
    result = cb.bundle_entropy(acts, np.arange(NUM_ROWS) % 3, backend="cpu")
    assert result.num_nan_rows == 3
    without = np.delete(acts, [100, 4000, 8999], axis=0)
    assert result.num_bundles == len(np.unique(without, axis=0)) + 3


def test_a_row_is_sampled_and_compared_once() -> None:
    acts = kinds_of_rows(0)
    followers = NUM_ROWS - len(np.unique(acts, axis=0))
    cb.bundle_rows(acts, backend="cpu")
    work = _core.last_work()
    assert (work["rows_sampled"], work["rows_compared"]) == (NUM_ROWS, followers)
    pilots = 512 + NUM_ROWS // 8
    assert work["bytes_touched"] == 64 * (NUM_ROWS + pilots) + 2 * 256 * followers


def test_samples_that_mislead_are_given_up_early() -> None:
    """All rows differ, three of each sample: then each is hashed, and no other row is read beside it."""
    acts = kinds_of_rows(0)
    acts[:, NOT_SAMPLED] = np.arange(NUM_ROWS)
    assert cb.bundle_rows(acts, backend="cpu").tolist() == list(range(NUM_ROWS))
    assert _core.last_work()["bytes_touched"] <= 1.5 * acts.nbytes

"""Offsets beyond 2**31: nothing is counted in 32 bits.

The arrays are zero pages that are never written but for a few values, so they take little memory.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

import cbkernels as cb
from cbkernels import _core

pytestmark = pytest.mark.skipif(
    "CBKERNELS_SANITIZER" in os.environ, reason="huge arrays: NOT TESTED HERE (too slow under a sanitizer)"
)
COLUMNS = 2**31 + 4097


@pytest.fixture
def zeros() -> np.ndarray:
    """(3, 2**31 + 4097) bytes."""
    try:
        return np.zeros((3, COLUMNS), np.int8)
    except MemoryError:
        pytest.skip("huge arrays: NOT TESTED HERE (not enough address space)")


def test_a_difference_behind_two_to_the_thirty_one(zeros: np.ndarray) -> None:
    zeros[2, COLUMNS - 1] = 1
    assert cb.bundle_rows(zeros).tolist() == [0, 0, 1]
    work = _core.last_work()
    assert work["bytes_total"] == 3 * COLUMNS
    assert 2 * COLUMNS < work["bytes_touched"] < 1.25 * 3 * COLUMNS


def test_rows_that_begin_behind_two_to_the_thirty_one(zeros: np.ndarray) -> None:
    zeros[1, 5], zeros[2, 5] = 3, 3
    few = zeros[:, :9]  # short rows, 2**31 bytes apart
    assert cb.bundle_rows(few).tolist() == [0, 1, 1]
    assert cb.bundle_rows(few[::-1]).tolist() == [0, 0, 1]
    assert cb.bundle_rows(zeros[:, :: COLUMNS // 2]).tolist() == [0, 0, 0]
    assert cb.conflict_margin(few, np.array([0, 1, 1])) == 3.0


def test_columns_far_apart(zeros: np.ndarray) -> None:
    """Three columns of one byte each, 2**31 apart: strides do not fit 32 bits."""
    zeros[2, 1] = 7
    acts = zeros.T[:4]
    assert acts.strides == (1, COLUMNS)
    assert cb.bundle_rows(acts).tolist() == [0, 1, 0, 0]
    assert cb.bundle_entropy(acts, np.array([0, 0, 1, 0])).num_conflicting == 1

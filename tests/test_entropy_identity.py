"""An identity that shares no code with us: bundle entropy = H(labels) - mutual information of labels and bundles.

The labels' entropy and the mutual information are scikit-learn's. ``np.unique`` finds the bundles a second time.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

import cbkernels as cb

from .all_of import all_of
from .inputs import place

sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn: NOT TESTED HERE")


def conditional_entropy(labels: np.ndarray, bundles: np.ndarray) -> float:
    own = sklearn.mutual_info_score(labels, labels)  # of a variable with itself: its entropy
    return own - sklearn.mutual_info_score(labels, bundles)


@pytest.mark.parametrize(("num_rows", "num_different", "num_labels"), [(40, 5, 3), (500, 60, 10), (3000, 40, 100)])
def test_entropy_is_what_the_bundles_do_not_say_about_the_labels(
    backend: str, num_rows: int, num_different: int, num_labels: int
) -> None:
    with all_of("seeds") as case:
        for seed in range(12):
            with case(seed):
                check_identity(backend, seed, num_rows, num_different, num_labels)


def check_identity(backend: str, seed: int, num_rows: int, num_different: int, num_labels: int) -> None:
    rng = np.random.default_rng(seed)
    palette = rng.normal(size=(num_different, 17)).astype(np.float32)
    acts = palette[rng.integers(num_different, size=num_rows)]
    labels = rng.integers(num_labels, size=num_rows)
    result = cb.bundle_entropy(place(acts, backend), place(labels, backend), backend=backend)
    bundles = np.unique(acts, axis=0, return_inverse=True)[1].ravel()
    assert result.num_bundles == bundles.max() + 1
    # the two entropies are about 3 and their difference is exact to a few units of the last place of 3
    assert math.isclose(result.entropy, conditional_entropy(labels, bundles), rel_tol=1e-12, abs_tol=1e-14)


def test_labels_that_the_bundles_know_leave_nothing(backend: str) -> None:
    rng = np.random.default_rng(5)
    palette = rng.normal(size=(50, 9))
    picks = rng.integers(50, size=1000)
    result = cb.bundle_entropy(place(palette[picks], backend), place(picks % 7, backend), backend=backend)
    assert result.entropy == 0.0
    assert result.num_conflicting == 0


def test_one_bundle_leaves_the_entropy_of_the_labels(backend: str) -> None:
    labels = np.random.default_rng(6).integers(10, size=777)
    result = cb.bundle_entropy(place(np.zeros((777, 3)), backend), place(labels, backend), backend=backend)
    assert math.isclose(result.entropy, sklearn.mutual_info_score(labels, labels), rel_tol=1e-12)


def test_entropy_does_not_depend_on_the_order_of_rows_or_the_names_of_labels(backend: str) -> None:
    rng = np.random.default_rng(7)
    acts = rng.normal(size=(30, 5))[rng.integers(30, size=400)]
    labels = rng.integers(10, size=400)
    first = cb.bundle_entropy(place(acts, backend), place(labels, backend), backend=backend)
    order = rng.permutation(400)
    names = rng.permutation(10) * 1000 - 5000
    again = cb.bundle_entropy(place(acts[order], backend), place(names[labels[order]], backend), backend=backend)
    assert again.entropy.hex() == first.entropy.hex()

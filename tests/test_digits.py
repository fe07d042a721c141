"""The embedded digits table is scikit-learn's, value for value, and its split is fixed."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from cbkernels.training.data.data_sets import load_digits, split

PINNED = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
PINNED_TEST_IMAGES = "44e3cea3f071a4d2b38655d132c7324e6c38dff0281b2953f2cfad0ab4fa5b37"


def test_equals_the_copy_of_scikit_learn() -> None:
    datasets = pytest.importorskip("sklearn.datasets", reason="digits against scikit-learn: NOT TESTED HERE")
    theirs = datasets.load_digits()
    images, labels = load_digits()
    assert images.shape == (1797, 64)
    assert images.dtype == np.float32
    assert labels.dtype == np.int64
    assert (images == theirs.data.astype(np.float32) / 16).all()
    assert (labels == theirs.target).all()


def test_values_are_pinned_without_scikit_learn() -> None:
    images, labels = load_digits()
    content = (images * 16).astype(np.uint8).tobytes() + labels.astype(np.uint8).tobytes()
    assert hashlib.sha256(content).hexdigest() == PINNED
    assert images.min() == 0
    assert images.max() == 1


def test_split_is_stratified_disjoint_and_complete() -> None:
    _, labels = load_digits()
    numbered = np.arange(len(labels), dtype=np.float32)[:, None]
    parts = split(numbered, labels, seed=3)
    train, test = set(parts.train_images.ravel().tolist()), set(parts.test_images.ravel().tolist())
    assert not train & test
    assert len(train) + len(test) == len(labels)
    assert (labels[parts.test_images.ravel().astype(int)] == parts.test_labels).all()
    shares = np.bincount(parts.test_labels) / np.bincount(labels)
    assert (np.abs(shares - 0.2) < 0.005).all()


def test_split_depends_on_the_seed_alone() -> None:
    images, labels = load_digits()
    first, again, other = split(images, labels), split(images, labels), split(images, labels, seed=1)
    assert (first.test_images == again.test_images).all()
    assert not (first.test_labels == other.test_labels).all() or not (first.test_images == other.test_images).all()
    assert hashlib.sha256(first.test_images.tobytes()).hexdigest() == PINNED_TEST_IMAGES


@pytest.mark.parametrize("share", [0, 1, -0.5, float("nan")])
def test_refuses_a_share_that_leaves_nothing(share: float) -> None:
    images, labels = load_digits()
    with pytest.raises(ValueError, match="test_share is"):
        split(images, labels, test_share=share)

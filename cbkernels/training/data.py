"""Data sets. The digits table is inside the package and needs nothing but NumPy."""

from __future__ import annotations

from importlib import resources
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


class Split(NamedTuple):
    """Images and labels to train on and to test on."""

    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels


def load_digits() -> tuple[Images, Labels]:
    """Handwritten digits: 1,797 grey images of 8x8 pixels.

    Returns:
        Images, (1797, 64) float32 in 0 to 1 (sixteenths), row by row, and labels, (1797,) int64 in
        0 to 9.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository, 1998, CC BY 4.0; scikit-learn's copy (``cbkernels/data/README.md``).
    """
    stored = resources.files("cbkernels") / "data" / "digits.npz"
    with stored.open("rb") as file, np.load(file, allow_pickle=False) as table:
        images, labels = table["images"], table["labels"]
    return images.astype(np.float32) / np.float32(16), labels.astype(np.int64)


def split(images: Images, labels: npt.NDArray[Any], *, seed: int = 0, test_share: float = 0.2) -> Split:
    """Divide into training and test data, the same share of every class.

    Args:
        images: (N, ...) samples.
        labels: (N,) integers.
        seed: the same seed gives the same split with every NumPy version.
        test_share: part of every class, rounded, that is tested on; in (0, 1).

    Returns:
        A Split; both halves keep the order of the samples.

    Raises:
        ValueError: ``test_share`` is not in (0, 1).
    """
    if not 0 < test_share < 1:
        raise ValueError(f"test_share is {test_share!r}; it must be between 0 and 1")
    # RandomState is frozen for good (NEP 19), default_rng is not
    random = np.random.RandomState(seed)
    is_test = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        is_test[random.permutation(members)[: round(test_share * len(members))]] = True
    return Split(images[~is_test], labels[~is_test], images[is_test], labels[is_test])

"""Data sets by name or path: images and labels to train on and to test on.

Offline first: the digits table is inside of the package, everything else is looked for on disk before the
Hugging Face hub is asked. The same arguments give the same samples with every version of NumPy. Read next:
``image_files.py`` for what is found on disk, ``preparation.py`` for what happens to images in training.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...files.unpacking import UNPACK_UP_TO
from ...tables import shown
from .columns import Columns
from .image_files import read_parts
from .image_pixels import decoded, resized, stacked
from .parts import Part
from .sources import SOURCES, DataSource, source_named
from .sources import load_digits as load_digits

Array = npt.NDArray[Any]
Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

_DTYPES = (np.dtype(np.uint8), np.dtype(np.float32))
TEST_SHARE = 0.2
"""Of every class, where a set has no part to test on."""


@dataclass(frozen=True)
class DataSet:
    """Images and labels.

    Args:
        name: as it was asked for.
        train_images: (N, C, H, W) uint8, or float32 in 0 to 1.
        train_labels: (N,) int64 in 0 to num_classes - 1.
        test_images: (M, C, H, W) of the same type.
        test_labels: (M,) int64.
        num_classes: at least 2.
        class_names: in the order of the labels, or None.
        source: where it is from and how it was divided, in words.
        found_at: absolute path of the file or folder that was read, or None.

    Raises:
        ValueError: shapes, types or labels that are not so.
    """

    name: str
    train_images: Array
    train_labels: Labels
    test_images: Array
    test_labels: Labels
    num_classes: int
    class_names: tuple[str, ...] | None = None
    source: str = ""
    found_at: str | None = None

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            images, labels = getattr(self, f"{part}_images"), getattr(self, f"{part}_labels")
            if images.ndim != 4 or images.shape[1:] != self.train_images.shape[1:] or images.dtype not in _DTYPES:
                raise ValueError(
                    f"{part}_images is {images.dtype} of shape {images.shape}; "
                    "pass (N, C, H, W) uint8 or float32, alike in training and test"
                )
            if labels.dtype != np.int64 or labels.shape != images.shape[:1] or not len(labels):
                raise ValueError(
                    f"{part}_labels is {labels.dtype} of shape {labels.shape}; "
                    f"pass int64, one for each of the {len(images)} images and at least one"
                )
            if labels.min() < 0 or labels.max() >= self.num_classes:
                raise ValueError(
                    f"{part}_labels goes from {labels.min()} to {labels.max()}; "
                    f"the labels of {self.num_classes} classes are 0 to {self.num_classes - 1}"
                )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.train_images.shape[1:]
        return int(channels), int(height), int(width)


def load_data_set(
    name: str, *, data_dir: str | os.PathLike[str] | None = None, train_size: int | None = None,
    test_size: int | None = None, image_size: int | None = None, seed: int = 0,
    found_at: str | os.PathLike[str] | None = None, image_column: str | None = None, label_column: str | None = None,
    unpack_up_to: int = UNPACK_UP_TO,
) -> DataSet:  # fmt: skip
    """Load a data set.

    Args:
        name: one of ``sources.SOURCES``; ``hf:ID`` or ``hf:ID:CONFIGURATION`` for any set of images of the Hugging
            Face hub; or the path of a ``.npz`` or parquet file, of a folder of parquet files or of images
            (``train/<class>/*.png``), see ``image_files.read_parts``.
        data_dir: folder that holds ``<name>/``; then neither cache nor network are asked. Without it CBKERNELS_DATA in
            the environment may name such a folder; then the Hugging Face cache is asked, last the network.
        train_size: take so many training samples, of every class the same share to within a few, chosen by the seed;
            fewer with the same seed are some of them. None: all.
        test_size: the same of the test samples.
        image_size: resize images to so many pixels in height and width, bilinear, whatever their proportions.
            None: as the source says, else as they are stored.
        seed: decides which samples ``train_size`` and ``test_size`` take, and which fifth of every class is held back.
        found_at: path from which it was read once; taken when there is none that is named now, before the cache.
        image_column, label_column: names of columns, in a table that has several; None: told by names and types.
        unpack_up_to: bytes that compressed files (but see ``files/unpacking.py``) and encoded images may take.

    Returns:
        A DataSet; both parts keep the order in which they are stored. Names of classes (folders, strings) are numbered
        in alphabetical order. A part called "validation" is tested on when there is none called "test" with labels.

    Raises:
        ValueError: an unknown name or size, or data that is damaged, ambiguous or no images of two classes at least.
        OSError: nothing there, or it cannot be read.
        ImportError: a package is missing that reads it.

    Example:
        >>> digits = load_data_set("digits", train_size=1000)
        >>> digits.image_shape, digits.train_images.shape, digits.test_labels.shape, digits.num_classes
        ((1, 8, 8), (1000, 1, 8, 8), (359,), 10)
    """
    _require_sizes(train_size=train_size, test_size=test_size, image_size=image_size)
    train, test, source, path = _found(name, data_dir, found_at, Columns(image_column, label_column), unpack_up_to)
    if len(train) == 0 or (test is not None and len(test) == 0):
        raise ValueError(f"{train.origin if len(train) == 0 or test is None else test.origin} holds no sample")
    if test is None:
        is_test = share_of_classes(train.labels, TEST_SHARE, np.random.RandomState(seed))
        train, test = train.taken(np.flatnonzero(~is_test)), train.taken(np.flatnonzero(is_test))
        source += f"; {TEST_SHARE:.0%} of every class held back for the test with seed {seed}"
        if len(test) == 0:
            raise ValueError(f"{train.origin} has too few samples of each class to hold some back for the test")
    if left_out := "".join(f"; left out of {each.origin}: {each.left_out}" for each in (train, test) if each.left_out):
        warnings.warn(shown(f"not every file of {source} is read{left_out}"), stacklevel=2)
        source += left_out
    train, test, num_classes = _numbered(train, test)
    train = _subset(train, train_size, seed, "train_size")
    test = _subset(test, test_size, seed, "test_size")
    size = image_size or source_named(name).image_size
    train_images, test_images = _pixels(train, test, size, source, unpack_up_to)
    return DataSet(
        name, train_images, train.labels, test_images, test.labels, num_classes, train.class_names, source,
        None if path is None else str(path.resolve()),
    )  # fmt: skip


def _require_sizes(**sizes: object) -> None:
    for option, size in sizes.items():
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise ValueError(f"{option} is {size!r}; it must be a positive integer")


def _found(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    found_at: str | os.PathLike[str] | None,
    columns: Columns,
    most: int,
) -> tuple[Part, Part | None, str, Path | None]:
    """As ``DataSource.parts``."""
    if not isinstance(name, (str, os.PathLike)):
        raise TypeError(f"dataset is {name!r}; pass a name or a path")
    name = os.fspath(name)
    if name in SOURCES:
        return SOURCES[name].parts(data_dir, found_at, columns, most)
    if name.startswith("hf:"):
        identity, _, configuration = name[3:].partition(":")
        if not identity.strip("/"):
            raise ValueError(f"dataset is {name!r}; write the set's name on the hub behind hf:, like hf:owner/name")
        return DataSource(identity, "", identity, configuration or None).parts(data_dir, found_at, columns, most)
    path = Path(name)
    if found_at is not None and not path.exists():
        path = Path(found_at)
    if not name or not path.exists():
        raise FileNotFoundError(
            f"dataset is {name!r}, which is no file or folder, and no name of a data set ({', '.join(SOURCES)}, hf:ID)"
        )
    return *read_parts(path, columns=columns, most=most), str(path), path


def _numbered(train: Part, test: Part) -> tuple[Part, Part, int]:
    """Labels as int64 in 0 to C - 1, alike in both parts, and C."""
    origin = train.origin
    names, are_words = train.class_names, train.labels.dtype.kind == "U"
    if are_words != (test.labels.dtype.kind == "U") or names != test.class_names:
        raise ValueError(f"{origin} and {test.origin} name their classes differently; write them alike")
    if are_words:
        names = tuple(map(str, np.unique(train.labels)))
    present = set(np.unique(train.labels).tolist())
    if unseen := sorted(set(np.unique(test.labels).tolist()) - present):
        raise ValueError(f"{test.origin} has samples of class {unseen[0]!r} and {origin} has none; leave them out")
    if len(present) < 2:
        raise ValueError(f"all samples of {origin} are of class {present.pop()!r}; at least two classes are needed")
    num_classes = len(names) if names else len(present)
    if are_words:
        assert names is not None
        numbers = [np.searchsorted(np.array(names), part.labels).astype(np.int64) for part in (train, test)]
    else:
        least, most = min(present), max(present)
        if least < 0 or most >= num_classes:
            raise ValueError(
                f"labels of {origin} go from {least} to {most} in {num_classes} classes; "
                f"number the classes 0 to {num_classes - 1}"
            )
        numbers = [part.labels.astype(np.int64) for part in (train, test)]
    train, test = (replace(p, labels=n, class_names=names) for p, n in zip((train, test), numbers, strict=True))
    return train, test, num_classes


def _subset(part: Part, size: int | None, seed: int, option: str) -> Part:
    if size is None:
        return part
    if size > len(part):
        raise ValueError(f"{option} is {size}; {part.origin} has {len(part)} samples, pass at most so many")
    return part.taken(stratified(part.labels, size, seed))


def stratified(labels: npt.NDArray[Any], size: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Choose samples, of every class nearly the same share.

    Args:
        labels: (N,) integers.
        size: how many, at most N.
        seed: the same seed chooses the same, and for a smaller size some of them.

    Returns:
        (size,) int64, their numbers in rising order. Of a class that makes up the share p of all N samples in C classes
        there are ``p * size``, give or take ``(1 + C * p) / 2``.

    Example:
        >>> stratified(np.array([0, 0, 0, 0, 1, 1]), 3).shape
        (3,)
    """
    random = np.random.RandomState(seed)
    # each sample's place in its class, shuffled, as a share of the class: the smallest come first
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        place[random.permutation(members)] = (np.arange(len(members)) + 0.5) / len(members)
    order = np.lexsort((random.permutation(len(labels)), place))
    return np.sort(order[:size]).astype(np.int64)


def _pixels(train: Part, test: Part, image_size: int | None, source: str, most: int) -> tuple[Array, Array]:
    if isinstance(train.images, np.ndarray) and isinstance(test.images, np.ndarray):
        if train.images.shape[1:] != test.images.shape[1:] or train.images.dtype != test.images.dtype:
            raise ValueError(
                f"images of {train.origin} are {train.images.dtype} of shape {train.images.shape[1:]}, those of "
                f"{test.origin} {test.images.dtype} of shape {test.images.shape[1:]}; save them alike"
            )
        if image_size is None:
            return train.images, test.images
        return resized(train.images, image_size), resized(test.images, image_size)
    train_images, test_images = stacked([decoded(p.images, image_size, most) for p in (train, test)], source)
    return train_images, test_images


class Split(NamedTuple):
    """Images and labels to train on and to test on."""

    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels


def split(images: Images, labels: npt.NDArray[Any], *, seed: int = 0, test_share: float = TEST_SHARE) -> Split:
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
    is_test = share_of_classes(labels, test_share, np.random.RandomState(seed))
    return Split(images[~is_test], labels[~is_test], images[is_test], labels[is_test])


def share_of_classes(labels: Array, share: float, random: np.random.RandomState) -> npt.NDArray[np.bool_]:
    """(N,) which samples are drawn when this share of every class is, rounded; labels are (N,) integers."""
    is_drawn = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        is_drawn[members[: round(share * len(members))]] = True
    return is_drawn

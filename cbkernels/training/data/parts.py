"""Samples of a data set to train on or to test on, before they are decoded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .image_pixels import Encoded

Array = npt.NDArray[Any]

TEST_NAMES = ("test", "validation", "valid", "val")
"""The part to test on, the first that there is and that has labels."""
UNLABELLED = -1
"""In place of a label where a published set keeps it secret."""


@dataclass(frozen=True)
class Part:
    """Samples to train on or to test on, not decoded yet."""

    images: Array | Sequence[Encoded]
    """(N, C, H, W) uint8 or float32 in 0 to 1, or N encoded images or files."""
    labels: Array
    """(N,) integers, or names of classes."""
    origin: str
    class_names: tuple[str, ...] | None = None
    left_out: str = ""
    """What was found beside the samples and not read, in words."""

    def __len__(self) -> int:
        return len(self.labels)

    def taken(self, chosen: Array) -> Part:
        """The samples with these numbers, in their order."""
        images = self.images
        some = images[chosen] if isinstance(images, np.ndarray) else [images[i] for i in chosen]
        return replace(self, images=some, labels=self.labels[chosen])

    @property
    def is_labelled(self) -> bool:
        """Whether any sample has a label; a part without samples counts as labelled."""
        return self.labels.dtype.kind == "U" or not len(self) or bool((self.labels != UNLABELLED).any())


def first_labelled(parts: Iterable[Part]) -> Part | None:
    """The first part that is not there for its images only; parts behind it are not read."""
    return next((part for part in parts if part.is_labelled), None)

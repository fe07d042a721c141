"""The data sets that have names: a table; ``--dataset`` names one. NumPy and more are imported when one is read."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...choices import Choice, Choices
from ...files.unpacking import UNPACK_UP_TO
from .columns import ANY, Columns

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from .parts import Part

    Found = tuple[Part, Part | None, str]

ENVIRONMENT = "CBKERNELS_DATA"


@dataclass(frozen=True)
class DataSource(Choice):
    """Where a data set is, and what the papers do with it.

    Args:
        hub: its identity on the Hugging Face hub.
        configuration: which of the hub's configurations; None: the only or default one.
        read: () -> the training part, the test part or None, and in words where they are from; of a set that is
            not looked for in files or on the hub.
        augmentation: what ``--augmentation auto`` is. Nothing is assumed of images that the papers did not train on,
            a flipped digit may be another one.
        image_size: pixels in height and width where nobody says; None: as they are stored.
    """

    hub: str = ""
    configuration: str | None = None
    read: Callable[[], Found] | None = None
    augmentation: str = "none"
    image_size: int | None = None

    def parts(
        self, data_dir: str | os.PathLike[str] | None, found_at: str | os.PathLike[str] | None = None,
        columns: Columns = ANY, most: int = UNPACK_UP_TO,
    ) -> tuple[Part, Part | None, str, Path | None]:  # fmt: skip
        """As ``read``, and where they are on this disk; arguments are those of ``load_data_set``, ``most`` the last."""
        if self.read is not None:
            columns.require_none(self.name)
            return *self.read(), None
        from .hub_data_sets import read_from_hub
        from .image_files import read_parts

        given = data_dir if data_dir is not None else os.environ.get(ENVIRONMENT) or None
        here = f"put train-*.parquet and test-*.parquet into DIR/{self.name}/ and name DIR by data_dir or {ENVIRONMENT}"
        folder = None if given is None else Path(given) / self.name
        if data_dir is None and found_at is not None and (folder is None or not folder.is_dir()):
            folder = Path(found_at) if Path(found_at).is_dir() else folder
        if folder is not None:
            if folder.is_dir():
                return *read_parts(folder, self.configuration, columns, most), str(folder), folder
            here = f"{folder} is no folder; put train-*.parquet and test-*.parquet there"
            if data_dir is not None:
                raise FileNotFoundError(f"dataset {self.name!r} was not found: {here}")
        try:
            train, test = read_from_hub(self.hub, self.configuration, columns)
        except (ImportError, OSError) as error:
            kind = ImportError if isinstance(error, ImportError) else OSError
            raise kind(f"dataset {self.name!r} was not found: {error}; or do without the hub: {here}") from error
        return train, test, f"Hugging Face hub: {self.hub}", None


def load_digits() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Handwritten digits: 1,797 grey images of 8x8 pixels.

    Returns:
        Images, (1797, 64) float32 in 0 to 1 (sixteenths), row by row, and labels, (1797,) int64 in
        0 to 9.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository, 1998, CC BY 4.0; scikit-learn's copy (``cbkernels/data/README.md``).
    """
    from importlib import resources

    import numpy as np

    stored = resources.files("cbkernels") / "data" / "digits.npz"
    with stored.open("rb") as file, np.load(file, allow_pickle=False) as table:
        images, labels = table["images"], table["labels"]
    return images.astype(np.float32) / np.float32(16), labels.astype(np.int64)


def _digits() -> Found:
    from .parts import Part

    images, labels = load_digits()
    return Part(images.reshape(-1, 1, 8, 8), labels, "digits"), None, "inside of the package"


SOURCES = Choices("dataset", [
    DataSource("digits", "1,797 digits of 8x8, which the package holds", read=_digits),
    DataSource("mnist", "digits of 28x28", "ylecun/mnist"),
    DataSource("fashion_mnist", "clothes of 28x28", "zalando-datasets/fashion_mnist"),
    DataSource("cifar10", "photographs of 32x32", "uoft-cs/cifar10", augmentation="cifar"),
    DataSource("svhn", "house numbers of 32x32", "ufldl-stanford/svhn", "cropped_digits", augmentation="svhn"),
    DataSource("imagenette", "photographs", "frgfm/imagenette", "160px", augmentation="imagenette", image_size=128),
])  # fmt: skip


def source_named(name: object) -> DataSource:
    """That of a name in the table; of others one that only says what is done without a word of the papers."""
    return SOURCES[name] if isinstance(name, str) and name in SOURCES else DataSource(str(name), "")

"""Finds the images and labels of a data set on disk: parquet in the hub's layout, image folders, ``.npz``.

Nothing is decoded here and nothing in a file is ever executed; ``image_pixels.py`` decodes what
``data_sets.py`` chooses. Parquet needs pyarrow.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...files.array_files import StoredArray, open_arrays
from ...files.unpacking import UNPACK_UP_TO, TooLarge, require_room
from .columns import ANY, Columns, chosen_columns, class_names
from .image_folders import read_folder
from .image_pixels import InTable
from .parts import TEST_NAMES, Part, first_labelled

Array = npt.NDArray[Any]


def read_parts(
    path: Path, subfolder: str | None = None, columns: Columns = ANY, most: int = UNPACK_UP_TO
) -> tuple[Part, Part | None]:
    """Images and labels to train on, and to test on when they are kept apart.

    Args:
        path: a ``.npz`` or ``.parquet`` file, or a folder. It may hold ``train-*.parquet`` and ``test-*.parquet``
            (or ``validation-*``; also in its folder ``data``), any other parquet files as one part, images as
            ``train/<class>/*.png`` and ``test/<class>/*.png``, or ``<class>/*.png`` as one part.
        subfolder: where in the folder parquet files may be too: a configuration of a set of the hub.
        columns: which columns of a table are asked for.
        most: bytes that what is compressed may unpack to.

    Raises:
        ValueError: nothing was found, or it is damaged, ambiguous, or no images with labels.
        OSError: it cannot be read.
        ImportError: pyarrow is missing.
    """
    if path.is_file():
        if path.suffix.lower() == ".npz":
            columns.require_none(path)
            return _from_npz(path, most)
        if path.suffix.lower() == ".parquet":
            return _from_parquet([path], str(path), columns, most), None
        raise ValueError(f"{path} is neither a folder nor a .parquet or .npz file")
    for folder in (path, path / "data", *([path / subfolder] if subfolder else [])):
        if files := _visible(folder, (".parquet",)):
            return _parquet_parts(files, str(path), columns, most)
    columns.require_none(path)
    return read_folder(path)


def _visible(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in endings and f.name[0] != "." and f.is_file())


def _parquet_parts(files: list[Path], origin: str, columns: Columns, most: int) -> tuple[Part, Part | None]:
    """By the names of the files; without any ``train-*`` all of them are one part."""

    def named(part: str) -> list[Path]:
        return [f for f in files if f.stem == part or f.name.startswith((f"{part}-", f"{part}_", f"{part}."))]

    train = named("train")
    tests = [found for name in TEST_NAMES if (found := named(name))]
    if train:
        test = first_labelled(_from_parquet(found, f"the test part of {origin}", columns, most) for found in tests)
        return _from_parquet(train, f"the training part of {origin}" if tests else origin, columns, most), test
    if tests:
        raise ValueError(f"{origin} holds {tests[0][0].name} but no train-*.parquet; put it there")
    return _from_parquet(files, origin, columns, most), None


def _from_parquet(files: Iterable[Path], origin: str, asked: Columns, most: int) -> Part:
    try:
        import pyarrow  # type: ignore[import-untyped]
        from pyarrow import parquet
    except ImportError:
        raise ImportError(f"reading {origin} needs pyarrow: pip install pyarrow") from None
    parts = []
    for file in files:
        try:
            stored = parquet.ParquetFile(file)
            columns = chosen_columns(stored.schema_arrow, str(file), asked)
            table = _unpacked(stored, columns, file, most)
        except (FileNotFoundError, PermissionError, TooLarge):
            raise
        except (pyarrow.ArrowException, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"{file} is damaged or no parquet file: {reason}") from error
        parts.append(part_of_table(table, columns, str(file)))
    names = {part.class_names for part in parts}
    kinds = {part.labels.dtype.kind for part in parts}
    if len(names) > 1 or len(kinds) > 1:
        raise ValueError(f"the files of {origin} name their classes differently; write them anew as one data set")
    images = [image for part in parts for image in part.images]
    return Part(images, np.concatenate([part.labels for part in parts]), origin, names.pop())


def _unpacked(stored: Any, columns: tuple[str, str], file: Path, most: int) -> Any:
    """The table of two columns; a value that a dictionary holds once can be in every row, so it is counted as read."""
    import pyarrow

    def require(num_bytes: int) -> None:
        require_room(str(file), num_bytes, file.stat().st_size, most)

    groups = [stored.metadata.row_group(i) for i in range(stored.num_row_groups)]
    chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
    sizes = [chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns]
    require(sum(sizes))
    batches, unpacked = [], 0
    at_once = min(1024, max(1, most // max(sizes, default=1)))  # no row is larger than its chunk
    for batch in stored.iter_batches(at_once, columns=list(columns)):
        unpacked += batch.nbytes
        require(unpacked)
        batches.append(batch)
    return pyarrow.Table.from_batches(batches, None if batches else stored.schema_arrow)


def part_of_table(table: Any, columns: tuple[str, str], origin: str) -> Part:
    """Images and labels of an Arrow table.

    Args:
        table: ``pyarrow.Table``.
        columns: names of the columns of images and labels.
        origin: for messages.

    Raises:
        ValueError: images that are not in the table, or missing labels.
    """
    import pyarrow
    from pyarrow import compute

    images, labels = (table.column(name) for name in columns)
    if pyarrow.types.is_struct(images.type):
        images = compute.struct_field(images, "bytes")
    for what, column in (("image", images), ("label", labels)):
        if column.null_count:
            raise ValueError(f"{column.null_count} of the {len(column)} samples of {origin} have no {what} in it")
    names = class_names(table.schema, columns[1])
    rows = [InTable(content, row, origin) for row, content in enumerate(images.to_pylist())]
    if pyarrow.types.is_integer(labels.type):
        return Part(rows, labels.cast(pyarrow.int64()).to_numpy(), origin, names)
    return Part(rows, np.array(labels.cast(pyarrow.string()).to_pylist(), np.str_), origin, names)


def _from_npz(path: Path, most: int) -> tuple[Part, Part | None]:
    arrays = {array.name: array for array in open_arrays(str(path), most)}
    if {"train_images", "train_labels", "test_images", "test_labels"} <= set(arrays):
        train = _part_of_arrays(arrays["train_images"], arrays["train_labels"], f"the training part of {path}")
        return train, _part_of_arrays(arrays["test_images"], arrays["test_labels"], f"the test part of {path}")
    if {"images", "labels"} <= set(arrays):
        return _part_of_arrays(arrays["images"], arrays["labels"], str(path)), None
    raise ValueError(
        f"{path} holds {', '.join(arrays)}; it needs images and labels, "
        "or train_images, train_labels, test_images and test_labels"
    )


def _part_of_arrays(stored_images: StoredArray, stored_labels: StoredArray, origin: str) -> Part:
    images, labels = np.asarray(stored_images.read()), np.asarray(stored_labels.read())
    shape = images.shape
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and shape[1] not in (1, 3) and shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[1:]:
        raise ValueError(
            f"images of {origin} have shape {shape}; save (N, H, W), (N, C, H, W) or (N, H, W, C) with C 1 or 3"
        )
    if images.dtype.kind == "f":
        images = images.astype(np.float32)
        if images.size and not (images.min() >= 0 and images.max() <= 1):  # NaN is neither
            raise ValueError(f"images of {origin} go from {images.min()} to {images.max()}; save floats in 0 to 1")
    elif images.dtype != np.uint8:
        raise ValueError(f"images of {origin} are {images.dtype}; save uint8, or floats in 0 to 1")
    if labels.shape != shape[:1]:
        raise ValueError(f"labels of {origin} have shape {labels.shape}; save one for each of its {shape[0]} images")
    if labels.dtype.kind not in "iuU":
        raise ValueError(f"labels of {origin} are {labels.dtype}; save integers, or names of classes")
    return Part(np.ascontiguousarray(images), labels, origin)

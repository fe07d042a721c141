"""Finds the images and labels of a data set on disk: parquet in the hub's layout, image folders, ``.npz``.

Nothing is decoded here and nothing in a file is ever executed; ``image_pixels.py`` decodes what
``data_sets.py`` chooses. Parquet needs pyarrow.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...files.array_files import StoredArray, open_arrays
from .image_pixels import ENDINGS, Encoded

Array = npt.NDArray[Any]

TEST_NAMES = ("test", "validation", "valid", "val")
"""The part to test on, the first that there is."""


@dataclass(frozen=True)
class Part:
    """Samples to train on or to test on, not decoded yet."""

    images: Array | Sequence[Encoded]
    """(N, C, H, W) uint8 or float32 in 0 to 1, or N encoded images or files."""
    labels: Array
    """(N,) integers, or names of classes."""
    origin: str
    class_names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def taken(self, chosen: Array) -> Part:
        """The samples with these numbers, in their order."""
        images = self.images
        some = images[chosen] if isinstance(images, np.ndarray) else [images[i] for i in chosen]
        return replace(self, images=some, labels=self.labels[chosen])


def read_parts(path: Path, subfolder: str | None = None) -> tuple[Part, Part | None]:
    """Images and labels to train on, and to test on when they are kept apart.

    Args:
        path: a ``.npz`` or ``.parquet`` file, or a folder. It may hold ``train-*.parquet`` and ``test-*.parquet``
            (or ``validation-*``; also in its folder ``data``), any other parquet files as one part, images as
            ``train/<class>/*.png`` and ``test/<class>/*.png``, or ``<class>/*.png`` as one part.
        subfolder: where in the folder parquet files may be too: a configuration of a set of the hub.

    Raises:
        ValueError: nothing was found, or it is damaged, ambiguous, or no images with labels.
        OSError: it cannot be read.
        ImportError: pyarrow is missing.
    """
    if path.is_file():
        if path.suffix.lower() == ".npz":
            return _from_npz(path)
        if path.suffix.lower() == ".parquet":
            return _from_parquet([path], str(path)), None
        raise ValueError(f"{path} is neither a folder nor a .parquet or .npz file")
    for folder in (path, path / "data", *([path / subfolder] if subfolder else [])):
        if files := _visible(folder, (".parquet",)):
            return _parquet_parts(files, str(path))
    return _from_image_folder(path)


def _visible(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in endings and f.name[0] != "." and f.is_file())


def _parquet_parts(files: list[Path], origin: str) -> tuple[Part, Part | None]:
    """By the names of the files; without any ``train-*`` all of them are one part."""

    def named(part: str) -> list[Path]:
        return [f for f in files if f.stem == part or f.name.startswith((f"{part}-", f"{part}_", f"{part}."))]

    train = named("train")
    tests = [found for name in TEST_NAMES if (found := named(name))]
    if train:
        test = _from_parquet(tests[0], f"the test part of {origin}") if tests else None
        return _from_parquet(train, f"the training part of {origin}" if tests else origin), test
    if tests:
        raise ValueError(f"{origin} holds {tests[0][0].name} but no train-*.parquet; put it there")
    return _from_parquet(files, origin), None


def _from_parquet(files: Iterable[Path], origin: str) -> Part:
    try:
        import pyarrow  # type: ignore[import-untyped]
        from pyarrow import parquet
    except ImportError:
        raise ImportError(f"reading {origin} needs pyarrow: pip install 'cbkernels[data]'") from None
    parts = []
    for file in files:
        try:
            stored = parquet.ParquetFile(file)
            columns = columns_of(stored.schema_arrow, str(file))
            table = stored.read(list(columns))
        except (FileNotFoundError, PermissionError):
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
    names = _class_names(table.schema, columns[1])
    if pyarrow.types.is_integer(labels.type):
        return Part(images.to_pylist(), labels.cast(pyarrow.int64()).to_numpy(), origin, names)
    return Part(images.to_pylist(), np.array(labels.cast(pyarrow.string()).to_pylist(), np.str_), origin, names)


def columns_of(schema: Any, origin: str) -> tuple[str, str]:
    """Names of the columns of images and of labels, told by their types."""
    from pyarrow import types

    def is_binary(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    def is_image(kind: Any) -> bool:
        return is_binary(kind) or bool(
            types.is_struct(kind) and any(f.name == "bytes" and is_binary(f.type) for f in kind)
        )

    def is_text(kind: Any) -> bool:
        return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_dictionary(kind))

    images = [field.name for field in schema if is_image(field.type)]
    labels = [field.name for field in schema if types.is_integer(field.type)]
    labels = labels or [field.name for field in schema if is_text(field.type)]
    chosen = []
    for what, usual, found in (("images", "image", images), ("labels", "label", labels)):
        if not found:
            has = ", ".join(f"{field.name} ({str(field.type).partition('<')[0]})" for field in schema) or "none"
            kinds = "binary, or struct{bytes, path}" if what == "images" else "integers or strings"
            raise ValueError(f"{origin} has no column of {what} ({kinds}); its columns are {has}")
        if len(found) > 1 and usual not in found:
            raise ValueError(
                f"{origin} has {len(found)} columns that may be the {what}, {', '.join(found)}; "
                f"keep one of them, or call it {usual}"
            )
        chosen.append(usual if usual in found else found[0])
    return chosen[0], chosen[1]


def _class_names(schema: Any, column: str) -> tuple[str, ...] | None:
    """Names of the classes as Hugging Face's metadata has them."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
    except (KeyError, ValueError, TypeError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) and names else None


def _from_image_folder(path: Path) -> tuple[Part, Part | None]:
    is_divided = (path / "train").is_dir()
    train = _classes(path / "train" if is_divided else path)
    if train is None:
        raise ValueError(
            f"{path} holds no images: neither *.parquet nor train/<class>/*.png nor <class>/*.png were found in it"
        )
    tests = [path / name for name in TEST_NAMES if is_divided and (path / name).is_dir()]
    test = _classes(tests[0]) if tests else None
    if tests and test is None:
        raise ValueError(f"{tests[0]} holds no images; put them into folders <class>/ there, or remove it")
    return train, test


def _classes(folder: Path) -> Part | None:
    """Images in folders that are called like their classes."""
    inner = [each for each in sorted(folder.iterdir()) if each.name[0] != "."]
    files = [file for each in inner for file in _visible(each, ENDINGS)]
    return Part(files, np.array([file.parent.name for file in files], np.str_), str(folder)) if files else None


def _from_npz(path: Path) -> tuple[Part, Part | None]:
    arrays = {array.name: array for array in open_arrays(str(path))}
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

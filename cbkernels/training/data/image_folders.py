"""Images in folders that are called like their classes: ``train/<class>/*.png``, or ``<class>/*.png`` as one part."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np

from .image_pixels import ENDINGS
from .parts import TEST_NAMES, Part


def read_folder(path: Path) -> tuple[Part, Part | None]:
    """Images to train on, and to test on when they are kept apart.

    Folders inside of a class's folder belong to the class. Files that are no images, images in no class, and
    links to folders are left out and counted.

    Raises:
        ValueError: no images, or a class without one: leaving it out would give other classes its number.
    """
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
    """None without any image in a folder of its own."""
    classes = [each for each in sorted(folder.iterdir()) if each.name[0] != "." and each.is_dir()]
    found = {each: _files(each) for each in classes}
    images = {each: [file for file in files if _is_image(file)] for each, files in found.items()}
    if not any(images.values()):
        return None
    for each, files in found.items():
        if not images[each]:
            has = f"{len(files)} files, such as {files[0].name}, but no image" if files else "no image"
            raise ValueError(f"the class folder {each} holds {has} ({', '.join(ENDINGS)}); put some there or remove it")
    others = [_kind(file) for files in found.values() for file in files if not _is_image(file)]
    others += [f"{_kind(file)} in no class folder" for file in folder.iterdir() if _is_image(file) and file.is_file()]
    files = [file for each in images.values() for file in each]
    labels = np.array([each.name for each, some in images.items() for _ in some], np.str_)
    return Part(files, labels, str(folder), left_out=_counted(others))


def _files(folder: Path) -> list[Path]:
    """All that are not hidden, in one order on every machine; a link to a folder is one of them, and not followed."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        links = [name for name in folders if Path(place, name).is_symlink()]
        found += [Path(place, name) for name in sorted(names + links) if name[0] != "."]
    return found


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in ENDINGS and not file.is_dir()


def _kind(file: Path) -> str:
    return "links to folders" if file.is_dir() else file.suffix.lower() or "no suffix"


def _counted(kinds: list[str]) -> str:
    return ", ".join(f"{count} of {kind}" for kind, count in Counter(kinds).most_common(3))

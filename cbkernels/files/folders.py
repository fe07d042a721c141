"""Folders that are written into: their names, that they stand apart from what is read, what is deleted in them.

A list of names says what may be deleted, a ``*`` in one standing for anything; all other files are somebody else's. No
symbolic link to a folder is followed, so that nothing is deleted elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from .folder_lock import is_running
from .whole_files import aside_of, sync_folder


def output_path(out: str | os.PathLike[str], *inputs: str | os.PathLike[str] | None) -> Path:
    """The path of what is to be written, refused before anything is.

    Args:
        out: a folder or a file.
        inputs: folders that are read; None stands for none.

    Raises:
        ValueError: it is empty, no UTF-8 text, or equal to, inside of or around an input, symbolic links resolved.

    Example:
        >>> output_path("runs/a", "runs/b")
        PosixPath('runs/a')
        >>> output_path("a/b", "a")
        Traceback (most recent call last):
        ValueError: 'a/b' cannot be written into, because it is inside of 'a', which is read; name another folder
    """
    name = os.fspath(out)
    if not name:
        raise ValueError("the folder to write is named ''; name one, such as '.' for the folder that you are in")
    try:
        os.fsencode(name).decode()
    except UnicodeDecodeError:
        raise ValueError(
            f"{name!r} is not UTF-8 text, and pages and other libraries need that; name another folder"
        ) from None
    target = Path(os.path.realpath(name))
    for source in (os.fspath(each) for each in inputs if each is not None):
        other = Path(os.path.realpath(source))
        is_inside, is_around = _is_in(target, other), _is_in(other, target)
        if is_inside or is_around:
            place = "is" if is_inside and is_around else "is inside of" if is_inside else "holds"
            raise ValueError(
                f"{name!r} cannot be written into, because it {place} {source!r}, which is read; name another folder"
            )
    return Path(name)


def _is_in(path: Path, folder: Path) -> bool:
    """Whether it is the folder or inside of it, also by other names, where file systems have those."""
    return any(each == folder or _is_same(each, folder) for each in (path, *path.parents))


def _is_same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return False


def make_folder(path: Path) -> Path:
    """Make a folder and those around it, where they are missing, so that a loss of power leaves them.

    Raises:
        OSError: a file is in the way, or no permission.
    """
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for each in missing:
        sync_folder(each.parent)
    return path


def named_files(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    """What the names stand for; a name without a ``*`` stands for its file also where there is none."""
    for name in names:
        for file in sorted(folder.glob(name)) if "*" in name else [folder / name]:
            between = file.relative_to(folder).parents
            if not any((folder / each).is_symlink() for each in between if each.name):
                yield file


def delete_files(folder: Path, names: Iterable[str]) -> None:
    """Delete the files of these names in turn, and their folders inside of ``folder`` that are then empty.

    Raises:
        OSError: no permission, or a folder has the name of a file.
    """
    names = list(names)
    sweep(folder, names)
    emptied = []
    for file in named_files(folder, names):
        file.unlink(missing_ok=True)
        emptied += [folder / each for each in file.relative_to(folder).parents if each.name]
    for each in sorted(set(emptied), reverse=True):  # a folder comes behind those inside of it
        with suppress(OSError):
            each.rmdir()
    sync_folder(folder)


def sweep(folder: Path, names: Iterable[str], *, is_locked: bool = True) -> None:
    """Delete what killed processes wrote aside of the files of these names.

    Args:
        folder: of the names.
        names: as in ``named_files``.
        is_locked: nobody else writes these files; otherwise what was written by a process that still runs is left.
    """
    for aside in named_files(folder, [str(aside_of(Path(name), "*")) for name in names]):
        process = aside.name.split(".")[-2]
        if is_locked or (process.isdigit() and not is_running(int(process))):
            aside.unlink(missing_ok=True)

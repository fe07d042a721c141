"""Files that are there whole or not at all, after a loss of power too: written aside, synced to the disk, renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
"""Errors of file systems that cannot sync a file; those that have lost it say EIO, ENOSPC or EDQUOT."""


def aside_of(path: Path, process: int | str) -> Path:
    """The name beside ``path`` that a process writes to; of the process "*" a pattern of all such names."""
    return path.with_name(f".{path.name}.{process}.aside")


@contextmanager
def written_aside(path: str | os.PathLike[str], *, is_synced: bool = True) -> Iterator[Path]:
    """Yield a name beside ``path`` to write to; renamed to ``path`` at the end, deleted after an error.

    Args:
        path: the file.
        is_synced: its content is on the disk before it is renamed, and the new name is at the end, where the file
            system can do that; False for what can be made again and is written in numbers, such as pictures.

    Raises:
        OSError: no space, no permission, no such folder; an older file of that name is then unchanged.
    """
    target = Path(path)
    aside = aside_of(target, os.getpid())
    try:
        aside.touch()
        mode = stat.S_IMODE(aside.stat().st_mode)  # as the umask says, whatever else puts a file of its own there
        yield aside
        os.chmod(aside, mode)
        if is_synced:
            _sync_file(aside)
        os.replace(aside, target)
        if is_synced:
            sync_folder(target.parent)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error
    finally:
        aside.unlink(missing_ok=True)


def write_whole(path: str | os.PathLike[str], content: bytes, *, is_synced: bool = True) -> None:
    """Write a file aside and rename it; arguments and errors as in ``written_aside``."""
    with written_aside(path, is_synced=is_synced) as aside:
        aside.write_bytes(content)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Put the names in a folder on the disk, where that can be done: not on Windows, not on every file system."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The checksum of a file's bytes, which are never all in memory.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

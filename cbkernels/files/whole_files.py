"""Files that are there whole or not at all: written aside, then renamed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_aside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a name beside ``path`` to write to; renamed to ``path`` at the end, deleted after an error.

    Raises:
        OSError: no space, no permission, no such folder; an older file of that name is then unchanged.
    """
    target = Path(path)
    aside = target.with_name(f".{target.name}.{os.getpid()}.aside")
    try:
        yield aside
        os.replace(aside, target)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error
    finally:
        aside.unlink(missing_ok=True)


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file aside and rename it; errors as in ``written_aside``."""
    with written_aside(path) as aside:
        aside.write_bytes(content)


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

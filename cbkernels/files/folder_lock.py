"""One process at a time writes into a folder: an advisory lock, which ends with its process, a SIGKILL included.

The lock is one of the operating system's on a small file that names its holder; the file goes when the lock does, and
one that a kill left behind locks nothing. Readers need no lock, because files are written whole.
"""

from __future__ import annotations

import os
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".cbkernels.lock"
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
_OURS, _LONGEST = re.compile(rb"\d{1,10} \S{0,255}"), 300
"""What holders write: their process and machine."""
_told: list[str] = []
"""Where nothing could be locked, the first time."""


class FolderInUse(ValueError):
    """Another process, or another thread of this one, writes into the folder."""


@contextmanager
def held(folder: str | os.PathLike[str], *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock of a folder. Where nothing can be locked one goes on without, and a warning says so once.

    Args:
        folder: is there already.
        wait_s: seconds to wait for another process.

    Raises:
        FolderInUse: another process holds it.
        ValueError: a file of somebody else's has the lock's name.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, held(folder):
        ...     os.listdir(folder)
        ['.cbkernels.lock']
    """
    path, process = Path(folder) / LOCK, os.getpid()
    descriptor = _locked(path, time.monotonic() + wait_s)
    try:
        yield
    finally:
        if descriptor is not None:
            if os.getpid() == process:  # not in a fork
                with suppress(OSError):
                    os.unlink(path)  # still locked: who has opened it already will see that it is gone
            os.close(descriptor)


def is_running(process: int) -> bool:
    """Whether there is such a process on this machine; yes, where that cannot be known."""
    if fcntl is None:
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return True


def _locked(path: Path, ends: float) -> int | None:
    """The descriptor of the locked file; None where nothing can be locked."""
    while True:
        try:
            descriptor = _tried(path)
        except FolderInUse:
            if time.monotonic() >= ends:
                raise
            time.sleep(0.05)
        except OSError as error:
            if not _told:
                _told.append(str(path))
                says = f"{path.parent} cannot be locked ({error.strerror or error}); let one process at a time write it"
                warnings.warn(says, RuntimeWarning, stacklevel=4)
            return None
        else:
            if descriptor is not None:
                return descriptor


def _tried(path: Path) -> int | None:
    """As ``_locked``; None where the file was deleted by its holder before it could be locked."""
    if fcntl is None:
        raise OSError("this system has no such locks")
    with ExitStack() as opened:
        descriptor = os.open(path, _FLAGS, 0o666)
        opened.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            by = _holder(descriptor)
            raise FolderInUse(
                f"{path.parent} is in use by {by}; wait until that has ended, or name another folder"
            ) from None
        if not _is_still(path, descriptor):
            return None
        content = os.pread(descriptor, _LONGEST, 0)
        if content and not _OURS.fullmatch(content):
            raise ValueError(f"{path} is no lock of cbkernels; move it away or name another folder")
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()} {os.uname().nodename}".encode())
        opened.pop_all()
        return descriptor


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> str:
    process, _, host = os.pread(descriptor, _LONGEST, 0).decode(errors="replace").partition(" ")
    if not process.isdigit():
        return "another process"
    return f"process {process}" if host == os.uname().nodename else f"process {process} on {host!r}"

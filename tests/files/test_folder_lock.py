"""One process at a time writes into a folder; a lock ends with its process."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cbkernels.files import folder_lock
from cbkernels.files.folder_lock import LOCK, FolderInUse, held, is_running

pytest.importorskip("fcntl", reason="locks: NOT TESTED HERE (no fcntl)")
HOLDS = (
    "import sys; from cbkernels.files.folder_lock import held\n"
    "with held(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder's lock until its stdin is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_another_process_is_named_and_a_kill_ends_its_lock(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    said = f"^{re.escape(str(tmp_path))} is in use by process {other.pid}; wait until that has ended, or name another"
    with pytest.raises(FolderInUse, match=said), held(tmp_path):
        pytest.fail("two hold it")
    (tmp_path / LOCK).write_text(f"{other.pid} elsewhere")
    with pytest.raises(FolderInUse, match=f"process {other.pid} on 'elsewhere'"), held(tmp_path):
        pytest.fail("two hold it")
    (tmp_path / LOCK).write_text("")
    with pytest.raises(FolderInUse, match="by another process"), held(tmp_path):
        pytest.fail("two hold it")
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (tmp_path / LOCK).exists(), "which locks nothing any more"
    assert not is_running(other.pid)
    with held(tmp_path):
        assert (tmp_path / LOCK).read_text() == f"{os.getpid()} {os.uname().nodename}"
        with pytest.raises(FolderInUse, match=f"by process {os.getpid()};"), held(tmp_path):
            pytest.fail("two hold it, in one process")
    assert not list(tmp_path.iterdir()), "nothing is left"


@pytest.mark.parametrize("content", ["my notes\n", "12", "12 a b", "7 " + "x" * 500])
def test_a_file_of_somebody_else_with_that_name_is_left_alone(tmp_path: Path, content: str) -> None:
    """It was emptied, and deleted at the end."""
    (tmp_path / LOCK).write_text(content)
    with (
        pytest.raises(ValueError, match="is no lock of cbkernels; move it away or name another"),
        held(tmp_path),
    ):
        pytest.fail("it was taken")
    assert (tmp_path / LOCK).read_text() == content


def test_one_can_wait(tmp_path: Path) -> None:
    order: list[str] = []
    is_held = threading.Event()

    def first() -> None:
        with held(tmp_path):
            is_held.set()
            while "waits" not in order:
                pass
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    is_held.wait()
    order.append("waits")
    with held(tmp_path, wait_s=60):
        order.append("second")
    thread.join()
    assert order == ["waits", "first", "second"]


def test_a_lock_that_its_holder_deleted_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening the file and locking it."""
    lock = folder_lock.fcntl.flock
    deleted: list[int] = []

    def after_the_holder_left(descriptor: int, flags: int) -> None:
        if not deleted:
            (tmp_path / LOCK).unlink()
        deleted.append(descriptor)
        lock(descriptor, flags)

    monkeypatch.setattr(folder_lock.fcntl, "flock", after_the_holder_left)
    with held(tmp_path):
        assert (tmp_path / LOCK).exists()
        assert len(deleted) == 2


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EROFS])
def test_where_nothing_can_be_locked_it_goes_on_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(folder_lock, "_told", [])
    monkeypatch.setattr(*(folder_lock.fcntl, "flock") if number == errno.ENOLCK else (folder_lock.os, "open"), refused)
    with pytest.warns(RuntimeWarning, match=rf"cannot be locked \({os.strerror(number)}\)") as warned, held(tmp_path):
        pass
    with held(tmp_path):  # warnings are errors here
        pass
    assert len(warned) == 1


def test_without_fcntl_it_is_imported_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; sys.modules['fcntl'] = None\n"
        "from cbkernels.files.folder_lock import held\n"
        "with held(sys.argv[1]): print('goes on')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "goes on\n"
    assert "cannot be locked (this system has no such locks)" in done.stderr


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "_told", [])
    (tmp_path / "mine").write_text("kept")
    (tmp_path / LOCK).symlink_to("mine")
    with pytest.warns(RuntimeWarning, match="cannot be locked"), held(tmp_path):
        pass
    assert (tmp_path / "mine").read_text() == "kept"

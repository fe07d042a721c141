"""Files are on the disk before they have their name, and folders say nothing wrong about what is theirs."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cbkernels.files import folders, whole_files
from cbkernels.files.folders import delete_files, make_folder, output_path, sweep
from cbkernels.files.whole_files import write_whole, written_aside


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was synced and renamed, in turn."""
    said: list[str] = []
    sync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        said.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        sync(descriptor)

    def replaced(source: Path, target: Path) -> None:
        said.append(f"rename {source.name}")
        replace(source, target)

    monkeypatch.setattr(whole_files.os, "fsync", synced)
    monkeypatch.setattr(whole_files.os, "replace", replaced)
    return said


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors by name: NOT TESTED HERE (no /proc)")
def test_a_file_is_on_the_disk_before_it_is_renamed_and_its_name_afterwards(tmp_path: Path, calls: list[str]) -> None:
    aside = f".a.{os.getpid()}.aside"
    write_whole(tmp_path / "a", b"1")
    assert calls == [f"sync {aside}", f"rename {aside}", f"sync {tmp_path.name}"]
    calls.clear()
    write_whole(tmp_path / "a", b"2", is_synced=False)
    assert calls == [f"rename {aside}"]
    calls.clear()
    make_folder(tmp_path / "b" / "c")
    assert sorted(calls) == sorted([f"sync {tmp_path.name}", "sync b"]), "new folders are there after a loss of power"


@pytest.mark.skipif(os.name == "nt", reason="modes of files: NOT TESTED HERE (Windows)")
def test_a_file_has_the_mode_of_the_umask_whoever_wrote_it(tmp_path: Path) -> None:
    """safetensors writes for its user only, so that a network that was saved could not be read by anybody else."""
    before = os.umask(0o026)
    try:
        with written_aside(tmp_path / "weights") as aside:
            aside.unlink(missing_ok=True)
            os.close(os.open(aside, os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    assert (tmp_path / "weights").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(("number", "is_fatal"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_what_cannot_be_synced_is_no_error_but_what_is_lost_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_fatal: bool
) -> None:
    def refused(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(whole_files.os, "fsync", refused)
    if is_fatal:
        with pytest.raises(OSError, match=os.strerror(number)):
            write_whole(tmp_path / "a", b"new")
    else:
        write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == (b"old" if is_fatal else b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_cannot_be_opened_to_sync_it_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def only_files(path: Path, *flags: int) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "as on Windows", str(path))
        return opened(path, *flags)

    monkeypatch.setattr(whole_files.os, "open", only_files)
    write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


@pytest.mark.parametrize(
    ("out", "said"), [("", "is named ''"), ("runs/\udcff", "is not UTF-8 text")], ids=["empty", "not UTF-8"]
)
def test_names_that_cannot_be_written_are_refused(out: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        output_path(out)


@pytest.mark.parametrize(
    ("out", "said"),
    [("run", "is"), ("run/x/y", "is inside of"), (".", "holds"), ("link", "is"), ("link/x", "is inside of")],
)
def test_outputs_stand_apart_from_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("link").symlink_to("run")
    with pytest.raises(ValueError, match=f"^'{out}' cannot be written into, because it {said} 'run', which is read"):
        output_path(out, None, "run")
    with pytest.raises(ValueError, match="cannot be written into"):
        output_path(tmp_path / out, "link")
    assert output_path("run-2", "run", None) == Path("run-2")


def test_only_files_of_these_names_are_deleted(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    for name in ("run/a.json", "run/notes", "run/events/e.1", "run/events/mine", "run/deep/er/w-1", "elsewhere/e.1"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    (tmp_path / "run" / "linked").symlink_to(elsewhere)
    (tmp_path / "run" / ".a.json.1.aside").write_text("")
    delete_files(tmp_path / "run", ["a.json", "not-there", "events/e.*", "linked/e.*", "linked/e.1", "deep/*/w-*"])
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} - {"run/linked/e.1"}
    assert left == {"run/notes", "run/events/mine", "elsewhere/e.1"}
    assert not (tmp_path / "run" / "deep").exists(), "what held nothing else is gone too"


def test_what_a_process_that_runs_writes_aside_is_left_where_nothing_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "is_running", lambda process: process == 7)
    asides = [tmp_path / f".page.html.{process}.aside" for process in (7, 8)]
    for aside in asides:
        aside.write_text("")
    (tmp_path / ".page.html.x.old").write_text("")
    sweep(tmp_path, ["page.html"], is_locked=False)
    assert [aside.exists() for aside in asides] == [True, False]
    sweep(tmp_path, ["page.html"])
    assert [path.name for path in tmp_path.iterdir()] == [".page.html.x.old"]

"""Run folders opened to write: whose they are, who writes them now, what goes. Needs no torch; nothing is executed.

A folder is a run's when its ``config.json`` names a command and the schema. What ``schema.FILES`` names is that run's,
and a folder that holds such a file without the config is somebody else's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .._version import __version__
from ..files.folder_lock import FolderInUse, held
from ..files.folders import delete_files, named_files, sweep
from ..files.json_files import read_json_object
from .folder import RunFolder
from .reader import is_drawn, read_config
from .schema import COMPARISON, CONFIG, DRAWN, FILES, KIND, REMOVAL, RESULT, RESULTS

MACHINE = ("device", "threads", "tensorboard", "data_dir", "unpack_up_to")
"""Options that may differ when a run goes on: they decide where it runs."""
ABOUT = ("command", "version", "schema")
"""What ``config.json`` says beside the options."""
_IN_ALL = ("seed", "probe_size")
"""Options of every command: what tells a config of version 0.1.0 from those of other programs."""


@contextmanager
def open_folder(
    out: str | os.PathLike[str], command: str, config: Mapping[str, Any], *, resume: bool, overwrite: bool = False,
    grows: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[RunFolder]:  # fmt: skip
    """A folder with ``config.json`` in it, locked: no other process opens it meanwhile.

    Args:
        out: made if it is missing.
        command: which wrote or writes it.
        config: JSON types.
        resume: go on with the run in it, if there is one.
        overwrite: delete the run in it, if there is one, and the removal in that.
        grows: options that may be larger when the run goes on, each with the reason why it may not be, or "". The run
            has not ended then, and its config says so from now on.

    Raises:
        ValueError: another run is in it, somebody else's files, or another process writes it.
        OSError: it cannot be written.
    """
    path = Path(out)
    _holds_run(path, command, config, resume, overwrite, grows)  # before so much as a lock is put into it
    folder = RunFolder(path)
    with held(path):
        is_there = _holds_run(path, command, config, resume, overwrite, grows)  # now nobody else can change that
        if is_there and not resume:
            _delete(path, command)
        _sweep(path, command)
        if not (is_there and resume):
            folder.write_json(CONFIG, {"command": command, "version": __version__, "schema": KIND, **config})
        else:
            _grow(folder, {name: config[name] for name in grows})
        yield folder


@contextmanager
def open_comparison(out: str | os.PathLike[str]) -> Iterator[RunFolder]:
    """The folder of ``repr compare``, above its runs, locked; made if it is missing.

    Raises:
        ValueError: somebody else's files are in the way, or another process writes it.
        OSError: it cannot be written.
    """
    path, command = Path(out), "repr compare"
    file = path / COMPARISON
    if not os.path.lexists(file):
        _require_no_files(path, command, COMPARISON)
    elif read_json_object(file).get("command") != command:
        raise ValueError(f"{file} is not of cbkernels {command}; move it away or name another --out")
    folder = RunFolder(path)
    with held(path):
        _sweep(path, command)
        yield folder


def stored_config(path: str | os.PathLike[str], command: str) -> dict[str, Any] | None:
    """The options of the run in a folder; None when there is none.

    Raises:
        ValueError: the folder holds somebody else's config or a run of another command, or a damaged file.
    """
    path = Path(path)
    if not os.path.lexists(path / CONFIG):
        return None
    content = read_config(path)
    if not _is_of_run(content):
        raise ValueError(f"{path / CONFIG} is not that of a run of cbkernels; name another --out")
    if content["command"] != command:
        raise ValueError(
            f"{path} holds a run of another command than {command!r}, of {content['command']!r}; name another --out"
        )
    return {name: value for name, value in content.items() if name not in ABOUT}


def _is_of_run(config: Mapping[str, Any]) -> bool:
    is_known = config["schema"] == KIND if "schema" in config else all(name in config for name in _IN_ALL)
    return is_known and isinstance(config.get("command"), str) and config["command"] in RESULTS


def _grow(folder: RunFolder, config: Mapping[str, Any]) -> None:
    """The result goes first: a run without one is gone on with, whatever its config says."""
    stored = read_json_object(folder.path / CONFIG)
    if not config.items() <= stored.items():
        delete_files(folder.path, [RESULT])
        folder.write_json(CONFIG, {**stored, **config})


def _holds_run(
    path: Path, command: str, config: Mapping[str, Any], resume: bool, overwrite: bool, grows: Mapping[str, str]
) -> bool:
    """Whether the run that is meant is there; what is neither that nor room for a new one is refused."""
    _require_no_links(path, command)
    stored = stored_config(path, command)
    if stored is None:
        _require_no_files(path, command, CONFIG)
    elif resume:
        _require_same(path, stored, config, grows)
    elif not overwrite:
        raise ValueError(f"{path} holds a run already; pass --resume to go on with it, --overwrite or another --out")
    return stored is not None


def _require_no_links(path: Path, command: str) -> None:
    """Refuse a folder in the run that is a link: what is behind it is somebody else's."""
    for folder in sorted({name.split("/")[0] for name in FILES[command] if "/" in name}):
        if (path / folder).is_symlink():
            raise ValueError(
                f"{path / folder} is a link to another folder, which is not written to; "
                "remove the link or name another --out"
            )


def _require_no_files(path: Path, command: str, missing: str) -> None:
    for file in named_files(path, FILES[command]):
        if os.path.lexists(file) and not is_drawn(file):  # anybody who may read a run may draw it
            raise ValueError(
                f"{path} holds {os.fspath(file.relative_to(path))!r} and no {missing} of cbkernels to go with it; "
                "move that away or name another --out"
            )


def _require_same(path: Path, stored: Mapping[str, Any], config: Mapping[str, Any], grows: Mapping[str, str]) -> None:
    for name, value in config.items():
        if name in MACHINE or name not in stored or stored[name] == value:
            continue
        more = name in grows and value > stored[name]
        if not more or grows[name]:
            why = grows[name] if more else f"only {' and '.join(grows)} may grow" if grows else ""
            raise ValueError(
                f"{path} holds a run with {name} {stored[name]!r}, not {value!r}; "
                f"leave that option out or name another --out{why and f' ({why})'}"
            )


def _delete(path: Path, command: str) -> None:
    """The config goes last, so that nothing is left without it."""
    with _removal_in(path) as is_there:
        if is_there:
            _delete(path / REMOVAL, "remove")
    with suppress(OSError):  # where it is missing, or holds something else
        (path / REMOVAL).rmdir()
    delete_files(path, FILES[command])
    delete_files(path, [CONFIG])


@contextmanager
def _removal_in(path: Path) -> Iterator[bool]:
    """Whether a removal is in the folder of a run, locked if it is."""
    removal, is_there = path / REMOVAL, False
    with suppress(OSError, ValueError):
        is_there = not removal.is_symlink() and stored_config(removal, "remove") is not None
    if not is_there:
        yield False
        return
    with held(removal):
        yield True


def _sweep(path: Path, command: str) -> None:
    """Delete what killed processes wrote aside, also in a removal that nobody writes now."""
    sweep(path, [name for name in (CONFIG, COMPARISON, *FILES[command]) if name not in DRAWN])
    sweep(path, DRAWN, is_locked=False)
    with suppress(FolderInUse), _removal_in(path) as is_there:
        if is_there:
            _sweep(path / REMOVAL, "remove")

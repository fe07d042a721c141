"""Run folders opened: a new one, one to go on with, one to read. Needs no torch; nothing in them is ever executed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._version import __version__
from .folder import RunFolder
from .reader import read_config
from .schema import CHECKPOINT, CONFIG, EVENTS, FILES

MACHINE = ("device", "threads", "tensorboard", "data_dir", "unpack_up_to")
"""Options that may differ when a run goes on: they decide where it runs."""


def open_folder(
    out: str | os.PathLike[str], command: str, config: Mapping[str, Any], *, resume: bool, overwrite: bool = False
) -> RunFolder:
    """A folder with ``config.json`` in it.

    Args:
        out: made if it is missing.
        command: which wrote or writes it.
        config: JSON types.
        resume: go on with the run in it, if there is one.
        overwrite: delete the run in it, if there is one.

    Raises:
        ValueError: another run is in it.
        OSError: it cannot be written.
    """
    path = Path(out)
    if (path / CONFIG).exists():
        if resume:
            _require_same(path, command, config)
        elif not overwrite:
            raise ValueError(
                f"{path} holds a run already; pass --resume to go on with it, --overwrite or another --out"
            )
        for aside in path.glob(".*.aside"):  # of a run that was killed
            aside.unlink(missing_ok=True)
        if resume:
            return RunFolder(path)
        shutil.rmtree(path / EVENTS, ignore_errors=True)
        for name in FILES:
            (path / name).unlink(missing_ok=True)
    elif (path / CHECKPOINT).exists():
        raise ValueError(f"{path} holds a checkpoint and no config.json to go with it; name another --out")
    folder = RunFolder(path)
    folder.write_json(CONFIG, {"command": command, "version": __version__, **config})
    return folder


def _require_same(path: Path, command: str, config: Mapping[str, Any]) -> None:
    stored = read_config(path)
    if stored.get("command") != command:
        raise ValueError(f"{path} holds a run of {stored.get('command')!r}, not of {command!r}; name another --out")
    for name, value in config.items():
        if name not in MACHINE and name in stored and stored[name] != value:
            raise ValueError(
                f"{path} holds a run with {name} {stored[name]!r}, not {value!r}; "
                f"leave that option out or name another --out"
            )


def stored_config(path: str | os.PathLike[str], command: str) -> dict[str, Any] | None:
    """The options of the run in a folder; None when there is none.

    Raises:
        ValueError: the folder holds a run of another command, or a damaged file.
    """
    if not (Path(path) / CONFIG).exists():
        return None
    content = read_config(path)
    if content.pop("command", None) != command:
        raise ValueError(f"{path} holds a run of another command than {command!r}; name another --out")
    content.pop("version", None)
    return content

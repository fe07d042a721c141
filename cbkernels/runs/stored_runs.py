"""Run folders opened: a new one, one to go on with, one to read. Needs no torch; nothing in them is ever executed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._version import __version__
from .folder import RunFolder

FILES = (
    "report.html", "result.json", "checkpoint.safetensors", "margins.csv", "layers.csv", "history.jsonl", "env.json",
    "config.json",
)  # fmt: skip
"""What a run writes into its folder; deleted in this order, so that nothing is left without its config."""
MACHINE = ("device", "threads", "tensorboard", "data_dir")
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
    if (path / "config.json").exists():
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
        shutil.rmtree(path / "tensorboard", ignore_errors=True)
        for name in FILES:
            (path / name).unlink(missing_ok=True)
    elif (path / "checkpoint.safetensors").exists():
        raise ValueError(f"{path} holds a checkpoint and no config.json to go with it; name another --out")
    folder = RunFolder(path)
    folder.write_json("config.json", {"command": command, "version": __version__, **config})
    return folder


def _require_same(path: Path, command: str, config: Mapping[str, Any]) -> None:
    stored = read_json(path / "config.json")
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
    file = Path(path) / "config.json"
    if not file.exists():
        return None
    content = read_json(file)
    if content.pop("command", None) != command:
        raise ValueError(f"{path} holds a run of another command than {command!r}; name another --out")
    content.pop("version", None)
    return content


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; name the folder of a run")
    try:
        content = json.loads(path.read_bytes())
    except (UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path} is not JSON ({error}); the run is damaged") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}, not an object; the run is damaged")
    return content

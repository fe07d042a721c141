"""A run's folder: every file is written aside and renamed, so a kill leaves the old or the new one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..files.folders import make_folder
from ..files.json_files import json_text
from ..files.whole_files import write_whole
from . import schema


class RunFolder:
    """Files of one run.

    Args:
        path: made if it is missing, parents included.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = make_folder(Path(path))

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file aside and rename it.

        Raises:
            OSError: no space, no permission; an older file of that name is then unchanged.
        """
        write_whole(self.path / name, content)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write one JSON object; NaN and infinities are refused as ValueError."""
        self.write_bytes(name, json_text(content).encode())

    def write_json_lines(self, name: str, lines: Iterable[Mapping[str, Any]]) -> None:
        """Write one JSON object a line; NaN and infinities are refused as ValueError."""
        self.write_bytes(name, "".join(json_text(line, indent=None) for line in lines).encode())

    def write_layers(self, measured: Iterable[schema.MeasuredLayer]) -> None:
        """Write ``layers.csv`` of layers that are all measured."""
        lines = [schema.LAYERS.header, *map(schema.LAYERS.line, measured)]
        self.write_bytes(schema.LAYERS.file, "".join(lines).encode())

"""Reports as JSON, CSV and data frames: files that are written whole or not at all, and what they are checked for.

``layer_report.py`` and ``history.py`` call this. No pickle: loading executes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from ..files.csv_files import csv_line
from ..files.json_files import json_text, json_value
from ..files.whole_files import write_whole
from . import columns

Loaded = TypeVar("Loaded")
_OF_RUN = "whose folder cbkernels.runs.reader.read_run reads"
_OTHERS = {
    ".csv": "a table is for other programs; load what to_json wrote",
    ".jsonl": f"each of its lines is an epoch of a run, {_OF_RUN}; the record that it returns has them as history",
    ".safetensors": "it holds tensors; safetensors.torch.load_file reads them",
}
"""Suffix -> what a file is that no report was ever written to."""


def require_kind(content: Any, kind: str, newest: int) -> None:
    """Raise ValueError unless ``content`` is a dict of this kind in a format that this version reads."""
    name = kind.rpartition(".")[2]
    if not isinstance(content, Mapping) or content.get("kind") != kind:
        found = content.get("kind", list(content)[:5]) if isinstance(content, Mapping) else type(content).__name__
        of_run = f"; it is of a run, {_OF_RUN}" if isinstance(content, Mapping) and "command" in content else ""
        raise ValueError(f"this is {found!r} and not what {name}.to_dict() returned{of_run}")
    if content.get("format") != newest:
        raise ValueError(f"the {name} has format {content.get('format')!r}; this version reads {newest}")


def write_json(content: Mapping[str, Any], path: str | os.PathLike[str] | None, indent: int | None = 2) -> str:
    """JSON text of ``content``, also written to ``path`` unless that is None."""
    return _also_written(json_text(content, indent), path)


def read_json(path: str | os.PathLike[str], make: Callable[[Any], Loaded]) -> Loaded:
    """What ``make`` makes of a JSON file's content; its ValueError, and that of a damaged file, name the file."""
    raw = Path(path).read_bytes()
    if (other := _OTHERS.get(Path(path).suffix)) is not None:
        raise ValueError(f"{os.fspath(path)} cannot be loaded: {other}")
    try:
        return make(json_value(raw, "the file"))
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)} cannot be loaded: {error}") from error


def write_csv(findings: Iterable[columns.Finding], path: str | os.PathLike[str] | None) -> str:
    """CSV text with a line a layer, also written to ``path`` unless that is None; None is an empty cell."""
    lines = [columns.NAMES, *(columns.row(finding).values() for finding in findings)]
    return _also_written("".join(map(csv_line, lines)), path)


def _also_written(text: str, path: str | os.PathLike[str] | None) -> str:
    if path is not None:
        write_whole(path, text.encode())
    return text


def data_frame(findings: Iterable[columns.Finding]) -> Any:
    """The same lines as a ``pandas.DataFrame``."""
    try:
        pandas = import_module("pandas")
    except ImportError:
        raise ImportError("to_pandas needs pandas: pip install pandas") from None
    return pandas.DataFrame(list(map(columns.row, findings)), columns=list(columns.NAMES))

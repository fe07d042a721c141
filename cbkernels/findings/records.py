"""Reports as JSON, CSV and data frames: files that are written whole or not at all, and what they are checked for.

``layer_report.py`` and ``history.py`` call this. No pickle: loading executes nothing.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from ..files.whole_files import write_whole
from . import columns

Loaded = TypeVar("Loaded")


def require_kind(content: Any, kind: str, newest: int) -> None:
    """Raise ValueError unless ``content`` is a dict of this kind in a format that this version reads."""
    name = kind.rpartition(".")[2]
    if not isinstance(content, Mapping) or content.get("kind") != kind:
        found = content.get("kind", list(content)[:5]) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"this is {found!r} and not what {name}.to_dict() returned")
    if content.get("format") != newest:
        raise ValueError(f"the {name} has format {content.get('format')!r}; this version reads {newest}")


def write_json(content: Mapping[str, Any], path: str | os.PathLike[str] | None, indent: int | None = 2) -> str:
    """JSON text of ``content``, also written to ``path`` unless that is None."""
    text = json.dumps(content, indent=indent, allow_nan=False) + "\n"
    if path is not None:
        write_whole(path, text.encode())
    return text


def read_json(path: str | os.PathLike[str], make: Callable[[Any], Loaded]) -> Loaded:
    """What ``make`` makes of a JSON file's content; its ValueError, and that of a damaged file, name the file."""
    raw = Path(path).read_bytes()
    try:
        return make(json.loads(raw.decode()))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, not a report
        raise ValueError(f"{os.fspath(path)} cannot be loaded: {error}") from error


def write_csv(findings: Iterable[columns.Finding], path: str | os.PathLike[str] | None) -> str:
    """CSV text with a line a layer, also written to ``path`` unless that is None; None is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns.NAMES, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(columns.row, findings))
    if path is not None:
        write_whole(path, text.getvalue().encode())
    return text.getvalue()


def data_frame(findings: Iterable[columns.Finding]) -> Any:
    """The same lines as a ``pandas.DataFrame``."""
    try:
        pandas = import_module("pandas")
    except ImportError:
        raise ImportError("to_pandas needs pandas: pip install pandas") from None
    return pandas.DataFrame(list(map(columns.row, findings)), columns=list(columns.NAMES))

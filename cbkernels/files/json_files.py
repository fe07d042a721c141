"""JSON as files hold it: one object a file, read with one sentence for what is wrong; no NaN and no infinity.

Whatever JSON the package reads is read here: what is nested too deeply, or no number of this computer, goes no further.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

MOST_LEVELS = 200
"""Objects and lists inside of each other; the state of an optimizer in a checkpoint has about 20."""
_LARGEST = sys.float_info.max


def finite_or_none(value: float | None) -> float | None:
    """The number; None where it is NaN or infinite, which JSON cannot say.

    Example:
        >>> finite_or_none(0.5), finite_or_none(float("nan")), finite_or_none(None)
        (0.5, None, None)
    """
    return None if value is None or not math.isfinite(value) else value


def json_text(content: Mapping[str, Any], indent: int | None = 2) -> str:
    """One object with a newline at the end; NaN and infinities are refused as ValueError."""
    return json.dumps(content, indent=indent, allow_nan=False) + "\n"


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same with a checksum of it as the entry "sha256", which ``require_seal`` compares."""
    return {**content, "sha256": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


def require_seal(content: Mapping[str, Any], what: object) -> None:
    """Refuse a sealed object that has changed as ValueError; one of an older version has no seal and passes."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    if content.get("sha256", sealed(rest)["sha256"]) != sealed(rest)["sha256"]:
        raise ValueError(f"{what} is damaged: its checksum is that of another content")


def json_value(text: bytes | str, what: object, *, finite: bool = True) -> Any:
    """The value that a text holds.

    Args:
        text: UTF-8, if it is bytes.
        what: is quoted as what holds it.
        finite: False lets NaN and infinities pass, which Python writes and JSON does not know.

    Raises:
        ValueError: it is no JSON, nested deeper than ``MOST_LEVELS``, or holds a number that no float can be, or an
            object with a name twice.
    """
    try:
        value = json.loads(text.decode() if isinstance(text, bytes) else text, object_pairs_hook=_object)
        _require_plain(value, finite)
    except (ValueError, RecursionError) as error:
        is_deep = isinstance(error, RecursionError)
        reason = f"nested deeper than {MOST_LEVELS} levels" if is_deep else str(error)[:100]
        raise ValueError(f"{what} is damaged: it holds no JSON ({reason})") from error
    return value


def _object(entries: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python keeps the last of two entries of one name, other programs the first one."""
    content = dict(entries)
    if len(content) < len(entries):
        twice = next(name for name, count in Counter(name for name, _ in entries).items() if count > 1)
        raise ValueError(f"an object has the name {twice!r} twice")
    return content


def _require_plain(value: Any, finite: bool) -> None:
    """Refuse, level by level, what is too deep as RecursionError, and numbers beyond all floats as ValueError."""
    level: list[Any] = [[value]]
    for _ in range(MOST_LEVELS + 1):
        inside = [each for holder in level for each in (holder.values() if isinstance(holder, dict) else holder)]
        for each in inside:
            if isinstance(each, (int, float) if finite else int) and not -_LARGEST <= each <= _LARGEST:
                raise ValueError(f"{str(each)[:40]} is not a finite number")
        level = [each for each in inside if isinstance(each, (dict, list))]
        if not level:
            return
    raise RecursionError


def json_object(text: bytes | str, what: object, *, finite: bool = True) -> dict[str, Any]:
    """The object that a text holds; a ValueError, as of ``json_value``, when it is another value."""
    content = json_value(text, what, finite=finite)
    if not isinstance(content, dict):
        raise ValueError(f"{what} is damaged: it holds a {type(content).__name__}, not a JSON object")
    return content


def read_json_object(path: str | os.PathLike[str], most: int | None = None, *, finite: bool = True) -> dict[str, Any]:
    """The object of a file.

    Args:
        path: the file.
        most: bytes; a larger file is not read.
        finite: as in ``json_value``.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
        ValueError: it is too large, no JSON, or holds another value.
    """
    return json_object(read_bytes(path, most), path, finite=finite)


def read_bytes(path: str | os.PathLike[str], most: int | None = None) -> bytes:
    """The content of a file of at most ``most`` bytes; errors as in ``read_json_object``."""
    with open(path, "rb") as file:
        content = file.read(-1 if most is None else most + 1)
    if most is not None and len(content) > most:
        raise ValueError(f"{path} has more than {most >> 20} MiB; such a file is not read")
    return content

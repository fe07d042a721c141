"""JSON as files hold it: one object a file, read with one sentence for what is wrong; no NaN and no infinity."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any


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


def json_value(text: bytes | str, what: object) -> Any:
    """The value that a text holds.

    Args:
        text: UTF-8, if it is bytes.
        what: is quoted as what holds it.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        return json.loads(text.decode() if isinstance(text, bytes) else text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is damaged: it holds no JSON ({str(error)[:100]})") from error


def json_object(text: bytes | str, what: object) -> dict[str, Any]:
    """The object that a text holds; a ValueError, as of ``json_value``, when it is another value."""
    content = json_value(text, what)
    if not isinstance(content, dict):
        raise ValueError(f"{what} is damaged: it holds a {type(content).__name__}, not a JSON object")
    return content


def read_json_object(path: str | os.PathLike[str], most: int | None = None) -> dict[str, Any]:
    """The object of a file.

    Args:
        path: the file.
        most: bytes; a larger file is not read.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
        ValueError: it is too large, no JSON, or holds another value.
    """
    return json_object(read_bytes(path, most), path)


def read_bytes(path: str | os.PathLike[str], most: int | None = None) -> bytes:
    """The content of a file of at most ``most`` bytes; errors as in ``read_json_object``."""
    with open(path, "rb") as file:
        content = file.read(-1 if most is None else most + 1)
    if most is not None and len(content) > most:
        raise ValueError(f"{path} has more than {most >> 20} MiB; such a file is not read")
    return content

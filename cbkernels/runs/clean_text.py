"""What files hold, as text that can be shown: no control characters, nothing that reorders it, no end of a line."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any


def text(value: object, most: int = 300) -> str:
    """A value of a file as a short line: what is invisible, reorders text or is no character becomes U+FFFD.

    Example:
        >>> text("conv1"), text("a" * 9, most=4), text(None), text([3, 12])
        ('conv1', 'aaa…', '', '[3, 12]')
    """
    if value is None:
        return ""
    if isinstance(value, (dict, list)):
        value = json.dumps(value, ensure_ascii=False, default=str)
    words = " ".join(str(value)[: 4 * most].split())
    clean = "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn") else c for c in words)
    return clean if len(clean) <= most else f"{clean[: most - 1]}…"


def lines_of(content: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    """Names and values of a JSON object, a line each."""
    for key, value in content.items():
        name = f"{'    ' * depth}{text(key, 100)}:"
        if isinstance(value, dict) and value and depth < 3:
            yield name
            yield from lines_of(value, depth + 1)
        else:
            yield f"{name} {text(value if isinstance(value, str) else json.dumps(value, default=str), 400)}"


def object_of(value: object) -> dict[str, Any]:
    """The object itself; an empty one where the file holds something else."""
    return value if isinstance(value, dict) else {}

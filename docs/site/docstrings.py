"""Reads this package's docstrings as Google's: examples as code, one entry for each of ``resume, overwrite:``."""

from __future__ import annotations

import re
from typing import Any

import griffe

RETURNED = re.compile(r"^( *Returns:\n[^\n:]*): ", re.MULTILINE)
"""What is returned up to a colon, which would be read as its type; types stand in signatures here."""
TOGETHER = re.compile(r"^( *)(\w+(?:, \w+)+):( .*(?:\n\1 +\S.*)*)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Changes their text before it is parsed."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Of every module, class, function and attribute."""
        if obj.docstring is not None:
            text = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = TOGETHER.sub(one_each, RETURNED.sub(r"\1 - ", text))


def one_each(entry: re.Match[str]) -> str:
    """The same words for every name."""
    indent, names, words = entry.groups()
    return "\n".join(f"{indent}{name}:{words}" for name in names.split(", "))

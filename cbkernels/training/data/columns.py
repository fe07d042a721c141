"""Which columns of a table are the images and the labels: those that are asked for, else by their names and types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...files.json_files import json_value

IMAGE_NAMES = ("image", "img", "images")
LABEL_NAMES = ("label", "labels", "target", "targets", "class")
_NEVER_LABELS = ("file_name",)
"""The names of files, in the hub's folders of images."""


@dataclass(frozen=True)
class Columns:
    """Names of the columns; None: told by the usual names, then by the types."""

    image: str | None = None
    label: str | None = None

    def require_none(self, origin: object) -> None:
        """Raise ValueError if a name was asked for where there is no table."""
        if asked := self.image or self.label:
            option = "image_column" if self.image else "label_column"
            raise ValueError(f"{option} is {asked!r}, and {origin} is no table with columns; leave the option out")


ANY = Columns()


def chosen_columns(schema: Any, origin: str, asked: Columns = ANY) -> tuple[str, str]:
    """Names of the columns of images and of labels.

    Args:
        schema: ``pyarrow.Schema``.
        origin: for messages.
        asked: the names, where somebody said.

    Raises:
        ValueError: there is none, or it cannot be told which of several is meant.
    """
    return (
        _chosen(schema, origin, "images", asked.image, IMAGE_NAMES, [f.name for f in schema if _is_image(f.type)]),
        _chosen(schema, origin, "labels", asked.label, LABEL_NAMES, [
            f.name for f in schema if _is_label(f.type) and f.name not in _NEVER_LABELS
        ]),
    )  # fmt: skip


def _chosen(schema: Any, origin: str, what: str, asked: str | None, usual: tuple[str, ...], found: list[str]) -> str:
    option = f"{what.removesuffix('s')}_column"
    has = ", ".join(f"{field.name} ({str(field.type).partition('<')[0]})" for field in schema) or "none"
    kinds = "binary, or struct{bytes, path}" if what == "images" else "integers or strings"
    if asked is not None:
        if asked not in found:
            raise ValueError(f"{option} is {asked!r}; {origin} has no such column of {kinds}; its columns are {has}")
        return asked
    called = [field.name for field in schema if field.name in usual]
    candidates = called or found
    if not candidates:
        raise ValueError(f"{origin} has no column of {what} ({kinds}); its columns are {has}")
    if len(candidates) > 1:
        raise ValueError(
            f"{origin} has {len(candidates)} columns that may be the {what}, {', '.join(candidates)}; "
            f"name one of them by {option}"
        )
    if candidates[0] not in found:
        kind = schema.field(candidates[0]).type
        raise ValueError(
            f"the column {candidates[0]} of {origin} holds {kind}, and {what} are {kinds}; "
            f"name another column by {option}, or write it as {kinds}"
        )
    return candidates[0]


def class_names(schema: Any, column: str) -> tuple[str, ...] | None:
    """Names of the classes as Hugging Face's metadata has them."""
    try:
        features = json_value((schema.metadata or {})[b"huggingface"], "metadata")["info"]["features"]
        names = features[column]["names"]
    except (KeyError, ValueError, TypeError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) and names else None


def _is_binary(kind: Any) -> bool:
    from pyarrow import types  # type: ignore[import-untyped]

    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _is_image(kind: Any) -> bool:
    from pyarrow import types

    is_struct = types.is_struct(kind) and any(f.name == "bytes" and _is_binary(f.type) for f in kind)
    return _is_binary(kind) or bool(is_struct)


def _is_label(kind: Any) -> bool:
    from pyarrow import types

    is_text = types.is_string(kind) or types.is_large_string(kind) or types.is_dictionary(kind)
    return bool(types.is_integer(kind) or is_text)

"""Values of JSON files as typed dataclasses: what has another type than its field is left out, and said."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import is_dataclass
from types import NoneType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

Kind = TypeVar("Kind")
_hints = functools.cache(get_type_hints)
_WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false", dict: "object", tuple: "list"}


def typed(kind: type[Kind], content: Mapping[str, Any], damage: list[str], where: str = "") -> Kind:
    """A dataclass of an object's entries; entries that it has no field for are passed over.

    Args:
        kind: every field has a default, which stands for null and for what is not there.
        content: JSON types.
        damage: gets a phrase for every value of a wrong type.
        where: the object's place in its file, for these phrases.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Point:
        ...     x: float | None = None
        ...     names: tuple[str, ...] = ()
        >>> damage = []
        >>> typed(Point, {"x": "many", "names": ["a", 1]}, damage), damage
        (Point(x=None, names=('a',)), ["x is 'many', not a number", 'names[1] is 1, not a text'])
    """
    hints = {name: hint for name, hint in _hints(cast("Any", kind)).items() if content.get(name) is not None}
    found = {name: _value(hint, content[name], damage, f"{where}{name}") for name, hint in hints.items()}
    return kind(**{name: value for name, value in found.items() if value is not None})


def _value(hint: Any, value: Any, damage: list[str], where: str) -> Any:
    """The value as the type hint wants it; None, and a phrase, when it is something else."""
    kind = get_args(hint)[0] if NoneType in get_args(hint) else hint
    plain = get_origin(kind) or kind
    if value is None:
        return None
    if plain is tuple and isinstance(value, list):
        items = [_value(get_args(kind)[0], each, damage, f"{where}[{i}]") for i, each in enumerate(value)]
        return tuple(item for item in items if item is not None)
    if is_dataclass(plain) and isinstance(value, dict):
        return typed(cast("type[Any]", plain), value, damage, f"{where}.")
    if issubclass(plain, Mapping) and isinstance(value, dict):
        of_values = get_args(kind)[1]
        if of_values is Any:
            return value
        items_of = {key: _value(of_values, each, damage, f"{where}.{key}") for key, each in value.items()}
        return {key: item for key, item in items_of.items() if item is not None}
    if plain is float and type(value) in (int, float):
        try:
            return float(value)
        except OverflowError:  # of an integer
            return math.inf if value > 0 else -math.inf
    if type(value) is plain:
        return value
    word = _WORDS.get(plain, "object")
    damage.append(f"{where} is {value!r:.60}, not a{'n' if word[0] == 'o' else ''} {word}")
    return None

"""Values of JSON files as typed dataclasses: what is not of its field's type or range is left out, and said."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from types import NoneType
from typing import Annotated, Any, NamedTuple, TypeVar, cast, get_args, get_origin, get_type_hints


class Range(NamedTuple):
    """Numbers that a field may hold, ends included; stands in its type, as in ``Share``."""

    least: float
    most: float = math.inf


Share = Annotated[float, Range(0, 1)]
DifferenceOfShares = Annotated[float, Range(-1, 1)]
NotNegative = Annotated[float, Range(0)]
Count = Annotated[int, Range(0)]
Kind = TypeVar("Kind")
_hints = functools.cache(functools.partial(get_type_hints, include_extras=True))
_WORDS = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    dict: "object",
    tuple: "list",
    list: "list",
}


def typed(kind: type[Kind], content: Mapping[str, Any], damage: list[str], where: str = "") -> Kind:
    """A dataclass of an object's entries; entries that it has no field for are passed over.

    Args:
        kind: a field's default stands for null and for what is not there; without one null is None.
        content: JSON types.
        damage: gets a phrase for every value of a wrong type, or out of its range.
        where: the object's place in its file, for these phrases.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Point:
        ...     x: Share | None = None
        ...     names: tuple[str, ...] = ()
        >>> damage = []
        >>> typed(Point, {"x": 7.5, "names": ["a", 1]}, damage), damage
        (Point(x=None, names=('a',)), ['x is 7.5, not in 0 to 1', 'names[1] is 1, not a text'])
    """
    hints = {name: hint for name, hint in _hints(cast("Any", kind)).items() if content.get(name) is not None}
    found = {name: _value(hint, content[name], damage, f"{where}{name}") for name, hint in hints.items()}
    none = dict.fromkeys(each.name for each in fields(cast("Any", kind)) if each.name in content and _is_needed(each))
    return kind(**none | {name: value for name, value in found.items() if value is not None})


def _is_needed(each: Field[Any]) -> bool:
    return each.default is MISSING and each.default_factory is MISSING


def required(kind: type[Kind], content: Mapping[str, Any], what: object) -> Kind:
    """As ``typed``, where nothing may be left out.

    Raises:
        ValueError: it names ``what`` and the first value that is not of its type or range.
    """
    damage: list[str] = []
    value = typed(kind, content, damage)
    if damage:
        raise ValueError(f"{what} is damaged: {damage[0]}")
    return value


def _value(hint: Any, value: Any, damage: list[str], where: str) -> Any:
    """The value as the type hint wants it; None, and a phrase, when it is something else."""
    kind = get_args(hint)[0] if NoneType in get_args(hint) else hint
    if get_origin(kind) is Annotated:
        return _in_range(get_args(kind)[1], _value(get_args(kind)[0], value, damage, where), damage, where)
    plain = get_origin(kind) or kind
    if value is None:
        return None
    if plain in (tuple, list) and isinstance(value, list):
        items = [_value(get_args(kind)[0], each, damage, f"{where}[{i}]") for i, each in enumerate(value)]
        return plain(item for item in items if item is not None)
    if is_dataclass(plain) and isinstance(value, dict):
        return typed(cast("type[Any]", plain), value, damage, f"{where}.")
    if issubclass(plain, Mapping) and isinstance(value, dict):
        of_values = get_args(kind)[1]
        if of_values is Any:
            return value
        items_of = {key: _value(of_values, each, damage, f"{where}.{key}") for key, each in value.items()}
        return {key: item for key, item in items_of.items() if item is not None}
    if plain is float and type(value) in (int, float):
        return float(value)
    if type(value) is plain:
        return value
    word = _WORDS.get(plain, "object")
    damage.append(f"{where} is {value!r:.60}, not a{'n' if word[0] == 'o' else ''} {word}")
    return None


def _in_range(limits: Range, value: Any, damage: list[str], where: str) -> Any:
    if value is None or limits.least <= value <= limits.most:
        return value
    said = f"in {limits.least} to {limits.most}" if math.isfinite(limits.most) else f"{limits.least} or more"
    damage.append(f"{where} is {value!r:.60}, not {said}")
    return None

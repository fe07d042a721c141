"""A choice is a value: one table of named values each, from which options, refusals, documents and pages are made.

Nothing else compares such a name. What a value does beside its name is in its fields.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

MOST_THREADS = 1024
"""Of a kernel and of a run: more than any processor has cores, and few enough to be started."""


@dataclass(frozen=True)
class Choice:
    """What every value of a table has; the class of a table's values adds what else they are.

    Args:
        name: what a user types, and what files hold.
        does: what it does, for ``--help`` and the documents: a few words, no full stop.
    """

    name: str
    does: str


Value = TypeVar("Value", bound=Choice)


class Choices(dict[str, Value]):
    """Name -> value, in the order in which they are offered.

    Args:
        what: the option or argument that takes such a name, as in "optimizer is 'adam'; choose ...".
        values: the first ones; ``add`` takes more, at any time.

    Example:
        >>> colours = Choices("colour", [Choice("red", "warns"), Choice("green", "calms")])
        >>> colours.chosen("green").does, colours.told()
        ('calms', 'red: warns; green: calms')
        >>> colours.chosen("blue")
        Traceback (most recent call last):
        ValueError: colour is 'blue'; choose one of red, green
    """

    def __init__(self, what: str, values: Iterable[Value] = ()) -> None:
        super().__init__()
        self.what = what
        for value in values:
            self.add(value)

    def add(self, value: Value) -> Value:
        """Offer a value under its name; returns it.

        Raises:
            TypeError: its name is no string.
            ValueError: the name is empty or taken by another value.
        """
        if not isinstance(value.name, str):
            raise TypeError(f"the name of a {self.what} is {value.name!r}; pass a string")
        if not value.name or self.get(value.name, value) != value:
            reason = "is taken" if value.name else "is empty"
            raise ValueError(f"the name {value.name!r} of a {self.what} {reason}; choose another one")
        self[value.name] = value
        return value

    def chosen(self, name: object) -> Value:
        """The value of a name.

        Raises:
            ValueError: there is none.
        """
        if not isinstance(name, str) or name not in self:
            raise ValueError(f"{self.what} is {name!r}; choose one of {', '.join(self)}")
        return self[name]

    def told(self) -> str:
        """All names with what they do (what they tell, where they tell more), for a line of ``--help``."""
        return "; ".join(f"{name}: {getattr(value, 'told', value.does)}" for name, value in self.items())

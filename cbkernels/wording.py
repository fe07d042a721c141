"""How values are written in sentences and tables, one function a kind: the same on pages, in terminals and in logs.

Needs no other package. None, which stands for what is not known, becomes a dash.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

NOTHING = "\u2013"
"""Stands for what is not known."""
Words = Callable[[float | None], str]


def _of_any(words: Callable[[float], str]) -> Words:
    """The same for None, NaN and infinities too."""

    @functools.wraps(words)
    def of_any(value: float | None) -> str:
        if value is None:
            return NOTHING
        return words(value) if math.isfinite(value) else "NaN" if math.isnan(value) else f"{value:g}"

    return of_any


@_of_any
def percent(share: float) -> str:
    """A share in percent.

    Example:
        >>> percent(0.9317), percent(None), percent(float("nan"))
        ('93.2 %', '–', 'NaN')
    """
    return f"{100 * share:.1f} %"


@_of_any
def points(share: float) -> str:
    """A distance of two shares in percentage points.

    Example:
        >>> points(0.025), points(0.01)
        ('2.5 points', '1.0 points')
    """
    return f"{100 * share:.1f} points"


def gained(before: float | None, after: float | None) -> str:
    """From one share to another: points with a sign.

    Example:
        >>> gained(0.5, 0.475), gained(0.5, 0.5), gained(None, 0.5)
        ('-2.5 points', '0.0 points', '–')
    """
    if before is None or after is None or not math.isfinite(after - before):
        return NOTHING
    return f"{'+' if after > before else ''}{points(after - before)}"


def change(before: float | None, after: float | None) -> str:
    """How much larger or smaller, in percent of the value before.

    Example:
        >>> change(200, 150), change(0, 3), change(3, 3)
        ('-25.0 %', '–', '0.0 %')
    """
    if before is None or after is None or before <= 0 or not math.isfinite(before) or not math.isfinite(after):
        return NOTHING
    return f"{'+' if after > before else ''}{percent((after - before) / before)}"


@_of_any
def count(number: float) -> str:
    """A whole number with separators, a large one in thousands, millions or billions (k, M, G).

    Example:
        >>> count(1234), count(28_801_234), count(5e12)
        ('1,234', '28.80 M', '5,000 G')
    """
    for least, unit in ((1e9, "G"), (1e6, "M"), (1e5, "k")):
        if abs(number) >= least:
            size = number / (1e3 if unit == "k" else least)
            return f"{size:,.0f} {unit}" if abs(size) >= 1000 else f"{size:.2f} {unit}"
    return f"{number:,.0f}" if number == int(number) else f"{number:,.2f}"


def counted(number: float, thing: str) -> str:
    """So many of a thing.

    Example:
        >>> counted(1, "epoch"), counted(30, "epoch"), counted(0, "residual block")
        ('1 epoch', '30 epochs', '0 residual blocks')
    """
    return f"{count(number)} {thing}{'' if number == 1 else 's'}"


nats = _of_any(lambda number: f"{number:.4g}")
"""A bundle entropy, and any other number without a unit: four significant digits."""
bits = _of_any(lambda number: f"{number:.3g}")
"""A conflict margin in bits: three significant digits."""
learning_rate = _of_any(lambda number: f"{number:.3g}")
"""Three significant digits."""


def milliseconds(value: float | None) -> str:
    """A latency: three significant digits."""
    return NOTHING if value is None else f"{bits(value)} ms"


@_of_any
def size(num_bytes: float) -> str:
    """Bytes in KiB, MiB or GiB."""
    unit, least = next(((u, b) for u, b in (("GiB", 2**30), ("MiB", 2**20)) if abs(num_bytes) >= b), ("KiB", 2**10))
    return f"{num_bytes / least:.1f} {unit}"


@_of_any
def seconds(time: float) -> str:
    """A time: seconds, minutes or hours.

    Example:
        >>> seconds(0.234), seconds(71), seconds(7300)
        ('0.23 s', '1 min 11 s', '2 h 1 min')
    """
    if time < 59.5:
        return f"{time:.2g} s" if time < 9.95 else f"{time:.0f} s"
    n = round(time)
    return f"{n // 60} min {n % 60} s" if n < 3600 else f"{n // 3600} h {n % 3600 // 60} min"


def interval(low: float | None, high: float | None, words: Words) -> str:
    """From where to where; one number where both ends read the same.

    Example:
        >>> interval(0.5, 1.25, milliseconds), interval(0.5, 0.5001, milliseconds), interval(None, 2, count)
        ('0.5 to 1.25 ms', '0.5 ms', '–')
    """
    if low is None or high is None:
        return NOTHING
    first, last = words(low), words(high)
    unit = last.rpartition(" ")[2]
    return last if first == last else f"{first.removesuffix(f' {unit}')} to {last}"

"""Lines of CSV files, in which no text is a formula to a spreadsheet."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


def csv_line(cells: Iterable[object]) -> str:
    r"""One line with its newline; None is an empty cell.

    Text that begins like a formula, and is no number, gets an apostrophe in front; ``csv_cell`` takes it away.

    Example:
        >>> csv_line(["a,b", 0.5, None, "=1+1", "-1.5"])
        '"a,b",0.5,,\'=1+1,-1.5\n'
    """
    text = io.StringIO()
    # cells with either end of a line are quoted only if it is in the writer's
    csv.writer(text, lineterminator="\r\n").writerow(map(_harmless, cells))
    return text.getvalue().removesuffix("\r\n") + "\n"


def _harmless(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) and not _is_number(cell) else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def csv_cell(text: str) -> str:
    """The text of which ``csv_line`` wrote this."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text

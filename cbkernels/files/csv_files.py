"""Lines of CSV files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable


def csv_line(cells: Iterable[object]) -> str:
    r"""One line with its newline; None is an empty cell.

    Example:
        >>> csv_line(["a,b", 0.5, None])
        '"a,b",0.5,\n'
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()

"""Tables as plain text, for the terminal and for logs, and as HTML, for notebooks; the notes below tables."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Sequence

_STYLE = """
.cbkernels-report{font-size:90%;line-height:1.35}
.cbkernels-report div{max-height:32em;overflow:auto;margin:.3em 0}
.cbkernels-report table{border-collapse:collapse;color:inherit;background:none}
.cbkernels-report th,.cbkernels-report td{padding:.1em .8em;text-align:right;white-space:nowrap;background:none}
.cbkernels-report th{border-bottom:1px solid rgba(128,128,128,.6)}
.cbkernels-report th:first-child,.cbkernels-report td:first-child{text-align:left;font-family:monospace}
.cbkernels-report p{margin:.2em 0;opacity:.75}
""".strip()


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Align columns: the first to the left, the others to the right.

    Args:
        header: one title a column.
        rows: cells; floats are shown with six significant digits, texts as in ``shown``.

    Returns:
        Lines without a newline at the end.

    Example:
        >>> print(format_table(["layer", "bundles"], [["fc1", 512], ["fc2", 7]]))
        layer  bundles
        fc1        512
        fc2          7
    """
    cells = [[cell(title) for title in header]] + [[cell(value) for value in row] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    lines = []
    for line in cells:
        first = line[0].ljust(widths[0])
        rest = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        lines.append("  ".join([first, *rest]).rstrip())
    return "\n".join(lines)


def html_table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[object]], below: Sequence[str] = (),
    backgrounds: Sequence[str] = (),
) -> str:  # fmt: skip
    """The same for a notebook: one self-contained ``div`` with every text escaped.

    Args:
        title: one line above.
        header: one title a column.
        rows: cells, shown as in ``format_table``.
        below: lines of text.
        backgrounds: a CSS colour for every row, or "".
    """
    colours = [*backgrounds] or [""] * len(rows)
    head = "".join(f"<th>{html.escape(each)}</th>" for each in header)
    body = []
    for cells, colour in zip(rows, colours, strict=True):
        style = f' style="background:{colour}"' if colour else ""
        body.append(f"<tr{style}>" + "".join(f"<td>{html.escape(cell(each))}</td>" for each in cells) + "</tr>")
    return (
        f'<div class="cbkernels-report"><style>{_STYLE}</style><b>{html.escape(title)}</b>'
        f"<div><table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        + "".join(f"<p>{html.escape(line)}</p>" for line in below)
        + "</div>"
    )


def cell(value: object) -> str:
    """A value as tables show it."""
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else f"{value:.6g}"
    return shown(str(value))


def shown(text: str) -> str:
    r"""One line of text as a terminal may get it: what is not printed, such as an escape or a newline, is spelt out.

    Example:
        >>> print(shown("conv\x1b[2J\n1"))
        conv\x1b[2J\n1
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def wrapped(text: str, indent: str = "") -> str:
    """Lines of at most 110 columns, all but the first behind ``indent``."""
    return textwrap.fill(shown(text), 110, subsequent_indent=indent)


def definition_note(equality: str) -> str:
    """The definition of equal as a sentence."""
    return f"Rows are one bundle when they are {equality}."


def margin_note(is_bound: bool) -> str:
    """What the bits of a margin mean, as a sentence; a proof needs the amplitude of every layer."""
    bound = "more than 0 prove that no bundle conflicts" if is_bound else "0 is one step at the paper's resolution"
    bound += "; 0 or less proves nothing"
    return f"Margin: bits of precision left before the layer conflicts; {bound}."

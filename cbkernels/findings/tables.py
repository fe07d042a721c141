"""A report as a table: plain text for the terminal and logs, HTML for notebooks."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from ..tables import format_table, shown
from .columns import Finding, table

_STYLE = """
.cbkernels-report{font-size:90%;line-height:1.35}
.cbkernels-report div{max-height:32em;overflow:auto;margin:.3em 0}
.cbkernels-report table{border-collapse:collapse;color:inherit;background:none}
.cbkernels-report th,.cbkernels-report td{padding:.1em .8em;text-align:right;white-space:nowrap;background:none}
.cbkernels-report th{border-bottom:1px solid rgba(128,128,128,.6)}
.cbkernels-report th:first-child,.cbkernels-report td:first-child{text-align:left;font-family:monospace}
.cbkernels-report p{margin:.2em 0;opacity:.75}
""".strip()
_CONFLICT = "rgba(244,119,63,{:.2f})"
"""Translucent, so that it is read on white and on black."""


def as_text(title: str, findings: Sequence[Finding], below: Sequence[str]) -> str:
    """Title, table and the lines below; no newline at the end."""
    return "\n".join([shown(title), *([format_table(*table(findings))] if findings else []), *map(shown, below)])


def as_html(title: str, findings: Sequence[Finding], below: Sequence[str]) -> str:
    """The same as one self-contained ``div``, every text escaped, the entropy behind the layers that conflict."""
    titles, rows = table(findings)
    top = max((f.result.entropy for f in findings if f.result.entropy > 0), default=1.0)
    head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    body = []
    for (_, result, *_), cells in zip(findings, rows, strict=True):
        share = 1.0 if math.isnan(result.entropy) else result.entropy / top
        colour = _CONFLICT.format(0.15 + 0.45 * share)
        style = f' style="background:{colour}"' if result.num_conflicting or result.num_nan_rows else ""
        body.append(f"<tr{style}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    return (
        f'<div class="cbkernels-report"><style>{_STYLE}</style><b>{html.escape(title)}</b>'
        f"<div><table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        + "".join(f"<p>{html.escape(line)}</p>" for line in below)
        + "</div>"
    )

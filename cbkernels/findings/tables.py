"""A report as a table: plain text for the terminal and logs, HTML for notebooks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..tables import format_table, html_table, shown
from .columns import Finding, table

_CONFLICT = "rgba(244,119,63,{:.2f})"
"""Translucent, so that it is read on white and on black."""


def as_text(title: str, findings: Sequence[Finding], below: Sequence[str]) -> str:
    """Title, table and the lines below; no newline at the end."""
    return "\n".join([shown(title), *([format_table(*table(findings))] if findings else []), *map(shown, below)])


def as_html(title: str, findings: Sequence[Finding], below: Sequence[str]) -> str:
    """The same as one self-contained ``div``, every text escaped, the entropy behind the layers that conflict."""
    titles, rows = table(findings)
    top = max((f.result.entropy for f in findings if f.result.entropy > 0), default=1.0)
    backgrounds = []
    for _, result, *_ in findings:
        share = 1.0 if math.isnan(result.entropy) else result.entropy / top
        is_marked = result.num_conflicting or result.num_nan_rows
        backgrounds.append(_CONFLICT.format(0.15 + 0.45 * share) if is_marked else "")
    return html_table(title, titles, rows, below, backgrounds)

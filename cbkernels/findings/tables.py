"""A report as a table: plain text for the terminal and logs, HTML for notebooks."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..tables import format_table

if TYPE_CHECKING:
    from .layer_report import LayerReport

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


def as_text(report: LayerReport) -> str:
    """Title, table, what was not measured, the definition of equal, the cost; no newline at the end."""
    header, rows = _table(report)
    lines = [_title(report)]
    if rows:
        lines.append(format_table(header, rows))
    lines += [f"not measured: {layer} ({why})" for layer, why in report.skipped.items()]
    return "\n".join([*lines, *_closing(report)])


def as_html(report: LayerReport) -> str:
    """The same as one self-contained ``div``, every text escaped, the entropy behind the layers that conflict."""
    header, rows = _table(report)
    top = max((r.entropy for r in report.values() if r.entropy > 0), default=1.0)
    head = "".join(f"<th>{html.escape(title)}</th>" for title in header)
    body = []
    for (_, result), cells in zip(report.items(), rows, strict=True):
        share = 1.0 if math.isnan(result.entropy) else result.entropy / top
        colour = _CONFLICT.format(0.15 + 0.45 * share)
        style = f' style="background:{colour}"' if result.num_conflicting or result.num_nan_rows else ""
        body.append(f"<tr{style}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    below = [f"not measured: {layer} ({why})" for layer, why in report.skipped.items()] + _closing(report)
    return (
        f'<div class="cbkernels-report"><style>{_STYLE}</style><b>{html.escape(_title(report))}</b>'
        f"<div><table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        + "".join(f"<p>{html.escape(line)}</p>" for line in below)
        + "</div>"
    )


def _table(report: LayerReport) -> tuple[list[str], list[list[str]]]:
    """Header and cells; columns that would be empty are left out."""
    bits, has_nan = report.margin_bits, report.first_nan is not None
    has_bits, has_margin = any(b is not None for b in bits.values()), bool(report.margins)
    header = ["layer", "columns", "bundles", "conflicting", "rows in conflict"]
    header += ["NaN rows"] if has_nan else []
    header += ["entropy (nats)"]
    header += ["margin (bits)"] if has_bits else ["margin"] if has_margin else []
    rows = []
    for layer, r in report.items():
        row = [layer, str(r.num_columns), str(r.num_bundles), str(r.num_conflicting), str(r.num_conflicting_rows)]
        row += [str(r.num_nan_rows)] if has_nan else []
        row += ["NaN" if math.isnan(r.entropy) else f"{r.entropy:.4g}"]
        if has_bits:
            row.append(_cell(bits[layer], ".1f"))
        elif has_margin:
            row.append(_cell(report.margins.get(layer), ".4g"))
        rows.append(row)
    return header, rows


def _cell(number: float | None, form: str) -> str:
    return "-" if number is None else f"{number:{form}}"


def _title(report: LayerReport) -> str:
    counts = list(dict.fromkeys(r.num_rows for r in report.values()))
    words = [report.model] if report.model else []
    words += [f"step {report.step}"] if report.step is not None else []
    words += [f"{' or '.join(map(str, counts))} rows"] if counts else []
    conflicting = len(report.conflicting())
    words.append(f"{conflicting} of {len(report)} layers conflict" if len(report) else "no layer was measured")
    return ", ".join(words)


def definition_note(equality: str) -> str:
    """The definition of equal as a sentence, for below tables and pictures."""
    return f"Rows are one bundle when they are {equality}."


def margin_note(reports: Iterable[LayerReport]) -> str:
    """What the bits of a margin mean, as a sentence; a proof needs the amplitude of every layer."""
    is_bound = all(layer in report.amplitudes for report in reports for layer in report.margins)
    bound = "more than 0 prove that no bundle conflicts" if is_bound else "0 is one step at the paper's resolution"
    return f"Margin: bits of precision left before the layer conflicts; {bound}."


def _closing(report: LayerReport) -> list[str]:
    lines = [definition_note(report.equality)] if len(report) else []
    if any(b is not None for b in report.margin_bits.values()):
        lines.append(margin_note([report]))
    if report.seconds > 0:
        share = "" if report.share is None else f", {_rounded(report.share)} % of the time since the last measurement"
        lines.append(f"Measured in {_rounded(report.seconds)} s{share}.")
    return lines


def _rounded(number: float) -> str:
    return f"{number:.2g}" if number < 10 else f"{number:.0f}"

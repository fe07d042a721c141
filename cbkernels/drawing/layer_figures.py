"""One report as a bar chart: every layer's entropy and bundles, or its margin. Many steps: ``history_figures.py``."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..result import BundleResult
from . import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CONFLICT = figures.ENTROPY_COLOURS[2]
_PROVEN, _UNPROVEN = figures.PROVEN_COLOURS[2], figures.UNPROVEN_COLOURS[2]
_MOST_ROWS = 130
"""Layers whose names can be read in one picture; of more only every k-th is named."""


def plot_layers(
    results: Mapping[str, BundleResult], bits: Sequence[float | None], path: str | os.PathLike[str] | None = None,
    *, show: str, title: str, caption: str,
) -> Figure:  # fmt: skip
    """What ``LayerReport.plot`` returns, writes and refuses; ``bits``: the margin of every layer, None without one."""
    has_grid = any(r.grid is not None for r in results.values())
    figures.check_shown(show, "the report", bool(results), has_grid, any(b is not None for b in bits))
    row = min(0.3, max(0.1, 10.0 / max(1, len(results))))
    figure = figures.new_figure(8.0 + 0.06 * max(0, max(map(len, results), default=0) - 20),
                        2.2 + row * min(_MOST_ROWS, max(2, len(results))))  # fmt: skip
    ax = figure.subplots()
    _label_layers(ax, results, row)
    measured = list(results.values())
    if show == "entropy":
        marks = _draw_entropy(ax, measured)
        x_label = "bundle entropy (nats)"
    else:
        marks = _draw_margin(ax, measured, bits, min(7.0, 58 * row))
        x_label = "conflict margin (bits above the grid's step)"
    figures.style_axes(ax, title, x_label)
    ax.tick_params(axis="y", labelsize=min(10.0, 58 * row))
    figures.legend_below(ax, marks)
    figures.add_caption(figure, caption)
    if path is not None:
        figures.save(figure, path)
    return figure


def _label_layers(ax: Axes, results: Mapping[str, BundleResult], row: float) -> None:
    """Names on the left, numbers of bundles on the right, the first layer on top."""
    layers = list(results)
    ax.set_ylim(max(1, len(layers)) - 0.5, -0.5)
    labelled = figures.shown(len(layers), most=_MOST_ROWS)
    ax.set_yticks(labelled, [layers[i] for i in labelled])
    right = ax.twinx()
    right.set_ylim(ax.get_ylim())
    right.set_yticks(labelled, [str(results[layers[i]].num_bundles) for i in labelled])
    right.tick_params(labelsize=min(10.0, 58 * row), colors=figures.INK, length=3)
    rows = " or ".join(str(n) for n in dict.fromkeys(r.num_rows for r in results.values()))
    right.set_title(f"bundles of {rows} rows" if rows else "", fontsize=10, color=figures.INK, loc="right", pad=8)
    for spine in right.spines.values():
        spine.set_visible(False)
    for below in range(len(layers) - 1):
        ax.axhline(below + 0.5, color=figures.LINE, linewidth=0.4, zorder=0)


def _draw_entropy(ax: Axes, results: Sequence[BundleResult]) -> list[Any]:
    top = max((r.entropy for r in results if not math.isnan(r.entropy)), default=0.0) or 1.0
    ax.set_xlim(0, 1.04 * top)
    for i, r in enumerate(results):
        if math.isnan(r.entropy):
            ax.barh(i, 1.04 * top, color=figures.NAN, height=0.8)
        elif r.entropy > 0:
            ax.barh(i, r.entropy, color=_CONFLICT, edgecolor=_CONFLICT, linewidth=0.8, height=0.8)  # seen if tiny
    marks = _marks(ax, results)
    if not marks:
        ax.text(0.5, 0.5, "no layer conflicts", transform=ax.transAxes, ha="center", va="center",
                fontsize=12, color=figures.SOFT)  # fmt: skip
    return marks


def _draw_margin(
    ax: Axes, results: Sequence[BundleResult], bits: Sequence[float | None], font_size: float
) -> list[Any]:
    """Bars from 0 bits; an infinite one reaches the edge and says so."""
    finite = [b for b in bits if b is not None and math.isfinite(b)]
    low, high = min([*finite, -1.0]), max([*finite, 1.0])
    left, right = low - 0.08 * (high - low), high + 0.08 * (high - low)
    ax.set_xlim(left, right)
    ax.axvline(0.0, color=figures.FAINT, linewidth=1.0)
    for i, (r, b) in enumerate(zip(results, bits, strict=True)):
        if r.num_nan_rows:
            ax.barh(i, right - left, left=left, color=figures.NAN, height=0.8)
        elif b is None:
            ax.text(0.0, i, " not measured", va="center", fontsize=font_size, color=figures.SOFT, clip_on=True)
        else:
            ax.barh(i, min(max(b, left), right), color=_PROVEN if b > 0 else _UNPROVEN, height=0.8)
            if math.isinf(b):
                x, side, word = (left, "left", " -inf") if b < 0 else (right, "right", "inf ")
                ax.text(x, i, word, va="center", ha=side, fontsize=font_size, color=figures.INK, clip_on=True)
    from matplotlib.patches import Patch

    bars = (Patch(color=_PROVEN, label="more than 0 bits"), Patch(color=_UNPROVEN, label="0 bits or less"))
    return [*bars, *_marks(ax, results)]


def _marks(ax: Axes, results: Sequence[BundleResult]) -> list[Any]:
    """The first conflict, and what grey stands for, where there are any."""
    from matplotlib.patches import Patch

    marks: list[Any] = []
    first = next((place for place, r in enumerate(results) if r.num_conflicting), None)
    if first is not None:
        marks += ax.plot(0.0, first, "o", markersize=4.5, markerfacecolor="white", markeredgecolor=figures.INK,
                         clip_on=False, zorder=5, label="first conflicting layer")  # fmt: skip
    if any(r.num_nan_rows for r in results):
        marks.append(Patch(facecolor=figures.NAN, label="a row holds NaN"))
    return marks

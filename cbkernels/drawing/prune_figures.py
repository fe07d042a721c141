"""Accuracy against the share of blocks removed, of one pruning or several.

Needs matplotlib; draws without a display and without touching pyplot's state.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Point = tuple[float, float, float]
"""Share of the blocks removed, accuracy before healing and after it."""
_COLOURS = ("#1f5fa8", "#c8501e", "#2b8a5b", "#7a4fa3", "#8a6d1d", "#3d8f9e", "#b03a6a")


@dataclass(frozen=True)
class Curve:
    """One pruning."""

    label: str
    kept: Sequence[Point]
    undone: Sequence[Point]


def plot_curves(curves: Sequence[Curve], path: str | os.PathLike[str] | None, *, limit: float, heals: bool) -> Figure:
    """Lines through what was kept; hollow marks before healing, crosses for what was undone, a dashed limit.

    Args:
        curves: one at least.
        path: file to write, in the format of its suffix.
        limit: accuracy below which a removal is undone.
        heals: whether accuracies before and after healing differ.
    """
    figure = figures.new_figure(figures.PAGE_WIDTH, 4.2)
    ax = figure.subplots()
    for i, curve in enumerate(curves):
        line: Any = {"color": _COLOURS[i % len(_COLOURS)], "markersize": 5}
        ax.plot([100 * x for x, _, _ in curve.kept], [y for _, _, y in curve.kept], "o-", label=curve.label, **line)
        if heals:
            ax.plot([100 * x for x, _, _ in curve.kept[1:]], [y for _, y, _ in curve.kept[1:]], "o", mfc="none", **line)
        ax.plot([100 * x for x, _, _ in curve.undone], [y for _, _, y in curve.undone], "x", alpha=0.6, **line)
    of_all: Any = {"color": figures.INK, "linestyle": "none", "markersize": 5}
    ax.plot([], [], "o", mfc="none", label="before healing" if heals else None, **of_all)
    ax.plot([], [], "x", label="undone" if any(curve.undone for curve in curves) else None, **of_all)
    ax.axhline(limit, color=figures.FAINT, linestyle="--", linewidth=1.2, label="lowest accuracy allowed")
    ax.set_xlim(-2, max(102.0 * max(x for curve in curves for x, _, _ in (*curve.kept, *curve.undone)), 10.0))
    ax.grid(color=figures.LINE, linewidth=0.6)
    ax.set_axisbelow(True)
    figures.style_axes(ax, "Accuracy against the share of blocks removed", "blocks removed (%)", "accuracy")
    figures.legend_below(ax, ax.get_legend_handles_labels()[0])
    if path is not None:
        figures.save(figure, path)
    return figure

"""The blocks of a network as boxes, stage by stage: those that were removed are hollow. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from . import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = (figures.PROVEN_COLOURS[3], figures.UNPROVEN_COLOURS[1], figures.PROVEN_COLOURS[2], "#7a4fa3")
_IN_A_LINE = 20
_PITCH, _LINE, _STAGE = 0.2, 0.3, 0.14
"""Inches from box to box, from line to line, and more between two stages."""


@dataclass(frozen=True)
class Stage:
    """A group of blocks."""

    name: str
    stays: Sequence[bool]
    """For every block in the order of execution."""


def plot_blocks(stages: Sequence[Stage]) -> Figure:
    """Boxes from left to right, the first stage on top, with the number of blocks that stay.

    Args:
        stages: one at least.

    Returns:
        A matplotlib Figure, which grows by a line with every 20 blocks of a stage.

    Raises:
        ImportError: matplotlib is missing.
    """
    lines = [max(1, -(-len(stage.stays) // _IN_A_LINE)) for stage in stages]
    *tops, bottom = accumulate((_LINE * count + _STAGE for count in lines), initial=0.0)
    figure = figures.new_figure(figures.PAGE_WIDTH, bottom + 0.55)
    from matplotlib.patches import Patch

    ax = figure.subplots()
    ax.set_axis_off()
    ax.set_xlim(-0.8, figures.PAGE_WIDTH - 0.9)
    ax.set_ylim(bottom, 0.0)
    for i, (stage, top) in enumerate(zip(stages, tops, strict=True)):
        colour = _COLOURS[i % len(_COLOURS)]
        _draw_stage(figure, stage, top, colour)
    names = (("stays", True), ("removed", False))
    marks = [Patch(facecolor=_COLOURS[0] if is_filled else "white", edgecolor=_COLOURS[0], label=word)
             for word, is_filled in names]  # fmt: skip
    ax.legend(handles=marks, loc="upper left", bbox_to_anchor=(0.0, 0.0), ncols=2, fontsize=10, frameon=False,
              labelcolor=figures.INK)  # fmt: skip
    return figure


def _draw_stage(figure: Figure, stage: Stage, top: float, colour: str) -> None:
    from matplotlib.patches import PathPatch, Rectangle
    from matplotlib.path import Path

    (ax,) = figure.axes
    kept, count = sum(stage.stays), len(stage.stays)
    middle = top + _LINE / 2
    ax.text(-0.8, middle, stage.name, fontsize=10, color=figures.INK, va="center")
    ax.text(_PITCH * min(count, _IN_A_LINE) + 0.06, middle, f"{kept} of {count}", fontsize=9, color=figures.SOFT,
            va="center")  # fmt: skip
    boxes: dict[bool, list[Path]] = {True: [], False: []}
    for place, stays in enumerate(stage.stays):
        line, column = divmod(place, _IN_A_LINE)
        if line and not column:
            ax.text(-0.08, middle + _LINE * line, f"{place}", fontsize=8, color=figures.SOFT, va="center", ha="right")
        corner = (_PITCH * column, middle + _LINE * line - 0.1)
        box = Rectangle(corner, 0.75 * _PITCH, 0.2)
        boxes[bool(stays)].append(box.get_transform().transform_path(box.get_path()))
    for stays, drawn in ((stays, drawn) for stays, drawn in boxes.items() if drawn):
        ax.add_patch(PathPatch(Path.make_compound_path(*drawn), facecolor=colour if stays else "white",
                               edgecolor=colour, linewidth=1.0))  # fmt: skip

"""What all pictures share: matplotlib imported late, colours, ticks, the caption, and files by suffix.

Draws without a display and without touching pyplot's state. Read next: ``history_figures.py``, ``layer_figures.py``.
"""

from __future__ import annotations

import io
import math
import os
import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.whole_files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from matplotlib.transforms import Bbox

INK = "#22262b"
SOFT = "#59616a"
"""Of words that stand back; ``FAINT`` is too pale for words."""
FAINT = "#8a9099"
LINE = "#d5d9de"
NAN = (0.60, 0.63, 0.65, 1.0)
ENTROPY_COLOURS = ("#fff1c9", "#fdc97a", "#f4773f", "#cb2a1f", "#6d0013")
"""Of positive entropies: even the smallest is told from white."""
UNPROVEN_COLOURS = ("#7f2704", "#d94801", "#fd8d3c", "#fdd0a2")
"""Of 0 bits and less, the least first."""
PROVEN_COLOURS = ("#d3e7f5", "#9ecae1", "#4292c6", "#08306b")
"""Of more than 0 bits."""
MOST_LABELS = 13
PAGE_WIDTH = 5.6
"""Of a figure on a page, in inches: a telephone shows it at about two thirds, where 10 points are still read."""


def require_matplotlib() -> None:
    """Raise ImportError, with what to install, when matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ImportError("pictures need matplotlib: pip install matplotlib") from None


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that notebooks show also where pyplot was never imported."""
    require_matplotlib()
    from matplotlib.figure import Figure

    if "wandb" in sys.modules:  # its Image asks for matplotlib.pyplot without importing it
        import matplotlib.pyplot  # noqa: F401
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    vars(figure)["_repr_png_"] = partial(content_of, figure)  # without pyplot IPython knows no way to show it
    return figure


def content_of(figure: Figure, kind: str = "png") -> bytes:
    """The bytes of a file of that kind."""
    content = io.BytesIO()
    metadata = {"Software": "cbkernels"} if kind == "png" else None
    figure.savefig(content, format=kind, facecolor="white", metadata=metadata)
    return content.getvalue()


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write the figure in the format of the path's suffix, whole or not at all.

    Raises:
        ValueError: matplotlib does not know the suffix.
        OSError: the file cannot be written.
    """
    kind = Path(path).suffix.removeprefix(".").lower()
    known = figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise ValueError(f"path is {os.fspath(path)!r}; its suffix must be one of .{', .'.join(sorted(known))}")
    write_whole(path, content_of(figure, kind))


def check_shown(show: object, what: str, has_layers: bool, has_grid: bool, has_bits: bool) -> None:
    """Raise ValueError unless ``show`` is "entropy", or "margin" where there are bits, and a layer was measured."""
    if show not in ("entropy", "margin"):
        raise ValueError(f"show is {show!r}; choose entropy or margin")
    if not has_layers:
        raise ValueError(f"{what} holds no measured layer; measure before you plot")
    if show == "margin" and not has_bits:
        lack = "conflict margins" if has_grid else "update grid, in whose steps bits are counted"
        raise ValueError(f"show is 'margin', but {what} has no {lack}; measure with margin=True and a grid")


def legend_below(ax: Axes, marks: list[Any]) -> None:
    """A legend under the axes' label, where it hides no data."""
    if marks:
        from matplotlib.transforms import ScaledTranslation

        inches = ax.figure.dpi_scale_trans
        legend = ax.legend(
            handles=marks, loc="upper left", bbox_to_anchor=(0.0, 0.0), ncols=2, fontsize=10, frameon=False,
            bbox_transform=ax.transAxes + ScaledTranslation(0.0, -0.52, inches),
            borderpad=0, handletextpad=0.6, labelcolor=INK,
        )  # fmt: skip
        vars(legend)["get_tightbbox"] = partial(_room_below, legend)


def _room_below(legend: Legend, renderer: Any = None) -> Bbox:
    """What the layout keeps for a legend: its height; by its width it would push a colour bar away from narrow axes."""
    from matplotlib.transforms import Bbox

    box, left = legend.get_window_extent(renderer), legend.axes.bbox.x0
    return Bbox.from_extents(left, box.y0, left + 1.0, box.y1)


def add_caption(figure: Figure, caption: str) -> None:
    """Text below everything, broken to the figure's width."""
    if caption:
        lines = "\n".join(textwrap.wrap(caption, int(14 * figure.get_figwidth())))
        figure.supxlabel(lines, fontsize=9, color=INK, x=0.01, ha="left")


def style_axes(ax: Axes, title: str, x_label: str, y_label: str = "") -> None:
    """Title, labels and colours that all pictures have."""
    ax.set_title(title, fontsize=12, color=INK, loc="left", pad=8)
    ax.set_xlabel(x_label, fontsize=11, color=INK)
    ax.set_ylabel(y_label, fontsize=11, color=INK)
    ax.tick_params(labelsize=10, colors=INK, length=3)
    for spine in ax.spines.values():
        spine.set_edgecolor(FAINT)


def shown(count: int, most: int = MOST_LABELS) -> list[int]:
    """Which of ``count`` ticks get a label: all if they fit, else the first and every k-th."""
    if count <= most:
        return list(range(count))
    stride = next(s for s in (2, 5, 10, 20, 50, 100, math.ceil(count / most)) if count <= s * most)
    return list(range(0, count, stride))

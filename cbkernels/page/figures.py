"""The pictures of a run: accuracy and loss over epochs, heat maps, removal curves, what each block costs.

Needs matplotlib. Each is rendered once as SVG and once as PNG, without time stamps, so that the same run folder gives
the same bytes. Names from files are drawn as they are, never as formulas. Read next: ``sections.py``.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..drawing import figures as drawing
from ..drawing.history_figures import HeatMap, plot_entropy, plot_margin
from ..runs.record import LayerTable
from ..runs.schema import LARGEST, Block, CurvePoint
from ..tables import definition_note

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _DARK = drawing.PROVEN_COLOURS[2:]
_ORANGE, _RED = drawing.UNPROVEN_COLOURS[1], drawing.ENTROPY_COLOURS[3]
_BAND = "#f3f5f7"
_RUN_COLOURS = (_DARK, _ORANGE, _BLUE, _RED, drawing.FAINT, "#6b4c9a", "#3e8e6e", "#a8763e")
_ACCURACIES = ("test", "validation")
CURVES = {
    "conflicting": ("conflicting blocks", _ORANGE, "o"),
    "non_conflicting": ("non-conflicting blocks", _BLUE, "s"),
    "any": ("blocks of any kind", drawing.FAINT, "^"),
    "lowest_margin": ("lowest margin first", _DARK, "D"),
}
"""Words, colour and marker of the removal curves."""


@dataclass(frozen=True)
class Picture:
    """One picture in both formats."""

    name: str
    """Of its files, without a suffix."""
    alt: str
    """What it shows, for those who do not see it."""
    svg: bytes
    png: bytes
    box: tuple[float, ...] = ()
    """Left, top, width and height of its first axes, in percent of the picture."""
    cells: Cells | None = None
    """Of a heat map."""
    runs: Sequence[str] = ()
    """Names of the runs in the picture; what belongs to the first has the id ``series-0`` in the SVG, and so on."""


@dataclass(frozen=True)
class Cells:
    """The values of a heat map, which the page shows when one points at a cell."""

    layers: Sequence[str]
    steps: Sequence[int]
    rows: Sequence[str]
    """A line a layer: numbers, "nan", or "none" where nothing was measured; "0*3" stands for "0 0 0"."""
    unit: str


@dataclass(frozen=True)
class Curve:
    """One network's epochs."""

    label: str
    epochs: Sequence[float]
    loss: Sequence[float]
    test_accuracy: Sequence[float]
    validation_accuracy: Sequence[float]
    """NaN where there is none."""
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    """Of a mean over several seeds: the lowest and the highest test accuracy of one."""


def rendered(name: str, alt: str, draw: Callable[[], Figure]) -> Picture:
    """The figure that ``draw`` returns as a picture.

    Raises:
        ImportError: matplotlib is missing.
    """
    drawing.require_matplotlib()
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    png, svg = io.BytesIO(), io.BytesIO()
    settings: Any = {"text.parse_math": False, "text.usetex": False, "svg.fonttype": "path", "svg.hashsalt": "cb",
                     "figure.facecolor": "white"}  # fmt: skip
    # a $ in a layer's name starts no formula, and letters that the font lacks are boxes, not warnings
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font")
        figure = draw()
        canvas: Any = FigureCanvasAgg(figure)  # Figure.savefig would draw twice for each format
        canvas.print_png(png, metadata={"Software": "cbkernels"})
        figure.set_layout_engine("none")  # the other format keeps the layout of this one
        canvas = FigureCanvasSVG(figure)
        canvas.print_svg(svg, metadata={"Date": None, "Creator": "cbkernels"})
    axes, whole = figure.axes[0].get_window_extent(), figure.bbox
    box = (axes.x0 / whole.width, 1 - axes.y1 / whole.height, axes.width / whole.width, axes.height / whole.height)
    return Picture(name, alt, svg.getvalue(), png.getvalue(), tuple(round(100 * part, 2) for part in box))


def layer_map(table: LayerTable, title: str, top: float | None) -> Figure:
    """Heat map of layers x epochs: bundle entropy up to ``top`` nats, the same for all rounds; None: margin in bits."""
    drawn = HeatMap(
        title, table.layers, table.epochs, table.entropy, table.num_conflicting, table.measured, table.margin_bits
    )
    caption = definition_note(table.equality)
    if top is not None:
        return plot_entropy(drawn, top=top, caption=caption)
    return plot_margin(drawn, caption=f"{caption} Margin: bits of precision left before the layer conflicts.")


def cells_of(table: LayerTable, values: npt.NDArray[np.float64], unit: str) -> Cells:
    """What ``layer_map`` shows of the table, with four significant digits."""
    known = np.where(table.measured & ~np.isnan(values), np.char.mod("%.4g", values), "none")
    known[table.measured & np.isnan(table.entropy)] = "nan"
    runs = [[(value, sum(1 for _ in same)) for value, same in groupby(line)] for line in known.tolist()]
    rows = [" ".join(f"{value}*{times}" if times > 1 else value for value, times in line) for line in runs]
    return Cells(table.layers, table.epochs, rows, unit)


# --- curves over epochs ---------------------------------------------------------------------------


def training_curves(curves: Sequence[Curve], chance: float | None) -> Figure:
    """Accuracy above, loss below, one network after the other; every restart is a line.

    Args:
        curves: in the order in which they were trained.
        chance: share of the largest class in the test data, drawn as a line.
    """
    has_loss = any(np.isfinite(_finite(curve.loss)).any() for curve in curves)
    figure = drawing.new_figure(drawing.PAGE_WIDTH, 4.4 if has_loss else 3.2)
    axes = list(figure.subplots(2 if has_loss else 1, 1, sharex=True, squeeze=False)[:, 0])
    lengths = [max(1.0, max(curve.epochs, default=0.0) - min(curve.epochs, default=0.0)) for curve in curves]
    *starts, width = accumulate(lengths, initial=0.0)
    for ax in axes:
        _mark_restarts(ax, starts, width)
        ax.grid(axis="y", color=drawing.LINE, linewidth=0.6)
        ax.set_axisbelow(True)
    for curve, start in zip(curves, starts, strict=True):
        x = start + np.asarray(curve.epochs, np.float64) - min(curve.epochs, default=0.0)
        _line(axes[0], x, curve.test_accuracy, _DARK, "test")
        _line(axes[0], x, curve.validation_accuracy, _BLUE, "validation", "--")
        if has_loss:
            _line(axes[1], x, curve.loss, _ORANGE, "training loss")
            _mark_lost(axes[1], x, curve)
    _level(axes[0], chance, "chance")
    for curve, start, length in zip(curves, starts, lengths, strict=True):
        if curve.label and length >= 0.018 * (len(curve.label) + 1) * width:
            axes[0].text(start, 1.02, f" {curve.label}", transform=axes[0].get_xaxis_transform(), fontsize=9,
                         color=drawing.INK, va="bottom")  # fmt: skip
    _style_curves(axes, "epochs, all networks in a row" if len(curves) > 1 else "epoch")
    if len(curves) == 1 and curves[0].epochs:
        first = min(curves[0].epochs)
        axes[-1].xaxis.set_major_formatter(lambda x, _: f"{x + first:g}")
    return figure


def _mark_restarts(ax: Axes, starts: Sequence[float], end: float) -> None:
    for position, (start, stop) in enumerate(pairwise([*starts, end])):
        if position % 2:
            ax.axvspan(start, stop, color=_BAND, linewidth=0, zorder=0)
        if position:
            ax.axvline(start, color=drawing.FAINT, linewidth=0.8, linestyle="--", zorder=1)
    ax.set_xlim(-0.01 * end, end + 0.01 * end)


def _line(
    ax: Axes, x: Any, y: Sequence[float], colour: str, label: str, style: str = "-", gid: str | None = None
) -> None:
    """A line with gaps where there is no number; a dot where a line would have no length."""
    values = _finite(y)
    if np.isfinite(values).any():
        dots = "o" if np.isfinite(values).sum() <= 25 else None
        ax.plot(x, values, style, color=colour, linewidth=1.8, marker=dots, markersize=3.2, label=label, gid=gid)


def _level(ax: Axes, value: float | None, label: str, colour: str = drawing.SOFT, width: float = 1.2) -> None:
    """A dotted line at a value that is known."""
    if value is not None and math.isfinite(value):
        ax.axhline(value, color=colour, linewidth=width, linestyle=":", label=label)


def _in_percent(ax: Axes) -> None:
    from matplotlib.ticker import PercentFormatter

    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))


def _mark_lost(ax: Axes, x: Any, curve: Curve) -> None:
    """Epochs after the first whose loss is no number that can be drawn: the training diverged."""
    lost = [i for i, loss in enumerate(_finite(curve.loss)) if curve.epochs[i] > 0 and math.isnan(loss)]
    if lost:
        ax.plot(np.asarray(x)[lost], [0.95] * len(lost), "x", color=_RED, transform=ax.get_xaxis_transform(),
                markersize=6, label="no loss (not a number)")  # fmt: skip


def _style_curves(axes: Sequence[Axes], x_label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    for ax, label in zip(axes, ("accuracy", "training loss"), strict=False):
        drawing.style_axes(ax, "", x_label if ax is axes[-1] else "", label)
    _in_percent(axes[0])
    lowest = min((float(np.nanmin(line.get_ydata())) for line in axes[0].lines if line.get_label() in _ACCURACIES),
                 default=0.0)  # fmt: skip
    axes[0].set_ylim(-0.02 if lowest < 0.5 else math.floor(10 * lowest - 0.5) / 10, 1.02)
    for ax in axes[1:]:
        low, high = ax.get_ylim()
        if low > 0:
            ax.set_ylim(0.0, 1.04 * high)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = [handle for ax in axes for handle in ax.get_legend_handles_labels()[0]]
    first_of_each = {handle.get_label(): handle for handle in reversed(handles)}
    drawing.legend_below(axes[-1], list(first_of_each.values())[::-1])


def overlaid_curves(curves: Sequence[Curve], chances: Sequence[float | None]) -> Figure:
    """Test accuracy of several runs over their epochs, with bands of several seeds; chance where they agree on it."""
    figure = drawing.new_figure(drawing.PAGE_WIDTH, 3.8)
    ax = figure.subplots()
    ax.grid(axis="y", color=drawing.LINE, linewidth=0.6)
    for i, curve in enumerate(curves):
        style = ("-", "--", "-.", ":")[i // len(_RUN_COLOURS) % 4]
        colour = _RUN_COLOURS[i % len(_RUN_COLOURS)]
        _line(ax, np.asarray(curve.epochs), curve.test_accuracy, colour, curve.label, style, f"series-{i}")
        if curve.low:
            low, high = _finite(curve.low), _finite(curve.high)
            ax.fill_between(curve.epochs, low, high, color=colour, alpha=0.15, linewidth=0, gid=f"series-{i}")
    known = {chance for chance in chances if chance is not None and math.isfinite(chance)}
    _level(ax, known.pop() if len(known) == 1 else None, "chance")
    _style_curves([ax], "epoch of the network that the run ended with")
    return figure


# --- removal --------------------------------------------------------------------------------------


def removal_curves(curves: Mapping[str, Sequence[CurvePoint]], accuracy: float | None, caption: str) -> Figure:
    """Test accuracy over the number of removed blocks, mean and one standard deviation of the draws."""
    from matplotlib.ticker import MaxNLocator

    figure = drawing.new_figure(drawing.PAGE_WIDTH, 4.2)
    ax = figure.subplots()
    ax.grid(axis="y", color=drawing.LINE, linewidth=0.6)
    for kind, (words, colour, marker) in CURVES.items():
        points = [(point.removed, point.mean, point.std or 0.0) for point in curves.get(kind, ())]
        known = sorted((k, mean, std) for k, mean, std in points if k is not None and mean is not None)
        if known:
            k, mean, std = np.asarray(known, np.float64).T
            ax.fill_between(k, mean - std, mean + std, color=colour, alpha=0.18, linewidth=0)
            ax.plot(k, mean, color=colour, marker=marker, markersize=4 if len(k) <= 30 else 2.5, linewidth=1.6,
                    label=words)  # fmt: skip
    _level(ax, accuracy, "no block removed", drawing.INK, 1.0)
    drawing.style_axes(ax, "", "number of removed blocks", "test accuracy")
    _in_percent(ax)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylim(max(-0.02, ax.get_ylim()[0]), min(1.02, ax.get_ylim()[1]))
    drawing.legend_below(ax, ax.get_legend_handles_labels()[0])
    drawing.add_caption(figure, caption)
    return figure


def block_costs(blocks: Sequence[Block], removed: Sequence[str], accuracy: float | None) -> Figure:
    """Every block's conflict margin and what the accuracy would be without it, the first block on the left."""
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    figure = drawing.new_figure(drawing.PAGE_WIDTH, 4.6)
    above, below = figure.subplots(2, 1, sharex=True)
    x = np.arange(len(blocks))
    gone = np.array([block.block in removed for block in blocks], bool)
    without = _finite([block.accuracy_without for block in blocks])
    for chosen, face, label in ((~gone, _DARK, "stays"), (gone, "white", "removed")):
        above.plot(x[chosen], without[chosen], "o", markersize=4.5, markerfacecolor=face, markeredgecolor=_DARK,
                   label=label)  # fmt: skip
    _level(above, accuracy, "with all blocks", drawing.INK, 1.0)
    drawing.style_axes(above, "", "", "accuracy without")
    _in_percent(above)
    bits = _finite([block.margin_bits for block in blocks])
    below.bar(x, np.nan_to_num(bits), color=[_BLUE if b > 0 else _ORANGE for b in bits], width=0.8)
    below.axhline(0.0, color=drawing.FAINT, linewidth=0.8)
    drawing.style_axes(below, "", "block, in the order of execution", "margin (bits)")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    conflicts = x[[(block.num_conflicting or 0) > 0 for block in blocks]]
    below.plot(conflicts, np.zeros(len(conflicts)), "o", markersize=4.5, markerfacecolor="white",
               markeredgecolor=_ORANGE, label="conflicts" if len(conflicts) else None)  # fmt: skip
    marks = [
        *above.get_legend_handles_labels()[0],
        *below.get_legend_handles_labels()[0],
        Patch(color=_BLUE, label="margin above 0 bits"),
        Patch(color=_ORANGE, label="0 bits or less"),
    ]
    drawing.legend_below(below, marks)
    return figure


def _finite(values: Sequence[float | None]) -> npt.NDArray[np.float64]:
    """NaN where there is no number, or one that no axis can reach."""
    return np.array([math.nan if value is None or not abs(value) <= LARGEST else value for value in values])

"""The pictures of a run: accuracy and loss over epochs, heat maps, removal curves, what each block costs.

Needs matplotlib. Each is rendered once as SVG and once as PNG, without time stamps, so that the same run folder gives
the same bytes. Names from files are drawn as they are, never as formulas. Read next: ``sections.py``.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..drawing.figures import (
    ENTROPY_COLOURS,
    FAINT,
    INK,
    LINE,
    PROVEN_COLOURS,
    UNPROVEN_COLOURS,
    add_caption,
    legend_below,
    new_figure,
    require_matplotlib,
    style_axes,
)
from ..drawing.history_figures import HeatMap, plot_entropy, plot_margin
from ..runs.record import LayerTable
from ..runs.schema import Block, CurvePoint
from ..tables import definition_note

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _DARK, _ORANGE, _RED = PROVEN_COLOURS[2], PROVEN_COLOURS[3], UNPROVEN_COLOURS[1], ENTROPY_COLOURS[3]
_BAND = "#f3f5f7"
_RUN_COLOURS = (_DARK, _ORANGE, _BLUE, _RED, FAINT, "#6b4c9a", "#3e8e6e", "#a8763e")
_ACCURACIES = ("test", "validation")
CURVES = {
    "conflicting": ("conflicting blocks", _ORANGE, "o"),
    "non_conflicting": ("non-conflicting blocks", _BLUE, "s"),
    "any": ("blocks of any kind", FAINT, "^"),
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


@dataclass(frozen=True)
class Curve:
    """One network's epochs."""

    label: str
    epochs: Sequence[float]
    loss: Sequence[float]
    test_accuracy: Sequence[float]
    validation_accuracy: Sequence[float]
    """NaN where there is none."""


def rendered(name: str, alt: str, draw: Callable[[], Figure]) -> Picture:
    """The figure that ``draw`` returns as a picture.

    Raises:
        ImportError: matplotlib is missing.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    png, svg = io.BytesIO(), io.BytesIO()
    with _plain_text():
        figure = draw()
        canvas: Any = FigureCanvasAgg(figure)  # Figure.savefig would draw twice for each format
        canvas.print_png(png, metadata={"Software": "cbkernels"})
        figure.set_layout_engine("none")  # the other format keeps the layout of this one
        canvas = FigureCanvasSVG(figure)
        canvas.print_svg(svg, metadata={"Date": None, "Creator": "cbkernels"})
    return Picture(name, alt, svg.getvalue(), png.getvalue())


@contextmanager
def _plain_text() -> Iterator[None]:
    """A ``$`` in a layer's name starts no formula, and letters that the font lacks are boxes, not warnings."""
    import matplotlib

    settings: Any = {"text.parse_math": False, "text.usetex": False, "svg.fonttype": "path", "svg.hashsalt": "cb",
                     "figure.facecolor": "white"}  # fmt: skip
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font")
        yield


# --- layers x epochs ------------------------------------------------------------------------------


def entropy_map(table: LayerTable, title: str, top: float) -> Figure:
    """Heat map of bundle entropy; ``top`` is the darkest colour in nats, the same for all rounds."""
    return plot_entropy([_titled(table, title)], top=top, caption=definition_note(table.equality))


def margin_map(table: LayerTable, title: str) -> Figure:
    """Heat map of the conflict margin in bits."""
    caption = f"{definition_note(table.equality)} Margin: bits of precision left before the layer conflicts."
    return plot_margin([_titled(table, title)], caption=caption)


def _titled(table: LayerTable, title: str) -> HeatMap:
    return HeatMap(
        title, table.layers, table.epochs, table.entropy, table.num_conflicting, table.measured, table.margin_bits
    )


# --- curves over epochs ---------------------------------------------------------------------------


def training_curves(curves: Sequence[Curve], chance: float | None) -> Figure:
    """Accuracy above, loss below, one network after the other; every restart is a line.

    Args:
        curves: in the order in which they were trained.
        chance: share of the largest class in the test data, drawn as a line.
    """
    has_loss = any(np.isfinite(curve.loss).any() for curve in curves)
    figure = new_figure(7.6, 5.0 if has_loss else 3.4)
    axes = list(figure.subplots(2 if has_loss else 1, 1, sharex=True, squeeze=False)[:, 0])
    starts, width = _starts(curves)
    for ax in axes:
        _mark_restarts(ax, starts, width)
        ax.grid(axis="y", color=LINE, linewidth=0.6)
        ax.set_axisbelow(True)
    for curve, start in zip(curves, starts, strict=True):
        x = start + np.asarray(curve.epochs, np.float64) - min(curve.epochs, default=0.0)
        _line(axes[0], x, curve.test_accuracy, _DARK, "test")
        _line(axes[0], x, curve.validation_accuracy, _BLUE, "validation", "--")
        if has_loss:
            _line(axes[1], x, curve.loss, _ORANGE, "training loss")
            _mark_lost(axes[1], x, curve)
    _level(axes[0], chance, "chance")
    _label_starts(axes[0], [curve.label for curve in curves], starts, width)
    _style_curves(axes, "epochs, all networks in a row" if len(curves) > 1 else "epoch")
    if len(curves) == 1 and curves[0].epochs:
        axes[-1].set_xlim(_padded(0.0, width))
        first = min(curves[0].epochs)
        axes[-1].xaxis.set_major_formatter(lambda x, _: f"{x + first:g}")
    return figure


def _starts(curves: Sequence[Curve]) -> tuple[list[float], float]:
    """Where each network begins on the common axis, and where the last one ends."""
    starts, at = [], 0.0
    for curve in curves:
        starts.append(at)
        at += max(1.0, max(curve.epochs, default=0.0) - min(curve.epochs, default=0.0))
    return starts, at


def _padded(low: float, high: float) -> tuple[float, float]:
    return low - 0.01 * (high - low), high + 0.01 * (high - low)


def _mark_restarts(ax: Axes, starts: Sequence[float], end: float) -> None:
    for position, start in enumerate(starts):
        stop = starts[position + 1] if position + 1 < len(starts) else end
        if position % 2:
            ax.axvspan(start, stop, color=_BAND, linewidth=0, zorder=0)
        if position:
            ax.axvline(start, color=FAINT, linewidth=0.8, linestyle="--", zorder=1)
    ax.set_xlim(_padded(0.0, end))


def _label_starts(ax: Axes, labels: Sequence[str], starts: Sequence[float], end: float) -> None:
    """Labels above the networks that are wide enough for them."""
    for label, start, stop in zip(labels, starts, [*starts[1:], end], strict=True):
        if label and stop - start >= 0.013 * (len(label) + 1) * end:
            ax.text(start, 1.02, f" {label}", transform=ax.get_xaxis_transform(), fontsize=9, color=INK, va="bottom")


def _line(ax: Axes, x: Any, y: Sequence[float], colour: str, label: str, style: str = "-") -> None:
    """A line with gaps where there is no number; a dot where a line would have no length."""
    values = _finite(y)
    if np.isfinite(values).any():
        dots = "o" if np.isfinite(values).sum() <= 25 else None
        ax.plot(x, values, style, color=colour, linewidth=1.8, marker=dots, markersize=3.2, label=label)


def _level(ax: Axes, value: float | None, label: str, colour: str = FAINT, width: float = 1.2) -> None:
    """A dotted line at a value that is known."""
    if value is not None and math.isfinite(value):
        ax.axhline(value, color=colour, linewidth=width, linestyle=":", label=label)


def _in_percent(ax: Axes, label: str) -> None:
    from matplotlib.ticker import PercentFormatter

    ax.set_ylabel(label, fontsize=11, color=INK)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))


def _mark_lost(ax: Axes, x: Any, curve: Curve) -> None:
    """Epochs after the first whose loss is no number: the training diverged."""
    lost = [i for i, e in enumerate(curve.epochs) if e > 0 and not math.isfinite(curve.loss[i])]
    if lost:
        ax.plot(np.asarray(x)[lost], [0.95] * len(lost), "x", color=_RED, transform=ax.get_xaxis_transform(),
                markersize=6, label="no loss (not a number)")  # fmt: skip


def _style_curves(axes: Sequence[Axes], x_label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    style_axes(axes[0], "", "")
    _in_percent(axes[0], "accuracy")
    lowest = min((float(np.nanmin(line.get_ydata())) for line in axes[0].lines if line.get_label() in _ACCURACIES),
                 default=0.0)  # fmt: skip
    axes[0].set_ylim(-0.02 if lowest < 0.5 else math.floor(10 * lowest - 0.5) / 10, 1.02)
    for ax in axes[1:]:
        style_axes(ax, "", "")
        ax.set_ylabel("training loss", fontsize=11, color=INK)
        low, high = ax.get_ylim()
        if low > 0:
            ax.set_ylim(0.0, 1.04 * high)
    axes[-1].set_xlabel(x_label, fontsize=11, color=INK)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_below(axes[-1], _first_of_each([handle for ax in axes for handle in ax.get_legend_handles_labels()[0]]))


def _first_of_each(handles: Sequence[Any]) -> list[Any]:
    return list({handle.get_label(): handle for handle in reversed(handles)}.values())[::-1]


def overlaid_curves(curves: Sequence[Curve], chances: Sequence[float | None]) -> Figure:
    """Test accuracy of several runs over their epochs; chance where they agree on it."""
    figure = new_figure(7.6, 4.4)
    ax = figure.subplots()
    ax.grid(axis="y", color=LINE, linewidth=0.6)
    for i, curve in enumerate(curves):
        style = ("-", "--", "-.", ":")[i // len(_RUN_COLOURS) % 4]
        colour = _RUN_COLOURS[i % len(_RUN_COLOURS)]
        _line(ax, np.asarray(curve.epochs), curve.test_accuracy, colour, curve.label, style)
    known = {chance for chance in chances if chance is not None and math.isfinite(chance)}
    _level(ax, known.pop() if len(known) == 1 else None, "chance")
    _style_curves([ax], "epoch of the network that the run ended with")
    return figure


# --- removal --------------------------------------------------------------------------------------


def removal_curves(curves: Mapping[str, Sequence[CurvePoint]], accuracy: float | None, caption: str) -> Figure:
    """Test accuracy over the number of removed blocks, mean and one standard deviation of the draws."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(7.6, 4.8)
    ax = figure.subplots()
    ax.grid(axis="y", color=LINE, linewidth=0.6)
    for kind, (words, colour, marker) in CURVES.items():
        points = [(point.removed, point.mean, point.std or 0.0) for point in curves.get(kind, ())]
        known = sorted((k, mean, std) for k, mean, std in points if k is not None and mean is not None)
        if known:
            k, mean, std = np.asarray(known, np.float64).T
            ax.fill_between(k, mean - std, mean + std, color=colour, alpha=0.18, linewidth=0)
            ax.plot(k, mean, color=colour, marker=marker, markersize=4 if len(k) <= 30 else 2.5, linewidth=1.6,
                    label=words)  # fmt: skip
    _level(ax, accuracy, "no block removed", INK, 1.0)
    style_axes(ax, "", "number of removed blocks")
    _in_percent(ax, "test accuracy")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylim(max(-0.02, ax.get_ylim()[0]), min(1.02, ax.get_ylim()[1]))
    legend_below(ax, ax.get_legend_handles_labels()[0])
    add_caption(figure, caption)
    return figure


def block_costs(blocks: Sequence[Block], removed: Sequence[str], accuracy: float | None) -> Figure:
    """Every block's conflict margin and what the accuracy would be without it, the first block on the left."""
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(7.6, 5.0)
    above, below = figure.subplots(2, 1, sharex=True)
    x = np.arange(len(blocks))
    gone = np.array([block.block in removed for block in blocks], bool)
    without = _finite([block.accuracy_without for block in blocks])
    for chosen, face, label in ((~gone, _DARK, "stays"), (gone, "white", "removed")):
        above.plot(x[chosen], without[chosen], "o", markersize=4.5, markerfacecolor=face, markeredgecolor=_DARK,
                   label=label)  # fmt: skip
    _level(above, accuracy, "with all blocks", INK, 1.0)
    style_axes(above, "", "")
    _in_percent(above, "accuracy without")
    bits = _finite([block.margin_bits for block in blocks])
    below.bar(x, np.nan_to_num(bits), color=[_BLUE if b > 0 else _ORANGE for b in bits], width=0.8)
    below.axhline(0.0, color=FAINT, linewidth=0.8)
    style_axes(below, "", "block, in the order of execution")
    below.set_ylabel("margin (bits)", fontsize=11, color=INK)
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
    legend_below(below, marks)
    return figure


def _finite(values: Sequence[float | None]) -> npt.NDArray[np.float64]:
    """NaN where there is no number."""
    return np.array([math.nan if value is None or not math.isfinite(value) else value for value in values])

"""Heat maps of layer x step: bundle entropy, or the conflict margin in bits. One report: ``layer_figures.py``.

Needs matplotlib; draws without a display and without touching pyplot's state.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

_ABSENT: dict[str, Any] = {"facecolor": "#f1f3f5", "edgecolor": "#c3c8ce", "hatch": "////", "linewidth": 0.0}
_NUM_COLOURS = 2048
_CELLS_WIDTH, _WIDEST_CELL = 3.7, 0.6
"""Inches: of all columns together where there are many, and of one where there are few."""


@dataclass(frozen=True)
class HeatMap:
    """One network over its training: layers x steps."""

    title: str
    names: Sequence[str]
    """L layer names, first layer first."""
    steps: Sequence[int]
    """S steps; columns are equally wide whatever their distance."""
    entropy: npt.NDArray[np.float64]
    """(L, S), nats; NaN where a row held a NaN."""
    num_conflicting: npt.NDArray[np.int64]
    """(L, S) conflicting bundles: the integers that decide which layer conflicts."""
    measured: npt.NDArray[np.bool_]
    """(L, S), False where a layer was not measured."""
    margin_bits: npt.NDArray[np.float64] | None = None
    """(L, S), infinities allowed; NaN where it was not measured. Only ``plot_margin`` needs it."""


def plot_entropy(
    drawn: HeatMap, *, top: float | None = None, step_name: str = "epoch", caption: str = ""
) -> Figure:  # fmt: skip
    """Heat map of layer x step: white is exactly 0, the first conflict is marked.

    Args:
        drawn: the network.
        top: entropy of the darkest colour in nats, e.g. ``ln(number of classes)``; None takes the
            largest value.
        step_name: what a step is.
        caption: text below, for the definition of equal.

    Returns:
        A matplotlib Figure; ``content_of`` turns it into bytes.

    Raises:
        ValueError: an array's shape is not (layers, steps).
        ImportError: matplotlib is missing.
    """
    _check_shapes(drawn)
    if top is None:
        top = float(np.nanmax(drawn.entropy, initial=0.0)) or 1.0
    colours = _colours(0.0, top, figures.ENTROPY_COLOURS)
    cells = np.asarray(colours.to_rgba(np.nan_to_num(drawn.entropy)))
    cells[drawn.entropy == 0] = (1.0, 1.0, 1.0, 1.0)
    figure = _drawn(drawn, cells, drawn.measured, step_name, caption)
    bar = _colour_bar(figure, colours, "bundle entropy (nats)\nbackground: exactly 0")
    ticks = [tick for tick in bar.get_ticks() if 0 <= tick < 0.92 * top]
    bar.set_ticks([*ticks, top], labels=[*(f"{tick:g}" for tick in ticks), _nats(top)])
    return figure


def plot_margin(drawn: HeatMap, *, step_name: str = "epoch", caption: str = "") -> Figure:
    """The same of the conflict margins in bits: blue above 0, orange from 0 down.

    Args:
        drawn: the network, with ``margin_bits``.
        step_name: what a step is.
        caption: text below, for the definition of equal.

    Returns:
        A matplotlib Figure. Where a row holds a NaN, cells are grey as in ``plot_entropy``.

    Raises:
        ValueError: an array's shape is not (layers, steps), or margins are missing.
        ImportError: matplotlib is missing.
    """
    _check_shapes(drawn)
    bits = drawn.margin_bits
    if bits is None:
        raise ValueError(f"{drawn.title!r} has no margin_bits; measure with margin=True and a grid")
    finite = bits[np.isfinite(bits)]
    low, high = math.floor(finite.min(initial=-1.0)), math.ceil(finite.max(initial=1.0))
    zero = -low / (high - low)  # a break, which belongs to the lower side: 0 bits prove nothing
    colours = _colours(low, high, [
        *zip(np.linspace(0.0, zero, len(figures.UNPROVEN_COLOURS)), figures.UNPROVEN_COLOURS, strict=True),
        *zip(np.linspace(zero, 1.0, len(figures.PROVEN_COLOURS)), figures.PROVEN_COLOURS, strict=True),
    ], _NUM_COLOURS)  # fmt: skip
    # moved so far from the break that the finite number of colours cannot put a value on its other side
    least, known = 2 * (high - low) / _NUM_COLOURS, np.nan_to_num(bits, posinf=high, neginf=low)
    cells = np.asarray(colours.to_rgba(np.where(known > 0, np.maximum(known, least), np.minimum(known, -least))))
    figure = _drawn(drawn, cells, drawn.measured & ~np.isnan(bits), step_name, caption)
    bar = _colour_bar(figure, colours, "conflict margin\n(bits above the grid's step)")
    between = [float(tick) for tick in bar.get_ticks() if 0.08 < (tick - low) / (high - low) < 0.92]
    ticks = [int(tick) for tick in between if tick.is_integer()]
    first = f"{low:g}" + (", -inf" if np.isneginf(bits).any() else "")
    last = f"{high:g}" + (", inf" if np.isposinf(bits).any() else "")
    bar.set_ticks([low, *ticks, high], labels=[first, *map(str, ticks), last])
    return figure


def plot_map(drawn: HeatMap, path: str | os.PathLike[str] | None, *, show: str, has_grid: bool, caption: str) -> Figure:
    """What ``History.plot`` returns, writes and refuses; ``has_grid``: was any of it measured with an update grid?"""
    bits = drawn.margin_bits
    has_bits = bits is not None and not np.isnan(bits).all()
    figures.check_shown(show, "the history", bool(drawn.entropy.size), has_grid, has_bits)
    figure = (plot_entropy if show == "entropy" else plot_margin)(drawn, step_name="step", caption=caption)
    if path is not None:
        figures.save(figure, path)
    return figure


def _check_shapes(drawn: HeatMap) -> None:
    expected = (len(drawn.names), len(drawn.steps))
    for name in ("entropy", "num_conflicting", "measured", "margin_bits"):
        array = getattr(drawn, name)
        if array is not None and array.shape != expected:
            raise ValueError(f"{drawn.title!r} has {name} {array.shape}; {expected} are needed")


def _colours(low: float, high: float, colours: Sequence[Any], num: int = 256) -> ScalarMappable:
    figures.require_matplotlib()
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    return ScalarMappable(Normalize(low, high), LinearSegmentedColormap.from_list("", colours, num))


def _colour_bar(figure: Figure, colours: ScalarMappable, label: str) -> Any:
    (ax,) = figure.axes
    width = _cells_width(ax.get_xlim()[1] + 0.5)
    aspect = (figure.get_figheight() - 1.7) / 0.18
    bar = figure.colorbar(colours, ax=ax, pad=0.08 / width, fraction=0.35 / width, aspect=aspect)
    bar.set_label(label, fontsize=10, color=figures.INK)
    bar.ax.tick_params(labelsize=10, colors=figures.INK)
    return bar


def _nats(top: float) -> str:
    classes = round(math.exp(min(top, 20.0)))
    return f"ln {classes}" if math.isclose(math.log(max(classes, 1)), top) else f"{top:.3g}"


def _drawn(
    drawn: HeatMap, cells: npt.NDArray[np.float64], measured: npt.NDArray[np.bool_], step_name: str, caption: str
) -> Figure:
    from matplotlib.patches import Patch

    layers, steps = drawn.entropy.shape
    shown_steps, shown_layers = figures.shown(steps), figures.shown(layers)
    names = [drawn.names[i] for i in shown_layers]
    width = figures.PAGE_WIDTH + 0.08 * max(0, max(map(len, names), default=0) - 9)
    figure = figures.new_figure(width, 1.7 + min(max(1.6, 0.3 * layers), 3.7))
    if (used := _cells_width(steps)) < _CELLS_WIDTH:
        figure.set_layout_engine("constrained", rect=(0.0, 0.0, 1.0 - (_CELLS_WIDTH - used) / width, 1.0))
    ax = figure.subplots()
    is_nan = np.isnan(drawn.entropy) & drawn.measured
    is_absent = ~measured & ~is_nan
    cells[is_nan] = figures.NAN
    if is_absent.any():
        ax.patch.set(**_ABSENT)
        cells[is_absent] = 0.0  # transparent: the hatched background is seen
    ax.imshow(cells, aspect="auto", interpolation="nearest",
              extent=(-0.5, steps - 0.5, layers - 0.5, -0.5))  # fmt: skip
    if layers <= figures.MOST_LABELS:
        for below in range(layers - 1):
            ax.axhline(below + 0.5, color=figures.LINE, linewidth=0.8)
    figures.style_axes(ax, drawn.title, step_name)
    ax.set_xticks(shown_steps, [str(drawn.steps[s]) for s in shown_steps])
    ax.set_yticks(shown_layers, names)
    marks = _mark_first_conflicts(ax, drawn.num_conflicting > 0)
    if is_nan.any():
        marks.append(Patch(facecolor=figures.NAN, label="a row holds NaN"))
    if is_absent.any():
        marks.append(Patch(**_ABSENT, label="not measured"))
    figures.legend_below(ax, marks)
    figures.add_caption(figure, caption)
    return figure


def _cells_width(steps: float) -> float:
    """Inches; few columns are not stretched."""
    return min(_CELLS_WIDTH, _WIDEST_CELL * max(2, steps))


def _mark_first_conflicts(ax: Axes, conflicts: npt.NDArray[np.bool_]) -> list[Any]:
    columns = np.flatnonzero(conflicts.any(axis=0))
    if not len(columns):
        ax.text(0.5, 0.5, "no layer conflicts", transform=ax.transAxes, ha="center", va="center",
                fontsize=10, color=figures.SOFT, bbox={"facecolor": "white", "edgecolor": "none"})  # fmt: skip
        return []
    size = 4.5 if conflicts.shape[1] <= 60 else 2.5
    return ax.plot(columns, conflicts.argmax(axis=0)[columns], linestyle="none", marker="o", markersize=size,
                   markerfacecolor="white", markeredgecolor=figures.INK, label="first conflicting layer")  # fmt: skip

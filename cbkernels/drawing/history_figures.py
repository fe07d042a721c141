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
    measured: npt.NDArray[np.bool_] | None = None
    """(L, S), False where a layer was not measured; None: everywhere it was."""
    margin_bits: npt.NDArray[np.float64] | None = None
    """(L, S), infinities allowed; NaN where it was not measured. Only ``plot_margin`` needs it."""


def plot_entropy(
    maps: Sequence[HeatMap],
    *,
    top: float | None = None,
    step_name: str = "epoch",
    caption: str = "",
) -> Figure:
    """Heat maps of layer x step side by side: white is exactly 0, the first conflict is marked.

    Args:
        maps: one or more networks; they share the colours.
        top: entropy of the darkest colour in nats, e.g. ``ln(number of classes)``; None takes the
            largest value.
        step_name: what a step is.
        caption: text below, for the definition of equal.

    Returns:
        A matplotlib Figure; ``png`` turns it into bytes.

    Raises:
        ValueError: an array's shape is not (layers, steps).
        ImportError: matplotlib is missing.
    """
    figures.require_matplotlib()
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    for each in maps:
        _check_shapes(each)
    if top is None:
        top = max((float(np.nanmax(m.entropy, initial=0.0)) for m in maps), default=0.0) or 1.0
    colours = ScalarMappable(Normalize(0.0, top), LinearSegmentedColormap.from_list("entropy", figures.ENTROPY_COLOURS))
    figure, axes = _axes_for(maps)
    for ax, each in zip(axes, maps, strict=True):
        cells = np.asarray(colours.to_rgba(np.nan_to_num(each.entropy)))
        cells[each.entropy == 0] = (1.0, 1.0, 1.0, 1.0)
        _draw(ax, each, cells, _measured(each), step_name)
    bar = _colour_bar(figure, axes, colours, "bundle entropy (nats), white: exactly 0")
    ticks = [tick for tick in bar.get_ticks() if 0 <= tick < 0.97 * top]
    bar.set_ticks([*ticks, top], labels=[*(f"{tick:g}" for tick in ticks), _nats(top)])
    figures.add_caption(figure, caption)
    return figure


def plot_margin(maps: Sequence[HeatMap], *, step_name: str = "epoch", caption: str = "") -> Figure:
    """The same of the conflict margins in bits: blue above 0, orange from 0 down.

    Args:
        maps: with ``margin_bits``; they share the colours.
        step_name: what a step is.
        caption: text below, for the definition of equal.

    Returns:
        A matplotlib Figure. Where a row holds a NaN, cells are grey as in ``plot_entropy``.

    Raises:
        ValueError: an array's shape is not (layers, steps), or margins are missing.
        ImportError: matplotlib is missing.
    """
    figures.require_matplotlib()
    for each in maps:
        _check_shapes(each)
        if each.margin_bits is None:
            raise ValueError(f"{each.title!r} has no margin_bits; measure with margin=True and a grid")
    bits = [m.margin_bits for m in maps if m.margin_bits is not None]
    finite = np.concatenate([[0.0], *(b[np.isfinite(b)] for b in bits)])
    low, high = min(-1.0, math.floor(finite.min())), max(1.0, math.ceil(finite.max()))
    colours = _two_sided_colours(low, high)
    figure, axes = _axes_for(maps)
    for ax, each, values in zip(axes, maps, bits, strict=True):
        cells = np.asarray(colours.to_rgba(_beside_zero(np.nan_to_num(values, posinf=high, neginf=low), high - low)))
        _draw(ax, each, cells, _measured(each) & ~np.isnan(values), step_name)
    bar = _colour_bar(figure, axes, colours, "conflict margin (bits above the grid's step)")
    ticks = [int(tick) for tick in bar.get_ticks() if low < tick < high and float(tick).is_integer()]
    has = {sign: any(np.isinf(b[np.sign(b) == sign]).any() for b in bits) for sign in (-1, 1)}
    labels = [f"{low:g}" + (", -inf" if has[-1] else ""), *map(str, ticks), f"{high:g}" + (", inf" if has[1] else "")]
    bar.set_ticks([low, *ticks, high], labels=labels)
    figures.add_caption(figure, caption)
    return figure


def plot_map(drawn: HeatMap, path: str | os.PathLike[str] | None, *, show: str, has_grid: bool, caption: str) -> Figure:
    """What ``History.plot`` returns, writes and refuses; ``has_grid``: was any of it measured with an update grid?"""
    bits = drawn.margin_bits
    has_bits = bits is not None and not np.isnan(bits).all()
    figures.check_shown(show, "the history", bool(drawn.entropy.size), has_grid, has_bits)
    figure = (plot_entropy if show == "entropy" else plot_margin)([drawn], step_name="step", caption=caption)
    if path is not None:
        figures.save(figure, path)
    return figure


def _check_shapes(each: HeatMap) -> None:
    expected = (len(each.names), len(each.steps))
    for name in ("entropy", "num_conflicting", "measured", "margin_bits"):
        array = getattr(each, name)
        if array is not None and array.shape != expected:
            raise ValueError(f"{each.title!r} has {name} {array.shape}; {expected} are needed")


def _measured(each: HeatMap) -> npt.NDArray[np.bool_]:
    return np.ones(each.entropy.shape, np.bool_) if each.measured is None else each.measured


def _axes_for(maps: Sequence[HeatMap]) -> tuple[Figure, list[Axes]]:
    longest = [max((len(each.names[i]) for i in figures.shown(len(each.names))), default=0) for each in maps]
    figure = figures.new_figure(2.2 + sum(4.6 + 0.07 * max(0, letters - 12) for letters in longest), 5.8)
    return figure, list(figure.subplots(1, len(maps), squeeze=False)[0])


def _two_sided_colours(low: float, high: float) -> ScalarMappable:
    """From low to high, with a break at 0, which belongs to the lower side: it proves nothing."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    zero = -low / (high - low)
    points = [
        *zip(np.linspace(0.0, zero, len(figures.UNPROVEN_COLOURS)), figures.UNPROVEN_COLOURS, strict=True),
        *zip(np.linspace(zero, 1.0, len(figures.PROVEN_COLOURS)), figures.PROVEN_COLOURS, strict=True),
    ]
    return ScalarMappable(Normalize(low, high), LinearSegmentedColormap.from_list("margin", points, N=_NUM_COLOURS))


def _beside_zero(bits: npt.NDArray[np.float64], span: float) -> npt.NDArray[np.float64]:
    """Moved so far from the colours' break that their finite number cannot put a value on its other side."""
    least = 2 * span / _NUM_COLOURS
    return np.where(bits > 0, np.maximum(bits, least), np.minimum(bits, -least))


def _colour_bar(figure: Figure, axes: list[Axes], colours: ScalarMappable, label: str) -> Any:
    bar = figure.colorbar(colours, ax=axes, pad=0.02, fraction=0.05, aspect=28)
    bar.set_label(label, fontsize=11, color=figures.INK)
    bar.ax.tick_params(labelsize=10, colors=figures.INK)
    return bar


def _nats(top: float) -> str:
    classes = round(math.exp(min(top, 20.0)))
    return f"ln {classes}" if math.isclose(math.log(max(classes, 1)), top) else f"{top:.3g}"


def _draw(
    ax: Axes, each: HeatMap, cells: npt.NDArray[np.float64], measured: npt.NDArray[np.bool_], step_name: str
) -> None:
    from matplotlib.patches import Patch

    layers, steps = each.entropy.shape
    is_nan = np.isnan(each.entropy) & _measured(each)
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
    figures.style_axes(ax, each.title, step_name)
    shown_steps, shown_layers = figures.shown(steps), figures.shown(layers)
    ax.set_xticks(shown_steps, [str(each.steps[s]) for s in shown_steps])
    ax.set_yticks(shown_layers, [each.names[i] for i in shown_layers])
    marks = _mark_first_conflicts(ax, each)
    if is_nan.any():
        marks.append(Patch(facecolor=figures.NAN, label="a row holds NaN"))
    if is_absent.any():
        marks.append(Patch(**_ABSENT, label="not measured"))
    figures.legend_below(ax, marks)


def _mark_first_conflicts(ax: Axes, each: HeatMap) -> list[Any]:
    conflicts = each.num_conflicting > 0
    columns = np.flatnonzero(conflicts.any(axis=0))
    if not len(columns):
        ax.text(0.5, 0.5, "no layer conflicts", transform=ax.transAxes, ha="center", va="center",
                fontsize=12, color=figures.FAINT, bbox={"facecolor": "white", "edgecolor": "none"})  # fmt: skip
        return []
    size = 4.5 if conflicts.shape[1] <= 60 else 2.5
    return ax.plot(columns, conflicts.argmax(axis=0)[columns], linestyle="none", marker="o", markersize=size,
                   markerfacecolor="white", markeredgecolor=figures.INK, label="first conflicting layer")  # fmt: skip

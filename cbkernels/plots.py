"""Pictures. Needs matplotlib; draws without a display and without touching pyplot's state."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

_MOST_LABELS = 13
_INK = "#22262b"
_FAINT = "#8a9099"
_LINE = "#d5d9de"
_NAN = (0.60, 0.63, 0.65, 1.0)
_COLOURS = ("#fff1c9", "#fdc97a", "#f4773f", "#cb2a1f", "#6d0013")
"""Of positive entropies: even the smallest is told from white."""


@dataclass(frozen=True)
class HeatMap:
    """Bundle entropy of one network over its training: layers x steps."""

    title: str
    names: Sequence[str]
    """L layer names, first layer first."""
    steps: Sequence[int]
    """S steps, ascending; columns are equally wide whatever their distance."""
    entropy: npt.NDArray[np.float64]
    """(L, S), nats; NaN where a row held a NaN."""
    num_conflicting: npt.NDArray[np.int64]
    """(L, S) conflicting bundles: the integers that decide which layer conflicts."""


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
    _require_matplotlib()
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.figure import Figure

    for each in maps:
        expected = (len(each.names), len(each.steps))
        if each.entropy.shape != expected or each.num_conflicting.shape != expected:
            raise ValueError(f"{each.title!r} has entropy {each.entropy.shape}; {expected} are needed")
    if top is None:
        top = max((float(np.nanmax(m.entropy, initial=0.0)) for m in maps), default=0.0) or 1.0
    colours = ScalarMappable(Normalize(0.0, top), LinearSegmentedColormap.from_list("entropy", _COLOURS))
    width = 2.2 + 4.6 * len(maps)
    figure = Figure(figsize=(width, 5.8), dpi=150, layout="constrained")
    axes = figure.subplots(1, len(maps), squeeze=False)[0]
    for ax, each in zip(axes, maps, strict=True):
        _draw(ax, each, colours, step_name)
    bar = figure.colorbar(colours, ax=list(axes), pad=0.02, fraction=0.05, aspect=28)
    ticks = [tick for tick in bar.get_ticks() if 0 <= tick < 0.97 * top]
    bar.set_ticks([*ticks, top], labels=[*(f"{tick:g}" for tick in ticks), _nats(top)])
    bar.set_label("bundle entropy (nats), white: exactly 0", fontsize=11, color=_INK)
    bar.ax.tick_params(labelsize=10, colors=_INK)
    if caption:
        lines = "\n".join(textwrap.wrap(caption, int(14 * width)))
        figure.supxlabel(lines, fontsize=9, color=_INK, x=0.01, ha="left")
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG file's bytes."""
    content = io.BytesIO()
    figure.savefig(content, format="png", facecolor="white", metadata={"Software": "cbkernels"})
    return content.getvalue()


def _require_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ImportError("pictures need matplotlib: pip install matplotlib") from None


def _nats(top: float) -> str:
    classes = round(math.exp(min(top, 20.0)))
    return f"ln {classes}" if math.isclose(math.log(max(classes, 1)), top) else f"{top:.3g}"


def _draw(ax: Axes, each: HeatMap, colours: ScalarMappable, step_name: str) -> None:
    layers, steps = each.entropy.shape
    cells = np.asarray(colours.to_rgba(np.nan_to_num(each.entropy)))
    cells[each.entropy == 0] = (1.0, 1.0, 1.0, 1.0)
    cells[np.isnan(each.entropy)] = _NAN
    ax.imshow(cells, aspect="auto", interpolation="nearest",
              extent=(-0.5, steps - 0.5, layers - 0.5, -0.5))  # fmt: skip
    if layers <= _MOST_LABELS:
        for below in range(layers - 1):
            ax.axhline(below + 0.5, color=_LINE, linewidth=0.8)
    ax.set_title(each.title, fontsize=12, color=_INK, loc="left", pad=8)
    ax.set_xlabel(step_name, fontsize=11, color=_INK)
    shown_steps, shown_layers = _shown(steps), _shown(layers)
    ax.set_xticks(shown_steps, [str(each.steps[s]) for s in shown_steps])
    ax.set_yticks(shown_layers, [each.names[i] for i in shown_layers])
    ax.tick_params(labelsize=10, colors=_INK, length=3)
    for spine in ax.spines.values():
        spine.set_edgecolor(_FAINT)
    _mark_first_conflicts(ax, each)


def _mark_first_conflicts(ax: Axes, each: HeatMap) -> None:
    from matplotlib.patches import Patch

    conflicts = each.num_conflicting > 0
    columns = np.flatnonzero(conflicts.any(axis=0))
    marks: list[Any] = []
    if len(columns):
        marks += ax.plot(columns, conflicts.argmax(axis=0)[columns], linestyle="none", marker="o", markersize=4.5,
                         markerfacecolor="white", markeredgecolor=_INK, label="first conflicting layer")  # fmt: skip
    else:
        ax.text(0.5, 0.5, "no layer conflicts", transform=ax.transAxes, ha="center", va="center",
                fontsize=12, color=_FAINT)  # fmt: skip
    if np.isnan(each.entropy).any():
        marks.append(Patch(facecolor=_NAN, label="a row holds NaN"))
    if marks:
        ax.legend(handles=marks, loc="lower left", fontsize=10, framealpha=0.95, edgecolor=_FAINT,
                  labelcolor=_INK)  # fmt: skip


def _shown(count: int) -> list[int]:
    """Which of ``count`` ticks get a label: all if they fit, else the first and every k-th."""
    if count <= _MOST_LABELS:
        return list(range(count))
    stride = next(s for s in (2, 5, 10, 20, 50, 100, math.ceil(count / _MOST_LABELS)) if count <= s * _MOST_LABELS)
    return list(range(0, count, stride))

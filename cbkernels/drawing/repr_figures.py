"""The picture of ``cbkernels repr compare``: accuracy and overlap of filters over the epochs, mean and spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from . import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = ("#212529", "#868e96", "#2b8a3e", "#1864ab", "#d9480f", "#862e9c", "#c2255c", "#0b7285")
_REDUCED = "#f1f3f5"


def comparison_picture(
    histories: Mapping[str, Sequence[Mapping[str, Sequence[float]]]],
    reduced: Sequence[tuple[float, float]],
    caption: str,
) -> Figure:  # fmt: skip
    """Test accuracy above, mean overlap of the filters below.

    Args:
        histories: criterion -> for every seed "epoch", "test_accuracy" and "orthogonality" of its lines, NaN for none.
        reduced: (first, last) epochs of every S2, in which filters are dropped.
        caption: text below.

    Returns:
        A matplotlib Figure; lines are means over the seeds, bands one standard deviation. What was not
        measured, such as the overlap in standard training, has no line.

    Raises:
        ImportError: matplotlib is missing.
    """
    figure = figures.new_figure(figures.PAGE_WIDTH, 6.0)
    from matplotlib.ticker import PercentFormatter

    axes = figure.subplots(2, 1, sharex=True)
    marks = []
    for (name, seeds), colour in zip(histories.items(), cycle(_COLOURS), strict=False):
        for ax, column in zip(axes, ("test_accuracy", "orthogonality"), strict=True):
            epochs = max((seed["epoch"] for seed in seeds), key=len)
            values = np.full((len(seeds), len(epochs)), np.nan)  # one that diverged ends early
            for line, seed in zip(values, seeds, strict=True):
                line[: len(seed[column])] = seed[column]
            if np.isnan(values).all():
                continue
            mean, std = values.mean(0), values.std(0, ddof=1 if len(values) > 1 else 0)
            (mark,) = ax.plot(epochs, mean, color=colour, linewidth=1.6, label=name)
            ax.fill_between(epochs, mean - std, mean + std, color=colour, alpha=0.12, linewidth=0)
            if column == "test_accuracy":
                marks.append(mark)
    for ax in axes:
        for first, last in reduced:
            ax.axvspan(first, last, color=_REDUCED, zorder=0)
    axes[0].yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    figures.style_axes(axes[0], "test accuracy", "")
    figures.style_axes(axes[1], "mean overlap of the filters (0: orthogonal)", "epoch")
    figures.legend_below(axes[1], marks)
    figures.add_caption(figure, caption)
    return figure

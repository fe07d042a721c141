"""The heat map: white is exactly zero, the first conflict is marked where the integers say it is."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="pictures: NOT TESTED HERE (no matplotlib)")

from cbkernels.plots import HeatMap, plot_entropy, png


def heat_map(entropy: list[list[float]], conflicting: list[list[int]] | None = None) -> HeatMap:
    values = np.array(entropy)
    counts = np.nan_to_num(values, nan=1.0) > 0 if conflicting is None else np.array(conflicting)
    names = [f"layer {i}" for i in range(len(values))]
    return HeatMap("a network", names, range(values.shape[1]), values, counts.astype(np.int64))


def test_white_is_exactly_zero_and_nan_is_grey() -> None:
    axes = plot_entropy([heat_map([[0.0, 1e-9], [math.nan, 2.3]])], top=2.3).axes[0]
    cells = axes.images[0].get_array()
    assert cells[0, 0].tolist() == [1, 1, 1, 1]
    assert cells[0, 1].tolist() != [1, 1, 1, 1]
    assert len(set(cells[1, 0][:3].round(1).tolist())) == 1
    assert cells[1, 1].sum() < cells[0, 1].sum()


def test_marks_the_first_conflicting_layer_of_every_step() -> None:
    entropy = [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]
    (marks,) = [line for line in plot_entropy([heat_map(entropy)]).axes[0].lines if line.get_marker() == "o"]
    assert list(zip(marks.get_xdata(), marks.get_ydata(), strict=True)) == [(0, 1), (1, 2)]


def test_conflicts_are_asked_of_the_integers() -> None:
    axes = plot_entropy([heat_map([[0.5], [0.0]], [[0], [3]])]).axes[0]
    (marks,) = [line for line in axes.lines if line.get_marker() == "o"]
    assert list(marks.get_ydata()) == [1]


def test_says_so_when_nothing_conflicts() -> None:
    figure = plot_entropy([heat_map([[0.0, 0.0]]), heat_map([[1.0, 1.0]])], caption="equal values")
    assert [text.get_text() for text in figure.axes[0].texts] == ["no layer conflicts"]
    assert not figure.axes[1].texts
    assert figure.get_supxlabel() == "equal values"


@pytest.mark.parametrize(("top", "label"), [(math.log(10), "ln 10"), (0.75, "0.75"), (None, "1.5")])
def test_the_colour_bar_ends_at_the_top(top: float | None, label: str) -> None:
    bar = plot_entropy([heat_map([[1.5, 0.0]])], top=top).axes[-1]
    assert bar.get_ylim() == (0, top or 1.5)
    assert [text.get_text() for text in bar.get_yticklabels()][-1] == label


@pytest.mark.parametrize(("layers", "steps"), [(1, 1), (13, 13), (14, 200), (500, 3)])
def test_any_size_gives_a_picture_with_readable_ticks(layers: int, steps: int) -> None:
    figure = plot_entropy([heat_map(np.ones((layers, steps)).tolist())])
    axes = figure.axes[0]
    assert 1 <= len(axes.get_yticks()) <= 13
    assert 1 <= len(axes.get_xticks()) <= 13
    assert axes.get_yticklabels()[0].get_text() == "layer 0"
    assert png(figure).startswith(b"\x89PNG")


def test_refuses_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) are needed"):
        plot_entropy([HeatMap("odd", ["a", "b"], [1, 2, 3], np.zeros((3, 2)), np.zeros((2, 3), np.int64))])


def test_pyplot_is_left_alone() -> None:
    png(plot_entropy([heat_map([[0.0]])]))
    assert "matplotlib.pyplot" not in sys.modules

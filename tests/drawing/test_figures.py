"""Pictures: white is exactly zero, the first conflict is where the integers say it is, nothing is cut off."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="pictures: NOT TESTED HERE (no matplotlib)")

import cbkernels as cb
from cbkernels.drawing.figures import content_of
from cbkernels.drawing.history_figures import HeatMap, plot_entropy, plot_margin
from cbkernels.findings.history import History
from cbkernels.findings.layer_report import LayerReport


def heat_map(entropy: list[list[float]], conflicting: list[list[int]] | None = None) -> HeatMap:
    values = np.array(entropy)
    counts = np.nan_to_num(values, nan=1.0) > 0 if conflicting is None else np.array(conflicting)
    names = [f"layer {i}" for i in range(len(values))]
    measured = np.ones(values.shape, bool)
    return HeatMap("a network", names, range(values.shape[1]), values, counts.astype(np.int64), measured)


def test_white_is_exactly_zero_and_nan_is_grey() -> None:
    axes = plot_entropy(heat_map([[0.0, 1e-9], [math.nan, 2.3]]), top=2.3).axes[0]
    cells = axes.images[0].get_array()
    assert cells[0, 0].tolist() == [1, 1, 1, 1]
    assert cells[0, 1].tolist() != [1, 1, 1, 1]
    assert len(set(cells[1, 0][:3].round(1).tolist())) == 1
    assert cells[1, 1].sum() < cells[0, 1].sum()


def test_marks_the_first_conflicting_layer_of_every_step() -> None:
    entropy = [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]
    (marks,) = [line for line in plot_entropy(heat_map(entropy)).axes[0].lines if line.get_marker() == "o"]
    assert list(zip(marks.get_xdata(), marks.get_ydata(), strict=True)) == [(0, 1), (1, 2)]


def test_conflicts_are_asked_of_the_integers() -> None:
    axes = plot_entropy(heat_map([[0.5], [0.0]], [[0], [3]])).axes[0]
    (marks,) = [line for line in axes.lines if line.get_marker() == "o"]
    assert list(marks.get_ydata()) == [1]


def test_says_so_when_nothing_conflicts() -> None:
    figure = plot_entropy(heat_map([[0.0, 0.0]]), caption="equal values")
    assert [text.get_text() for text in figure.axes[0].texts] == ["no layer conflicts"]
    assert not plot_entropy(heat_map([[1.0, 1.0]])).axes[0].texts
    assert figure.get_supxlabel() == "equal values"


@pytest.mark.parametrize(("top", "label"), [(math.log(10), "ln 10"), (0.75, "0.75"), (None, "1.5")])
def test_the_colour_bar_ends_at_the_top(top: float | None, label: str) -> None:
    bar = plot_entropy(heat_map([[1.5, 0.0]]), top=top).axes[-1]
    assert bar.get_ylim() == (0, top or 1.5)
    assert [text.get_text() for text in bar.get_yticklabels()][-1] == label


@pytest.mark.parametrize(
    ("layers", "steps", "ticks"), [(1, 1, (1, 1)), (13, 13, (13, 13)), (14, 200, (7, 10)), (500, 3, (10, 3))]
)
def test_any_size_gives_a_picture_with_readable_ticks(layers: int, steps: int, ticks: tuple[int, int]) -> None:
    figure = plot_entropy(heat_map(np.ones((layers, steps)).tolist()))
    axes = figure.axes[0]
    assert (len(axes.get_yticks()), len(axes.get_xticks())) == ticks
    assert axes.get_yticklabels()[0].get_text() == "layer 0"
    assert content_of(figure).startswith(b"\x89PNG")


def test_refuses_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) are needed"):
        plot_entropy(dataclasses.replace(heat_map([[0.0] * 3] * 2), entropy=np.zeros((3, 2))))


def test_pyplot_is_left_alone() -> None:
    """Neither when a picture is drawn nor when a notebook shows it; in a process that has nothing else to do."""
    code = """
import sys, numpy as np, cbkernels as cb
results = cb.bundle_entropy_layers({"fc": np.eye(4)}, np.arange(4) % 2, grid=cb.UpdateGrid(1e-3, 64, 1.0))
report = cb.LayerReport(results, step=0, margins={"fc": 1.0})
import copy, pickle
figure = report.plot()
for same in (figure, copy.deepcopy(figure), pickle.loads(pickle.dumps(figure))):
    assert same._repr_png_()[1:4] == b"PNG"
report.plot(show="margin"), cb.History([report]).plot(), cb.History([report]).plot(show="margin")
assert "matplotlib.figure" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# --- cells that were not measured, and margins ------------------------------------------------------------

HATCHED = "not measured"


def legend(axes: Any) -> list[str]:
    found = axes.get_legend()
    return [] if found is None else [text.get_text() for text in found.get_texts()]


def test_what_was_not_measured_is_hatched_and_not_nan() -> None:
    absent = heat_map([[math.nan, 0.5], [math.nan, 0.0]], [[0, 1], [0, 0]])
    absent = dataclasses.replace(absent, measured=np.array([[False, True], [True, True]]))
    axes = plot_entropy(absent).axes[0]
    cells = axes.images[0].get_array()
    assert cells[0, 0, 3] == 0  # transparent, the hatched background is seen
    assert cells[1, 0, 3] == cells[0, 1, 3] == 1
    assert axes.patch.get_hatch()
    assert legend(axes) == ["first conflicting layer", "a row holds NaN", HATCHED]
    everything = plot_entropy(heat_map([[0.5]])).axes[0]
    assert not everything.patch.get_hatch()
    assert legend(everything) == ["first conflicting layer"]


def margin_map(bits: list[list[float]], entropy: list[list[float]] | None = None) -> HeatMap:
    values = np.array(bits)
    zeros = np.zeros(values.shape, int).tolist()
    return dataclasses.replace(heat_map(zeros if entropy is None else entropy, zeros), margin_bits=values)


def test_margins_above_zero_are_blue_and_others_orange() -> None:
    cells = plot_margin(margin_map([[-math.inf, -3.0, -0.01, 0.0, 0.01, 5.0, math.inf]])).axes[0].images[0]
    red, blue = cells.get_array()[0, :, 0], cells.get_array()[0, :, 2]
    assert (red > blue).tolist() == [True] * 4 + [False] * 3
    brightness = cells.get_array()[0, :, :3].sum(axis=1)
    assert np.all(np.diff(brightness[:3]) >= 0)
    assert np.all(np.diff(brightness[4:]) <= 0)


def test_margins_that_are_not_there_are_hatched_and_nan_rows_grey() -> None:
    axes = plot_margin(margin_map([[math.nan, math.nan, 2.0, 3.0]], [[0.0, math.nan, math.nan, 0.0]])).axes[0]
    cells = axes.images[0].get_array()
    assert cells[0, 0, 3] == 0
    assert cells[0, 1].tolist() == cells[0, 2].tolist()
    assert len(set(cells[0, 1, :3].round(1).tolist())) == 1
    assert legend(axes) == ["a row holds NaN", HATCHED]


def test_the_margin_bar_names_infinities_only_where_there_are_some() -> None:
    def ends(bits: list[float]) -> list[str]:
        labels = plot_margin(margin_map([bits])).axes[-1].get_yticklabels()
        return [labels[0].get_text(), labels[-1].get_text()]

    assert ends([-2.5, 3.5]) == ["-3", "4"]
    assert ends([-math.inf, 3.0]) == ["-1, -inf", "3"]
    assert ends([math.inf, 0.0]) == ["-1", "1, inf"]


def test_margins_are_needed_for_their_map() -> None:
    with pytest.raises(ValueError, match="'a network' has no margin_bits"):
        plot_margin(heat_map([[0.0]]))
    with pytest.raises(ValueError, match=r"has margin_bits \(1, 2\); \(1, 1\) are needed"):
        plot_margin(dataclasses.replace(heat_map([[0.0]]), margin_bits=np.zeros((1, 2))))


# --- pictures of reports and histories ----------------------------------------------------------------------

GRID = cb.UpdateGrid(learning_rate=1e-3, batch_size=64, weight_amplitude=0.7)
ENTROPIES = {"conv1": 0.0, "conv2#1": 0.25, "conv2": 0.75, "fc": 0.0}
MARGINS = {"conv1": 4.0, "conv2#1": 0.0, "conv2": 2.0**-12, "fc": math.inf}


def report(
    entropies: dict[str, float] = ENTROPIES,
    margins: dict[str, float] = MARGINS,
    grid: cb.UpdateGrid | None = GRID,
    **other: Any,
) -> LayerReport:
    results = {
        layer: cb.BundleResult(
            entropy=h, num_bundles=100 + i, num_conflicting=int(h > 0), num_nan_rows=int(math.isnan(h)), num_rows=512,
            num_conflicting_rows=8 * int(h > 0), num_columns=10, dtype="float32", device="cpu", backend="cpu",
            grid=grid,
        )
        for i, (layer, h) in enumerate(entropies.items())
    }  # fmt: skip
    return LayerReport(results, margins=margins, **other)


def test_a_heat_map_tells_which_learning_rates_its_grids_took() -> None:
    for choice, rates, words in (
        ("peak", (1e-3, 1e-3, 1e-3), ""),
        ("peak", (1e-3, 5e-4, 0.0), "The grid takes the peak learning rate 0.001; the current one is 0 to 0.001."),
        ("current", (1e-3, 5e-4, 1e-7), "The grid takes the current learning rate 1e-07 to 0.001; the peak is 0.001."),
    ):
        history = History()
        for step, rate in enumerate(rates):
            taken, other = (1e-3, "current") if choice == "peak" else (rate, "peak")
            told = {choice: taken} if rate == 1e-3 else {choice: taken, other: rate if choice == "peak" else 1e-3}
            grid = dataclasses.replace(GRID, learning_rate=taken)
            history.append(report(grid=grid, step=step, learning_rates=told))
        caption = history.plot().get_supxlabel().replace("\n", " ")
        assert caption.endswith(words or "activations in float32.")
        assert ("The grid takes" in caption) == bool(words)


def bars(axes: Any) -> dict[int, float]:
    return {round(bar.get_y() + bar.get_height() / 2): bar.get_width() for bar in axes.patches}


def test_bars_are_the_entropies() -> None:
    figure = report(step=3, model="Net", skipped={"lstm": "odd"}).plot()
    axes, right = figure.axes
    assert bars(axes) == {1: 0.25, 2: 0.75}
    assert [label.get_text() for label in axes.get_yticklabels()] == list(ENTROPIES)
    assert [label.get_text() for label in right.get_yticklabels()] == ["100", "101", "102", "103"]
    assert axes.get_ylim() == right.get_ylim() == (3.5, -0.5)
    assert axes.get_title("left") == "Net, step 3"
    (mark,) = [line for line in axes.lines if line.get_marker() == "o"]
    assert list(mark.get_ydata()) == [1]
    assert legend(axes) == ["first conflicting layer"]
    caption = figure.get_supxlabel().replace("\n", " ")
    assert "equal on the float32 update grid, lr=0.001 batch_size=64 w=0.7" in caption
    assert caption.endswith("Not measured: lstm.")


def test_bars_say_what_is_nan_and_when_nothing_conflicts() -> None:
    axes = report({"a": 0.5, "b": math.nan}, {}).plot().axes[0]
    assert bars(axes)[1] >= max(axes.get_xlim())
    assert legend(axes) == ["first conflicting layer", "a row holds NaN"]
    healthy = report({"a": 0.0}, {}).plot().axes[0]
    assert [text.get_text() for text in healthy.texts] == ["no layer conflicts"]
    sick = report({"a": math.nan}, {}).plot().axes[0]
    assert [text.get_text() for text in sick.texts] == []


def test_bars_of_margins_are_bits() -> None:
    figure = report({**ENTROPIES, "new": 0.0, "sick": math.nan}).plot(show="margin")
    axes = figure.axes[0]
    left, right = axes.get_xlim()
    widths = bars(axes)
    assert widths[0] == GRID.bits(4.0)
    assert widths[1] == left
    assert widths[2] == GRID.bits(2.0**-12) < 0
    assert widths[3] == right
    assert 4 not in widths
    assert widths[5] == right - left
    assert [text.get_text().strip() for text in axes.texts] == ["-inf", "inf", "not measured"]
    colours = {round(bar.get_y() + 0.4): bar.get_facecolor() for bar in axes.patches}
    assert colours[0] == colours[3] != colours[1] == colours[2]
    assert "Margin: bits of precision left" in figure.get_supxlabel().replace("\n", " ")


@pytest.mark.parametrize("layers", [1, 2, 130, 131])
def test_every_number_of_layers_gives_bars_with_names(layers: int) -> None:
    figure = report({f"transformer.h.{i}.mlp.c_proj#1": i / 1000 for i in range(layers)}, {}, step=1).plot()
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(names) == layers if layers <= 130 else 60 < len(names) <= 130
    assert figure.get_figheight() < 16
    figure.draw_without_rendering()
    edges = figure.get_window_extent()
    for axes in figure.axes:
        end = axes.get_xlim()[1]
        on_x = [label for label in axes.get_xticklabels() if label.get_position()[0] <= end]
        for label in [*axes.get_yticklabels(), *on_x, axes._left_title, axes._right_title]:
            if not label.get_text():
                continue
            box = label.get_window_extent()
            assert edges.x0 <= box.x0, label
            assert box.x1 <= edges.x1, label
            assert edges.y0 <= box.y0, label
            assert box.y1 <= edges.y1, label


def test_legends_and_captions_are_inside_the_picture() -> None:
    skipped = {f"block.{i}.attention": "x" for i in range(100)}
    one = report({"transformer.h.11.mlp.c_proj#1": 0.5, "b": math.nan}, {"b": 1.0}, skipped=skipped)
    many = History([one, report({"b": 0.25}, {"b": 1.0})])
    for figure in (one.plot(show="margin"), one.plot(), many.plot(), many.plot(show="margin")):
        figure.draw_without_rendering()
        edges = figure.get_window_extent()
        legend_box = figure.axes[0].get_legend().get_window_extent()
        caption_box = figure._supxlabel.get_window_extent()
        for box in (legend_box, caption_box):
            assert edges.x0 <= box.x0
            assert box.x1 <= edges.x1
            assert edges.y0 <= box.y0
        assert caption_box.y1 <= legend_box.y0
        assert legend_box.y1 <= figure.axes[0].xaxis.label.get_window_extent().y0
    assert "and 94 more." in one.plot().get_supxlabel().replace("\n", " ")


def test_a_history_is_its_arrays() -> None:
    made = History([report(step=2), report({"conv1": 0.5, "fc": math.nan}, {"conv1": 1.0}, step=9)])
    axes = made.plot().axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == made.layers
    assert [label.get_text() for label in axes.get_xticklabels()] == ["2", "9"]
    assert axes.images[0].get_array()[:, :, 3].tolist() == [[1, 1], [1, 0], [1, 0], [1, 1]]
    assert legend(axes) == ["first conflicting layer", "a row holds NaN", HATCHED]
    (marks,) = [line for line in axes.lines if line.get_marker() == "o"]
    assert list(zip(marks.get_xdata(), marks.get_ydata(), strict=True)) == [(0, 1), (1, 0)]
    margins = made.plot(show="margin").axes[0].images[0].get_array()
    assert (margins[0, 0, 2] > margins[0, 0, 0], margins[1, 0, 2] > margins[1, 0, 0]) == (True, False)
    assert made.plot().get_supxlabel().replace("\n", " ") == f"Rows are one bundle when they are {made.equality}."


@pytest.mark.parametrize(("layers", "steps"), [(1, 1), (2, 200), (120, 3)])
def test_every_size_of_history_gives_a_picture(layers: int, steps: int) -> None:
    entropies = {f"layer{i}.conv": i / 7 for i in range(layers)}
    made = History(report(entropies, dict.fromkeys(entropies, 1.0), step=s) for s in range(steps))
    for show in ("entropy", "margin"):
        assert content_of(made.plot(show=show)).startswith(b"\x89PNG")


def test_long_names_do_not_squeeze_the_cells() -> None:
    entropies = {"encoder." + "attention." * 5 + "output#1": 0.5}
    figure = History(report(entropies, {}, step=step) for step in range(8)).plot()
    figure.draw_without_rendering()
    assert figure.axes[0].get_window_extent().width / figure.dpi > 3.5


def test_few_columns_and_few_rows_are_not_stretched() -> None:
    for layers, steps in ((1, 1), (2, 2), (12, 2), (120, 2), (2, 40), (5, 3)):
        for show in ("entropy", "margin"):
            entropies = {f"layer{i}.conv": i / 7 for i in range(layers)}
            made = History(report(entropies, dict.fromkeys(entropies, 1.0), step=s) for s in range(steps))
            figure = made.plot(show=show)
            figure.draw_without_rendering()
            ax, bar = figure.axes
            width, height = ax.get_window_extent().size / figure.dpi
            assert 0.3 < width / max(2, steps) < 0.8 or steps > 10
            assert width > 3.5 or steps < 10
            assert height < (2.5 if layers <= 5 else 4.3)
            assert bar.get_window_extent().height > 0.9 * height * figure.dpi, "the bar is as high as the cells"
            assert bar.get_window_extent().x0 - ax.get_window_extent().x1 < 0.3 * figure.dpi


@pytest.mark.parametrize("what", [report(), History([report()])], ids=["report", "history"])
def test_any_format_by_its_suffix(what: Any, tmp_path: Path) -> None:
    begins = {"x.png": b"\x89PNG", "x.pdf": b"%PDF", "X.SVG": b"<?xml"}
    for name, begin in begins.items():
        what.plot(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(begin)
    for name in ("x.bmpx", "x"):
        with pytest.raises(ValueError, match=rf"path is '.*{name}'; its suffix must be one of .*\.png"):
            what.plot(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="absent"):
        what.plot(tmp_path / "absent" / "x.png")
    assert {path.name for path in tmp_path.iterdir()} == set(begins)


def test_refuses_what_it_cannot_show() -> None:
    for what in (report(), History([report()])):
        with pytest.raises(ValueError, match="show is 'loss'; choose entropy or margin"):
            what.plot(show="loss")
    for what in (report(margins={}), History([report(margins={})])):
        with pytest.raises(ValueError, match="has no conflict margins; measure with margin=True and a grid"):
            what.plot(show="margin")
    for what in (report(grid=None), History([report(grid=None)])):
        with pytest.raises(ValueError, match="has no update grid, in whose steps"):
            what.plot(show="margin")
    for what in (LayerReport({}), History(), History([LayerReport({})])):
        for show in ("entropy", "margin"):
            with pytest.raises(ValueError, match="holds no measured layer; measure before you plot"):
                what.plot(show=show)

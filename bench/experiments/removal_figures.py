"""Pictures of ``removal.py``: accuracy against the share of blocks removed, and margins over the epochs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cbkernels.drawing.figures import add_caption, legend_below, new_figure, save, style_axes

COLOURS = {
    "margin": "#1864ab", "similarity": "#d9480f", "random": "#495057", "taylor": "#2b8a3e", "conflicts": "#862e9c",
    "weight_norm": "#8a6d1d", "bn_scale": "#3d8f9e",
}  # fmt: skip
STUDIED = {"lowest_margin": ("margin", "smallest margins"), "any": ("random", "random blocks")}
GUARD = "#adb5bd"
LINES = ("-", "--", ":")
"""Of the networks, in their order."""


def draw_curves(seeds: list[dict[str, Any]], path: Path) -> None:
    """Left: the study, nothing is trained. Right: every ranking, healed after each removal; one line a seed."""
    figure = new_figure(11.0, 4.8)
    left, right = figure.subplots(1, 2)
    start = float(np.mean([seed["study"]["accuracy"] for seed in seeds]))
    for kind, (colour, label) in STUDIED.items():
        curves = [seed["study"]["curves"][kind] for seed in seeds]
        count = min(map(len, curves))
        means = np.array([[point["mean"] for point in curve[:count]] for curve in curves])
        share = [0.0, *(100 * point["removed"] / seeds[0]["num_blocks"] for point in curves[0][:count])]
        mean, low, high = (np.array([start, *each(means, axis=0)]) for each in (np.mean, np.min, np.max))
        left.plot(share, 100 * mean, "o-", color=COLOURS[colour], label=label, markersize=3)
        left.fill_between(share, 100 * low, 100 * high, color=COLOURS[colour], alpha=0.15, linewidth=0)
    style_axes(left, "removed, not trained again", "blocks removed (%)", "test accuracy (%)")
    for i, seed in enumerate(seeds):
        for pruning in _healed(seed):
            points = [(0.0, pruning["accuracy"]["before"])] + [
                (step["num_removed"] / seed["num_blocks"], step["accuracy_test"])
                for step in pruning["steps"] if step["kept"]
            ]  # fmt: skip
            label = pruning["rank"] if i == 0 else None
            x, y = (100 * np.array(each) for each in zip(*points, strict=True))
            style = LINES[i % len(LINES)]
            right.plot(x, y, "o", linestyle=style, color=COLOURS[pruning["rank"]], label=label, markersize=3, alpha=0.8)
    right.axhline(100 * (np.mean([seed["test_accuracy"] for seed in seeds]) - 0.01), color=GUARD, linestyle="--")
    style_axes(right, "healed after every removal (another scale)", "blocks removed (%)", "test accuracy (%)")
    for ax in (left, right):
        ax.grid(color="#e9ecef", linewidth=0.6)
        legend_below(ax, ax.get_legend_handles_labels()[0])
    add_caption(
        figure,
        f"Networks: {len(seeds)}. Left: their mean and range. Right: each of them (line, dashes, dots); grey: one "
        "point below the mean accuracy before.",
    )
    save(figure, path)


def draw_margins(seeds: list[dict[str, Any]], path: Path) -> None:
    """Above: bits of margin of every branch of the first run. Below: how well they rank what a block costs."""
    from matplotlib import colormaps

    figure = new_figure(9.0, 6.4)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    first = seeds[0]
    branches = list(first["cost_alone"])
    for i, branch in enumerate(branches):
        colour = colormaps["viridis"](i / max(1, len(branches) - 1))
        label = branch.removesuffix(".branch").removeprefix("stages.") if i % 3 == 0 else None
        points = _known(zip(first["epochs"], first["margins"][branch], strict=True))
        above.plot(*zip(*points, strict=True), color=colour, linewidth=1.2, label=label)
    above.axhline(0, color="#d9480f", linewidth=1)
    style_axes(above, f"{first['run']}: margin of every branch (dark: first blocks)", "", "bits above the grid's step")
    above.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0), title="block")
    for seed in seeds:
        below.plot(
            *zip(*_known(seed["spearman_margin_at"].items()), strict=True),
            linewidth=1.2,
            label=f"seed {seed['recipe']['seed']}",
        )
    below.axhline(0, color=GUARD, linewidth=1)
    style_axes(below, "margins of that epoch, and what each block costs in the end", "epoch", "Spearman")
    below.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    add_caption(figure, "Above 0 bits no conflict is possible in float32. A block's cost: test accuracy of the trained "
                        "network less that without the block.")  # fmt: skip
    save(figure, path)


def _healed(seed: dict[str, Any]) -> list[dict[str, Any]]:
    """Those of the strategy that the command has by default."""
    return [each for each in seed["prunings"] if each["heal"] == "each" and each["strategy"] == "geometric"]


def _known(pairs: Iterable[tuple[int, float | None]]) -> list[tuple[int, float]]:
    return [(epoch, value) for epoch, value in pairs if value is not None]

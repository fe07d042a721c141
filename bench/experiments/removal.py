"""Trained residual networks, several seeds: when conflicts begin, and accuracy against the number of removed blocks.

After "Auto-tuning of Deep Neural Networks by Conflicting Layer Removal" (arXiv 2103.04331). The runs are made by
``cbkernels train`` and ``cbkernels remove``; this file puts several seeds into one table and one picture.
    python -m bench.experiments.removal runs/resnet-seed0 runs/resnet-seed1 runs/resnet-seed2 --out runs/removal-study
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from cbkernels.drawing.figures import add_caption, new_figure, save, style_axes

KINDS = {"lowest_margin": "#1864ab", "any": "#495057", "non_conflicting": "#868e96", "conflicting": "#d9480f"}
WITHIN = 0.01


def main() -> None:
    """Gather, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    seeds = [one_run(run) for run in given.runs]
    curves = {kind: averaged([seed["curves"].get(kind, []) for seed in seeds]) for kind in KINDS}
    summary = {"seeds": seeds, "curves": curves}
    (given.out / "summary.json").write_text(json.dumps(summary, indent=1))
    save(draw(curves, seeds), given.out / "removal-curves.png")
    save(draw_margins(given.runs), given.out / "margins.png")
    for seed in seeds:
        print(json.dumps({name: value for name, value in seed.items() if name != "curves"}, indent=1))
    for kind, points in curves.items():
        print(kind, " ".join(f"{p['removed']}:{p['mean']:.3f}" for p in points))


def one_run(run: Path) -> dict[str, Any]:
    """The numbers of one seed."""
    trained = json.loads((run / "result.json").read_text())
    removal = json.loads((run / "removal" / "result.json").read_text())
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    onset = next((line["epoch"] for line in history if line["epoch"] and line["num_conflicting_layers"]), None)
    last_bfloat16: dict[str, bool] = {}
    for row in csv.DictReader((run / "layers.csv").open()):
        if row["grid"].startswith("bfloat16"):
            last_bfloat16[row["layer"]] = int(row["num_conflicting"]) > 0
    blocks = removal["blocks"]
    without = [b for b in blocks if b.get("accuracy_without") is not None]
    before = removal["study"]["accuracy"]
    cost = [before - b["accuracy_without"] for b in without]
    return {
        "run": run.name,
        "epochs": trained["epochs"],
        "test_accuracy": trained["test_accuracy"],
        "first_epoch_with_a_conflict": onset,
        "conflicting_blocks_at_the_end": sum(b["num_conflicting"] > 0 for b in blocks),
        "conflicting_blocks_at_the_end_bfloat16": sum(last_bfloat16.values()),
        "blocks": len(blocks),
        "spearman_margin_cost": rank_correlation([b["margin_bits"] for b in without], cost),
        "spearman_similarity_cost": rank_correlation([-b["similarity"] for b in without], cost),
        "removable_without_finetuning": len(removal["removed"]),
        "within_a_point_lowest_margin": largest_within(removal["curves"].get("lowest_margin", []), before),
        "within_a_point_any": largest_within(removal["curves"].get("any", []), before),
        "accuracy": removal["accuracy"],
        "parameters": [removal["before"]["parameters"], removal["after"]["parameters"]],
        "latency_ms": [removal["before"]["latency_ms"], removal["after"]["latency_ms"]],
        "study_accuracy": before,
        "curves": removal["curves"],
    }


def rank_correlation(one: list[Any], other: list[float]) -> float | None:
    """Spearman's, over the blocks for which both are known."""
    from scipy.stats import spearmanr

    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None]
    return float(spearmanr([a for a, _ in pairs], [b for _, b in pairs]).statistic) if len(pairs) > 2 else None


def largest_within(curve: list[dict[str, Any]], before: float) -> int:
    """The largest k up to which the mean accuracy stays within a point."""
    k = 0
    for point in curve:
        if point["mean"] < before - WITHIN:
            break
        k = point["removed"]
    return k


def averaged(curves: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The mean over the seeds that have a point, and its spread."""
    of_k: dict[int, list[float]] = defaultdict(list)
    for curve in curves:
        for point in curve:
            of_k[point["removed"]].append(point["mean"])
    return [
        {"removed": k, "mean": float(np.mean(values)), "std": float(np.std(values)), "seeds": len(values)}
        for k, values in sorted(of_k.items())
    ]


def draw(curves: dict[str, list[dict[str, Any]]], seeds: list[dict[str, Any]]) -> Any:
    """Accuracy against the number of removed blocks, mean and spread over the seeds."""
    figure = new_figure(8.5, 4.8)
    ax = figure.subplots()
    start = float(np.mean([seed["study_accuracy"] for seed in seeds]))
    for kind, points in curves.items():
        if not points:
            continue
        k = [0, *(p["removed"] for p in points)]
        mean = np.array([start, *(p["mean"] for p in points)])
        std = np.array([0.0, *(p["std"] for p in points)])
        ax.plot(k, mean, color=KINDS[kind], label=kind.replace("_", " "), marker="o", markersize=3)
        ax.fill_between(k, mean - std, mean + std, color=KINDS[kind], alpha=0.15, linewidth=0)
    style_axes(ax, "removing residual blocks without retraining", "removed blocks")
    ax.set_ylabel("test accuracy")
    ax.legend(frameon=False)
    add_caption(figure, f"{len(seeds)} seeds: mean, band: one standard deviation over the seeds (of the draws' means).")
    return figure


def draw_margins(runs: list[Path]) -> Any:
    """Bits of margin of every branch over the epochs of the first run."""
    rows = list(csv.DictReader((runs[0] / "margins.csv").open()))
    of_layer: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for row in rows:
        if row["grid"].startswith("float32"):
            of_layer[row["layer"]].append((int(row["epoch"]), float(row["bits"])))
    figure = new_figure(8.5, 4.8)
    ax = figure.subplots()
    from matplotlib import colormaps

    for i, (layer, points) in enumerate(of_layer.items()):
        finite = [(epoch, bits) for epoch, bits in points if np.isfinite(bits)]
        colour = colormaps["viridis"](i / max(1, len(of_layer) - 1))
        label = layer.removesuffix(".branch").removeprefix("stages.") if i % 3 == 0 else None
        ax.plot(*zip(*finite, strict=True), color=colour, linewidth=1.2, label=label)
    ax.axhline(0, color="#d9480f", linewidth=1)
    style_axes(ax, f"{runs[0].name}: margin of every branch (dark: first blocks)", "epoch")
    ax.set_ylabel("bits above the float32 grid's step")
    ax.legend(frameon=False, fontsize=8, ncols=3)
    add_caption(figure, "Above 0 no conflict is possible. bfloat16 weights would lower every line by 16 bits.")
    return figure


if __name__ == "__main__":
    main()

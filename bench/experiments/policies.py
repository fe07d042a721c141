"""Auto-tune with every policy, several seeds: what is left, what it reaches, how many rounds it took.

After "Conflicting Bundles" and "Auto-tuning of Deep Neural Networks by Conflicting Layer Removal".
    python -m bench.experiments.policies --dataset digits --epochs 30 --out runs/experiments/policies-digits
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from cbkernels.drawing.figures import add_caption, new_figure, save, style_axes
from cbkernels.tables import format_table
from cbkernels.training.config import AutotuneConfig
from cbkernels.training.policies import POLICIES

from .many_runs import run_all

COLOURS = {"first": "#1864ab", "all": "#d9480f", "stage": "#2b8a3e", "added": "#862e9c"}


def main() -> None:
    """Run, print a table, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--train-size", type=int)
    parser.add_argument("--test-size", type=int)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--min-conflicting-rows", type=int, default=1)
    parser.add_argument("--no-baseline", action="store_true", help="the first network is not trained to its end")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    tasks = [
        (
            AutotuneConfig(
                dataset=given.dataset, train_size=given.train_size, test_size=given.test_size, depth=50, width=10,
                epochs=given.epochs, batch_size=given.batch_size, learning_rate=given.learning_rate, seed=seed,
                policy=policy, baseline=policy == "first" and not given.no_baseline,
                min_conflicting_rows=given.min_conflicting_rows,
            ),
            given.out / f"{policy}-seed{seed}",
        )
        for policy in POLICIES
        for seed in range(given.seeds)
    ]  # fmt: skip
    results = run_all(tasks, given.workers)
    rows = [row_of(result) for result in results]
    before = [r["before"]["test_accuracy"] for r in results if r["policy"] == "first"]
    summary = {"rows": rows, "before": before, "chance": results[0]["chance_accuracy"], "policies": summarised(rows)}
    (given.out / "summary.json").write_text(json.dumps(summary, indent=1))
    save(draw(results, given), given.out / "rounds.png")
    print(format_table(list(rows[0]), [list(row.values()) for row in rows]))
    print("before:", ", ".join(f"{a:.1%}" for a in before), f"(chance {summary['chance']:.1%})")
    print(json.dumps(summary["policies"], indent=1))


def row_of(result: dict[str, Any]) -> dict[str, Any]:
    """A line of the table."""
    depths = [sum(each["architecture"]["blocks"]) for each in result["rounds"]]
    after = result["after"]
    return {
        "policy": result["policy"],
        "seed": result["seed"],
        "status": result["status"],
        "depths": " ".join(map(str, depths)),
        "test_accuracy": None if after is None else round(after["test_accuracy"], 4),
        "measuring_share": round(result["measuring_share"], 4),
    }


def summarised(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds that ended as trained."""
    found = {}
    for policy in POLICIES:
        mine = [row for row in rows if row["policy"] == policy]
        reached = [row["test_accuracy"] for row in mine if row["test_accuracy"] is not None]
        found[policy] = {
            "trained": len(reached),
            "of": len(mine),
            "mean": float(np.mean(reached)) if reached else None,
            "std": float(np.std(reached)) if reached else None,
            "rounds": [len(row["depths"].split()) for row in mine],
        }
    return found


def draw(results: list[dict[str, Any]], given: Any) -> Any:
    """Depth after every round, the accuracy at the end of each line."""
    figure = new_figure(8.5, 4.8)
    ax = figure.subplots()
    for result in results:
        depths = [sum(each["architecture"]["blocks"]) for each in result["rounds"]]
        colour = COLOURS[result["policy"]]
        label = result["policy"] if result["seed"] == 0 else None
        ax.plot(range(len(depths)), depths, marker="o", color=colour, label=label, alpha=0.8)
        if result["after"] is not None:
            ax.annotate(f"{result['after']['test_accuracy']:.0%}", (len(depths) - 1, depths[-1]), color=colour,
                        textcoords="offset points", xytext=(6, 2), fontsize=9)  # fmt: skip
    style_axes(ax, f"{given.dataset}: layers left in every round", "round")
    most = max(len(result["rounds"]) for result in results)
    ax.set_xlim(-0.2, most - 0.6)
    ax.set_xticks(range(most))
    ax.set_ylabel("layers of 10")
    ax.set_yscale("log")
    ax.set_yticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    ax.legend(title="policy", frameon=False)
    add_caption(figure, f"{given.seeds} seeds each, {given.epochs} epochs; numbers: test accuracy of the last network.")
    return figure


if __name__ == "__main__":
    main()

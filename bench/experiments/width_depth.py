"""Width x depth: test accuracy of dense networks, with the boundary of those that conflict drawn over it.

After the first experiment of "Conflicting Bundles" (arXiv 2011.02956), which trains 176 networks on MNIST.
    python -m bench.experiments.width_depth --dataset digits --out runs/experiments/width-depth-digits
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from cbkernels.drawing.figures import add_caption, new_figure, save
from cbkernels.training.config import TrainConfig

from .many_runs import run_all

DEPTHS = (2, 4, 6, 8, 10, 14, 20, 30, 40, 50)
WIDTHS = (2, 4, 6, 8, 10, 16, 32, 64)


def main() -> None:
    """Train, print a table, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--train-size", type=int)
    parser.add_argument("--test-size", type=int)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    shape = (len(DEPTHS), len(WIDTHS))
    tasks = [
        (
            TrainConfig(
                dataset=given.dataset, train_size=given.train_size, test_size=given.test_size, depth=depth, width=width,
                epochs=given.epochs, batch_size=given.batch_size, learning_rate=given.learning_rate, seed=given.seed,
                margin=True, what_if=("bfloat16",),
            ),
            given.out / f"depth{depth:02d}-width{width:02d}",
        )
        for depth in DEPTHS
        for width in WIDTHS
    ]  # fmt: skip
    results = run_all(tasks, given.workers)
    accuracy = np.array([r["test_accuracy"] for r in results]).reshape(shape)
    last = [last_layer(folder) for _, folder in tasks]
    maps = {
        name: np.array([of_run[name] for of_run in last]).reshape(shape)
        for name in ("mean_entropy", "conflicts", "conflicts_bfloat16", "first_bits", "start_entropy")
    }
    summary = {
        "depths": DEPTHS, "widths": WIDTHS, "accuracy": accuracy.tolist(),
        **{name: values.tolist() for name, values in maps.items()}, "agreement": agreement(accuracy, maps),
    }  # fmt: skip
    (given.out / "summary.json").write_text(json.dumps(summary, indent=1))
    save(draw(accuracy, maps, given), given.out / "map.png")
    print(json.dumps(summary["agreement"], indent=1))


def last_layer(folder: Path) -> dict[str, float]:
    """What the last hidden layer did in a run: its entropy over the epochs, and its margin after the first one."""
    rows = list(csv.DictReader((folder / "layers.csv").open()))
    layer = rows[-1]["layer"]
    mine = [row for row in rows if row["layer"] == layer]
    as_trained = [row for row in mine if row["grid"].startswith("float32")]
    in_bfloat16 = [row for row in mine if row["grid"].startswith("bfloat16")]
    margins = [row for row in csv.DictReader((folder / "margins.csv").open()) if row["layer"] == layer]
    first = [float(row["bits"]) for row in margins if row["grid"].startswith("float32") and row["epoch"] == "0"]
    return {
        "mean_entropy": float(np.mean([float(row["entropy"]) for row in as_trained])),
        "start_entropy": float(as_trained[0]["entropy"]),
        "conflicts": float(int(as_trained[-1]["num_conflicting"]) > 0),
        "conflicts_bfloat16": float(int(in_bfloat16[-1]["num_conflicting"]) > 0) if in_bfloat16 else float("nan"),
        "first_bits": max(-60.0, first[0]) if first else float("nan"),
    }


def agreement(accuracy: Any, maps: dict[str, Any]) -> dict[str, float]:
    """How well the conflict at the end, and the margin before the training, tell which networks learn."""
    from scipy.stats import spearmanr

    conflicts = maps["conflicts"] > 0
    both = bool(conflicts.any()) and not bool(conflicts.all())
    return {
        "networks": int(accuracy.size),
        "conflicting_at_the_end": int(conflicts.sum()),
        "conflicting_at_the_end_bfloat16": int((maps["conflicts_bfloat16"] > 0).sum()),
        "mean_accuracy_conflicting": float(accuracy[conflicts].mean()) if conflicts.any() else float("nan"),
        "mean_accuracy_others": float(accuracy[~conflicts].mean()) if not conflicts.all() else float("nan"),
        "best_accuracy_conflicting": float(accuracy[conflicts].max()) if conflicts.any() else float("nan"),
        "worst_accuracy_others": float(accuracy[~conflicts].min()) if both else float("nan"),
        "spearman_accuracy_mean_entropy": float(spearmanr(accuracy.ravel(), maps["mean_entropy"].ravel()).statistic),
        "spearman_accuracy_margin_before_training": float(
            spearmanr(accuracy.ravel(), maps["first_bits"].ravel()).statistic
        ),
    }


def draw(accuracy: Any, maps: dict[str, Any], given: Any) -> Any:
    """Accuracy in colours, the boundaries of conflict as lines."""
    figure = new_figure(8.5, 5.6)
    ax = figure.subplots()
    image = ax.imshow(accuracy, origin="lower", aspect="auto", cmap="viridis", vmin=0, vmax=1)
    for row in range(len(DEPTHS)):
        for column in range(len(WIDTHS)):
            value = accuracy[row, column]
            ax.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=9,
                    color="white" if value < 0.6 else "black")  # fmt: skip
    _outline(ax, maps["conflicts"] > 0, "#d9480f", "solid")
    _outline(ax, maps["conflicts_bfloat16"] > 0, "#c2255c", "dashed")
    ax.set_xticks(range(len(WIDTHS)), [str(w) for w in WIDTHS])
    ax.set_yticks(range(len(DEPTHS)), [str(d) for d in DEPTHS])
    ax.set_xlabel("width")
    ax.set_ylabel("depth")
    figure.colorbar(image, ax=ax, pad=0.02).set_label("test accuracy")
    said = (
        f"{given.dataset}, {given.epochs} epochs, seed {given.seed}: test accuracy in %. Inside the solid line the "
        "last hidden layer conflicts after the last epoch (float32 grid), inside the dashed one it would in bfloat16."
    )
    add_caption(figure, said)
    return figure


def _outline(ax: Any, inside: Any, colour: str, style: str) -> None:
    """Lines around the cells that are inside."""
    padded = np.pad(inside, 1)
    rows, columns = inside.shape
    for row in range(rows + 1):
        for column in range(columns):
            if padded[row, column + 1] != padded[row + 1, column + 1]:
                ax.plot([column - 0.5, column + 0.5], [row - 0.5] * 2, color=colour, linestyle=style, linewidth=2.4)
    for row in range(rows):
        for column in range(columns + 1):
            if padded[row + 1, column] != padded[row + 1, column + 1]:
                ax.plot([column - 0.5] * 2, [row - 0.5, row + 0.5], color=colour, linestyle=style, linewidth=2.4)


if __name__ == "__main__":
    main()

"""RePr where a network overfits: what a comparison reached on its test samples and on those that it trained on.

After "RePr: Improved Training of Convolutional Filters" (arXiv 1811.07275), table 1. The runs are made by ``cbkernels
repr compare``, others of the same seeds by ``cbkernels train --repr``; this file puts them into one table.
    python -m bench.experiments.repr_overfitting runs/repr-cifar10 --also runs/repr-cifar10-published/seed*
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from bench.record import commit, machine, versions
from cbkernels.filters.criteria import STANDARD
from cbkernels.tables import format_table
from cbkernels.training.procedures.compare_repr import run_of, verdict
from cbkernels.training.trained_run import accuracy_of, load_trained

PUBLISHED = {"paper": (0.721, 0.764), "replication without augmentation": (0.649, 0.691)}
"""Test accuracies with standard training and with RePr by orthogonality, on all of CIFAR-10."""


def main() -> None:
    """Gather, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path, metavar="DIR", help="folder of repr compare")
    parser.add_argument("--also", nargs="*", type=Path, default=[], metavar="RUN", help="runs of the same seeds")
    parser.add_argument("--command", default="", help="how the runs were made, for the record")
    parser.add_argument("--json", type=Path, help="default: summary.json in DIR")
    given = parser.parse_args()
    content = json.loads((given.comparison / "comparison.json").read_text())
    rows = {
        row["criterion"]: [one_run(run_of(given.comparison, row["criterion"], seed)) for seed in content["seeds"]]
        for row in content["rows"]
    }
    for run in given.also:
        one = one_run(run)
        rows.setdefault(one["criterion"], []).append(one)
    criteria = {name: summary_of(runs, rows[STANDARD]) for name, runs in rows.items()}
    summary = {
        "command": given.command, "config": content["config"], "commit": commit(), "machine": machine(),
        "versions": versions(), "published": PUBLISHED, "criteria": criteria, "runs": rows,
    }  # fmt: skip
    (given.json or given.comparison / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    columns = ["test_mean", "test_std", "train_mean", "difference", "difference_std"]
    points = [[name, *("" if s[c] is None else f"{100 * s[c]:.1f}" for c in columns)] for name, s in criteria.items()]
    print(format_table(["criterion", *columns], points))
    print("\n".join(f"{name}: {s['verdict']}." for name, s in criteria.items() if s["verdict"]))


def one_run(folder: Path) -> dict[str, Any]:
    """Accuracies after the last epoch, the training's on the samples themselves, in evaluation mode."""
    run = load_trained(folder, device="cpu")
    images, labels = (part[run.samples.train_indices] for part in run.samples.train)
    config, history = run.config, [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    names = ("training", "measuring", "evaluating")
    return {
        "criterion": config.repr_criterion if config.repr else STANDARD, "seed": config.seed,
        "test_accuracy": run.result["test_accuracy"],
        "train_accuracy": accuracy_of(run.model, images, labels, run.preparation),
        "train_loss": history[-1]["train_loss"], "test_accuracies": [line["test_accuracy"] for line in history],
        "orthogonality": history[-1]["orthogonality"],
        "repr": {name: value for name, value in vars(config).items() if name.startswith("repr")},
        "seconds": round(sum(run.result[f"seconds_{name}"] for name in names), 1),
    }  # fmt: skip


def summary_of(runs: list[dict[str, Any]], standard: list[dict[str, Any]]) -> dict[str, Any]:
    """Means, spreads, and the differences to standard training of the same seeds."""
    reached, of_seed = [run["test_accuracy"] for run in runs], {run["seed"]: run["test_accuracy"] for run in standard}
    differences = [] if runs is standard else [run["test_accuracy"] - of_seed[run["seed"]] for run in runs]
    return {
        "test_mean": mean(reached), "test_std": stdev(reached),
        "train_mean": mean(run["train_accuracy"] for run in runs), "differences": differences,
        "difference": mean(differences) if differences else None,
        "difference_std": stdev(differences) if differences else None,
        "verdict": verdict(differences) if differences else None,
    }  # fmt: skip


if __name__ == "__main__":
    main()

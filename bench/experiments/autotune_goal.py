"""Auto-tune of 18 networks with every policy: how many end as trained, and what the last networks reach.

Digits and Fashion-MNIST, two dense networks and the papers' plain convolutional one of 120 layers, three seeds. A
policy that gives a run up is counted with the best network of its rounds. Fashion-MNIST: --data-dir or CBKERNELS_DATA.
    python -m bench.experiments.autotune_goal --out runs/experiments/autotune-goal
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

from bench.record import commit, machine, versions
from cbkernels.tables import format_table
from cbkernels.training.config import AutotuneConfig
from cbkernels.training.policies import POLICIES

from .many_runs import Task, run_all

DENSE = {"model": "fnn", "batch_size": 16, "learning_rate": 5e-3}
NETWORKS: dict[str, dict[str, Any]] = {
    "fnn 50x10": {**DENSE, "depth": 50, "width": 10},
    "fnn 30x8": {**DENSE, "depth": 30, "width": 8},
    "vgg 59 blocks": {
        "model": "vgg", "blocks": (3, 12, 41, 3), "width_multiplier": 0.125, "optimizer": "adamw",
        "learning_rate": 2e-3, "epochs": 15,
    },
    "vgg 59 blocks radam": {
        "model": "vgg", "blocks": (3, 12, 41, 3), "width_multiplier": 0.125, "learning_rate": 3e-3, "batch_size": 32,
        "epochs": 20,
    },
}  # fmt: skip
GOAL = ("fnn 50x10", "fnn 30x8", "vgg 59 blocks")
"""The 18; the papers' optimizer on the convolutional network is asked for by name, for it takes longer."""
DATA: dict[str, dict[str, Any]] = {
    "digits": {"epochs": 15},
    "fashion_mnist": {"epochs": 8, "train_size": 2000, "test_size": 2000},
}
SMALLER = {("fashion_mnist", name): {"image_size": 8} for name in NETWORKS if name.startswith("vgg")}
"""So that it takes minutes (14x14 pixels take five times as long). The dense networks get 28x28 pixels, of which three
of 64 samples tied in earlier runs."""


def main() -> None:
    """Train what is not there yet, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=GOAL)
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--data-dir")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path, help="default: summary.json in --out")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    began = time.time()
    keys = list(product(given.data, given.networks, range(given.seeds), given.policies))
    tasks: list[Task] = [
        (
            AutotuneConfig(
                **options_of(data, network), seed=seed, policy=policy, data_dir=given.data_dir, baseline=False
            ),
            given.out / f"{data}-{network.replace(' ', '-')}-seed{seed}-{policy}",
        )
        for data, network, seed, policy in keys
    ]  # fmt: skip
    rows = [row_of(*key, result) for key, result in zip(keys, run_all(tasks, given.workers), strict=True)]
    content = {
        "command": shlex.join(["python", "-m", "bench.experiments.autotune_goal", *sys.argv[1:]]),
        "seeds": list(range(given.seeds)), "commit": commit(), "machine": machine(), "versions": versions(),
        "seconds_of_this_call": round(time.time() - began, 1),
        "seconds_of_all_runs": round(sum(row["seconds"] for row in rows), 1),
        "policies": {policy: summary_of([r for r in rows if r["policy"] == policy]) for policy in given.policies},
        "runs": rows,
    }  # fmt: skip
    path = given.json or given.out / "summary.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    shown = ["data", "network", "seed", "policy", "status", "blocks", "test_accuracy"]
    print(format_table(shown, [[str(row[name]) for name in shown] for row in rows]))
    print(json.dumps(content["policies"], indent=1))


def options_of(data: str, network: str) -> dict[str, Any]:
    """Data, network and recipe of a starting point, as options of a ``TrainConfig``."""
    smaller = SMALLER.get((data, network), {})
    return {"dataset": data, **DATA[data], **NETWORKS[network], **smaller, "threads": 1, "device": "cpu"}


def row_of(data: str, network: str, seed: int, policy: str, result: dict[str, Any]) -> dict[str, Any]:
    """One run; blocks: those of every round, stages joined by a hyphen."""
    after = result["after"] or {}
    return {
        "data": data, "network": network, "seed": seed, "policy": policy, "status": result["status"],
        "blocks": " ".join("-".join(map(str, each["architecture"]["blocks"])) for each in result["rounds"]),
        "test_accuracy": after.get("test_accuracy"), "parameters": after.get("parameters"),
        "reason": result["reason"],
        "seconds": round(sum(result[f"seconds_{what}"] for what in ("training", "measuring", "evaluating")), 2),
    }  # fmt: skip


def summary_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How many were trained; mean accuracies of all runs, of the trained ones, and of each network and data set."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        trained = ["trained"] if row["status"] == "trained" else []
        for name in ("all", *trained, f"{row['data']}, {row['network']}"):
            groups.setdefault(name, []).append(row["test_accuracy"] or 0.0)
    return {
        "trained": sum(row["status"] == "trained" for row in rows), "of": len(rows),
        "mean_test_accuracy": {name: round(sum(each) / len(each), 4) for name, each in groups.items()},
    }  # fmt: skip


if __name__ == "__main__":
    main()

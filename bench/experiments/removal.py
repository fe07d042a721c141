"""Removal from trained residual networks, several seeds: every ranking, with healing and without, and the margins.

After "Auto-tuning of Deep Neural Networks by Conflicting Layer Removal" (arXiv 2103.04331). The runs are made by
``cbkernels train --margin`` and ``cbkernels remove``; this file gathers RUN/removal and RUN-* into tables and pictures.
    python -m bench.experiments.removal runs/resnet-seed0 runs/resnet-seed1 runs/resnet-seed2 --out runs/removal-study
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from bench.record import commit, machine, versions
from cbkernels.tables import format_table

from .removal_figures import draw_curves, draw_margins

WITHIN = 0.01
"""What a removal may cost, of an accuracy up to 1."""


def main() -> None:
    """Gather, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--healings", type=int, default=0, metavar="N",
                        help="also heal the whole network so often, as if blocks had been removed")  # fmt: skip
    parser.add_argument("--json", type=Path, help="default: summary.json in --out")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    seeds = [{**one_run(run), "nothing_removed": nothing_removed(run, given.healings)} for run in given.runs]
    content = {
        "command": shlex.join(["python", "-m", "bench.experiments.removal", *sys.argv[1:]]),
        "commit": commit(), "machine": machine(), "versions": versions(), "runs": seeds,
    }  # fmt: skip
    (given.json or given.out / "summary.json").write_text(json.dumps(content) + "\n")
    draw_curves(seeds, given.out / "removal-curves.png")
    draw_margins(seeds, given.out / "margins.png")
    for seed in seeds:
        shown = ("test_accuracy", "nothing_removed", "num_conflicting", "cheap_alone", "spearman_margin",
                 "spearman_similarity", "spearman_position")  # fmt: skip
        print(seed["run"], json.dumps({name: seed[name] for name in shown}))
        rows = [row_of(pruning, seed["num_blocks"]) for pruning in seed["prunings"]]
        print(format_table(list(rows[0]), [[str(value) for value in row.values()] for row in rows]))


def one_run(run: Path) -> dict[str, Any]:
    """The numbers of one seed."""
    trained = _json(run / "result.json")
    folders = [run / "removal", *sorted(run.parent.glob(f"{run.name}-*"))]
    removals = [_json(folder / "result.json") for folder in folders if (folder / "result.json").exists()]
    studied = next(removal for removal in removals if removal["study"] is not None)
    blocks, before = studied["blocks"], studied["study"]["accuracy"]
    costs = {block["branch"]: before - block["accuracy_without"] for block in blocks}
    margins = margins_of(run)
    return {
        "run": run.name,
        "trained": {name: trained[name] for name in ("epochs", "seconds_training", "seconds_measuring")},
        "recipe": _json(run / "config.json"),
        "test_accuracy": trained["test_accuracy"],
        "num_blocks": len(blocks),
        "num_conflicting": sum(block["num_conflicting"] > 0 for block in blocks),
        "cost_alone": costs,
        "cheap_alone": sum(cost < WITHIN for cost in costs.values()),
        "spearman_margin": spearman([block["margin_bits"] for block in blocks], list(costs.values())),
        "spearman_similarity": spearman([-block["similarity"] for block in blocks], list(costs.values())),
        "spearman_position": spearman([-i for i in range(len(blocks))], list(costs.values())),  # the last one first
        "epochs": list(margins),
        "margins": {branch: [found[branch] for found in margins.values()] for branch in costs},
        "spearman_margin_at": {
            epoch: spearman([found[branch] for branch in costs], list(costs.values()))
            for epoch, found in margins.items()
        },
        "study": {"samples": studied["study"]["samples"], "accuracy": before, "curves": studied["curves"]},
        "prunings": [pruning for removal in removals for pruning in prunings_of(removal)],
    }


def nothing_removed(run: Path, healings: int) -> list[float]:
    """Test accuracies of the whole network after each of so many healings of its removal's length."""
    from cbkernels.training.trained_run import accuracy_of, fit, load_trained

    trained = load_trained(run, device="cpu")
    epochs = _json(run / "removal" / "config.json")["heal_epochs"]
    found = []
    for seed in range(healings):
        fit(trained.model, trained, epochs=epochs, seed=seed)
        found.append(accuracy_of(trained.model, *trained.samples.test, trained.preparation))
    return found


def margins_of(run: Path) -> dict[int, dict[str, float | None]]:
    """Epoch -> branch -> bits above the float32 grid's step, as far as they were measured."""
    of_epoch: dict[int, dict[str, float | None]] = defaultdict(dict)
    for row in csv.DictReader((run / "margins.csv").read_text().splitlines()):
        if row["grid"].startswith("float32"):
            bits = float(row["bits"])
            of_epoch[int(row["epoch"])][row["layer"]] = round(bits, 3) if np.isfinite(bits) else None
    return dict(of_epoch)


def prunings_of(removal: dict[str, Any]) -> list[dict[str, Any]]:
    """Every ranking of one folder of ``cbkernels remove``."""
    how = {name: removal[name] for name in ("heal", "heal_epochs", "strategy", "max_drop", "target")}
    whole = removal["before"]
    found = []
    for each in (removal, *removal["compared"]):
        kept = [step for step in each["steps"] if step["kept"]]
        last = kept[-1] if kept else whole
        found.append({
            **how, "rank": each["rank"], "removed": each["removed"], "reason": each["reason"],
            "accuracy": each["accuracy"], "steps": each["steps"], "finetune_epochs": each["finetune_epochs"],
            "guard_before": removal["guard"]["accuracy"],
            "parameters": [whole["parameters"], last["parameters"]], "macs": [whole["macs"], last["macs"]],
        })  # fmt: skip
    for name in ("latency_ms", "peak_memory_bytes"):
        found[0][name] = [removal[when][name] for when in ("before", "after")]
    return found


def row_of(pruning: dict[str, Any], num_blocks: int) -> dict[str, Any]:
    """A line of the table."""
    reached = pruning["accuracy"]
    before, removed, healed = (reached[name] for name in ("before", "removed", "healed"))
    parameters = pruning["parameters"]
    return {
        "heal": f"{pruning['heal']}, {pruning['heal_epochs']}", "strategy": pruning["strategy"],
        "rank": pruning["rank"],
        "steps": " ".join(
            f"{'+' if step['kept'] else '-'}{len(step['blocks'])}" for step in pruning["steps"][:12]
        ),
        "removed": f"{len(pruning['removed'])} of {num_blocks}",
        "before": f"{before:.2%}", "removed only": f"{removed:.2%}",
        "after": f"{removed if healed is None else healed:.2%}",
        "parameters": f"{parameters[1] / parameters[0] - 1:+.0%}",
    }  # fmt: skip


def spearman(one: list[Any], other: list[float]) -> float | None:
    """Rank correlation over the blocks for which both are known."""
    from scipy.stats import spearmanr

    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None]
    value = float(spearmanr([a for a, _ in pairs], [b for _, b in pairs]).statistic) if len(pairs) > 2 else float("nan")
    return value if np.isfinite(value) else None


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


if __name__ == "__main__":
    main()

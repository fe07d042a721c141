"""Auto-tune beside a plain search over depth: the same data, recipe and held-back part, and what both cost.

For every starting point of ``autotune_goal`` the first network is trained as it is, auto-tuned by the policy
``added``, and rivalled by shallow networks of its kind, of which the held-back part chooses one. Of the same size: the
shallow network whose parameters are nearest in number to the auto-tuned one's. Fashion-MNIST: as in autotune_goal.
    python -m bench.experiments.rival --out runs/experiments/rival
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import sys
import time
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from torch import nn

from bench.record import commit, machine, versions
from cbkernels.models.cost import measure_costs
from cbkernels.training.config import AutotuneConfig, TrainConfig
from cbkernels.training.trained_run import load_trained

from .autotune_goal import DATA, GOAL, NETWORKS, options_of
from .many_runs import SECONDS, Task, run_all

POLICY = "added"
HELD_BACK = 0.2
REPEATS = 60
"""Timed passes of each network; the fastest tenth tells of a machine on which something else runs."""
DEPTHS: dict[str, list[dict[str, Any]]] = {
    "fnn": [{"depth": depth} for depth in (1, 2, 3, 4, 6, 8, 12)],
    "vgg": [
        {"blocks": blocks}
        for blocks in ((1, 0, 0, 0), (1, 1, 0, 0), (2, 2, 0, 0), (3, 3, 0, 0),
                       (1, 1, 1, 0), (1, 1, 1, 1), (2, 2, 2, 2), (3, 3, 3, 3))
    ],
}  # fmt: skip
"""What the plain search trains, of each kind of network."""
SHOWN = {"before": "before", "tuned": "auto-tuned", "chosen": "plain search", "nearest": "of the same size"}
COSTS = ("parameters", "macs", "latency_ms", "latency_ms_p10", "latency_ms_p90", "peak_memory_bytes", "latency_batch")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is not there yet, measure the costs in turns, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=GOAL)
    parser.add_argument("--data-dir")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path, help="default: summary.json in --out")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    began = time.time()
    points = list(product(given.data, given.networks, range(given.seeds)))
    tasks = {point: tasks_of(*point, given.out, given.data_dir) for point in points}
    run_all([task for of_point in tasks.values() for task in of_point.values()], given.workers)
    rows = [row_of(*point, of_point, given.data_dir) for point, of_point in tasks.items()]
    now = datetime.datetime.now(datetime.timezone.utc)
    said = sys.argv[1:] if arguments is None else arguments
    content = {
        "command": shlex.join(["python", "-m", "bench.experiments.rival", *said]),
        "date": now.isoformat(timespec="seconds"), "seeds": list(range(given.seeds)), "policy": POLICY,
        "held_back": HELD_BACK, "commit": commit(), "machine": machine(), "versions": versions(),
        "seconds_of_this_call": round(time.time() - began, 1), "summary": summary_of(rows), "runs": rows,
    }  # fmt: skip
    path = given.json or given.out / "summary.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    print("\n".join(markdown(rows)))
    print(json.dumps(content["summary"], indent=1))


def tasks_of(data: str, network: str, seed: int, out: Path, data_dir: str | None) -> dict[str, Task]:
    """The first network, auto-tune, and the networks of the plain search, each with the folder of its run."""
    options = {**options_of(data, network), "seed": seed, "data_dir": data_dir, "validation_share": HELD_BACK}
    plain = {**options, "probe_size": 2}  # nobody looks at what is measured of these
    folder = out / f"{data}-{network.replace(' ', '-')}-seed{seed}"
    tasks: dict[str, Task] = {
        "before": (TrainConfig(**plain), folder / "before"),
        "tuned": (AutotuneConfig(**options, policy=POLICY, baseline=False), folder / "tuned"),
    }
    for shallow in DEPTHS[options["model"]]:
        config = TrainConfig(**{**plain, **shallow})
        name = "-".join(map(str, config.architecture.blocks))
        tasks[name] = (config, folder / f"depth-{name}")
    return tasks


def row_of(data: str, network: str, seed: int, tasks: dict[str, Task], data_dir: str | None) -> dict[str, Any]:
    """A starting point: its four networks, all networks of the search, and what auto-tune and the search took."""
    results = {name: json.loads((folder / "result.json").read_text()) for name, (_, folder) in tasks.items()}
    tuned = results.pop("tuned")
    found = {name: described(result, tasks[name][1], result["cost"]) for name, result in results.items()}
    search = [found[name] for name in found if name != "before"]
    chosen = max(search, key=lambda each: (each["validation_accuracy"], -each["parameters"]))
    networks = {
        "before": found["before"], "tuned": described(tuned["after"], tasks["tuned"][1], tuned["after"]),
        "chosen": chosen,
    }  # fmt: skip
    size = networks["tuned"]["parameters"]
    networks["nearest"] = min(search, key=lambda each: abs(each["parameters"] - size))
    folders = {name: tasks["tuned"][1].parent / each["run"] for name, each in networks.items()}
    for name, cost in costs_in_turns(folders, data_dir).items():
        networks[name] = {**networks[name], **cost}
    rounds = tuned["rounds"]
    searched = {name: result for name, result in results.items() if name != "before"}
    return {
        "data": data, "network": network, "seed": seed, "status": tuned["status"],
        "rounds": ["-".join(map(str, each["architecture"]["blocks"])) for each in rounds],
        "networks": networks, "search": search,
        "took": {
            "tuned": took(
                [tasks["tuned"]], [tuned], len(rounds), sum(each["epochs"] for each in rounds),
                "training", "measuring", "evaluating",
            ),
            "chosen": took(
                [tasks[name] for name in searched], list(searched.values()), len(searched),
                sum(each["epochs"] for each in searched.values()), "training", "evaluating",
            ),
        },
    }  # fmt: skip


def described(result: dict[str, Any], folder: Path, cost: dict[str, Any]) -> dict[str, Any]:
    """A network: its run, blocks, accuracies, and what its own run measured of its cost."""
    last = json.loads((folder / "history.jsonl").read_text().splitlines()[-1])
    return {
        "run": folder.name, "blocks": "-".join(map(str, result["architecture"]["blocks"])),
        "test_accuracy": result["test_accuracy"], "validation_accuracy": last["validation_accuracy"],
        **{name: cost[name] for name in COSTS},
    }  # fmt: skip


def took(tasks: list[Task], results: list[dict[str, Any]], networks: int, epochs: int, *needed: str) -> dict[str, Any]:
    """Networks, epochs and processor seconds of a search; of its runs only the share of what it needs counts."""
    seconds = 0.0
    for (_, folder), result in zip(tasks, results, strict=True):
        spent = {part: result[f"seconds_{part}"] for part in ("training", "measuring", "evaluating")}
        share = sum(spent[part] for part in needed) / sum(spent.values())
        seconds += share * float(json.loads((folder / SECONDS).read_text())["process_seconds"])
    return {"networks": networks, "epochs": epochs, "process_seconds": round(seconds, 2)}


def costs_in_turns(folders: dict[str, Path], data_dir: str | None) -> dict[str, dict[str, Any]]:
    """One forward pass of a batch by each network, in turns so that a busy machine is busy for all of them."""
    runs = {name: load_trained(folder, device="cpu", data_dir=data_dir) for name, folder in folders.items()}
    example = next(iter(runs.values())).samples.example(next(iter(runs.values())).batch_size)
    one_of_them = nn.Sequential(nn.Identity())
    states = {name: partial(one_of_them.__setitem__, 0, run.model) for name, run in runs.items()}
    costs = measure_costs(states, one_of_them, example, repeats=REPEATS)
    return {name: {**cost.to_dict(), "latency_batch": len(example)} for name, cost in costs.items()}


def summary_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over all starting points, and how often each of the shallow networks is more accurate on the test part."""
    means = {
        name: {
            what: sum(row["networks"][name][what] for row in rows) / len(rows)
            for what in ("test_accuracy", "parameters", "latency_ms", "latency_ms_p10", "peak_memory_bytes")
        }
        for name in SHOWN
    }
    totals = {
        name: {what: round(sum(row["took"][name][what] for row in rows), 1) for what in rows[0]["took"][name]}
        for name in rows[0]["took"]
    }
    better = {
        name: sum(
            row["networks"][name]["test_accuracy"] > row["networks"]["tuned"]["test_accuracy"] for row in rows
        )
        for name in ("chosen", "nearest")
    }  # fmt: skip
    trained = sum(row["status"] == "trained" for row in rows)
    return {"of": len(rows), "trained": trained, "means": means, "took": totals, "better_than_tuned": better}


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """The table of the document: a line for each network of each starting point, its seeds side by side."""
    titles = ["", "blocks", "test accuracy, %", "parameters", "latency, ms (fastest tenth)", "peak memory, kB"]
    titles += ["epochs", "processor seconds"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for data, network in dict.fromkeys((row["data"], row["network"]) for row in rows):
        mine = [row for row in rows if (row["data"], row["network"]) == (data, network)]
        for name, title in SHOWN.items():
            found = [row["networks"][name] for row in mine]
            search = [row["took"][name] for row in mine if name in row["took"]]
            median, fastest = (mean(each[what] for each in found) for what in ("latency_ms", "latency_ms_p10"))
            lines.append("| " + " | ".join([
                f"{data}, {network}: {title}",
                found[0]["blocks"] if name == "before" else ", ".join(each["blocks"] for each in found),
                ", ".join(f"{100 * each['test_accuracy']:.1f}" for each in found),
                f"{mean(each['parameters'] for each in found):,.0f}",
                f"{median:.2f} ({fastest:.2f})",
                f"{mean(each['peak_memory_bytes'] for each in found) / 1000:,.0f}",
                f"{mean(each['epochs'] for each in search):.0f}" if search else "",
                f"{mean(each['process_seconds'] for each in search):.1f}" if search else "",
            ]) + " |")  # fmt: skip
    return lines


def mean(values: Any) -> float:
    """Of an iterable of numbers."""
    listed = list(values)
    return sum(listed) / len(listed)


if __name__ == "__main__":
    main()

"""Run folders for tests of the report, made from a seed: as `cbkernels train`, `autotune` and `remove` write them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

LAYER_COLUMNS = ("run", "round", "epoch", "layer", "num_rows", "num_bundles", "num_conflicting", "entropy", "grid")
MARGIN_COLUMNS = ("run", "round", "epoch", "layer", "margin", "bits", "grid")
EQUALITY = "equal on the float32 update grid, lr=0.001 batch_size=64 w=0.7 to 1.1"
ROWS = 512
Row = Sequence[object]


def write_train(
    folder: Path, *, layers: int = 50, epochs: int = 40, margins: bool = False, what_if: bool = False, seed: int = 0
) -> Path:
    """A finished `train` of a plain network whose layers conflict from a third of its depth on."""
    random = np.random.RandomState(seed)
    config = {"dataset": "digits", "model": "fnn", "depth": layers, "width": 10, "epochs": epochs, "seed": seed}
    write_start(folder, "train", config)
    write_lines(folder, history(random, "train", 0, range(epochs + 1), end=0.31))
    measured = list(layer_rows(random, "train", 0, range(epochs + 1), layers, layers // 3))
    if what_if:
        measured += layer_rows(random, "train", 0, range(epochs + 1), layers, layers // 8, dtype="bfloat16")
    write_table(folder / "layers.csv", LAYER_COLUMNS, measured)
    if margins:
        write_table(folder / "margins.csv", MARGIN_COLUMNS, margin_rows(random, "train", 0, range(epochs + 1), layers))
    write_json(folder / "result.json", {
        "command": "train", "version": "0.5.0", "status": "trained", "seed": seed,
        "architecture": architecture(layers), "epochs": epochs, "test_accuracy": 0.3117, "mean_test_accuracy": 0.30,
        "chance_accuracy": 0.1018, "entropy_mean": {"hidden.0": 0.0}, "cost": {**cost(layers), "device": "cpu"},
        "num_conflicting_layers": layers - layers // 3, "first_conflicting": f"hidden.{layers // 3}",
        "equality": EQUALITY, **times(),
    })  # fmt: skip
    return folder


def write_autotune(
    folder: Path, *, depths: Sequence[int] = (50, 31, 17, 9), epochs: int = 40, finished: bool = True, seed: int = 1
) -> Path:
    """An `autotune`: the first network to its end, then a round for every further depth."""
    random = np.random.RandomState(seed)
    config = {"dataset": "digits", "model": "fnn", "depth": depths[0], "width": 10, "epochs": epochs, "seed": seed,
              "policy": "all", "check_epochs": 10}  # fmt: skip
    write_start(folder, "autotune", config)
    lines: list[dict[str, Any]] = []
    measured: list[Row] = []
    rounds = []
    for round_, depth in enumerate(depths):
        is_last = round_ == len(depths) - 1
        trained = range(epochs + 1) if is_last or round_ == 0 else range(1 + round_ % 3)
        lines += history(random, "autotune", round_, trained, end=0.943 if is_last else 0.1)
        measured += layer_rows(random, "autotune", round_, trained, depth, depth if is_last else depth // 2)
        removed = [] if is_last else [f"hidden.{i}" for i in range(depths[round_ + 1], depth)]
        rounds.append({
            "round": round_, "architecture": architecture(depth), "name": f"fnn, {depth} layers of 10",
            "epochs": len(trained) - 1, "conflict_epoch": None if is_last else 1, "removed": removed,
            "entropy": None if is_last else 1.3132,
            "reason": "10 epochs without a conflict: trained to the end" if is_last
            else f"hidden.{depth - 1} conflicts after epoch 1: {len(removed)} conflicting layers are removed",
            "test_accuracy": 0.943 if is_last else 0.1 + 0.01 * round_,
        })  # fmt: skip
    write_lines(folder, lines)
    write_table(folder / "layers.csv", LAYER_COLUMNS, measured)
    if finished:
        ends = [{"architecture": architecture(d), "name": f"fnn, {d} layers of 10", "test_accuracy": a,
                 "epochs": epochs, **cost(d)} for d, a in ((depths[0], 0.0996), (depths[-1], 0.943))]  # fmt: skip
        write_json(folder / "result.json", {
            "command": "autotune", "version": "0.5.0", "status": "trained", "reason": "10 epochs without a conflict",
            "seed": seed, "policy": "all", "rounds": rounds, "before": ends[0], "after": ends[1],
            "chance_accuracy": 0.1018, "equality": EQUALITY, **times(),
        })  # fmt: skip
    return folder


def write_remove(folder: Path, *, stages: Sequence[int] = (3, 6, 12, 3), finetune: int = 5, seed: int = 2) -> Path:
    """A finished `remove` of a residual network, with the study."""
    random = np.random.RandomState(seed)
    names = [f"stages.{s}.{b}" for s, blocks in enumerate(stages) for b in range(blocks)]
    bits = np.sort(random.normal(3.0, 4.0, len(names)))[::-1]
    conflicting = bits < 0
    write_start(folder, "remove", {"rank": "margin", "max_drop": 0.01, "finetune_epochs": finetune, "seed": seed,
                                   "run": "../resnet"})  # fmt: skip
    write_lines(folder, history(random, "finetune", 0, range(1, finetune + 1), start=0.86, end=0.875))
    write_table(folder / "layers.csv", LAYER_COLUMNS, layer_rows(random, "remove", 0, [0], len(names), len(names)))
    gone = [name for name, b in zip(names, bits, strict=True) if b < 1.0]
    counts = {"conflicting": conflicting.sum(), "non_conflicting": (~conflicting).sum(), "any": len(names),
              "lowest_margin": len(names)}  # fmt: skip
    slopes = {"conflicting": 0.004, "non_conflicting": 0.09, "any": 0.05, "lowest_margin": 0.002}
    curves = {kind: [{"removed": k, "mean": max(0.1, 0.871 - slopes[kind] * k ** 1.4),
                      "std": 0.0 if kind == "lowest_margin" else 0.4 * slopes[kind] * math.sqrt(k),
                      "draws": 1 if kind == "lowest_margin" else 15} for k in range(int(n) + 1)]
              for kind, n in counts.items()}  # fmt: skip
    before, after = cost(2 * len(names), 60_000), cost(2 * (len(names) - len(gone)), 60_000)
    write_json(folder / "result.json", {
        "command": "remove", "version": "0.5.0", "seed": seed, "run": "resnet",
        "architecture": {"blocks": list(stages), "model": "resnet", "width": 10, "width_multiplier": 0.125},
        "blocks": [{"block": name, "branch": f"{name}.branch", "stage": name.split(".")[1], "num_bundles": ROWS - 9 * i,
                    "num_conflicting": int(conflicting[i]) * 3, "entropy": 0.02 * int(conflicting[i]),
                    "margin": 2.0 ** bits[i] * 0.004, "margin_bits": float(bits[i]), "similarity": 0.6 + 0.015 * i,
                    "accuracy_without": float(0.872 - 0.01 * 1.25 ** max(0.0, bits[i]) * (0.5 + random.rand()))}
                   for i, name in enumerate(names)],
        "curves": curves, "study": {"split": "test", "samples": 2000, "accuracy": 0.871}, "rank": "margin",
        "max_drop": 0.01, "guard": {"split": "validation", "samples": 1200},
        "steps": [{"block": name, "kept": True, "accuracy": 0.87 - 0.001 * i,
                   "reason": f"lowest margin; accuracy falls by {0.1 * i:.1f} points, within 1.0"}
                  for i, name in enumerate(gone)]
        + [{"block": names[1], "kept": False, "accuracy": 0.81, "reason": "accuracy would fall by 6.0 points"}],
        "removed": gone, "accuracy": {"before": 0.871, "removed": 0.8655, "healed": 0.8752},
        "before": {**before, "device": "cpu"}, "after": {**after, "device": "cpu"}, "finetune_epochs": finetune,
        "export": "model/",
    })  # fmt: skip
    return folder


# --- single files ---------------------------------------------------------------------------------


def write_start(folder: Path, command: str, config: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", {"command": command, "version": "0.5.0", **config})
    write_json(folder / "env.json", {"version": "0.5.0", "backends": {"cpu": None, "cuda": "not in this build"},
                                     "python": "3.12.3", "torch": "2.13.0", "torch_threads": 1, "cpus": 2,
                                     "device": "cpu"})  # fmt: skip


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def write_lines(folder: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])


def architecture(depth: int) -> dict[str, Any]:
    return {"blocks": [depth], "model": "fnn", "width": 10, "width_multiplier": 1.0}


def cost(depth: int, of_layer: int = 110) -> dict[str, Any]:
    n = 760 + of_layer * depth
    latencies = {"latency_ms": 0.031 * depth, "latency_ms_p10": 0.029 * depth, "latency_ms_p90": 0.037 * depth}
    return {"parameters": n, "macs": n - 20, "flops": 2 * n - 40, **latencies, "peak_memory_bytes": 4 * n + 5120,
            "latency_batch": 64, "device": "cpu"}  # fmt: skip


def times() -> dict[str, float]:
    return {"seconds_training": 31.2, "seconds_measuring": 0.41, "measuring_share": 0.013}


def history(
    random: np.random.RandomState, run: str, round_: int, epochs: Iterable[int], *, start: float = 0.1, end: float
) -> list[dict[str, Any]]:
    lines = []
    for epoch in epochs:
        accuracy = end - (end - start) * math.exp(-epoch / 6) + 0.01 * random.randn()
        lines.append({
            "run": run, "round": round_, "epoch": epoch,
            "train_loss": None if epoch == 0 else 2.3 * (1.05 - accuracy) + 0.02 * random.rand(),
            "test_accuracy": min(1.0, max(0.0, accuracy)), "validation_accuracy": None, "weight_amplitude": 0.7,
            "num_conflicting_layers": 3, "first_conflicting": "hidden.8", "seconds_training": 0.7,
            "seconds_measuring": 0.009, "seconds_evaluating": 0.01,
        })  # fmt: skip
    return lines


def layer_rows(
    random: np.random.RandomState, run: str, round_: int, epochs: Iterable[int], layers: int, first: int,
    dtype: str = "float32",
) -> list[Row]:  # fmt: skip
    """Layers from ``first`` on conflict, the more the deeper."""
    rows: list[Row] = []
    for epoch in epochs:
        grid = f"{dtype} lr=0.001 batch_size=64 w={0.7 + 0.01 * epoch}"
        starts = first + int(random.randint(0, 3)) if first < layers else layers
        for i in range(layers):
            entropy = 0.0 if i < starts else min(math.log(10), 0.2 * (i - starts + 1) * (1 + 0.2 * random.rand()))
            bundles = max(1, ROWS - int(ROWS * entropy / math.log(10)))
            rows.append((run, round_, epoch, f"hidden.{i}", ROWS, bundles, int(entropy > 0) * 7, repr(entropy), grid))
    return rows


def margin_rows(random: np.random.RandomState, run: str, round_: int, epochs: Iterable[int], layers: int) -> list[Row]:
    rows: list[Row] = []
    for epoch in epochs:
        grid = f"float32 lr=0.001 batch_size=64 w={0.7 + 0.01 * epoch}"
        for i in range(layers):
            bits = 6.0 - 20.0 * i / layers + 0.5 * random.randn()
            margin, shown = (0.0, "-inf") if bits < -10 else (0.004 * 2.0**bits, repr(bits))
            rows.append((run, round_, epoch, f"hidden.{i}", repr(margin), shown, grid))
    return rows

"""Run folders for tests: fresh small ones of every kind, large ones of the package's own writer, damaged ones."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import cbkernels as cb
from cbkernels.runs import schema
from cbkernels.runs.folder import RunFolder

OLD = Path(__file__).with_name("runs") / "old_folders"
BOMB = (
    "<script>alert(1)</script>\"'><img src=http://evil.example/x onerror=alert(1)>"
    "$\\frac{1}{$\x00\u202egnp\ud800{{7*7}}"
)
SMALL: dict[str, Any] = {
    "train_size": 100, "test_size": 40, "batch_size": 20, "probe_size": 16, "device": "cpu", "threads": 1, "epochs": 1,
    "width": 3, "width_multiplier": 0.05,
}  # fmt: skip


class Killed(Exception):
    """In place of a signal."""


def make_runs(root: Path) -> dict[str, Path]:
    """A run of every kind by the code as it is: name -> folder."""
    from cbkernels import training
    from cbkernels.training import AutotuneConfig, RemoveConfig, TrainConfig

    def kill(status: str, epoch: int, epochs: int) -> None:
        if epoch:
            raise Killed

    blocks = {"blocks": (1, 1, 0, 0)}
    cycle = {"repr": True, "repr_full_epochs": 1, "repr_reduced_epochs": 1, "repr_cycles": 1, "repr_share": 0.1}
    configs: dict[str, dict[str, Any]] = {
        "fnn": {"depth": 4, "what_if": ("bfloat16",), "margin": True}, "vgg": blocks, "resnet": blocks,
        "cnn": {"depth": 2, "width": 8, "epochs": 3, **cycle},
    }  # fmt: skip
    for model, options in configs.items():
        training.train(TrainConfig(**{**SMALL, "model": model, **options}), root / model)
    training.autotune_configured(AutotuneConfig(**{**SMALL, "depth": 6, "policy": "stage"}), root / "autotune")
    with suppress(Killed):
        training.train(TrainConfig(**{**SMALL, "depth": 4, "epochs": 3}), root / "unfinished", show=kill)
    removal = RemoveConfig(
        max_drop=1.0, compare=("random",), heal_epochs=1, draws=2, study_size=20, probe_size=16, device="cpu"
    )
    training.remove_blocks(training.load_trained(root / "resnet", device="cpu"), removal, root / "remove")
    compared = {**SMALL, "model": "cnn", "depth": 1, "width": 8, "epochs": 3, **cycle, "repr": False}
    training.compare(TrainConfig(**compared), root / "comparison", criteria=("standard", "random"), seeds=2)
    return {path.parent.relative_to(root).as_posix(): path.parent for path in sorted(root.rglob(schema.CONFIG))}


def copied(name: str, to: Path) -> Path:
    """One of version 0.1.0's runs, whose every number is known."""
    return Path(shutil.copytree(OLD / name, to))


def content_of(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text()))


def changed(folder: Path, **entries: Any) -> Path:
    """The run with other entries in its result."""
    result = folder / schema.RESULT
    result.write_text(json.dumps({**content_of(result), **entries}))
    return folder


# --- large ones -----------------------------------------------------------------------------------


def write_rounds(folder: Path, depths: Sequence[int], epochs: int) -> Path:
    """A finished auto-tune whose first and last networks were trained to the end, and the others for one epoch."""
    from cbkernels.runs.log import RunLog

    config = {"dataset": "digits", "model": "fnn", "depth": depths[0], "width": 10, "epochs": epochs}
    run = RunFolder(folder)
    run.write_json(schema.CONFIG, {"command": "autotune", "version": "0.1.0", **config})
    log, rounds = RunLog(run), []
    for round_, depth in enumerate(depths):
        is_last = round_ == len(depths) - 1
        for epoch in range(1 + (epochs if is_last or not round_ else 1)):
            log.add_reports("autotune", round_, epoch, [report(depth, depth if is_last else depth // 2, epoch)])
            accuracy = (0.943 if is_last else 0.1) * (1 - 0.5 * math.exp(-epoch))
            loss = 2.3 * (1.05 - accuracy) if epoch else None
            log.add_epoch(
                {"run": "autotune", "round": round_, "epoch": epoch, "train_loss": loss, "test_accuracy": accuracy}
            )
        architecture = {"blocks": [depth], "model": "fnn", "width": 10, "width_multiplier": 1.0}
        removed = [] if is_last else [f"hidden.{i}" for i in range(depths[round_ + 1], depth)]
        rounds.append({"round": round_, "architecture": architecture, "epochs": epoch, "removed": removed})
    log.write()
    ends = {
        "before": {"architecture": rounds[0]["architecture"]},
        "after": {"architecture": rounds[-1]["architecture"]},
    }
    result = {"command": "autotune", "status": "trained", "rounds": rounds, **ends, "chance_accuracy": 0.1}
    run.write_json(schema.RESULT, result)
    return folder


def report(layers: int, first: int, epoch: int) -> cb.LayerReport:
    """Layers from ``first`` on conflict, the more the deeper."""
    grid = cb.UpdateGrid(learning_rate=1e-3, batch_size=64, weight_amplitude=0.7 + epoch / 128)
    healthy = cb.bundle_entropy(np.eye(4), np.arange(4), grid=grid)
    entropies = [min(math.log(10), 0.2 * max(0, i + 1 - first)) for i in range(layers)]
    return cb.LayerReport(
        {f"hidden.{i}": replace(healthy, entropy=e, num_conflicting=int(e > 0)) for i, e in enumerate(entropies)}
    )


# --- damaged ones ---------------------------------------------------------------------------------


def write_hostile(folder: Path) -> Path:
    """Every text that a run folder holds is hostile."""
    run = RunFolder(folder)
    run.write_json(schema.CONFIG, {"command": "autotune", "dataset": BOMB, "policy": BOMB, BOMB: BOMB, "model": BOMB})
    lines = [f'{{"run": {json.dumps(BOMB)}, "round": 0, "epoch": {e}, "train_loss": NaN, "first_conflicting": 3, '
             '"test_accuracy": 0.5}\n' for e in range(3)]  # fmt: skip
    run.write_bytes(schema.HISTORY, "".join(lines).encode())
    csv_bomb = BOMB.replace("\ud800", "").replace("\x00", "").replace('"', '""')  # which a text file can hold
    rows = [f'"{csv_bomb}",0,{e},"{csv_bomb}{i}",4,2,1,{"nan" if e else "0.5"},"{csv_bomb}"\n'
            for e in range(3) for i in range(3)]  # fmt: skip
    run.write_bytes(schema.LAYERS.file, (schema.LAYERS.header + "".join(rows)).encode())
    result = {"command": "autotune", "status": BOMB, "reason": BOMB, "equality": BOMB, "seed": BOMB, "version": BOMB,
              "rounds": [{"round": BOMB, "name": BOMB, "removed": [BOMB] * 9, "reason": BOMB}],
              "before": {"name": BOMB, "parameters": BOMB}, "after": {"architecture": {BOMB: BOMB}}}  # fmt: skip
    run.write_json(schema.RESULT, result)
    return folder

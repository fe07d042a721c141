"""The smallest runs of the commands that write folders, and when two of them have the same outcome."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cbkernels.files.checkpoints import load_checkpoint

from ..model_zoo import same

_DATA = ["--train-size=200", "--test-size=100", "--device=cpu"]
RUNS: dict[str, list[str]] = {
    "train": ["train", "--depth=6", "--width=6", "--epochs=4", "--margin", *_DATA],
    "autotune": [
        "autotune", "--depth=20", "--width=6", "--learning-rate=0.01", "--batch-size=32", "--epochs=4",
        "--check-epochs=2", "--policy=stage", "--margin", *_DATA,
    ],
    "remove": [
        "remove", "{trained}", "--max-drop=1", "--heal-epochs=1", "--draws=2", "--study-size=50", "--probe-size=16",
        "--device=cpu",
    ],
    "repr compare": [
        "repr", "compare", "--depth=1", "--width=8", "--epochs=3", "--repr-full-epochs=1", "--repr-reduced-epochs=1",
        "--repr-cycles=1", "--repr-share=0.1", "--criteria", "standard", "random", "--seeds=2", *_DATA,
    ],
}  # fmt: skip
TRAINED = [
    "train", "--model=resnet", "--blocks", "1", "1", "0", "0", "--width-multiplier=0.05", "--epochs=1", *_DATA
]  # fmt: skip
"""What the removal removes blocks of."""
TIMES = {
    "seconds_training", "seconds_measuring", "seconds_evaluating", "measuring_share", "latency_ms", "latency_ms_p10",
    "latency_ms_p90", "seconds", "seconds_since_last",
}  # fmt: skip
"""All fields that may differ from an undisturbed run."""
OF_THE_MACHINE = {"env.json", "config.json", "comparison.png", "network.json"}


def arguments_of(command: str, out: Path, trained: Path | None, *options: str) -> list[str]:
    """The command line of a small run; it goes on where it has begun, if the command has an option for that."""
    resume = ["--resume"] if command != "repr compare" and (out / "config.json").exists() else []
    given = [argument.format(trained=trained) for argument in RUNS[command]]
    return [*given, *options, *([] if options else resume), "--out", str(out)]


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in TIMES}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def content_of(file: Path, root: Path) -> Any:
    """What a file says, times aside; the folder's own name aside."""
    if file.suffix == ".json":
        return timeless(json.loads(file.read_text().replace(str(root), "OUT")))
    if file.suffix == ".jsonl":
        return [timeless(json.loads(line)) for line in file.read_text().splitlines()]
    if file.name == "checkpoint.safetensors":
        return timeless(load_checkpoint(file))
    return file.read_bytes()


def assert_same(folder: Path, undisturbed: Path) -> None:
    """The same files, and in them the same but for times: nothing half written is left, nothing is missing."""
    names = [{p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()} for root in (folder, undisturbed)]
    assert names[0] == names[1]
    for name in sorted(names[0]):
        if Path(name).name not in OF_THE_MACHINE:
            assert same(*(content_of(root / name, root) for root in (folder, undisturbed))), name


def assert_whole(folder: Path) -> None:
    """After a kill every file is whole, and a checkpoint is never ahead of the files that it goes with."""
    for file in folder.rglob("*"):
        if file.is_file() and not file.name.endswith(".aside"):
            content_of(file, folder)
        if file.name == "checkpoint.safetensors":
            for name, count in load_checkpoint(file).get("lines", {}).items():
                assert len((file.parent / name).read_text().splitlines()) >= count, name

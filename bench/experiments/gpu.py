"""The papers' residual network of 120 layers at full width on a GPU: as many steps as fit, then the removal study.

Trains for 60 % of --minutes, then removes blocks; what is unfinished goes on when the command is given again, and a
finished run trains on. Exit codes: 0 finished, 1 refused or diverged, 3 the time is over and something is left to do.
The papers' recipe but for weight decay: learning rate x decay x steps near 0.94 is what makes margins fall, which takes
94,000 steps with the papers' 0.01 and 9,400 with 0.1. --data-dir: train-*.parquet and test-*.parquet with columns image
and label, or whatever else ``cbkernels train --dataset PATH`` reads. --rehearse: all of it in seconds on a CPU.
    python -m bench.experiments.gpu --data-dir DIR/cifar10_subset --out runs/experiments/gpu
"""

from __future__ import annotations

import argparse
import copy
import datetime
import math
import platform
import shlex
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import cbkernels as cb
from bench.gpu_checks.machine import commit
from cbkernels.backends import TABLE
from cbkernels.files.checkpoints import load_checkpoint, save_checkpoint
from cbkernels.files.json_files import finite_or_none, json_text, read_json_object
from cbkernels.files.whole_files import write_whole
from cbkernels.models.branches import measure_blocks, without_branches
from cbkernels.ranks import device_named
from cbkernels.runs.log import RunLog
from cbkernels.surgery.pruning.prune_log import PruneStep
from cbkernels.training.config import TrainConfig, to_dict
from cbkernels.training.configured import data_set_of, network_of, settled, threads_of
from cbkernels.training.data.samples import Samples, accuracy_of, samples_of
from cbkernels.training.loop.epochs import Training
from cbkernels.training.loop.measured_epochs import MeasuredTraining, progress_line
from cbkernels.training.procedures.removal_curves import removal_curves

FINISHED, REFUSED, UNFINISHED = 0, 1, 3
RESULT, CHECKPOINT, PRUNING = "gpu.json", "checkpoint.safetensors", "pruning"
TRAINING_SHARE = 0.6
SECONDS_BETWEEN_CHECKPOINTS = 60.0
"""One of the full network has a gigabyte."""
RANKS = ("margin", "similarity", "random")
MAX_DROP, HEAL_EPOCHS, DRAWS = 0.01, 2, 5
REAL: dict[str, Any] = {
    "augmentation": "cifar", "blocks": (3, 12, 41, 3), "validation_share": 0.1, "epochs": 100_000,
    "channels_last": True,
}  # fmt: skip
"""So many epochs never fit: the time ends the training."""
REHEARSAL: dict[str, Any] = {
    "dataset": "digits", "train_size": 300, "test_size": 100, "blocks": (1, 1, 1, 0), "width_multiplier": 0.125,
    "validation_share": 0.2, "epochs": 3, "batch_size": 16, "probe_size": 64, "threads": 1,
}  # fmt: skip


class OutOfTime(Exception):
    """The minutes of this call are over; what it reached is in the folder."""


class Clock:
    """How much of the call's time is used, as a share."""

    def __init__(self, minutes: float) -> None:
        self._seconds, self._began = 60 * minutes, time.monotonic()

    @property
    def used(self) -> float:
        passed = time.monotonic() - self._began
        return passed / self._seconds if self._seconds > 0 else math.inf

    def check(self) -> None:
        if self.used >= 1:
            raise OutOfTime


@contextmanager
def captured(model: nn.Module, example: torch.Tensor) -> Iterator[None]:
    """Within it the passes of a network in training are CUDA graphs, one launch each; in evaluation it is as it was.

    Capturing runs the network on the example, whose traces in the batch norms are wiped away.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    torch.cuda.make_graphed_callables(model, (example,))
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    try:
        yield
    finally:
        vars(model).pop("forward", None)  # a copy of the model would otherwise run this one's graphs


@contextmanager
def launched_at_once(training: Training) -> Iterator[None]:
    """``captured`` on a GPU; on a CPU nothing."""
    samples, config = training.samples, training.config
    if samples.device.type != "cuda":
        yield
        return
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    with captured(training.model, samples.example(config.batch_size).contiguous(memory_format=layout)):
        yield


class Experiment:
    """What the folder holds, and what is left to do."""

    def __init__(self, folder: Path, config: TrainConfig, samples: Samples, clock: Clock) -> None:
        self.folder, self.config, self.samples, self.clock = folder, config, samples, clock
        recipe = {name: value for name, value in to_dict(config).items() if name not in NOT_COMPARED}
        path = folder / RESULT
        self.content: dict[str, Any] = {"recipe": recipe, "phase": "training", "outcome": "running", "epochs": []}
        if path.exists():
            self.content = read_json_object(path)
            if self.content.get("recipe") != recipe:
                raise ValueError(f"{path} is of another recipe; name another folder with --out")
        if self.content["outcome"] == "finished":  # it trains on, and other weights are pruned anew
            shutil.rmtree(folder / PRUNING, ignore_errors=True)
            self.content = {name: self.content[name] for name in ("recipe", "calls", "epochs")} | {"phase": "training"}
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        called = {"date": now, "commit": commit(), **machine(samples.device)}
        self.content |= {"what": "gpu-experiment", "outcome": "running", **called}
        self.content.setdefault("calls", []).append({**called, "epoch": len(self.content["epochs"]) - 1})
        folder.mkdir(parents=True, exist_ok=True)

    def run(self) -> int:
        """Everything in turn; an exit code."""
        try:
            model = self.trained()
            if self.content["outcome"] == "diverged":
                return self.end("diverged", REFUSED)
            self.study(model)
            for rank in RANKS:
                self.prune(model, rank)
        except OutOfTime:
            return self.end("unfinished", UNFINISHED)
        return self.end("finished", FINISHED)

    def end(self, outcome: str, code: int) -> int:
        self.content["outcome"] = outcome
        self.write()
        return code

    def write(self) -> None:
        """The JSON as far as it goes."""
        epochs, a_batch = self.content["epochs"], self.config.batch_size
        steps_an_epoch = len(self.samples.train_indices) // a_batch
        steps = steps_an_epoch * max(0, len(epochs) - 1)
        self.content |= {
            "steps": steps, "rate_x_decay_x_steps": self.config.learning_rate * self.config.weight_decay * steps,
            "iteration_ms": {
                what: 1000 / steps_an_epoch * statistics.median(sum(map(line.get, parts)) for line in epochs[1:])
                for what, parts in TIMED.items() if steps
            },
        }  # fmt: skip
        write_whole(self.folder / RESULT, json_text(self.content, indent=1).encode())

    def trained(self) -> Any:
        """The network, as far as the time has let it learn, its margins taken after every epoch."""
        model = network_of(self.config, self.config.architecture, self.samples)
        training = Training(model, self.config, self.samples)
        measured = MeasuredTraining("gpu", 0, training, model.block_names())
        if (self.folder / CHECKPOINT).exists():
            measured.load_state(load_checkpoint(self.folder / CHECKPOINT))
        del self.content["epochs"][measured.epoch + 1 :]
        if self.content["phase"] == "training":
            with launched_at_once(training):
                self.train(measured)
            self.content["phase"] = "removal"
        model.eval()
        return model

    def train(self, measured: MeasuredTraining) -> None:
        """Epochs until the share of the training is used."""
        saved = time.monotonic()
        while measured.goes_on(self.config.epochs):
            line = measured.next_epoch(RunLog(None))
            print(progress_line(line, self.config.epochs), file=sys.stderr, flush=True)
            if measured.has_diverged:
                self.content["outcome"] = "diverged"
                return
            report = measured.as_trained
            bits = {} if report is None else {name: finite_or_none(b) for name, b in report.margin_bits.items()}
            self.content["epochs"].append({**{name: line[name] for name in LINE}, "margin_bits": bits})
            is_last = self.clock.used >= TRAINING_SHARE or not measured.goes_on(self.config.epochs)
            if is_last or time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                self.write()  # before the checkpoint, for a run that goes on cuts away the lines that are too many
                save_checkpoint(self.folder / CHECKPOINT, measured.state())
                saved = time.monotonic()
            if is_last:
                self.clock.check()
                return

    def study(self, model: Any) -> None:
        """Every block's margin and what it costs alone; accuracy without random and low-margin blocks, not healed."""
        if "study" in self.content:
            return
        config, samples = self.config, self.samples
        optimizer = torch.optim.SGD(model.parameters(), lr=config.learning_rate)
        grid = cb.UpdateGrid.from_optimizer(model, optimizer, config.batch_size)
        blocks = measure_blocks(model, model.block_names(), *samples.probe(), grid)
        known: dict[frozenset[str], float] = {}

        def accuracy(removed: Sequence[str]) -> float:
            if frozenset(removed) not in known:
                with without_branches(model, removed):
                    known[frozenset(removed)] = self.accuracy(model)
            return known[frozenset(removed)]

        curves = removal_curves(
            [block.block for block in blocks if block.conflicts()],
            [block.block for block in blocks if not block.conflicts()],
            [block.block for block in sorted(blocks, key=lambda b: (b.margin, -blocks.index(b)))],
            accuracy, draws=DRAWS, seed=config.seed,
        )  # fmt: skip
        self.content["blocks"] = [{**b.to_dict(), "accuracy_without": accuracy([b.block])} for b in blocks]
        self.content["study"] = {"accuracy": accuracy([]), "draws": DRAWS, "curves": curves}
        self.write()
        self.clock.check()

    def prune(self, model: nn.Module, rank: str) -> None:
        """As many blocks as can go by a ranking, healed after every removal and guarded by the held-back part."""
        pruned = self.content.setdefault("pruning", {})
        if rank in pruned:
            return

        def told(step: PruneStep) -> None:
            print(f"{rank}: {step.num_removed} blocks gone: {step.reason}", file=sys.stderr, flush=True)
            self.clock.check()

        _, _, log = cb.prune_blocks(
            copy.deepcopy(model), self.samples.probe(), rank=rank, heal=self.heal, max_drop=MAX_DROP,
            evaluate=lambda model: self.accuracy(model, held_back=True), test=self.accuracy,
            example=self.samples.example(self.config.batch_size), seed=self.config.seed,
            out=self.folder / PRUNING / rank, resume=True, on_step=told,
        )  # fmt: skip
        pruned[rank] = log.to_dict()
        self.write()

    def heal(self, model: nn.Module) -> None:
        """Train by the recipe, with a new optimizer."""
        training = Training(model, replace(self.config, epochs=HEAL_EPOCHS), self.samples)
        with launched_at_once(training):
            for _ in range(HEAL_EPOCHS):
                training.train_epoch()

    def accuracy(self, model: nn.Module, held_back: bool = False) -> float:
        """On the test part or on the one that was held back."""
        images, labels = self.samples.test
        if held_back:
            chosen = self.samples.validation_indices.to(self.samples.device)
            images, labels = (each[chosen] for each in self.samples.train)
        return accuracy_of(model, images, labels, self.samples.preparation)


NOT_COMPARED = ("dataset", "device", "epochs")
"""Another machine has the data elsewhere; the time ends the training."""
LINE = (
    "epoch", "train_loss", "test_accuracy", "validation_accuracy", "num_conflicting_layers", "mean_entropy",
    "seconds_training", "seconds_measuring", "seconds_evaluating",
)  # fmt: skip
TIMED = {"without_monitor": ("seconds_training",), "with_monitor": ("seconds_training", "seconds_measuring")}


def machine(device: torch.device) -> dict[str, Any]:
    """What ran it; nothing that names the computer."""
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "tf32_convolutions": torch.backends.cudnn.allow_tf32 if on_gpu else None,
        "versions": {
            "cbkernels": cb.__version__, "torch": torch.__version__, "cuda": torch.version.cuda,
            "python": platform.python_version(),
        },
    }  # fmt: skip


def prepared(given: argparse.Namespace) -> Experiment:
    """The recipe, the data on the device, and the folder; a ValueError, OSError or ImportError where one is missing."""
    clock = Clock(given.minutes)
    options = {"model": "resnet", "optimizer": "radam", "weight_decay": given.weight_decay, "seed": given.seed}
    if given.rehearse:
        options |= {**REHEARSAL, "device": "cpu"}
    else:
        device = device_named(given.device)
        if device.type != "cuda":
            raise ValueError(f"device is {str(device)!r}; run it on an NVIDIA GPU, or try it here with --rehearse")
        TABLE["cuda"].require()
        if given.data_dir is None:
            raise ValueError("data_dir is None; name a folder of train-*.parquet and test-*.parquet with --data-dir")
        torch.backends.cudnn.benchmark = True
        options |= {**REAL, "dataset": str(given.data_dir), "device": str(device)}
    config = TrainConfig(**options)
    samples = samples_of(data_set_of(config), config, device_named(config.device))
    return Experiment(given.out, config, samples, clock)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what fits into the time; an exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rehearse", action="store_true", help="a tiny network on digits, on the CPU, in seconds")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    try:
        experiment = prepared(given)
    except (ValueError, OSError, ImportError) as error:
        print(f"bench.experiments.gpu: error: {error}", file=sys.stderr)
        return REFUSED
    said = sys.argv[1:] if arguments is None else arguments
    experiment.content["command"] = shlex.join(["python", "-m", "bench.experiments.gpu", *said])
    with settled(threads_of(experiment.config)):
        code = experiment.run()
    content = experiment.content
    rest = "; the same command goes on" if code == UNFINISHED else ""
    print(f"{content['outcome']} after {content['steps']} steps: {given.out / RESULT}{rest}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())

"""A finished run, read again: its network, its data, its recipe; and the same recipe for other networks."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ..files.checkpoints import load_checkpoint
from ..ranks import device_named
from ..runs.log import RunLog
from ..runs.reader import read_config, read_run
from ..runs.schema import CHECKPOINT, RESULT
from .config import TrainConfig, from_dict
from .configured import data_set_of, network_of, settled, threads_of
from .data.data_sets import DataSet
from .data.samples import Prepares, Samples, samples_of
from .data.samples import accuracy_of as accuracy_of
from .loop.epochs import Training
from .loop.measured_epochs import MeasuredTraining
from .networks.architecture import Architecture

COMMANDS = ("train", "autotune")


@dataclass
class TrainedRun:
    """What ``cbkernels train`` or ``cbkernels autotune`` left in a folder."""

    folder: Path
    config: TrainConfig
    architecture: Architecture
    """Of the network: of auto-tune, the one it ended with."""
    model: Any
    """The network with its weights, in evaluation mode, on ``device``."""
    data: DataSet
    samples: Samples
    result: dict[str, Any]
    """``result.json``."""

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.samples.device

    @property
    def preparation(self) -> Prepares:
        """Turns stored images into the network's input."""
        return self.samples.preparation

    @property
    def train_indices(self) -> npt.NDArray[np.int64]:
        """(n,) the training samples that were trained on."""
        return self.samples.train_indices.numpy()

    @property
    def validation_indices(self) -> npt.NDArray[np.int64]:
        """(v,) the training samples that were held back."""
        return self.samples.validation_indices.numpy()

    @property
    def learning_rate(self) -> float:
        """Of the recipe."""
        return self.config.learning_rate

    @property
    def batch_size(self) -> int:
        """Of the recipe."""
        return self.config.batch_size


def load_trained(folder: str | os.PathLike[str], *, device: str = "auto", data_dir: str | None = None) -> TrainedRun:
    """Read a run folder.

    Args:
        folder: of ``cbkernels train`` or ``cbkernels autotune``, finished.
        device: where the network goes.
        data_dir: where the data are now; None: where the run found them.

    Raises:
        FileNotFoundError: not a run folder, or a file of it is missing.
        ValueError: another command's folder, an unfinished run, a damaged or foreign file; nothing in it is executed.
    """
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; name one that cbkernels train or cbkernels autotune wrote")
    content = read_config(path)
    command = content.get("command")
    if command not in COMMANDS:
        raise ValueError(f"{folder} holds a run of {command!r}; name one of {' or '.join(COMMANDS)}")
    if "architecture" in content:
        raise ValueError(
            f"{folder} holds a network of your own, which only you can build; its weights are "
            f"cbkernels.files.checkpoints.load_checkpoint({os.fspath(path / CHECKPOINT)!r})['measured']['training']"
            "['model'], for its load_state_dict, and its blocks are in ['architecture']"
        )
    run = read_run(path, tables=False)
    if run.result is None:
        damage = next((note for note in run.notes if note.startswith(RESULT)), "")
        why = f"cannot be used: {damage}" if damage else "did not finish; finish it with --resume"
        raise ValueError(f"{folder} holds a run that {why}")
    if run.result.status == "exhausted" and getattr(run.result, "after", None) is None:
        raise ValueError(f"{folder} holds a run that ended as 'exhausted', without a trained network; name another one")
    known = {field.name for field in fields(TrainConfig)}
    config = from_dict(TrainConfig, {name: value for name, value in content.items() if name in known})
    if data_dir is not None:
        config = replace(config, data_dir=data_dir)
    data = data_set_of(config, path)
    samples = samples_of(data, config, device_named(device))
    checkpoint = load_checkpoint(path / CHECKPOINT)
    try:
        architecture = Architecture.from_dict(checkpoint["architecture"])
        weights = checkpoint["measured"]["training"]["model"]
        # auto-tune ends with fewer blocks than its config begins with
        configured = config.architecture if command == "train" else config.architecture.with_blocks(architecture.blocks)
        if architecture != configured:
            raise ValueError(f"it holds {architecture}; the run is of {configured}")
        model = network_of(config, architecture, samples).to(samples.device)
        model.load_state_dict(weights)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        told = str(error).splitlines()[0]
        raise ValueError(f"{path / CHECKPOINT} is not that of this run ({told}); train again") from error
    return TrainedRun(path, config, architecture, model.eval(), data, samples, dict(run.written_result))


def teacher_of(config: TrainConfig, device: torch.device) -> nn.Module | None:
    """The network that ``config.distill_from`` names, in evaluation mode, or None; errors as in ``load_trained``."""
    if config.distill_from is None:
        return None
    teacher: nn.Module = load_trained(config.distill_from, device=str(device), data_dir=config.data_dir).model
    return teacher.requires_grad_(False)


def fit(
    model: nn.Module, run: TrainedRun, *, epochs: int, seed: int,
    on_epoch: Callable[[dict[str, Any]], object] = lambda line: None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Train a network with a run's recipe and samples, with a new optimizer; its schedule is drawn together.

    Args:
        model: trained in place.
        run: the recipe.
        epochs: how many.
        seed: of the order and the augmentation.
        on_epoch: called with every line.

    Returns:
        Lines as in ``history.jsonl``, of run "finetune"; without measurements.
    """
    recipe, epochs_of_schedule = run.config, max(1, epochs)
    warmup = None if recipe.warmup_epochs is None else recipe.warmup_epochs * epochs_of_schedule / recipe.epochs
    config = replace(
        recipe, seed=seed, epochs=epochs_of_schedule, warmup_epochs=warmup, what_if=(), repr=False, distill_from=None
    )
    measured = MeasuredTraining("finetune", 0, Training(model, config, run.samples), [])
    log = RunLog(None)
    with settled(threads_of(config)):
        while measured.goes_on(epochs):
            on_epoch(measured.next_epoch(log))
    model.eval()
    return log.history

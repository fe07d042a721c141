"""For torchrun: trains on several ranks into the folder that is named, and prints what the ranks said, as JSON.

Rank 0 alone may write: on the others every write ends the run.
"""

from __future__ import annotations

import contextlib
import errno
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from cbkernels.files import checkpoints
from cbkernels.runs import folder as run_folder
from cbkernels.training.config import TrainConfig
from cbkernels.training.loop.epochs import Training
from cbkernels.training.procedures.train import train

FNN = TrainConfig(
    depth=12, width=8, train_size=400, test_size=101, batch_size=32, epochs=3, probe_size=50, learning_rate=0.01,
    device="cpu",
)  # fmt: skip
RESNET = TrainConfig(
    model="resnet", blocks=(1, 1, 0, 0), width_multiplier=1 / 16, train_size=96, test_size=31, batch_size=16, epochs=2,
    probe_size=20, augmentation="cifar", validation_share=0.2, threads=1, device="cpu",
)  # fmt: skip


class Killed(BaseException):
    """Passes by everything that catches errors, as a kill does."""


def no_writing(*arguments: object) -> None:
    raise AssertionError(f"rank {distributed.get_rank()} writes {arguments[0]}")


def killed_in_epoch(epoch: int) -> Any:
    train_epoch = Training.train_epoch

    def killed(self: Training) -> float:
        if self.epoch == epoch - 1:
            raise Killed
        return train_epoch(self)

    return killed


def noting_statistics(seen: list[float]) -> Any:
    """``Training.test_accuracy`` that notes the running statistics which it is taken with."""
    test_accuracy = Training.test_accuracy

    def noted(self: Training) -> float:
        seen.append(sum(float(buffer.double().abs().sum()) for buffer in self.model.buffers()))
        return test_accuracy(self)

    return noted


def resumed(config: TrainConfig, out: Path) -> None:
    whole = Training.train_epoch
    Training.train_epoch = killed_in_epoch(2)  # type: ignore[method-assign]
    with contextlib.suppress(Killed):
        train(config, out)
    Training.train_epoch = whole  # type: ignore[method-assign]
    train(config, out, resume=True)


def full_disk(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def refused(config: TrainConfig, out: Path) -> str:
    try:
        train(config, out)
    except (OSError, ValueError) as error:
        return str(error)
    return "trained"


if __name__ == "__main__":
    root = Path(sys.argv[1])
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    if distributed.get_rank():
        run_folder.write_whole = no_writing
    statistics: list[float] = []
    Training.test_accuracy = noting_statistics(statistics)  # type: ignore[method-assign]
    results = [train(FNN, root / "fnn"), train(RESNET, root / "resnet")]
    resumed(RESNET, root / "resumed")
    said = [refused(replace(FNN, batch_size=33), root / "refused"), refused(FNN, root / "fnn")]
    checkpoints.write_whole = full_disk
    said.append(refused(FNN, root / "full"))
    told: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(told, (said, results, statistics))
    if distributed.get_rank() == 0:
        print(json.dumps(told))
    distributed.destroy_process_group()

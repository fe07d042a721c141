"""How the learning rate changes over a training: a table, from which ``--schedule`` names one. Torch is imported late.

A step is taken after every update. Which rate the update grid takes then: ``learning_rates.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...choices import Choice, Choices

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Schedule(Choice):
    """How the learning rate changes from update to update.

    Args:
        build: (optimizer, updates of the whole training, updates of the warm-up) -> the scheduler. The optimizer's
            rate is the peak, which must not be exceeded; that of the first update after the warm-up should be it.
        ends: it is made for a number of epochs, so that a run cannot go on to more of them.
        warmup_share: of all updates, the warm-up where ``--warmup-epochs`` does not say it.
    """

    build: Callable[[torch.optim.Optimizer, int, int], torch.optim.lr_scheduler.LRScheduler]
    ends: bool = True
    warmup_share: float = 0.0


def _constant(optimizer: torch.optim.Optimizer, updates: int, warmup: int) -> Any:
    from torch.optim.lr_scheduler import LambdaLR

    return LambdaLR(optimizer, lambda update: _warmed_up(update, warmup))


def _cosine(optimizer: torch.optim.Optimizer, updates: int, warmup: int) -> Any:
    """Loshchilov, Hutter: SGDR, ICLR 2017, without restarts."""
    from torch.optim.lr_scheduler import LambdaLR

    def factor(update: int) -> float:
        share = max(0, update - warmup) / (updates - warmup)
        return _warmed_up(update, warmup) * (1 + math.cos(math.pi * share)) / 2

    return LambdaLR(optimizer, factor)


def _onecycle(optimizer: torch.optim.Optimizer, updates: int, warmup: int) -> Any:
    """Smith, Topin, arXiv 1708.07120, with torch's numbers; the momentum stays as ``--momentum`` says.

    It always rises, for one update at least: torch's would divide by zero.
    """
    from torch.optim.lr_scheduler import OneCycleLR

    peaks = [group["lr"] for group in optimizer.param_groups]
    steps = updates + 1  # the lowest rate comes after the last update, as the 0 of the cosine does
    rising = (max(1, warmup) + 1) / steps
    return OneCycleLR(optimizer, peaks, total_steps=steps, pct_start=rising, cycle_momentum=False)


def _warmed_up(update: int, warmup: int) -> float:
    return min(1.0, (update + 1) / (warmup + 1))


SCHEDULES = Choices("schedule", [
    Schedule("constant", "the same learning rate in all epochs, as in the papers", _constant, ends=False),
    Schedule("cosine", "half a cosine, from the learning rate down to 0", _cosine),
    Schedule("onecycle", "a rise from 1/25 of the learning rate, a fall to 1/250,000", _onecycle, warmup_share=0.3),
])  # fmt: skip


def build_schedule(optimizer: torch.optim.Optimizer, config: Any, updates_an_epoch: int) -> Any:
    """The scheduler that a ``TrainConfig`` names, for all of its epochs.

    Args:
        optimizer: with the peak as its learning rate.
        config: schedule, epochs, warmup_epochs.
        updates_an_epoch: at least 1.
    """
    schedule, updates = SCHEDULES.chosen(config.schedule), config.epochs * updates_an_epoch
    given = config.warmup_epochs
    warmup = schedule.warmup_share * updates if given is None else given * updates_an_epoch
    return schedule.build(optimizer, updates, min(round(warmup), updates - 1))

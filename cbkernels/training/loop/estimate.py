"""How long a training will take, said after its first batches, while there is time to think again."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

ENOUGH_BATCHES, ENOUGH_SECONDS = 20, 5.0
"""Whichever comes first, behind a first batch that is not counted: it sets up more than it trains."""
_UNITS = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}


class Estimate:
    """Called after every batch; says once what all epochs that are left take.

    Args:
        epochs: that are left.
        beside: seconds an epoch takes beside its batches, such as measurements.
        device: of the training.
        say: gets one sentence.
    """

    def __init__(self, epochs: int, beside: float, device: torch.device, say: Callable[[str], object]) -> None:
        self._epochs, self._beside, self._device, self._say = epochs, beside, device, say
        self._began, self._first, self._is_said = time.perf_counter(), 0.0, False

    def __call__(self, done: int, batches: int) -> None:
        """After batch ``done`` of the ``batches`` in an epoch."""
        if self._is_said:
            return
        now = self._now() if done in (1, min(batches, ENOUGH_BATCHES)) else time.perf_counter()
        if done == 1:
            self._first = now
        if done < min(batches, ENOUGH_BATCHES) and (done == 1 or now - self._first < ENOUGH_SECONDS):
            return
        each = (now - self._first) / (done - 1) if done > 1 else now - self._began
        kind = {"cpu": "CPU", "cuda": "GPU"}.get(self._device.type, self._device.type)
        took = in_words(self._epochs * (each * batches + self._beside))
        self._say(f"{self._epochs} epoch{'' if self._epochs == 1 else 's'}: about {took} on this {kind}")
        self._is_said = True

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def in_words(seconds: float) -> str:
    """A duration in the largest unit of which it has two.

    Example:
        >>> in_words(800_000), in_words(5000), in_words(0.2)
        ('9 days', '83 minutes', '1 second')
    """
    unit, size = next(((unit, size) for unit, size in _UNITS.items() if seconds >= 1.5 * size), ("second", 1))
    return f"{max(1, round(seconds / size))} {unit}"

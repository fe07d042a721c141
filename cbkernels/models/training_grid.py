"""The update grid of a training that is under way, which changes with its weights and its learning rate.

Read next: ``learning_rates.py`` (which rate it takes), ``grid.py`` (what a grid is), ``monitor.py`` (who asks).
"""

from __future__ import annotations

import torch
from torch import nn

from ..grid import UpdateGrid
from ..learning_rates import LearningRates


class TrainingGrid:
    """Takes the grid anew whenever it is asked for, and remembers the largest learning rates that it has seen.

    Args:
        optimizer: of the training; a trainer's callback may not know it yet, and sets it later.
        batch_size: of the training; likewise.
        learning_rate: as in ``UpdateGrid.from_optimizer``.

    Raises:
        TypeError, ValueError: another ``learning_rate``.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer | None = None, batch_size: int = 0, learning_rate: str | float = "peak"
    ) -> None:
        self.optimizer, self.batch_size = optimizer, batch_size
        self._rates = LearningRates(learning_rate)

    def see(self, optimizer: torch.optim.Optimizer) -> None:
        """Remember the learning rates of now; never waits for a GPU."""
        self._rates.see(optimizer.param_groups)

    def of(self, model: nn.Module, dtype: str | None = None) -> tuple[UpdateGrid, dict[str, float]]:
        """The grid of now, and what a ``LayerReport`` tells of its learning rate.

        Args:
            model: whose weights are updated.
            dtype: as in ``UpdateGrid.from_optimizer``.

        Raises:
            ValueError: as ``UpdateGrid.from_optimizer``.
        """
        assert self.optimizer is not None
        rate, rates = self._rates.taken(self.optimizer.param_groups)
        grid = UpdateGrid.from_optimizer(model, self.optimizer, self.batch_size, dtype=dtype, learning_rate=rate)
        return grid, rates

"""What is measured of a network in training, once an epoch: its blocks, or the branches of residual ones.

Residual branches are measured scaled, as the papers do when they ask which blocks can go (``models/branches.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ...findings.layer_report import LayerReport
from ...grid import UpdateGrid
from ...models.branches import measure_blocks
from ...models.evaluation import unwrapped
from ...models.monitor import LayerMonitor
from ..config import TrainConfig
from ..data.samples import Samples
from ..networks.residual import ResidualBlock


class Measuring:
    """A network with a fixed probe batch; call it after an epoch.

    Args:
        model: the network.
        optimizer: whose learning rate the grid takes.
        block_names: names of the blocks of every stage.
        config: batch size, margin, what-if types.
        samples: the probe batch is theirs.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        block_names: Sequence[Sequence[str]],
        config: TrainConfig,
        samples: Samples,
    ) -> None:
        self._model, self._optimizer, self._config = model, optimizer, config
        self._block_names = block_names
        self._probe = samples.probe()
        names = [name for stage in block_names for name in stage]
        self.is_residual = bool(names) and all(isinstance(model.get_submodule(n), ResidualBlock) for n in names)
        self._monitor: Any = None
        if names and not self.is_residual:
            self._monitor = LayerMonitor(
                model, self._probe, layers=names, optimizer=optimizer, batch_size=config.batch_size,
                margin=config.margin, autocast="bfloat16" if config.amp else None,
            )  # fmt: skip

    def __call__(self, epoch: int) -> list[LayerReport]:
        """The report as the network is trained, then one for every type of ``what_if``; none without blocks."""
        if self._monitor is not None:
            as_trained = self._monitor.measure(step=epoch)
            return [as_trained, *(self._monitor.measure(epoch, dtype=dtype) for dtype in self._config.what_if)]
        if self.is_residual:
            return [self._branches(epoch, dtype) for dtype in (None, *self._config.what_if)]
        return []

    def _branches(self, epoch: int, dtype: str | None) -> LayerReport:
        inner = unwrapped(self._model)
        grid = UpdateGrid.from_optimizer(inner, self._optimizer, self._config.batch_size, dtype=dtype)
        measured = measure_blocks(inner, self._block_names, *self._probe, grid)
        return LayerReport(
            {m.branch: m.result for m in measured},
            step=epoch,
            margins={m.branch: m.margin for m in measured},
            amplitudes={m.branch: m.amplitude for m in measured},
            blocks={m.branch: m.block for m in measured},
            model=type(inner).__name__,
        )

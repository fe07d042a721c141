"""What is measured of a network in training, once an epoch: its blocks, or the branches of residual ones.

Residual branches are measured scaled, as the papers do when they ask which blocks can go (``models/branches.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ...findings.layer_report import LayerReport
from ...models.branches import measure_blocks
from ...models.cost import measure_cost
from ...models.evaluation import unwrapped
from ...models.monitor import LayerMonitor
from ...models.training_grid import TrainingGrid
from ..config import TrainConfig
from ..data.samples import Samples
from ..networks.residual import ResidualBlock
from .epochs import Training


class Measuring:
    """A network in training with a fixed probe batch; call it after an epoch.

    Args:
        training: its network, its grid's learning rate, its samples' probe batch, what its config asks for.
        block_names: names of the blocks of every stage.
    """

    def __init__(self, training: Training, block_names: Sequence[Sequence[str]]) -> None:
        self._model, self._config = training.model, training.config
        self._grid = TrainingGrid(training.optimizer, self._config.batch_size)
        self._block_names, self._probe = block_names, training.samples.probe()
        model, config = self._model, self._config
        names = [name for stage in block_names for name in stage]
        self._has_branches = bool(names) and all(isinstance(model.get_submodule(n), ResidualBlock) for n in names)
        self._monitor: LayerMonitor | None = None
        if names and not self._has_branches:
            self._monitor = LayerMonitor(
                model, self._probe, layers=names, grid=self._grid, margin=config.margin,
                autocast="bfloat16" if config.amp else None,
            )  # fmt: skip

    def __call__(self, epoch: int) -> list[LayerReport]:
        """The report as the network is trained, then one for every type of ``what_if``; none without blocks."""
        types = (None, *self._config.what_if)
        if self._monitor is not None:
            return [self._monitor.measure(epoch, dtype=dtype) for dtype in types]
        return [self._branches(epoch, dtype) for dtype in types] if self._has_branches else []

    def _branches(self, epoch: int, dtype: str | None) -> LayerReport:
        inner = unwrapped(self._model)
        grid, rates = self._grid.of(inner, dtype)
        measured = measure_blocks(inner, self._block_names, *self._probe, grid)
        return LayerReport(
            {m.branch: m.result for m in measured}, step=epoch, model=type(inner).__name__,
            margins={m.branch: m.margin for m in measured}, amplitudes={m.branch: m.amplitude for m in measured},
            blocks={m.branch: m.block for m in measured}, learning_rates=rates,
        )  # fmt: skip


def cost_of(model: nn.Module, samples: Samples, config: TrainConfig) -> dict[str, Any]:
    """Parameters, MACs, FLOPs, latency and memory of one forward pass of ``latency_batch`` samples."""
    example = samples.example(config.batch_size)
    return {**measure_cost(model, example).to_dict(), "latency_batch": len(example)}

"""What the callbacks of all trainers share: a monitor of a training that it does not own, and must not end.

A measurement that is impossible (learning rate 0 and no peak known, diverged weights) is left out, with one warning in
a training. Read next: ``lightning.py``, ``transformers.py``.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ..findings.history import History
from ..findings.layer_report import LayerReport
from ..models.monitor import LayerMonitor
from ..models.training_grid import TrainingGrid

if TYPE_CHECKING:
    from torch import nn


class TrainingMonitor:
    """A ``LayerMonitor`` that is made when a training begins.

    Args:
        probe: as in ``LayerMonitor``.
        layers: as in ``LayerMonitor``.
        strict: raise what makes a measurement impossible instead of warning once.
        **options: of ``LayerMonitor``: grid, learning_rate, dtype, reduce, mask, margin, process_group, autocast,
            backend.

    Raises:
        TypeError, ValueError: an option that ``LayerMonitor`` does not have, or another ``learning_rate``.
    """

    def __init__(
        self, probe: object, *, layers: str | Iterable[str] | Callable[[str, nn.Module], bool] = "auto",
        strict: bool = False, **options: Any,
    ) -> None:  # fmt: skip
        known = set(inspect.signature(LayerMonitor).parameters) - {"model", "probe", "optimizer", "batch_size"}
        if unknown := sorted(set(options) - known):
            raise TypeError(f"{unknown[0]!r} is no option of the callback; LayerMonitor has {', '.join(sorted(known))}")
        self.history = History()
        self.not_measured: dict[int, str] = {}
        """step -> why it is missing in the history."""
        self._probe, self._layers, self._strict, self._options = probe, layers, strict, options
        self._monitor: LayerMonitor | None = None
        self._grid = self._new_grid()

    @property
    def takes_grid_from_optimizer(self) -> bool:
        """Does it need the trainer's optimizer and batch size?"""
        return bool(self._options.get("grid", "optimizer") == "optimizer")

    @property
    def is_distributed(self) -> bool:
        """Does every rank take part?"""
        return self._options.get("process_group") is not None

    def begin(self, model: nn.Module, *, prepare: Callable[[Any], Any] = lambda probe: probe, **defaults: Any) -> None:
        """Meet the model.

        Args:
            model: what is trained.
            prepare: what the trainer does to inputs, e.g. a conversion to bfloat16.
            **defaults: options that the user may have given otherwise.

        Raises:
            TypeError, ValueError, ImportError: as ``LayerMonitor``.
            ValueError: weights are sharded over ranks, and only one of them would measure.
        """
        if not self.is_distributed:
            _refuse_shards(model)
        options = {**defaults, **self._options}
        self._grid = self._new_grid()
        if self.takes_grid_from_optimizer:
            options["grid"] = self._grid
            options.pop("learning_rate", None)
        self._monitor = LayerMonitor(model, prepare(self._probe), layers=self._layers, **options)
        self.not_measured = {}

    def end(self) -> None:
        """Let go of the model and the optimizer."""
        self._monitor, self._grid.optimizer = None, None

    def before_update(self, optimizer: Any) -> None:
        """Remember the learning rates of the update that comes now; never waits for a GPU."""
        self._grid.see(optimizer)

    def measure(self, step: int, optimizer: Any, batch_size: int) -> LayerReport | None:
        """Measure, unless the history has this step; None when there is nothing new.

        Args:
            step: of the training.
            optimizer: of the training, as it is now.
            batch_size: samples that an update sees, over all ranks and accumulated batches.

        Raises:
            Exception: what made it impossible, when strict.
        """
        if self._monitor is None or step in self.history.steps:
            return None
        self._grid.optimizer, self._grid.batch_size = optimizer, batch_size
        self._monitor.history = self.history
        try:
            return self._monitor.measure(step)
        except Exception as error:
            if self._strict:
                raise
            if not self.not_measured:
                warnings.warn(
                    f"bundle entropy was not measured at step {step}: {error}; the training goes on, and later "
                    "failures are listed in the callback's not_measured",
                    stacklevel=3,
                )
            self.not_measured[step] = str(error)
            return None

    def _new_grid(self) -> TrainingGrid:
        return TrainingGrid(learning_rate=self._options.get("learning_rate", "peak"))


class OfTrainingMonitor:
    """What every trainer's callback shows of its monitor."""

    _monitor: TrainingMonitor

    @property
    def history(self) -> History:
        """All reports so far."""
        return self._monitor.history

    @property
    def not_measured(self) -> dict[int, str]:
        """Step -> why it is missing in the history."""
        return self._monitor.not_measured


def _refuse_shards(model: nn.Module) -> None:
    """A forward pass of one rank alone would wait for the others for ever."""
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "placements") or hasattr(parameter, "ds_id"):  # DTensor (FSDP), DeepSpeed
            raise ValueError(
                f"the weight {name!r} is sharded over ranks, so all of them must measure; pass process_group='world'"
            )


def interval(name: str, value: int | None) -> int | None:
    """A checked "every n": a positive integer or None.

    Raises:
        ValueError: something else.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"{name} is {value!r}; it must be a positive integer or None")
    return value


def intervals(every_n_epochs: int | None, every_n_steps: int | None) -> tuple[int | None, int | None]:
    """Both checked; steps, where they are given, instead of epochs.

    Raises:
        ValueError: as ``interval``.
    """
    steps = interval("every_n_steps", every_n_steps)
    return interval("every_n_epochs", every_n_epochs) if steps is None else None, steps

"""A Lightning callback that measures the layers of what is trained; works with ``lightning`` and ``pytorch_lightning``.

What it shares with other trainers' callbacks is in ``training_monitor.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from ..findings.history import History
from ..findings.layer_report import LayerReport
from ..lazy import require_package
from .training_monitor import OfTrainingMonitor, TrainingMonitor, interval, intervals

NAMES = ("lightning.pytorch", "pytorch_lightning")


def _lightning() -> Any:
    """Of the two names, which are two sets of classes, the one in use; else the one that is installed."""
    loaded = [name for name in NAMES if name in sys.modules]
    try:
        return require_package([*loaded, NAMES[0]][0], "cbkernels.integrations.lightning")
    except ModuleNotFoundError:
        with suppress(ModuleNotFoundError):
            return require_package(NAMES[1], "cbkernels.integrations.lightning")
        raise


class LayerMonitorCallback(OfTrainingMonitor, _lightning().Callback):  # type: ignore[misc]
    """Measures bundle entropy at the end of training epochs and logs it.

    Args:
        probe: training samples and labels as in ``LayerMonitor``; the module is called with them.
        layers: as in ``LayerMonitor``; names are those in the LightningModule, e.g. "net.relu".
        every_n_epochs: at the end of every n-th; the history's steps are epochs. None: never.
        every_n_steps: after every n-th optimizer step instead; the history's steps are then those.
        module: name of the part of the LightningModule to measure, "" for all of it.
        batch_size: samples that one update sees; None takes it from the trainer: the loader's batch size,
            times ranks, times accumulated batches.
        log_layers: log the entropy of every layer too, not only the summary numbers.
        name: prefix of what is logged; two callbacks on one trainer need two names.
        strict: raise when a measurement is impossible (learning rate 0 and no peak known, diverged weights) instead
            of warning once and leaving it out.
        **options: of ``LayerMonitor``: grid, learning_rate, dtype, reduce, mask, margin, process_group, autocast,
            backend.

    The grid is that of the trainer's optimizer, at the peak of the learning rate (of all updates so far, where no
    scheduler tells it) unless ``learning_rate`` says otherwise. The probe runs in the trainer's precision. Only rank 0
    measures, unless ``process_group`` is given. The history is part of checkpoints.

    Raises:
        TypeError, ValueError: one sentence that quotes the argument; what needs the model when training starts.

    Example:
        >>> import torch
        >>> probe = (torch.zeros(4, 8), torch.tensor([0, 1, 0, 1]))
        >>> callback = LayerMonitorCallback(probe, every_n_epochs=5)
        >>> callback.history
        History(0 reports of 0 layers)
    """

    def __init__(
        self,
        probe: object,
        *,
        layers: str | Iterable[str] | Callable[[str, nn.Module], bool] = "auto",
        every_n_epochs: int | None = 1,
        every_n_steps: int | None = None,
        module: str = "",
        batch_size: int | None = None,
        log_layers: bool = False,
        name: str = "bundle_entropy",
        strict: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self._every_n_epochs, self._every_n_steps = intervals(every_n_epochs, every_n_steps)
        self._batch_size = interval("batch_size", batch_size)
        self._module, self._log_layers, self._name = module, log_layers, name
        self._monitor = TrainingMonitor(probe, layers=layers, strict=strict, **options)

    @property
    def state_key(self) -> str:
        """Where a checkpoint keeps the history."""
        return f"{type(self).__qualname__}[{self._name}]"

    def state_dict(self) -> dict[str, Any]:
        """The history, as JSON types."""
        return {"history": self.history.to_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with a checkpoint's history."""
        self._monitor.history = History.from_dict(state_dict["history"])

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Meet the model; a training that starts anew gets a new history."""
        if trainer.global_step == 0:
            self._monitor.history = History()
        if not self._takes_part(trainer):
            return
        precision = trainer.strategy.precision_plugin
        self._monitor.begin(pl_module.get_submodule(self._module), prepare=precision.convert_input)
        if self._monitor.takes_grid_from_optimizer:
            _optimizer_of(trainer)
            self._samples_of_update(trainer)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Remember the learning rate."""
        self._monitor.before_update(optimizer)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *others: Any) -> None:
        """Measure every n steps."""
        step = trainer.global_step
        if self._every_n_steps is not None and step > 0 and step % self._every_n_steps == 0:
            report = self._measured(trainer, step)
            if report is not None:
                self._log_step(trainer, report)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure every n epochs."""
        epoch = trainer.current_epoch
        if self._every_n_epochs is not None and (epoch + 1) % self._every_n_epochs == 0:
            report = self._measured(trainer, epoch)
            if report is not None:
                shared = self._monitor.is_distributed
                pl_module.log_dict(self._scalars(report), on_epoch=True, batch_size=1, rank_zero_only=not shared)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Let go of the model."""
        self._monitor.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Let go of the model."""
        self._monitor.end()

    def _takes_part(self, trainer: Any) -> bool:
        return bool(trainer.is_global_zero) or self._monitor.is_distributed

    def _measured(self, trainer: Any, step: int) -> LayerReport | None:
        if not self._takes_part(trainer):
            return None
        optimizer, batch_size = None, 0
        if self._monitor.takes_grid_from_optimizer:
            optimizer, batch_size = _optimizer_of(trainer), self._samples_of_update(trainer)
        with trainer.strategy.precision_plugin.forward_context():
            return self._monitor.measure(step, optimizer, batch_size)

    def _scalars(self, report: LayerReport) -> dict[str, float]:
        return report.scalars(self._name, layers=self._log_layers)

    def _log_step(self, trainer: Any, report: LayerReport) -> None:
        """Past ``log_dict``, which would repeat the numbers at every later step of the epoch."""
        values = self._scalars(report)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
        trainer.callback_metrics.update({key: torch.tensor(value) for key, value in values.items()})

    def _samples_of_update(self, trainer: Any) -> int:
        if self._batch_size is not None:
            return self._batch_size
        loader = trainer.train_dataloader
        sampler = getattr(loader, "batch_sampler", None)
        size = getattr(loader, "batch_size", None) or getattr(sampler, "batch_size", None)
        if not isinstance(size, int):
            raise ValueError(f"the training's {type(loader).__name__} has batch size {size!r}; pass batch_size=")
        return size * int(trainer.world_size) * int(trainer.accumulate_grad_batches)


def _optimizer_of(trainer: Any) -> Any:
    count = len(trainer.optimizers)
    if count != 1:
        raise ValueError(f"the training has {count} optimizers; pass grid= to say what an update is")
    return trainer.optimizers[0]

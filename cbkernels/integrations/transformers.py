"""A Hugging Face ``TrainerCallback`` that measures the layers of what a ``Trainer`` trains.

What it shares with other trainers' callbacks is in ``training_monitor.py``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ..files.json_files import json_value
from ..findings.history import History
from ..findings.layer_report import LayerReport
from ..lazy import require_package
from .training_monitor import OfTrainingMonitor, TrainingMonitor, interval, intervals

if TYPE_CHECKING:
    from torch import nn

_torch = require_package("torch", "cbkernels.integrations.transformers")
_transformers = require_package("transformers", "cbkernels.integrations.transformers")


class LayerMonitorCallback(OfTrainingMonitor, _transformers.TrainerCallback):  # type: ignore[misc,name-defined]
    """Measures bundle entropy while a ``Trainer`` trains, and logs it.

    Args:
        probe: training samples and labels as in ``LayerMonitor``, e.g. a batch of the data collator, with "labels".
        layers: as in ``LayerMonitor``.
        every_n_epochs: at the end of every n-th epoch; None: never.
        every_n_steps: after every n-th update instead; None: never.
        on_evaluate: also after every evaluation.
        batch_size: samples that one update sees; None takes it from the arguments: that of a device, times
            devices, times ranks, times accumulated batches.
        log_layers: log the entropy of every layer too, not only the summary numbers.
        name: prefix of what is logged.
        strict: raise when a measurement is impossible (learning rate 0 and no peak known, diverged weights) instead
            of warning once and leaving it out.
        **options: of ``LayerMonitor``: grid, learning_rate, dtype, reduce, mask, margin, process_group, autocast,
            backend.

    ``attach`` it to a trainer and numbers go through ``Trainer.log``: to ``log_history`` and every reporter.
    Passed as ``callbacks=[callback]``, which does not tell it its trainer, they go to ``log_history`` alone.
    Steps of the history are updates. It is kept in each checkpoint's trainer_state.json, from where resuming takes
    it, and written to ``<output_dir>/<name>.json`` (``History.load``) with every checkpoint and at the end.
    The grid is that of the trainer's optimizer, at the peak of the learning rate (of all updates so far, where no
    scheduler tells it) unless ``learning_rate`` says otherwise. Only rank 0 measures, unless ``process_group`` is
    given.

    Raises:
        TypeError, ValueError: one sentence that quotes the argument; what needs the model, and that the file would
            replace somebody else's, when training starts.

    Example:
        >>> import torch
        >>> probe = {"input_ids": torch.ones(4, 8, dtype=torch.long), "labels": torch.tensor([0, 1, 0, 1])}
        >>> callback = LayerMonitorCallback(probe, reduce="cls", every_n_steps=100)
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
        on_evaluate: bool = False,
        batch_size: int | None = None,
        log_layers: bool = False,
        name: str = "bundle_entropy",
        strict: bool = False,
        **options: Any,
    ) -> None:
        self._every_n_epochs, self._every_n_steps = intervals(every_n_epochs, every_n_steps)
        self._batch_size = interval("batch_size", batch_size)
        self._on_evaluate, self._log_layers, self._name = on_evaluate, log_layers, name
        self._state_key = f"LayerMonitorCallback[{name}]"
        self._trainer: Any = None
        self._epochs_ended = 0
        self._monitor = TrainingMonitor(probe, layers=layers, strict=strict, **options)

    def attach(self, trainer: Any) -> LayerMonitorCallback:
        """Join a trainer, and log through it.

        Args:
            trainer: a ``transformers.Trainer``.

        Returns:
            The callback.
        """
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)
        self._trainer = trainer
        return self

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Meet the model; take the history from the state, where a resumed training brings it along."""
        self._epochs_ended = int(state.epoch or 0)
        kept = state.stateful_callbacks.get(self._state_key, [])
        reports = [json_value(report, "trainer_state.json") for report in kept]
        self._monitor.history = History(map(LayerReport.from_dict, reports))
        if state.is_world_process_zero and os.path.lexists(self._file(args)):
            try:
                History.load(self._file(args))
            except ValueError as error:
                raise ValueError(f"{error}; move that away or pass another name") from error
        if self._takes_part(state):
            autocast = "bfloat16" if args.bf16 else "float16" if args.fp16 else None
            self._monitor.begin(kwargs["model"], autocast=autocast)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remember the learning rate."""
        self._monitor.before_update(kwargs["optimizer"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure every n updates."""
        if self._every_n_steps is not None and state.global_step % self._every_n_steps == 0:
            self._measure(args, state, control, kwargs["optimizer"])

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure every n epochs, counted here: of a data set without a length the state knows no epoch."""
        self._epochs_ended += 1
        if self._every_n_epochs is not None and self._epochs_ended % self._every_n_epochs == 0:
            self._measure(args, state, control, kwargs["optimizer"])

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure after an evaluation."""
        if self._on_evaluate and kwargs["optimizer"] is not None:
            self._measure(args, state, control, kwargs["optimizer"])

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the history next to the checkpoints."""
        if state.is_world_process_zero and len(self.history):
            self.history.save(self._file(args))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the history and let go of the model."""
        self.on_save(args, state, control)
        self._monitor.end()

    def _file(self, args: Any) -> str:
        return os.path.join(args.output_dir, f"{self._name.replace('/', '_')}.json")

    def _takes_part(self, state: Any) -> bool:
        return bool(state.is_world_process_zero) or self._monitor.is_distributed

    def _measure(self, args: Any, state: Any, control: Any, optimizer: Any) -> None:
        if not self._takes_part(state):
            return
        report = self._monitor.measure(state.global_step, optimizer, self._samples_of_update(args, state))
        if report is None:
            return
        # the state is what checkpoints hold; ExportableState would build a new callback, without a probe
        state.stateful_callbacks.setdefault(self._state_key, []).append(json.dumps(report.to_dict()))
        if state.is_world_process_zero:
            self._log(report, state, control)

    def _log(self, report: LayerReport, state: Any, control: Any) -> None:
        values = report.scalars(self._name, layers=self._log_layers)
        if self._trainer is None:
            state.log_history.append({**values, "epoch": state.epoch, "step": state.global_step})
            return
        wanted = control.should_log  # which Trainer.log takes for done
        self._trainer.log(values)
        control.should_log = wanted

    def _samples_of_update(self, args: Any, state: Any) -> int:
        if self._batch_size is not None:
            return self._batch_size
        of_rank = state.train_batch_size or args.train_batch_size
        return int(of_rank * args.gradient_accumulation_steps * args.world_size)

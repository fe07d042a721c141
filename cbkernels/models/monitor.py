"""Which layers of a model conflict, measured while it trains: one object, one call an epoch.

A monitor keeps a probe batch and hooks the model only during its own forward pass; nothing stays on
the model. Read next: ``layer_selection.py`` (which layers), ``layer_measurement.py`` (what happens inside the hooks),
``findings/layer_report.py`` (what comes out).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from .. import backends
from ..distributed import compute_across_ranks, told_by_all
from ..findings.history import History
from ..findings.layer_report import LayerReport
from ..grid import GRID_DTYPES, UpdateGrid
from .evaluation import device_of, evaluating, every_layer_called, unwrapped
from .layer_measurement import AcrossBatches, AtOnce, Measured
from .layer_selection import Selection, chosen_by_user, observe
from .probe import ProbeBatch, Reduction, RowRule, as_probe, check_reduction, is_time_first
from .training_grid import TrainingGrid
from .weights_checksum import weights_checksum

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class LayerMonitor:
    """Bundle entropy of a model's layers on a fixed probe batch.

    Args:
        model: any ``torch.nn.Module``; DDP and ``torch.compile`` are looked through.
        probe: training samples, some hundred to a few thousand: ``(x, y)``, where ``x`` is what the model
            takes (a tensor, a tuple of positional or a dict of keyword arguments) and ``y`` (N,) integer
            labels; a dict with an entry "labels"; or a list or loader of those, which is read once, kept,
            and measured as a stream of 128-bit fingerprints.
        layers: "auto": residual blocks and their branches if there are any, else the outputs of activation
            functions, else those of leaf layers; never the logits. Or a regular expression that matches whole
            names of ``named_modules()``, a list of names, a class of modules, or a function ``(name, module) -> bool``.
        optimizer: of the training; with ``batch_size`` it gives the update grid.
        batch_size: of the training, not of the probe.
        grid: "optimizer" takes the paper's grid anew at every measurement, at the precision that the weights
            are stored in; None compares values as they are; an ``UpdateGrid``, or a function that returns one.
        learning_rate: of the grid "optimizer". "peak": as in ``UpdateGrid.from_optimizer``, or the largest that
            this monitor has seen at its measurements, so that all steps of a schedule are measured on one
            resolution; "current": that of the moment; or the rate itself. Of several groups the smallest counts,
            but for frozen groups and those of rate 0. The report says how all of these differ.
        dtype: measures as if the weights were stored in "bfloat16", "float16", "float32" or "float64".
        reduce: what of a sequence output (N, T, C) is a sample's row: "flatten", the first value "cls",
            the "last" one, the "mean", or a function of (output, mask) that returns (N, ...).
            Values that the mask leaves out never count.
        batch_axis: 0 or 1, which axis of a layer's output counts the samples where both have as many entries; None
            takes what the module's ``batch_first`` says, and leaves a sequence out that cannot be told.
        mask: (N, T) padding mask, or the name of the one among the probe's keyword arguments.
        margin: also measure the conflict margin of every layer.
        process_group: None measures what this process holds. "world" or a group: every rank holds a part of
            the probe, also an empty one, every rank calls ``measure``, and all get the result of the whole; ranks
            whose weights (told by a checksum) or options differ are refused.
        autocast: type of an autocast to measure under, "bfloat16" or "float16"; None leaves it as it is.
        backend: as in ``bundle_entropy``.

    Raises:
        TypeError, ValueError: one sentence that quotes the argument.
        ImportError: torch is missing.

    Threads may share a monitor or a model: they measure one after the other. A thread that trains the model meanwhile
    must be kept waiting by its own program, for the model is in evaluation mode then.

    One batch is measured exactly. Across batches or ranks rows travel as fingerprints (wrong with probability
    2**-120 a pair, over a random key) and there is no margin; what the model itself computes may differ in the last
    bits with the size of a batch.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> probe = (torch.zeros(6, 8), torch.tensor([0, 1, 0, 1, 0, 1]))
        >>> monitor = LayerMonitor(model, probe, optimizer=optimizer, batch_size=64)
        >>> monitor.measure(step=0).conflicting()
        ['1']
    """

    history: History
    """All reports so far, but for those of ``measure(dtype=...)``."""
    probe: list[ProbeBatch]
    """The samples that are measured."""

    def __init__(
        self,
        model: nn.Module,
        probe: object,
        *,
        layers: str | Iterable[str] | type[nn.Module] | Callable[[str, nn.Module], bool] = "auto",
        optimizer: torch.optim.Optimizer | None = None,
        batch_size: int | None = None,
        grid: UpdateGrid | TrainingGrid | str | Callable[[], UpdateGrid] | None = "optimizer",
        learning_rate: str | float = "peak",
        dtype: str | None = None,
        reduce: str | Reduction = "flatten",
        batch_axis: int | None = None,
        mask: torch.Tensor | str | None = "attention_mask",
        margin: bool = True,
        process_group: ProcessGroup | str | None = None,
        autocast: str | None = None,
        backend: str = "auto",
    ) -> None:
        inner = unwrapped(model)
        check_reduction(reduce)
        if batch_axis is not None and (isinstance(batch_axis, bool) or batch_axis not in (0, 1)):
            raise ValueError(f"batch_axis is {batch_axis!r}; choose 0, 1 or None")
        backends.require_name(backend)
        taken_anew = TrainingGrid(optimizer, 0 if batch_size is None else batch_size, learning_rate)
        _check_grid(grid, optimizer, batch_size, learning_rate)
        _check_dtype(dtype, grid)
        if autocast not in (None, "bfloat16", "float16"):
            raise ValueError(f"autocast is {autocast!r}; choose 'bfloat16', 'float16' or None")
        self.model = model
        self.history = History()
        self.probe = as_probe(probe, mask)
        self._seen = _Seen(sum(batch.num_rows for batch in self.probe), _labels_of(self.probe))
        self._is_auto = isinstance(layers, str) and layers == "auto"
        self._selection = None if self._is_auto else Selection(chosen_by_user(inner, layers))
        self._grid, self._dtype = taken_anew if isinstance(grid, str) else grid, dtype
        self._rule, self._margin = RowRule(reduce, batch_axis, is_time_first(inner)), margin
        self._mask = mask if mask is None or isinstance(mask, str) else "a tensor"
        self._process_group, self._autocast, self._backend = process_group, autocast, backend
        self._looked_at: dict[str, type[nn.Module]] = {}
        self._overwritten: set[str] = set()
        self._ended: float | None = None

    def __repr__(self) -> str:
        rows = sum(batch.num_rows for batch in self.probe)
        last = f"; the last: {self.history[-1]!r}" if len(self.history) else ""
        model = type(unwrapped(self.model)).__name__
        return f"LayerMonitor({model}, probe of {rows} rows, {len(self.history)} measurements{last})"

    def _repr_html_(self) -> str:
        return self.history._repr_html_()

    @property
    def layers(self) -> list[str]:
        """Names of the modules that are measured; for "auto" the first use runs the model."""
        with self._evaluating() as inner:
            return list(self._selected(inner).names)

    def measure(self, step: int | None = None, *, dtype: str | None = None) -> LayerReport:
        """Measure all layers as they are now.

        Args:
            step: what the history calls this moment, usually the epoch, never less than the one before; None counts on.
            dtype: a question beside the history: as if the weights were stored in this type.

        Returns:
            The report, which the history keeps unless ``dtype`` was given.

        Raises:
            ValueError: no grid can be taken (learning rate 0 and no peak known, diverged weights), no chosen layer was
                called, a ``step`` before the last one, or the model's own error; the model and the history are then as
                before.
        """
        _check_dtype(dtype, self._grid)
        with self._evaluating() as inner:
            steps = self.history.steps
            if step is None:
                step = steps[-1] + 1 if steps else 0
            elif dtype is None and steps and step < steps[-1]:
                raise ValueError(f"step is {step}, which is before {steps[-1]}, the last one; make a new monitor")
            started = time.perf_counter()
            grid, rates = self._current_grid(dtype or self._dtype)
            measured, selection, seen = self._measured(inner, grid)
            owners = selection.blocks
            report = LayerReport(
                measured.results,
                step=step,
                margins=measured.margins,
                amplitudes=measured.amplitudes,
                blocks={layer: owners[of] for layer, of in measured.modules.items() if of in owners},
                skipped=measured.skipped,
                notes=(*selection.notes, *self._doubts(inner, seen)),
                learning_rates=rates,
                model=type(inner).__name__,
                autocast=_autocast_in_use(inner),
                reduce=_name_of(self._rule.reduce),
                seconds=time.perf_counter() - started,
                seconds_since_last=None if self._ended is None else started - self._ended,
            )
            if dtype is None:
                self.history.append(report)
            self._ended = time.perf_counter()
        return report

    def _measured(self, inner: nn.Module, grid: UpdateGrid | None) -> tuple[Measured, Selection, _Seen]:
        """Run the probe; across ranks every rank comes back, with a result or with the same error."""
        seen = self._seen
        if self._process_group is None:
            selection = self._selected(inner)
            if len(self.probe) == 1:
                at_once = AtOnce(grid, self._backend, self._rule, self._margin, self._overwritten)
                return at_once.measure(inner, selection.names, self._batches_for(inner)[0]), selection, seen
            stream = AcrossBatches(grid, self._backend, self._rule)
            stream.add_all(inner, selection.names, self._batches_for(inner))
            return stream.measured(), selection, seen
        stream, selection, error = AcrossBatches(grid, self._backend, self._rule), Selection([]), None
        failure: Exception | None = None
        alike: dict[str, object] = {}
        try:
            alike = self._alike(inner)
            batches = [batch for batch in self._batches_for(inner) if batch.num_rows]
            if batches:
                selection = self._selected(inner)
                stream.add_all(inner, selection.names, batches)
        except Exception as raised:  # the other ranks wait for this one: it must take part, then fail
            failure, error = raised, f"{type(raised).__name__}: {raised}"
        try:
            results = compute_across_ranks(stream.metrics, self._process_group, error=error, alike=alike)
        except Exception as refused:
            if failure is not None:
                raise failure from refused
            raise
        measured = stream.measured(results)
        # a rank without samples learns from the first one that has some what the layers are
        told = told_by_all((measured.modules, measured.skipped, selection, seen), self._process_group)
        measured.modules, measured.skipped, selection, _ = next((t for t in told if t[0]), told[0])
        seen = _Seen(sum(t[3].rows for t in told), set().union(*(t[3].labels for t in told)))
        return measured, selection, seen

    def _doubts(self, inner: nn.Module, seen: _Seen) -> list[str]:
        """What of the probe and the optimizer makes the numbers worthless, for the notes of a report."""
        doubts = []
        if len(seen.labels) == 1:
            many = "the only sample" if seen.rows == 1 else f"all {seen.rows} samples"
            doubts.append(
                f"{many} of the probe had the label {next(iter(seen.labels))}, so that no bundle could conflict; pass "
                "samples of several labels"
            )
        if isinstance(self._grid, TrainingGrid) and self._grid.optimizer is not None:
            own, groups = set(map(id, inner.parameters())), self._grid.optimizer.param_groups
            if own.isdisjoint(id(p) for group in groups for p in group.get("params", ())):
                doubts.append(
                    "the optimizer trains none of the model's parameters; unless it keeps copies of them, pass the "
                    "optimizer of this model"
                )
        return doubts

    def _alike(self, inner: nn.Module) -> dict[str, object]:
        """What ranks may not differ in, for their results would be put together without a word; layers are compared."""
        return {
            "a model of class": type(inner).__name__, "reduce": _name_of(self._rule.reduce),
            "batch_axis": str(self._rule.batch_axis), "mask": self._mask,
            "an autocast to": _autocast_in_use(inner), "weights with the checksum": weights_checksum(inner),
        }  # fmt: skip

    @contextmanager
    def _evaluating(self) -> Iterator[nn.Module]:
        with ExitStack() as stack:
            inner = stack.enter_context(evaluating(self.model))
            stack.enter_context(every_layer_called())
            if self._autocast is not None:
                kind = getattr(torch, self._autocast)
                stack.enter_context(torch.autocast(device_of(inner).type, kind))
            yield inner

    def _batches_for(self, inner: nn.Module) -> list[ProbeBatch]:
        device = device_of(inner)
        return [batch.to(device) for batch in self.probe]

    def _selected(self, inner: nn.Module) -> Selection:
        """The choice of layers; "auto" looks once, and again when the model has other modules, as after surgery."""
        selection = self._selection
        modules = {name: type(module) for name, module in inner.named_modules()}
        if selection is not None and self._is_auto and modules == self._looked_at:
            return selection
        if selection is not None and not self._is_auto:
            kept = [name for name in selection.names if name in modules]
            if len(kept) == len(selection.names):
                return selection
            if not kept:
                gone = ", ".join(map(repr, selection.names[:6]))
                raise ValueError(f"none of the layers {gone} is in the model any more; make a new monitor")
            return Selection(kept)
        batch = next((batch for batch in self._batches_for(inner) if batch.num_rows), None)
        if batch is None:
            raise ValueError("the probe has no sample, so 'auto' finds no layers; name them")
        self._selection = observe(inner, lambda: batch.run(inner))
        self._looked_at = modules
        return self._selection

    def _current_grid(self, dtype: str | None) -> tuple[UpdateGrid | None, dict[str, float]]:
        grid = self._grid
        assert not isinstance(grid, str)
        if isinstance(grid, TrainingGrid):
            return grid.of(unwrapped(self.model), dtype)
        if callable(grid):
            grid = grid()
            if not isinstance(grid, UpdateGrid):
                raise TypeError(f"the function grid returned {grid!r}; it must return an UpdateGrid")
        if grid is not None and dtype is not None:
            grid = UpdateGrid(grid.learning_rate, grid.batch_size, grid.weight_amplitude, dtype)
        return grid, {}


class _Seen(NamedTuple):
    """Of the whole probe."""

    rows: int
    labels: set[int]
    """All where there is one, else some."""


def _labels_of(probe: list[ProbeBatch]) -> set[int]:
    return {int(label) for batch in probe if batch.num_rows for label in torch.aminmax(batch.labels.long())}


def _name_of(reduce: str | Reduction) -> str:
    return reduce if isinstance(reduce, str) else getattr(reduce, "__name__", "function")


def _check_grid(grid: object, optimizer: object, batch_size: object, learning_rate: object) -> None:
    if grid is None or isinstance(grid, (UpdateGrid, TrainingGrid)) or callable(grid):
        if learning_rate != "peak":
            raise ValueError(f"learning_rate is {learning_rate!r} but grid is not 'optimizer'; leave one of them out")
        return
    if grid != "optimizer":
        raise ValueError(f"grid is {grid!r}; pass 'optimizer', an UpdateGrid, a function that returns one, or None")
    if optimizer is None or batch_size is None:
        missing = "optimizer" if optimizer is None else "batch_size"
        known = "" if optimizer is not None else "grid=cbkernels.UpdateGrid(...) where there is no optimizer, "
        raise ValueError(
            f"grid is 'optimizer' but {missing} is None; pass {missing}=, {known}or grid=None to compare values as "
            "they are"
        )
    if not hasattr(optimizer, "param_groups"):
        raise TypeError(f"optimizer is a {type(optimizer).__name__}; pass a torch.optim.Optimizer")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}; it must be a positive integer")


def _check_dtype(dtype: str | None, grid: object) -> None:
    if dtype is None:
        return
    if dtype not in GRID_DTYPES:
        raise ValueError(f"dtype is {dtype!r}; choose one of {', '.join(GRID_DTYPES)}")
    if grid is None:
        raise ValueError(f"dtype is {dtype!r} but grid is None; a precision of weights needs an update grid")


def _autocast_in_use(model: nn.Module) -> str | None:
    kind = device_of(model).type
    if not torch.is_autocast_enabled(kind):
        return None
    return str(torch.get_autocast_dtype(kind)).removeprefix("torch.")

"""What happens inside the hooks: outputs become rows, rows become results.

``AtOnce`` measures one probe batch exactly. On a CPU it counts inside the hook, before a later in-place
operation can overwrite the tensor. On a GPU it holds outputs, up to a budget, and counts all of them in one
launch; torch's version counters tell which were overwritten meanwhile: those are copied in a second pass, and
from then on. ``AcrossBatches`` keeps a stream of fingerprints per layer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .. import backends
from ..arrays import Rows, as_labels, as_rows
from ..bundle import results_of_layers
from ..grid import UpdateGrid
from ..result import BundleResult
from ..streaming import BundleEntropy
from .evaluation import Take, first_tensor, outputs_taken
from .probe import NoRows, ProbeBatch, RowRule, rows_of_output

HELD_BYTES = 1 << 30
"""Outputs on a GPU that wait for the common launch."""


@dataclass
class Measured:
    """Layers in the order of their calls; a second call of ``relu`` is ``relu#1``."""

    results: dict[str, BundleResult] = field(default_factory=dict)
    margins: dict[str, float] = field(default_factory=dict)
    amplitudes: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    """layer -> why it has no result."""
    modules: dict[str, str] = field(default_factory=dict)
    """layer -> name of its module."""


def _rows_taken(
    measured: Measured, batch: ProbeBatch, rule: RowRule, count: Callable[[str, torch.Tensor, Rows], None]
) -> Take:
    """What a hook does: give ``count`` a layer's rows and the checked view of them, or keep why there are none."""

    def take(layer: str, name: str, module: nn.Module, output: Any) -> None:
        measured.modules[layer] = name
        tensor = first_tensor(output)
        if tensor is None:
            measured.skipped[layer] = "its output holds no tensor"
            return
        try:
            rows = rows_of_output(tensor, module, batch, rule)
        except NoRows as reason:
            measured.skipped[layer] = str(reason)
            return
        try:
            view = as_rows(rows, "its output")
        except (TypeError, ValueError) as error:
            measured.skipped[layer] = str(error)
            return
        count(layer, rows, view)

    return take


def _require_something(measured: Measured, names: list[str]) -> None:
    for name in names:
        if name not in measured.skipped and name not in measured.modules.values():
            measured.skipped[name] = "it was not called"
    if not measured.results:
        layer, reason = next(iter(measured.skipped.items()), ("", "there is none"))
        raise ValueError(f"none of the {len(names)} chosen layers can be measured: {layer!r}: {reason}")


@dataclass
class AtOnce:
    """One probe batch."""

    grid: UpdateGrid | None
    """None for plain equality."""
    backend: str
    """Name of a backend or "auto"."""
    rule: RowRule
    """See ``rows_of_output``."""
    margin: bool
    """Measure conflict margins too."""
    overwritten: set[str]
    """Layers whose outputs the model overwrites; kept by the caller from one measurement to the next."""
    held_bytes: int = HELD_BYTES
    """Budget on a GPU."""

    def measure(self, model: nn.Module, names: list[str], batch: ProbeBatch) -> Measured:
        """Run the model, once more if outputs that were held turn out to have been overwritten.

        Raises:
            ValueError: nothing could be measured.
        """
        while True:
            known = len(self.overwritten)
            self._measured = Measured()
            self._labels_on = functools.cache(batch.labels.to)
            self._held: list[tuple[str, torch.Tensor, int]] = []
            take = _rows_taken(self._measured, batch, self.rule, self._count_or_hold)
            with outputs_taken(model, names, take):
                batch.run(model)
            self._flush()
            if len(self.overwritten) == known:
                break
        measured = self._measured
        # layers of several devices are counted in turn; the order of the calls is what readers expect
        measured.results = {layer: measured.results[layer] for layer in measured.modules if layer in measured.results}
        _require_something(measured, names)
        return measured

    def _count_or_hold(self, layer: str, rows: torch.Tensor, view: Rows) -> None:
        if backends.choose(self.backend, view).on_gpu is None:
            self._count({layer: rows}, {layer: view})
            return
        if layer in self.overwritten or rows.is_inference():  # inference tensors count no versions
            rows = rows.clone()
        self._held.append((layer, rows, rows._version))
        if sum(held.nbytes for _, held, _ in self._held) > self.held_bytes:
            self._flush()

    def _flush(self) -> None:
        untouched: dict[str, dict[str, torch.Tensor]] = {}
        for layer, rows, version in self._held:
            if rows._version == version:
                untouched.setdefault(str(rows.device), {})[layer] = rows
            else:
                self.overwritten.add(layer)
        self._held = []
        for layers in untouched.values():
            # the stream that a view remembers may have been another one when the output was made
            self._count(layers, {layer: as_rows(rows) for layer, rows in layers.items()})

    def _count(self, layers: Mapping[str, torch.Tensor], views: dict[str, Rows]) -> None:
        """Layers on one device. A GPU has everything to do before the first number is waited for."""
        view = next(iter(views.values()))
        labels = as_labels(self._labels_on(view.device), view)
        chosen = backends.choose(self.backend, view)
        read_counts = chosen.queue_layers(list(views.values()), labels, self.grid, check_nan=True)
        if self.margin:
            queued = {layer: chosen.queue_margin(rows, labels) for layer, rows in views.items()}
            self._measured.amplitudes.update(_amplitudes(layers))
            self._measured.margins.update({layer: read() for layer, read in queued.items()})
        self._measured.results.update(results_of_layers(views, read_counts(), chosen.name, self.grid))


def _amplitudes(layers: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Largest absolute value that is not NaN; one wait for a GPU."""
    floats = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

    def largest(rows: torch.Tensor) -> torch.Tensor:
        values = rows if rows.dtype in floats else rows.double()
        if not values.numel():
            return torch.zeros((), dtype=torch.float64, device=rows.device)
        low, high = torch.aminmax(values)
        return torch.maximum(-low.double(), high.double())

    found = torch.stack([largest(rows) for rows in layers.values()]).tolist()
    for i, (value, rows) in enumerate(zip(found, layers.values(), strict=True)):
        if value != value:
            found[i] = float(torch.nan_to_num(rows.double(), nan=0.0, posinf=torch.inf, neginf=-torch.inf).abs().amax())
    return dict(zip(layers, found, strict=True))


@dataclass
class AcrossBatches:
    """Several probe batches, or the part of a probe that one rank holds."""

    grid: UpdateGrid | None
    """None for plain equality."""
    backend: str
    """Name of a backend or "auto"."""
    rule: RowRule
    """See ``rows_of_output``."""
    metrics: dict[str, BundleEntropy] = field(default_factory=dict)
    """layer -> what it has seen."""
    _measured: Measured = field(default_factory=Measured)
    _names: list[str] = field(default_factory=list)

    def add_all(self, model: nn.Module, names: list[str], batches: list[ProbeBatch]) -> None:
        """Run the model on every batch.

        Raises:
            ValueError: nothing could be measured, or a layer's rows differ in width or type from batch to batch.
        """
        self._names = names
        for batch in batches:
            add = functools.partial(self._add, functools.cache(batch.labels.to))
            with outputs_taken(model, names, _rows_taken(self._measured, batch, self.rule, add)):
                batch.run(model)
        if not self.metrics:
            _require_something(self._measured, names)

    def _add(self, labels_on: Callable[[Any], torch.Tensor], layer: str, rows: torch.Tensor, view: Rows) -> None:
        if layer not in self.metrics:
            self.metrics[layer] = BundleEntropy(grid=self.grid, backend=self.backend)
        try:
            self.metrics[layer].update(rows, labels_on(rows.device))
        except (TypeError, ValueError) as error:
            raise type(error)(f"layer {layer!r}: {error}") from error

    def measured(self, results: Mapping[str, BundleResult] | None = None) -> Measured:
        """The result of every layer; ``results`` where ranks have put theirs together."""
        found = {layer: metric.compute() for layer, metric in self.metrics.items()} if results is None else results
        self._measured.results = dict(found)
        if results is None:
            _require_something(self._measured, self._names)
        return self._measured

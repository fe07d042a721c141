"""What happens inside the hooks: outputs become rows, rows become results.

``AtOnce`` measures one probe batch exactly. On a CPU it counts inside the hook, before a later in-place
operation can overwrite the tensor. On a GPU it holds outputs, up to a budget, and counts all of them in one
launch; torch's version counters tell which were overwritten meanwhile: those are copied in a second pass, and
from then on. ``AcrossBatches`` keeps a stream of fingerprints per layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .. import backends
from ..arrays import Labels, Rows, as_labels, as_rows
from ..bundle import conflict_margin, entropy_of_views
from ..grid import UpdateGrid
from ..result import BundleResult
from ..streaming import BundleEntropy
from .evaluation import first_tensor, require_torch
from .probe import NoRows, ProbeBatch, Reduction, rows_of_output

if TYPE_CHECKING:
    import torch
    from torch import nn

HELD_BYTES = 1 << 30
"""Outputs on a GPU that wait for the common launch."""

Take = Callable[[str, str, "nn.Module", Any], None]
"""Gets the layer's name, its module's name, the module and what it returned."""


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


@contextmanager
def outputs_taken(model: nn.Module, names: list[str], take: Take) -> Iterator[None]:
    """Call ``take(layer, name, module, output)`` whenever a chosen module returns; no hook is left behind."""
    calls: Counter[str] = Counter()

    def hook_of(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            layer = f"{name}#{calls[name]}" if calls[name] else name
            calls[name] += 1
            take(layer, name, module, output)

        return hook

    handles = []
    try:
        for name in names:
            handles.append(model.get_submodule(name).register_forward_hook(hook_of(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _rows_of(output: Any, module: nn.Module, batch: ProbeBatch, reduce: str | Reduction) -> tuple[torch.Tensor, Rows]:
    """Rows that can be measured, and the checked view of them.

    Raises:
        NoRows: there are none, and why.
    """
    tensor = first_tensor(output)
    if tensor is None:
        raise NoRows("its output holds no tensor")
    rows = rows_of_output(tensor, module, batch, reduce)
    try:
        return rows, as_rows(rows, "its output")
    except (TypeError, ValueError) as error:
        raise NoRows(str(error)) from error


def _require_something(measured: Measured, names: list[str]) -> None:
    for name in names:
        if name not in measured.skipped and name not in measured.modules.values():
            measured.skipped[name] = "it was not called"
    if not measured.results:
        layer, reason = next(iter(measured.skipped.items()), ("", "there is none"))
        raise ValueError(f"none of the {len(names)} chosen layers can be measured: {layer!r}: {reason}")


class AtOnce:
    """One probe batch.

    Args:
        grid: update grid, None for plain equality.
        backend: name of a backend or "auto".
        reduce: see ``rows_of_output``.
        margin: measure conflict margins too.
        overwritten: layers whose outputs the model overwrites; kept by the caller from one measurement to the next.
        held_bytes: budget on a GPU.
    """

    def __init__(
        self,
        grid: UpdateGrid | None,
        backend: str,
        reduce: str | Reduction,
        margin: bool,
        overwritten: set[str],
        held_bytes: int = HELD_BYTES,
    ) -> None:
        self._grid, self._backend, self._reduce, self._margin = grid, backend, reduce, margin
        self._overwritten, self._budget = overwritten, held_bytes

    def measure(self, model: nn.Module, names: list[str], batch: ProbeBatch) -> Measured:
        """Run the model, once more if outputs that were held turn out to have been overwritten.

        Raises:
            ValueError: nothing could be measured.
        """
        while True:
            known = len(self._overwritten)
            self._measured, self._labels = Measured(), {"cpu": batch.labels}
            self._label_views: dict[str, Labels] = {}
            self._held: list[tuple[str, torch.Tensor, int]] = []

            def take(layer: str, name: str, module: nn.Module, output: Any) -> None:
                self._measured.modules[layer] = name
                try:
                    self._count_or_hold(layer, *_rows_of(output, module, batch, self._reduce))
                except NoRows as reason:
                    self._measured.skipped[layer] = str(reason)

            with outputs_taken(model, names, take):
                model(*batch.args, **batch.kwargs)
            self._flush()
            if len(self._overwritten) == known:
                break
        measured = self._measured
        # layers of several devices are counted in turn; the order of the calls is what readers expect
        measured.results = {layer: measured.results[layer] for layer in measured.modules if layer in measured.results}
        _require_something(measured, names)
        return measured

    def _count_or_hold(self, layer: str, rows: torch.Tensor, view: Rows) -> None:
        if backends.choose(self._backend, view).on_gpu is None:
            self._count({layer: rows}, {layer: view})
            return
        if layer in self._overwritten or rows.is_inference():  # inference tensors count no versions
            rows = rows.clone()
        self._held.append((layer, rows, rows._version))
        if sum(held.nbytes for _, held, _ in self._held) > self._budget:
            self._flush()

    def _flush(self) -> None:
        untouched: dict[str, dict[str, torch.Tensor]] = {}
        for layer, rows, version in self._held:
            if rows._version == version:
                untouched.setdefault(str(rows.device), {})[layer] = rows
            else:
                self._overwritten.add(layer)
        self._held = []
        for layers in untouched.values():
            # the stream that a view remembers may have been another one when the output was made
            self._count(layers, {layer: as_rows(rows) for layer, rows in layers.items()})

    def _count(self, layers: Mapping[str, torch.Tensor], views: dict[str, Rows]) -> None:
        """Layers on one device."""
        device = str(next(iter(views.values())).device)
        labels = self._labels.get(device)
        if labels is None:
            labels = self._labels[device] = self._labels["cpu"].to(device)
        of_rows = self._label_views.get(device)
        if of_rows is None:
            of_rows = self._label_views[device] = as_labels(labels, next(iter(views.values())))
        chosen = backends.choose(self._backend, next(iter(views.values())))
        self._measured.results.update(entropy_of_views(views, of_rows, chosen, self._grid))
        if self._margin:
            for layer, rows in layers.items():
                self._measured.margins[layer] = conflict_margin(rows, labels, backend=self._backend)
            self._measured.amplitudes.update(_amplitudes(layers))


def _amplitudes(layers: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Largest absolute value that is not NaN; one wait for a GPU."""
    torch = require_torch("LayerMonitor")
    floats = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

    def largest(rows: Any) -> Any:
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


class AcrossBatches:
    """Several probe batches, or the part of a probe that one rank holds.

    Args:
        grid: update grid, None for plain equality.
        backend: name of a backend or "auto".
        reduce: see ``rows_of_output``.
    """

    def __init__(self, grid: UpdateGrid | None, backend: str, reduce: str | Reduction) -> None:
        self._grid, self._backend, self._reduce = grid, backend, reduce
        self._measured = Measured()
        self._names: list[str] = []
        self.metrics: dict[str, BundleEntropy] = {}
        """layer -> what it has seen."""

    def add_all(self, model: nn.Module, names: list[str], batches: list[ProbeBatch]) -> None:
        """Run the model on every batch.

        Raises:
            ValueError: nothing could be measured, or a layer's rows differ in width or type from batch to batch.
        """
        self._names = names
        for batch in batches:
            with outputs_taken(model, names, self._adder(batch)):
                model(*batch.args, **batch.kwargs)
        if not self.metrics:
            _require_something(self._measured, names)

    def _adder(self, batch: ProbeBatch) -> Take:
        labels: dict[str, torch.Tensor] = {}

        def take(layer: str, name: str, module: nn.Module, output: Any) -> None:
            self._measured.modules[layer] = name
            try:
                rows, _ = _rows_of(output, module, batch, self._reduce)
            except NoRows as reason:
                self._measured.skipped[layer] = str(reason)
                return
            if layer not in self.metrics:
                self.metrics[layer] = BundleEntropy(grid=self._grid, backend=self._backend)
            device = str(rows.device)
            if device not in labels:
                labels[device] = batch.labels.to(rows.device)
            try:
                self.metrics[layer].update(rows, labels[device])
            except (TypeError, ValueError) as error:
                raise type(error)(f"layer {layer!r}: {error}") from error

        return take

    def measured(self, results: Mapping[str, BundleResult] | None = None) -> Measured:
        """The result of every layer; ``results`` where ranks have put theirs together."""
        found = {layer: metric.compute() for layer, metric in self.metrics.items()} if results is None else results
        self._measured.results = dict(found)
        if results is None:
            _require_something(self._measured, self._names)
        return self._measured

"""Probe batches: fixed training samples that are measured, and how a module's output becomes rows.

``as_probe`` takes what users have at hand (a pair, a dict of the Hugging Face kind, a loader) and keeps it;
``rows_of_output`` finds the samples' axis and reduces sequences.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..arrays import not_numbered
from .evaluation import tensors_in

REDUCTIONS = ("flatten", "cls", "last", "mean")
"""What of a sequence (N, T, C) is a sample's row, see ``LayerMonitor``."""

Reduction = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
_ABOUT_SHAPES = re.compile(r"shape|size|dim|channels|index out of", re.I)
"""What torch says of a sample that the model was not made for."""


@dataclass(frozen=True)
class ProbeBatch:
    """Samples as a model takes them, and a label of each."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    labels: torch.Tensor
    """(N,) integers."""
    mask: torch.Tensor | None = None
    """(N, T), not 0 where a sequence has a value and is not padding."""

    @property
    def num_rows(self) -> int:
        """N."""
        return len(self.labels)

    def run(self, model: nn.Module) -> object:
        """What the model returns of the batch; an error about shapes also says what it was given."""
        try:
            return model(*self.args, **self.kwargs)
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            shapes = " and ".join(str(tuple(x.shape)) for x in tensors_in([*self.args, *self.kwargs.values()]))
            if shapes and len(error.args) == 1 and _ABOUT_SHAPES.search(str(error)):
                error.args = (f"{error} (the model was given a batch of the shape {shapes}, the samples first)",)
            raise

    def to(self, device: torch.device) -> ProbeBatch:
        """The same batch with all tensors on a device."""
        mask = None if self.mask is None else self.mask.to(device)
        return ProbeBatch(_moved(self.args, device), _moved(self.kwargs, device), self.labels, mask)


def as_probe(probe: object, mask: object = "attention_mask") -> list[ProbeBatch]:
    """Check a probe and keep it: the samples stay the same for all measurements.

    Args:
        probe: ``(x, y)``, where ``x`` is a tensor, a tuple of positional arguments or a dict of keyword
            arguments and ``y`` holds (N,) integer labels; a dict with an entry "labels"; or an iterable of
            those, which is read once.
        mask: (N, T) tensor, or the key of the probe's dict that holds it, used where it exists.

    Raises:
        TypeError, ValueError: one sentence that quotes what is wrong.
    """
    if _is_batch(probe):
        batches = [probe]
    elif isinstance(probe, Iterable) and not isinstance(probe, (torch.Tensor, np.ndarray, str)):
        batches = list(probe)
        if not batches:
            raise ValueError("probe holds no batch; pass (x, y) or a list of such pairs")
    else:
        raise TypeError(f"probe is a {type(probe).__name__}; pass (x, y), a dict with labels, or a list of batches")
    if len(batches) > 1 and mask is not None and not isinstance(mask, str):
        raise ValueError(f"mask is one tensor for {len(batches)} probe batches; put masks into the batches' dicts")
    return [_as_batch(batch, mask) for batch in batches]


def _is_batch(probe: object) -> bool:
    if isinstance(probe, Mapping):
        return True
    if not isinstance(probe, (tuple, list)) or len(probe) != 2:
        return False
    # a list of two batches is told from a batch by its second entry
    return hasattr(probe[1], "__array__") or _is_flat_list(probe[1])


def _is_flat_list(x: object) -> bool:
    numbers_or_names = (int, float, str, np.generic)
    return isinstance(x, range) or (
        isinstance(x, (list, tuple)) and bool(x) and all(isinstance(i, numbers_or_names) for i in x)
    )


def _as_batch(batch: object, mask: object) -> ProbeBatch:
    if isinstance(batch, Mapping):
        inputs = dict(batch)
        if "labels" not in inputs:
            raise ValueError(f"the probe's dict has the keys {sorted(map(str, inputs))}; it needs an entry 'labels'")
        x, y = inputs, inputs.pop("labels")
    elif isinstance(batch, (tuple, list)) and len(batch) == 2:
        x, y = batch
    else:
        raise TypeError(f"a probe batch is a {type(batch).__name__}; pass a pair (x, y) or a dict with labels")
    labels = _labels(y)
    if labels.ndim != 1:
        raise ValueError(f"the probe's labels have shape {tuple(labels.shape)}; one label per sample is needed, (N,)")
    args, kwargs = _detached(((), dict(x)) if isinstance(x, Mapping) else (x if isinstance(x, tuple) else (x,), {}))
    found = kwargs.get(mask) if isinstance(mask, str) else mask
    if found is not None:
        found = _as_tensor(found)
        if found.ndim != 2 or len(found) != len(labels):
            raise ValueError(f"mask has shape {tuple(found.shape)}; it must be ({len(labels)}, T), as the sequences")
    of_samples = next((t for t in tensors_in((args, kwargs)) if t.ndim), None)
    if of_samples is not None and len(labels) not in of_samples.shape:
        raise ValueError(
            f"the probe has {len(labels)} labels and samples of shape {tuple(of_samples.shape)}; they must agree"
        )
    return ProbeBatch(args, kwargs, labels, found)


def _labels(y: Any) -> torch.Tensor:
    if not isinstance(y, torch.Tensor):
        y = np.asarray(y)
        if y.dtype.kind not in "biu":
            raise not_numbered("the probe's labels have", y.dtype)
        y = _as_tensor(y)
    if y.is_floating_point() or y.is_complex():
        raise not_numbered("the probe's labels have", y.dtype)
    kept: torch.Tensor = y.detach().clone()
    return kept


def _mapped(x: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """The same nest of tuples, lists and dicts with every tensor changed."""
    if isinstance(x, torch.Tensor):
        return change(x)
    if isinstance(x, np.ndarray):
        return change(torch.from_numpy(x))
    if isinstance(x, tuple):
        parts = [_mapped(part, change) for part in x]
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    if isinstance(x, list):
        return [_mapped(part, change) for part in x]
    if isinstance(x, dict):
        return {key: _mapped(part, change) for key, part in x.items()}
    return x


def _as_tensor(x: Any) -> torch.Tensor:
    """On the CPU unless it is a tensor already: the default device may be "meta", which holds no values."""
    return x if isinstance(x, torch.Tensor) else torch.as_tensor(x, device="cpu")


def _detached(x: Any) -> Any:
    return _mapped(x, lambda tensor: tensor.detach().clone())


def _moved(x: Any, device: torch.device) -> Any:
    return _mapped(x, lambda tensor: tensor.to(device))


# --- rows -------------------------------------------------------------------------------------------------


_SEQUENCES = 3
"""Axes of (N, T, C) and (T, N, C)."""


class NoRows(Exception):
    """Why an output has no row per sample."""


def check_reduction(reduce: object) -> None:
    """Raise ValueError or TypeError unless ``reduce`` is one of ``REDUCTIONS`` or a function."""
    if callable(reduce) or (isinstance(reduce, str) and reduce in REDUCTIONS):
        return
    kind = ValueError if isinstance(reduce, str) else TypeError
    raise kind(f"reduce is {reduce!r}; choose one of {', '.join(REDUCTIONS)} or pass a function")


@dataclass(frozen=True)
class RowRule:
    """How outputs become rows, see ``LayerMonitor``."""

    reduce: str | Reduction = "flatten"
    batch_axis: int | None = None
    """Which axis counts the samples where the first and the second have N entries; None: told by the module."""
    is_time_first: bool = False
    """The model has modules with ``batch_first=False``, so outputs of others may have the time first, too."""


def is_time_first(model: nn.Module) -> bool:
    """Whether any of its modules takes (T, N, C)."""
    return any(getattr(module, "batch_first", None) is False for module in model.modules())


def rows_of_output(output: torch.Tensor, module: nn.Module, batch: ProbeBatch, rule: RowRule) -> torch.Tensor:
    """A tensor whose first axis counts the samples.

    Args:
        output: what the module returned; samples along the first axis, or along the second.
        module: the module.
        batch: for N and the padding mask.
        rule: how (N, T, C) becomes a row, and which axis N is; other ranks are left as they are.

    Raises:
        NoRows: no axis has N entries, or it cannot be told which of two.
    """
    reduce, rows = rule.reduce, _samples_first(output, module, batch.num_rows, rule)
    if callable(reduce):
        return reduce(rows, batch.mask)
    if rows.ndim != 3:
        return rows
    mask = batch.mask if batch.mask is not None and batch.mask.shape[1] == rows.shape[1] else None
    if mask is not None:
        mask = mask.to(rows.device) != 0
    if reduce == "flatten":
        return rows if mask is None else rows.masked_fill(~mask[..., None], 0)
    if reduce == "cls":
        return rows[:, 0]
    if reduce == "last":
        return rows[:, -1] if mask is None else _last(rows, mask)
    if mask is None:
        return rows.float().mean(1).to(rows.dtype)
    kept = rows.masked_fill(~mask[..., None], 0).float().sum(1)
    return (kept / mask.sum(1, keepdim=True).clamp(min=1)).to(rows.dtype)


def _samples_first(output: torch.Tensor, module: nn.Module, num_rows: int, rule: RowRule) -> torch.Tensor:
    axes = [axis for axis in (0, 1) if axis < output.ndim and output.shape[axis] == num_rows]
    if not axes:
        raise NoRows(f"its output has shape {tuple(output.shape)}, and neither of its first two axes is {num_rows}")
    if len(axes) == 1:
        return output.movedim(axes[0], 0)
    batch_first = getattr(getattr(module, "self_attn", module), "batch_first", None)
    if rule.batch_axis is not None:
        return output.movedim(rule.batch_axis, 0)
    if batch_first is None and rule.is_time_first and output.ndim == _SEQUENCES:
        raise NoRows(
            f"its output has shape {tuple(output.shape)}, and both of its first axes may count the {num_rows} samples; "
            "pass batch_axis=0 or 1, or another number of samples"
        )
    return output.movedim(1 if batch_first is False else 0, 0)


def _last(rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(N, C): the last value of each sequence that is not padding."""
    last = mask.shape[1] - 1 - mask.flip(1).long().argmax(1)
    return rows[torch.arange(len(rows), device=rows.device), last]

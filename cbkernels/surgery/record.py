"""What a model says of its surgeries: an attribute of JSON types that survives ``deepcopy`` and ``pickle``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from .plan import RemovedBlock

RECORD = "_cbkernels_surgery"
"""The attribute of a cut model; ``Surgery.save`` writes it."""


def record_of(model: nn.Module) -> dict[str, Any]:
    """The surgeries of a model so far, and the names, shapes and types it had before the first."""
    record: dict[str, Any] | None = vars(model).get(RECORD)
    return {"before": described(model.state_dict()), "operations": []} if record is None else record


def recorded(record: dict[str, Any], steps: Sequence[RemovedBlock]) -> dict[str, Any]:
    """The record with one more surgery."""
    return {**record, "operations": [*record["operations"], [step.to_dict() for step in steps]]}


def described(state: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Name -> [type, shape] of the tensors in a ``state_dict``."""
    tensors = {name: tensor for name, tensor in state.items() if hasattr(tensor, "dtype")}
    return {name: [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)] for name, tensor in tensors.items()}

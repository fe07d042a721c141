"""What a model says of its surgeries: an attribute of JSON types that survives ``deepcopy`` and ``pickle``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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


def first_names(operations: Iterable[Sequence[RemovedBlock]]) -> list[str]:
    """Names of the blocks before the first operation; each operation names its own as those before it left them."""
    names: list[str] = []
    gone: dict[str, list[int]] = {}
    """List of modules -> the indices that it lacks, ascending."""
    for steps in operations:
        first = [_first_name(step.name, gone) for step in steps]
        names += first
        for step, (holder, _, index) in zip(steps, (name.rpartition(".") for name in first), strict=True):
            if step.remains == "nothing":
                gone[holder] = sorted([*gone.get(holder, ()), int(index)])
    return names


def _first_name(name: str, gone: Mapping[str, list[int]]) -> str:
    parts: list[str] = []
    for part in name.split("."):
        if part.isdecimal():
            index = int(part)
            for missing in gone.get(".".join(parts), ()):
                index += missing <= index  # it had moved up
            part = str(index)
        parts.append(part)
    return ".".join(parts)


def described(state: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Name -> [type, shape] of the tensors in a ``state_dict``."""
    tensors = {name: tensor for name, tensor in state.items() if hasattr(tensor, "dtype")}
    return {name: [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)] for name, tensor in tensors.items()}

"""What a model says of its surgeries: an attribute of JSON types that survives ``deepcopy`` and ``pickle``."""

from __future__ import annotations

from typing import Any

from torch import nn

RECORD = "_cbkernels_surgery"
"""The attribute of a cut model; ``Surgery.save`` writes it."""


def record_of(model: nn.Module) -> dict[str, Any]:
    """The surgeries of a model so far, and the names, shapes and types it had before the first."""
    record: dict[str, Any] | None = vars(model).get(RECORD)
    return {"before": described(model), "operations": []} if record is None else record


def described(model: nn.Module) -> dict[str, list[Any]]:
    """Name -> [type, shape] of the tensors in the ``state_dict``."""
    return {
        name: [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        for name, tensor in model.state_dict().items()
        if hasattr(tensor, "dtype")
    }

"""Dropping parameters from an optimizer: exactly those, with their state, and nothing else.

Groups keep their number and their settings, so schedulers go on; wrappers are looked through.
Needs torch when it is used. Read next: ``edits.py``.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from .edits import MISSING, Entry

if TYPE_CHECKING:
    import torch
    from torch import nn

_INNER = ("optimizer", "inner", "base_optimizer", "inner_optimizer")
_KEEPS_ONE_STATE_FOR_ALL = ("LBFGS", "ZeroRedundancyOptimizer", "DeepSpeedZeroOptimizer")


def require_droppable(optimizer: object, model: nn.Module) -> None:
    """Refuse optimizers that parameters cannot be dropped from.

    Args:
        optimizer: of the training, or a wrapper around it.
        model: unwrapped.

    Raises:
        TypeError: it is no optimizer.
        ValueError: it keeps one state for all parameters, or holds none of the model's.
    """
    layers = _layers(optimizer)
    if not layers:
        raise TypeError(f"optimizer is a {type(optimizer).__name__}; pass a torch.optim.Optimizer")
    for layer in layers:
        if type(layer).__name__ in _KEEPS_ONE_STATE_FOR_ALL:
            raise ValueError(
                f"optimizer is {type(layer).__name__}, whose state belongs to all parameters together; "
                "remove the layers without optimizer= and make a new one"
            )
    parameters = {id(p) for p in model.parameters()}
    held = {id(p) for layer in layers for group in layer.param_groups for p in group["params"]}
    if parameters and not parameters & held:
        raise ValueError(
            f"optimizer is {type(optimizer).__name__} and holds none of the model's {len(parameters)} parameters; "
            "pass the one that trains this model"
        )


def dropped(optimizer: object, gone: Collection[torch.Tensor]) -> list[Entry]:
    """What changes when parameters leave an optimizer.

    Args:
        optimizer: passed ``require_droppable``.
        gone: parameters that the model no longer has.
    """
    entries: list[Entry] = []
    seen: set[int] = set()
    doomed = {id(p) for p in gone}
    for layer in _layers(optimizer):
        for group in layer.param_groups:
            if id(group) not in seen and any(id(p) in doomed for p in group["params"]):
                kept = [p for p in group["params"] if id(p) not in doomed]
                entries.append(Entry(group, "params", group["params"], kept))
            seen.add(id(group))
        state = getattr(layer, "state", {})
        if id(state) not in seen:
            entries += [Entry(state, p, state[p], MISSING) for p in gone if p in state]
            seen.add(id(state))
    return entries


def _layers(optimizer: object) -> list[Any]:
    """An optimizer and those inside of it, the outermost first."""
    layers: list[Any] = []
    while optimizer is not None and hasattr(optimizer, "param_groups") and optimizer not in layers:
        layers.append(optimizer)
        optimizer = next((inner for name in _INNER if (inner := vars(optimizer).get(name)) is not None), None)
    return layers

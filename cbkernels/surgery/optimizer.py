"""Dropping parameters from an optimizer: exactly those, with their state, and nothing else.

Groups keep their number and their settings, so schedulers go on; wrappers are looked through. Read next: ``edits.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import nn

from .edits import MISSING, Entry

WRAPPED = ("optimizer", "inner", "base_optimizer", "inner_optimizer")
"""Attributes in which wrappers keep the optimizer that they are around of."""
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
    layers = list(optimizers_in(optimizer))
    if not hasattr(optimizer, "param_groups"):
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
    doomed = {id(p) for p in gone}
    layers = list(optimizers_in(optimizer))  # which may share groups and state
    for group in {id(group): group for layer in layers for group in layer.param_groups}.values():
        if any(id(p) in doomed for p in group["params"]):
            kept = [p for p in group["params"] if id(p) not in doomed]
            entries.append(Entry(group, "params", group["params"], kept))
    for state in {id(state): state for state in (getattr(layer, "state", {}) for layer in layers)}.values():
        entries += [Entry(state, p, state[p], MISSING) for p in gone if p in state]
    return entries


def optimizers_in(optimizer: object) -> Iterator[Any]:
    """An optimizer and all that are inside of it, each once, the outermost first."""
    waiting: list[Any] = [optimizer]
    seen: set[int] = set()
    for layer in waiting:  # which grows
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        if hasattr(layer, "param_groups"):
            yield layer
        attributes = getattr(layer, "__dict__", {})
        waiting += [attributes[name] for name in WRAPPED if name in attributes]

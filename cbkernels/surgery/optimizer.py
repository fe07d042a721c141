"""Dropping parameters from optimizers: exactly those, with their state, and nothing else; and putting them back.

Groups keep their number and their settings, so schedulers go on; wrappers are looked through.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

WRAPPED = (
    "optimizer", "inner", "base_optimizer", "inner_optimizer", "_optimizer", "optimizers", "_optimizers",
    "chained_optimizers",
)  # fmt: skip
"""Attributes in which wrappers keep the optimizer that they are around of, or several in a list or dictionary."""
_KEEPS_ONE_STATE_FOR_ALL = ("LBFGS", "ZeroRedundancyOptimizer", "DeepSpeedZeroOptimizer")
ALONG = ("params", "param_names")
"""Entries of a group that have an item for each of its parameters."""


def require_droppable(optimizer: object, model: nn.Module) -> None:
    """Refuse optimizers that parameters cannot be dropped from.

    Args:
        optimizer: of the training, a wrapper around it, or a list of several that train the model together.
        model: unwrapped.

    Raises:
        TypeError: it is no optimizer.
        ValueError: it keeps one state for all parameters, or holds none of the model's.
    """
    layers = list(optimizers_in(optimizer))
    several = list(optimizer) if isinstance(optimizer, (list, tuple)) else [optimizer]
    for each in several:
        if next(optimizers_in(each), None) is None:
            raise TypeError(f"optimizer is a {type(each).__name__}; pass a torch.optim.Optimizer, or a list of them")
    for layer in layers:
        if type(layer).__name__ in _KEEPS_ONE_STATE_FOR_ALL:
            raise ValueError(
                f"optimizer is {type(layer).__name__}, whose state belongs to all parameters together; "
                "remove the layers without optimizer= and make a new one"
            )
    parameters = {id(p) for p in model.parameters()}
    held = {id(p) for layer in layers for group in layer.param_groups for p in group["params"]}
    if parameters and not parameters & held:
        told = " and ".join(type(each).__name__ for each in several) or "an empty list"
        raise ValueError(
            f"optimizer is {told} and holds none of the model's {len(parameters)} parameters; "
            "pass the one that trains this model"
        )


@dataclass(frozen=True, eq=False)
class Dropped:
    """What one optimizer lost, told by the place of each group: ``load_state_dict`` makes groups and state anew."""

    optimizer: Any
    groups: tuple[dict[str, list[Any]], ...]
    """What runs along the parameters in each of its groups, as it was before."""
    gone: frozenset[torch.Tensor]
    state: dict[torch.Tensor, Any]
    """Of the parameters that are gone."""

    def require_same_groups(self) -> None:
        """Refuse an optimizer that has fewer groups now.

        Raises:
            ValueError: the parameters have no place to come back to.
        """
        now = len(self.optimizer.param_groups)
        if now < len(self.groups):
            raise ValueError(
                f"optimizer is {type(self.optimizer).__name__} with {now} groups, and the removed parameters were in "
                f"one of {len(self.groups)}; give it its groups back, or make a new optimizer and call forget()"
            )

    def put_back(self) -> None:
        """Give the optimizer its parameters back, in their order, and their state; the others keep what they have."""
        for group, before in zip(self.optimizer.param_groups, self.groups, strict=False):
            now = {p: i for i, p in enumerate(group["params"])}
            order = [p for p in before["params"] if p in now or p in self.gone]
            order += [p for p in now if p not in set(before["params"])]
            for key, values in before.items():
                if key in group:
                    old = dict(zip(before["params"], values, strict=True))
                    group[key] = [group[key][now[p]] if p in now else old[p] for p in order]
        for p, values in self.state.items():
            self.optimizer.state.setdefault(p, values)


def dropped(optimizer: object, gone: Collection[torch.Tensor]) -> list[Dropped]:
    """Take parameters out of an optimizer, with their state.

    Args:
        optimizer: passed ``require_droppable``.
        gone: parameters that the model no longer has.
    """
    doomed = frozenset(gone)
    before: list[Dropped] = []
    layers = list(optimizers_in(optimizer)) if doomed else []
    for layer in layers:  # which may share groups and state: all is noted before anything goes
        groups = tuple({key: list(group[key]) for key in ALONG if key in group} for group in layer.param_groups)
        state = getattr(layer, "state", {})
        before.append(Dropped(layer, groups, doomed, {p: state[p] for p in gone if p in state}))
    for layer in layers:
        for group in layer.param_groups:
            stays = [p not in doomed for p in group["params"]]
            for key in ALONG:
                if key in group and not all(stays):
                    group[key] = [value for value, kept in zip(group[key], stays, strict=True) if kept]
        for p in gone:
            getattr(layer, "state", {}).pop(p, None)
    return before


def optimizers_in(optimizer: object) -> Iterator[Any]:
    """An optimizer, or several in a list, and all that are inside of them, each once, the outermost first."""
    waiting: list[Any] = [optimizer]
    seen: set[int] = set()
    for layer in waiting:  # which grows
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        if isinstance(layer, (list, tuple)):
            waiting += layer
        elif isinstance(layer, dict):
            waiting += layer.values()
        if hasattr(layer, "param_groups"):
            yield layer
        attributes = getattr(layer, "__dict__", {})
        waiting += [attributes[name] for name in WRAPPED if name in attributes]

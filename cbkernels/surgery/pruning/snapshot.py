"""A model and its optimizer as they were: remembered, and put back in place, so that nothing else notices."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..optimizer import ALONG, optimizers_in


@dataclass(frozen=True)
class _Tensor:
    """One parameter or buffer: where it is, which object, and what was in it."""

    owner: dict[str, Any]
    key: str
    tensor: torch.Tensor
    value: torch.Tensor
    requires_grad: bool
    grad: torch.Tensor | None


class Snapshot:
    """Weights, buffers and gradients of all modules that a model has now, and an optimizer's settings and state.

    Takes as much memory as they do. Blocks that are cut later are put back by their surgery, not by this.

    Args:
        model: unwrapped.
        optimizer: of the training, or None.
    """

    def __init__(self, model: nn.Module, optimizer: object = None) -> None:
        self._tensors = [
            _Tensor(owner, key, t, t.detach().clone(), t.requires_grad, None if t.grad is None else t.grad.clone())
            for module in model.modules()
            for owner in (module._parameters, module._buffers)
            for key, t in owner.items()
            if t is not None
        ]
        self._optimizers = [_KeptOptimizer(each) for each in optimizers_in(optimizer)]

    def put_back(self) -> None:
        """Make everything as it was; may be called again."""
        with torch.no_grad():
            for each in self._tensors:
                each.owner[each.key] = each.tensor
                each.tensor.requires_grad_(each.requires_grad)
                each.tensor.copy_(each.value)
                each.tensor.grad = None if each.grad is None else each.grad.clone()
        for kept in self._optimizers:
            kept.put_back()


class _KeptOptimizer:
    """The objects that an optimizer keeps its groups and state in, and what was in them."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer, self._groups, self._state = optimizer, optimizer.param_groups, getattr(optimizer, "state", {})
        self._settings = [
            {key: list(value) if key in ALONG else copy.deepcopy(value) for key, value in group.items()}
            for group in self._groups
        ]
        self._dicts = list(self._groups)
        self._values = {p: copy.deepcopy(value) for p, value in self._state.items()}

    def put_back(self) -> None:
        self._groups[:] = self._dicts
        for group, settings in zip(self._dicts, self._settings, strict=True):
            group.clear()
            group.update(
                {key: list(value) if key in ALONG else copy.deepcopy(value) for key, value in settings.items()}
            )
        self._state.clear()
        self._state.update({p: copy.deepcopy(value) for p, value in self._values.items()})
        attributes = vars(self._optimizer)
        for name, kept in (("param_groups", self._groups), ("state", self._state)):
            if name in attributes:  # wrappers show those of the optimizer inside
                attributes[name] = kept


def content_of(model: nn.Module, optimizer: object = None) -> dict[str, Any]:
    """Weights and buffers by name, and the optimizer's settings and state, for ``save_checkpoint``."""
    places = {id(p): i for i, p in enumerate(model.parameters())}
    optimizers = [
        {
            "settings": [{k: v for k, v in group.items() if k not in ALONG} for group in each.param_groups],
            "state": {places[id(p)]: value for p, value in getattr(each, "state", {}).items() if id(p) in places},
        }
        for each in optimizers_in(optimizer)
    ]
    return {"tensors": {**dict(model.named_parameters()), **dict(model.named_buffers())}, "optimizers": optimizers}


def fill(model: nn.Module, optimizer: object, content: dict[str, Any]) -> None:
    """Give a model and its optimizer, cut in the same way, what ``content_of`` took of them.

    Raises:
        ValueError: it is of another model or optimizer.
    """
    tensors, parameters = content["tensors"], list(model.parameters())
    optimizers = list(optimizers_in(optimizer))
    here = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shapes = {name: tensor.shape for name, tensor in here.items()}
    if shapes != {name: tensor.shape for name, tensor in tensors.items()}:
        raise ValueError("the weights of the stopped pruning are of another model; start again in another folder")
    if len(optimizers) != len(content["optimizers"]):
        raise ValueError("the stopped pruning had another optimizer; start again in another folder")
    with torch.no_grad():
        for name, tensor in here.items():
            tensor.copy_(tensors[name])
    for each, saved in zip(optimizers, content["optimizers"], strict=True):
        for group, settings in zip(each.param_groups, saved["settings"], strict=True):
            group.update(settings)
        for place, value in saved["state"].items():
            p = parameters[place]
            each.state[p] = {
                key: part.to(p.device) if isinstance(part, torch.Tensor) and part.ndim else part
                for key, part in value.items()
            }

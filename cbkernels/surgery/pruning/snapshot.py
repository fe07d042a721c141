"""A model and its optimizers as they were: remembered, and put back in place, so that nothing else notices."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..optimizer import ALONG, optimizers_in

_HELD = ("_parameters", "_buffers", "_modules")


@dataclass(frozen=True)
class _Tensor:
    """One parameter or buffer, and what was in it."""

    tensor: torch.Tensor
    value: torch.Tensor
    requires_grad: bool
    grad: torch.Tensor | None

    def put_back(self) -> None:
        tensor, value = self.tensor, self.value
        if (tensor.shape, tensor.dtype, tensor.device) == (value.shape, value.dtype, value.device):
            tensor.copy_(value)
        else:  # what was cast, moved or resized cannot be written to
            tensor.grad = None
            tensor.data = value.clone()
        tensor.requires_grad_(self.requires_grad)
        tensor.grad = None if self.grad is None else self.grad.clone()


class Snapshot:
    """Weights, buffers and gradients of all modules that a model has now, and the settings and state of optimizers.

    Takes as much memory as they do. Blocks that are cut later are put back by their surgery, not by this.

    Args:
        model: unwrapped.
        optimizer: of the training, a list of several, or None.
    """

    def __init__(self, model: nn.Module, optimizer: object = None) -> None:
        self._modules = [
            (module, type(module), {name: (vars(module)[name], dict(vars(module)[name])) for name in _HELD})
            for module in model.modules()
        ]
        tensors = {id(t): t for t in (*model.parameters(), *model.buffers(), *_others(model, optimizer))}
        self._tensors = [
            _Tensor(t, t.detach().clone(), t.requires_grad, None if t.grad is None else t.grad.clone())
            for t in tensors.values()
        ]
        self._optimizers = [_KeptOptimizer(each) for each in optimizers_in(optimizer)]

    def has_weights_of(self, model: nn.Module) -> bool:
        """Whether each parameter of the model has the values that it had then."""
        known = {id(each.tensor): each.value for each in self._tensors}
        pairs = [(p.detach(), known.get(id(p))) for p in model.parameters()]
        return all(
            kept is not None and (p.shape, p.dtype, p.device) == (kept.shape, kept.dtype, kept.device)
            and torch.equal(p, kept)
            for p, kept in pairs
        )  # fmt: skip

    def put_back(self) -> None:
        """Make everything as it was; may be called again."""
        for module, kind, held in self._modules:
            module.__class__ = kind  # a parametrization gives a module a class of its own
            for name, (owner, content) in held.items():
                owner.clear()
                owner.update(content)
                vars(module)[name] = owner
        with torch.no_grad():
            for each in self._tensors:
                each.put_back()
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
            group.update({
                key: list(value) if key in ALONG else copy.deepcopy(value) for key, value in settings.items()
            })  # fmt: skip
        self._state.clear()
        self._state.update({p: copy.deepcopy(value) for p, value in self._values.items()})
        attributes = vars(self._optimizer)
        for name, kept in (("param_groups", self._groups), ("state", self._state)):
            if name in attributes:  # wrappers show those of the optimizer inside
                attributes[name] = kept


def _others(model: nn.Module, optimizer: object) -> list[torch.Tensor]:
    """Parameters that the optimizers train beside those of the model, each once."""
    known = {id(p) for p in model.parameters()}
    held = [p for each in optimizers_in(optimizer) for group in each.param_groups for p in group["params"]]
    return list({id(p): p for p in held if id(p) not in known}.values())


def content_of(model: nn.Module, optimizer: object = None) -> dict[str, Any]:
    """Everything of a ``Snapshot`` as tensors, by name or place, and JSON types, for ``save_checkpoint``."""
    parameters = [*model.parameters(), *_others(model, optimizer)]
    places = {id(p): i for i, p in enumerate(parameters)}
    optimizers = [
        {
            "settings": [{k: v for k, v in group.items() if k not in ALONG} for group in each.param_groups],
            "state": {places[id(p)]: value for p, value in getattr(each, "state", {}).items() if id(p) in places},
        }
        for each in optimizers_in(optimizer)
    ]
    return {
        "tensors": _named(model),
        "others": _others(model, optimizer),
        "trained": [p.requires_grad for p in parameters],
        "gradients": {i: p.grad for i, p in enumerate(parameters) if p.grad is not None},
        "optimizers": optimizers,
    }


def fill(model: nn.Module, optimizer: object, content: dict[str, Any]) -> None:
    """Give a model and its optimizers, cut in the same way, what ``content_of`` took of them.

    Raises:
        ValueError: it is of another model or optimizer.
    """
    here, others, optimizers = _named(model), _others(model, optimizer), list(optimizers_in(optimizer))
    shapes = {name: tensor.shape for name, tensor in here.items()}
    if shapes != {name: tensor.shape for name, tensor in content["tensors"].items()}:
        raise ValueError("the weights of the stopped pruning are of another model; start again in another folder")
    if len(optimizers) != len(content["optimizers"]) or len(others) != len(content["others"]):
        raise ValueError("the stopped pruning had another optimizer; start again in another folder")
    parameters = [*model.parameters(), *others]
    with torch.no_grad():
        for name, tensor in here.items():
            tensor.copy_(content["tensors"][name])
        for tensor, saved in zip(others, content["others"], strict=True):
            tensor.copy_(saved)
    for i, (p, trained) in enumerate(zip(parameters, content["trained"], strict=True)):
        p.requires_grad_(trained)
        gradient = content["gradients"].get(i)
        p.grad = None if gradient is None else gradient.to(p)
    for each, saved in zip(optimizers, content["optimizers"], strict=True):
        for group, settings in zip(each.param_groups, saved["settings"], strict=True):
            group.update({
                key: tuple(value) if isinstance(group.get(key), tuple) else value for key, value in settings.items()
            })  # fmt: skip
        each.state.clear()
        for place, value in saved["state"].items():
            p = parameters[place]
            each.state[p] = {
                key: part.to(p.device) if isinstance(part, torch.Tensor) and part.ndim else part
                for key, part in value.items()
            }


def _named(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}

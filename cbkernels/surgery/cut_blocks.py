"""What stands in a residual block's place when its branches are cut (arXiv 2103.04331): ``relu(shortcut(x))``.

Read next: ``changes.py``.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from torch.fx import Proxy

from ..models.evaluation import first_tensor


class CutBlock(nn.Module):
    """A residual block without its branches: its shortcut and the activation behind the addition.

    Args:
        block: what it stands for; plain attributes of it that a model may ask for (strides, flags) are kept.
        shortcut: name of the projection in ``block``, which stays here under this name; None for the identity.
        activation: "relu", the name of a module in ``block``, or None.
        returns: what the block returned, see ``structure_of``; the places behind the first are None.

    Its input is its first argument that is a tensor. One that stands for a block of one argument and one tensor is
    made as a ``CutChain``.

    Example:
        >>> cut = CutBlock(nn.Bilinear(3, 3, 3), activation="relu")
        >>> cut(torch.tensor([-1.0, 0.0, 2.0]), None)
        tensor([0., 0., 2.])
    """

    def __new__(
        cls, block: nn.Module | None = None, shortcut: str | None = None, activation: str | None = None,
        returns: Any = "tensor",
    ) -> CutBlock:  # fmt: skip
        """Choose the class; a copy or a pickle has it already."""
        takes_one = block is not None and returns == "tensor" and _number_of_arguments(block) == 1
        return super().__new__(CutChain if takes_one else cls)

    def __init__(
        self, block: nn.Module, shortcut: str | None = None, activation: str | None = None, returns: Any = "tensor"
    ) -> None:
        super().__init__()
        plain = (bool, int, float, str, type(None))
        kept = {key: value for key, value in vars(block).items() if key[0] != "_" and isinstance(value, plain)}
        vars(self).update(kept)
        self._returns, self._stands_for = returns, class_name(block)
        self._told = shortcut or "x"
        if shortcut is not None:
            self.add_module(shortcut, block.get_submodule(shortcut))
        self._ends_in_relu, self._copies = activation == "relu", False
        if activation is not None:
            self._told = f"{activation}({self._told})"
        if activation is not None and activation != "relu":
            part = block.get_submodule(activation)
            self.add_module(activation, part)
            self._copies = bool(getattr(part, "inplace", False)) and shortcut is None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The input through shortcut and activation, in the structure that the block returned."""
        x = _input_of(args, kwargs)
        if x is None:
            raise TypeError(f"a cut {self._stands_for} got no tensor")
        if self._copies:  # never in place: x may be another block's output
            x = x.clone()
        for part in self.children():
            x = part(x)
        if self._ends_in_relu:
            x = torch.relu(x)
        if self._returns == "tensor":
            return x
        kind, shape = self._returns
        if kind == "dict":
            return {key: x if i == 0 else None for i, key in enumerate(shape)}
        return (list if kind == "list" else tuple)([x, *[None] * (shape - 1)])

    def extra_repr(self) -> str:
        """What is left, for ``print(model)``."""
        return f"{self._stands_for} cut: {self._told}"


class CutChain(CutBlock, nn.Sequential):
    """A cut block of one tensor, which ``torch.fx`` traces and TorchScript compiles as they do the block itself."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Take the tensor by any name, as the block did by its own."""
        x = _input_of(args, kwargs)
        return super().__call__(*args, **kwargs) if x is None else super().__call__(x)

    def __bool__(self) -> bool:
        return True  # like the block, also when nothing is in it

    def _get_name(self) -> str:
        return class_name(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As in ``CutBlock``."""
        if self._copies:
            x = x.clone()
        for part in self:
            x = part(x)
        if self._ends_in_relu:
            x = torch.relu(x)
        return x


def class_name(module: nn.Module) -> str:
    """Name of a module's class, also of one that ``fully_shard`` gave a class of its own."""
    if isinstance(module, CutBlock):
        return CutBlock.__name__
    return (type(module).__mro__[2] if is_unit_of_shards(module) else type(module)).__name__


def is_unit_of_shards(module: nn.Module) -> bool:
    """Whether ``fully_shard`` was called on the module: its parameters are gathered together when it is called."""
    return type(module).__mro__[1].__name__ == "FSDPModule"


def _input_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The first tensor; while ``torch.fx`` traces, the first value that stands for one."""
    given = [*args, *kwargs.values()]
    stand_ins = (each for each in given if isinstance(each, Proxy))
    x = first_tensor(given)
    return next(stand_ins, None) if x is None else x


def _number_of_arguments(block: nn.Module) -> int:
    """How many arguments a block's call takes at most; -1 when it takes any number."""
    try:
        arguments = inspect.signature(block.forward).parameters.values()
    except (TypeError, ValueError):  # written in C
        return -1
    return -1 if any(a.kind in (a.VAR_POSITIONAL, a.VAR_KEYWORD) for a in arguments) else len(arguments)

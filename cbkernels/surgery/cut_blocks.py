"""What stands in a residual block's place when its branches are cut (arXiv 2103.04331): ``relu(shortcut(x))``.

Read next: ``changes.py``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..models.evaluation import first_tensor


class CutBlock(nn.Module):
    """A residual block without its branches: its shortcut and the activation behind the addition.

    Args:
        block: what it stands for; plain attributes of it that a model may ask for (strides, flags) are kept.
        shortcut: name of the projection in ``block``, which stays here under this name; None for the identity.
        activation: "relu", the name of a module in ``block``, or None.
        returns: what the block returned, see ``structure_of``; the places behind the first are None.

    Its input is its first argument that is a tensor.

    Example:
        >>> cut = CutBlock(nn.Linear(3, 3), activation="relu")
        >>> cut(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([0., 0., 2.])
    """

    def __init__(
        self, block: nn.Module, shortcut: str | None = None, activation: str | None = None, returns: Any = "tensor"
    ) -> None:
        super().__init__()
        plain = (bool, int, float, str, type(None))
        kept = {key: value for key, value in vars(block).items() if key[0] != "_" and isinstance(value, plain)}
        vars(self).update(kept)
        self._shortcut, self._activation, self._returns = shortcut, activation, returns
        self._stands_for = type(block).__name__
        if shortcut is not None:
            self.add_module(shortcut, block.get_submodule(shortcut))
        if activation not in (None, "relu"):
            self.add_module(activation, block.get_submodule(activation))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The input through shortcut and activation, in the structure that the block returned."""
        x = first_tensor([*args, *kwargs.values()])
        if x is None:
            raise TypeError(f"a cut {self._stands_for} got no tensor")
        if self._shortcut is not None:
            x = self.get_submodule(self._shortcut)(x)
        if self._activation == "relu":
            x = torch.relu(x)  # never in place: x may be another block's output
        elif self._activation is not None:
            activation = self.get_submodule(self._activation)
            works_in_place = getattr(activation, "inplace", False) and self._shortcut is None
            x = activation(x.clone() if works_in_place else x)
        if self._returns == "tensor":
            return x
        kind, shape = self._returns
        if kind == "dict":
            return {key: x if i == 0 else None for i, key in enumerate(shape)}
        return (list if kind == "list" else tuple)([x, *[None] * (shape - 1)])

    def extra_repr(self) -> str:
        """What is left, for ``print(model)``."""
        parts = f"{self._shortcut or 'x'}"
        if self._activation is not None:
            parts = f"{self._activation}({parts})"
        return f"{self._stands_for} cut: {parts}"

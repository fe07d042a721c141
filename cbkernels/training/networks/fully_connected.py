"""The papers' fully connected network (Peer et al., WACV 2021)."""

from __future__ import annotations

import torch
from torch import nn

from .weights import started


class DenseReLU(nn.Linear):
    """A dense layer and its ReLU as one module, so that a hook on it sees what the next layer sees."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``relu(input @ weight.T + bias)``, (N, width)."""
        return torch.relu(super().forward(input))


class FullyConnected(nn.Module):
    """``depth`` dense ReLU layers, ``hidden.0`` to ``hidden.<depth-1>``, and a linear ``output``."""

    def __init__(self, hidden: list[DenseReLU], output: nn.Linear) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(hidden)
        self.output = output

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, num_classes) of samples (N, ...), flattened to (N, num_inputs)."""
        x = x.flatten(1)
        for layer in self.hidden:
            x = layer(x)
        logits: torch.Tensor = self.output(x)
        return logits

    def block_names(self) -> list[list[str]]:
        """Names of the hidden layers, one stage."""
        return [[f"hidden.{i}" for i in range(len(self.hidden))]]


def dense(depth: int, width: int, num_inputs: int, num_classes: int) -> FullyConnected:
    """What ``fnn`` builds, on the device "meta".

    Raises:
        ValueError: a size is not a positive integer.
    """
    sizes = {"depth": depth, "width": width, "num_inputs": num_inputs, "num_classes": num_classes}
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} is {size!r}; it must be a positive integer")
    hidden = [DenseReLU(num_inputs if i == 0 else width, width, device="meta") for i in range(depth)]
    return FullyConnected(hidden, nn.Linear(width, num_classes, device="meta"))


def fnn(
    depth: int,
    width: int,
    num_inputs: int = 64,
    num_classes: int = 10,
    *,
    weights: str = "he",
    generator: torch.Generator | None = None,
) -> FullyConnected:
    """The papers' fully connected network.

    Args:
        depth: number of hidden layers, at least 1.
        width: units of each.
        num_inputs: values per sample.
        num_classes: logits.
        weights: "he" as in the papers (uniform up to sqrt(6 / fan_in), biases 0), or
            "torch", what ``nn.Linear`` starts with (weights and biases up to sqrt(1 / fan_in)): the
            signal then shrinks from layer to layer, and deep networks collapse much earlier.
        generator: where the weights' random numbers come from; None takes torch's global one.

    Raises:
        ValueError: a size is not a positive integer, or ``weights`` is unknown.

    Source: "Conflicting Bundles", experiments on MNIST.
    """
    return started(dense(depth, width, num_inputs, num_classes), weights, generator)

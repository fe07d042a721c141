"""How the weights of the package's networks start."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def started(model: Network, weights: str, generator: torch.Generator | None) -> Network:
    """Start every layer of a network of convolutions."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            initialise(module, "he_normal" if weights == "he" else weights, generator)
    return model


def initialise(layer: nn.Linear | nn.Conv2d, weights: str, generator: torch.Generator | None) -> None:
    """Start one layer: "he_uniform", "he_normal" or "torch"."""
    assert layer.bias is not None
    if weights == "torch":
        bound = 1 / math.sqrt(layer.weight[0].numel())
        nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
        return
    start = nn.init.kaiming_uniform_ if weights == "he_uniform" else nn.init.kaiming_normal_
    start(layer.weight, nonlinearity="relu", generator=generator)
    nn.init.zeros_(layer.bias)

"""How the weights of the package's networks start: a table; ``--weights`` names one. Torch is imported when they do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ...choices import Choice, Choices

if TYPE_CHECKING:
    import torch

    Network = TypeVar("Network", bound=torch.nn.Module)


@dataclass(frozen=True)
class Start(Choice):
    """A way to start.

    Args:
        fill: (layer, generator, is_dense) sets the weights and biases of a dense layer or convolution of a network
            that is, or is not, made of dense layers alone.
    """

    fill: Callable[[Any, torch.Generator | None, bool], None]


def _he(layer: Any, generator: torch.Generator | None, is_dense: bool) -> None:
    from torch.nn import init

    start = init.kaiming_uniform_ if is_dense else init.kaiming_normal_
    start(layer.weight, nonlinearity="relu", generator=generator)
    init.zeros_(layer.bias)


def _torch(layer: Any, generator: torch.Generator | None, is_dense: bool) -> None:
    from torch.nn import init

    bound = 1 / math.sqrt(layer.weight[0].numel())
    for values in (layer.weight, layer.bias):
        init.uniform_(values, -bound, bound, generator=generator)


WEIGHTS = Choices("weights", [
    Start("he", "normal or uniform numbers as in the papers (He), biases 0", _he),
    Start("torch", "torch's own start, uniform up to sqrt(1 / fan_in), biases too", _torch),
])  # fmt: skip


def started(model: Network, weights: str, generator: torch.Generator | None = None) -> Network:
    """Start every layer of a network on "meta", for which torch drew no number; another one is left as it is.

    A ValueError when ``weights`` is not in the table.
    """
    from torch import nn

    start, layers = WEIGHTS.chosen(weights), list(model.modules())
    if not any(parameter.is_meta for parameter in model.parameters()):
        return model
    is_dense = not any(isinstance(layer, nn.Conv2d) for layer in layers)
    model = model.to_empty(device="cpu")
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
        elif isinstance(layer, (nn.Conv2d, nn.Linear)):
            start.fill(layer, generator, is_dense)
    return model

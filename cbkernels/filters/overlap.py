"""How much the filters of a network overlap with others of their layer; 0: all of each layer are orthogonal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from .criteria import overlaps
from .layers import FilterLayer, find_filter_layers


@dataclass(frozen=True)
class OrthogonalityMeasure:
    """Mean of the paper's overlap ``sum_j |W W^T - I|_fj / n``."""

    layers: Mapping[str, float]
    """layer -> mean over its filters."""
    mean: float
    """Over all filters of the network."""


def orthogonality_measure(
    model: nn.Module, *, linear: bool = False, dropped: Mapping[str, Sequence[int]] | None = None
) -> OrthogonalityMeasure:
    """The overlap of a model's filters.

    Args:
        model: with convolutions.
        linear: dense layers too.
        dropped: layer -> filters that do not count.

    Raises:
        ValueError: the model has no layer of filters.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), nn.Linear(2, 2))
        >>> _ = nn.init.ones_(model[0].weight)
        >>> orthogonality_measure(model)
        OrthogonalityMeasure(layers={'0': 0.5}, mean=0.5)
    """
    return overlap_of(find_filter_layers(model, linear=linear).layers, dropped or {})


def overlap_of(layers: Sequence[FilterLayer], dropped: Mapping[str, Sequence[int]]) -> OrthogonalityMeasure:
    """The same of layers that were found before."""
    kept = {layer.name: overlaps(layer.rows(without=dropped.get(layer.name, ()))) for layer in layers}
    means = {name: float(of_layer.mean()) for name, of_layer in kept.items() if len(of_layer)}
    return OrthogonalityMeasure(means, float(torch.cat(list(kept.values())).mean()))

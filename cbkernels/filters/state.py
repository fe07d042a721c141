"""What RePr needs to go on where it was stopped; the states of other runs are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .layers import FilterLayer
from .masks import FilterMasks

Values = dict[str, dict[str, torch.Tensor]]
"""layer -> name as in ``FilterLayer.tensors`` -> (r, ...): what its r dropped filters keep."""


def state_of(options: dict[str, Any], cycle: int | None, masks: FilterMasks) -> dict[str, Any]:
    """All that the next epoch depends on, as tensors and JSON types."""
    filters = {name: list(indices) for name, indices in masks.dropped.items()}
    return {"options": options, "cycle": cycle, "filters": filters, "values": masks.values()}


def stored_in(
    state: Mapping[str, Any], options: Mapping[str, Any], layers: Sequence[FilterLayer]
) -> tuple[int | None, dict[str, tuple[int, ...]], Values]:
    """Cycle, filters and values of which ``state_of`` returned this.

    Raises:
        ValueError: it is something else, of other options, or of another model.
    """
    try:
        stored = dict(state["options"])
        cycle = None if state["cycle"] is None else int(state["cycle"])
        filters = {str(name): tuple(map(int, indices)) for name, indices in state["filters"].items()}
        values = {name: dict(state["values"][name]) for name in filters}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"this is no state of RePr, something is missing or of another kind: {error}") from error
    for name, value in options.items():
        if stored.get(name) != value:
            raise ValueError(f"the state was taken with {name} {stored.get(name)!r}, and here it is {value!r}")
    tensors = {layer.name: layer.tensors() for layer in layers}
    for name, indices in filters.items():
        shapes = {key: (len(indices), *tensor.shape[1:]) for key, tensor in tensors[name].items()}
        if {key: tuple(rows.shape) for key, rows in values[name].items()} != shapes:
            raise ValueError(f"the state's filters of layer {name!r} have other shapes than this model's")
    return cycle, filters, values

"""Filters that are dropped for a while: they put out exact zeros and nothing of them changes.

Forward hooks fill the channels of the layer's output, and of its norm's, with zeros: no gradient comes through, and
the parameters keep their values. What moves without gradient (weight decay, momentum, Lookahead, running
statistics) is put back after every step of the optimizer, by torch's own step hooks. Read next: ``repr.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from .layers import FilterLayer


class ChannelMask:
    """A forward hook that fills dropped channels with zeros; it is copied and pickled with its module.

    Args:
        num_channels: of the output.
        trailing: dimensions behind the channels; None for norms, where the channels are the second one.
        device: of the module.
    """

    def __init__(self, num_channels: int, trailing: int | None, device: torch.device) -> None:
        self.is_on = False
        self.trailing = trailing
        # written in place: a compiled model reads the same tensor in every cycle
        self.is_dropped = torch.zeros(num_channels, dtype=torch.bool, device=device)

    def set(self, filters: Sequence[int]) -> None:
        """Drop these channels, and no others."""
        self.is_dropped.fill_(False)
        if filters:
            self.is_dropped[list(filters)] = True
        self.is_on = bool(filters)

    def __call__(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        """The output with exact zeros, also where it is NaN or infinite; None while nothing is dropped."""
        if not self.is_on:
            return None
        trailing = output.ndim - 2 if self.trailing is None else self.trailing
        mask = self.is_dropped.to(output.device).view(-1, *[1] * trailing)
        return output.masked_fill(mask, 0)


class FilterMasks:
    """The dropped filters of a model.

    Args:
        layers: those that filters can be dropped of; they get hooks until ``remove``.
        optimizer: the one whose ``step`` is called; it gets hooks too.
    """

    def __init__(self, layers: Sequence[FilterLayer], optimizer: torch.optim.Optimizer) -> None:
        self._layers = {layer.name: layer for layer in layers}
        self._masks: dict[str, list[ChannelMask]] = {layer.name: [] for layer in layers}
        self._kept: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._handles: list[Any] = []
        for layer in layers:
            for module in (layer.module, *layer.norms):
                mask = ChannelMask(layer.num_filters, _trailing(module), layer.weight.device)
                # before hooks of others: what they see is what the next layer sees
                self._handles.append(module.register_forward_hook(mask, prepend=True))
                self._masks[layer.name].append(mask)
        self._handles.append(optimizer.register_step_pre_hook(self._clear_gradients))
        self._handles.append(optimizer.register_step_post_hook(self._put_back))
        self.dropped: dict[str, tuple[int, ...]] = {}
        if "torch._dynamo" in sys.modules:
            torch.compiler.reset()  # code compiled before would not see the hooks

    def drop(self, filters: Mapping[str, Sequence[int]], values: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """Drop these filters, and no others.

        Args:
            filters: layer -> indices.
            values: what they keep, as from ``values()``, and those dropped before keep what they are now; None: what
                they are now, and those dropped before get back what they were.
        """
        if values is not None:
            self._kept = []
        self.bring_back()
        for name, indices in filters.items():
            if not indices:
                continue
            self.dropped[name] = tuple(sorted(indices))
            for key, tensor in self._layers[name].tensors().items():
                index = torch.tensor(self.dropped[name], device=tensor.device)
                kept = tensor.detach()[index] if values is None else values[name][key].to(tensor.device, tensor.dtype)
                self._kept.append((tensor, index, kept.clone()))
        self._set(self.dropped)
        self._put_back()

    def bring_back(self) -> None:
        """No filter is dropped any more; they have the values that they had when they were dropped."""
        self._put_back()
        self.dropped, self._kept = {}, []
        self._set({})

    @contextmanager
    def only_without(self, name: str, filter_index: int) -> Iterator[None]:
        """Within it one filter alone puts out zeros; nothing is kept from changing."""
        try:
            self._set({name: [filter_index]})
            yield
        finally:
            self._set(self.dropped)

    def values(self) -> dict[str, dict[str, torch.Tensor]]:
        """What the dropped filters keep: layer -> name -> rows, copies."""
        rows = iter(self._kept)
        return {name: {key: next(rows)[2].clone() for key in self._layers[name].tensors()} for name in self.dropped}

    def remove(self) -> None:
        """Take every hook away; filters that are dropped work again, with their old values."""
        self.bring_back()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _set(self, filters: Mapping[str, Sequence[int]]) -> None:
        for name, masks in self._masks.items():
            for mask in masks:
                mask.set(filters.get(name, ()))

    @torch.no_grad()
    def _clear_gradients(self, *_: Any) -> None:
        """A penalty on the weights themselves has a gradient, and one of zero times infinity is NaN."""
        for tensor, index, _kept in self._kept:
            if tensor.grad is not None:
                tensor.grad.index_fill_(0, index, 0)

    @torch.no_grad()
    def _put_back(self, *_: Any) -> None:
        for tensor, index, kept in self._kept:
            tensor.index_copy_(0, index, kept)


def _trailing(module: nn.Module) -> int | None:
    if isinstance(module, _ConvNd):
        return len(module.kernel_size)
    return 0 if isinstance(module, nn.Linear) else None

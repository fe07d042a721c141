"""What the branches of residual blocks put out, and what would be left of a block's output without them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import torch
from torch import nn

from ...models.branches import EPSILON
from ...models.evaluation import evaluating, every_layer_called, first_tensor
from ...models.probe import NoRows, ProbeBatch, RowRule, is_time_first, rows_of_output
from ..cut_blocks import CutBlock
from ..plan import Removable

TakeRows = Callable[[str, torch.Tensor], object]
TakeBlock = Callable[[str, torch.Tensor, torch.Tensor], object]


def each_branch(model: nn.Module, removable: Removable, batch: ProbeBatch, take: TakeRows) -> None:
    """Call ``take`` with a block and the (N, ...) rows that one of its branches put out, for blocks that could go.

    A batch norm behind a layer divides the update of that layer's weights by the standard deviation of what the layer
    puts out. As in arXiv 2103.04331 a branch is multiplied by 1/std of every layer in it that a batch norm follows. A
    branch that no module makes is the block's output less its input's shortcut.
    """
    rule, seen = RowRule(is_time_first=is_time_first(model)), set[str]()
    factors = dict[str, float]()
    layered: list[Any] = [None]

    def give(block: str, module: nn.Module, tensor: torch.Tensor) -> None:
        with suppress(NoRows):
            rows = rows_of_output(tensor, module, batch, rule)
            factor = factors.get(block, 1.0)
            take(block, rows if factor == 1.0 else rows.float() * factor)
            seen.add(block)

    def after_layer(module: nn.Module, inputs: Any, output: Any) -> None:
        layered[0] = output

    def before_norm(block: str, module: nn.Module, inputs: Any) -> None:
        if inputs and inputs[0] is layered[0]:
            factors[block] *= 1 / math.sqrt(float(inputs[0].float().var(unbiased=False)) + EPSILON)

    def before_block(block: str, module: nn.Module, inputs: Any) -> None:
        factors[block] = 1.0

    def after_branch(block: str, module: nn.Module, inputs: Any, output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is not None:
            give(block, module, tensor)

    with evaluating(model) as inner, every_layer_called(), ExitStack() as hooks:
        for name, step in removable.steps.items():
            block = inner.get_submodule(name)
            hooks.enter_context(block.register_forward_pre_hook(partial(before_block, name)))
            for part, module in block.named_modules():
                if step.shortcut is not None and f"{part}.".startswith(f"{step.shortcut}."):
                    continue
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    hooks.enter_context(module.register_forward_pre_hook(partial(before_norm, name)))
                elif isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
                    hooks.enter_context(module.register_forward_hook(after_layer))
            for branch in removable.found.blocks[name].branches:
                hooks.enter_context(inner.get_submodule(branch).register_forward_hook(partial(after_branch, name)))
        inner(*batch.args, **batch.kwargs)
    unseen = removable.steps.keys() - seen
    factors.clear()
    if unseen:
        modules = dict(model.named_modules())
        each_block(model, removable, batch, lambda name, y, x: give(name, modules[name], y - x), unseen)


def each_block(
    model: nn.Module, removable: Removable, batch: ProbeBatch, take: TakeBlock, names: Collection[str] | None = None
) -> None:
    """Call ``take`` with a block, what it returned, and what would be left of that, in every call of a block.

    Args:
        model: unwrapped; stays as it is.
        removable: its blocks.
        batch: is given to the model.
        take: is called at once: a later operation may overwrite the tensors.
        names: of those that could go; None: all.
    """
    left = dict[str, torch.Tensor]()

    def before(name: str, cut: nn.Module | None, module: nn.Module, args: Any, kwargs: Any) -> None:
        remains = first_tensor([*args, *kwargs.values()] if cut is None else cut(*args, **kwargs))
        if remains is not None:
            left[name] = remains.clone()  # the block may work in place

    def after(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        tensor, remains = first_tensor(output), left.pop(name, None)
        if tensor is not None and remains is not None and tensor.shape == remains.shape:
            take(name, tensor, remains)

    with evaluating(model) as inner, every_layer_called(), ExitStack() as hooks:
        for name in removable.steps if names is None else names:
            step, block = removable.steps[name], inner.get_submodule(name)
            cut = None
            if step.remains == "shortcut":
                cut = CutBlock(block, step.shortcut, step.activation, step.returns)
            hooks.enter_context(block.register_forward_pre_hook(partial(before, name, cut), with_kwargs=True))
            hooks.enter_context(block.register_forward_hook(partial(after, name)))
        inner(*batch.args, **batch.kwargs)

"""Residual blocks of a model and the branches whose outputs they add to their shortcuts.

Some blocks are told by how their modules are built, others by what one forward pass makes of its input
(``block_sums.py``). Read next: ``surgery/surgery.py``, which removes them. Needs torch when it is used.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .evaluation import require_torch
from .layer_stacks import find_layer_stacks

if TYPE_CHECKING:
    from torch import nn

    from .block_sums import ResidualSum
    from .dataflow import Recording

_CONVOLUTIONS = {"conv1", "bn1", "conv2", "bn2", "relu"}
_OPTIONAL = {"conv3", "bn3", "downsample"}


@dataclass(frozen=True)
class ResidualBlock:
    """A module that adds branches to a shortcut of its input."""

    name: str
    """As in ``named_modules``."""
    branches: tuple[str, ...]
    """Modules whose output is added to the shortcut, in the order of execution; empty when unknown."""
    kind: str
    """"basic block", "bottleneck", "branch block", "transformers layer", "torch transformer layer" or
    "residual block"."""


@dataclass(frozen=True)
class Findings:
    """Blocks, and how those that were seen at work make their outputs."""

    blocks: dict[str, ResidualBlock]
    sums: dict[str, ResidualSum]
    recording: Recording | None
    notes: tuple[str, ...] = ()
    """Sentences on what was seen but belongs to no block, or to no module."""
    unowned: tuple[str, ...] = ()
    """Modules that made branches which belong to no block."""


def find_residual_blocks(model: nn.Module, run: Callable[[], object] | None = None) -> dict[str, ResidualBlock]:
    """Residual blocks by name.

    Args:
        model: unwrapped; within ``evaluating`` when ``run`` is given.
        run: one forward pass of the model. Without it only what the structure of the modules tells is found:
            torchvision's ``BasicBlock`` and ``Bottleneck``, blocks with a module ``branch``, layers of
            ``nn.TransformerEncoder`` and of Hugging Face models. With it also every other module that adds what is
            computed inside to its input.

    Returns:
        Name -> block, in the order of ``named_modules`` or, with ``run``, of execution. Blocks never nest;
        items of a ``ModuleList`` or ``Sequential`` come before what is inside them. The model is no block.

    Example:
        >>> import torch
        >>> class Block(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.norm, self.dense = torch.nn.LayerNorm(8), torch.nn.Linear(8, 8)
        ...     def forward(self, x):
        ...         return x + self.dense(self.norm(x))
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), Block(), torch.nn.Linear(8, 2))
        >>> find_residual_blocks(model, lambda: model(torch.randn(6, 4)))
        {'1': ResidualBlock(name='1', branches=('1.dense',), kind='residual block')}
    """
    return findings(model, run).blocks


def findings(model: nn.Module, run: Callable[[], object] | None = None) -> Findings:
    """``find_residual_blocks`` with what was seen of every block."""
    structural = _by_structure(model)
    if run is None:
        return Findings(structural, {}, None)
    from .block_sums import residual_sums, unattributed
    from .dataflow import record

    recording = record(model, run)
    modules, called = dict(model.named_modules()), recording.order()
    sums = residual_sums(model, recording, lambda name: name in structural or not _nests(name, structural))
    for name in called:
        if name in structural and name not in sums and not structural[name].kind.endswith("layer"):
            del structural[name]  # its parts have the names of a block's, but nothing is added
    sums = {name: found for name, found in sums.items() if name in structural or not found.is_stack}
    chosen = _chosen(modules, {name: found for name, found in sums.items() if name not in structural})
    covered = recording.covered({*chosen, *structural})
    for name in list(chosen):  # a module that blocks share under another name
        if all(call.around >= 0 and covered[call.around] for call in recording.calls_of(name)):
            chosen.remove(name)
    blocks = {}
    for name in dict.fromkeys([*called, *modules]):
        seen = sums.get(name)
        if name in structural:
            block = structural[name]
            blocks[name] = ResidualBlock(name, block.branches or (seen.branches if seen else ()), block.kind)
        elif name in chosen and seen is not None:
            blocks[name] = ResidualBlock(name, seen.branches, "residual block")
    sums = {name: sums[name] for name in blocks if name in sums}
    notes, unowned = unattributed(model, recording, blocks)
    unnamed = {name: found.unnamed for name, found in sums.items() if found.unnamed}
    notes += [f"{count} of the branches of {name!r} are made by no module" for name, count in unnamed.items()]
    return Findings(blocks, sums, recording, tuple(notes), tuple(unowned))


def _nests(name: str, others: Any) -> bool:
    return any(name.startswith(f"{other}.") or other.startswith(f"{name}.") for other in others)


def _chosen(modules: dict[str, nn.Module], sums: dict[str, ResidualSum]) -> list[str]:
    """One of every nest of candidates: items of a list before others, inner before outer ones."""
    from .block_sums import is_item

    def rank(name: str) -> tuple[bool, int]:
        return not is_item(modules, name), -name.count(".")

    chosen: list[str] = []
    for name in sorted(sums, key=rank):
        if not _nests(name, chosen):
            chosen.append(name)
    return chosen


def _by_structure(model: nn.Module) -> dict[str, ResidualBlock]:
    """Blocks told by their modules; without a forward pass."""
    torch = require_torch("residual blocks")
    in_stacks = {name: stack.kind for stack in find_layer_stacks(model) for name in stack.item_names()}
    torch_layers = (torch.nn.TransformerEncoderLayer, torch.nn.TransformerDecoderLayer)
    found: dict[str, ResidualBlock] = {}
    for name, module in model.named_modules():
        if not name or any(name.startswith(f"{block}.") for block in found):
            continue
        if isinstance(module, torch_layers):
            decoder = ["multihead_attn"] if isinstance(module, torch.nn.TransformerDecoderLayer) else []
            branches = tuple(f"{name}.{part}" for part in ("self_attn", *decoder, "linear2"))
            found[name] = ResidualBlock(name, branches, "torch transformer layer")
        elif name in in_stacks:
            found[name] = ResidualBlock(name, (), in_stacks[name])
        elif (last := _last_norm(module)) is not None:
            kind = "bottleneck" if last == "bn3" else "basic block"
            found[name] = ResidualBlock(name, (f"{name}.{last}",), kind)
        elif "branch" in dict(module.named_children()):
            found[name] = ResidualBlock(name, (f"{name}.branch",), "branch block")
    return found


def _last_norm(module: nn.Module) -> str | None:
    """The norm before the addition, in a block with the parts of torchvision's and no others."""
    parts = {name for name, part in module._modules.items() if part is not None}
    if not parts >= _CONVOLUTIONS or not parts <= _CONVOLUTIONS | _OPTIONAL or ("conv3" in parts) != ("bn3" in parts):
        return None
    arguments = inspect.signature(module.forward).parameters.values()
    required = [a for a in arguments if a.default is a.empty and a.kind in (a.POSITIONAL_ONLY, a.POSITIONAL_OR_KEYWORD)]
    if len(required) != 1:
        return None
    return "bn3" if "bn3" in parts else "bn2"

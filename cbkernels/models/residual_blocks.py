"""Residual blocks of a model and the branches whose outputs they add to their shortcuts.

Some blocks are told by how their modules are built (``block_kinds.py``), others by what one forward pass makes
of its input (``block_sums.py``). What one of them does in a pass, of its model or alone, is told too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from .block_kinds import BLOCK_KINDS, RESIDUAL, BlockKind, find_layer_stacks
from .block_sums import ResidualSum, residual_sums, unattributed
from .dataflow import Recording, holders, record
from .evaluation import evaluating


@dataclass(frozen=True)
class ResidualBlock:
    """A module that adds branches to a shortcut of its input."""

    name: str
    """As in ``named_modules``."""
    branches: tuple[str, ...]
    """Modules whose output is added to the shortcut, in the order of execution; empty when unknown."""
    kind: str
    """Name of a ``BlockKind``."""

    @property
    def structure(self) -> BlockKind:
        """What is known about its kind."""
        return BLOCK_KINDS[self.kind]


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

    @property
    def none_found(self) -> str:
        """Why there is no block and what to do, for a sentence."""
        if self.recording is None:
            return "without example= only blocks of known kinds and those that run alone are found, and there is none"
        hint = "; put each sum into the forward of a module of its own" if self.unowned else ""
        seen = "; ".join(self.notes) or "it has no sum of an input and of a branch that layers make"
        return f"no residual block was found in the model: {seen}{hint}"


def find_residual_blocks(model: nn.Module, run: Callable[[], object] | None = None) -> dict[str, ResidualBlock]:
    """Residual blocks by name.

    Args:
        model: unwrapped; within ``evaluating`` when ``run`` is given.
        run: one forward pass of the model. Without it only what the structure of the modules tells is found: the
            kinds of ``block_kinds.py``. With it also every other module that adds what is computed inside to its
            input.

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
    recording = record(model, run)
    called, sums = recording.order(), residual_sums(model, recording, structural)
    blocks = {name: ResidualBlock(name, found.branches, RESIDUAL.name) for name, found in sums.items()}
    for name, block in structural.items():
        if name in sums:
            blocks[name] = replace(block, branches=block.branches or sums[name].branches)
        elif name not in called or not block.structure.is_guess:
            blocks[name] = block
    covered = recording.covered(blocks)
    for name in sums.keys() - structural.keys():  # a module that blocks share under another name
        if all(call.around >= 0 and covered[call.around] for call in recording.calls_of(name)):
            del blocks[name]
    blocks = {name: blocks[name] for name in dict.fromkeys([*called, *structural]) if name in blocks}
    sums = {name: sums[name] for name in blocks if name in sums}
    notes, unowned = unattributed(model, recording, blocks)
    past = {name: [part for part in unowned if part.startswith(f"{name}.")] for name in set(blocks).difference(called)}
    past = {name: inside for name, inside in past.items() if inside}
    blocks |= {name: replace(blocks[name], branches=tuple(inside)) for name, inside in past.items()}
    unowned = [part for part in unowned if not any(part in inside for inside in past.values())]
    if past:
        notes.append(f"only the branches of {len(past)} blocks are measured: the model calls their forward past hooks")
    notes += _broken_off(recording)
    unnamed = {name: found.unnamed for name, found in sums.items() if found.unnamed}
    notes += [f"{count} of the branches of {name!r} are made by no module" for name, count in unnamed.items()]
    return Findings(blocks, sums, recording, tuple(notes), tuple(unowned))


def _broken_off(recording: Recording) -> list[str]:
    """Why there may be more residual sums than were seen."""
    returned = [node for call in recording.calls_of("") for node in call.outputs]
    told = "so that residual sums may have been missed"
    notes = [
        f"values reached {repr(name) if name else 'the model'} past the operations of torch, through NumPy say, {told}"
        for name in dict.fromkeys(recording.entered)
    ]
    if returned and not any(recording.nodes[node].is_data for node in returned):
        notes.append(f"nothing that the model returned could be followed back to an input, {told}")
    return notes


def _by_structure(model: nn.Module) -> dict[str, ResidualBlock]:
    """Blocks told by their modules; without a forward pass."""
    in_stacks = {name: stack.kind for stack in find_layer_stacks(model) for name in stack.item_names()}
    found: dict[str, ResidualBlock] = {}
    for name, module in model.named_modules():
        if not name or any(holder in found for holder in holders(name)):
            continue
        for kind in BLOCK_KINDS.values():
            parts = kind.branches(module)
            if parts is not None or in_stacks.get(name) is kind:
                found[name] = ResidualBlock(name, tuple(f"{name}.{part}" for part in parts or ()), kind.name)
                break
    return found


@dataclass(frozen=True)
class BlockAtWork:
    """What one module did with its input."""

    sum: ResidualSum | None
    """How it made its output; None when it added nothing to its input."""
    keeps_shape: bool
    """Its output has the shape of its input, in all its calls."""
    returns: Any
    """See ``structure_of``."""
    prefix: str
    """What names in ``sum`` begin with."""

    def part(self, name: str | None) -> str | None:
        """A name in ``sum`` as one within the module."""
        return None if name is None else name.removeprefix(self.prefix)


def at_work(found: Findings, name: str) -> BlockAtWork | None:
    """What a module did in the pass of ``findings``; None when it was not called there."""
    recording = found.recording
    calls = [] if recording is None else recording.calls_of(name)
    if recording is None or not calls:
        return None
    return BlockAtWork(found.sums.get(name), all(map(recording.keeps_shape, calls)), calls[0].structure, f"{name}.")


def tried_alone(module: nn.Module) -> BlockAtWork | None:
    """What a module does on random numbers of a likely shape; None when it takes none of them."""
    alone = nn.Sequential(module)
    first: BlockAtWork | None = None
    with evaluating(alone):
        for x in _likely_inputs(module):
            try:
                seen = at_work(findings(alone, partial(alone, x)), "0")
            except Exception:  # a shape that does not fit raises anything
                continue
            if seen is not None and seen.sum is not None:
                return seen
            first = first or seen
    return first


def _likely_inputs(block: nn.Module) -> Iterator[torch.Tensor]:
    """Random numbers in the shapes that a block may take, told by the first parameter of a layer in it."""
    owned = [(module, p) for module in block.modules() for p in module.parameters(recurse=False) if p.numel() > 1]
    owned.sort(key=lambda pair: pair[0] is block)  # a block's own are gains, more often than weights
    if not owned or not owned[0][1].is_floating_point():
        return
    module, weight = owned[0]
    width = weight.shape[-1] if weight.ndim <= 2 else getattr(module, "in_channels", weight.shape[1])
    shapes: list[tuple[int, ...]] = [(2, 7, width), (6, width), (2, width, 16, 16), (2, width, 16)]
    if weight.ndim > 2:  # a convolution
        shapes = [(2, width, *[16] * (weight.ndim - 2))]
    generator = torch.Generator().manual_seed(0)
    for shape in shapes:
        yield torch.randn(shape, generator=generator).to(weight)

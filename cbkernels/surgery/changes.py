"""The assignments that replace and delete blocks: a plan's steps as edits that can be taken back.

Read next: ``edits.py``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from ..models.block_kinds import LayerStack, find_layer_stacks
from ..models.configurations import cacheless, configs_in, is_config, reachable
from .cut_blocks import CutBlock
from .edits import MISSING, Entry
from .plan import RemovedBlock

_INDICES = ("layer_idx", "layer_id", "layer_index", "layer_num", "layer_number")


def changes(model: nn.Module, steps: Iterable[RemovedBlock]) -> list[Entry]:
    """What is assigned where in an unwrapped model; nothing is yet. Names of steps are those of now."""
    steps = list(steps)
    entries: list[Entry] = []
    for step in steps:
        if step.remains != "shortcut":
            continue
        block = model.get_submodule(step.name)
        cut = CutBlock(block, step.shortcut, step.activation, step.returns)
        for _, parent in model.named_modules():
            for key, child in parent._modules.items():
                if child is block:
                    entries.append(Entry(parent._modules, key, block, cut))
    deleted = {step.name for step in steps if step.remains == "nothing"}
    for stack in find_layer_stacks(model):
        kept = [i for i, name in enumerate(stack.item_names()) if name not in deleted]
        if len(kept) < len(stack.layers):
            entries += _deletions(model, stack, kept)
    places = cacheless(dict(model.named_modules()), [(entry.owner, entry.key, entry.new) for entry in entries])
    entries += [Entry(owner, key, owner.get(key, MISSING), value) for owner, key, value in places]
    return _with_own_configurations(model, entries)


def _with_own_configurations(model: nn.Module, entries: list[Entry]) -> list[Entry]:
    """Let the model have copies of the configurations that change: another model may have the very same objects."""
    held = [
        (vars(module), key) for module in model.modules() for key, value in vars(module).items() if configs_in(value)
    ]
    changed = {id(entry.owner) for entry in entries}
    moved: dict[int, Any] = {}
    for owner, key in held:
        inside = reachable(configs_in(owner[key]))
        if any(id(vars(config)) in changed for config in inside):
            moved |= {id(each): each for each in (owner[key], *inside)}
    copies: dict[int, Any] = {}  # of all together: what is one object in the model remains one
    given_to = [(each, copy.deepcopy(each, copies)) for each in moved.values()]
    own = {id(vars(one)): vars(other) for one, other in given_to if is_config(one)}
    given = [Entry(owner, key, owner[key], copies[id(owner[key])]) for owner, key in held if id(owner[key]) in moved]
    return given + [replace(entry, owner=own.get(id(entry.owner), entry.owner)) for entry in entries]


def _deletions(model: nn.Module, stack: LayerStack, kept: list[int]) -> Iterator[Entry]:
    """The list, the indices that its layers carry, and what else counts them."""
    children = {str(new): stack.layers[old] for new, old in enumerate(kept)}
    yield Entry(vars(stack.layers), "_modules", stack.layers._modules, children)
    for new, old in enumerate(kept):
        for module in stack.layers[old].modules():
            for key in _INDICES:
                value = vars(module).get(key)
                if new != old and isinstance(value, int) and value - old in (0, 1):
                    yield Entry(vars(module), key, value, value - old + new)
    for owner, key, value in stack.kind.counted(dict(model.named_modules()), stack.name, kept):
        yield Entry(owner, key, owner[key], value)

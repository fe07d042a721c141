"""What removing layers would do to a model, worked out and checked before anything changes.

Names stand for blocks, and each block becomes a step; all refusals of ``remove_layers`` are here.
Read next: ``changes.py``, which turns steps into edits.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import nn

from ..models.block_kinds import RESIDUAL, BlockKind, LayerStack, find_layer_stacks
from ..models.block_sums import ResidualSum, is_added_to_its_input
from ..models.cost import call_with
from ..models.evaluation import evaluating
from ..models.layer_selection import listed
from ..models.residual_blocks import BlockAtWork, Findings, at_work, findings, tried_alone
from .cut_blocks import CutBlock, class_name, is_unit_of_shards

FORCED = BlockKind("forced", "any module whose output has the shape of its input", passes_input=True)
"""The kind of what only ``force=True`` removes."""


@dataclass(frozen=True)
class RemovedBlock:
    """One block that was removed, and what stands in its place."""

    name: str
    """In the model as the removals before left it."""
    kind: str
    """See ``ResidualBlock``; "forced" when ``force=True`` was needed."""
    class_name: str
    """Class of the block."""
    remains: str
    """"nothing": deleted from its list, later layers move up; "shortcut": a ``CutBlock`` under the same name."""
    shortcut: str | None = None
    """The projection that remains, a direct part of the block; None: the input itself."""
    activation: str | None = None
    """What remains behind the shortcut: "relu", a part of the block, or None."""
    returns: Any = "tensor"
    """What the block returned, see ``structure_of``."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return asdict(self)


def plan_removal(
    model: nn.Module, names: object, example: object, force: bool
) -> tuple[list[RemovedBlock], list[LayerStack]]:
    """What ``remove_layers`` would do to an unwrapped model, with its arguments and its errors; nothing changes.

    Returns:
        The steps in the order of the model, and the lists that get shorter.
    """
    wanted = _as_names(names)
    if not wanted:
        return [], []
    stacks = find_layer_stacks(model)
    items = frozenset(name for stack in stacks for name in stack.item_names())
    known = _Known(dict(model.named_modules(remove_duplicate=False)), items, _looked_at(model, example), force)
    chosen = {_block_of(known, name) for name in wanted}
    inner = {name for name in chosen if any(name.startswith(f"{other}.") for other in chosen)}
    doomed = [name for name in known.modules if name in chosen - inner]
    try:
        steps = [_step(known, name) for name in doomed]
    except _NothingRemains as error:
        raise ValueError(f"{error}, so nothing can stand in its place; {known.removable()}") from None
    for name in set(doomed) - items:
        _require_all_places(known, name, wanted)
    _require_some_left(known, stacks, doomed)
    return steps, [stack for stack in stacks if not set(stack.item_names()).isdisjoint(doomed)]


class _NothingRemains(ValueError):
    """A module that nothing can stand in for, in the words for that."""


@dataclass(frozen=True)
class Removable:
    """The residual blocks of a model, each judged by itself."""

    found: Findings
    steps: dict[str, RemovedBlock]
    """Block -> what its removal would leave."""
    refused: dict[str, str]
    """Block -> why it cannot go, in one sentence."""
    stacks: list[LayerStack]
    """Lists of layers, of which one has to stay."""

    def leaves_some(self, doomed: Collection[str]) -> bool:
        """Whether a block is left without these, and an item in every list of layers."""
        lists = [set(self.found.blocks), *(set(stack.item_names()) for stack in self.stacks)]
        return all(not names <= set(doomed) for names in lists)


def removable_blocks(model: nn.Module, example: object) -> Removable:
    """Which residual blocks could go, one at a time; nothing changes.

    Args:
        model: unwrapped.
        example: an input, as in ``remove_layers``.

    Raises:
        ValueError: the model raised on the example.
    """
    stacks = find_layer_stacks(model)
    items = frozenset(name for stack in stacks for name in stack.item_names())
    modules = dict(model.named_modules(remove_duplicate=False))
    known = _Known(modules, items, _looked_at(model, example), False)
    steps, refused = dict[str, RemovedBlock](), dict[str, str]()
    for name in known.found.blocks:
        try:
            steps[name] = _step(known, name)
            if name not in items:
                _require_all_places(known, name, [name])
        except ValueError as error:
            steps.pop(name, None)
            refused[name] = str(error)
    return Removable(known.found, steps, refused, stacks)


@dataclass(frozen=True)
class _Known:
    """What was learned about a model."""

    modules: dict[str, nn.Module]
    """Under all their names."""
    items: frozenset[str]
    """Names of the layers that can be deleted from a list."""
    found: Findings
    force: bool
    tried: dict[str, BlockAtWork | None] = field(default_factory=dict)

    @property
    def has_example(self) -> bool:
        return self.found.recording is not None

    def at_work(self, name: str) -> BlockAtWork | None:
        """What a module does, by the example; without one, alone."""
        if self.has_example:
            return at_work(self.found, name)
        if name not in self.tried:
            self.tried[name] = tried_alone(self.modules[name])
        return self.tried[name]

    def told(self, name: str) -> str:
        """A module, for a sentence."""
        return f"{name!r} ({type(self.modules[name]).__name__})"

    def removable(self) -> str:
        """What could go instead, for a sentence."""
        found = self.found.blocks or self._alone()
        blocks = [name for name in found if self._is_removable(name)]
        if blocks or not found:
            return f"can be removed: {listed(blocks)}" if blocks else self.found.none_found
        whose = "the model's residual blocks" if self.has_example else "the residual blocks that show without example="
        return f"none of {whose} can be removed"

    def _alone(self) -> list[str]:
        """Without an example the modules that are residual blocks on random numbers; none inside of another."""
        found: list[str] = []
        for name, module in self.modules.items():
            is_inside = any(name.startswith(f"{other}.") for other in found)
            if not name or self.has_example or is_inside or not list(module.children()):
                continue
            seen = self.at_work(name)
            if seen is not None and seen.sum is not None:
                found.append(name)
        return found

    def _is_removable(self, name: str) -> bool:
        try:
            _step(self, name)
        except ValueError:
            return self.at_work(name) is None  # an example may show that it can
        return True


def _looked_at(model: nn.Module, example: object) -> Findings:
    if example is None:
        return findings(model)
    with evaluating(model) as inner:
        try:
            return findings(inner, lambda: call_with(inner, example))
        except Exception as error:  # whatever the model raises
            lines = str(error).strip().splitlines()
            told = f"{type(error).__name__} ({lines[0][:200] if lines else 'without a message'})"
            raise ValueError(f"the model raised {told} on example; pass an input that it takes") from error


def _as_names(names: object) -> list[str]:
    if isinstance(names, str):
        return [names]
    hint = "pass names of blocks, as report.conflicting() returns them"
    if isinstance(names, Mapping) or not isinstance(names, Iterable):
        raise TypeError(f"names is a {type(names).__name__}; {hint}")
    wanted: list[Any] = list(names)
    for name in wanted:
        if not isinstance(name, str):
            raise TypeError(f"names holds {name!r}; {hint}")
    return list(dict.fromkeys(wanted))


def _block_of(known: _Known, name: str) -> str:
    """The removable block that a name stands for."""
    plain = _module_name(known, name)
    around = [plain[:i] for i in range(len(plain), 0, -1) if i == len(plain) or plain[i] == "."]
    for candidate in around:
        if isinstance(known.modules[candidate], CutBlock):
            raise ValueError(f"{name!r} was removed already: a shortcut stands in its place")
        if candidate in known.found.blocks or candidate in known.items:
            return candidate
    if known.force:
        _require_no_branch(known, plain)
        return plain
    inside = [block for block in known.found.blocks if block.startswith(f"{plain}.")]
    if inside:
        raise ValueError(f"{name!r} is no residual block but holds some; name those to remove: {listed(inside)}")
    if not known.has_example:
        lists = (nn.ModuleList, nn.Sequential)
        items = [each for each in around if isinstance(known.modules[each.rpartition(".")[0]], lists)]
        for candidate in dict.fromkeys([*items, *around]):
            seen = known.at_work(candidate)
            if seen is not None and seen.sum is not None:
                return candidate
    kind = type(known.modules[plain]).__name__
    shown, hint = "", ""
    if not known.has_example:
        shown, hint = " that shows without example=", "; pass example= to let the model show what it does"
    raise ValueError(f"{name!r} ({kind}) is in no residual block{shown}; {known.removable()}{hint}")


def _require_no_branch(known: _Known, name: str) -> None:
    """Refuse a module whose output the model adds to what it was made of, outside of any block."""
    recording = known.found.recording
    if recording is not None and (name in known.found.unowned or is_added_to_its_input(recording, name)):
        raise ValueError(
            f"{known.told(name)} is a branch whose sum lies outside of any module that could be removed, so its input "
            f"in its place would be added twice; give block and sum a module of their own; {known.removable()}"
        )


def _module_name(known: _Known, name: str) -> str:
    for candidate in (name, _without_calls(name)):
        if candidate and candidate in known.modules:
            if any(candidate == item or candidate.startswith(f"{item}.") for item in known.items):
                return candidate  # which is deleted by its place
            module = known.modules[candidate]  # a shared one has several names, of which the first counts
            return next(first for first in known.modules if known.modules[first] is module)
    if not name:
        raise ValueError("'' is the model itself, which cannot be removed; name one of its blocks")
    near = difflib.get_close_matches(name, [each for each in known.modules if each], n=3)
    raise ValueError(f"the model has no module {name!r}; {f'near are {listed(near)}' if near else known.removable()}")


def _require_all_places(known: _Known, name: str, wanted: list[str]) -> None:
    """Refuse the removal of a block from one of the places that share it: it would go from the others too."""
    names = [each for each, module in known.modules.items() if module is known.modules[name]]
    plain = [each if each in known.modules else _without_calls(each) for each in wanted]
    missing = [each for each in names if not any(other == each or other.startswith(f"{each}.") for other in plain)]
    calls = 0 if known.found.recording is None else len(known.found.recording.calls_of(name))
    if missing and calls != 1:  # called once it is one block with several names
        hint = "" if known.has_example else ", or pass example= if it works in one of them only"
        raise ValueError(
            f"{listed(names)} are one {type(known.modules[name]).__name__}, which would go from all these places; "
            f"name {listed(missing)} too to remove it{hint}"
        )


def _without_calls(name: str) -> str:
    """A name without the number of a call, and as it is inside of compiled modules."""
    return name.partition("#")[0].replace("_orig_mod.", "")


def _step(known: _Known, name: str) -> RemovedBlock:
    """What becomes of a block; it is deleted if it is in a list of layers."""
    is_listed = name in known.items
    block = known.found.blocks.get(name)
    kind = block.structure if block is not None else FORCED if known.force else RESIDUAL
    step = RemovedBlock(name, kind.name, class_name(known.modules[name]), "nothing" if is_listed else "shortcut")
    if is_listed:
        return step
    seen = known.at_work(name)
    if seen is None:
        if known.force and block is not None:
            return step
        if known.has_example:
            raise _NothingRemains(f"{known.told(name)} was not called when the model ran on example")
        raise ValueError(f"{known.told(name)} could not be tried on its own; pass example=")
    if seen.returns == "other":
        raise _NothingRemains(f"{known.told(name)} returns neither a tensor nor a tuple that begins with one")
    if seen.sum is not None and not kind.passes_input and (seen.sum.obstacle is None or not known.force):
        shortcut, activation = _remains(known, name, seen, seen.sum)
        return replace(step, shortcut=shortcut, activation=activation, returns=seen.returns)
    if not seen.keeps_shape:
        raise _NothingRemains(f"the output of {known.told(name)} has not its input's shape")
    if block is None and seen.sum is None and not known.has_example:
        raise ValueError(f"{known.told(name)} is no residual block; pass example= to show where its output goes")
    if not known.force and not kind.passes_input:
        raise ValueError(
            f"{known.told(name)} looks like a {kind.name} but adds no branch to its input; pass example=, or force=True"
        )
    return replace(step, returns=seen.returns)


def _remains(known: _Known, name: str, seen: BlockAtWork, made: ResidualSum) -> tuple[str | None, str | None]:
    """Shortcut and activation of a block whose output was made so, as parts of it."""
    if made.obstacle is not None:
        raise _NothingRemains(f"{known.told(name)} {made.obstacle}")
    shortcut, activation = seen.part(made.shortcut), seen.part(made.behind)
    if shortcut is not None and "." in shortcut:
        raise ValueError(
            f"the shortcut of {known.told(name)} is {shortcut!r}, which is not a direct part of it; "
            "give the projection a name of its own in the block"
        )
    if shortcut is not None and is_unit_of_shards(known.modules[name]):
        raise ValueError(
            f"{known.told(name)} was sharded as one, and its projection {shortcut!r} cannot be gathered without it; "
            "remove the block before fully_shard"
        )
    if activation is None or made.behind == "relu":
        return shortcut, activation
    if any(True for _ in known.modules[name].get_submodule(activation).parameters()):
        return shortcut, None  # the norm of a post-norm block goes with its branches
    if "." in activation:
        raise ValueError(
            f"{known.told(name)} ends in {activation!r}, which is not a direct part of it; "
            "move the activation into the block"
        )
    if activation == "relu":  # a plain one is not told by its name
        raise ValueError(
            f"{known.told(name)} ends in a part that is called 'relu' and is no ReLU, which no record could tell "
            "apart; give that part another name"
        )
    return shortcut, activation


def _require_some_left(known: _Known, stacks: list[LayerStack], doomed: list[str]) -> None:
    for stack in stacks:
        if set(stack.item_names()) <= set(doomed):
            raise ValueError(
                f"removing {listed(doomed)} leaves no layer in {stack.name!r}, which its model cannot do without; "
                "keep one"
            )
    blocks = set(known.found.blocks) or {
        f"{name.rpartition('.')[0]}.{child}".lstrip(".")
        for name in doomed
        for child, _ in known.modules[name.rpartition(".")[0]].named_children()
    }
    if not known.force and blocks <= set(doomed):
        raise ValueError(f"removing {listed(doomed)} leaves no residual block; keep one, or pass force=True")

"""What removing layers would do to a model, worked out and checked before anything changes.

All refusals of ``remove_layers`` are here. Needs torch when it is used. Read next: ``surgery.py``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from ..models.cost import call_with
from ..models.evaluation import evaluating, require_torch
from ..models.layer_stacks import LayerStack, deletions, find_layer_stacks
from ..models.residual_blocks import Findings, findings
from .edits import Entry

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..models.block_sums import ResidualSum
    from ..models.dataflow import Recording


@dataclass(frozen=True)
class RemovedBlock:
    """One block that was removed, and what stands in its place."""

    name: str
    """In the model as it was before this surgery."""
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


@dataclass(frozen=True)
class _Seen:
    """What is known about one module's output."""

    residual: ResidualSum | None
    keeps_shape: bool
    returns: Any


class RemovalPlan:
    """Blocks to remove, in the order of the model.

    Args:
        model: unwrapped.
        names: see ``remove_layers``.
        example: see ``remove_layers``.
        force: see ``remove_layers``.

    Raises:
        TypeError, ValueError: one sentence on what cannot be removed and what can.
    """

    def __init__(self, model: nn.Module, names: object, example: object = None, force: bool = False) -> None:
        self._model, self._force = model, force
        self._modules = dict(model.named_modules(remove_duplicate=False))
        self._has_example = example is not None
        self.steps: list[RemovedBlock] = []
        wanted = _as_names(names)
        if not wanted:
            return
        self._found = self._look(example)
        self._tried: dict[str, _Seen | None] = {}
        self._forced: set[str] = set()
        doomed = {self._block_of(name) for name in wanted}
        inner = {name for name in doomed if any(name.startswith(f"{other}.") for other in doomed)}
        in_order = [name for name in self._modules if name in doomed - inner]
        stacks = find_layer_stacks(model)
        for name in in_order:
            stack = next((stack for stack in stacks if name in stack.item_names()), None)
            self.steps.append(self._step(name, stack))
        _refuse_to_empty(stacks, in_order)
        known = set(self._found.blocks) or {
            f"{name.rpartition('.')[0]}.{child}".lstrip(".")
            for name in in_order
            for child, _ in self._modules[name.rpartition(".")[0]].named_children()
        }
        if not force and known <= set(in_order):
            raise ValueError(f"removing {_listed(in_order)} leaves no residual block; keep one, or pass force=True")

    def _look(self, example: object) -> Findings:
        if example is None:
            return findings(self._model)
        with evaluating(self._model) as inner:
            try:
                return findings(inner, lambda: call_with(inner, example))
            except Exception as error:  # whatever the model raises
                raise ValueError(f"the model raised {_told(error)} on example; pass an input that it takes") from error

    # --- from names to blocks

    def _block_of(self, name: str) -> str:
        """The removable block that a name stands for."""
        torch = require_torch("remove_layers")
        plain = self._module_name(name)
        around = [plain[:i] for i in range(len(plain), 0, -1) if i == len(plain) or plain[i] == "."]
        for candidate in around:
            if _is_cut(self._modules[candidate]):
                raise ValueError(f"{name!r} was removed already: a shortcut stands in its place")
            if candidate in self._found.blocks:
                return candidate
        if self._force:
            self._forced.add(plain)
            return plain
        inside = [block for block in self._found.blocks if block.startswith(f"{plain}.")]
        if inside:
            raise ValueError(f"{name!r} is no residual block but holds some; name those to remove: {_listed(inside)}")
        if not self._has_example:
            lists = (torch.nn.ModuleList, torch.nn.Sequential)
            items = [c for c in around if isinstance(self._modules[c.rpartition(".")[0]], lists)]
            for candidate in dict.fromkeys([*items, *around]):
                seen = self._try(candidate)
                if seen is not None and seen.residual is not None:
                    return candidate
        kind = type(self._modules[plain]).__name__
        hint = "" if self._has_example else "; pass example= to let the model show what it does"
        raise ValueError(f"{name!r} ({kind}) is in no residual block; {self._removable()}{hint}")

    def _module_name(self, name: str) -> str:
        for candidate in (name, name.partition("#")[0].replace("_orig_mod.", "")):
            if candidate and candidate in self._modules:
                module = self._modules[candidate]  # a shared one has several names, of which the first counts
                return next(str(first) for first in self._modules if self._modules[first] is module)
        if not name:
            raise ValueError("'' is the model itself, which cannot be removed; name one of its blocks")
        near = difflib.get_close_matches(name, [m for m in self._modules if m], n=3)
        raise ValueError(
            f"the model has no module {name!r}; {f'near are {_listed(near)}' if near else self._removable()}"
        )

    def _removable(self) -> str:
        blocks = list(self._found.blocks)
        return f"can be removed: {_listed(blocks)}" if blocks else "no residual block was found in the model"

    # --- from blocks to what remains

    def _step(self, name: str, stack: LayerStack | None) -> RemovedBlock:
        class_name = type(self._modules[name]).__name__
        block = self._found.blocks.get(name)
        kind = "forced" if name in self._forced else "residual block" if block is None else block.kind
        if stack is not None:
            return RemovedBlock(name, kind, class_name, "nothing")
        seen = self._seen(name)
        if seen is None:
            if self._force:
                return RemovedBlock(name, kind, class_name, "shortcut")
            raise ValueError(f"{name!r} ({class_name}) could not be tried on its own; pass example=, or force=True")
        if seen.returns == "other":
            raise ValueError(
                f"{name!r} ({class_name}) returns neither a tensor nor a tuple that begins with one, "
                "so nothing can stand in its place"
            )
        has_obstacle = seen.residual is not None and seen.residual.obstacle is not None
        if (
            name in self._forced
            or seen.residual is None
            or (has_obstacle and self._force)
            or kind.startswith("torch transformer")
        ):
            return self._passes_through(name, kind, seen)
        return self._cut(name, kind, seen.residual, seen.returns)

    def _passes_through(self, name: str, kind: str, seen: _Seen) -> RemovedBlock:
        class_name = type(self._modules[name]).__name__
        if not seen.keeps_shape:
            raise ValueError(
                f"the output of {name!r} ({class_name}) has not its input's shape, so nothing can stand in its place; "
                f"{self._removable()}"
            )
        if not self._force and not kind.startswith("torch transformer"):
            raise ValueError(
                f"{name!r} ({class_name}) looks like a {kind} but adds no branch to its input; "
                "pass example=, or force=True"
            )
        return RemovedBlock(name, kind, class_name, "shortcut", returns=seen.returns)

    def _cut(self, name: str, kind: str, residual: ResidualSum, returns: Any) -> RemovedBlock:
        class_name = type(self._modules[name]).__name__
        prefix = f"{name}."
        if residual.obstacle is not None:
            raise ValueError(
                f"{name!r} ({class_name}) {residual.obstacle}, so nothing can stand in its place; {self._removable()}"
            )
        shortcut = None if residual.shortcut is None else residual.shortcut.removeprefix(prefix)
        if shortcut is not None and "." in shortcut:
            raise ValueError(
                f"the shortcut of {name!r} ({class_name}) is {shortcut!r}, which is not a direct part of it; "
                "give the projection a name of its own in the block"
            )
        activation = residual.behind
        if activation not in (None, "relu"):
            activation = activation.removeprefix(prefix)
            module = self._modules[f"{prefix}{activation}"]
            if any(True for _ in module.parameters()):  # the norm of a post-norm block goes with its branches
                activation = None
            elif "." in activation:
                raise ValueError(
                    f"{name!r} ({class_name}) ends in {activation!r}, which is not a direct part of it; "
                    "move the activation into the block"
                )
        return RemovedBlock(name, kind, class_name, "shortcut", shortcut, activation, returns)

    def _seen(self, name: str) -> _Seen | None:
        """From the example; without one from a trial of the block alone."""
        if not self._has_example:
            return self._try(name)
        recording = self._found.recording
        return None if recording is None else _seen_in(recording, name, self._found.sums.get(name))

    def _try(self, name: str) -> _Seen | None:
        """Run one module alone on random numbers of a likely shape; None when none fits."""
        if name in self._tried:
            return self._tried[name]
        torch = require_torch("remove_layers")
        alone = torch.nn.Sequential(self._modules[name])
        best: _Seen | None = None
        with evaluating(alone):
            for x in _likely_inputs(torch, self._modules[name]):
                try:
                    found = findings(alone, _run(alone, x))
                except Exception:  # a shape that does not fit raises anything
                    continue
                assert found.recording is not None
                seen = _seen_in(found.recording, "0", found.sums.get("0"))
                if seen is not None and (best is None or seen.residual is not None):
                    best = _renamed(seen, name)
                if seen is not None and seen.residual is not None:
                    break
        self._tried[name] = best
        return best


def changes(model: nn.Module, steps: Iterable[RemovedBlock]) -> list[Entry]:
    """The assignments that replace and delete blocks.

    Args:
        model: unwrapped.
        steps: of this model, names as they are now.
    """
    from .cut_blocks import CutBlock

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
        doomed = [i for i, name in enumerate(stack.item_names()) if name in deleted]
        if doomed:
            entries += deletions(model, stack, doomed)
    return entries


def _is_cut(module: nn.Module) -> bool:
    from .cut_blocks import CutBlock

    return isinstance(module, CutBlock)


def _as_names(names: object) -> list[str]:
    if isinstance(names, str):
        return [names]
    if isinstance(names, Mapping) or not isinstance(names, Iterable):
        raise TypeError(
            f"names is a {type(names).__name__}; pass names of blocks, as report.conflicting() returns them"
        )
    listed: list[Any] = list(names)
    for name in listed:
        if not isinstance(name, str):
            raise TypeError(f"names holds {name!r}; pass names of blocks, as report.conflicting() returns them")
    return list(dict.fromkeys(listed))


def _refuse_to_empty(stacks: list[LayerStack], doomed: list[str]) -> None:
    for stack in stacks:
        if set(stack.item_names()) <= set(doomed):
            raise ValueError(
                f"removing {_listed(doomed)} leaves no layer in {stack.name!r}, which its model cannot do without; "
                "keep one"
            )


def _seen_in(recording: Recording, name: str, residual: ResidualSum | None) -> _Seen | None:
    calls = recording.calls_of(name)
    return _Seen(residual, all(map(recording.keeps_shape, calls)), calls[0].structure) if calls else None


def _renamed(seen: _Seen, name: str) -> _Seen:
    """What was seen of module "0" of a trial, under the name in the model."""
    residual = seen.residual
    if residual is None:
        return seen

    def full(part: str | None) -> str | None:
        return name + part[1:] if part is not None and part != "relu" else part

    branches = tuple(name + branch[1:] for branch in residual.branches)
    shortcut, behind = full(residual.shortcut), full(residual.behind)
    return replace(seen, residual=replace(residual, branches=branches, shortcut=shortcut, behind=behind))


def _run(model: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    return lambda: model(x)


def _likely_inputs(torch: Any, block: nn.Module) -> Iterator[torch.Tensor]:
    """Random numbers in the shapes that a block may take, told by its first parameter."""
    first = next(((module, p) for module in block.modules() for p in module.parameters(recurse=False)), None)
    if first is None:
        return
    module, weight = first
    if not weight.is_floating_point():
        return
    width = weight.shape[-1] if weight.ndim <= 2 else getattr(module, "in_channels", weight.shape[1])
    shapes: list[tuple[int, ...]] = [(2, 7, width), (6, width), (2, width, 16, 16), (2, width, 16)]
    if weight.ndim > 2:  # a convolution
        shapes = [(2, width, *[16] * (weight.ndim - 2))]
    generator = torch.Generator().manual_seed(0)
    for shape in shapes:
        yield torch.randn(shape, generator=generator).to(weight)


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:6])
    return f"{shown} and {len(names) - 6} more" if len(names) > 6 else shown


def _told(error: Exception) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__} ({lines[0][:200] if lines else 'without a message'})"

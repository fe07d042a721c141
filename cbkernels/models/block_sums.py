"""Which modules add branches to a shortcut of their input, read off from the record of one forward pass.

A value is plain where a path without layers (multiplications by weights) leads from it back to the module's input. A
module is residual when its output is plain and a sum on the way back adds to a plain value what layers made of it.
Weights and values play no part. Read next: ``dataflow.py``, ``residual_blocks.py``.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from torch import nn

from .dataflow import VIEWS, Recording, holders

_SHORTCUT = re.compile(r"short_?cut|down_?sample|skip|ident|residual", re.I)
_PARTS = re.compile(rf"{VIEWS.pattern}|slice|select|split(_with_sizes)?|index")
_SCALES = re.compile(rf"{VIEWS.pattern}|mul|div")
_SUMS = frozenset(("add", "sub", "addcmul", "addcdiv", "lerp", "scatter_add", "index_add"))
_FUSED = frozenset(("addmm", "baddbmm"))
"""Layers that add what they make to their first operand."""
_LEFT = re.compile(r"sub|.*_add")
"""Sums that leave only their first operand as it is."""
_BENDS = re.compile(
    r"relu|elu|silu|mish|sigmoid|tanh|softmax|swish|clamp|softplus|softsign|glu|max_pool|^(abs|exp|sin)$"
)
_DEPENDS, _PLAIN, _LAYERED, _BENT = 1, 2, 4, 8
"""What a value is to the input of a call: made of it; reached without layers; through layers; bent behind a layer."""


@dataclass(frozen=True)
class ResidualSum:
    """How a module made its output of its input."""

    branches: tuple[str, ...]
    """Modules whose outputs were added, in the order of execution; without those that no module made."""
    shortcut: str | None
    """The module that the input went through before it was added; None when it was added as it is."""
    behind: str | None
    """What followed the last sum: None, "relu" or the name of a module, an activation or a norm. What scales the sum
    is not told: like a norm it goes with the branches."""
    obstacle: str | None = None
    """Why shortcut and activation alone are not what is left without the branches, as the end of a sentence."""
    is_stack: bool = False
    """Its branches are equal items of one list, one behind the other: it holds blocks that are no modules."""
    unnamed: int = 0
    """How many branches no module made."""


def residual_sums(model: nn.Module, recording: Recording, known: Collection[str]) -> dict[str, ResidualSum]:
    """Modules that turned out to be residual in every call with floats; none is inside of another.

    Args:
        model: unwrapped.
        recording: of one forward pass.
        known: names of blocks; what is inside or around of one is not looked at, nor the model itself.
    """
    modules = dict(model.named_modules())
    around = {holder for name in known for holder in holders(name)}
    found: dict[str, ResidualSum] = {}
    refuted: set[str] = set()
    for number in reversed(range(len(recording.calls))):
        call = recording.calls[number]
        name = call.module
        if not name or name in refuted or call.last < 0 or _is_leaf(modules[name]):
            continue
        if name in around or any(holder in known for holder in holders(name)):
            continue
        inner = [other for other in found if _is_in(other, name)]
        if inner and not _may_be_around(modules, name, inner):
            continue
        result = _Inside(modules, recording, number, name in known).explain()
        if inner and not _is_item(modules, name) and not _adds_to(result, inner):
            continue
        if result is None:
            refuted.add(name)
            found.pop(name, None)
        else:
            found[name] = result
    found = {name: result for name, result in found.items() if name in known or not result.is_stack}
    return {name: result for name, result in found.items() if not any(_is_in(name, other) for other in found)}


def unattributed(model: nn.Module, recording: Recording, blocks: Iterable[str]) -> tuple[list[str], list[str]]:
    """Sums of a value and of what layers made of it that lie in none of the blocks.

    Args:
        model: unwrapped.
        recording: of one forward pass.
        blocks: names of the modules that were taken for residual blocks. What is in one that was not called, as some
            models call its ``forward`` past its hooks, is told by its name.

    Returns:
        A sentence for every class of modules in whose own code such sums lie; modules that made their branches.
    """
    modules, calls, covered = dict(model.named_modules()), recording.calls, recording.covered(blocks)
    past = tuple(f"{name}." for name in set(blocks).difference(recording.order()))
    counts: Counter[str] = Counter()
    branches: list[str] = []
    facts: dict[int, tuple[dict[int, int], int]] = {}
    for i, node in enumerate(recording.nodes):
        if node.op in _SUMS and node.is_data and node.call >= 0 and not covered[node.call]:
            names = _Inside(modules, recording, node.call).added_to_itself(i, facts)
            if names is not None:
                counts[type(modules[calls[node.call].module]).__name__] += not calls[node.call].module.startswith(past)
                branches += names
    told = [
        f"{count} {'sums' if count > 1 else 'sum'} of an input and a branch {'lie' if count > 1 else 'lies'} outside "
        f"of any module that could be removed: in {kind}.forward"
        for kind, count in counts.items()
        if count
    ]
    return told, list(dict.fromkeys(branches))


def is_added_to_its_input(recording: Recording, module: str) -> bool:
    """Whether what a module returned is added, scaled or not, to what it was given: without it, ``x + x``."""
    for call in recording.calls_of(module):
        ends = [{_source(recording, i) for i in nodes} for nodes in (call.inputs, call.outputs)]
        for node in recording.nodes[call.last :]:
            if node.op in _SUMS:
                sources = {_source(recording, i) for i in node.parents}
                if sources & ends[0] and sources & (ends[1] - ends[0]):
                    return True
    return False


def _source(recording: Recording, i: int) -> int:
    """What a value is a view, a copy or a multiple of."""
    node = recording.nodes[i]
    while _SCALES.fullmatch(node.op) and sum(recording.nodes[p].is_data for p in node.parents) == 1:
        i = next(p for p in node.parents if recording.nodes[p].is_data)
        node = recording.nodes[i]
    return i


def _is_in(name: str, other: str) -> bool:
    return name.startswith(f"{other}.")


def _is_item(modules: dict[str, nn.Module], name: str) -> bool:
    return isinstance(modules[name.rpartition(".")[0]], (nn.ModuleList, nn.ModuleDict, nn.Sequential))


def _may_be_around(modules: dict[str, nn.Module], name: str, inner: list[str]) -> bool:
    """Whether a module that holds blocks may be one itself, they being its parts: not when it is a row of them."""
    if any(_is_item(modules, other) for other in inner):
        return False
    return _is_item(modules, name) or len({type(modules[other]) for other in inner}) == len(inner)


def _adds_to(result: ResidualSum | None, inner: list[str]) -> bool:
    """Whether there is a branch beside those of the blocks inside, whose sums are all on the way to the output."""
    branches = result.branches if result is not None else ()
    taken = {other: [branch for branch in branches if _is_in(branch, other)] for other in inner}
    return all(taken.values()) and len(branches) > sum(map(len, taken.values()))


def _is_leaf(module: nn.Module) -> bool:
    return not list(module.children()) and (
        type(module).__module__.startswith("torch.") or not list(module.parameters())
    )


class _Inside:
    """The search for sums among what was made during one call."""

    def __init__(
        self, modules: dict[str, nn.Module], recording: Recording, number: int, is_known: bool = False
    ) -> None:
        self._recording, self._nodes, self._calls = recording, recording.nodes, recording.calls
        self._modules, self._number, self._call = modules, number, recording.calls[number]
        self._name, self._is_known = self._call.module, is_known
        self._bits: dict[int, int] = {}

    def explain(self) -> ResidualSum | None:
        """The sums that lead from an input to the main output, and branches of all outputs; or None.

        Where one output is a sum, or where a block is known by its structure, branches may be made of another input
        than the one that they are added to.
        """
        results: dict[int, ResidualSum] = {}
        for y in self._call.outputs:
            x, result = self._explained(y)
            if result is None and (results or self._is_known):
                x, result = self._explained(y, self._call.inputs)
            if result is not None:
                results.setdefault(x, result)
            if not results:
                return None
        first = next(iter(results.values()), None)
        if first is None or len(results) == 1:
            return first
        branches = self._in_order(name for result in results.values() for name in result.branches)
        return replace(first, branches=branches, obstacle="adds branches to more than one of its outputs")

    def _explained(self, y: int, sources: tuple[int, ...] = ()) -> tuple[int, ResidualSum | None]:
        """An input, and the sums that lead from it to an output; branches may be made of ``sources`` too."""
        values = range(self._call.first, self._call.last)
        nodes = self._nodes
        near = self._back([y], lambda i: nodes[i].is_data and (not nodes[i].is_layer or bool(self._operands(i))))
        near = [i for i in near if self._operands(i)]
        for x in self._call.inputs if near else ():
            self._bits = self._facts(x, values, bits={**dict.fromkeys(sources, _DEPENDS), x: _DEPENDS | _PLAIN})
            if self._is(y, _PLAIN):
                if (result := self._result(x, y, {x})) is not None:
                    return x, result
                continue
            for projection in list(self._projections(near)):
                self._bits = self._facts(x, values, projection)
                if (result := self._result(x, y, {x, projection})) is not None:
                    return x, result
        return -1, None

    def added_to_itself(self, i: int, facts: dict[int, tuple[dict[int, int], int]]) -> list[str] | None:
        """Modules that made one operand of the sum ``i`` of the other by layers, anywhere in the model.

        ``facts`` keeps, for every value, what those up to some later one are to it: many sums may share a source.
        """
        for one, other in _pairs(self._operands(i)):
            source = self._recording.root(one[0], 0, _PARTS)
            if self._nodes[source].is_data and self._nodes[one[0]].shape == self._nodes[i].shape:
                bits, known = facts.get(source, ({}, source + 1))
                self._bits = self._facts(source, range(known, i), bits=bits)
                facts[source] = self._bits, i
                if _together(self._bits, other) & _LAYERED:
                    return self._branches(other)
        return None

    # --- facts

    def _is(self, i: int, bit: int) -> bool:
        return bool(self._bits.get(i, 0) & bit)

    def _facts(
        self, x: int, values: Iterable[int], projection: int = -1, bits: dict[int, int] | None = None
    ) -> dict[int, int]:
        """What every value is to ``x``; a projection counts as plain. ``bits``: of the values before these."""
        bits = bits or {x: _DEPENDS | _PLAIN}
        for i in values:
            node = self._nodes[i]
            if not any(p in bits for p in node.parents):
                continue
            groups = self._operands(i)
            if node.is_layer:
                mixed = [p for p in (groups[1] if groups else node.parents) if p in bits]
                of_all = (_together(bits, mixed) | _LAYERED) & ~_PLAIN if mixed else 0
                of_all |= (_BENT if len(mixed) > 1 else 0) | (_together(bits, groups[0]) if groups else 0)
            elif groups:
                each = [_together(bits, group) for group in groups]
                of_all = each[0] | (each[1] & ~_PLAIN if _LEFT.fullmatch(node.op) else each[1])
            else:
                of_all = _together(bits, node.parents)
                if of_all & _LAYERED and _BENDS.search(node.op):
                    of_all |= _BENT
            bits[i] = of_all | (_PLAIN if i == projection else 0)
        return bits

    def _operands(self, i: int) -> list[tuple[int, ...]]:
        """What a sum adds, each as the values that it is a product of; empty for what is no sum."""
        op, parents = self._nodes[i].op, self._nodes[i].parents
        is_fused = op in _FUSED and len(parents) > 2 and self._nodes[parents[0]].is_data  # and not a bias
        if (op not in _SUMS and not is_fused) or len(parents) < 2:
            return []
        if op == "lerp":
            return [(parents[0], *parents[2:]), (parents[1], *parents[2:])]
        return [parents[:1], parents[-1:] if op.endswith("_add") else parents[1:]]  # less the positions of a part

    def _back(self, starts: Iterable[int], keep: Callable[[int], bool]) -> list[int]:
        """All values made in the call that lead to ``starts`` through such values; in the order of execution."""
        todo, seen = list(starts), set()
        while todo:
            i = todo.pop()
            if i not in seen and i >= self._call.first and keep(i):
                seen.add(i)
                todo += self._nodes[i].parents
        return sorted(seen)

    def _behind(self, starts: Iterable[int]) -> list[int]:
        return self._back(starts, lambda i: self._is(i, _DEPENDS))

    # --- from the output back to the input

    def _result(self, x: int, y: int, sources: set[int]) -> ResidualSum | None:
        sums = self._chain(y, sources)
        if not any(self._nodes[i].is_layer or self._is(p, _LAYERED) for i, _, group in sums for p in group):
            return None
        names = [self._branches(group) for _, _, group in sums]
        shortcut, none_left = self._shortcut(x, sums[0][1], sums[0][0])
        behind, unclear = self._followers(y, sums[-1][0])
        if x != self._call.inputs[0]:
            none_left = "adds to what is not the first of its inputs"
        branches = self._in_order(name for of_sum in names for name in of_sum)
        unnamed = sum(not of_sum for of_sum in names)
        return ResidualSum(branches, shortcut, behind, none_left or unclear, self._is_stack(names, sums), unnamed)

    def _in_order(self, names: Iterable[str]) -> tuple[str, ...]:
        """Modules by the beginning of their first call inside of this one."""
        order = [call.module for call in self._calls[self._number : self._call.until]]
        return tuple(sorted(set(names), key=order.index))

    def _chain(self, y: int, sources: set[int]) -> list[tuple[int, tuple[int, ...], tuple[int, ...]]]:
        """Sums on plain ways to the output: the sum, its shortcut and its branch, in the order of execution."""
        todo, seen, sums = [y], set(sources), []
        while todo:
            i = todo.pop()
            if i in seen or not self._is(i, _PLAIN):
                continue
            seen.add(i)
            groups = self._operands(i)
            for one, other in _pairs(groups):
                if self._is_shortcut(one, other, i, sources):
                    if _together(self._bits, other) and (self._nodes[i].op != "sub" or self._has_layers(one, other)):
                        sums.append((i, one, other))
                    groups = [one]
                    break
            todo += [p for group in groups for p in group] or self._nodes[i].parents
        return sorted(sums)

    def _is_shortcut(self, one: tuple[int, ...], other: tuple[int, ...], i: int, sources: set[int]) -> bool:
        """Whether ``one`` is the plain operand of the sum ``i``, and ``other`` was made of it or adds to it."""
        facts, others = _together(self._bits, one), _together(self._bits, other)
        if not facts & _PLAIN or all(self._nodes[p].shape != self._nodes[i].shape for p in one):
            return False
        root = self._recording.root(one[0], self._call.first)
        inner = self._nodes[self._recording.root(other[0], self._call.first)]
        if inner.op == "sub" and self._recording.root(inner.parents[-1], self._call.first) == root:
            return False  # x + (q - x) is q
        if not others & _PLAIN:
            return True
        return root in sources or root in self._behind(other)

    def _has_layers(self, one: tuple[int, ...], other: tuple[int, ...]) -> bool:
        """Whether layers made ``other`` of ``one``: what is less its own mean has no branch."""
        root = self._recording.root(one[0], self._call.first)
        made = self._back(other, lambda k: k > root and self._is(k, _DEPENDS))
        return any(self._nodes[k].is_layer for k in made)

    # --- projections

    def _projections(self, sums: list[int]) -> Iterator[int]:
        """Operands that are the input behind a light layer, beside a branch."""
        for i in sums:
            pairs = [pair for pair in _pairs(self._operands(i)) if all(self._is(p[0], _LAYERED) for p in pair)]
            for (one, *_), (other, *_) in pairs:
                if self._is(one, _PLAIN) or self._is(other, _PLAIN) or self._nodes[one].shape != self._nodes[i].shape:
                    continue
                layers, others = self._layers(one), self._layers(other)
                light = len(layers) < len(others) and sum(layers.values()) <= sum(others.values())
                straight = self._is(other, _BENT) and not self._is(one, _BENT)
                named = self._is_named(one, i) and not self._is_named(other, i)
                if not layers.keys() & others.keys() and (named or (light and straight)):
                    yield one

    def _layers(self, i: int) -> dict[int, int]:
        """Layers that lead to a value -> numbers of their weights."""
        nodes = self._nodes
        made = [k for k in self._behind([i]) if nodes[k].is_layer]
        return {k: sum(math.prod(nodes[p].shape) for p in nodes[k].parents if nodes[p].is_weight) for k in made}

    def _is_named(self, i: int, total: int) -> bool:
        """Whether a direct part of the module made the value and is called a shortcut."""
        parts = self._parts(self._behind([i]), total)
        return any(_SHORTCUT.search(part.rpartition(".")[2]) for part in parts if part.rpartition(".")[0] == self._name)

    # --- names

    def _around(self, i: int) -> Iterator[int]:
        """Calls inside of this one in which a value was made, the innermost first."""
        number = self._nodes[i].call
        while number > self._number:
            yield number
            number = self._calls[number].around

    def _parts(self, values: Iterable[int], total: int) -> dict[str, bool]:
        """Modules, outermost ones that do not hold the sum ``total``, and bare operations that did more than to view
        or to scale, in the order of execution -> whether there is a layer in them."""
        parts: dict[str, bool] = {}
        of_sum = set(self._around(total))
        for i in values:
            node = self._nodes[i]
            one_of_data = sum(self._is(p, _DEPENDS) for p in node.parents) < 2
            if node.op in _SUMS or (one_of_data and _SCALES.fullmatch(node.op)):
                continue
            outer = [number for number in self._around(i) if number not in of_sum]
            name = self._calls[outer[-1]].module if outer else node.op
            parts[name] = parts.get(name, False) or node.is_layer
        return parts

    def _branches(self, group: tuple[int, ...]) -> list[str]:
        """The outermost modules with weights that made an operand, seen through what only scales or reshapes it."""
        spare: list[str] = []
        bit = _LAYERED if _together(self._bits, group) & _LAYERED else _DEPENDS
        before = [p for p in group if self._is(p, bit)]
        while before:
            i = max(before, key=lambda p: math.prod(self._nodes[p].shape))
            inside = (k for k in self._recording.returned_by[i] if self._number < k < self._call.until)
            names = [self._calls[k].module for k in inside if not self._only_scales(k)]
            names.sort(key=lambda name: not self._has_weights(name))
            if names and (self._has_weights(names[0]) or bit == _DEPENDS):
                return names[:1]
            spare = spare or names[:1]
            node = self._nodes[i]
            parts = [group for group in self._operands(i) if _together(self._bits, group) & _LAYERED]
            if node.op in ("cat", "stack"):
                parts = [(p,) for p in node.parents if self._is(p, _LAYERED) and not self._is(p, _PLAIN)]
            if len(parts) > 1:
                return [name for part in parts for name in self._branches(part)] or spare
            before = [p for p in (parts[0] if parts else node.parents) if self._is(p, bit) and not node.is_layer]
        return spare

    def _has_weights(self, name: str) -> bool:
        return any(True for _ in self._modules[name].parameters())

    def _only_scales(self, number: int) -> bool:
        made = range(self._calls[number].first, self._calls[number].last)
        return all(_SCALES.fullmatch(self._nodes[i].op) or not self._nodes[i].is_data for i in made)

    def _shortcut(self, x: int, group: tuple[int, ...], total: int) -> tuple[str | None, str | None]:
        """The module between the input and the first sum, and what else is there that it cannot stand for."""
        i = max(group, key=lambda p: self._bits.get(p, 0) & _PLAIN)
        parts = self._parts(self._behind([i]), total)
        modules = [part for part in parts if part in self._modules]
        if not parts:
            reshaped = {self._nodes[k].shape for k in (x, self._call.outputs[0])}
            return None, None if len(reshaped) == 1 else "adds to its input in another shape"
        shortcut = next((part for part in modules if parts[part]), modules[-1] if modules else None)
        if len(parts) > 1 or shortcut is None:
            return shortcut, f"makes its shortcut with {' and '.join(map(repr, parts))}, not with one module"
        return shortcut, None

    def _followers(self, y: int, total: int) -> tuple[str | None, str | None]:
        """What is between the last sum and the output, and what of it cannot stay when the sum goes."""
        parts = list(self._parts(self._back([y], lambda i: i > total and self._is(i, _PLAIN)), total))
        modules = [part for part in parts if part in self._modules]
        norms = [part for part in modules if self._has_weights(part)]
        norms += [part for part in parts if part not in modules and "norm" in part]
        active = [
            "relu" if part == "relu" or type(self._modules.get(part)) is nn.ReLU else part
            for part in parts if part not in norms
        ]  # fmt: skip
        if not active:
            return next((norm for norm in norms if norm in modules), None), None
        if len(active) == 1 and (active[0] == "relu" or active[0] in modules):
            return active[0], None
        return None, f"ends in {' and '.join(map(repr, active))}, not in one module"

    def _is_stack(self, names: list[list[str]], sums: list[tuple[int, tuple[int, ...], tuple[int, ...]]]) -> bool:
        """Whether the branches come from several equal items of one list, later ones made of earlier sums."""
        flat = [name for of_sum in names for name in of_sum]
        if len(sums) < 2 or not flat or sums[0][0] not in self._behind(sums[-1][2]):
            return False
        around = dict.fromkeys(holder for name in flat for holder in holders(name))
        for holder in around:
            prefix = f"{holder}."
            is_list = isinstance(self._modules[holder], (nn.ModuleList, nn.ModuleDict))
            if prefix.startswith(f"{self._name}.") and is_list:
                items = {name.removeprefix(prefix).partition(".")[0] for name in flat if name.startswith(prefix)}
                kinds = {type(self._modules[f"{prefix}{item}"]) for item in items}
                if len(items) > 1 and len(kinds) == 1 and all(name.startswith(prefix) for name in flat):
                    return True
        return False


def _together(bits: dict[int, int], parents: Iterable[int]) -> int:
    """Of what is made of all of them: no longer plain when layers made one of them that is not plain itself."""
    found = [bits.get(p, 0) for p in parents]
    union = 0
    for facts in found:
        union |= facts
    spoiled = any(facts & _LAYERED and not facts & _PLAIN for facts in found)
    return union & ~_PLAIN if spoiled else union


def _pairs(groups: list[tuple[int, ...]]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    return [(groups[0], groups[1]), (groups[1], groups[0])] if groups else []

"""Which modules add a branch to a shortcut, read off from values of one forward pass; nothing is traced.

Hooks keep about 256 values of every tensor that enters or leaves a module, at positions that depend on the shape
alone, copied at once so that in-place operations do no harm. A module is residual when its output is made of
sums ``s + b`` of what was seen inside: s comes from its input, b from a branch. Read next: ``residual_blocks.py``.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .evaluation import first_tensor

_POSITIONS = 256
_SHORTCUT = re.compile(r"short_?cut|down_?sample|skip|ident|proj|residual", re.I)
_LEADS_NOWHERE = re.compile(r"identity|dropout|droppath|stochasticdepth", re.I)


@dataclass(frozen=True)
class ResidualSum:
    """How a module made its output of its input."""

    branches: tuple[str, ...]
    """Modules whose outputs were added, in the order of execution."""
    shortcut: str | None
    """The module that the input went through before it was added; None when it was added as it is."""
    behind: str | None
    """What followed the last sum: None, "relu" or the name of a module, an activation or a norm."""
    is_zero: bool
    """Some branch gave zeros only, so that the sum could not be told from its shortcut."""


@dataclass
class _Value:
    """A tensor that entered or left a module."""

    module: str
    is_output: bool
    shape: tuple[int, ...]
    sample: torch.Tensor | None
    """(P,) on the CPU; None for what is no tensor of floats."""


@dataclass
class Call:
    """One call of a module and where its values are in the record."""

    module: str
    first: int
    last: int = -1
    structure: Any = None
    """See ``structure_of``."""


@dataclass
class Recording:
    """What was seen in one forward pass."""

    values: list[_Value] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    """In the order in which they ended, inner calls first."""

    def order(self) -> list[str]:
        """Modules by the beginning of their first call."""
        return list(dict.fromkeys(call.module for call in sorted(self.calls, key=lambda call: call.first)))


def structure_of(output: Any) -> Any:
    """What a block returned, as JSON: "tensor", ["tuple", length], ["dict", keys], or "other"."""
    if isinstance(output, torch.Tensor):
        return "tensor"
    if type(output) in (tuple, list) and isinstance(first_tensor(output[:1]), torch.Tensor):
        return [type(output).__name__, len(output)]
    if type(output) is dict and all(isinstance(key, str) for key in output):
        return ["dict", list(output)]
    return "other"


def record(model: nn.Module, run: Callable[[], object]) -> Recording:
    """Run the model once and keep samples of what its modules take and return.

    Args:
        model: unwrapped; its own input and output are recorded under the name "".
        run: one forward pass, inside of ``evaluating``.
    """
    recording, positions = Recording(), functools.cache(_positions)
    open_calls: list[Call] = []

    def note(name: str, tensor: torch.Tensor | None, is_output: bool) -> int:
        tensor = None if tensor is None or tensor.is_nested else tensor
        shape, sample = () if tensor is None else tuple(tensor.shape), None
        if tensor is not None and tensor.is_floating_point() and tensor.layout == torch.strided:
            sample = tensor.detach()[positions(shape, tensor.device)].cpu() if shape and 0 not in shape else None
        recording.values.append(_Value(name, is_output, shape, sample))
        return len(recording.values) - 1

    def enter(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        open_calls.append(Call(name, note(name, _first_float((*args, *kwargs.values())), False)))

    def leave(name: str, module: nn.Module, args: Any, output: Any) -> None:
        call = open_calls.pop()
        while call.module != name:  # a call that raised, and was caught by its caller
            call = open_calls.pop()
        call.last, call.structure = note(name, first_tensor(output), True), structure_of(output)
        recording.calls.append(call)

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.enter_context(module.register_forward_pre_hook(functools.partial(enter, name), with_kwargs=True))
            hooks.enter_context(module.register_forward_hook(functools.partial(leave, name)))
        run()
    return recording


def _first_float(values: Iterable[Any]) -> torch.Tensor | None:
    tensors = (first_tensor(value) for value in values)
    return next((t for t in tensors if t is not None and t.is_floating_point()), None)


def _positions(shape: tuple[int, ...], device: torch.device) -> tuple[torch.Tensor, ...]:
    """Which values of a tensor are kept: the same for equal shapes."""
    generator = torch.Generator().manual_seed(zlib.crc32(repr(shape).encode()))
    count = math.prod(shape)
    flat = torch.arange(count) if count <= _POSITIONS else torch.randint(count, (_POSITIONS,), generator=generator)
    return tuple(index.to(device) for index in torch.unravel_index(flat, shape))


def residual_sums(model: nn.Module, recording: Recording, wanted: Callable[[str], bool]) -> dict[str, ResidualSum]:
    """Modules that turned out to be residual in every call with floats.

    Args:
        model: unwrapped.
        recording: of one forward pass.
        wanted: which modules are looked at; leaves and the model itself never are.
    """
    modules = dict(model.named_modules())
    found: dict[str, ResidualSum] = {}
    refuted: set[str] = set()
    for call in recording.calls:
        name = call.module
        if not name or name in refuted or not any(True for _ in modules[name].children()) or not wanted(name):
            continue
        inner = [other for other in found if other.startswith(f"{name}.")]
        if inner and (not is_item(modules, name) or any(is_item(modules, other) for other in inner)):
            continue  # what is around of blocks is none
        result = _Inside(modules, recording, call).explain()
        if result is None:
            refuted.add(name)
            found.pop(name, None)
        else:
            found.setdefault(name, result)
    return found


def is_item(modules: dict[str, nn.Module], name: str) -> bool:
    """Whether a module is an item of a ``ModuleList`` or ``Sequential``."""
    return isinstance(modules[name.rpartition(".")[0]], (nn.ModuleList, nn.Sequential))


class _Inside:
    """The search for sums among the values seen during one call."""

    def __init__(self, modules: dict[str, nn.Module], recording: Recording, call: Call) -> None:
        self._modules = modules
        self._name = call.module
        values = recording.values
        self._input, self._output = values[call.first], values[call.last]
        inner = range(call.first + 1, call.last)
        self._values = [(i, values[i]) for i in inner if values[i].sample is not None]
        self._inputs_of = {c.last: c.first for c in recording.calls if call.first < c.first and c.last < call.last}
        self._all = values
        self._weights: dict[str, tuple[bool, int, int]] = {}
        shape = self._output.shape
        self._outputs = [(i, v) for i, v in self._values if v.is_output and v.shape == shape]

    @functools.cached_property
    def _stacked(self) -> torch.Tensor:
        """(B, P) float64: what modules inside put out in the shape of the output."""
        return torch.stack([v.sample.double() for _, v in self._outputs if v.sample is not None])

    def explain(self) -> ResidualSum | None:
        """The sums that lead from the input to the output, or None."""
        y = self._output.sample
        if y is None or self._input.sample is None:
            return None
        shape = self._output.shape
        start = self._first_shortcuts()
        later: list[tuple[str, torch.Tensor]] = []
        projections = {name for name, _ in start}
        taken: list[str] = []
        is_zero = False
        origin: str | None = None
        seen: list[torch.Tensor] = []
        for i, value in self._values:
            t = value.sample
            if t is None or value.is_output or value.shape != shape or any(_same(t, other) for other in seen):
                continue
            seen.append(t)
            sums = self._sum_of(t, [*later, *start])
            if sums is None:
                continue
            names, shortcut, zero = sums
            origin = shortcut if shortcut in projections else origin
            taken += names
            is_zero |= zero
            behind = [v for v in self._fed_by(t, i) if v.shape == shape]
            for follower in behind:
                if _same(follower.sample, y):
                    return self._result(taken, origin, follower.module, is_zero)
            recent = [("=", t), *(("=", f.sample) for f in behind if f.sample is not None)]
            later = [*recent, *later][:4]  # blocks add to the latest sum; a long search would cost more than a pass
        for search in (self._sum_of, self._sum_of_three):
            for relu in (False, True):
                sums = search(y, [*later, *start], relu)
                if sums is None:
                    continue
                names, shortcut, zero = sums
                origin = shortcut if shortcut in projections else origin
                return self._result([*taken, *names], origin, "relu" if relu else None, is_zero or zero)
        return None

    def _result(self, branches: list[str], origin: str | None, behind: str | None, is_zero: bool) -> ResidualSum:
        if behind in self._modules and type(self._modules[behind]) is nn.ReLU:
            behind = "relu"
        return ResidualSum(tuple(dict.fromkeys(branches)), origin or None, behind, is_zero)

    def _first_shortcuts(self) -> list[tuple[str, torch.Tensor]]:
        """The input under the name "", and projections of it, the likeliest first."""
        x = self._input
        assert x.sample is not None
        found = [("", x.sample)] if x.shape == self._output.shape else []
        projections = []
        for i, value in self._outputs:
            fed = self._all[self._inputs_of[i]]
            if fed.shape == x.shape and _same(fed.sample, x.sample):
                self._weights[value.module] = self._weight(value.module)
                projections.append((self._weights[value.module], value))
        if found and not any(weight[0] is False for weight, _ in projections):
            return found  # an input that fits needs no projection
        for _, value in sorted(projections, key=lambda pair: pair[0]):
            if value.sample is not None and not any(_same(value.sample, s) for _, s in found):
                found.append((value.module, value.sample))
        return found

    def _weight(self, name: str) -> tuple[bool, int, int]:
        """Sorts what is fed by the input: named as a shortcut, fewest layers, fewest parameters."""
        module = self._modules[name]
        layers = sum(1 for m in module.modules() if any(p.ndim > 1 for p in m.parameters(recurse=False)))
        is_child = name.rpartition(".")[0] == self._name
        is_named = bool(is_child and _SHORTCUT.search(name.rpartition(".")[2]))
        return not is_named, layers, sum(p.numel() for p in module.parameters())

    def _sum_of(
        self, t: torch.Tensor, shortcuts: list[tuple[str, torch.Tensor]], relu: bool = False
    ) -> tuple[list[str], str, bool] | None:
        """Branch, shortcut, and whether the branch was 0, for which ``t`` is their sum."""
        branches = self._outputs
        for source, s in shortcuts if branches else ():
            fitting, zeros = [], []
            for k in _sums(t, s.double(), self._stacked, relu).nonzero().flatten().tolist():
                b, name = branches[k][1].sample, branches[k][1].module
                if self._is_no_branch(name, source):
                    continue
                if _needs_both(t, s, b, relu):
                    fitting.append(branches[k])
                elif _is_sum(t, (s,), relu) and any(True for _ in self._modules[name].parameters()):
                    zeros.append(branches[k])
            if fitting or zeros:
                return [self._outermost(fitting or zeros)], source, not fitting
        return None

    def _sum_of_three(
        self, t: torch.Tensor, shortcuts: list[tuple[str, torch.Tensor]], relu: bool = False
    ) -> tuple[list[str], str, bool] | None:
        """The same for two parallel branches, which are direct parts of the module."""
        of_children = [(v.module, v.sample) for _, v in self._outputs if v.module.rpartition(".")[0] == self._name]
        children = [(name, sample) for name, sample in of_children if sample is not None][:24]
        for (source, s), ((one, a), (two, b)) in itertools.product(shortcuts, itertools.combinations(children, 2)):
            if source in (one, two) or _same(a, b):
                continue
            if _is_sum(t, (s, a, b), relu) and all(map(torch.count_nonzero, (s, a, b))):
                return [one, two], source, False
        return None

    def _is_no_branch(self, name: str, source: str) -> bool:
        """The shortcut itself, what holds it, or a second module beside it that could as well be the shortcut."""
        if source == name or (source and source.startswith(f"{name}.")):
            return True
        mine, other = self._weights.get(source), self._weights.get(name)
        return mine is not None and other is not None and mine[:2] >= other[:2]

    def _outermost(self, values: list[tuple[int, _Value]]) -> str:
        """Among modules of equal outputs: with weights, the outermost, the last one called."""

        def rank(pair: tuple[int, _Value]) -> tuple[bool, int, int]:
            name = pair[1].module
            return any(True for _ in self._modules[name].parameters()), -name.count("."), pair[0]

        return max(values, key=rank)[1].module

    def _fed_by(self, t: torch.Tensor, since: int) -> Iterator[_Value]:
        """Outputs of modules without children whose input is ``t``, but for those that do nothing."""
        for last, first in self._inputs_of.items():
            fed, out = self._all[first], self._all[last]
            module = self._modules[out.module]
            if first < since or any(True for _ in module.children()):
                continue
            if _same(fed.sample, t) and not _LEADS_NOWHERE.search(type(module).__name__):
                yield out


def _same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    return a is not None and b is not None and a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def _is_sum(t: torch.Tensor, parts: tuple[torch.Tensor, ...], relu: bool) -> bool:
    """Whether t is the sum to the last bits of its type, where all are finite."""
    first, *others = [part.double() for part in parts]
    rest = torch.stack(others or [torch.zeros_like(first)])
    return bool(_sums(t, first, rest.sum(0), relu, rest.abs().sum(0)))


def _sums(
    t: torch.Tensor, s: torch.Tensor, b: torch.Tensor, relu: bool, size: torch.Tensor | None = None
) -> torch.Tensor:
    """For every row of ``b`` (..., P) whether ``t`` is ``s + b`` to the last bits of its type."""
    total, size = s + b, s.abs() + (b.abs() if size is None else size)
    if relu:
        total = total.clamp(min=0)
    fits = (total - t.double()).abs() <= 2 * torch.finfo(t.dtype).eps * size
    finite = torch.isfinite(size)
    return finite.any(-1) & (fits | ~finite).all(-1)


def _needs_both(t: torch.Tensor, s: torch.Tensor, b: torch.Tensor, relu: bool) -> bool:
    """Neither part alone explains t, and a ReLU cut something off."""
    if relu and not bool(((s.double() + b.double()) < 0).any()):
        return False
    return not _is_sum(t, (s,), relu) and not _is_sum(t, (b,), relu)

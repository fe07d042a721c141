"""Which tensor was made of which by what operation, inside of which module calls: a record of one forward pass.

A dispatch mode shows every operation, hooks show the calls of modules. A tensor is known by its place in memory, which
is watched through weak references: nothing is kept, no value is read, views and in-place operations are told apart
from copies. Read next: ``block_sums.py``.
"""

from __future__ import annotations

import functools
import math
import re
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from .evaluation import every_layer_called, first_tensor, tensors_in

_MIXES = re.compile(r"conv|linear|mm|mv$|dot|matmul|embedding|lstm|gru|rnn|attention|scan")
VIEWS = re.compile(
    r"(_unsafe_)?view|_?reshape(_alias)?|expand|permute|transpose|t|(un)?squeeze|clone|contiguous|_to_copy|detach|alias"
    r"|lift_fresh|as_strided|unfold|copy"
)
"""Operations that return values as they are, in another shape, order or type."""
_OVERWRITES = {"copy", "fill", "zero"}
_EMPTY = re.compile(r"$|empty|new_empty")
_TAKES_NO_VALUES = re.compile(r"new_|.*_like$")
_Place = tuple[int, tuple[int, ...], tuple[int, ...]]
"""Offset, shape and strides of a tensor in its memory."""


class Node(NamedTuple):
    """What an operation made."""

    op: str
    """As in ``torch.ops``: "add" for every overload of ``aten::add`` and ``add_``; "" for what came from outside."""
    parents: tuple[int, ...]
    """Nodes of the tensors that it was made of, in the order of the operation's arguments."""
    call: int
    """Of the innermost module at work, -1 outside of all."""
    shape: tuple[int, ...]
    is_data: bool
    """Depends on the model's input."""
    is_weight: bool
    """Made of parameters, of what is no data."""
    is_layer: bool
    """Multiplies data by a matrix of weights or of other data, as layers and attention do."""


@dataclass
class Call:
    """One call of a module."""

    module: str
    around: int
    """The call inside of which it was made, -1 for none."""
    inputs: tuple[int, ...]
    """Nodes of the tensors of floats among its arguments."""
    first: int
    """Nodes from here on up to ``last`` were made during the call."""
    last: int = -1
    """-1 for a call that raised."""
    until: int = -1
    """Calls up to here began during the call."""
    outputs: tuple[int, ...] = ()
    """Nodes of the tensors that it returned, the main one first."""
    structure: Any = None
    """See ``structure_of``."""


@dataclass
class Recording:
    """What was seen in one forward pass."""

    nodes: list[Node] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    """In the order in which they began."""
    entered: list[str] = field(default_factory=list)
    """Modules in which values of samples appeared that no operation had made: they had left torch, for NumPy say."""

    @functools.cached_property
    def returned_by(self) -> dict[int, list[int]]:
        """Node -> calls that returned it; once all are recorded."""
        found: dict[int, list[int]] = defaultdict(list)
        for number, call in enumerate(self.calls):
            for node in call.outputs:
                found[node].append(number)
        return found

    def order(self) -> list[str]:
        """Modules by the beginning of their first call."""
        return list(dict.fromkeys(call.module for call in self.calls))

    def calls_of(self, module: str) -> list[Call]:
        """Its calls that came to an end."""
        return [call for call in self.calls if call.module == module and call.last >= 0]

    def root(self, node: int, first: int = 0, through: re.Pattern[str] = VIEWS) -> int:
        """What a node is a view or a copy of, going back no further than to ``first``."""
        while node >= first and through.fullmatch(self.nodes[node].op) and self.nodes[node].parents:
            node = self.nodes[node].parents[0]
        return node

    def covered(self, modules: Iterable[str]) -> list[bool]:
        """For every call whether it is one of these modules or inside of such a call."""
        known, covered = set(modules), list[bool]()
        for call in self.calls:
            covered.append(call.module in known or (call.around >= 0 and covered[call.around]))
        return covered

    def keeps_shape(self, call: Call) -> bool:
        """Whether a call's main output has the shape of its first input of floats."""
        shapes = [self.nodes[nodes[0]].shape if nodes else () for nodes in (call.inputs, call.outputs)]
        return shapes[0] == shapes[1]


def holders(name: str) -> list[str]:
    """Names of the modules around the one of this name, the nearest first, without the model itself."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(len(parts) - 1, 0, -1)]


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
    """Run the model once and keep what was made of what.

    Args:
        model: unwrapped; its own call is recorded under the name "".
        run: one forward pass, inside of ``evaluating``. ``nn.TransformerEncoder`` takes its plain path in it.
    """
    recorder = _Recorder(model)
    with ExitStack() as stack:
        stack.enter_context(every_layer_called())
        for name, module in model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):  # takes no hooks
                enter, leave = functools.partial(recorder.enter, name), functools.partial(recorder.leave, name)
                stack.enter_context(module.register_forward_pre_hook(enter, with_kwargs=True))
                stack.enter_context(module.register_forward_hook(leave, always_call=True))
        stack.enter_context(recorder)
        run()
    return recorder.recording


@functools.cache
def _described(func: Any) -> tuple[str, frozenset[int | str]]:
    """Name of an operation, and which of its arguments it writes to."""
    schema = getattr(func, "_schema", None)
    if schema is None:
        return str(func), frozenset()
    written: list[int | str] = []
    for i, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            written += [i, argument.name]
    return schema.name.removeprefix("aten::").rstrip("_"), frozenset(written)


class _Memory:
    """What is known of one storage: nodes by place, and writes to places, which other places may share.

    The weak reference lets the values go, but no later storage gets the address while it is held.
    """

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self.held: Any = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
        self.nodes: dict[_Place, tuple[int, int]] = {}
        self.writes: list[tuple[int, _Place]] = []


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The dispatch mode and the hooks."""

    supports_higher_order_operators = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recording = Recording()
        self._memories: dict[int, _Memory] = {}
        self._open = [-1]
        self._thread = threading.get_ident()
        self._constants = {id(buffer) for buffer in model.buffers() if buffer.is_floating_point()}
        self._own = {id(tensor) for module in model.modules() for tensor in tensors_in([*vars(module).values()])}
        self._rows: int | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and note what it made."""
        name, written = _described(func)
        kwargs = kwargs or {}
        parents: list[int] = []
        targets: list[torch.Tensor] = []
        for key, value in (*enumerate(args), *kwargs.items()):
            tensors = list(tensors_in(value))
            if key in written:
                targets += tensors
            if key not in written or (isinstance(key, int) and name not in _OVERWRITES):  # out= is not read
                parents += [self._node_of(tensor) for tensor in tensors]
        if _TAKES_NO_VALUES.match(name):
            parents = []
        if name.startswith("clamp") and args[1:] == (0,) and not kwargs:
            name = "relu"
        result = func(*args, **kwargs)
        for tensor in targets:
            self._note(tensor, self._add(name, parents, tensor), is_write=True)
        for tensor in tensors_in(result):
            if not any(tensor is target for target in targets):
                memory, place = self._place(tensor)
                if memory is None or memory.nodes.get(place, (-1, 0))[0] not in parents:
                    self._note(tensor, self._add(name, parents, tensor))
        return result

    def enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        """What a hook does before a module."""
        if threading.get_ident() != self._thread:  # where the dispatch mode is off
            return
        tensors = list(tensors_in([*args, *kwargs.values()]))
        if not name and tensors:
            self._rows = len(tensors[0]) if tensors[0].ndim else 0
        given = [(tensor, self._node_of(tensor, is_data=True, is_new=not name)) for tensor in tensors]
        inputs = tuple(node for tensor, node in given if tensor.is_floating_point() or tensor.is_complex())
        self.recording.calls.append(Call(name, self._open[-1], inputs, len(self.recording.nodes)))
        self._open.append(len(self.recording.calls) - 1)

    def leave(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        """What a hook does behind a module, also behind one that raised."""
        if threading.get_ident() != self._thread:
            return
        calls, nodes = self.recording.calls, self.recording.nodes
        if output is None and sys.exc_info()[0] is not None:  # it raised, unless a user's hook did before ``enter``
            if self._open[-1] >= 0 and calls[self._open[-1]].module == name:
                self._open.pop()
            return
        call, outputs = calls[self._open.pop()], []
        for tensor in tensors_in(output):
            node = self._node_of(tensor)
            if node >= call.first and _EMPTY.match(nodes[node].op) and any(nodes[i].is_data for i in call.inputs):
                node = self._add(type(module).__name__, call.inputs, tensor, is_layer=True)  # past the dispatcher
                self._note(tensor, node)
            outputs.append(node)
        call.last, call.until, call.outputs = len(nodes), len(calls), tuple(outputs)
        call.structure = structure_of(output)

    def _add(
        self, op: str, parents: Any, tensor: torch.Tensor, is_data: bool = False, is_weight: bool = False,
        is_layer: bool = False,
    ) -> int:  # fmt: skip
        nodes = self.recording.nodes
        is_data |= bool(op) and not parents and self._rows is None and self._open[-1] >= 0  # there is no other source
        of_data = sum(nodes[i].is_data for i in parents)
        of_weights = any(nodes[i].is_weight for i in parents)
        if op.startswith("_fft") or (_MIXES.search(op) and (of_weights or of_data > 1 or "::" in op)):
            is_layer = True
        is_data |= of_data > 0
        shape = () if tensor.is_nested else tuple(tensor.shape)
        is_weight = (is_weight or of_weights) and not is_data
        nodes.append(Node(op, tuple(parents), self._open[-1], shape, is_data, is_weight, is_layer))
        return len(nodes) - 1

    def _holds_samples(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor that no operation made is one row a sample; all are where the model got no tensor."""
        if self._open[-1] < 0 or id(tensor) in self._own:
            return False
        return self._rows is None or (tensor.is_floating_point() and tensor.ndim > 1 and len(tensor) == self._rows > 1)

    def _place(self, tensor: torch.Tensor) -> tuple[_Memory | None, _Place]:
        if tensor.is_nested or tensor.layout != torch.strided:
            return None, (0, (), ())
        try:
            storage = tensor.untyped_storage()
            address = storage._cdata
        except (RuntimeError, NotImplementedError):  # a tensor of a class of its own, without memory
            return None, (0, (), ())
        if address not in self._memories:
            self._memories[address] = _Memory(storage)
        return self._memories[address], (int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride())

    def _note(self, tensor: torch.Tensor, node: int, is_write: bool = False) -> None:
        memory, place = self._place(tensor)
        if memory is not None:
            if is_write:
                memory.writes.append((node, place))
            memory.nodes[place] = (node, len(memory.writes))

    def _node_of(self, tensor: torch.Tensor, is_data: bool = False, is_new: bool = False) -> int:
        memory, place = self._place(tensor)
        if memory is None or place not in memory.nodes or is_new:  # from outside: an input, a parameter, a constant
            enters = not is_new and self._holds_samples(tensor)
            if enters and self._rows is not None:
                self.recording.entered.append(self.recording.calls[self._open[-1]].module)
            is_data = enters or (is_data and id(tensor) not in self._own)
            node = self._add("", (), tensor, is_data, id(tensor) not in self._constants)
            self._note(tensor, node)
            return node
        node, known = memory.nodes[place]
        later = [(i, there) for i, there in memory.writes[known:] if _overlap(there, place)]
        if later:
            last, there = later[-1]
            is_same = there[0] == place[0] and math.prod(there[1]) == math.prod(place[1])
            node = self._add("alias", (last,) if is_same else (*[i for i, _ in reversed(later)], node), tensor)
            self._note(tensor, node)
        return node


def _overlap(one: _Place, two: _Place) -> bool:
    ends = [place[0] + sum((n - 1) * step for n, step in zip(place[1], place[2], strict=True)) for place in (one, two)]
    return one[0] <= ends[1] and two[0] <= ends[0]

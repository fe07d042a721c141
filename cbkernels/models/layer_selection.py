"""Which modules of a model are measured: "auto", a regular expression, names, or a predicate.

"auto" looks at one forward pass of the probe; nothing is traced and nothing stays on the model.
Needs torch when it is used. Read next: ``residual_blocks.py``.
"""

from __future__ import annotations

import difflib
import re
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from .evaluation import first_tensor
from .residual_blocks import findings

if TYPE_CHECKING:
    from torch import nn

_ACTIVATION = re.compile(r"relu|[gs]elu|silu|swish|mish|tanh|sigmoid|softplus|softsign|hardtanh|[a-z]*activation", re.I)
_MOST_OF_OUTPUT = 4
"""Calls behind the logits that return their memory: views, in-place operations."""
_REPEATS_ITS_INPUT = re.compile(r"dropout|droppath|stochasticdepth|identity|flatten|unflatten", re.I)


@dataclass(frozen=True)
class Selection:
    """Modules to measure."""

    names: list[str]
    """As in ``named_modules``; in the order of execution for "auto"."""
    blocks: dict[str, str] = field(default_factory=dict)
    """name -> the residual block that it is, or is a branch of."""


def chosen_by_user(model: nn.Module, layers: Any) -> list[str]:
    """Names of modules for everything but "auto".

    Args:
        model: unwrapped.
        layers: a regular expression that matches whole names, an iterable of names (``name#1`` stands for
            all calls of ``name``), or a function of name and module.

    Raises:
        ValueError: a name that is no module, or nothing was chosen.
        TypeError: another kind of choice.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    if isinstance(layers, str):
        try:
            pattern = re.compile(layers)
        except re.error as error:
            raise ValueError(f"layers is {layers!r}, which is no regular expression: {error}") from None
        names = [name for name in modules if pattern.fullmatch(name)]
    elif callable(layers):
        names = [name for name, module in modules.items() if layers(name, module)]
    elif isinstance(layers, Iterable):
        names = list(dict.fromkeys(_checked(name, modules) for name in layers))
    else:
        raise TypeError(f"layers is {layers!r}; pass 'auto', a regular expression, a list of names or a function")
    if not names:
        chosen = "the function" if callable(layers) else repr(layers)
        raise ValueError(f"layers is {chosen}, which chooses none of the modules {_listed(list(modules))}")
    return names


def _checked(name: object, modules: dict[str, nn.Module]) -> str:
    if not isinstance(name, str):
        raise TypeError(f"layers holds {name!r}; names are strings")
    plain = name if name in modules else name.partition("#")[0]
    if plain not in modules:
        near = difflib.get_close_matches(name, modules, n=3) or list(modules)
        raise ValueError(f"layers holds {name!r}, which is no module of the model; there are {_listed(near)}")
    return plain


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:6])
    return f"{shown} and {len(names) - 6} more" if len(names) > 6 else shown or "(none)"


def observe(model: nn.Module, run: Callable[[], object]) -> Selection:
    """What "auto" chooses: residual blocks and all branches; else activation functions; else leaf layers.

    The model's own output, the logits, is left out.

    Args:
        model: unwrapped, in evaluation mode.
        run: one forward pass of the probe.

    Raises:
        ValueError: no hidden layer was found.
    """
    found = findings(model, run)
    called = set(found.recording.order()) if found.recording else set()
    owned = {name: block.name for block in found.blocks.values() for name in (*block.branches, block.name)}
    names = [name for name in (*owned, *found.unowned) if name in called]
    if names:
        return Selection(names, {name: owned[name] for name in names if name in owned})
    leaves = [name for name, module in model.named_modules() if name and not list(module.children())]
    calls = _Calls(model, leaves, run)
    modules = dict(model.named_modules())
    activations = [name for name in calls.hidden() if _is_activation(modules[name])]
    names = activations or [
        name for name in calls.hidden() if not _REPEATS_ITS_INPUT.search(type(modules[name]).__name__)
    ]
    if not names:
        raise ValueError(f"layers is 'auto', but no hidden layer of {type(model).__name__} was found; name the layers")
    return Selection(names)


def _is_activation(module: nn.Module) -> bool:
    kind = type(module)
    if kind.__name__.lower() in ("softmax", "logsoftmax", "softmin", "softmax2d", "multiheadattention"):
        return False
    return kind.__module__ == "torch.nn.modules.activation" or bool(_ACTIVATION.search(kind.__name__))


class _Call(NamedTuple):
    """What a module returned, without holding it."""

    name: str
    has_weights: bool
    num_values: int
    address: int


class _Calls:
    """The order in which modules were called in one forward pass, and which of them made the model's output."""

    def __init__(self, model: nn.Module, names: list[str], run: Callable[[], object]) -> None:
        self._calls: list[_Call] = []
        self._last: deque[Any] = deque(maxlen=_MOST_OF_OUTPUT)
        self._of_model: list[Any] = []
        modules = dict(model.named_modules())
        handles = [model.register_forward_hook(self._keep_output)]
        try:
            handles += [modules[name].register_forward_hook(self._note(name)) for name in names]
            run()
        finally:
            for handle in handles:
                handle.remove()

    def _keep_output(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._of_model = _all_tensors(output)

    def _note(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            tensor = first_tensor(output)
            has_weights = any(True for _ in module.parameters(recurse=False))
            values, address = (0, 0) if tensor is None else (tensor.numel(), _address(tensor))
            self._calls.append(_Call(name, has_weights, values, address))
            self._last.append(tensor)  # held, so that no later tensor gets its address

        return hook

    def hidden(self) -> list[str]:
        """Called modules in the order of their first calls, without those that made the logits.

        These are the last layer with weights, if it gives as many values as the model, and what follows; and
        what returned the memory of the model's output.
        """
        sizes = {tensor.numel() for tensor in self._of_model}
        addresses = {_address(tensor) for tensor in self._of_model}
        end = len(self._calls)
        while end > len(self._calls) - len(self._last) and self._calls[end - 1].address in addresses:
            end -= 1
        with_weights = [i for i, call in enumerate(self._calls) if call.has_weights]
        if with_weights and self._calls[with_weights[-1]].num_values in sizes:
            end = min(end, with_weights[-1])
        return list(dict.fromkeys(call.name for call in self._calls[:end]))


def _all_tensors(output: Any) -> list[Any]:
    if isinstance(output, (tuple, list)):
        return [tensor for part in output for tensor in _all_tensors(part)]
    if isinstance(output, dict):
        return [tensor for part in output.values() for tensor in _all_tensors(part)]
    tensor = first_tensor(output)
    return [] if tensor is None else [tensor]


def _address(tensor: Any) -> int:
    address: int = tensor.untyped_storage().data_ptr()
    return address

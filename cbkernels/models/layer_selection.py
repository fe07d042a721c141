"""Which modules of a model are measured: "auto", a regular expression, names, or a predicate.

"auto" looks at one forward pass of the probe; nothing is traced and nothing stays on the model.
Read next: ``residual_blocks.py``.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .dataflow import Recording
from .residual_blocks import findings

_ACTIVATION = re.compile(r"relu|[gs]elu|silu|swish|mish|tanh|sigmoid|softplus|softsign|hardtanh|[a-z]*activation", re.I)
_REPEATS_ITS_INPUT = re.compile(r"dropout|droppath|stochasticdepth|identity|flatten|unflatten", re.I)


@dataclass(frozen=True)
class Selection:
    """Modules to measure."""

    names: list[str]
    """As in ``named_modules``; in the order of execution for "auto"."""
    blocks: dict[str, str] = field(default_factory=dict)
    """name -> the residual block that it is, or is a branch of."""
    notes: tuple[str, ...] = ()
    """See ``Findings``."""


def chosen_by_user(model: nn.Module, layers: Any) -> list[str]:
    """Names of modules for everything but "auto".

    Args:
        model: unwrapped.
        layers: a regular expression that matches whole names, an iterable of names (``name#1`` stands for
            all calls of ``name``), a class of modules, or a function of name and module.

    Raises:
        ValueError: a name that is no module, what TorchScript has compiled, or nothing was chosen.
        TypeError: another kind of choice.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    if isinstance(layers, str):
        try:
            pattern = re.compile(layers)
        except re.error as error:
            raise ValueError(f"layers is {layers!r}, which is no regular expression: {error}") from None
        names = [name for name in modules if pattern.fullmatch(name)]
    elif isinstance(layers, type):
        names = [name for name, module in modules.items() if isinstance(module, layers)]
    elif callable(layers):
        names = [name for name, module in modules.items() if layers(name, module)]
    elif isinstance(layers, Iterable):
        names = list(dict.fromkeys(_checked(name, modules) for name in layers))
    else:
        raise TypeError(
            f"layers is {layers!r}; pass 'auto', a regular expression, a list of names, a class or a function"
        )
    if not names:
        chosen = "the function" if callable(layers) and not isinstance(layers, type) else repr(layers)
        whole = "; a regular expression must match the whole name of a module" if isinstance(layers, str) else ""
        raise ValueError(f"layers is {chosen}, which chooses none of the modules {listed(list(modules))}{whole}")
    compiled: type = torch.jit.ScriptModule
    closed = [name for name in names if isinstance(modules[name], compiled)]
    if closed:
        raise ValueError(
            f"layers chooses {listed(closed)}, which TorchScript has compiled, so that nobody can look inside; "
            "use the module that it was made of"
        )
    return names


def _checked(name: object, modules: dict[str, nn.Module]) -> str:
    if not isinstance(name, str):
        raise TypeError(f"layers holds {name!r}; names are strings")
    plain = name if name in modules else name.partition("#")[0]
    if plain not in modules:
        near = difflib.get_close_matches(name, modules, n=3) or list(modules)
        raise ValueError(f"layers holds {name!r}, which is no module of the model; there are {listed(near)}")
    return plain


def listed(names: list[str]) -> str:
    """The first six names, for a sentence."""
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
        return Selection(names, {name: owned[name] for name in names if name in owned}, found.notes)
    modules = dict(model.named_modules())
    hidden = _hidden(modules, found.recording) if found.recording else []
    names = [name for name in hidden if _is_activation(modules[name])] or [
        name for name in hidden if not _REPEATS_ITS_INPUT.search(type(modules[name]).__name__)
    ]
    if not names:
        kind, seen = type(model).__name__, f" ({'; '.join(found.notes)})" if found.notes else ""
        raise ValueError(
            f"layers is 'auto', but no hidden layer of {kind} was found{seen}; give what is to be measured a module of "
            "its own, name the layers, or, if the model was scripted, traced or exported, measure what it was made of"
        )
    return Selection(names, notes=found.notes)


def _is_activation(module: nn.Module) -> bool:
    kind = type(module)
    if kind.__name__.lower() in ("softmax", "logsoftmax", "softmin", "softmax2d", "multiheadattention"):
        return False
    return kind.__module__ == "torch.nn.modules.activation" or bool(_ACTIVATION.search(kind.__name__))


def _hidden(modules: dict[str, nn.Module], recording: Recording) -> list[str]:
    """Leaves in the order of their first calls, without those that made the logits.

    These are the last layer with weights, if it gives as many values as the model, and what follows; and what returned
    the model's output in another shape.
    """
    calls = [call for call in recording.calls if call.outputs and not list(modules[call.module].children())]
    logits = [node for call in recording.calls_of("") for node in call.outputs]
    sizes = {math.prod(recording.nodes[node].shape) for node in logits}
    roots = {recording.root(node) for node in logits}
    end = len(calls)
    while end and recording.root(calls[end - 1].outputs[0]) in roots:
        end -= 1
    with_weights = [i for i, call in enumerate(calls) if any(True for _ in modules[call.module].parameters())]
    if with_weights and math.prod(recording.nodes[calls[with_weights[-1]].outputs[0]].shape) in sizes:
        end = min(end, with_weights[-1])
    return list(dict.fromkeys(call.module for call in calls[:end] if call.module))

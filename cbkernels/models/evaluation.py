"""A model's forward pass that leaves no trace: what monitor, surgery and scores run models with.

Needs torch when it is used. Names of modules are those inside of DDP and ``torch.compile`` wrappers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from ..lazy import require_torch as require_torch

if TYPE_CHECKING:
    from torch import nn


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's own module inside of ``torch.compile``, DDP and DataParallel wrappers.

    Raises:
        TypeError: not a ``torch.nn.Module``.
    """
    torch = require_torch("a model")
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; pass a torch.nn.Module")
    wrappers = (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)
    inner: nn.Module = model
    while True:
        name = "module" if isinstance(inner, wrappers) else "_orig_mod"  # what torch.compile(model) calls it
        if name not in inner._modules:
            return inner
        inner = inner.get_submodule(name)


def device_of(model: nn.Module) -> Any:
    """Where the model's first weight is, and so its inputs belong; the CPU without weights."""
    tensor = next(chain(model.parameters(), model.buffers()), None)
    return require_torch("a model").device("cpu") if tensor is None else tensor.device


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the unwrapped model in evaluation mode, without gradients, uncompiled; put everything back after.

    Every module's training flag is set and put back by itself, without calling ``train()`` or ``eval()``,
    which users override (frozen batch norm, merged adapters). The random numbers of torch (CPU and the
    model's GPUs), NumPy and Python continue afterwards as if nothing had been drawn. An autocast that is
    on stays on.

    Raises:
        TypeError: not a ``torch.nn.Module``.
    """
    torch = require_torch("a model")
    inner = unwrapped(model)
    flags = [(module, module.training) for module in inner.modules()]
    on_gpu = chain(inner.parameters(), inner.buffers()) if torch.cuda.is_available() else ()
    gpus = {p.get_device() for p in on_gpu if p.is_cuda}
    python, numpy = random.getstate(), np.random.get_state()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=sorted(gpus)))
        stack.callback(random.setstate, python)
        stack.callback(np.random.set_state, numpy)
        stack.callback(_put_back, flags)
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        for module, _ in flags:
            module.training = False
        yield inner


def _put_back(flags: list[tuple[nn.Module, bool]]) -> None:
    for module, training in flags:
        module.training = training


def first_tensor(output: Any) -> Any:
    """The tensor that an output stands for: itself, or the first one in a tuple, list, dict or ModelOutput.

    In a mapping ``last_hidden_state`` comes first; None when there is no tensor.
    """
    torch = require_torch("an output")
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, dict) or hasattr(output, "keys"):
        preferred = [output[k] for k in ("last_hidden_state",) if k in output.keys()]  # noqa: SIM118
        output = [*preferred, *output.values()]
    if isinstance(output, (tuple, list)):
        return next((t for t in map(first_tensor, output) if t is not None), None)
    return None

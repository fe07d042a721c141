"""A model's forward pass that leaves no trace: what monitor, surgery and scores run models with.

Names of modules are those inside of DDP and ``torch.compile`` wrappers.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn

_OF_ALL_MODULES = frozenset(vars(nn.Module())) - {"_buffers"}
"""Attributes that are not a module's own, but for the tensors that it holds."""
_PLAIN = (int, float, str, type(None))
"""Told first, for they are most of what operations get."""
_one_at_a_time = threading.RLock()
"""Threads that look at models at once would put back flags and random numbers over each other."""
Take = Callable[[str, str, nn.Module, Any], None]
"""Gets the layer's name, its module's name, the module and what it returned."""


def wrappings(model: nn.Module) -> list[nn.Module]:
    """A model and what is in it as long as it is a wrapper of ``torch.compile``, DDP or DataParallel.

    Raises:
        TypeError: not a ``torch.nn.Module``.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; pass a torch.nn.Module")
    parallel = isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel))
    name = "module" if parallel else "_orig_mod"  # what torch.compile(model) calls it
    return [model, *wrappings(model.get_submodule(name))] if name in model._modules else [model]


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's own module inside of all wrappers; errors as in ``wrappings``."""
    return wrappings(model)[-1]


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first weight is, and so its inputs belong; the CPU without weights.

    Weights that accelerate keeps elsewhere are on "meta" between calls; its hooks tell where they are called.
    """
    tensor = next(chain(model.parameters(), model.buffers()), None)
    device = torch.device("cpu") if tensor is None else tensor.device
    if device.type != "meta":
        return device
    told = (getattr(getattr(module, "_hf_hook", None), "execution_device", None) for module in model.modules())
    return next((torch.device(each) for each in told if each is not None), device)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the unwrapped model in evaluation mode, without gradients, uncompiled; put everything back after.

    Every module's training flag is set and put back by itself, without calling ``train()`` or ``eval()``,
    which users override (frozen batch norm, merged adapters). Tensors that modules put into their attributes are
    taken out again: some keep what they computed of their weights until ``train()`` is called. The random numbers of
    torch (CPU and the model's GPUs), NumPy and Python continue afterwards as if nothing had been drawn. An autocast
    that is on stays on; a default device "meta" does not. Other threads wait, whatever model they look at.

    Raises:
        TypeError: not a ``torch.nn.Module``.
    """
    inner = unwrapped(model)
    with _one_at_a_time, ExitStack() as stack:
        if torch.get_default_device().type == "meta":
            stack.enter_context(device_of(inner))
        stack.enter_context(random_numbers_kept(inner))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        for module in inner.modules():
            own = {key: value for key, value in vars(module).items() if key not in _OF_ALL_MODULES}
            stack.callback(_put_back, module, own, {key: value.copy() for key, value in own.items() if _holds(value)})
            stack.callback(setattr, module, "training", module.training)
            module.training = False
        yield inner


def _holds(value: Any) -> bool:
    return type(value) in (dict, list)


def _put_back(module: nn.Module, own: dict[str, Any], held: dict[str, Any]) -> None:
    """Attributes as they were where tensors came in, and what dicts and lists among them held."""
    for key, value in list(vars(module).items()):
        if key in _OF_ALL_MODULES or first_tensor(value) is None:
            continue
        if key not in own:
            del vars(module)[key]
        elif value is not own[key]:
            vars(module)[key] = own[key]
        if _holds(own.get(key)):
            own[key].clear()
            own[key].extend(held[key]) if isinstance(own[key], list) else own[key].update(held[key])


@contextmanager
def random_numbers_kept(model: nn.Module, seed: int | None = None) -> Iterator[None]:
    """Afterwards the random numbers of torch (CPU and the model's GPUs), NumPy and Python go on as before.

    Args:
        model: unwrapped.
        seed: of all of them meanwhile; None: they are drawn on from where they are.
    """
    on_gpu = chain(model.parameters(), model.buffers()) if torch.cuda.is_available() else ()
    gpus = {p.get_device() for p in on_gpu if p.is_cuda}
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=sorted(gpus)):
        try:
            if seed is not None:
                torch.manual_seed(seed)
                np.random.seed(seed % 2**32)
                random.seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def every_layer_called() -> Iterator[None]:
    """Keep ``nn.TransformerEncoder`` from fusing a layer into one operation and from nested tensors."""
    was_on = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_on)


@contextmanager
def outputs_taken(model: nn.Module, names: Iterable[str], take: Take) -> Iterator[None]:
    """Call ``take(layer, name, module, output)`` whenever a chosen module returns; no hook is left behind.

    The layer is the module's name, and ``name#1`` when it is called again.
    """
    calls: Counter[str] = Counter()

    def hook(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        layer = f"{name}#{calls[name]}" if calls[name] else name
        calls[name] += 1
        take(layer, name, module, output)

    with ExitStack() as hooks:
        for name in names:
            hooks.enter_context(model.get_submodule(name).register_forward_hook(partial(hook, name)))
        yield


def first_tensor(output: Any) -> torch.Tensor | None:
    """The tensor that an output stands for: itself, or the first one in a tuple, list, dict or ModelOutput.

    None when there is no tensor.
    """
    return next(tensors_in(output), None)


def tensors_in(x: Any, around: tuple[int, ...] = ()) -> Iterator[torch.Tensor]:
    """All tensors in a nest of tuples, lists and mappings, ``last_hidden_state`` first; ``around``: what holds it."""
    if isinstance(x, torch.Tensor):
        yield x
    elif isinstance(x, _PLAIN) or id(x) in around:  # what holds itself would have no end
        return
    elif isinstance(x, (tuple, list, Mapping)):
        keys = sorted(x, key=lambda key: key != "last_hidden_state") if isinstance(x, Mapping) else range(len(x))
        for key in keys:
            yield from tensors_in(x[key], (*around, id(x)))

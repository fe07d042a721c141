"""Which layers of a model have filters that can be dropped, the filters as rows, and the norm that follows them.

A filter is one output channel of a convolution (or one unit of a dense layer) with its bias and its channel of
the batch norm behind it. Layers for which that does not hold are left out, each with its reason.
Read next: ``masks.py`` (dropping them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from ..models.evaluation import evaluating, unwrapped
from ..models.layer_selection import chosen_by_user

NORMS = (_NormBase, nn.GroupNorm)
"""Batch, instance and group norm: an affine map for every channel."""
_CHANNEL_BY_CHANNEL = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh,
    nn.Sigmoid, nn.Hardswish, nn.Dropout, nn.Dropout2d, nn.MaxPool2d, nn.AvgPool2d, nn.MaxPool1d, nn.AvgPool1d,
)  # fmt: skip
"""A norm behind one of these still belongs to the convolution in front."""


@dataclass(frozen=True, eq=False)
class FilterLayer:
    """A convolution or dense layer with n filters of d weights each."""

    name: str
    """In the unwrapped model."""
    module: nn.Module
    norms: tuple[nn.Module, ...]
    """Batch norms that take this layer's output and nothing else; mostly one."""
    is_first: bool
    """It is the first layer with weights."""

    @property
    def weight(self) -> nn.Parameter:
        """(n, ...), a filter each."""
        return cast(nn.Parameter, self.module.weight)

    @property
    def num_filters(self) -> int:
        """Output channels or units."""
        return self.weight.shape[0]

    def rows(self, without: Sequence[int] = ()) -> torch.Tensor:
        """The filters but for some of them, (n, d) float32 on the CPU, a copy."""
        stays = sorted(set(range(self.num_filters)) - set(without))
        return self.weight.detach()[stays].flatten(1).to("cpu", torch.float32)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that belongs to single filters, (n, ...) each: ``weight``, ``bias``, ``norm0.weight``, ..."""
        found: dict[str, torch.Tensor | None] = {"weight": self.weight, "bias": cast(Any, self.module.bias)}
        for number, norm in enumerate(self.norms):
            for name in ("weight", "bias", "running_mean", "running_var"):
                found[f"norm{number}.{name}"] = getattr(norm, name, None)
        return {name: tensor for name, tensor in found.items() if tensor is not None}


@dataclass(frozen=True)
class FilterLayers:
    """What was found in a model."""

    layers: tuple[FilterLayer, ...]
    """In the order of execution where an example was run, else as registered."""
    left_out: dict[str, str] = field(default_factory=dict)
    """layer -> why its filters cannot be dropped."""

    def without_first(self) -> FilterLayers:
        """The others, as when the first layer is to be spared.

        Raises:
            ValueError: there is no other one.
        """
        first = {layer.name: "it is the first layer" for layer in self.layers if layer.is_first}
        others = tuple(layer for layer in self.layers if not layer.is_first)
        if not others:
            raise ValueError("rank_first is False and the model has no other layer of filters; rank the first one too")
        return FilterLayers(others, {**self.left_out, **first})


def find_filter_layers(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    linear: bool = False,
    layers: Any = "auto",
    example: Any = None,
) -> FilterLayers:
    """The layers whose filters can be dropped.

    Args:
        model: any; DDP and ``torch.compile`` wrappers are looked through.
        optimizer: layers that it does not train are left out; None: whatever requires gradients.
        linear: dense layers too; their filters are their units.
        layers: "auto" leaves out the last layer, whose outputs are taken to be the model's; or names, a regular
            expression, a function of name and module.
        example: what the model takes (a tensor, or a tuple of arguments). The model is run on it to see which norm
            takes which layer's output; without it, that is the next one registered in the same parent.

    Raises:
        ValueError: there is none.
        TypeError: not a model.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10))
        >>> [(layer.name, layer.num_filters, len(layer.norms)) for layer in find_filter_layers(model).layers]
        [('0', 8, 1)]
    """
    inner = unwrapped(model)
    modules: dict[str, nn.Module] = {
        name: each for name, each in inner.named_modules() if isinstance(each, (_ConvNd, nn.Linear))
    }
    order, followers = _registered(inner) if example is None else _executed(inner, example)
    order = [name for name in order if name in modules]
    named = None if isinstance(layers, str) and layers == "auto" else chosen_by_user(inner, layers)
    trained = None if optimizer is None else {id(p) for group in optimizer.param_groups for p in group["params"]}
    found, left_out = list[FilterLayer](), dict[str, str]()
    for name in modules if named is None else named:
        module = modules.get(name)
        if named is None and isinstance(module, nn.Linear) and not linear:
            continue
        reason = _why_not(module, trained) or _why_not_alone(name, modules, followers)
        if not reason and name not in order:
            reason = "the example does not reach it"
        if not reason and named is None and name == order[-1]:
            reason = (
                "it is the last layer, whose outputs are taken to be the model's; name it in layers= if they are not"
            )
        if reason or module is None:
            left_out[name] = reason
        else:
            norms = tuple(norm for norm, sources in followers.items() if name in sources)
            found.append(FilterLayer(name, module, norms, is_first=name == order[0]))
    _require_some(found, left_out, linear)
    return FilterLayers(tuple(sorted(found, key=lambda layer: order.index(layer.name))), left_out)


def _require_some(found: list[FilterLayer], left_out: dict[str, str], linear: bool) -> None:
    if found:
        return
    kinds = "convolution or dense layer" if linear else "convolution"
    more = "".join(f"; {name!r}: {reason}" for name, reason in list(left_out.items())[:1])
    hint = "" if linear else "; pass linear=True for the units of dense layers"
    raise ValueError(f"the model has no {kinds} whose filters can be dropped{more}{hint}")


def _why_not(module: nn.Module | None, trained: set[int] | None) -> str:
    if module is None:
        return "it is neither a convolution nor a dense layer"
    weight = module._parameters.get("weight")
    if isinstance(module, _ConvTransposeNd):
        return "it is a transposed convolution, whose filters are not the rows of its weight"
    if isinstance(module, LazyModuleMixin):
        return "it is lazy and has no weight yet; run the model once before"
    if isinstance(module, _ConvNd) and module.groups > 1:
        return f"it has {module.groups} groups, whose filters see different channels and cannot overlap"
    if isinstance(module, NonDynamicallyQuantizableLinear):
        return "its attention uses the weight without calling the layer"
    if weight is None:
        return "its weight is computed from other parameters"
    if not weight.requires_grad or (trained is not None and id(weight) not in trained):
        return "its weight is not trained"
    return "it has one filter only" if weight.shape[0] < 2 else ""


def _why_not_alone(name: str, modules: dict[str, nn.Module], followers: dict[nn.Module, set[str]]) -> str:
    weight = modules[name].weight
    for other, module in modules.items():
        if other != name and module._parameters.get("weight") is weight:
            return f"its weight is also that of {other!r}"
    for sources in followers.values():
        if name in sources and len(sources) > 1:
            other = min(sources - {name})
            return f"its norm also takes {'the output of ' + repr(other) if other else 'something else'}"
    return ""


def _registered(model: nn.Module) -> tuple[list[str], dict[nn.Module, set[str]]]:
    """Layers in the order of registration; norm -> the layer registered before it in the same parent."""
    names = {module: name for name, module in model.named_modules()}
    followers: dict[nn.Module, set[str]] = {}
    for parent in model.modules():
        source = None
        for child in parent.children():
            if isinstance(child, NORMS):
                channels = getattr(child, "num_features", None) or getattr(child, "num_channels", None)
                if source is not None and channels == source.weight.shape[0]:
                    followers.setdefault(child, set()).add(names[source])
                source = None
            elif isinstance(child, (_ConvNd, nn.Linear)):
                source = child if isinstance(child._parameters.get("weight"), torch.Tensor) else None
            elif not isinstance(child, _CHANNEL_BY_CHANNEL):
                source = None
    return list(names.values()), followers


def _executed(model: nn.Module, example: Any) -> tuple[list[str], dict[nn.Module, set[str]]]:
    """The same, seen in one forward pass; "" stands for another source of a norm's input."""
    order: list[str] = []
    followers: dict[nn.Module, set[str]] = {}
    source_of: dict[tuple[int, int], str] = {}
    taken: dict[nn.Module, str] = {}
    alive: list[Any] = []  # keys are ids of these: none may be used again

    def before(module: nn.Module, inputs: Any) -> None:
        taken[module] = source_of.get(_identity(inputs[0]), "") if inputs else ""

    def after_of(name: str) -> Any:
        def after(module: nn.Module, inputs: Any, output: Any) -> None:
            alive.append(output)
            if isinstance(module, NORMS):
                followers.setdefault(module, set()).add(taken[module])
            elif isinstance(module, (_ConvNd, nn.Linear)):
                order.append(name)
                source_of[_identity(output)] = name
            elif taken[module]:
                source_of[_identity(output)] = taken[module]

        return after

    with evaluating(model) as inner:
        handles = []
        for name, module in inner.named_modules():
            if isinstance(module, (*NORMS, _ConvNd, nn.Linear, *_CHANNEL_BY_CHANNEL)):
                handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after_of(name))]
        try:
            inner(*example) if isinstance(example, tuple) else inner(example)
        finally:
            for handle in handles:
                handle.remove()
    followers = {norm: sources for norm, sources in followers.items() if sources != {""}}
    return list(dict.fromkeys(order)), followers


def _identity(output: torch.Tensor) -> tuple[int, int]:
    """The version too: after ``out += shortcut`` it is the same tensor and another value."""
    return id(output), output._version

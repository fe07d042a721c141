"""Lists of layers whose length a configuration repeats: Hugging Face models, ``nn.TransformerEncoder``.

Their layers are removed by deleting them from the list and by correcting every place that counts them, so that
key-value caches, ``save_pretrained`` and ``from_pretrained`` keep working. Needs torch, never transformers.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..surgery.edits import Entry
from .evaluation import require_torch

if TYPE_CHECKING:
    from torch import nn

_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers", "num_encoder_layers", "depth")
_DECODER_COUNTS = ("decoder_layers", "num_decoder_layers")
_INDICES = ("layer_idx", "layer_id", "layer_index", "layer_num", "layer_number")
_NOT_PER_LAYER = ("architectures", "out_features", "out_indices", "stage_names", "pruned_heads")


@dataclass(frozen=True)
class LayerStack:
    """A ``ModuleList`` whose items can be deleted."""

    name: str
    """Of the list, as in ``named_modules``."""
    kind: str
    """What its items are."""
    layers: Any
    """The ``ModuleList``."""

    def item_names(self) -> list[str]:
        """Names of the layers in the model."""
        return [f"{self.name}.{i}" for i in range(len(self.layers))]


def find_layer_stacks(model: nn.Module) -> list[LayerStack]:
    """Outermost lists of layers of one class that a configuration counts.

    Args:
        model: unwrapped.
    """
    torch = require_torch("find_layer_stacks")
    modules = dict(model.named_modules())
    stacks: list[LayerStack] = []
    for name, module in modules.items():
        if not isinstance(module, torch.nn.ModuleList) or not len(module) or not name:
            continue
        if any(name.startswith(f"{stack.name}.") for stack in stacks):
            continue
        owner = modules[name.rpartition(".")[0]]
        if type(owner) in (torch.nn.TransformerEncoder, torch.nn.TransformerDecoder):
            stacks.append(LayerStack(name, "torch transformer layer", module))
        elif len({type(item) for item in module}) == 1 and _config_of(modules, name, len(module)) is not None:
            stacks.append(LayerStack(name, "transformers layer", module))
    return stacks


def _is_config(config: Any) -> bool:
    return callable(getattr(config, "to_dict", None)) and not isinstance(config, type)


def _config_of(modules: dict[str, nn.Module], name: str, length: int) -> Any:
    """The configuration of the nearest module around ``name`` that has one, if it counts the list."""
    while name:
        name = name.rpartition(".")[0]
        config = getattr(modules[name], "config", None)
        if _is_config(config):
            return config if list(_counts(config, f"{name}.", length)) else None
    return None


def _counts(config: Any, name: str, length: int) -> Iterator[str]:
    """Keys of a configuration that hold the length of the list ``name``."""
    if any(isinstance(vars(config).get(key), (list, tuple)) for key in ("depth", "depths")):
        return  # what is counted are stages of layers
    real = getattr(config, "attribute_map", None) or {}
    decoder = [key for key in _DECODER_COUNTS if "decoder" in name and real.get(key, key) in vars(config)]
    for key in decoder or _COUNTS:
        value = vars(config).get(real.get(key, key))
        if isinstance(value, int) and value == length:
            yield real.get(key, key)


def deletions(model: nn.Module, stack: LayerStack, doomed: Sequence[int]) -> list[Entry]:
    """Everything that changes when layers of a stack go: the list, indices that layers carry, configurations.

    Args:
        model: unwrapped.
        stack: of this model.
        doomed: positions in the list, fewer than it has.
    """
    kept = [i for i in range(len(stack.layers)) if i not in doomed]
    children = {str(new): stack.layers[old] for new, old in enumerate(kept)}
    entries = [Entry(vars(stack.layers), "_modules", stack.layers._modules, children)]
    for new, old in enumerate(kept):
        for module in stack.layers[old].modules():
            for key in _INDICES:
                value = vars(module).get(key)
                if new != old and isinstance(value, int) and value - old in (0, 1):
                    entries.append(Entry(vars(module), key, value, value - old + new))
    owner = model.get_submodule(stack.name.rpartition(".")[0])
    if stack.kind == "torch transformer layer":
        return [*entries, Entry(vars(owner), "num_layers", owner.num_layers, len(kept))]
    for config, name in _configs(model, stack):
        entries += _config_changes(config, name, len(stack.layers), kept)
    return entries


def _configs(model: nn.Module, stack: LayerStack) -> list[tuple[Any, str]]:
    """Every configuration object that describes the stack, once: shared, copied into modules, or nested."""
    modules = dict(model.named_modules())
    own: Any = _config_of(modules, stack.name, len(stack.layers))
    as_dict: Any = own.to_dict()
    holder = stack.name
    while getattr(modules[holder := holder.rpartition(".")[0]], "config", None) is not own:
        pass
    found: dict[int, tuple[Any, str]] = {id(own): (own, stack.name)}
    for name, module in modules.items():
        config: Any = getattr(module, "config", None)
        if not _is_config(config):
            continue
        is_around = stack.name.startswith(f"{name}." if name else "")
        is_inside = name.startswith(f"{holder}.") if holder else True
        same_kind = type(config) is type(own)
        if same_kind and (is_around or is_inside):
            found.setdefault(id(config), (config, stack.name))
        nested: list[Any] = [value for value in vars(config).values() if type(value) is type(own) and is_around]
        for copied in nested:
            if copied.to_dict() == as_dict:
                found.setdefault(id(copied), (copied, stack.name))
    return list(found.values())


def _config_changes(config: Any, name: str, length: int, kept: list[int]) -> Iterator[Entry]:
    # assigned in vars(): a strict configuration would check its list against its count between the two
    for key in dict.fromkeys(_counts(config, name, length)):
        yield Entry(vars(config), key, length, len(kept))
    for key, value in list(vars(config).items()):
        is_list = isinstance(value, (list, tuple)) and len(value) > 0
        if not is_list or key.startswith("_") or key in _NOT_PER_LAYER:
            continue
        per_layer = "layer" in key or "block" in key or "attention_types" in key
        if per_layer and key.endswith("layers") and _are_indices(value, length):
            new = [kept.index(i) for i in value if i in kept]
            yield Entry(vars(config), key, value, type(value)(new))
        elif per_layer and len(value) == length:
            yield Entry(vars(config), key, value, type(value)(value[i] for i in kept))


def _are_indices(value: Sequence[Any], length: int) -> bool:
    """Positions of layers, as in ``moe_layers = [1, 3]``, and not one number a layer."""
    integers = all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < length for i in value)
    return integers and list(value) == sorted(set(value))


@dataclass(frozen=True)
class Rebuilt:
    """What ``from_pretrained`` would build from the configuration around a stack."""

    name: str
    """Of the outermost module with ``save_pretrained`` around the stack."""
    layout: dict[str, tuple[int, ...]]
    """Name -> shape of the tensors that its class makes of its configuration."""
    keeps_settings: bool
    """The configuration, written and read again, says the same."""


def rebuilt(model: nn.Module, stack: LayerStack) -> Rebuilt | None:
    """Build the model around a stack from its configuration, without memory for it.

    Returns:
        None where there is no such model, or its class cannot be built from its configuration alone.
    """
    torch = require_torch("rebuilt")
    for name, module in model.named_modules():
        is_around = stack.name.startswith(f"{name}." if name else "")
        config: Any = getattr(module, "config", None)
        if is_around and _is_config(config) and callable(getattr(module, "save_pretrained", None)):
            try:
                with torch.device("meta"), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    again = type(config).from_dict(copy.deepcopy(config.to_dict()))
                    keeps_settings = again.to_dict() == config.to_dict()
                    return Rebuilt(name, layout_of(type(module)(again)), keeps_settings)
            except Exception:  # whatever a model's own constructor raises
                return None
    return None


def layout_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name -> shape of what the model's ``state_dict`` holds."""
    return {name: tuple(getattr(tensor, "shape", ())) for name, tensor in model.state_dict().items()}

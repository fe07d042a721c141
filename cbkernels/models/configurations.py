"""Configurations that count a model's layers, as Hugging Face models have them: where, and what they would build.

When layers are deleted from a list, surgery corrects every such place, so that key-value caches, ``save_pretrained``
and ``from_pretrained`` keep working. Nothing of the package transformers is imported.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from .evaluation import evaluating

_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers", "num_encoder_layers", "depth")
_DECODER_COUNTS = ("decoder_layers", "num_decoder_layers")
_NOT_PER_LAYER = ("architectures", "out_features", "out_indices", "stage_names", "pruned_heads")

Modules = Mapping[str, nn.Module]
"""Name -> module, as in ``named_modules``."""
Place = tuple[dict[str, Any], str, Any]
"""A dictionary, ``vars(object)`` included, a key of it, and what belongs there once layers are gone."""


def holder_of(modules: Modules, name: str) -> str | None:
    """The nearest module around the list ``name`` that has a configuration, if that counts the list's layers."""
    length, holder = len(modules[name]._modules), name
    while holder:
        holder = holder.rpartition(".")[0]
        config = getattr(modules[holder], "config", None)
        if _is_config(config):
            return holder if any(True for _ in _counts(config, f"{holder}.", length)) else None
    return None


def configured(modules: Modules, name: str, kept: Sequence[int]) -> Iterator[Place]:
    """Entries of all configurations that describe the list ``name``, when the positions ``kept`` stay."""
    for config in _configs(modules, name):
        yield from _entries(config, name, len(modules[name]._modules), kept)


def _is_config(config: Any) -> bool:
    return callable(getattr(config, "to_dict", None)) and not isinstance(config, type)


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


def _configs(modules: Modules, name: str) -> list[Any]:
    """Every configuration object that describes the list, once: shared, copied into modules, or nested."""
    holder = holder_of(modules, name) or ""
    own: Any = modules[holder].config
    as_dict = own.to_dict()
    found: dict[int, Any] = {id(own): own}
    for other, module in modules.items():
        config: Any = getattr(module, "config", None)
        if not _is_config(config):
            continue
        is_around = _is_around(other, name)
        if type(config) is type(own) and (is_around or _is_around(holder, other)):
            found[id(config)] = config
        nested: list[Any] = [value for value in vars(config).values() if type(value) is type(own) and is_around]
        found |= {id(copied): copied for copied in nested if copied.to_dict() == as_dict}
    return list(found.values())


def _is_around(name: str, other: str) -> bool:
    return other.startswith(f"{name}." if name else "")


def _entries(config: Any, name: str, length: int, kept: Sequence[int]) -> Iterator[Place]:
    # assigned in vars(): a strict configuration would check its list against its count between the two
    for key in dict.fromkeys(_counts(config, name, length)):
        yield vars(config), key, len(kept)
    for key, value in list(vars(config).items()):
        is_list = isinstance(value, (list, tuple)) and len(value) > 0
        if not is_list or key.startswith("_") or key in _NOT_PER_LAYER:
            continue
        per_layer = "layer" in key or "block" in key or "attention_types" in key
        if per_layer and key.endswith("layers") and _are_indices(value, length):
            yield vars(config), key, type(value)(kept.index(i) for i in value if i in kept)
        elif per_layer and len(value) == length:
            yield vars(config), key, type(value)(value[i] for i in kept)


def _are_indices(value: Sequence[Any], length: int) -> bool:
    """Positions of layers, as in ``moe_layers = [1, 3]``, and not one number a layer."""
    integers = all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < length for i in value)
    return integers and list(value) == sorted(set(value))


class Agreement(NamedTuple):
    """How far a configuration describes the model that it is in; the more, the larger."""

    tensors: bool = False
    """The class makes tensors of the same names and shapes of the configuration alone."""
    settings: bool = False
    """The configuration, written and read again, says the same."""
    class_name: str = ""
    """Of the outermost module with ``save_pretrained`` around the list."""


def agreement(model: nn.Module, name: str) -> Agreement:
    """Compare what is around the list ``name`` with what ``from_pretrained`` would build, without memory for that."""
    for holder, module in model.named_modules():
        config: Any = getattr(module, "config", None)
        if not (_is_around(holder, name) and _is_config(config) and callable(getattr(module, "save_pretrained", None))):
            continue
        try:
            with evaluating(model), torch.device("meta"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                again = type(config).from_dict(copy.deepcopy(config.to_dict()))
                settings = again.to_dict() == config.to_dict()
                same = _layout(type(module)(again)) == _layout(module)
                return Agreement(same, settings, type(module).__name__)
        except Exception:  # whatever a model's own constructor raises
            break
    return Agreement()


def _layout(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(getattr(tensor, "shape", ())) for name, tensor in model.state_dict().items()}

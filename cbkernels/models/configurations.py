"""Configurations that count a model's layers, as Hugging Face models have them: where, and what belongs there.

When layers are deleted from a list, surgery corrects every such place, so that key-value caches, ``save_pretrained``
and ``from_pretrained`` keep working. Nothing of the package transformers is imported.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import nn

from .layer_indices import corrected, is_taken, require_unentered

_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers", "num_encoder_layers", "depth")
_DECODER_COUNTS = ("decoder_layers", "num_decoder_layers")

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
        if is_config(config):
            return holder if any(True for _ in _counts(config, f"{holder}.", length)) else None
    return None


def configured(modules: Modules, name: str, kept: Sequence[int]) -> Iterator[Place]:
    """Entries of all configurations that describe the list ``name``, when the positions ``kept`` stay.

    And of those that say where a model takes the states of these layers; and what modules copied of such entries.

    Raises:
        ValueError: an entry names a layer that goes, and what it would then mean is not known.
    """
    length, own = len(modules[name]._modules), _configs(modules, name)
    changed = [(config, *entry) for config in own for entry in _entries(config, name, length, kept)]
    changed += [
        (config, *entry) for config, part in _around(modules, own) for entry in _taken(config, part, length, kept)
    ]
    for config, key, old, new in changed:
        yield vars(config), key, new
        for other, module in modules.items():
            is_near = _is_around(other, name) or getattr(module, "config", None) is config
            for copied, value in vars(module).items():
                if (is_near and copied == key and value == old) or (value is old and isinstance(old, list)):
                    yield vars(module), copied, new
            features = vars(module).get("num_features")
            if is_near and key == "stage_names" and isinstance(features, list) and len(features) == len(old):
                yield vars(module), "num_features", [features[i] for i in (0, *(i + 1 for i in kept))]
    yield from _adapters(modules, name, length, kept)
    owner = vars(modules[name.rpartition(".")[0]])
    for key, value in owner.items():
        if type(value) is int and value == length and key in (*_COUNTS, *_DECODER_COUNTS):
            yield owner, key, len(kept)
        elif type(value) is int and 0 <= value <= length and key.endswith(("_layer_idx", "_layer_index")):
            yield owner, key, sum(i < value for i in kept)


def is_config(config: Any) -> bool:
    """Whether an attribute of a module is a configuration."""
    return callable(getattr(config, "to_dict", None)) and not isinstance(config, (type, nn.Module))


def configs_in(value: Any) -> list[Any]:
    """A configuration, or those in a dictionary, as adapters have one."""
    return [each for each in (value.values() if isinstance(value, dict) else [value]) if is_config(each)]


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
        if not is_config(config):
            continue
        is_around = _is_around(other, name)
        if type(config) is type(own) and (is_around or _is_around(holder, other)):
            found[id(config)] = config
        nested: list[Any] = [value for value in vars(config).values() if type(value) is type(own) and is_around]
        found |= {id(copied): copied for copied in nested if copied.to_dict() == as_dict}
    return list(found.values())


def reachable(configs: Iterable[Any]) -> list[Any]:
    """Those that are configurations, and all that are nested in them, each once."""
    found: dict[int, Any] = {}
    waiting = list(configs)
    for config in waiting:  # which grows
        if is_config(config) and id(config) not in found:
            found[id(config)] = config
            waiting += vars(config).values()
    return list(found.values())


def _around(modules: Modules, own: Sequence[Any]) -> Iterator[tuple[Any, str]]:
    """Configurations around or beside those of a list, and under which key the model's has these."""
    found = reachable(getattr(module, "config", None) for module in modules.values())
    known = {id(config) for config in own}
    parts = [key for config in found for key, value in vars(config).items() if id(value) in known]
    yield from ((config, parts[0]) for config in found if parts and id(config) not in known)


def _adapters(modules: Modules, name: str, length: int, kept: Sequence[int]) -> Iterator[Place]:
    """Where the adapters of the package peft say which layers of a list they are in."""
    for other, module in modules.items():
        for config in configs_in(vars(module).get("peft_config")) if _is_around(other, name) else ():
            key, pattern = "layers_to_transform", vars(config).get("layers_pattern") or name.rpartition(".")[2]
            if key in vars(config) and name.rpartition(".")[2] in ([pattern] if isinstance(pattern, str) else pattern):
                new = corrected(key, old := vars(config)[key], length, kept)
                if new != old:
                    yield vars(config), key, new


def cacheless(modules: Modules, places: Iterable[Place]) -> list[Place]:
    """``generate`` makes its cache for as many layers as T5's encoder has, and fails where the decoder has more.

    Args:
        modules: of the model before anything changed.
        places: all that changes in one call.
    """
    after: dict[tuple[int, str | None], Any] = {(id(owner), key): value for owner, key, value in places}
    generating = {name: module for name, module in modules.items() if is_config(vars(module).get("generation_config"))}
    found: dict[int, Place] = {}
    for name, module in generating.items():
        config: Any = getattr(module, "config", None)
        key = (getattr(config, "attribute_map", None) or {}).get("num_hidden_layers")
        count = after.get((id(vars(config)), key)) if is_config(config) else None
        if count is None:
            continue
        decoder = after.get((id(vars(config)), "num_decoder_layers"), vars(config).get("num_decoder_layers", 0))
        around = [vars(other.generation_config) for near, other in generating.items() if _is_around(near, f"{name}.")]
        new = [settings for settings in around if settings.get("use_cache") is not False and id(settings) not in found]
        if decoder > count and new:
            found |= {id(settings): (settings, "use_cache", False) for settings in new}
            warnings.warn(
                f"generate() makes its cache for {key} = {count} layers, and the decoder of {type(module).__name__} "
                f"has {decoder}, so use_cache is now False in its generation_config, which gives the same words, but "
                "slower; to use the cache, remove as many layers of the decoder in the same call",
                stacklevel=2,
            )
    return list(found.values())


def _is_around(name: str, other: str) -> bool:
    return other.startswith(f"{name}." if name else "")


def _taken(config: Any, part: str, length: int, kept: Sequence[int]) -> Iterator[tuple[str, Any, Any]]:
    """Entries beside the configuration of a list that say where its states are taken: (key, old, new)."""
    for key, value in vars(config).items():
        if "text" in part:
            require_unentered(key, value, length, kept)
        if not key.startswith("_") and is_taken(key, part):
            new = corrected(key, value, length, kept)
            if new != value:
                yield key, value, new


def _entries(config: Any, name: str, length: int, kept: Sequence[int]) -> Iterator[tuple[str, Any, Any]]:
    """Entries that describe the list: (key, old, new)."""
    counts = list(dict.fromkeys(_counts(config, name, length)))
    stages = vars(config).get("stage_names") or ()
    has_both = any(key in vars(config) for key in _DECODER_COUNTS)
    for key, value in vars(config).items():
        if key in counts:
            yield key, value, len(kept)
        elif has_both and ("decoder" in key) != ("decoder" in name):
            continue
        elif key == "stage_names" and len(stages) == length + 1:
            yield key, value, value[: len(kept) + 1]
        elif key == "_out_features" and value and len(stages) == length + 1:
            states = corrected("out_indices", [stages.index(stage) for stage in value], length, kept)
            if len(set(states)) < len(states):
                raise ValueError(
                    f"the configuration's 'out_features' are {list(value)}, of which two would be the same without "
                    "the layer between them; choose other layers, or other features first"
                )
            yield key, value, [stages[i] for i in states]
        elif key != "_out_indices" or len(stages) == length + 1:
            new = _corrected_inside(key, value, length, kept)
            if new != value:
                yield key, value, new


def _corrected_inside(key: str, value: Any, length: int, kept: Sequence[int]) -> Any:
    """As ``corrected``; of a dataclass, as transformers has one for ``per_layer_config``, the fields follow."""
    if is_config(value) or isinstance(value, type) or not is_dataclass(value):
        return corrected(key, value, length, kept)
    inside = {each.name: getattr(value, each.name) for each in fields(value) if each.init}
    settings: Any = value
    return replace(settings, **{name: corrected(name, each, length, kept) for name, each in inside.items()})

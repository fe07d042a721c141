"""Entries of a configuration that tell layers apart by their position, and what they say once layers are gone.

Names are those of the package transformers, which has dozens of each kind (``fullatt_block_indexes``,
``mlp_only_layers``, ``vision_feature_layer``, ``layer_types``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

_PER_LAYER = re.compile(r"layer|block|attention_types|_window$|intermediate_size|_pattern$|_modes$|_heads$")
_NOT_PER_LAYER = ("architectures", "stage_names", "id2label")
_POSITIONS = re.compile(r"(indices|indexes|idxs|layer_ids|layers|blocks)$")
_OF_A_KIND = re.compile(r"att|window|mlp|moe|dense|sparse|hybrid|mamba|rope|residual|^ple")
_TAKEN = re.compile(
    r"^(?!num_).*(out_indices|feature_layers?$|vision_layer|deepstack|extract_layers|intermediate_(layer|hidden)"
    r"|target_layer)"
)
_STATES = re.compile(r"^_?out_indices|feature_layers?$")
_ENTERED = re.compile(r"deepstack|target_layers")
_PARTS = ("text", "vision", "audio", "speech", "image", "video", "decoder", "encoder")


def is_taken(key: str, part: str) -> bool:
    """Whether the entry ``key`` says after which layers of the part ``part`` a model takes hidden states."""
    named = [each for each in _PARTS if each in key]
    fits = any(each in part for each in named) if named else not re.search("text|decoder", part)
    return fits and _TAKEN.search(key) is not None


def corrected(key: str, value: Any, length: int, kept: Sequence[int]) -> Any:
    """An entry of the configuration of a list of layers when only the positions ``kept`` stay.

    Args:
        key: name of the entry.
        value: what it says now; this very object comes back if it speaks of no layer.
        length: layers in the list.
        kept: positions that stay, ascending.

    Raises:
        ValueError: it names a layer that goes, and what it would then mean is not known.
    """
    if _TAKEN.search(key):
        return _positions_after(key, value, length, kept)
    if key.startswith("_") or key in _NOT_PER_LAYER:
        return value
    if isinstance(value, dict) and _PER_LAYER.search(key) and value and all(i in range(length) for i in value):
        return {kept.index(i): each for i, each in value.items() if i in kept}
    if key == "layers_to_transform":
        return _transformed(key, value, length, kept)
    if not isinstance(value, (list, tuple)) or not value:
        return value
    if key.endswith("source_layers") and len(value) == length:
        _require_known(key, [value[i] for i in kept], length, kept)
        return type(value)(kept.index(value[i]) for i in kept)
    if _POSITIONS.search(key) and "channel" not in key and _are_positions(value, length):
        if not _OF_A_KIND.search(key):
            _require_known(key, value, length, kept)
        return type(value)(kept.index(i) for i in value if i in kept)
    if _PER_LAYER.search(key) and len(value) == length:
        return type(value)(value[i] for i in kept)
    return value


def require_unentered(key: str, value: Any, length: int, kept: Sequence[int]) -> None:
    """Refuse if a layer goes at or before which states of another part of the model enter those of a text model.

    Raises:
        ValueError: the entry ``key`` says where they enter, as positions in the list or as their number.
    """
    if not _ENTERED.search(key) or not isinstance(value, (list, tuple)) or not value:
        return
    layers: Sequence[int] = [each[-1] for each in value if isinstance(each, (list, tuple)) and each]
    if not layers:
        layers = range(len(value)) if "deepstack" in key else value
    _require_known(key, range(max(layers) + 1), length, kept)


def _transformed(key: str, value: Any, length: int, kept: Sequence[int]) -> Any:
    """Positions, or the one, that an adapter is in; no position at all would mean all layers."""
    before = value if isinstance(value, (list, tuple)) else [value]
    if not before or not all(type(i) is int for i in before):
        return value
    after = [kept.index(i) if i < length else i for i in before if i in kept or i >= length]
    if not after:
        _require_known(key, before, length, kept)
    return type(value)(after) if isinstance(value, (list, tuple)) else after[0]


def _are_positions(value: Sequence[Any], length: int) -> bool:
    """Positions of layers, as in ``moe_layers = [1, 3]``, and not one number a layer."""
    integers = all(type(i) is int and 0 <= i < length for i in value)
    return integers and list(value) == sorted(set(value))


def _positions_after(key: str, value: Any, length: int, kept: Sequence[int]) -> Any:
    """Positions in the states of a model, of which there is one more than layers; negative ones count from the end.

    Whether the embedding is state 0 or none only matters where a layer goes that is named itself.
    """
    if isinstance(value, (list, tuple)):
        if not all(type(i) is int and -length <= i + 1 <= length + 1 for i in value):
            return value
        return type(value)(_positions_after(key, i, length, kept) for i in value)
    if type(value) is not int or not -length <= value + 1 <= length + 1:
        return value
    if not _STATES.search(key):
        _require_known(key, [value], length, kept)
    state = value if value >= 0 else length + 1 + value
    moved = sum(i < state for i in kept)
    return moved if value >= 0 else moved - len(kept) - 1


def _require_known(key: str, value: Iterable[int], length: int, kept: Sequence[int]) -> None:
    gone = [i for i in value if 0 <= i < length and i not in kept]
    if gone:
        raise ValueError(
            f"the configuration's {key!r} speaks of layer {gone[0]}, which is to be removed, and what it should say "
            "then is not known; choose other layers, or change that entry and the model first"
        )

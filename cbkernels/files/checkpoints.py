"""Checkpoints: one safetensors file, all that is not a tensor as JSON in its header. Never a pickle.

``pack`` and ``unpack`` take any nest of dicts and lists, such as an optimizer's ``state_dict()``. The file is
written aside and renamed: after a kill the old one or the new one is there, whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .tensor_files import require_safetensors
from .whole_files import write_whole

_KIND = "cbkernels checkpoint 1"


def pack(content: Any, tensors: dict[str, torch.Tensor], prefix: str = "") -> Any:
    """Replace tensors in a nest of dicts, lists and tuples by their names.

    Args:
        content: dicts (keys: strings, numbers), lists, tuples, tensors, strings, numbers, booleans, None.
        tensors: gets the tensors, under names that begin with ``prefix``.

    Returns:
        JSON types; ``unpack`` makes the content of it again (tuples become lists).

    Raises:
        TypeError: something else is inside.
    """
    if isinstance(content, torch.Tensor):
        name = f"{prefix}{len(tensors)}"
        # cloned: parameters can share memory, which the file format refuses
        tensors[name] = content.detach().cpu().clone().contiguous()
        return {"tensor": name}
    if isinstance(content, Mapping):
        return {"dict": [[_plain(key), pack(value, tensors, prefix)] for key, value in content.items()]}
    if isinstance(content, (list, tuple)):
        return {"list": [pack(value, tensors, prefix) for value in content]}
    return _plain(content)


def unpack(packed: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """What ``pack`` was given.

    Raises:
        ValueError: it was not made by ``pack``, or a tensor is missing.
    """
    if not isinstance(packed, dict):
        return packed
    kind, inside = next(iter(packed.items()), (None, None))
    if kind == "tensor" and isinstance(inside, str) and inside in tensors:
        return tensors[inside]
    if kind == "dict" and isinstance(inside, list):
        return {key: unpack(value, tensors) for key, value in inside}
    if kind == "list" and isinstance(inside, list):
        return [unpack(value, tensors) for value in inside]
    raise ValueError(f"{str(packed)[:80]!r} is not part of a checkpoint")


def save_checkpoint(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write a nest of dicts, lists and tensors.

    Raises:
        OSError: it cannot be written; an older file of that name is then unchanged.
        TypeError: see ``pack``.
        ImportError: safetensors is missing.
    """
    require_safetensors("a checkpoint")
    from safetensors.torch import save

    tensors: dict[str, torch.Tensor] = {}
    packed = pack(content, tensors)
    # as bytes: the library's own writing to a file leaves another temporary file after a kill, and is for its user only
    write_whole(path, save(tensors, metadata={"kind": _KIND, "content": json.dumps(packed)}))


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What ``save_checkpoint`` wrote, on the CPU. Nothing in the file is ever executed.

    Raises:
        FileNotFoundError: there is none.
        ValueError: damaged, or not a checkpoint of this package.
        ImportError: safetensors is missing.
    """
    require_safetensors("a checkpoint")
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist; there is no checkpoint to go on from")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or not a safetensors file ({error}); nothing was loaded") from error
    if metadata.get("kind") != _KIND:
        raise ValueError(f"{path} is not a checkpoint of this version ({metadata.get('kind')!r}); nothing was loaded")
    try:
        content = unpack(json.loads(metadata["content"]), tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); nothing was loaded") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (no table of contents); nothing was loaded")
    return content


def _plain(value: Any) -> Any:
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise TypeError(
            f"{value!r} ({type(value).__name__}) cannot be in a checkpoint; only tensors and JSON types can"
        )
    return value

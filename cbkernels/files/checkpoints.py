"""Checkpoints: one safetensors file, all that is not a tensor as JSON in its header. Never a pickle.

``pack`` and ``unpack`` take any nest of dicts and lists, such as an optimizer's ``state_dict()``. The file is
written aside and renamed: after a kill the old one or the new one is there, whole. It is read once, so it cannot
change meanwhile, and holds a checksum of all that it says.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .json_files import json_object, json_value
from .tensor_files import require_safetensors
from .whole_files import write_whole

_INSTEAD = "bring back a copy of it or train again; nothing was loaded"
_KIND, _WITHOUT_SUM = "cbkernels checkpoint 2", "cbkernels checkpoint 1"


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
        ValueError: nested too deeply, or a number that no float can be.
        ImportError: safetensors is missing.
    """
    require_safetensors("a checkpoint")
    from safetensors.torch import save

    tensors: dict[str, torch.Tensor] = {}
    packed = json.dumps(pack(content, tensors))
    json_value(packed, "a checkpoint of this", finite=False)  # what cannot be read is not written
    metadata = {"kind": _KIND, "content": packed, "sha256": _sum_of(packed, tensors)}
    # as bytes: the library's own writing to a file leaves another temporary file after a kill, and is for its user only
    write_whole(path, save(tensors, metadata=metadata))


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What ``save_checkpoint`` wrote, on the CPU. Nothing in the file is ever executed.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
        ValueError: damaged, or not a checkpoint of this package.
        ImportError: safetensors is missing.
    """
    require_safetensors("a checkpoint")
    from safetensors import SafetensorError
    from safetensors.torch import load

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist; there is no checkpoint to go on from")
    raw = Path(path).read_bytes()
    try:
        tensors = load(raw)
        metadata = json_object(raw[8 : 8 + struct.unpack_from("<Q", raw)[0]], "its header").get("__metadata__") or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged or not a safetensors file ({error}); {_INSTEAD}") from error
    kind, packed = metadata.get("kind"), metadata.get("content", "")
    if kind not in (_KIND, _WITHOUT_SUM):
        raise ValueError(f"{path} is not a checkpoint of this version ({kind!r}); {_INSTEAD}")
    try:
        if (kind == _KIND or "sha256" in metadata) and metadata.get("sha256") != _sum_of(packed, tensors):
            raise ValueError("its checksum is that of another content")
        content = unpack(json_value(packed, "its table of contents", finite=False), tensors)
        if not isinstance(content, dict):
            raise ValueError("no table of contents")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); {_INSTEAD}") from error
    return content


def _sum_of(packed: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """The checksum of a table of contents and of names, types, shapes and values of tensors."""
    digest = hashlib.sha256(packed.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise TypeError(
            f"{value!r} ({type(value).__name__}) cannot be in a checkpoint; only tensors and JSON types can"
        )
    return value

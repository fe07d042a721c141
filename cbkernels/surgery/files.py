"""A cut model in two files, ``model.safetensors`` and ``surgery.json``, that apply to a fresh model of its class.

Nothing in them is ever executed, and a file that is damaged or of another model is one clear error. Both are
written aside and renamed; the JSON file holds the weights' checksum, so a torn pair is told.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..files.folder_lock import held
from ..files.folders import make_folder, output_path
from ..files.json_files import json_text, json_value
from ..files.tensor_files import require_safetensors
from ..files.whole_files import sha256_of, write_whole, written_aside
from ..models.block_kinds import find_layer_stacks
from .cut_blocks import class_name
from .plan import RemovedBlock
from .record import RECORD, described, record_of

WEIGHTS, STEPS = "model.safetensors", "surgery.json"
_FORMAT, _VERSION = "cbkernels surgery", 1
_MOST_WAIT_S = 120.0
"""For another process, such as another rank, that saves into the same folder."""


def save_cut_model(folder: str | os.PathLike[str], model: nn.Module, removed: list[str]) -> None:
    """See ``Surgery.save``.

    Args:
        folder: made if it is missing.
        model: unwrapped.
        removed: what a surgery removed from it.
    """
    require_safetensors("a file of a surgery")
    if removed and RECORD not in vars(model):
        raise ValueError(
            f"the model ({type(model).__name__}) was not cut, but the surgery removed {removed}; "
            "pass the model that remove_layers returned, or a copy of it"
        )
    tensors, aliases = _distinct(model)
    is_sharded = any(map(_is_shard, model.state_dict().values()))
    try:
        if not is_sharded or torch.distributed.get_rank() == 0:
            _write(output_path(folder), model, tensors, aliases)
    finally:
        if is_sharded:
            torch.distributed.barrier()


def _write(target: Path, model: nn.Module, tensors: dict[str, torch.Tensor], aliases: dict[str, str]) -> None:
    safetensors = require_safetensors("a file of a surgery")
    if (target / STEPS).exists():
        try:
            _read(target / STEPS)
        except ValueError as error:
            raise ValueError(f"{error}; move it away or name another folder") from error
    elif os.path.lexists(target / WEIGHTS):
        raise ValueError(f"{target / WEIGHTS} was not written by Surgery.save; move it away or name another folder")
    make_folder(target)
    with held(target, wait_s=_MOST_WAIT_S), written_aside(target / WEIGHTS) as aside:
        try:
            safetensors.torch.save_file(tensors, str(aside), metadata={"format": "pt"})
        except (TypeError, ValueError, KeyError, RuntimeError) as error:
            raise ValueError(f"safetensors cannot store the model's weights: {error}") from error
        content = {
            "format": _FORMAT, "version": _VERSION, "model": class_name(model),
            **record_of(model), "aliases": aliases, "weights_sha256": sha256_of(aside),
        }  # fmt: skip
        # before the weights: those alone, after a kill, would be taken for somebody else's
        write_whole(target / STEPS, json_text(content).encode())


@dataclass(frozen=True)
class SavedSurgery:
    """The content of both files, found to belong to a fresh model."""

    folder: Path
    operations: list[list[RemovedBlock]]
    """One after the other, names as the ones before left them."""
    tensors: dict[str, torch.Tensor]
    """The weights under all their names; memory maps, on the CPU."""

    def verified(self, model: nn.Module) -> Iterator[list[RemovedBlock]]:
        """Operations, each checked against the model as the ones before left it."""
        for steps in self.operations:
            _require_applicable(self.folder / STEPS, model, steps)
            yield steps

    def fill(self, model: nn.Module) -> None:
        """Load the weights into the cut model.

        Raises:
            ValueError: they are of another shape or type; nothing is loaded then.
        """
        state = model.state_dict()
        here, saved = described(state), described(self.tensors)
        for name in [*here, *saved]:
            if here.get(name) != saved.get(name):
                raise ValueError(
                    f"{self.folder / WEIGHTS} holds {name!r} as {_told(saved.get(name))}, and the cut model as "
                    f"{_told(here.get(name))}; build the model with the settings and the type it had"
                )
        model.load_state_dict({name: _placed_as(state[name], tensor) for name, tensor in self.tensors.items()})


def _placed_as(here: torch.Tensor, saved: torch.Tensor) -> torch.Tensor:
    """The values for a tensor of the model: whole, or this process's part of them."""
    if not _is_shard(here):
        return saved
    from torch.distributed.tensor import distribute_tensor

    place: Any = here
    return distribute_tensor(saved.to(here.device), place.device_mesh, place.placements, src_data_rank=None)


def read_cut_model(folder: str | os.PathLike[str], model: nn.Module) -> SavedSurgery:
    """Read what ``save_cut_model`` wrote.

    Args:
        folder: of both files.
        model: unwrapped, as the saved one was before its first surgery; stays as it is.

    Raises:
        ValueError, ImportError: see ``Surgery.load``.
    """
    require_safetensors("a file of a surgery")
    path = Path(folder) / STEPS
    content = _read(path)
    operations = [[_step(path, step) for step in steps] for steps in content["operations"]]
    _require_same(path, model, content)
    return SavedSurgery(Path(folder), operations, _read_tensors(Path(folder) / WEIGHTS, content))


def _distinct(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors of the ``state_dict``, each once and whole, and alias -> name for those that are one tensor."""
    tensors: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    known: dict[Any, str] = {}
    storages: set[int] = set()
    owners = {name: id(p) for name, p in model.named_parameters(remove_duplicate=False)}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(f"the model's state holds {name!r}, a {type(tensor).__name__}; only tensors can be saved")
        if tensor.is_meta:
            raise ValueError(f"{name!r} is on the meta device and has no values; load the model's weights, then save")
        try:
            place: Any = owners.get(name, name)  # a shard has no memory of its own, and on some processes no values
            if not _is_shard(tensor):
                tensor.untyped_storage().data_ptr()  # raises for classes that keep their values elsewhere
                place = (tensor.data_ptr(), tensor.device, tensor.dtype, tuple(tensor.shape), tensor.stride())
        except (RuntimeError, ValueError) as error:
            kind = f"{type(tensor).__name__} of layout {tensor.layout}"
            raise ValueError(f"{name!r} is a {kind}, whose values safetensors cannot store") from error
        if tensor.numel() and place in known:
            aliases[name] = known[place]
            continue
        known[place] = name
        whole: Any = tensor
        whole = whole.full_tensor() if _is_shard(tensor) else tensor
        storage = whole.untyped_storage().data_ptr()
        is_view = storage in storages or not whole.is_contiguous()
        storages.add(storage)
        tensors[name] = whole.clone(memory_format=torch.contiguous_format) if is_view else whole
    return tensors, aliases


def _is_shard(tensor: object) -> bool:
    """Whether it is a process's part of a tensor, a ``DTensor`` as ``fully_shard`` makes parameters."""
    return hasattr(tensor, "full_tensor")


def _read(path: Path) -> dict[str, Any]:
    """The checked content of ``surgery.json``."""
    try:
        content = json_value(path.read_bytes(), path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); pass a folder that Surgery.save wrote") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"{path} was not written by Surgery.save: its format is not {_FORMAT!r}")
    if content.get("version") != _VERSION:
        raise ValueError(
            f"{path} has version {content.get('version')!r} and this cbkernels reads {_VERSION}; install a newer one"
        )
    kinds = {"model": str, "before": dict, "operations": list, "aliases": dict, "weights_sha256": str}
    for key, kind in kinds.items():
        if not isinstance(content.get(key), kind):
            raise ValueError(f"{path} is damaged: its entry {key!r} is {content.get(key)!r:.60}")
    tensors = content["before"].values()
    if not all(isinstance(t, list) and len(t) == 2 and isinstance(t[1], list) for t in tensors):
        raise ValueError(f"{path} is damaged: its tensors have no types and shapes")
    if not all(isinstance(steps, list) for steps in content["operations"]):
        raise ValueError(f"{path} is damaged: its operations are not lists of steps")
    if not all(isinstance(part, str) for pair in content["aliases"].items() for part in pair):
        raise ValueError(f"{path} is damaged: its aliases are not names")
    return content


def _step(path: Path, step: object) -> RemovedBlock:
    """One step of the file, its types checked."""
    names = ("name", "kind", "class_name", "remains", "shortcut", "activation", "returns")
    if not isinstance(step, dict) or set(step) != set(names):
        raise ValueError(f"{path} is damaged: {step!r:.80} is no step")
    texts = all(isinstance(step[key], str) for key in ("name", "kind", "class_name"))
    parts = all(step[key] is None or isinstance(step[key], str) for key in ("shortcut", "activation"))
    if not texts or not parts or step["remains"] not in ("nothing", "shortcut") or not _is_structure(step["returns"]):
        raise ValueError(f"{path} is damaged: the step {step!r:.200} cannot be taken")
    return RemovedBlock(**step)


def _is_structure(returns: Any) -> bool:
    if returns == "tensor":
        return True
    if not isinstance(returns, list) or len(returns) != 2:
        return False
    kind, shape = returns
    if kind == "dict":
        return isinstance(shape, list) and all(isinstance(key, str) for key in shape)
    return kind in ("tuple", "list") and type(shape) is int and 1 <= shape <= 1000


def _require_same(path: Path, model: nn.Module, content: dict[str, Any]) -> None:
    """Refuse a model that is not as the saved one was before its first surgery."""
    if content["model"] != class_name(model):
        raise ValueError(f"{path} is of a {content['model']}, and the model is a {class_name(model)}")
    state = model.state_dict()
    expected, here = content["before"], described(state)
    without = next((name for name, tensor in state.items() if getattr(tensor, "is_meta", False)), None)
    if without is not None:
        raise ValueError(
            f"{without!r} is on the meta device, where nothing can be loaded; give the model memory first, with "
            "to_empty(device=...)"
        )
    if RECORD in vars(model):
        raise ValueError(
            f"{path} applies to a fresh {type(model).__name__}, and this one was cut already; make a new one"
        )
    for name in [*here, *expected]:
        mine, theirs = here.get(name), expected.get(name)
        if mine is None or theirs is None or mine[1] != theirs[1]:  # the type may have changed since
            raise ValueError(
                f"{path} is of another {type(model).__name__}: before its surgery {name!r} was {_told(theirs)}, "
                f"and here it is {_told(mine)}; build the model with the settings it had at first"
            )


def _told(described: Any) -> str:
    if isinstance(described, list) and len(described) == 2:
        return f"{described[0]} {described[1]}"
    return "missing" if described is None else repr(described)


def _require_applicable(path: Path, model: nn.Module, steps: list[RemovedBlock]) -> None:
    """Refuse steps that the model, as it is now, has no place for."""
    modules = dict(model.named_modules(remove_duplicate=False))
    stacks = find_layer_stacks(model)
    items = {name for stack in stacks for name in stack.item_names()}
    for step in steps:
        block = modules.get(step.name)
        if not step.name or block is None:
            raise ValueError(f"{path} removes {step.name!r}, and the model has no such module")
        here = class_name(block)
        if here != step.class_name:
            raise ValueError(f"{path} removes {step.name!r}, a {step.class_name}, and the model has a {here} there")
        parts = [part for part in (step.shortcut, step.activation) if part not in (None, "relu")]
        absent = [part for part in parts if not part or "." in part or part not in block._modules]
        if absent or (step.remains == "nothing") != (step.name in items):
            raise ValueError(f"{path} cannot be applied: {step.name!r} is built in another way in this model")
    deleted = {step.name for step in steps if step.remains == "nothing"}
    if any(set(stack.item_names()) <= deleted for stack in stacks):
        raise ValueError(f"{path} is damaged: it removes all layers of a list")


def _read_tensors(path: Path, content: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights under all their names; memory maps, on the CPU."""
    safetensors = require_safetensors("a file of a surgery")
    try:
        if sha256_of(path) != content["weights_sha256"]:
            raise ValueError(
                f"{path} is damaged, or belongs to another {STEPS}: its checksum differs from the one there"
            )
        tensors: dict[str, torch.Tensor] = safetensors.torch.load_file(str(path))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); pass a folder that Surgery.save wrote") from error
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from error
    for alias, name in content["aliases"].items():
        if name not in tensors or alias in tensors:
            raise ValueError(f"{path} does not fit {STEPS} beside it: {alias!r} stands for {name!r} there")
        tensors[alias] = tensors[name]
    return tensors

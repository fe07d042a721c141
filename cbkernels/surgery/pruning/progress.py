"""A folder from which a killed pruning goes on: what was tried, and the weights as the last kept step left them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..._version import __version__
from ...files.checkpoints import load_checkpoint, save_checkpoint
from ...files.folders import sweep
from ...files.json_files import json_text, read_json_object
from ...files.whole_files import sha256_of, write_whole
from .prune_log import PruneLog

LOG = "pruning.json"


class Progress:
    """Writes weights first and then the log that names them, so that a kill leaves a pair that belongs together.

    Args:
        folder: is there, and its lock is held; None: nothing is written.
        model: unwrapped, as it is before the first removal.
        options: JSON types; an earlier pruning must have had the same ones.
        resume: go on where an earlier pruning in the folder was stopped, if there is one.

    Raises:
        ValueError: the folder holds a pruning and ``resume`` is False, one of another model or of other options, or
            files that are no pruning's.
        OSError: it cannot be read or written.
    """

    log: PruneLog | None = None
    """Of the earlier pruning."""

    def __init__(
        self, folder: str | os.PathLike[str] | None, model: nn.Module, options: dict[str, Any], resume: bool
    ) -> None:
        self._folder = None if folder is None else Path(folder)
        self._of = {**options, "version": __version__}
        self._operations: list[list[str]] = []
        self._weights: str | None = None
        self._sum: str | None = None
        if self._folder is None:
            return
        self._of["weights"] = checksum(model.state_dict())
        path = self._folder / LOG
        if path.exists():
            if not resume:
                raise ValueError(f"{path} exists already; pass resume=True to go on, or another folder")
            self._read(path)
        else:
            theirs = next(self._folder.glob(_weights_of("[0-9]*")), None)
            if theirs is not None:
                raise ValueError(f"{theirs} is there and no {LOG} to go with it; move it away or name another folder")
        sweep(self._folder, (LOG, _weights_of("*")))

    @property
    def operations(self) -> list[list[str]]:
        """Names of the blocks of every kept step, as the steps before left them."""
        return [list(names) for names in self._operations]

    def kept(self, names: list[str], weights: dict[str, Any] | None) -> None:
        """A step that stays; ``write`` has to follow.

        Args:
            names: of its blocks, as they were in the model then.
            weights: what healing changed: tensors and JSON types; None where nothing heals.
        """
        self._operations.append(names)
        if self._folder is not None and weights is not None:
            self._weights = _weights_of(len(self._operations))
            save_checkpoint(self._folder / self._weights, weights)
            self._sum = sha256_of(self._folder / self._weights)

    def write(self, log: PruneLog) -> None:
        """Write the log; weights of earlier steps are deleted."""
        if self._folder is None:
            return
        content = {
            "of": self._of, "operations": self._operations, "weights": self._weights, "weights_sha256": self._sum,
            "log": log.to_dict(),
        }  # fmt: skip
        write_whole(self._folder / LOG, json_text(content).encode())
        for earlier in map(_weights_of, range(1, len(self._operations) + 1)):
            if earlier != self._weights:
                (self._folder / earlier).unlink(missing_ok=True)

    def weights(self) -> dict[str, Any] | None:
        """What the last kept step gave to ``kept``.

        Raises:
            FileNotFoundError, ValueError: the file is missing or damaged.
        """
        if self._folder is None or self._weights is None:
            return None
        path = self._folder / self._weights
        if path.is_file() and sha256_of(path) != self._sum:
            raise ValueError(f"{path} is damaged: its checksum is not the one in {LOG}; start again in another folder")
        return load_checkpoint(path)

    def _read(self, path: Path) -> None:
        content = read_json_object(path)
        try:
            of, log = content["of"], PruneLog.from_dict(content["log"])
            self._operations = [[str(name) for name in names] for names in content["operations"]]
            self._weights = None if content["weights"] is None else Path(content["weights"]).name
            self._sum = content["weights_sha256"]
            if not log.steps or not isinstance(log.steps[0].accuracy_healed, float):
                raise ValueError("the first step, the model as it was, is missing")
            kept = [len(step.blocks) for step in log.steps[1:] if step.kept]
            if kept != list(map(len, self._operations)) or (self._weights is None) != (not (kept and of["heals"])):
                raise ValueError("its operations and weights are not those of the steps that were kept")
            differs = next((key for key in self._of if of.get(key) != self._of[key]), None)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}); start again in another folder") from error
        if differs is not None:
            known = differs in of
            had = f"with {differs} {of[differs]!r:.80}" if known else f"by an older cbkernels, without {differs}"
            has = f"{self._of[differs]!r:.80}"
            raise ValueError(f"{path} is of a pruning {had}, and this one has {has}; start again in another folder")
        self.log = log


def _weights_of(operation: int | str) -> str:
    """The file of the weights after so many kept steps."""
    return f"weights-{operation}.safetensors"


def checksum(tensors: Mapping[str, Any]) -> str:
    """Of all names and values of a ``state_dict`` or another mapping to tensors."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(name.encode())
        if isinstance(tensor, torch.Tensor):
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

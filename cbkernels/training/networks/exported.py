"""A cut network in a folder that a fresh process can rebuild: what it was, how it was cut, its weights. No pickle.

``network.json`` says how to build the network as it was; ``surgery.json`` and ``model.safetensors`` are ``Surgery``'s.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..._version import __version__
from ...files.json_files import json_value, require_seal, sealed
from ...runs.folder import RunFolder
from ...surgery.surgery import Surgery
from ..trained_run import TrainedRun
from .architecture import Architecture
from .build import build_network

FILE = "network.json"
_FORMAT = "cbkernels network 1"


def export_network(folder: str | os.PathLike[str], run: TrainedRun, surgery: Surgery) -> None:
    """Write the run's model, which ``surgery`` cut.

    Args:
        folder: made if it is missing.
        run: its architecture is that before the surgery.
        surgery: of its model.

    Raises:
        OSError: it cannot be written.
        ImportError: safetensors is missing.
    """
    content = {
        "format": _FORMAT, "version": __version__, "architecture": run.architecture.to_dict(),
        "image_shape": list(run.data.image_shape), "num_classes": run.data.num_classes,
        "class_names": None if run.data.class_names is None else list(run.data.class_names),
        "preparation": run.preparation.name, "removed": list(surgery.removed),
    }  # fmt: skip
    RunFolder(folder).write_json(FILE, sealed(content))
    surgery.save(folder, run.model)


def load_exported(folder: str | os.PathLike[str], device: str | torch.device = "cpu") -> nn.Module:
    """Rebuild an exported network; nothing in the files is ever executed.

    Args:
        folder: ``model`` in the folder of a removal.
        device: where the network goes.

    Returns:
        The cut network in evaluation mode. It takes (N, C, H, W) float32 images, prepared as ``network.json`` says.

    Raises:
        ValueError: one sentence that names the file that is missing, damaged or of another network.
        ImportError: safetensors is missing.
    """
    path = Path(folder) / FILE
    content = _read(path)
    try:
        model: nn.Module = build_network(
            Architecture.from_dict(content["architecture"]), tuple(content["image_shape"]), content["num_classes"],
            generator=torch.Generator(),
        )  # fmt: skip
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    Surgery.load(folder, model)
    return model.to(device).eval()


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json_value(path.read_bytes(), path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); pass the folder 'model' of a removal") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"{path} is no network of this version: its format is not {_FORMAT!r}")
    require_seal(content, path)
    kinds = {"architecture": dict, "image_shape": list, "num_classes": int}
    for key, kind in kinds.items():
        if not isinstance(content.get(key), kind):
            raise ValueError(f"{path} is damaged: its entry {key!r} is {content.get(key)!r:.60}")
    return content

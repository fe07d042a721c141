"""Where the libraries of the zoo come from: the environment, or ``build/zoo``, which ``make zoo`` fills.

There they lie without what they ask for: their wheels would bring another torch. torchvision's compiled part, made for
that torch, is then not loaded; two operators that its Python part registers shapes for are declared instead.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parents[3] / "build" / "zoo"
LIBRARIES = {
    "by hand": "torch", "transformers": "transformers", "torchvision": "torchvision", "timm": "timm",
    "vit-pytorch": "vit_pytorch", "diffusers": "diffusers", "PEFT": "peft",
}  # fmt: skip
"""What a reader calls it -> the package."""
_UNBACKED = ("nms", "qnms")
_kept: list[torch.library.Library] = []


@cache
def missing(library: str) -> str | None:
    """Why the models of a library cannot be built here; None when they can."""
    package = LIBRARIES[library]
    _bring_folder()
    try:
        importlib.import_module(package)
    except Exception as error:  # a library for another torch raises anything
        return f"{library}: NOT TESTED HERE ({type(error).__name__}: {str(error).splitlines()[0][:90]}); see make zoo"
    return None


@cache
def _bring_folder() -> None:
    if not FOLDER.is_dir():
        return
    sys.path.append(str(FOLDER))
    importlib.invalidate_caches()
    found = importlib.util.find_spec("torchvision")
    if found is not None and found.origin is not None and FOLDER in Path(found.origin).parents:
        declared = torch.library.Library("torchvision", "FRAGMENT")
        for name in _UNBACKED:
            declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(declared)

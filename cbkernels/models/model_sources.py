"""Models by name, for the command line: a function of a module, a folder of Hugging Face's, a model of torchvision.

Only the function that the user names and installed packages are run, never code that lies beside weights.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..choices import Choice, Choices
from ..lazy import require_package


@dataclass(frozen=True)
class ModelSource(Choice):
    """Where models are from: the word before the colon in ``hf:PATH``.

    Args:
        build: (what stands behind the colon) -> the model.
        shape: of a sample, where it is the same for all of its models.
    """

    build: Callable[[str], object]
    shape: tuple[int, ...] | None = None


def _of_folder(path: str) -> object:
    """With the folder's weights where it holds .safetensors, else with new ones; no code of the folder is run."""
    transformers: Any = require_package("transformers", "hf:PATH")
    if not Path(path, "config.json").is_file():
        raise ValueError(f"{path} has no config.json; name a local folder of a Hugging Face model")
    config = transformers.AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    kind = getattr(transformers, (getattr(config, "architectures", None) or [""])[0], transformers.AutoModel)
    if any(Path(path).glob("*.safetensors")):
        return kind.from_pretrained(path, local_files_only=True, use_safetensors=True)
    return transformers.AutoModel.from_config(config) if kind is transformers.AutoModel else kind(config)


def _of_torchvision(name: str) -> object:
    models: Any = require_package("torchvision", "torchvision:NAME").models
    return models.get_model(name, weights=None)


SOURCES = Choices("model", [
    ModelSource("hf", "a local folder of a Hugging Face model", _of_folder),
    ModelSource("torchvision", "a model of torchvision, where it is installed", _of_torchvision, (3, 224, 224)),
])  # fmt: skip


def _of_function(module: str, function: str) -> object:
    """What a function (or class) returns without arguments; or a model that the module holds."""
    here = os.getcwd()
    if here not in sys.path:  # as python -m has it
        sys.path.insert(0, here)
    found: Any = importlib.import_module(module)
    for part in function.split("."):
        found = getattr(found, part)
    return found if isinstance(found, nn.Module) else found()


def model_named(name: str, *, seed: int = 0) -> nn.Module:
    """Make a model.

    Args:
        name: ``module:function``, ``hf:PATH`` or ``torchvision:NAME``.
        seed: of the random numbers of torch, from which weights are drawn.

    Raises:
        ValueError: the name is none of these, or what makes the model failed.
        TypeError: it made something else than a ``torch.nn.Module``.
        ImportError: a package is missing.
    """
    where, _, which = name.partition(":")
    if not where or not which:
        raise ValueError(f"MODEL is {name!r}; write module:function, hf:PATH or torchvision:NAME")
    torch.manual_seed(seed)
    try:
        model = SOURCES[where].build(which) if where in SOURCES else _of_function(where, which)
    except Exception as error:
        if where in SOURCES and isinstance(error, ModuleNotFoundError):
            raise
        told = " ".join(str(error).split())
        raise ValueError(f"{name} made no model: {type(error).__name__}: {told}") from error
    if not isinstance(model, nn.Module):
        raise TypeError(f"{name} made a {type(model).__name__}; it must be a torch.nn.Module")
    return model


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Put the weights of a file into a model, all of them or none.

    Args:
        model: changed in place.
        path: ``.safetensors``, or what ``torch.save`` wrote of tensors alone: a state dict, or a dict with one in it.

    Raises:
        OSError: the file is missing.
        ValueError: it is damaged, would execute something, or its weights are not those of the model.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is no file; name one of weights")
    try:
        if Path(path).suffix == ".safetensors":
            weights: Any = require_package("safetensors.torch", "a .safetensors file").load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise
    except Exception as error:
        told = str(error).partition("\n")[0]
        raise ValueError(f"{path} is damaged, or holds more than tensors, which is never executed: {told}") from error
    inner = (weights.get(key) for key in ("state_dict", "model_state_dict", "model")) if _is_dict(weights) else ()
    weights = next(filter(_is_dict, inner), weights)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    given = {name: tuple(getattr(t, "shape", ())) for name, t in weights.items()} if _is_dict(weights) else {}
    for name in [*expected, *given]:
        if expected.get(name) != given.get(name):
            here, there = (str(shapes.get(name, "missing")) for shapes in (given, expected))
            raise ValueError(f"{path} is not of this model: {name!r} is {here} in the file and {there} in the model")
    model.load_state_dict(weights)


def _is_dict(x: object) -> bool:
    return isinstance(x, Mapping)

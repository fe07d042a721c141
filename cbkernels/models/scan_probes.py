"""Probe batches of the command line: arrays of a file, or a batch that is made up, and words for both.

Without labels every sample is a class of its own: any two samples that a layer makes equal are then a conflict.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..files.array_files import open_arrays
from .model_sources import SOURCES

LABELS = ("labels", "label", "y")
OWN_CLASSES = "without labels, so that every sample is a class of its own"
TOKENS = 32
"""Length of a made-up sequence where nobody says."""
Probe = tuple[tuple[Any, torch.Tensor], str]
"""What ``LayerMonitor`` takes, and what it is in words."""


def probe_of_file(path: str) -> Probe:
    """Every array but the labels goes into the model: one as it is, several by their names.

    Raises:
        OSError, ValueError: as ``open_arrays``; or there is no array of samples.
    """
    arrays = {each.name: each.read() for each in open_arrays(path)}
    labels = next((arrays.pop(name) for name in LABELS if name in arrays), None)
    if not arrays:
        raise ValueError(f"{path} holds no samples beside the labels; save them as x")
    inputs = {name: _as_tensor(array) for name, array in arrays.items()}
    first = next(iter(inputs.values()))
    x = first if len(inputs) == 1 else inputs
    told = f"{len(first)} samples of {path}"
    if labels is None:
        return (x, torch.arange(len(first))), f"{told}, {OWN_CLASSES}"
    return (x, labels), told


def made_up_probe(
    model: nn.Module, name: str, shape: Sequence[int] | None, tokens: int | None, samples: int, seed: int
) -> Probe:
    """Random numbers in the shape of a sample; of Hugging Face's models by what their config says.

    Args:
        model: that will take it.
        name: as in ``model_named``.
        shape: of a sample; None: what is known of the model.
        tokens: whole numbers below this one instead of normal numbers; None: what is known of the model.
        samples: how many.
        seed: of the numbers.

    Raises:
        ValueError: nothing is known of the model.
    """
    config: Any = getattr(model, "config", None)
    source = SOURCES.get(name.partition(":")[0])
    takes = getattr(model, "main_input_name", None) if config is not None else None
    if takes == "input_ids":
        shape, tokens = shape or (TOKENS,), tokens or config.vocab_size
    elif takes == "pixel_values" and shape is None:
        side = config.image_size
        shape = (config.num_channels, *(side if isinstance(side, (list, tuple)) else (side, side)))
    shape = shape or (source.shape if source is not None else None)
    if shape is None:
        raise ValueError(
            f"nothing is known of the samples of {name}; pass --shape, such as --shape 3 224 224, or --probe"
        )
    generator, size = torch.Generator().manual_seed(seed), (samples, *shape)
    if tokens is None:
        x, what = torch.randn(size, generator=generator), "normal numbers"
    else:
        x, what = torch.randint(tokens, size, generator=generator), f"whole numbers below {tokens}"
    told = f"a made-up batch of {samples} samples of shape {' x '.join(map(str, shape))} ({what}, seed {seed})"
    return ({takes: x} if takes else x, torch.arange(samples)), f"{told}, {OWN_CLASSES}"


def _as_tensor(array: Any) -> torch.Tensor:
    return array if isinstance(array, torch.Tensor) else torch.from_numpy(np.array(array))

"""How an entry of the package transformers is written: a class, sizes, an input, and the names of its blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from .entries import Entry

Example = Callable[[], dict[str, torch.Tensor]]
Sizes = Mapping[str, Any] | Callable[[], Any]
"""Entries of the configuration, or a function that makes it."""


def hugging_face(
    model: str, sizes: Sizes, example: Example, blocks: Mapping[str, str] | None = None, **more: Any
) -> Entry:
    """An entry called like the class, or ``name=``."""
    return Entry(more.pop("name", model), "transformers", partial(_built, model, sizes, example), blocks or {}, **more)


def _built(kind: str, sizes: Sizes, example: Example) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    import transformers

    of_class = getattr(transformers, kind)
    model = of_class(sizes() if callable(sizes) else of_class.config_class(**sizes))
    return model, example()


def words(length: int = 9) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(3, 50, (2, length))}


def two_texts() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(3, 50, (2, 9)), "decoder_input_ids": torch.randint(3, 50, (2, 7))}


def images(size: int = 32) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(2, 3, size, size)}

"""What an entry of the zoo says: how to build a model, and what its architecture calls blocks and branches.

The answers are written by hand from the architecture, never copied from what this package finds. Where both differ,
``deviations.py`` says why. Imports nothing of this package. Read next: ``catalogue.py``, ``test_zoo.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


def the_input(block: Any, x: torch.Tensor) -> torch.Tensor:
    """What most blocks are without their branches."""
    return x


@dataclass(frozen=True)
class Entry:
    """One model."""

    name: str
    library: str
    """A key of ``LIBRARIES``."""
    build: Callable[[], tuple[nn.Module, Any]]
    """Makes the model, in evaluation mode, and an input: a tensor, a tuple of positional or a dict of keyword
    arguments. Weights and input are drawn from the generator as it is."""
    blocks: Mapping[str, str] = field(default_factory=dict)
    """Pattern of the blocks' names -> their branches, names within the block, in the order of execution.
    ``{0-2}`` and ``{a,b}`` stand for several names."""
    left: Callable[[Any, torch.Tensor], torch.Tensor] = the_input
    """What a block returns without its branches: of the block and its first input."""
    stand_in: Callable[..., Any] | None = None
    """The same for a block that returns more than one stream: of its output and its arguments."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Pattern of the names of blocks that cannot be removed -> how the reason reads, a regular expression."""
    notes: str | None = None
    """How the report's notes read, a regular expression; None: there are none."""
    remarks: str = ""
    """For the reader of docs/models.md."""
    in_sample: bool = False
    """Also tested where time is short."""

    def branches(self) -> dict[str, tuple[str, ...]]:
        """Block -> the modules that make its branches, all in full."""
        return {
            block: tuple(f"{block}.{part}" for part in parts.split())
            for pattern, parts in self.blocks.items()
            for block in expanded(pattern)
        }

    def refusals(self) -> dict[str, str]:
        """Block -> why it cannot be removed."""
        return {block: reason for pattern, reason in self.refused.items() for block in expanded(pattern)}


def expanded(pattern: str) -> Iterator[str]:
    """``a.{0-2}`` -> a.0, a.1, a.2; ``{x,y}.1`` -> x.1, y.1.

    >>> list(expanded("s{1,2}.{0-1}"))
    ['s1.0', 's1.1', 's2.0', 's2.1']
    """
    found = re.search(r"{([^}]*)}", pattern)
    if found is None:
        yield pattern
        return
    first, _, last = found[1].partition("-")
    choices = map(str, range(int(first), int(last) + 1)) if last else found[1].split(",")
    for choice in choices:
        yield from expanded(f"{pattern[: found.start()]}{choice}{pattern[found.end() :]}")


def call(model: nn.Module, example: Any) -> Any:
    """The model's output for an example as ``build`` returns it."""
    if isinstance(example, dict):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


def drawn(model: nn.Module) -> nn.Module:
    """The model with weights where its library starts with zeros or almost so: blocks then change something."""
    for parameter in model.parameters():
        if parameter.abs().max() < 1e-2:
            nn.init.normal_(parameter, std=0.2)
    return model

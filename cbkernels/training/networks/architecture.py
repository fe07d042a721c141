"""What is built: a kind of network and its blocks per stage. Needs no torch. See ``build.py`` and ``kinds.py``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from .kinds import MODELS, NetworkKind


@dataclass(frozen=True)
class Architecture:
    """A network by its blocks per stage: what auto-tune shortens.

    Args:
        blocks: blocks of every stage, each at least 0; a fully connected network has one stage, its depth.
        model: one of ``kinds.MODELS``, or a word of your own for your own ``build``.
        width: units or filters a layer, of kinds of one stage.
        width_multiplier: of the filters, of kinds of several.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> from cbkernels.training.networks.architecture import Architecture
        >>> print(Architecture((50,), "fnn", width=10), Architecture((3, 4, 6, 3), "vgg"), sep="; ")
        fnn, 50 layers of 10; vgg, 3-4-6-3 blocks
    """

    blocks: tuple[int, ...]
    model: str = "own"
    width: int = 10
    width_multiplier: float = 1.0

    def __post_init__(self) -> None:
        blocks = (self.blocks,) if isinstance(self.blocks, int) else tuple(self.blocks)
        object.__setattr__(self, "blocks", blocks)
        if not blocks or any(isinstance(b, bool) or not isinstance(b, int) or b < 0 for b in blocks):
            raise ValueError(f"blocks is {blocks!r}; pass whole numbers, one for each stage and each at least 0")
        if isinstance(self.width, bool) or not isinstance(self.width, int) or self.width < 1:
            raise ValueError(f"width is {self.width!r}; it must be a positive integer")
        if not (isinstance(self.width_multiplier, (int, float)) and 0 < self.width_multiplier < math.inf):
            raise ValueError(f"width_multiplier is {self.width_multiplier!r}; it must be positive and finite")

    @property
    def block_names(self) -> list[list[str]]:
        """What the blocks are called, stage by stage, in the package's own networks."""
        name = (MODELS.get(self.model) or NetworkKind).block_name
        return [[name.format(stage=s, block=b) for b in range(count)] for s, count in enumerate(self.blocks)]

    @property
    def num_blocks(self) -> int:
        """Blocks of all stages."""
        return sum(self.blocks)

    def with_blocks(self, blocks: Iterable[int]) -> Architecture:
        """The same network with other blocks per stage."""
        return replace(self, blocks=tuple(blocks))

    def to_dict(self) -> dict[str, Any]:
        """JSON types; null is a width of a network of one's own that nobody gave."""
        widths = () if self.model in MODELS else fields(self)[2:]
        unknown = {f.name: None for f in widths if getattr(self, f.name) == f.default}
        return {**asdict(self), "blocks": list(self.blocks), **unknown}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Architecture:
        """What ``to_dict`` gave; a ValueError when it is something else."""
        try:
            given = {name: value for name, value in content.items() if value is not None}
            return cls(**{**given, "blocks": tuple(content["blocks"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"{content!r} is not an architecture; it needs blocks, model, width") from error

    def __str__(self) -> str:
        if self.model in MODELS and MODELS[self.model].num_stages == len(self.blocks) == 1:
            return f"{self.model}, {self.blocks[0]} layers of {self.width}"
        scaled = "" if self.width_multiplier == 1 else f", {self.width_multiplier:g} of the width"
        return f"{self.model}, {'-'.join(map(str, self.blocks))} blocks{scaled}"

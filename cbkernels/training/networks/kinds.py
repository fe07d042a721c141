"""The kinds of networks: a table; ``--model`` names one. Torch is imported when one is built."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...choices import Choice, Choices


@dataclass(frozen=True)
class NetworkKind(Choice):
    """How a kind of network is asked for, called and built.

    Args:
        build: (architecture, image_shape, num_classes) -> the network; its method ``block_names()`` names its blocks,
            stage by stage. One on the device "meta" gets its weights by ``weights.started``.
        num_stages: one stage is layers of one width (``--depth``, ``--width``); several are blocks of a width of
            their own (``--blocks``, ``--width-multiplier``).
        block_name: what a block is called in the network.
        has_shortcuts: without its branch a block still passes on what it gets, so a trained network can lose it.
        threads: of torch on a CPU where nobody says; None: as many as torch takes.
    """

    build: Callable[..., Any]
    num_stages: int = 4
    block_name: str = "stages.{stage}.{block}"
    has_shortcuts: bool = False
    threads: int | None = None

    def planned(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """What ``Architecture.from_dict`` takes, of a config's options."""
        sizes = ("depth", "width") if self.num_stages == 1 else ("blocks", "width_multiplier")
        blocks = options.get(sizes[0])
        content = {"model": self.name, "blocks": [blocks] if self.num_stages == 1 else blocks}
        return content | {name: options[name] for name in sizes[1:] if name in options}

    def check_blocks(self, blocks: Sequence[int]) -> None:
        """Refuse blocks of more or fewer stages.

        Raises:
            ValueError: one sentence.
        """
        count = self.num_stages
        if len(blocks) != count:
            s = "" if count == 1 else "s"
            raise ValueError(f"blocks is {list(blocks)}; {self.name} has {count} stage{s}, pass {count} number{s}")


def _fnn(architecture: Any, image_shape: Sequence[int], num_classes: int) -> Any:
    from .fully_connected import dense

    return dense(architecture.blocks[0], architecture.width, math.prod(image_shape), num_classes)


def _cnn(architecture: Any, *others: Any) -> Any:
    from .convolutional import cnn

    return cnn(architecture.blocks[0], architecture.width, *others)


def _vgg(architecture: Any, *others: Any) -> Any:
    from .residual import PlainBlock, staged

    return staged(PlainBlock, architecture.blocks, architecture.width_multiplier, *others)


def _resnet(architecture: Any, *others: Any) -> Any:
    from .residual import ResidualBlock, staged

    return staged(ResidualBlock, architecture.blocks, architecture.width_multiplier, *others)


MODELS = Choices("model", [
    # one thread: small products are slower with two, and differ in the last bit
    NetworkKind("fnn", "dense layers of one width", _fnn, 1, "hidden.{block}", threads=1),
    NetworkKind("cnn", "convolutions of one width", _cnn, 1, "hidden.{block}"),
    NetworkKind("vgg", "four stages of plain blocks", _vgg),
    NetworkKind("resnet", "four stages of blocks with shortcuts", _resnet, has_shortcuts=True),
])  # fmt: skip

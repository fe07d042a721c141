"""A network of the package by its architecture. All random numbers come from one generator.

``architecture.py`` says what is built, without torch.
"""

from __future__ import annotations

from typing import Any

import torch

from .architecture import Architecture
from .kinds import MODELS
from .weights import started


def build_network(
    architecture: Architecture,
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    weights: str = "he",
    generator: torch.Generator | None = None,
) -> Any:
    """Build one of the papers' networks.

    Args:
        architecture: its model is one of ``kinds.MODELS``.
        image_shape: channels, height, width in pixels.
        num_classes: logits.
        weights: one of ``weights.WEIGHTS``; "he" is uniform in dense networks and normal in the others.
        generator: where the weights' random numbers come from; None takes torch's global one.

    Returns:
        The network on the CPU, in float32. ``block_names()`` names its blocks stage by stage.

    Raises:
        ValueError: an unknown kind of network or of weights, a wrong number of stages, a size that is not positive.

    Example:
        >>> from cbkernels.training.networks.architecture import Architecture
        >>> model = build_network(Architecture((2, 1, 0, 0), "resnet", width_multiplier=1 / 8), (3, 32, 32), 10)
        >>> model.block_names()
        [['stages.0.0', 'stages.0.1'], ['stages.1.0'], [], []]
    """
    kind = MODELS.chosen(architecture.model)
    if len(image_shape) != 3 or any(not isinstance(extent, int) or extent < 1 for extent in image_shape):
        raise ValueError(f"image_shape is {image_shape!r}; pass channels, height and width, each a positive integer")
    kind.check_blocks(architecture.blocks)
    if not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(f"num_classes is {num_classes!r}; it must be a positive integer")
    return started(kind.build(architecture, image_shape, num_classes), weights, generator)

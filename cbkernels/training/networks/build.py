"""A network of the package by its architecture. All random numbers come from one generator.

``architecture.py`` says what is built, without torch.
"""

from __future__ import annotations

import math

import torch

from .architecture import Architecture
from .convolutional import SmallConvolutional, small_convolutional
from .fully_connected import FullyConnected, fnn
from .residual import STAGE_FILTERS, ConvolutionalNetwork, staged_network
from .weights import started


def build_network(
    architecture: Architecture,
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    weights: str = "he",
    generator: torch.Generator | None = None,
) -> FullyConnected | SmallConvolutional | ConvolutionalNetwork:
    """Build one of the papers' networks.

    Args:
        architecture: its model is "fnn" (one stage of dense layers), "cnn" (one stage of convolutions of one width,
            pooled while the image is larger than 3 pixels), "vgg" (plain) or "resnet" (four stages). A
            stage of no blocks takes its stride and its width with it: the next one goes on from the width before.
        image_shape: channels, height, width in pixels.
        num_classes: logits.
        weights: "he" as in the papers: He-uniform for "fnn", He-normal for convolutions and head, biases 0; or
            "torch", what ``nn.Linear`` and ``nn.Conv2d`` start with: uniform up to sqrt(1 / fan_in), biases too.
        generator: where the weights' random numbers come from; None takes torch's global one.

    Returns:
        The network on the CPU, in float32. ``block_names()`` names its blocks stage by stage.

    Raises:
        ValueError: an unknown model or kind of weights, a wrong number of stages, a size that is not positive.

    Example:
        >>> from cbkernels.training.networks.architecture import Architecture
        >>> model = build_network(Architecture((2, 1, 0, 0), "resnet", width_multiplier=1 / 8), (3, 32, 32), 10)
        >>> model.block_names()
        [['stages.0.0', 'stages.0.1'], ['stages.1.0'], [], []]

    Source: "Conflicting Bundles", experiments; arXiv 2103.04331 for the numbers of blocks. Convolutions have biases,
    as the papers' numbers of parameters tell.
    """
    if weights not in ("he", "torch"):
        raise ValueError(f"weights is {weights!r}; choose he or torch")
    if len(image_shape) != 3 or any(not isinstance(extent, int) or extent < 1 for extent in image_shape):
        raise ValueError(f"image_shape is {image_shape!r}; pass channels, height and width, each a positive integer")
    if architecture.model in ("fnn", "cnn") and len(architecture.blocks) != 1:
        raise ValueError(f"blocks is {architecture.blocks!r}; {architecture.model} has one stage, pass one number")
    if architecture.model == "fnn":
        start = "he_uniform" if weights == "he" else weights
        return fnn(
            architecture.blocks[0], architecture.width, math.prod(image_shape), num_classes,
            weights=start, generator=generator,
        )  # fmt: skip
    if not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(f"num_classes is {num_classes!r}; it must be a positive integer")
    if architecture.model == "cnn":
        with torch.device("meta"):
            small = small_convolutional(architecture, image_shape, num_classes)
        return started(small.to_empty(device="cpu"), weights, generator)
    if architecture.model not in ("vgg", "resnet"):
        raise ValueError(f"model is {architecture.model!r}; choose fnn, cnn, vgg or resnet, or build it yourself")
    if len(architecture.blocks) != len(STAGE_FILTERS):
        raise ValueError(f"blocks is {architecture.blocks!r}; {architecture.model} has four stages, pass four numbers")
    with torch.device("meta"):  # torch's own initialisation would draw from the global generator for nothing
        model = staged_network(architecture, image_shape, num_classes)
    return started(model.to_empty(device="cpu"), weights, generator)

"""Networks of the papers (Peer et al., WACV 2021, and arXiv 2103.04331): dense, plain convolutional, residual;
and the three convolutions of RePr (Prakash et al., CVPR 2019).

``training/networks/architecture.py`` says what is built, without torch. All random numbers come from one generator; no
activation works in place, so that hooks see what was computed.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TypeVar

import torch
from torch import nn

from .architecture import Architecture

WEIGHTS = ("he_uniform", "torch")
"""How the weights of ``fnn`` may start."""
STAGE_FILTERS = (64, 128, 256, 512)
STEM_FILTERS = 64
Network = TypeVar("Network", bound=nn.Module)
WIDEST_WITHOUT_POOL = 50
"""Pixels; the stem pools wider images."""


class DenseReLU(nn.Linear):
    """A dense layer and its ReLU as one module, so that a hook on it sees what the next layer sees."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``relu(input @ weight.T + bias)``, (N, width)."""
        return torch.relu(super().forward(input))


class FullyConnected(nn.Module):
    """``depth`` dense ReLU layers, ``hidden.0`` to ``hidden.<depth-1>``, and a linear ``output``."""

    def __init__(self, hidden: list[DenseReLU], output: nn.Linear) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(hidden)
        self.output = output

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, num_classes) of samples (N, ...), flattened to (N, num_inputs)."""
        x = x.flatten(1)
        for layer in self.hidden:
            x = layer(x)
        logits: torch.Tensor = self.output(x)
        return logits

    def block_names(self) -> list[list[str]]:
        """Names of the hidden layers, one stage."""
        return [[f"hidden.{i}" for i in range(len(self.hidden))]]


class PlainBlock(nn.Module):
    """``relu(branch(x))``; the branch is 3x3 convolution, batch norm, ReLU, 3x3 convolution, batch norm."""

    def __init__(self, in_channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(in_channels, filters, 3, stride, padding=1),
                bn1=nn.BatchNorm2d(filters),
                relu=nn.ReLU(),
                conv2=nn.Conv2d(filters, filters, 3, padding=1),
                bn2=nn.BatchNorm2d(filters),
            )
        )
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) to (N, filters, H / stride, W / stride), sizes rounded up."""
        out: torch.Tensor = self.relu(self.branch(x))
        return out


class ResidualBlock(PlainBlock):
    """``relu(shortcut(x) + branch(x))``.

    The shortcut is the identity, or a 1x1 convolution and batch norm where ``projects``.
    """

    def __init__(self, in_channels: int, filters: int, stride: int, projects: bool) -> None:
        super().__init__(in_channels, filters, stride)
        projection = OrderedDict(conv=nn.Conv2d(in_channels, filters, 1, stride), bn=nn.BatchNorm2d(filters))
        self.shortcut = nn.Sequential(projection) if projects else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) to (N, filters, H / stride, W / stride), sizes rounded up."""
        out: torch.Tensor = self.relu(self.shortcut(x) + self.branch(x))
        return out


class ConvolutionalLayer(nn.Module):
    """3x3 convolution, batch norm, ReLU and, where ``pools``, 2x2 maximum."""

    def __init__(self, in_channels: int, filters: int, pools: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, filters, 3, padding=1)
        self.bn = nn.BatchNorm2d(filters)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2) if pools else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) to (N, filters, H, W), or half of H and W, rounded down."""
        out: torch.Tensor = self.pool(self.relu(self.bn(self.conv(x))))
        return out


class SmallConvolutional(nn.Module):
    """``hidden.0`` to ``hidden.<depth-1>``, convolutions of one width; a dense ``head`` on the mean over the pixels."""

    def __init__(self, hidden: list[ConvolutionalLayer], head: nn.Linear) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(hidden)
        self.head = head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, num_classes) of images (N, C, H, W)."""
        for layer in self.hidden:
            x = layer(x)
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits

    def block_names(self) -> list[list[str]]:
        """Names of the layers: one stage."""
        return [[f"hidden.{i}" for i in range(len(self.hidden))]]


class ConvolutionalNetwork(nn.Module):
    """``stem``, ``stages.<s>.<b>`` and ``head``, a dense layer on the mean over the pixels.

    Args:
        stem: images to (N, C, H, W).
        stages: blocks of every stage; a stage may be empty.
        head: of as many inputs as the last block has filters.
    """

    def __init__(self, stem: nn.Module, stages: list[list[PlainBlock]], head: nn.Linear) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(nn.Sequential(*blocks) for blocks in stages)
        self.head = head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, num_classes) of images (N, C, H, W)."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        # the mean and not AdaptiveAvgPool2d, whose gradient on a GPU depends on the order of additions
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits

    def block_names(self) -> list[list[str]]:
        """Names of the blocks of every stage, in the order of execution."""
        return [[f"stages.{s}.{name}" for name, _ in stage.named_children()] for s, stage in enumerate(self.stages)]


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
            small = _small_convolutional(architecture, image_shape, num_classes)
        return _started(small.to_empty(device="cpu"), weights, generator)
    if architecture.model not in ("vgg", "resnet"):
        raise ValueError(f"model is {architecture.model!r}; choose fnn, cnn, vgg or resnet, or build it yourself")
    if len(architecture.blocks) != len(STAGE_FILTERS):
        raise ValueError(f"blocks is {architecture.blocks!r}; {architecture.model} has four stages, pass four numbers")
    with torch.device("meta"):  # torch's own initialisation would draw from the global generator for nothing
        model = _convolutional(architecture, image_shape, num_classes)
    return _started(model.to_empty(device="cpu"), weights, generator)


def _convolutional(
    architecture: Architecture, image_shape: tuple[int, int, int], num_classes: int
) -> ConvolutionalNetwork:
    def filters_of(full: int) -> int:
        return max(1, round(full * architecture.width_multiplier))

    width = filters_of(STEM_FILTERS)
    stem = OrderedDict[str, nn.Module](
        conv=nn.Conv2d(image_shape[0], width, 7, stride=2, padding=3), bn=nn.BatchNorm2d(width), relu=nn.ReLU()
    )
    if image_shape[2] > WIDEST_WITHOUT_POOL:
        stem["pool"] = nn.MaxPool2d(3, stride=2, padding=1)
    stages: list[list[PlainBlock]] = []
    for index, (num_blocks, full) in enumerate(zip(architecture.blocks, STAGE_FILTERS, strict=True)):
        filters = filters_of(full)
        stages.append([])
        for number in range(num_blocks):
            shrinks = index > 0 and number == 0
            stride = 2 if shrinks else 1
            if architecture.model == "resnet":
                stages[-1].append(ResidualBlock(width, filters, stride, projects=shrinks))
            else:
                stages[-1].append(PlainBlock(width, filters, stride))
            width = filters
    return ConvolutionalNetwork(nn.Sequential(stem), stages, nn.Linear(width, num_classes))


def _small_convolutional(
    architecture: Architecture, image_shape: tuple[int, int, int], num_classes: int
) -> SmallConvolutional:
    channels, size = image_shape[0], min(image_shape[1:])
    hidden = []
    for _ in range(architecture.blocks[0]):
        pools = size > 3
        hidden.append(ConvolutionalLayer(channels, architecture.width, pools))
        channels, size = architecture.width, size // 2 if pools else size
    return SmallConvolutional(hidden, nn.Linear(channels, num_classes))


def _started(model: Network, weights: str, generator: torch.Generator | None) -> Network:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            _initialise(module, "he_normal" if weights == "he" else weights, generator)
    return model


def fnn(
    depth: int,
    width: int,
    num_inputs: int = 64,
    num_classes: int = 10,
    *,
    weights: str = "he_uniform",
    generator: torch.Generator | None = None,
) -> FullyConnected:
    """The papers' fully connected network.

    Args:
        depth: number of hidden layers, at least 1.
        width: units of each.
        num_inputs: values per sample.
        num_classes: logits.
        weights: "he_uniform" as in the papers (weights up to sqrt(6 / fan_in), biases 0), or
            "torch", what ``nn.Linear`` starts with (weights and biases up to sqrt(1 / fan_in)): the
            signal then shrinks from layer to layer, and deep networks collapse much earlier.
        generator: where the weights' random numbers come from; None takes torch's global one.

    Raises:
        ValueError: a size is not a positive integer, or ``weights`` is unknown.

    Source: "Conflicting Bundles", experiments on MNIST.
    """
    sizes = {"depth": depth, "width": width, "num_inputs": num_inputs, "num_classes": num_classes}
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} is {size!r}; it must be a positive integer")
    if weights not in WEIGHTS:
        raise ValueError(f"weights is {weights!r}; choose one of {', '.join(WEIGHTS)}")
    # "meta": torch's own initialisation would draw from the global generator for nothing
    hidden = [DenseReLU(num_inputs if i == 0 else width, width, device="meta") for i in range(depth)]
    model = FullyConnected(hidden, nn.Linear(width, num_classes, device="meta")).to_empty(device="cpu")
    for layer in (*hidden, model.output):
        _initialise(layer, weights, generator)
    return model


def _initialise(layer: nn.Linear | nn.Conv2d, weights: str, generator: torch.Generator | None) -> None:
    assert layer.bias is not None
    if weights == "torch":
        bound = 1 / math.sqrt(layer.weight[0].numel())
        nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
        return
    start = nn.init.kaiming_uniform_ if weights == "he_uniform" else nn.init.kaiming_normal_
    start(layer.weight, nonlinearity="relu", generator=generator)
    nn.init.zeros_(layer.bias)

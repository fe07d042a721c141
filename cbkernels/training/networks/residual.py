"""Plain and residual networks of four stages (Peer et al., WACV 2021, and arXiv 2103.04331).

No activation works in place, so that hooks see what was computed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

STAGE_FILTERS = (64, 128, 256, 512)
STEM_FILTERS = 64
WIDEST_WITHOUT_POOL = 50
"""Pixels; the stem pools wider images."""


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

    The shortcut is the identity, or a 1x1 convolution and batch norm where the stride is not 1.
    """

    def __init__(self, in_channels: int, filters: int, stride: int) -> None:
        super().__init__(in_channels, filters, stride)
        projection = OrderedDict(conv=nn.Conv2d(in_channels, filters, 1, stride), bn=nn.BatchNorm2d(filters))
        self.shortcut = nn.Sequential(projection) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) to (N, filters, H / stride, W / stride), sizes rounded up."""
        out: torch.Tensor = self.relu(self.shortcut(x) + self.branch(x))
        return out


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


def staged(
    block: type[PlainBlock], counts: Sequence[int], width_multiplier: float, image_shape: Sequence[int],
    num_classes: int,
) -> ConvolutionalNetwork:  # fmt: skip
    """Four stages, on "meta"; one of no blocks takes its stride and width with it: the next goes on from there.

    Source: "Conflicting Bundles", experiments; arXiv 2103.04331 for the numbers of blocks. Convolutions have biases,
    as the papers' numbers of parameters tell.
    """
    filters = [max(1, round(full * width_multiplier)) for full in (STEM_FILTERS, *STAGE_FILTERS)]
    width = filters.pop(0)
    with torch.device("meta"):
        stem = OrderedDict[str, nn.Module](
            conv=nn.Conv2d(image_shape[0], width, 7, stride=2, padding=3), bn=nn.BatchNorm2d(width), relu=nn.ReLU()
        )
        if image_shape[2] > WIDEST_WITHOUT_POOL:
            stem["pool"] = nn.MaxPool2d(3, stride=2, padding=1)
        stages: list[list[PlainBlock]] = []
        for num_blocks, of_stage in zip(counts, filters, strict=True):
            stages.append([])
            for number in range(num_blocks):
                shrinks = len(stages) > 1 and number == 0
                stages[-1].append(block(width, of_stage, 2 if shrinks else 1))
                width = of_stage
        return ConvolutionalNetwork(nn.Sequential(stem), stages, nn.Linear(width, num_classes))

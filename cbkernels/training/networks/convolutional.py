"""The convolutions of one width of RePr (Prakash et al., CVPR 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


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


def cnn(depth: int, width: int, image_shape: Sequence[int], num_classes: int) -> SmallConvolutional:
    """``depth`` convolutions of ``width`` filters, pooled while the image is larger than 3 pixels; on "meta"."""
    channels, size = image_shape[0], min(image_shape[1:])
    hidden = []
    with torch.device("meta"):
        for _ in range(depth):
            pools = size > 3
            hidden.append(ConvolutionalLayer(channels, width, pools))
            channels, size = width, size // 2 if pools else size
        return SmallConvolutional(hidden, nn.Linear(channels, num_classes))

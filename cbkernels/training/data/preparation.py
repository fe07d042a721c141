"""What happens to images between the data set and the network: whole batches at once, on their device.

Random numbers are drawn on the CPU, so that a seed means the same crops on every device. What is done:
``augmentation.py``. Needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .augmentation import Augmentation


@dataclass(frozen=True)
class Preparation:
    """Makes a network's input of stored images.

    Args:
        augmentation: what is done.
        image_shape: channels, height, width of the images, before and after.
    """

    augmentation: Augmentation
    image_shape: tuple[int, int, int]

    @property
    def name(self) -> str:
        """What it is called in files."""
        return self.augmentation.name

    def for_training(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Prepare a batch and vary it: resized up, cropped, flipped, brightened, each image in its own way.

        Args:
            images: (B, C, H, W) uint8, or floats, on any device.
            generator: of the CPU; every batch draws as many numbers as the one before of its size.

        Returns:
            (B, C, H, W) float32 where the images are.

        Raises:
            ValueError: images of another shape, or a generator of another device.
        """
        if generator.device.type != "cpu":
            raise ValueError(
                f"generator is one of {generator.device}; pass torch.Generator(), random numbers of the CPU"
            )
        images, brightness = self.for_testing(images), self.augmentation.brightness
        if self.augmentation.enlarged_by:
            images = self._cropped(images, generator)
        if brightness:
            added = torch.empty(len(images), 1, 1, 1).uniform_(-brightness, brightness, generator=generator)
            images = images + added.to(images.device, non_blocking=True)
        return images

    def for_testing(self, images: torch.Tensor) -> torch.Tensor:
        """Prepare a batch: uint8 is divided by 255, then standardised where this preparation does so.

        Args:
            images: (B, C, H, W) uint8, or floats, which are taken as they are; on any device.

        Returns:
            (B, C, H, W) float32 where the images are.

        Raises:
            ValueError: images of another shape.
            TypeError: images of another type.
        """
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise TypeError(f"images is of {images.dtype}; pass uint8, or floats in 0 to 1")
        if tuple(images.shape[1:]) != self.image_shape or images.ndim != 4:
            raise ValueError(
                f"images has shape {tuple(images.shape)}; pass (B, {', '.join(map(str, self.image_shape))})"
            )
        prepared = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        return standardised(prepared) if self.augmentation.standardises else prepared

    def _cropped(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Crops of the enlarged images, mirrored by reading the columns backwards."""
        count, channels, height, width = images.shape
        by = self.augmentation.enlarged_by
        size = (height + by, width + by)
        enlarged = torch.nn.functional.interpolate(images, size, mode="bilinear", align_corners=False)
        top, left = torch.randint(0, by + 1, (2, count, 1), generator=generator)
        rows = top + torch.arange(height)
        columns = torch.arange(width).expand(count, width)
        if self.augmentation.flips:
            is_flipped = torch.randint(0, 2, (count, 1), generator=generator).bool()
            columns = torch.where(is_flipped, columns.flip(1), columns)
        columns = left + columns
        rows, columns = rows.to(images.device, non_blocking=True), columns.to(images.device, non_blocking=True)
        of_image = torch.arange(count, device=images.device)[:, None, None, None]
        of_channel = torch.arange(channels, device=images.device)[:, None, None]
        return enlarged[of_image, of_channel, rows[:, None, :, None], columns[:, None, None, :]]


def standardised(images: torch.Tensor) -> torch.Tensor:
    """Every image with mean 0 and standard deviation 1; one of a single colour becomes 0.

    Args:
        images: (B, C, H, W) floats in 0 to 1.

    Returns:
        The same shape; the standard deviation that is divided by is at least ``1 / sqrt(C * H * W)``.

    Example:
        >>> standardised(torch.tensor([[[[0.0, 1.0, 0.0, 1.0]]], [[[0.5, 0.5, 0.5, 0.5]]]])).tolist()
        [[[[-1.0, 1.0, -1.0, 1.0]]], [[[0.0, 0.0, 0.0, 0.0]]]]
    """
    values = images.flatten(1)
    mean = values.mean(1, keepdim=True)
    deviation = values.std(1, correction=0, keepdim=True).clamp_min(values.shape[1] ** -0.5)
    return ((values - mean) / deviation).view_as(images)

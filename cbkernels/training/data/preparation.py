"""What happens to images between the data set and the network: whole batches at once, on their device.

Random numbers are drawn on the CPU, so that a seed means the same crops on every device. ``data_sets.py``
holds the images. Needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

CHOICES = ("none", "standardise", "cifar", "svhn", "imagenette")
_OF_DATA_SET = {"cifar10": "cifar", "svhn": "svhn", "imagenette": "imagenette"}


@dataclass(frozen=True)
class Preparation:
    """Makes a network's input of stored images.

    Args:
        name: what ``preparation`` was asked for.
        image_shape: channels, height, width of the images, before and after.
        standardises: every image gets mean 0 and standard deviation 1 over all its values.
        enlarged_by: pixels by which height and width grow (bilinear) before a random crop takes them back.
        flips: half of the images are mirrored left to right.
        brightness: a number of (-brightness, brightness) is added to each image, after the standardisation.
    """

    name: str
    image_shape: tuple[int, int, int]
    standardises: bool = False
    enlarged_by: int = 0
    flips: bool = False
    brightness: float = 0.0

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
        images = self.for_testing(images)
        if self.enlarged_by:
            images = self._cropped(images, generator)
        if self.brightness:
            added = torch.empty(len(images), 1, 1, 1).uniform_(-self.brightness, self.brightness, generator=generator)
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
        return standardised(prepared) if self.standardises else prepared

    def _cropped(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Crops of the enlarged images, mirrored by reading the columns backwards."""
        count, channels, height, width = images.shape
        size = (height + self.enlarged_by, width + self.enlarged_by)
        enlarged = torch.nn.functional.interpolate(images, size, mode="bilinear", align_corners=False)
        top, left = torch.randint(0, self.enlarged_by + 1, (2, count, 1), generator=generator)
        rows = top + torch.arange(height)
        columns = torch.arange(width).expand(count, width)
        if self.flips:
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


def preparation(name: str, image_shape: tuple[int, int, int]) -> Preparation:
    """What the papers do to the images of a data set.

    Args:
        name: "none"; "standardise"; "cifar": standardised, resized up by 6 pixels, cropped, flipped, brightness
            changed by up to 0.25; "svhn": the same with 4 pixels and without flips; "imagenette": with 10 pixels.
        image_shape: channels, height, width.

    Raises:
        ValueError: another name.

    Source: "Conflicting Bundles" and arXiv 2103.04331, training recipe. Test images are standardised only.
    """
    if name not in CHOICES:
        raise ValueError(f"augmentation is {name!r}; choose one of {', '.join(CHOICES)}")
    shape = (int(image_shape[0]), int(image_shape[1]), int(image_shape[2]))
    enlarged_by = {"cifar": 6, "svhn": 4, "imagenette": 10}.get(name, 0)
    return Preparation(
        name,
        shape,
        standardises=name != "none",
        enlarged_by=enlarged_by,
        flips=name in ("cifar", "imagenette"),
        brightness=0.25 if enlarged_by else 0.0,
    )


def default_preparation(data_set_name: str) -> str:
    """What ``preparation`` to take for a data set.

    Args:
        data_set_name: as ``load_data_set`` takes it. Of images that the papers did not train on nothing is assumed,
            a flipped digit may be another one: they get "none", like the papers' MNIST.

    Example:
        >>> default_preparation("cifar10"), default_preparation("mnist"), default_preparation("hf:me/mine")
        ('cifar', 'none', 'none')
    """
    return _OF_DATA_SET.get(data_set_name, "none")

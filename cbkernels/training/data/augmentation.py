"""How training images vary: a table; ``--augmentation`` names one. Needs no torch; ``preparation.py`` does it."""

from __future__ import annotations

from dataclasses import dataclass

from ...choices import Choice, Choices

AUTO = "auto"
"""What the papers do for the data set, in place of a name of the table; see ``sources.default_augmentation``."""


@dataclass(frozen=True)
class Augmentation(Choice):
    """What happens to a batch of images before the network takes it; to test images only the first.

    Args:
        standardises: every image gets mean 0 and standard deviation 1 over all its values.
        enlarged_by: pixels by which height and width grow (bilinear) before a random crop takes them back.
        flips: half of the images are mirrored left to right.
        brightness: a number of (-brightness, brightness) is added to each image, after the standardisation.

    Source: "Conflicting Bundles" and arXiv 2103.04331, training recipe.
    """

    standardises: bool = True
    enlarged_by: int = 0
    flips: bool = False
    brightness: float = 0.0


AUGMENTATIONS = Choices("augmentation", [
    Augmentation("none", "the images as they are stored", standardises=False),
    Augmentation("standardise", "mean 0 and standard deviation 1 in each image"),
    Augmentation("cifar", "that, crops of the image enlarged by 6 pixels, flips, brightness", True, 6, True, 0.25),
    Augmentation("svhn", "the same as cifar by 4 pixels and without flips", True, 4, False, 0.25),
    Augmentation("imagenette", "the same as cifar by 10 pixels", True, 10, True, 0.25),
])  # fmt: skip

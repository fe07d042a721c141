"""The samples of a training, on its device: training part, held-back part, test part, and the fixed probe batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ...arrays import not_numbered
from ...models.evaluation import device_of
from ...wording import percent
from ..config import TrainConfig
from .augmentation import AUGMENTATIONS, AUTO
from .data_sets import DataSet, share_of_classes
from .preparation import Preparation
from .sources import source_named

_EVALUATED_AT_ONCE = 1000


class AsGiven:
    """Samples of one's own, which the network takes as they are."""

    name = "as given"

    def for_training(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The same tensor."""
        return images

    def for_testing(self, images: torch.Tensor) -> torch.Tensor:
        """The same tensor."""
        return images


Prepares = Preparation | AsGiven


@dataclass
class Samples:
    """What a network is trained, guarded and tested on.

    Args:
        train: images, (N, ...), and labels, (N,), on the device; the indices below point into them.
        test: the same, M of them; M may be 0.
        preparation: turns images into what the network takes.
        train_indices: (n,) int64 on the CPU: what is trained on.
        validation_indices: (N - n,) int64: held back.
        probe_indices: (p,) int64: training samples that are measured, the same for the whole run.
        num_classes: labels are 0 to ``num_classes - 1``.
    """

    train: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]
    preparation: Prepares
    train_indices: torch.Tensor
    validation_indices: torch.Tensor
    probe_indices: torch.Tensor
    num_classes: int
    name: str = "own"
    found_at: str | None = None
    """Absolute path on this disk."""

    @property
    def device(self) -> torch.device:
        """Where images and labels are."""
        return self.train[0].device

    @property
    def chance_accuracy(self) -> float:
        """Accuracy of always naming the largest class of the test part (of the training part without one)."""
        labels = self.test[1] if len(self.test[1]) else self.train[1]
        return float(torch.bincount(labels.cpu(), minlength=1).max()) / max(1, len(labels))

    def chance_note(self, accuracy: float | None) -> str:
        """What a reason adds when a test accuracy is at most three standard errors above chance; else nothing."""
        chance, number = self.chance_accuracy, len(self.test[1])
        if accuracy is None or not number or accuracy - chance > 3 * math.sqrt(chance * (1 - chance) / number):
            return ""
        return f"; the test accuracy is still near chance ({percent(accuracy)})"

    def probe(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The probe batch as the network takes it, without augmentation."""
        chosen = self.probe_indices.to(self.device)
        return self.preparation.for_testing(self.train[0][chosen]), self.train[1][chosen]

    def example(self, size: int) -> torch.Tensor:
        """A batch of ``size`` samples (or all there are) to measure costs with."""
        return self.preparation.for_testing(self.train[0][:size])


def samples_of(data: DataSet, config: TrainConfig, device: torch.device) -> Samples:
    """A data set on its device, divided as the config says.

    Raises:
        ValueError: too few samples for one batch or for the probe.
    """
    name = source_named(config.dataset).augmentation if config.augmentation == AUTO else config.augmentation
    samples = divided(
        (data.train_images, data.train_labels), (data.test_images, data.test_labels),
        Preparation(AUGMENTATIONS.chosen(name), data.image_shape), config, device, data.num_classes, data.name,
    )  # fmt: skip
    samples.found_at = data.found_at
    return samples


def divided(
    train: Any, test: Any | None, prepared: Prepares, config: TrainConfig,
    device: torch.device, num_classes: int | None = None, name: str = "own",
) -> Samples:  # fmt: skip
    """Arrays or tensors as ``Samples``; a held-back part of the same share of every class.

    Raises:
        ValueError: lengths differ, labels are not 0, 1, ..., or there is not one whole batch.
    """
    images, labels = _pair(train, "train_data", device)
    test_pair = (images[:0], labels[:0]) if test is None else _pair(test, "test_data", device)
    # RandomState is frozen for good (NEP 19), default_rng is not
    random = np.random.RandomState(config.data_seed)
    held_back = share_of_classes(labels.cpu().numpy(), config.validation_share, random)
    trained_on = np.flatnonzero(~held_back)
    if len(trained_on) < config.batch_size:
        raise ValueError(
            f"{len(trained_on)} training samples do not fill one batch of {config.batch_size}; lower batch_size"
        )
    probe = np.sort(random.permutation(trained_on)[: config.probe_size])
    return Samples(
        (images, labels), test_pair, prepared,
        torch.from_numpy(trained_on), torch.from_numpy(np.flatnonzero(held_back)), torch.from_numpy(probe),
        int(labels.max()) + 1 if num_classes is None else num_classes, name,
    )  # fmt: skip


def _collected(given: Dataset[Any] | DataLoader[Any], name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """All samples of a data set, or all that a loader gives in one pass, in memory."""
    batches = list(given if isinstance(given, DataLoader) else DataLoader(given, batch_size=_EVALUATED_AT_ONCE))
    if not batches or not all(isinstance(b, (tuple, list)) and len(b) == 2 for b in batches):
        what = f"batches of {type(batches[0]).__name__}" if batches else "no sample"
        raise ValueError(f"{name} gives {what}; it must give pairs of samples and labels")
    images, labels = (torch.cat([torch.as_tensor(each) for each in part]) for part in zip(*batches, strict=True))
    return images, labels


def _pair(given: Any, name: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = _collected(given, name) if isinstance(given, (Dataset, DataLoader)) else given
    images, labels = (each if isinstance(each, torch.Tensor) else np.asarray(each) for each in (images, labels))
    if not isinstance(labels, torch.Tensor) and labels.dtype.kind not in "biu":
        raise not_numbered(f"{name} has labels of", labels.dtype)
    images, labels = torch.as_tensor(images), torch.as_tensor(labels)
    if len(images) != len(labels) or labels.ndim != 1:
        raise ValueError(f"{name} has {len(images)} samples and labels of shape {tuple(labels.shape)}; one label each")
    if labels.is_floating_point() or labels.is_complex():
        raise not_numbered(f"{name} has labels of", labels.dtype)
    if len(labels) and int(labels.min()) < 0:
        raise ValueError(f"{name} has labels from {labels.min()}; they must count from 0")
    return images.to(device), labels.to(device, torch.int64)


def accuracy_of(model: torch.nn.Module, images: Any, labels: Any, prepared: Prepares) -> float:
    """Share of samples whose largest logit is their label's.

    Args:
        model: in evaluation mode afterwards.
        images: (N, ...) tensor or array, as stored.
        labels: (N,) integers.
        prepared: turns images into what the model takes.

    Returns:
        In 0 to 1; NaN without samples.
    """
    return float(num_right(model, images, labels, prepared)) / len(labels) if len(labels) else float("nan")


@torch.no_grad()
def num_right(model: torch.nn.Module, images: Any, labels: Any, prepared: Prepares) -> torch.Tensor:
    """Of how many samples the largest logit is their label's, () int64 on the device; see ``accuracy_of``."""
    device, images, labels = device_of(model), torch.as_tensor(images), torch.as_tensor(labels)
    model.eval()
    right = torch.zeros((), dtype=torch.int64, device=device)
    for first in range(0, len(labels), _EVALUATED_AT_ONCE):
        part = slice(first, first + _EVALUATED_AT_ONCE)
        logits = model(prepared.for_testing(images[part].to(device)))
        right += (logits.argmax(1) == labels[part].to(device)).sum()
    return right

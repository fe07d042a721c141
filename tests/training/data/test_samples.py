"""What a training says about its samples: chance, and whether an accuracy is above it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="training: NOT TESTED HERE (no torch)")

from cbkernels.training.data.augmentation import AUGMENTATIONS  # noqa: E402
from cbkernels.training.data.preparation import Preparation  # noqa: E402
from cbkernels.training.data.samples import Samples  # noqa: E402


def samples_of(num_test: int, classes: int = 10) -> Samples:
    """Ten training samples; test samples of which every class has as many."""
    part, none = torch.zeros(10, 1, 4, 4), torch.zeros(0, dtype=torch.int64)
    labels = torch.arange(num_test) % classes
    test = torch.zeros(num_test, 1, 4, 4), labels
    preparation = Preparation(AUGMENTATIONS.chosen("none"), (1, 4, 4))
    return Samples((part, torch.arange(10)), test, preparation, torch.arange(10), none, torch.arange(10), classes)


@pytest.mark.parametrize(
    ("accuracy", "num_test", "note"),
    [
        (0.116, 360, "; the test accuracy is still near chance (11.6 %)"),
        (0.05, 360, "; the test accuracy is still near chance (5.0 %)"),
        (0.2, 360, ""),
        (0.116, 100_000, ""),  # three standard errors are 0.3 points there
        (0.2, 10, "; the test accuracy is still near chance (20.0 %)"),
        (None, 360, ""),
        (0.1, 0, ""),
    ],
)
def test_an_accuracy_near_chance_is_called_so(accuracy: float | None, num_test: int, note: str) -> None:
    assert samples_of(num_test).chance_note(accuracy) == note

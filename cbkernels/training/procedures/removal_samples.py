"""Who is asked what in a removal: samples that decide, samples that report, samples of the study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from ..trained_run import TrainedRun


@dataclass(frozen=True)
class Part:
    """Samples that accuracies are taken on."""

    role: str
    """guard, test or study."""
    name: str
    """Where they are from."""
    images: torch.Tensor
    """(N, C, H, W) as in the data set, on the run's device."""
    labels: torch.Tensor
    """(N,) int64, there."""

    def about(self, accuracy: float | None = None) -> dict[str, Any]:
        """JSON types."""
        found = {"split": self.name, "samples": len(self.labels)}
        return found if accuracy is None else {**found, "accuracy": accuracy}


class Parts(NamedTuple):
    """Who is asked what: the guard decides, the test reports, the study is drawn from what reports."""

    guard: Part
    test: Part
    study: Part


def parts_of(run: TrainedRun, study_size: int, seed: int) -> Parts:
    """The run's validation samples guard and its test samples report.

    A run that held none back is guarded by every second test sample, and the rest reports: no sample does both, and a
    test set that is sorted by class stays balanced.
    """
    (images, labels), held_back = run.samples.test, run.samples.validation_indices.to(run.device)
    reporting, guard_name, name = np.arange(len(labels)), "validation", "test"
    guarding = (run.samples.train[0][held_back], run.samples.train[1][held_back])
    if not len(held_back):
        guard_name, name = "test (one half)", "test (other half)"
        guarding, reporting = (images[::2], labels[::2]), reporting[1::2]
    if not len(reporting):
        raise ValueError(f"{run.folder} has {len(labels)} test samples; one is needed to guard and one to report")
    chosen = np.sort(random_numbers(seed).permutation(reporting)[:study_size])
    test, study = (
        Part(role, name, images[i], labels[i])
        for role, i in (("test", torch.from_numpy(reporting)), ("study", torch.from_numpy(chosen)))
    )
    return Parts(Part("guard", guard_name, *guarding), test, study)


def random_numbers(seed: int) -> np.random.RandomState:
    """The same with every version of NumPy, of seeds up to 2**63 too."""
    return np.random.RandomState([seed % 2**32, seed // 2**32])

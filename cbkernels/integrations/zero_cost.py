"""Scores of untrained networks on one batch, for architecture search: higher is better. Needs torch.

The score is the share of the labels' information that passes the worst layer before any training: no loss behind
a layer can fall below its bundle entropy (Peer et al., WACV 2021, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle import bundle_entropy
from ..findings.layer_report import LayerReport
from ..grid import UpdateGrid
from ..models.evaluation import unwrapped
from ..models.monitor import LayerMonitor

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, order=True)
class BundleScore:
    """How much of the labels an untrained network can tell apart; sorts by ``score``, then by ``margin_bits``.

    Attributes:
        score: 1 minus the largest bundle entropy of a layer over the entropy of the labels: 1 when no layer
            conflicts, 0 when one puts all samples into one bundle. 0 also when a layer holds NaN.
        margin_bits: smallest conflict margin of a layer in bits (``LayerReport.margin_bits``): tells networks
            apart of which none conflicts. -inf when a layer holds NaN.
        worst_layer: layer of the largest entropy, the first of several; where no layer conflicts, the one of the
            smallest margin.
        report: everything that was measured.
    """

    score: float
    margin_bits: float
    worst_layer: str = field(compare=False)
    report: LayerReport = field(compare=False, repr=False)

    def __float__(self) -> float:
        return self.score


def bundle_score(
    model: nn.Module,
    x_or_probe: object,
    labels: object = None,
    *,
    learning_rate: float = 1e-3,
    batch_size: int = 64,
    layers: str | Iterable[str] | Callable[[str, nn.Module], bool] = "auto",
) -> BundleScore:
    """Score a network without training it; one forward pass, after which the model is as before.

    Args:
        model: any ``torch.nn.Module`` with trainable weights.
        x_or_probe: a batch as the model takes it, with ``labels``; or a probe as in ``LayerMonitor``, of one batch.
        labels: (N,) integers of at least two values; None when they are in the probe.
        learning_rate: of the training that would follow.
        batch_size: of the training that would follow.
        layers: as in ``LayerMonitor``.

    Returns:
        BundleScore; ``float(score)`` is the score, ``max`` of several scores the best network.

    Raises:
        TypeError, ValueError: one sentence that quotes what is wrong.
        ImportError: torch is missing.

    Example:
        >>> import torch
        >>> x, y = torch.eye(4), torch.tensor([0, 1, 0, 1])
        >>> good, blind = (torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()) for _ in range(2))
        >>> _ = torch.nn.init.eye_(good[0].weight), torch.nn.init.zeros_(blind[0].weight)
        >>> [float(bundle_score(model, x, y, layers=["1"])) for model in (good, blind)]
        [1.0, 0.0]
    """
    inner = unwrapped(model)
    training: Any = SimpleNamespace(param_groups=[{"lr": 1.0}])
    grid = replace(UpdateGrid.from_optimizer(inner, training, batch_size), learning_rate=learning_rate)
    probe = x_or_probe if labels is None else (x_or_probe, labels)
    monitor = LayerMonitor(inner, probe, layers=layers, grid=grid)
    if len(monitor.probe) != 1:
        raise ValueError(f"the probe has {len(monitor.probe)} batches; a score is taken on one, so concatenate them")
    of_labels = monitor.probe[0].labels.cpu().numpy()
    if len(np.unique(of_labels)) < 2:
        raise ValueError(f"the probe has the labels {np.unique(of_labels).tolist()}; a score needs at least two")
    # rows without columns are all equal: what is left is the entropy of the labels
    bound = bundle_entropy(np.zeros((len(of_labels), 0)), of_labels).entropy
    report = monitor.measure(step=0)
    if report.first_nan is not None:
        return BundleScore(0.0, -math.inf, report.first_nan, report)
    worst = max(report, key=lambda layer: report[layer].entropy)
    bits = {layer: b for layer, b in report.margin_bits.items() if b is not None}
    smallest = min(bits, key=lambda layer: bits[layer])
    score = max(0.0, 1.0 - report[worst].entropy / bound)
    return BundleScore(score, bits[smallest], worst if report.conflicting() else smallest, report)

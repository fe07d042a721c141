"""Reports for any tracker that takes a dict of numbers: wandb, mlflow, a function of yours. Imports nothing.

TensorBoard, which also takes pictures, has its own file: ``tensorboard.py``.
"""

from __future__ import annotations

from typing import Protocol

from ..findings.layer_report import LayerReport


class Log(Protocol):
    """What trackers have in common: ``wandb.log``, ``mlflow.log_metrics``, ``lambda values, step: ...``."""

    def __call__(self, values: dict[str, float], /, *, step: int | None) -> object:
        """Take numbers by name at a step."""


def log_report(
    report: LayerReport, log: Log, *, layers: bool = False, step: int | None = None, prefix: str = "bundle_entropy"
) -> None:
    """Hand a report's numbers to a tracker, in one call.

    Args:
        report: what ``LayerMonitor.measure`` returned.
        log: called once as ``log(values, step=step)``.
        layers: also the entropy of every layer, as ``bundle_entropy/<layer>``, in nats.
        step: None is the report's own.
        prefix: of the names; the summary numbers of ``LayerReport.scalars`` are ``<prefix>_summary/...``.

    Raises:
        TypeError: ``report`` or ``log`` is something else.

    Example:
        >>> import numpy as np, cbkernels
        >>> results = {"fc": cbkernels.bundle_entropy(np.zeros((4, 2)), np.array([0, 0, 1, 1]))}
        >>> log_report(LayerReport(results, step=3), lambda values, step: print(step, len(values)), layers=True)
        3 4
    """
    if not isinstance(report, LayerReport):
        raise TypeError(f"report is a {type(report).__name__}; pass what LayerMonitor.measure() returned")
    if not callable(log):
        raise TypeError(f"log is a {type(log).__name__}; pass a function like wandb.log or mlflow.log_metrics")
    log(report.scalars(prefix, layers=layers), step=report.step if step is None else step)

"""Reports for any tracker of numbers: wandb, MLflow, TensorBoard, a function of yours. Imports none of them.

The heat map that grows with the training is TensorBoard's alone: ``tensorboard.py``.
"""

from __future__ import annotations

from typing import Any, Protocol

from ..findings.layer_report import LayerReport


class Log(Protocol):
    """What trackers have in common: ``mlflow.log_metrics``, ``lambda values, step: ...``."""

    def __call__(self, values: dict[str, float], /, *, step: int | None) -> object:
        """Take numbers by name at a step."""


def log_report(
    report: LayerReport, log: Log | Any, *, layers: bool = False, step: int | None = None,
    prefix: str = "bundle_entropy",
) -> None:  # fmt: skip
    """Hand a report's numbers to a tracker, whatever else is logged to it, at whatever steps.

    Args:
        report: what ``LayerMonitor.measure`` returned.
        log: called once as ``log(values, step=step)``, as ``mlflow.log_metrics`` is. Or ``wandb.log``, which gets the
            step as one more number, the axis of these numbers: wandb's own step only counts upward, and it drops what
            comes at an earlier one, such as an epoch among batches. Or a ``SummaryWriter`` of TensorBoard.
        layers: also the entropy of every layer, as ``bundle_entropy/<layer>``, in nats.
        step: None is the report's own.
        prefix: of the names; the summary numbers of ``LayerReport.scalars`` are ``<prefix>_summary/...``, and so is
            wandb's ``step``.

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
    values, at = report.scalars(prefix, layers=layers), report.step if step is None else step
    run: Any = getattr(log, "__self__", None)
    if hasattr(log, "add_scalar"):
        for name, value in values.items():
            log.add_scalar(name, value, at)
    elif not callable(log):
        raise TypeError(
            f"log is a {type(log).__name__}; pass a function like wandb.log or mlflow.log_metrics, or a SummaryWriter"
        )
    elif hasattr(run, "define_metric"):  # wandb
        axis = f"{prefix}_summary/step"
        for name in (f"{prefix}/*", f"{prefix}_summary/*"):
            run.define_metric(name, step_metric=axis)
        run.log(values if at is None else {**values, axis: at})
    else:
        log(values, step=at)

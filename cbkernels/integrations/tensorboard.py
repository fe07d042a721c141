"""TensorBoard: one picture that grows with the training, and four numbers, however many layers there are.

Any writer with ``add_image`` and ``add_scalar`` will do; this file imports neither tensorboard nor torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..findings.history import History
from ..findings.layer_report import LayerReport


def write(
    writer: Any, history_or_report: History | LayerReport, step: int | None = None, *, prefix: str = "bundle_entropy"
) -> None:
    """Write the heat map layer x step so far and the summary numbers of the last report.

    Args:
        writer: a ``torch.utils.tensorboard.SummaryWriter``; with Lightning ``trainer.logger.experiment``.
        history_or_report: ``LayerMonitor.history``, or a single report.
        step: None is that of the last report.
        prefix: tags are ``<prefix>_summary/heat_map`` and those of ``LayerReport.scalars(prefix, layers=False)``.

    Raises:
        TypeError: the writer cannot write images and scalars, or the history is something else.
        ValueError: the history is empty.
        ImportError: matplotlib is missing.

    Example:
        >>> import numpy as np, cbkernels
        >>> class Writer:
        ...     add_image = lambda self, tag, image, step, dataformats: print(tag, step, dataformats)
        ...     add_scalar = lambda self, tag, value, step: print(tag, value)
        >>> results = {"fc": cbkernels.bundle_entropy(np.zeros((4, 2)), np.array([0, 0, 0, 0]))}
        >>> write(Writer(), LayerReport(results, step=3))
        bundle_entropy_summary/num_conflicting_layers 0.0
        bundle_entropy_summary/largest_entropy 0.0
        bundle_entropy_summary/mean_entropy 0.0
        bundle_entropy_summary/heat_map 3 HWC
    """
    if not (hasattr(writer, "add_image") and hasattr(writer, "add_scalar")):
        raise TypeError(f"writer is a {type(writer).__name__}; pass a torch.utils.tensorboard.SummaryWriter")
    history = History([history_or_report]) if isinstance(history_or_report, LayerReport) else history_or_report
    if not isinstance(history, History):
        raise TypeError(f"history_or_report is a {type(history).__name__}; pass a History or a LayerReport")
    if not len(history):
        raise ValueError("the history is empty; call LayerMonitor.measure() before writing it")
    at = history.steps[-1] if step is None else step
    image = _image(history)
    for tag, value in history[-1].scalars(prefix, layers=False).items():
        writer.add_scalar(tag, value, at)
    writer.add_image(f"{prefix}_summary/heat_map", image, at, dataformats="HWC")


def _image(history: History) -> npt.NDArray[np.uint8]:
    """(height, width, 3) of the heat map."""
    figure = history.plot()
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    pixels: npt.NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return pixels

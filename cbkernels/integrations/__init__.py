"""Bundle entropy where people already work; each module is imported when asked for, and so is its package.

``torchmetrics.py``, ``lightning.py``, ``transformers.py``, ``tensorboard.py``, ``tracking.py`` (any other tracker),
``zero_cost.py``. Examples: ``docs/integrations.md``. Classes that are called as another one, such as the callback
``LayerMonitorCallback`` of two trainers, are taken from their module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import lazy

if TYPE_CHECKING:
    from . import lightning, tensorboard, torchmetrics, tracking, transformers, zero_cost
    from .tracking import log_report
    from .zero_cost import BundleScore, bundle_score
else:
    __getattr__, __dir__ = lazy.attributes(
        __name__,
        {
            "": ["lightning", "tensorboard", "torchmetrics", "tracking", "transformers", "zero_cost"],
            ".tracking": ["log_report"],
            ".zero_cost": ["BundleScore", "bundle_score"],
        },
    )

__all__ = [
    "BundleScore", "bundle_score", "lightning", "log_report", "tensorboard", "torchmetrics", "tracking",
    "transformers", "zero_cost",
]  # fmt: skip

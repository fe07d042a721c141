"""Training: data, networks, the papers' recipe, auto-tune, removal. Needs torch, which is imported late."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..filters.criteria import register_criterion
    from ..filters.repr import RePr
    from .config import AutotuneConfig, RemoveConfig, TrainConfig
    from .networks.architecture import Architecture
    from .networks.exported import load_exported
    from .policies import Policy
    from .procedures.autotune import Autotuned, autotune, autotune_configured
    from .procedures.compare_repr import compare
    from .procedures.remove import remove_blocks
    from .procedures.train import train
    from .shrinking import shrink
    from .trained_run import TrainedRun, load_trained

_WHERE = {
    "RePr": "..filters.repr",
    "compare": ".procedures.compare_repr",
    "register_criterion": "..filters.criteria",
    "Architecture": ".networks.architecture",
    "AutotuneConfig": ".config",
    "Autotuned": ".procedures.autotune",
    "Policy": ".policies",
    "RemoveConfig": ".config",
    "TrainConfig": ".config",
    "TrainedRun": ".trained_run",
    "autotune": ".procedures.autotune",
    "autotune_configured": ".procedures.autotune",
    "load_exported": ".networks.exported",
    "load_trained": ".trained_run",
    "remove_blocks": ".procedures.remove",
    "shrink": ".shrinking",
    "train": ".procedures.train",
}
__all__ = [
    "Architecture",
    "AutotuneConfig",
    "Autotuned",
    "Policy",
    "RePr",
    "RemoveConfig",
    "TrainConfig",
    "TrainedRun",
    "autotune",
    "autotune_configured",
    "compare",
    "load_exported",
    "load_trained",
    "register_criterion",
    "remove_blocks",
    "shrink",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_WHERE[name], __name__), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(f"cbkernels.training.{name} needs torch: pip install torch safetensors") from None

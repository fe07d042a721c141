"""Training: data, networks, the papers' recipe, auto-tune, removal. Needs torch, which is imported late."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .architecture import Architecture
    from .autotuning import Autotuned, autotune, autotune_configured
    from .config import AutotuneConfig, RemoveConfig, TrainConfig
    from .exported_networks import load_exported
    from .filter_criteria import register_criterion
    from .removal import remove_blocks
    from .repr import RePr
    from .repr_comparison import compare
    from .shrinking import shrink
    from .single_training import train
    from .training_run import TrainedRun, load_trained

_WHERE = {
    "RePr": "repr",
    "compare": "repr_comparison",
    "register_criterion": "filter_criteria",
    "Architecture": "architecture",
    "AutotuneConfig": "config",
    "Autotuned": "autotuning",
    "RemoveConfig": "config",
    "TrainConfig": "config",
    "TrainedRun": "training_run",
    "autotune": "autotuning",
    "autotune_configured": "autotuning",
    "load_exported": "exported_networks",
    "load_trained": "training_run",
    "remove_blocks": "removal",
    "shrink": "shrinking",
    "train": "single_training",
}
__all__ = [
    "Architecture",
    "AutotuneConfig",
    "Autotuned",
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
        return getattr(import_module(f".{_WHERE[name]}", __name__), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(f"cbkernels.training.{name} needs torch: pip install torch safetensors") from None

"""Training: data, networks, the papers' recipe, auto-tune, removal. Needs torch, which is imported late."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import lazy

if TYPE_CHECKING:
    from ..filters.criteria import register_criterion
    from ..filters.repr import RePr
    from .config import AutotuneConfig, RemoveConfig, TrainConfig
    from .networks.architecture import Architecture
    from .networks.exported import load_exported
    from .procedures.autotune import Autotuned, autotune, autotune_configured
    from .procedures.compare_repr import compare
    from .procedures.remove import remove_blocks
    from .procedures.train import train
    from .shrinking import shrink
    from .trained_run import TrainedRun, load_trained
else:
    __getattr__, __dir__ = lazy.attributes(
        __name__,
        {
            "..filters.criteria": ["register_criterion"],
            "..filters.repr": ["RePr"],
            ".config": ["AutotuneConfig", "RemoveConfig", "TrainConfig"],
            ".networks.architecture": ["Architecture"],
            ".networks.exported": ["load_exported"],
            ".procedures.autotune": ["Autotuned", "autotune", "autotune_configured"],
            ".procedures.compare_repr": ["compare"],
            ".procedures.remove": ["remove_blocks"],
            ".procedures.train": ["train"],
            ".shrinking": ["shrink"],
            ".trained_run": ["TrainedRun", "load_trained"],
        },
        "cbkernels.training.{} needs torch: pip install torch safetensors",
    )

__all__ = [
    "Architecture", "AutotuneConfig", "Autotuned", "RePr", "RemoveConfig", "TrainConfig", "TrainedRun", "autotune",
    "autotune_configured", "compare", "load_exported", "load_trained", "register_criterion", "remove_blocks",
    "shrink", "train",
]  # fmt: skip

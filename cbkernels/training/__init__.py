"""Training: data, networks, the papers' recipe, auto-tune, removal. Needs torch, which is imported late."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import lazy

if TYPE_CHECKING:
    from ..filters.criteria import register_criterion
    from ..filters.repr import RePr
    from .config import AutotuneConfig, RemoveConfig, TrainConfig
    from .data.data_sets import load_data_set, load_digits, split
    from .networks.architecture import Architecture
    from .networks.exported import load_exported
    from .networks.fully_connected import fnn
    from .policies import Policy
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
            ".policies": ["Policy"],
            ".data.data_sets": ["load_data_set", "load_digits", "split"],
            ".networks.architecture": ["Architecture"],
            ".networks.exported": ["load_exported"],
            ".networks.fully_connected": ["fnn"],
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
    "Architecture", "AutotuneConfig", "Autotuned", "Policy", "RePr", "RemoveConfig", "TrainConfig", "TrainedRun",
    "autotune", "autotune_configured", "compare", "fnn", "load_data_set", "load_digits", "load_exported",
    "load_trained", "register_criterion", "remove_blocks", "shrink", "split", "train",
]  # fmt: skip

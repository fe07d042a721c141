"""Which blocks of a trained residual network can go: study, guarded removal, fine-tuning, export.

After "Auto-tuning of Deep Neural Networks by Conflicting Layer Removal" (arXiv 2103.04331); the guard, measuring again
after each removal, fine-tuning and export are ours. Read next: ``removal.py`` (measuring and the study),
``guarded_removal.py``, ``smaller_network.py``, ``removal_progress.py`` (what a killed removal goes on from).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..._version import __version__
from ...runs.schema import EXPORT, MeasuredLayer
from ...runs.stored_runs import open_folder
from ..config import RemoveConfig, to_dict
from ..configured import environment, settled, threads_of
from ..networks.kinds import MODELS
from ..trained_run import TrainedRun
from .guarded_removal import guarded
from .removal import Removal, Report
from .removal_curves import KINDS
from .removal_progress import RemovalProgress
from .smaller_network import healed


def remove_blocks(
    run: TrainedRun,
    config: RemoveConfig,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    overwrite: bool = False,
    report: Report = lambda status: None,
) -> dict[str, Any]:
    """Study and remove the blocks of a trained residual network, and write a run folder.

    Args:
        run: of a network with shortcuts; its model is cut and fine-tuned in place.
        config: what is tried.
        out: folder to write; the smaller network is in its folder ``model``, see ``load_exported``.
        resume: go on where an earlier call with the same run and config was stopped; its result is the same.
        overwrite: start anew in a folder that holds a run.
        report: called with a line of text now and then.

    Returns:
        What ``result.json`` holds.

    Raises:
        ValueError: not a residual network, a training that diverged, or ``out`` holds something else.
        OSError: ``out`` cannot be written.

    Source: arXiv 2103.04331, removal of conflicting layers from trained residual networks.
    """
    require_removable(run)
    stored = {"run": str(Path(run.folder).resolve()), **to_dict(config)}
    folder = open_folder(out, "remove", stored, resume=resume, overwrite=overwrite)
    with settled(config.threads or threads_of(run.config)):
        folder.write_json("env.json", environment(run.device))
        progress = RemovalProgress(folder, run, config, resume=resume)
        result = _result(Removal(run, config, progress, report))
        folder.write_json("result.json", result)
    return result


def _result(removal: Removal) -> dict[str, Any]:
    """Everything in turn; what ``result.json`` holds."""
    run, config, report = removal.run, removal.config, removal.report
    blocks = removal.measured(())
    removal.folder.write_layers(MeasuredLayer("remove", 0, 0, block.branch, block.result) for block in blocks)
    num_conflicting = sum(block.conflicts(config.min_conflicting_rows) for block in blocks)
    report(f"{num_conflicting} of {len(blocks)} blocks conflict")
    curves, study = removal.studied(blocks) if config.study else ({kind: [] for kind in KINDS}, None)
    steps, removed, reason = guarded(removal, blocks)
    smaller = healed(removal, removed)
    return {
        "command": "remove",
        "version": __version__,
        "seed": config.seed,
        "run": Path(run.folder).resolve().name,
        "architecture": run.architecture.to_dict(),
        "blocks": [removal.described(block) for block in blocks],
        "num_conflicting_blocks": num_conflicting,
        "equality": blocks[0].result.equality,
        "curves": curves,
        "study": study,
        "rank": config.rank,
        "max_drop": config.max_drop,
        "guard": removal.parts.guard.about(removal.accuracy(removal.parts.guard, ())),
        "test": removal.parts.test.about(),
        "steps": steps,
        "removed": removed,
        "reason": reason,
        **smaller,
        "finetune_epochs": config.finetune_epochs,
        "export": f"{EXPORT}/",
    }


def require_removable(run: TrainedRun) -> None:
    """Refuse what has no shortcuts or no useful weights.

    Raises:
        ValueError: one sentence.
    """
    architecture = run.architecture
    kinds = [name for name, kind in MODELS.items() if kind.has_shortcuts]
    if architecture.model not in kinds:
        raise ValueError(
            f"{run.folder} holds a network without shortcuts ({architecture}), and without its branch a block passes "
            f"nothing on; train a residual one with --model {' or '.join(kinds)}"
        )
    if run.result.get("status") == "diverged":
        raise ValueError(f"the training in {run.folder} diverged; train it again, with a smaller --learning-rate")
    if architecture.num_blocks < 2:
        raise ValueError(f"{run.folder} holds {architecture}; a network of two blocks at least can lose one")

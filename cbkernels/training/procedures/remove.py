"""Which blocks of a trained residual network can go: study, guarded removal, healing, export.

After "Auto-tuning of Deep Neural Networks by Conflicting Layer Removal" (arXiv 2103.04331); the guard, measuring again
after each removal, healing and export are ours. Read next: ``removal.py`` (measuring and the study),
``healed_pruning.py`` (the removal), ``removal_progress.py`` (what a killed removal goes on from).
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

from ..._version import __version__
from ...files.folders import delete_files, output_path
from ...files.json_files import read_json_object
from ...files.typed_json import required
from ...runs.schema import EXPORT, HISTORY, PRUNING_FILES, REMOVAL, RESULT, MeasuredLayer, RemoveResult
from ...runs.stored_runs import open_folder
from ...surgery.surgery import Surgery
from ..config import RemoveConfig, to_dict
from ..configured import environment, require_apart_from_data, settled, threads_of
from ..networks.kinds import MODELS
from ..trained_run import TrainedRun
from .healed_pruning import pruned
from .removal import Removal, Report
from .removal_curves import KINDS
from .removal_progress import RemovalProgress


def remove_blocks(
    run: TrainedRun,
    config: RemoveConfig,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    overwrite: bool = False,
    report: Report = lambda status: None,
    say: Report = lambda line: None,
) -> dict[str, Any]:
    """Study and remove the blocks of a trained residual network, and write a run folder.

    Args:
        run: of a network with shortcuts; its model is cut and healed in place.
        config: what is tried.
        out: folder to write, ``removal`` in the run's or one apart from that; the smaller network is in its folder
            ``model``, see ``load_exported``.
        resume: go on where an earlier call with the same run and config was stopped; its result is the same.
        overwrite: start anew in a folder that holds a run.
        report: called with a line of text now and then.
        say: called with what should be known before anything is removed.

    Returns:
        What ``result.json`` holds.

    Raises:
        ValueError: not a residual network, a training that diverged, or ``out`` holds something else, is
            written by another process, or is the run's folder, around it, or elsewhere inside of it.
        OSError: ``out`` cannot be written.

    Source: arXiv 2103.04331, removal of conflicting layers from trained residual networks.
    """
    out = output_path(out)
    if os.path.realpath(out) != os.path.join(os.path.realpath(run.folder), REMOVAL):
        output_path(out, run.folder)
    require_apart_from_data(out, run.samples)
    require_removable(run)
    stored = {"run": str(Path(run.folder).resolve()), **to_dict(config)}
    with open_folder(out, "remove", stored, resume=resume, overwrite=overwrite) as folder:
        progress = RemovalProgress(folder, run, resume=resume)
        if resume and (folder.path / RESULT).exists():
            Surgery.load(folder.path / EXPORT, run.model)
            result = read_json_object(folder.path / RESULT)
            required(RemoveResult, result, folder.path / RESULT)
            return result
        with settled(config.threads or threads_of(run.config)):
            folder.write_json("env.json", environment(run.samples))
            result = _result(Removal(run, config, progress, report), say)
            folder.write_json(RESULT, result)
        delete_files(folder.path, PRUNING_FILES)
    return result


def _result(removal: Removal, say: Report) -> dict[str, Any]:
    """Everything in turn; what ``result.json`` holds."""
    run, config, report = removal.run, removal.config, removal.report
    blocks = removal.measured()
    removal.folder.write_layers(MeasuredLayer("remove", 0, 0, block.branch, block.result) for block in blocks)
    num_conflicting = sum(block.conflicts(config.min_conflicting_rows) for block in blocks)
    report(f"{num_conflicting} of {len(blocks)} blocks conflict")
    curves, study = removal.studied(blocks) if config.study else ({kind: [] for kind in KINDS}, None)
    whole, notes = removal.accuracy(removal.parts.guard, ()), removal.notes()
    for note in notes:
        say(f"Note: {note}.")
    first, *others = (
        pruned(removal, rank, run.model if rank == config.rank else copy.deepcopy(removal.whole))
        for rank in dict.fromkeys([config.rank, *config.compare])
    )
    removal.folder.write_json_lines(HISTORY, first["history"])
    return {
        "command": "remove", "version": __version__, "seed": config.seed,
        "run": Path(run.folder).resolve().name, "architecture": run.architecture.to_dict(),
        "blocks": [removal.described(block) for block in blocks], "num_conflicting_blocks": num_conflicting,
        "equality": blocks[0].result.equality, "curves": curves, "study": study,
        **first["outcome"], "compared": [other["outcome"] for other in others],
        **{name: getattr(config, name) for name in ("strategy", "heal", "heal_epochs", "max_drop", "target")},
        "notes": notes, "guard": removal.parts.guard.about(whole),
        "test": removal.parts.test.about(), **_costs(removal), "export": f"{EXPORT}/",
    }  # fmt: skip


def _costs(removal: Removal) -> dict[str, Any]:
    """Of the network before and after, timed in turns."""
    example = removal.example
    removal.report(f"cost of a batch of {len(example)}, before and after in turns")
    _, surgery = Surgery.load(removal.folder.path / EXPORT, copy.deepcopy(removal.whole))
    summary = surgery.summary(example).to_dict()
    return {when: {**summary[when], "latency_batch": len(example)} for when in ("before", "after")}


def require_removable(run: TrainedRun) -> None:
    """Refuse what has no shortcuts or no useful weights, as a ValueError of one sentence."""
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

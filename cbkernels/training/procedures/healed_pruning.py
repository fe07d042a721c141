"""One ranking of a removal: ``prune_blocks``, guarded by the run's samples and healed by the run's recipe."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import torch

from ...files.typed_json import required
from ...runs.schema import EXPORT, PRUNING, Pruning, Step
from ...surgery.cut_blocks import CutBlock
from ...surgery.pruning.prune_blocks import prune_blocks
from ...surgery.pruning.prune_log import PruneLog, PruneStep
from ...surgery.surgery import Surgery
from ..healings import HEALINGS
from ..networks.exported import export_network
from ..trained_run import fit
from .removal import Removal


def pruned(removal: Removal, rank: str, model: Any) -> dict[str, Any]:
    """Prune a network, heal it, and remember what came of it; the network of the removal's own ranking is exported.

    Args:
        removal: what is known.
        rank: name of the ranking.
        model: the whole network; cut in place, unless an earlier call did all this.

    Returns:
        "outcome", a ``Pruning`` of ``runs/schema.py``, and "history", lines of the healings that the network kept.
    """
    progress, config, test = removal.progress, removal.config, removal.parts.test
    known = progress.outcomes.get(rank)
    if known is not None:
        if rank == config.rank:
            Surgery.load(removal.folder.path / EXPORT, model)
        return known
    surgery, log = _cut(removal, rank, model)
    kept = [step for step in log.steps if step.kept]
    healed = kept[-1].accuracy_test
    if HEALINGS[config.heal].end and config.heal_epochs and log.removed:
        _heal(removal, rank, model)
        healed = removal.accuracy_now(test, model)
    healings = progress.healings.get(rank, {})
    history = [line for step in kept[1:] for line in healings.get(str(step.num_removed), [])]
    before, without = (removal.accuracy(test, gone) for gone in ((), log.removed))
    outcome = {
        "rank": rank, "steps": [_step(step) for step in log.to_dict()["steps"][1:]], "removed": log.removed,
        "reason": log.reason, "accuracy": {"before": before, "removed": without, "healed": healed},
        "finetune_epochs": sum(line["epoch"] > 0 for line in history),
    }  # fmt: skip
    required(Pruning, outcome, removal.folder.path / PRUNING / rank)  # what went on is as good as its files
    if rank == config.rank:
        export_network(removal.folder.path / EXPORT, removal.run, surgery)
    progress.outcomes[rank] = {"outcome": outcome, "history": history}
    progress.save()
    return progress.outcomes[rank]


def _cut(removal: Removal, rank: str, model: Any) -> tuple[Surgery, PruneLog]:
    run, config, parts = removal.run, removal.config, removal.parts
    heals = HEALINGS[config.heal].each and config.heal_epochs > 0

    def told(step: PruneStep) -> None:
        if step.blocks:
            fate = "removed" if step.kept else "stay" if len(step.blocks) > 1 else "stays"
            removal.report(f"{rank}: {', '.join(step.blocks)} {fate}: {parts.guard.name} accuracy {step.reason}")

    _, surgery, log = prune_blocks(
        model, removal.probe, rank=rank, strategy=config.strategy or HEALINGS[config.heal].strategy,
        evaluate=lambda model: removal.accuracy_now(parts.guard, model),
        heal=(lambda model: _heal(removal, rank, model)) if heals else None,
        test=lambda model: removal.accuracy_now(parts.test, model),
        max_drop=config.max_drop, target=_target(removal), seed=config.seed, example=removal.example,
        # which holds the learning rate of the update grid; a healing makes its own
        optimizer=torch.optim.SGD(model.parameters(), lr=run.learning_rate), batch_size=run.batch_size,
        min_conflicting_rows=config.min_conflicting_rows, on_step=told,
        out=removal.folder.path / PRUNING / rank, resume=True,
    )  # fmt: skip
    return surgery, log


def _target(removal: Removal) -> float | None:
    """The share of the blocks that may go, by both options."""
    config, num_blocks = removal.config, len(removal.names)
    if config.target is None and config.max_removed is None:
        return None
    wanted = num_blocks if config.target is None else math.ceil(config.target * num_blocks - 1e-9)
    return min(wanted, num_blocks if config.max_removed is None else config.max_removed) / num_blocks


def _heal(removal: Removal, rank: str, model: Any) -> None:
    """Train by the run's recipe; the lines of a healing that is undone are overwritten by those of the next one."""
    config, gone = removal.config, sum(isinstance(model.get_submodule(name), CutBlock) for name in removal.names)

    def on_epoch(line: dict[str, Any]) -> None:
        removal.report(f"{rank}: healing without {gone} blocks, epoch {line['epoch']} of {config.heal_epochs}")

    lines = fit(model, removal.run, epochs=config.heal_epochs, seed=(config.seed + gone) % 2**63, on_epoch=on_epoch)
    removal.progress.healings.setdefault(rank, {})[str(gone)] = [{**line, "round": gone} for line in lines]
    removal.progress.save()


def _step(step: dict[str, Any]) -> dict[str, Any]:
    """A ``Step`` of ``runs/schema.py``."""
    told = {"block": ", ".join(step["blocks"]), "accuracy": step["accuracy_healed"], **step}
    return {each.name: told[each.name] for each in fields(Step)}

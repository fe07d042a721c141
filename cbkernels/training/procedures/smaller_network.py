"""The network without the blocks that go: cut, fine-tuned, exported, and what it costs now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...runs.schema import EXPORT, HISTORY
from ...surgery.surgery import Surgery, remove_layers
from ..networks.exported import export_network, load_cut
from ..trained_run import fit
from .removal import Removal


def healed(removal: Removal, removed: Sequence[str]) -> dict[str, Any]:
    """Cut the model, fine-tune and export it; accuracies and costs before and after."""
    run, folder = removal.run, removal.folder
    before, after = (removal.accuracy(removal.parts.test, gone) for gone in ((), removed))
    removal.progress.save()
    known = removal.progress.healed
    if known is None:
        _, surgery = remove_layers(run.model, removed, example=removal.example)
        history = _finetuned(removal) if removed else []
        known = {"accuracy": removal.accuracy_now(removal.parts.test) if history else after, "history": history}
        export_network(folder.path / EXPORT, run, surgery)
        removal.progress.healed = known
        removal.progress.save()
    else:
        surgery = load_cut(folder.path / EXPORT, run.model)
    folder.write_json_lines(HISTORY, known["history"])
    return {
        "accuracy": {"before": before, "removed": after, "healed": known["accuracy"]},
        **_costs(removal, surgery),
    }


def _finetuned(removal: Removal) -> list[dict[str, Any]]:
    config = removal.config
    if not config.finetune_epochs:
        return []

    def on_epoch(line: dict[str, Any]) -> None:
        removal.report(f"fine-tuning: epoch {line.get('epoch')} of {config.finetune_epochs}")

    lines = fit(removal.run.model, removal.run, epochs=config.finetune_epochs, seed=config.seed, on_epoch=on_epoch)
    return [{**line, "run": "finetune", "round": 0} for line in lines]


def _costs(removal: Removal, surgery: Surgery) -> dict[str, Any]:
    removal.report(f"cost of a batch of {len(removal.example)}, before and after in turns")
    summary = surgery.summary(removal.example).to_dict()
    return {when: {**summary[when], "latency_batch": len(removal.example)} for when in ("before", "after")}

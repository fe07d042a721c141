"""Which blocks of a trained residual network can go: study, guarded removal, fine-tuning, export.

After "Auto-tuning of Deep Neural Networks by Conflicting Layer Removal" (arXiv 2103.04331); the guard, measuring again
after each removal, fine-tuning and export are ours. Read next: ``models/branches.py`` (measuring),
``removal_curves.py`` (the study), ``removal_progress.py`` (what a killed removal goes on from),
``training/networks/exported.py``.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..._version import __version__
from ...grid import UpdateGrid
from ...models.branches import BlockMeasurement, measure_blocks, without_branches
from ...runs.schema import EXPORT, MeasuredLayer
from ...runs.stored_runs import open_folder
from ...surgery.surgery import Surgery, remove_layers
from ..config import RemoveConfig, to_dict
from ..configured import environment, settled, threads_of
from ..networks.exported import export_network, load_cut
from ..trained_run import TrainedRun, accuracy_of, fit
from .removal_curves import KINDS, removal_curves
from .removal_progress import RemovalProgress

Report = Callable[[str], object]
_ROUNDING = 1e-9
"""Accuracies are shares of whole numbers of samples; the limit is a difference of two of them."""


@dataclass(frozen=True)
class Part:
    """Samples that accuracies are taken on."""

    name: str
    """Where they are from."""
    images: torch.Tensor
    """(N, C, H, W) as in the data set, on the run's device."""
    labels: torch.Tensor
    """(N,) int64, there."""

    def about(self, accuracy: float | None = None) -> dict[str, Any]:
        """JSON types."""
        found = {"split": self.name, "samples": len(self.labels)}
        return found if accuracy is None else {**found, "accuracy": accuracy}


@dataclass(frozen=True)
class Parts:
    """Who is asked what: the guard decides, the test reports, the study is drawn from what reports."""

    guard: Part
    test: Part
    study: Part


def parts_of(run: TrainedRun, study_size: int, seed: int) -> Parts:
    """The run's validation samples guard and its test samples report.

    A run that held none back is guarded by every other test sample, and the rest reports: no sample does both, and a
    test set that is sorted by class stays balanced.
    """
    (images, labels), held_back = run.samples.test, run.samples.validation_indices.to(run.device)
    reporting, guard_name, name = np.arange(len(labels)), "validation", "test"
    guarding = (run.samples.train[0][held_back], run.samples.train[1][held_back])
    if not len(held_back):
        guard_name, name = "test (one half)", "test (other half)"
        guarding, reporting = (images[::2], labels[::2]), reporting[1::2]
    if not len(reporting):
        raise ValueError(f"{run.folder} has {len(labels)} test samples; one is needed to guard and one to report")
    chosen = np.sort(_random(seed).permutation(reporting)[:study_size])
    test, study = (Part(name, images[i], labels[i]) for i in map(torch.from_numpy, (reporting, chosen)))
    return Parts(Part(guard_name, *guarding), test, study)


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
        run: a trained "resnet"; its model is cut and fine-tuned in place.
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
    steps, removed, reason = removal.guarded(blocks)
    healed = removal.healed(removed)
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
        "guard": removal.parts.guard.about(removal.guard_accuracy(())),
        "test": removal.parts.test.about(),
        "steps": steps,
        "removed": removed,
        "reason": reason,
        **healed,
        "finetune_epochs": config.finetune_epochs,
        "export": f"{EXPORT}/",
    }


def require_removable(run: TrainedRun) -> None:
    """Refuse what has no shortcuts or no useful weights.

    Raises:
        ValueError: one sentence.
    """
    architecture = run.architecture
    if architecture.model != "resnet":
        raise ValueError(
            f"{run.folder} holds a network without shortcuts ({architecture}), and without its branch a block passes "
            "nothing on; train a residual one with --model resnet"
        )
    if run.result.get("status") == "diverged":
        raise ValueError(f"the training in {run.folder} diverged; train it again, with a smaller --learning-rate")
    if architecture.num_blocks < 2:
        raise ValueError(f"{run.folder} holds {architecture}; a network of two blocks at least can lose one")


class Removal:
    """The parts of ``remove_blocks``, each on one run.

    Args:
        run: a trained residual network.
        config: what is tried.
        progress: accuracies that are known.
        report: gets lines of text.
    """

    def __init__(self, run: TrainedRun, config: RemoveConfig, progress: RemovalProgress, report: Report) -> None:
        self.run, self.config, self.report = run, config, report
        self.folder, self._progress = progress.folder, progress
        self.stages: list[list[str]] = run.model.block_names()
        self.names = [name for stage in self.stages for name in stage]
        self.parts = parts_of(run, config.study_size, config.seed)
        probe = torch.from_numpy(np.sort(_random(config.seed).permutation(run.train_indices)[: config.probe_size]))
        self._probe_images = run.preparation.for_testing(run.samples.train[0][probe.to(run.device)])
        self._probe_labels = run.samples.train[1][probe.to(run.device)]
        self._example = run.samples.example(run.batch_size)
        self._order = {name: i for i, name in enumerate(_random(config.seed).permutation(self.names).tolist())}

    # --- accuracies, each asked for once

    def guard_accuracy(self, removed: Sequence[str]) -> float:
        """Of the network without these branches, on the samples that decide."""
        return self._accuracy(self.parts.guard, "guard", removed)

    def study_accuracy(self, removed: Sequence[str]) -> float:
        """The same on the samples of the study."""
        return self._accuracy(self.parts.study, "study", removed)

    def test_accuracy(self, removed: Sequence[str]) -> float:
        """The same on the samples that report."""
        return self._accuracy(self.parts.test, "test", removed)

    def _accuracy(self, part: Part, key: str, removed: Sequence[str]) -> float:
        indices = sorted(self.names.index(name) for name in removed)

        def evaluate() -> float:
            with without_branches(self.run.model, removed):
                return self._accuracy_now(part)

        return self._progress.accuracy(f"{key}: {' '.join(map(str, indices))}", evaluate)

    def _accuracy_now(self, part: Part) -> float:
        return accuracy_of(self.run.model, part.images, part.labels, self.run.preparation)

    # --- measuring

    def measured(self, removed: Sequence[str]) -> list[BlockMeasurement]:
        """The blocks that are left, in the network without these branches."""
        run = self.run
        left = [[name for name in stage if name not in removed] for stage in self.stages]
        gone = tuple(f"{name}.branch." for name in removed)
        weights = nn.ParameterList(p for name, p in run.model.named_parameters() if not name.startswith(gone))
        grid = UpdateGrid.from_optimizer(weights, torch.optim.SGD(weights, lr=run.learning_rate), run.batch_size)
        with without_branches(run.model, removed):
            return measure_blocks(run.model, left, self._probe_images, self._probe_labels, grid)

    def described(self, block: BlockMeasurement) -> dict[str, Any]:
        """A row of the table of blocks."""
        alone = self.study_accuracy([block.block]) if self.config.study else None
        conflicts = block.conflicts(self.config.min_conflicting_rows)
        return {**block.to_dict(), "conflicts": conflicts, "accuracy_without": alone}

    # --- the study

    def studied(self, blocks: Sequence[BlockMeasurement]) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
        """Accuracy against the number of removed blocks, and on which samples."""
        least = self.config.min_conflicting_rows
        began = time.perf_counter()
        for block in blocks:
            self.study_accuracy([block.block])
        self._progress.save()
        self.report(f"study: each block alone, {time.perf_counter() - began:.1f} s")

        def on_point(kind: str, point: dict[str, Any]) -> None:
            self._progress.save()
            self.report(
                f"study: without {point['removed']} {kind} blocks {point['mean']:.1%} +- {point['std']:.1%}, "
                f"{time.perf_counter() - began:.1f} s"
            )

        curves = removal_curves(
            [block.block for block in blocks if block.conflicts(least)],
            [block.block for block in blocks if not block.conflicts(least)],
            [block.block for block in self.ranked(blocks, "margin")],
            self.study_accuracy,
            draws=self.config.draws,
            most=self.config.most,
            seed=self.config.seed,
            on_point=on_point,
        )
        return curves, self.parts.study.about(self.study_accuracy(()))

    # --- removing one at a time

    def ranked(self, blocks: Sequence[BlockMeasurement], rank: str) -> list[BlockMeasurement]:
        """Those that may go, the best candidate first; among equals the later block."""
        if rank == "conflicts":
            blocks = [block for block in blocks if block.conflicts(self.config.min_conflicting_rows)]

        def key(block: BlockMeasurement) -> tuple[float, float, int]:
            entropy = math.inf if math.isnan(block.result.entropy) else block.result.entropy
            first = {
                "conflicts": (-entropy, block.margin),
                "margin": (block.margin, -entropy),
                "similarity": (-block.similarity, block.margin),
                "random": (float(self._order[block.block]), 0.0),
            }[rank]
            return (*first, -self.names.index(block.block))

        return sorted(blocks, key=key)

    def guarded(self, blocks: Sequence[BlockMeasurement]) -> tuple[list[dict[str, Any]], list[str], str]:
        """Try each block once, measured again after each removal.

        Args:
            blocks: measured before any removal.

        Returns:
            The steps; the removed blocks, in the order of their removal; why it ended.
        """
        config, steps, removed = self.config, list[dict[str, Any]](), list[str]()
        limit = self.guard_accuracy(()) - config.max_drop
        most = len(self.names) - 1 if config.max_removed is None else min(config.max_removed, len(self.names) - 1)
        tried: set[str] = set()
        while len(removed) < most:
            candidate = next((b for b in self.ranked(blocks, config.rank) if b.block not in tried), None)
            if candidate is None:
                break
            tried.add(candidate.block)
            accuracy = self.guard_accuracy([*removed, candidate.block])
            goes = accuracy >= limit - _ROUNDING
            verdict = f"{accuracy:.2%} {'is not' if goes else 'is'} below {limit:.2%}"
            reason = f"{_why(candidate, config.rank)}; {self.parts.guard.name} accuracy {verdict}"
            steps.append({"block": candidate.block, "kept": goes, "accuracy": accuracy, "reason": reason})
            self._progress.save()
            self.report(f"{candidate.block} {'removed' if goes else 'stays'}: {reason}")
            if goes:
                removed.append(candidate.block)
                blocks = self.measured(removed)
        return steps, removed, self._why_ended(tried, removed, most)

    def _why_ended(self, tried: set[str], removed: list[str], most: int) -> str:
        if len(removed) == most:
            return f"{most} blocks were removed" if self.config.max_removed == most else "one block has to stay"
        if not tried and self.config.rank == "conflicts":
            return "no block conflicts, so none was tried; --rank margin tries all"
        left = "conflicting block" if self.config.rank == "conflicts" else "block"
        return f"every {left} was tried"

    # --- cutting, fine-tuning, export

    def healed(self, removed: Sequence[str]) -> dict[str, Any]:
        """Cut the model, fine-tune and export it; accuracies and costs before and after."""
        run, folder = self.run, self.folder
        before, after = self.test_accuracy(()), self.test_accuracy(removed)
        self._progress.save()
        known = self._progress.healed
        if known is None:
            _, surgery = remove_layers(run.model, removed, example=self._example)
            history = self._finetuned() if removed else []
            known = {"accuracy": self._accuracy_now(self.parts.test) if history else after, "history": history}
            export_network(folder.path / EXPORT, run, surgery)
            self._progress.healed = known
            self._progress.save()
        else:
            surgery = load_cut(folder.path / EXPORT, run.model)
        folder.write_json_lines("history.jsonl", known["history"])
        return {
            "accuracy": {"before": before, "removed": after, "healed": known["accuracy"]},
            **self._costs(surgery),
        }

    def _finetuned(self) -> list[dict[str, Any]]:
        config = self.config
        if not config.finetune_epochs:
            return []

        def on_epoch(line: dict[str, Any]) -> None:
            self.report(f"fine-tuning: epoch {line.get('epoch')} of {config.finetune_epochs}")

        lines = fit(self.run.model, self.run, epochs=config.finetune_epochs, seed=config.seed, on_epoch=on_epoch)
        return [{**line, "run": "finetune", "round": 0} for line in lines]

    def _costs(self, surgery: Surgery) -> dict[str, Any]:
        self.report(f"cost of a batch of {len(self._example)}, before and after in turns")
        summary = surgery.summary(self._example).to_dict()
        return {when: {**summary[when], "latency_batch": len(self._example)} for when in ("before", "after")}


def _why(block: BlockMeasurement, rank: str) -> str:
    if rank == "random":
        return "drawn"
    if rank == "similarity":
        return f"similarity {block.similarity:.4f} of input and output"
    if rank == "conflicts":
        return f"{block.result.num_conflicting} conflicting bundles, entropy {block.result.entropy:.3g}"
    bits = f" ({block.margin_bits:.1f} bits)" if math.isfinite(block.margin_bits) else ""
    return f"margin {block.margin:.3g}{bits}"


def _random(seed: int) -> np.random.RandomState:
    return np.random.RandomState([seed % 2**32, seed // 2**32])

"""A trained residual network without some of its blocks: how accurate it is, and what its other blocks measure."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ...grid import UpdateGrid
from ...models.branches import BlockMeasurement, measure_blocks, without_branches
from ...wording import percent, points, seconds
from ..config import RemoveConfig
from ..trained_run import TrainedRun, accuracy_of
from .removal_curves import removal_curves
from .removal_progress import RemovalProgress
from .removal_samples import Part, parts_of, random_numbers

Report = Callable[[str], object]


class Removal:
    """One run, and what is known of it.

    Args:
        run: a trained residual network.
        config: what is tried.
        progress: accuracies that are known.
        report: gets lines of text.
    """

    def __init__(self, run: TrainedRun, config: RemoveConfig, progress: RemovalProgress, report: Report) -> None:
        self.run, self.config, self.report = run, config, report
        self.folder, self.progress = progress.folder, progress
        self.stages: list[list[str]] = run.model.block_names()
        self.names = [name for stage in self.stages for name in stage]
        self.parts = parts_of(run, config.study_size, config.seed)
        chosen = random_numbers(config.seed).permutation(run.train_indices)[: config.probe_size]
        probe = torch.from_numpy(np.sort(chosen)).to(run.device)
        self.probe = run.preparation.for_testing(run.samples.train[0][probe]), run.samples.train[1][probe]
        self.example = run.samples.example(run.batch_size)
        self.whole = copy.deepcopy(run.model)

    def accuracy(self, part: Part, removed: Sequence[str]) -> float:
        """Of the trained network without these branches, each asked for once."""
        indices = sorted(self.names.index(name) for name in removed)

        def evaluate() -> float:
            with without_branches(self.whole, removed):
                return self.accuracy_now(part, self.whole)

        return self.progress.accuracy(f"{part.role}: {' '.join(map(str, indices))}", evaluate)

    def accuracy_now(self, part: Part, model: Any) -> float:
        """Of a network as it is."""
        return accuracy_of(model, part.images, part.labels, self.run.preparation)

    def measured(self) -> list[BlockMeasurement]:
        """All blocks, before any removal."""
        optimizer = torch.optim.SGD(self.whole.parameters(), lr=self.run.learning_rate)
        grid = UpdateGrid.from_optimizer(self.whole, optimizer, self.run.batch_size)
        return measure_blocks(self.whole, self.stages, *self.probe, grid)

    def described(self, block: BlockMeasurement) -> dict[str, Any]:
        """A row of the table of blocks."""
        alone = self.accuracy(self.parts.study, [block.block]) if self.config.study else None
        conflicts = block.conflicts(self.config.min_conflicting_rows)
        return {**block.to_dict(), "conflicts": conflicts, "accuracy_without": alone}

    def notes(self) -> list[str]:
        """What makes a removal worth little, known before anything goes."""
        drop, guards = self.config.max_drop, len(self.parts.guard.labels)
        chance = self.run.samples.chance_note(self.accuracy(self.parts.test, ())).removeprefix("; ")
        notes = [f"{chance}, so that what its blocks are for cannot be told; train it further first"] if chance else []
        if 0 < drop * guards < 1 - 1e-9:
            notes.append(
                f"at most {percent(drop)} may be lost, which is less than one of the {guards} samples that guard; the "
                f"smallest loss that they can show is {percent(1 / guards)}, so that none may be lost at all"
            )
        return notes

    def studied(self, blocks: Sequence[BlockMeasurement]) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
        """Accuracy against the number of removed blocks, and on which samples."""
        least = self.config.min_conflicting_rows
        began = time.perf_counter()
        for block in blocks:
            self.accuracy(self.parts.study, [block.block])
        self.progress.save()
        self.report(f"study: each block alone, {seconds(time.perf_counter() - began)}")

        def on_point(kind: str, point: dict[str, Any]) -> None:
            self.progress.save()
            self.report(
                f"study: without {point['removed']} {kind} blocks {percent(point['mean'])} +- {points(point['std'])}, "
                f"{seconds(time.perf_counter() - began)}"
            )

        curves = removal_curves(
            [block.block for block in blocks if block.conflicts(least)],
            [block.block for block in blocks if not block.conflicts(least)],
            [block.block for block in sorted(blocks, key=lambda b: (b.margin, -blocks.index(b)))],
            lambda removed: self.accuracy(self.parts.study, removed),
            draws=self.config.draws, most=self.config.most, seed=self.config.seed, on_point=on_point,
        )  # fmt: skip
        return curves, self.parts.study.about(self.accuracy(self.parts.study, ()))

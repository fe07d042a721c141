"""A trained residual network without some of its blocks: how accurate it is, and what its other blocks measure."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ...grid import UpdateGrid
from ...models.branches import BlockMeasurement, measure_blocks, without_branches
from ..config import RemoveConfig
from ..rankings import MARGIN, Ranking
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
        probe = torch.from_numpy(np.sort(chosen))
        self._probe_images = run.preparation.for_testing(run.samples.train[0][probe.to(run.device)])
        self._probe_labels = run.samples.train[1][probe.to(run.device)]
        self.example = run.samples.example(run.batch_size)
        self._order = {name: i for i, name in enumerate(random_numbers(config.seed).permutation(self.names).tolist())}

    # --- accuracies, each asked for once

    def accuracy(self, part: Part, removed: Sequence[str]) -> float:
        """Of the network without these branches."""
        indices = sorted(self.names.index(name) for name in removed)

        def evaluate() -> float:
            with without_branches(self.run.model, removed):
                return self.accuracy_now(part)

        return self.progress.accuracy(f"{part.role}: {' '.join(map(str, indices))}", evaluate)

    def accuracy_now(self, part: Part) -> float:
        """Of the network as it is."""
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
        alone = self.accuracy(self.parts.study, [block.block]) if self.config.study else None
        conflicts = block.conflicts(self.config.min_conflicting_rows)
        return {**block.to_dict(), "conflicts": conflicts, "accuracy_without": alone}

    # --- the study

    def studied(self, blocks: Sequence[BlockMeasurement]) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
        """Accuracy against the number of removed blocks, and on which samples."""
        least = self.config.min_conflicting_rows
        began = time.perf_counter()
        for block in blocks:
            self.accuracy(self.parts.study, [block.block])
        self.progress.save()
        self.report(f"study: each block alone, {time.perf_counter() - began:.1f} s")

        def on_point(kind: str, point: dict[str, Any]) -> None:
            self.progress.save()
            self.report(
                f"study: without {point['removed']} {kind} blocks {point['mean']:.1%} +- {point['std']:.1%}, "
                f"{time.perf_counter() - began:.1f} s"
            )

        curves = removal_curves(
            [block.block for block in blocks if block.conflicts(least)],
            [block.block for block in blocks if not block.conflicts(least)],
            [block.block for block in self.ranked(blocks, MARGIN)],
            lambda removed: self.accuracy(self.parts.study, removed),
            draws=self.config.draws,
            most=self.config.most,
            seed=self.config.seed,
            on_point=on_point,
        )
        return curves, self.parts.study.about(self.accuracy(self.parts.study, ()))

    def ranked(self, blocks: Sequence[BlockMeasurement], ranking: Ranking) -> list[BlockMeasurement]:
        """Those that may go, the best candidate first; among equals the later block."""
        least = self.config.min_conflicting_rows
        tried = [block for block in blocks if not ranking.only_conflicting or block.conflicts(least)]
        return sorted(tried, key=lambda b: (*ranking.key(b, self._order[b.block]), -self.names.index(b.block)))

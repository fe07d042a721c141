"""Rank, remove, heal, evaluate, and undo what cost too much: as many blocks as a model can do without.

Read next: ``block_rankings.py`` (which block goes first), ``strategies.py`` (how many at once), ``prune_log.py``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from ...files.folder_lock import held
from ...files.folders import make_folder, output_path
from ...files.json_files import finite_or_none
from ...grid import UpdateGrid
from ...models.cost import measure_cost, samples_in
from ...models.evaluation import random_numbers_kept
from ...models.probe import as_probe
from ...models.training_grid import TrainingGrid
from ..optimizer import require_droppable
from ..plan import Removable, removable_blocks
from ..surgery import Optimizers, Surgery, joined, own_module, remove_layers
from .baselines import BASELINES
from .block_rankings import RANKINGS, BlockRanking, of_user, ranked
from .block_scores import Candidates, Loss, probe_on
from .progress import Progress, checksum
from .prune_log import PruneLog, PruneStep
from .snapshot import Snapshot, content_of, fill
from .strategies import STRATEGIES, RemovalStrategy, Sizes

Evaluate = Callable[[Any], Any]
Heal = Callable[[Any], object]
OnStep = Callable[[PruneStep], object]
Rank = str | Callable[[nn.Module, list[str]], Mapping[str, float]]

_ROUNDING = 1e-9
"""Accuracies are often shares of whole numbers of samples; the limit is a difference of two of them."""
_REPEATS = 11
"""Timed passes of every step, so many that one that was held up does not count."""


def prune_blocks(
    model: nn.Module, probe: object, *, evaluate: Evaluate, heal: Heal | None = None, rank: Rank = "margin",
    strategy: str | RemovalStrategy = "geometric", max_drop: float = 0.01, target: float | None = None,
    optimizer: Optimizers | None = None, batch_size: int | None = None, grid: UpdateGrid | None = None,
    loss: Loss | None = None, mask: object = "attention_mask", min_conflicting_rows: int = 1, seed: int = 0,
    test: Evaluate | None = None, example: object = None, out: str | os.PathLike[str] | None = None,
    resume: bool = False, on_step: OnStep = lambda step: None, baseline: str = "first",
) -> tuple[nn.Module, Surgery, PruneLog]:  # fmt: skip
    """Remove as many residual blocks as the model can do without, in place: rank, remove, heal, evaluate, again.

    A removal after which ``evaluate`` returns too little is undone exactly, with weights and optimizer as they were,
    and fewer blocks are tried. Blocks are ranked anew after every step that stays. The model itself is cut and trained:
    ``copy.deepcopy`` it first if you want the original; ``Surgery.undo`` puts the blocks back into the healed rest.

    Args:
        model: as ``remove_layers`` takes it.
        probe: as ``LayerMonitor`` takes it; 64 to 512 training samples to rank blocks on, no test data.
        evaluate: model -> a finite number, higher is better: an accuracy on held-out samples, or minus a loss.
        heal: trains the model that it is given, for an epoch or a few; None: nothing is trained.
        rank: "margin", "conflicts", "similarity", "taylor", "weight_norm", "bn_scale" or "random", or a function
            (model, names) -> name -> score; the smallest score goes first, a block without one stays.
        strategy: "geometric" (few healings), "one" (every block is tried alone) or "at_once".
        max_drop: how much less ``evaluate`` may return, in its unit: 0.01 is one point of an accuracy up to 1.
        target: share of the blocks in [0, 1] at which it ends; None: it goes on as long as blocks can go.
        optimizer: of the training, or a list of several; loses what is gone.
        batch_size: of the training; with a single optimizer it gives the update grid of "conflicts".
        grid: instead of that one.
        loss: (what the model returned, labels) -> loss, for "taylor"; None: cross-entropy of logits.
        mask: as ``LayerMonitor`` takes it.
        min_conflicting_rows: rows in conflicting bundles that make a conflict, for "conflicts".
        seed: of the random numbers in ``heal`` and ``evaluate``, drawn anew in every step; the caller's go on.
        test: like ``evaluate``, of every step that stays; decides nothing, stands in the log.
        example: input of the model on which costs are measured; None: the first batch of the probe.
        out: folder of one process, for a log and the weights of the last kept step: a killed pruning goes on there.
        resume: go on from ``out``, with a model as before the first removal.
        on_step: called after each step, the first one (the model as it was) included.
        baseline: ``max_drop`` counts from the score of the model as it was, "first", or from the "best" one so far.

    Returns:
        The same model; one surgery for all removals, which saves, loads and undoes; what was tried.

    Raises:
        ValueError, TypeError, RuntimeError: one sentence on what is wrong; the model is then as before.

    Source: arXiv 2103.04331 (conflicts), 2403.03853 (similarity), 1906.10771 (Taylor), 1708.06519 (batch norm scale).

    Example:
        >>> import torch
        >>> model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 4)
        >>> probe = torch.randn(6, 5, 8), torch.tensor([0, 1, 2, 0, 1, 2])
        >>> model, surgery, log = prune_blocks(model, probe, evaluate=lambda model: 0.9, target=0.5)
        >>> len(log.removed), len(model.layers)
        (2, 2)
    """
    calls = _Calls(model, own_module(model), evaluate, heal, test, optimizer, seed)
    limits = _limits(max_drop, target, baseline, evaluate=evaluate, heal=heal, test=test)
    scored = {"loss": loss, "seed": seed, "min_conflicting_rows": min_conflicting_rows}
    source = _grid(grid, optimizer, batch_size)
    pruning = _Pruning(calls, rank, strategy, as_probe(probe, mask), source, scored, example)
    return model, pruning.run(out, resume, limits, on_step), pruning.log


def _grid(
    grid: UpdateGrid | None, optimizer: Optimizers | None, batch_size: int | None
) -> UpdateGrid | TrainingGrid | None:
    single = None if isinstance(optimizer, Sequence) else optimizer
    return grid if grid is not None or single is None or not batch_size else TrainingGrid(single, batch_size)


def _limits(max_drop: object, target: object, baseline: object, **functions: object) -> dict[str, Any]:
    """These limits as JSON types, when they and the functions may be used."""
    for name, function in functions.items():
        if not callable(function) and (function is not None or name == "evaluate"):
            raise TypeError(f"{name} is {function!r}; pass a function of the model")
    if isinstance(max_drop, bool) or not isinstance(max_drop, (int, float)) or not math.isfinite(max_drop):
        raise ValueError(f"max_drop is {max_drop!r}; it must be a finite number, such as 0.01 of an accuracy up to 1")
    if max_drop < 0:
        raise ValueError(f"max_drop is {max_drop!r}; it must be at least 0, for it says how much may be lost")
    is_share = isinstance(target, (int, float)) and not isinstance(target, bool) and 0 <= target <= 1
    if target is not None and not is_share:
        raise ValueError(f"target is {target!r}; it must be a share of the blocks, at least 0 and at most 1")
    return {"max_drop": max_drop, "target": target, "baseline": BASELINES.chosen(baseline).name}


@dataclass(frozen=True)
class _Calls:
    """A user's model and functions."""

    model: nn.Module
    inner: nn.Module
    evaluate: Evaluate
    heal: Heal | None
    test: Evaluate | None
    optimizer: Optimizers | None
    seed: int

    def evaluated(self, when: str) -> float:
        return self._number(self.evaluate, "evaluate", when)

    def tested(self, when: str) -> float | None:
        return None if self.test is None else self._finite(self._number(self.test, "test", when), "test", when)

    def evaluated_before(self) -> float:
        when = "before the first removal"
        return self._finite(self.evaluated(when), "evaluate", when)

    def _finite(self, number: float, name: str, when: str) -> float:
        if not math.isfinite(number):
            raise ValueError(f"{name} returned {number} {when}; it must return a finite number, higher being better")
        return number

    def _number(self, function: Evaluate, name: str, when: str) -> float:
        """NaN and infinities included: healing may diverge."""
        value = self._called(function, name, when)
        try:
            return float(value.detach() if isinstance(value, torch.Tensor) else value)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"{name} returned {value!r} {when}; it must return a number, higher being better") from None

    def healed(self, when: str) -> None:
        assert self.heal is not None
        self._called(self.heal, "heal", when)

    def _called(self, function: Callable[[Any], Any], name: str, when: str) -> Any:
        try:
            return function(self.model)
        except Exception as error:
            told = f"{name} raised {type(error).__name__} ({error}) {when}"
            raise RuntimeError(f"{told}; the model was put back as it was") from error


class _Pruning:
    """One ``prune_blocks``."""

    log: PruneLog

    def __init__(
        self, calls: _Calls, rank: Rank, strategy: str | RemovalStrategy, batches: Any, grid: Any,
        scored: Mapping[str, Any], example: object,
    ) -> None:  # fmt: skip
        self._calls, self._inner = calls, calls.inner
        self._ranking: BlockRanking = of_user(rank) if callable(rank) else RANKINGS.chosen(rank)
        self._strategy = strategy if isinstance(strategy, RemovalStrategy) else STRATEGIES.chosen(strategy)
        if calls.optimizer is not None:
            require_droppable(calls.optimizer, calls.inner)
        self._batches, self._grid, self._scored = probe_on(calls.inner, batches), grid, scored
        if not self._batches:
            raise ValueError("the probe has no sample; pass (x, y) or a list of such pairs")
        self._example = (self._batches[0].kwargs or self._batches[0].args) if example is None else example
        self._surgeries: list[Surgery] = []
        self._parameters = sum(p.numel() for p in self._inner.parameters())
        self._training = {module: module.training for module in self._inner.modules()}
        self._first = self._now = Snapshot(self._inner, calls.optimizer)

    def run(
        self, out: str | os.PathLike[str] | None, resume: bool, limits: Mapping[str, Any], on_step: OnStep
    ) -> Surgery:
        """Everything in turn; whatever is raised leaves the model and its optimizer as they were before."""
        grid = self._grid.to_dict() if isinstance(self._grid, UpdateGrid) else None
        probe = tree_leaves([(batch.args, batch.kwargs, batch.labels) for batch in self._batches])
        options = {
            "rank": self._ranking.name, "strategy": self._strategy.name, **limits,
            "seed": self._calls.seed, "heals": self._calls.heal is not None, "grid": grid,
            "min_conflicting_rows": self._scored["min_conflicting_rows"],
            "probe": checksum({str(i): each for i, each in enumerate(probe)}),
        }  # fmt: skip
        with nullcontext() if out is None else held(make_folder(output_path(out))):
            progress = Progress(out, self._inner, options, resume)
            try:
                return self._all_steps(progress, limits, on_step)
            except BaseException:
                for surgery in reversed(self._surgeries):
                    surgery.undo()
                self._first.put_back()
                self._put_flags_back()
                raise

    def _all_steps(self, progress: Progress, limits: Mapping[str, Any], on_step: OnStep) -> Surgery:
        removable = self._removable()
        blocks = removable.found.blocks
        self._first_names = {self._inner.get_submodule(name): name for name in blocks}
        share = 1 if limits["target"] is None else limits["target"]
        self._wanted = math.ceil(share * len(blocks) - _ROUNDING)
        if progress.log is None:
            self.log = PruneLog(
                self._ranking.name, self._strategy.name, num_blocks=len(blocks), refused=removable.refused,
                num_samples=samples_in(self._example), **limits,
            )  # fmt: skip
            self._added(self._step_0(), progress, on_step)
        else:
            self._taken_up(progress)
            removable = self._removable()
        sizes = self._strategy.sizes(self._wanted)
        size = next(sizes, 0)
        for step in self.log.steps[1:]:
            size = _next_size(sizes, step)
        while not self.log.reason:
            order = self._order(removable) if size else {}
            chosen, reason = self._chosen(removable, order, size)
            if not chosen:
                self.log.reason = reason
                break
            step = self._tried(chosen, [order[name] for name in chosen])
            if step.kept:
                heals = self._calls.heal is not None
                progress.kept(chosen, content_of(self._inner, self._calls.optimizer) if heals else None)
                removable = self._removable()
            self._added(step, progress, on_step)
            size = _next_size(sizes, step)
        progress.write(self.log)
        self._put_flags_back()
        was_healed = any(step.kept and step.was_healed for step in self.log.steps)
        return joined(self._inner, self._surgeries, self._parameters, was_healed)

    def _put_flags_back(self) -> None:
        for module in self._inner.modules():
            module.training = self._training.get(module, self._training[self._inner])

    def _removable(self) -> Removable:
        removable = removable_blocks(self._inner, self._example)
        if not removable.steps and not self._surgeries:
            blocks, kind = removable.found.blocks, type(self._inner).__name__
            if not blocks:
                raise ValueError(f"{kind} cannot be pruned: {removable.found.none_found}")
            why = f"none of them can be removed; for one: {next(iter(removable.refused.values()))}"
            raise ValueError(f"{kind} has {len(blocks)} residual blocks, and {why}")
        return removable

    def _added(self, step: PruneStep, progress: Progress, on_step: OnStep) -> None:
        self.log.steps.append(step)
        progress.write(self.log)
        on_step(step)

    def _step_0(self) -> PruneStep:
        with random_numbers_kept(self._inner, self._calls.seed):
            accuracy = self._calls.evaluated_before()
            most = self.log.max_drop
            if 0 <= accuracy <= 1 < most:
                raise ValueError(
                    f"max_drop is {most!r}, but evaluate returned {accuracy:.4f} before the first removal, which looks "
                    f"like a share; pass max_drop={most / 100:g} for {most:g} percentage points"
                )
            tested = self._calls.tested("before the first removal")
        return PruneStep((), (), True, "the model as it was", 0, accuracy, accuracy, tested, **self._cost())

    def _taken_up(self, progress: Progress) -> None:
        """Do again what an earlier pruning did, and load the weights that it had then."""
        assert progress.log is not None
        self.log = progress.log
        for names in progress.operations:
            self._cut(names)
        weights = progress.weights()
        if weights is not None:
            fill(self._inner, self._calls.optimizer, weights)
        self._now = Snapshot(self._inner, self._calls.optimizer)

    def _order(self, removable: Removable) -> dict[str, float]:
        """Names of the blocks of now that may be tried, the first one to remove first, and their scores."""
        names = {name: self._first_name(name) for name in removable.found.blocks}
        grid = self._grid.of(self._inner)[0] if isinstance(self._grid, TrainingGrid) else self._grid
        asked = Candidates(self._inner, removable, self._batches, grid, first_names=names, **self._scored)
        alone = {step.blocks[0] for step in self.log.steps[1:] if len(step.blocks) == 1 and not step.kept}
        with random_numbers_kept(self._inner, self._calls.seed + len(self.log.steps)):
            order = ranked(self._ranking, asked)
        return {name: score for name, score in order.items() if names[name] not in alone}

    def _first_name(self, name: str) -> str:
        return self._first_names.get(self._inner.get_submodule(name), name)

    def _chosen(self, removable: Removable, order: dict[str, float], size: int) -> tuple[list[str], str]:
        """The blocks of the next step, or why there is none."""
        left = self._wanted - len(self.log.removed)
        if left <= 0:
            return [], f"all blocks that were to be removed are gone: {len(self.log.removed)}"
        failed = 0
        for step in self.log.steps[1:]:
            failed = 0 if step.kept else failed + (len(step.blocks) == 1)
        if self._strategy.patience is not None and failed >= self._strategy.patience:
            alone = "a block" if failed == 1 else f"{failed} blocks in a row, each alone,"
            return [], f"{alone} could not go; strategy='one' tries every block"
        chosen: list[str] = []
        for name in order:
            if len(chosen) < min(size, left) and removable.leaves_some([*chosen, name]):
                chosen.append(name)
        if chosen or not size:
            return chosen, "no smaller removal is left to try"
        return [], self._ranking.none_left if not order else "one block has to stay"

    def _cut(self, names: list[str]) -> None:
        _, surgery = remove_layers(self._inner, names, optimizer=self._calls.optimizer, example=self._example)
        self._surgeries.append(surgery)

    def _tried(self, names: list[str], scores: list[float]) -> PruneStep:
        calls, number = self._calls, len(self.log.steps)
        blocks = tuple(self._first_name(name) for name in names)
        num_removed = len(self.log.removed) + len(names)
        when = f"without {', '.join((*self.log.removed, *blocks))}"
        try:
            self._cut(names)
        except ValueError as error:
            return PruneStep(blocks, tuple(scores), False, str(error), num_removed)
        with random_numbers_kept(self._inner, calls.seed + number):
            accuracy = healed = calls.evaluated(when)
            was_healed = None
            if calls.heal is not None:
                calls.healed(when)
                was_healed = not self._now.has_weights_of(self._inner)
                healed = calls.evaluated(f"{when}, healed")
            kept = math.isfinite(healed) and healed >= self.log.limit - _ROUNDING
            tested = calls.tested(when) if kept else None
        reason = f"{healed:.4f} {'is not' if kept else 'is'} below {self.log.limit:.4f}"
        if not math.isfinite(healed):
            reason = f"evaluate returned {healed}"
        accuracies = finite_or_none(accuracy), finite_or_none(healed), tested
        step = PruneStep(blocks, tuple(scores), kept, reason, num_removed, *accuracies, was_healed, **self._cost())
        if kept:
            self._now = Snapshot(self._inner, calls.optimizer)
        else:
            self._surgeries.pop().undo()
            self._now.put_back()
        return step

    def _cost(self) -> dict[str, Any]:
        try:
            cost = measure_cost(self._calls.model, self._example, repeats=_REPEATS).to_dict()
        except Exception as error:  # healing may have made of the model what the example does not fit
            told = f"the model raised {type(error).__name__} ({error}) on the example"
            raise RuntimeError(f"{told}; it was put back as it was") from error
        return {name: cost[name] for name in cost.keys() & {each.name for each in fields(PruneStep)}}


def _next_size(sizes: Sizes, step: PruneStep) -> int:
    """How many blocks to try after a step; after one that failed fewer than it had, 0 for none."""
    tried, size = len(step.blocks), 0
    try:
        size = sizes.send(step.kept)
        for _ in range(64):  # halvings; a strategy that does not come down is brought down
            if step.kept or size < tried or tried == 1:
                break
            size = sizes.send(False)
    except StopIteration:
        return 0
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise ValueError(f"strategy yielded the size {size!r}; it must be a whole number of blocks")
    return size if step.kept or tried == 1 else min(size, tried - 1)

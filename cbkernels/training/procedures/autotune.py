"""Auto-tune: train, remove what conflicts early on, start again from scratch, until a network trains without conflict.

After "Conflicting Bundles" (arXiv 2011.02956) and "Auto-tuning of Deep Neural Networks by Conflicting Layer Removal"
(arXiv 2103.04331). Here is the loop; the policies are in ``training/policies.py``, an epoch is in
``training/loop/measured_epochs.py``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ..._version import __version__
from ...files.folders import output_path
from ...files.json_files import finite_or_none
from ...findings.layer_report import LayerReport
from ...ranks import Ranks, device_named, joined
from ...result import BundleResult
from ...runs.ending import AT_END
from ...runs.log import RunLog
from ...runs.outcomes import told_of
from ...runs.schema import AutotuneResult
from ...runs.stored_runs import open_folder
from ...tables import html_table
from ...wording import counted, percent
from ..config import AutotuneConfig, TrainConfig, require_known, to_dict
from ..configured import data_set_of, environment, network_of, require_apart_from_data, settled, threads_of
from ..data.samples import AsGiven, Samples, divided, samples_of
from ..loop.epochs import Recipe, Training
from ..loop.measured_epochs import MeasuredTraining, progress_line, times
from ..loop.measuring import cost_of
from ..networks.architecture import Architecture
from ..policies import POLICIES, BlockNames, Policy, Removes, policy_of
from ..shrinking import removed_blocks
from ..trained_run import teacher_of
from .rounds import TITLES, rows_of_rounds
from .train import Show

Build = Callable[[Architecture], nn.Module]


@dataclass(frozen=True, repr=False)
class Autotuned:
    """What auto-tune ended with."""

    model: nn.Module | None
    """The trained network, of an exhausted run the best of all rounds; None when it diverged."""
    architecture: Architecture
    """Of the network; else the last one that was tried."""
    result: dict[str, Any]
    """``result.json``: status, reason, rounds, before, after."""

    def __repr__(self) -> str:
        after = self.result["after"]
        accuracy = None if after is None else after["test_accuracy"]
        reached = "" if accuracy is None else f", test accuracy {percent(accuracy)}"
        many = counted(len(self.result["rounds"]), "round")
        return f"Autotuned({self.result['status']} after {many}: {self.architecture}{reached})"

    def _repr_html_(self) -> str:
        below = [f"{self.result['reason']}.", *told_of(AutotuneResult, self.result)]
        return html_table(repr(self), TITLES, rows_of_rounds(self.result), below)


def autotune(
    build: Build,
    architecture: Architecture | tuple[int, ...],
    train_data: tuple[Any, Any] | Dataset[Any] | DataLoader[Any],
    test_data: tuple[Any, Any] | Dataset[Any] | DataLoader[Any] | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    block_names: Callable[[nn.Module], BlockNames] | None = None,
    policy: str | Policy | Removes = "all",
    resume: bool = False,
    overwrite: bool = False,
    show: Show = lambda status, epoch, epochs: None,
    **options: Any,
) -> Autotuned:
    """Auto-tune a network of your own.

    Args:
        build: makes a network with the blocks per stage of ``architecture.blocks``; called once a round, after
            ``torch.manual_seed(seed)``.
        architecture: where to start, an ``Architecture`` or the blocks per stage.
        train_data: samples (N, ...), which the network takes as they are, and labels (N,), integers from 0; or a
            ``Dataset`` or ``DataLoader`` of such pairs, which is read once and kept in memory, augmentation included.
        test_data: the same, for the accuracies; None: there are none.
        out: run folder, in which ``report.html`` is the page of the run; None: nothing is written.
        block_names: names the network's blocks, stage by stage; None: the network's method ``block_names()`` does.
        policy: a name of ``policies.POLICIES``, a ``Policy`` of your own, or its function alone.
        resume, overwrite: go on with, or delete, the run in ``out``.
        show: called after every epoch with a line of progress, the epoch, and the number of epochs.
        options: fields of ``AutotuneConfig`` but those of data and network, such as epochs or seed; loss, optimizer
            and schedule may be functions, as in ``Recipe``.

    Returns:
        The network, its architecture, and what happened.

    Raises:
        ValueError, TypeError: an option, the data or the names do not fit.

    Example:
        >>> import torch
        >>> def build(architecture):
        ...     block = lambda: torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
        ...     blocks = [block() for _ in range(*architecture.blocks)]
        ...     return torch.nn.Sequential(*blocks, torch.nn.Linear(4, 2))
        >>> x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        >>> tuned = autotune(build, (12,), (x, (x[:, 0] > 0).long()), epochs=2, batch_size=16,
        ...                  block_names=lambda model: [[str(i) for i in range(len(model) - 1)]])
        >>> tuned.result["status"], tuned.architecture.blocks < (12,)
        ('trained', True)
    """
    start = architecture if isinstance(architecture, Architecture) else Architecture(architecture)
    config, recipe, described = _own_config(start, {"policy": (chosen := policy_of(policy)), **options})
    device, out = device_named(config.device), None if out is None else output_path(out, config.distill_from)
    with joined(device) as ranks, settled(config.threads):
        samples = divided(train_data, test_data, AsGiven(), config, device)
        again = partial(_seeded, build, config.seed)
        tuning = _Tuning(config, start, samples, ranks, again, block_names, chosen, show, recipe)
        tuned = tuning.run(out, described, resume, overwrite)
    for done in AT_END if out is not None and ranks.is_first else ():
        done(str(out))
    return tuned


def _seeded(build: Build, seed: int, wanted: Architecture) -> nn.Module:
    torch.manual_seed(seed)
    return build(wanted)


def _own_config(architecture: Architecture, options: dict[str, Any]) -> tuple[AutotuneConfig, Recipe, dict[str, Any]]:
    """The config of a network of one's own, what is no config of it, and what ``config.json`` holds of both."""
    recipe = Recipe(**{f.name: options.pop(f.name) for f in fields(Recipe) if callable(options.get(f.name))})
    of_network = {f.name for f in fields(TrainConfig) if f.metadata["group"] in ("data", "network")}
    refused = sorted(of_network & set(options) - {"validation_share"})
    if refused:
        raise ValueError(
            f"{refused[0]} is {options[refused[0]]!r}; it is decided by build and train_data, leave it out"
        )
    known = {f.name for f in fields(AutotuneConfig)} - of_network | {"validation_share"}
    require_known(options, known, "autotune")
    config = AutotuneConfig(**options)
    described = {name: value for name, value in to_dict(config).items() if name not in of_network}
    brought = {f.name: value for f in fields(Recipe) if (value := getattr(recipe, f.name)) is not f.default}
    described |= {name: getattr(value, "__qualname__", type(value).__qualname__) for name, value in brought.items()}
    return config, recipe, described | {"architecture": {**asdict(architecture), "blocks": list(architecture.blocks)}}


def autotune_configured(
    config: AutotuneConfig,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    overwrite: bool = False,
    show: Show = lambda status, epoch, epochs: None,
) -> dict[str, Any]:
    """``cbkernels autotune``: one of the package's networks on one of its data sets.

    Args:
        config: what and how.
        out, resume, overwrite, show: as in ``train``.

    Returns:
        What ``result.json`` holds.

    Raises:
        ValueError, OSError, ImportError: as in ``train``.
    """
    out, device = output_path(out, config.distill_from), device_named(config.device)
    with joined(device) as ranks, settled(threads_of(config)):
        samples = samples_of(data_set_of(config, *[out] * resume), config, device)
        require_apart_from_data(out, samples)
        build, policy = partial(network_of, config, samples=samples), POLICIES.chosen(config.policy)
        tuning = _Tuning(config, config.architecture, samples, ranks, build, None, policy, show)
        return tuning.run(out, to_dict(config), resume, overwrite).result


class _Tuning:
    """The state of one run: the round, the rounds before, the training that is going on."""

    def __init__(
        self, config: AutotuneConfig, architecture: Architecture, samples: Samples, ranks: Ranks, build: Build,
        block_names: Callable[[nn.Module], BlockNames] | None, policy: Policy, show: Show, recipe: Recipe | None = None,
    ) -> None:  # fmt: skip
        if config.repr:
            raise ValueError("repr is True; auto-tune trains without RePr, take cbkernels train --repr")
        if not architecture.num_blocks:
            raise ValueError(f"architecture is {architecture}; it has no block to start with")
        self.config, self.samples, self.ranks = config, samples, ranks
        self.start, self.architecture = architecture, architecture
        self.rounds: list[dict[str, Any]] = []
        self.before: dict[str, Any] | None = None
        self.seconds = {"training": 0.0, "measuring": 0.0, "evaluating": 0.0}
        self.decision: dict[str, Any] | None = None
        self.best: dict[str, Any] | None = None
        self.ended = ("", "")
        self.equality = ""
        self._teacher = teacher_of(config, samples.device)
        self._build, self._names, self._policy, self._show = build, block_names, policy, show
        self._recipe = recipe

    def run(
        self, out: str | os.PathLike[str] | None, described: dict[str, Any], resume: bool, overwrite: bool
    ) -> Autotuned:
        """Rounds until one of the three ends."""
        with ExitStack() as opened:
            folder = None
            with self.ranks.failing_together():
                if out is not None and self.ranks.is_first:
                    folder = opened.enter_context(
                        open_folder(out, "autotune", described, resume=resume, overwrite=overwrite)
                    )
                    folder.write_json("env.json", environment(self.samples))
                log = RunLog(folder, tensorboard=self.config.tensorboard)
                content = log.load() if resume else None
            content = self.ranks.told_by_first(content)
            if content is not None:
                self._go_on(content)
            model, after = None, None
            while not self.ended[0]:
                measured = self._measured_training()
                if content is not None:
                    measured.load_state(content["measured"])
                    content = None
                self._train(measured, log)
                self.ended = self._closed(measured, log)
                if self.ended[0] == "trained":
                    model, after = measured.training.model, _accuracies(measured.summary(log))
            if self.ended[0] == "exhausted" and self.best is not None:
                model, after = self._best_network(log)
            log.write()
            log.close()
            result = self._result(model, after)
            if folder is not None:
                folder.write_json("result.json", result)
            return Autotuned(model if model is None else model.eval(), self.architecture, result)

    def _measured_training(self) -> MeasuredTraining:
        model = self._build(self.architecture)
        training = Training(model, self.config, self.samples, self.ranks, self._teacher, self._recipe)
        names = self._block_names(training.model)
        counts = tuple(len(stage) for stage in names)
        if counts != self.architecture.blocks:
            raise ValueError(
                f"block_names names {list(counts)} blocks a stage, the architecture has "
                f"{list(self.architecture.blocks)}; name the output of every block"
            )
        return MeasuredTraining("autotune", len(self.rounds), training, names)

    def _block_names(self, model: nn.Module) -> list[list[str]]:
        of_model = self._names or getattr(type(model), "block_names", None)
        if of_model is None:
            raise ValueError(f"{type(model).__name__} has no method block_names(); pass block_names=function(model)")
        return [list(stage) for stage in of_model(model)]

    def _train(self, measured: MeasuredTraining, log: RunLog) -> None:
        """One round, up to its end or to a decision; the first one goes on to its end for the comparison."""
        goes_on = self.config.baseline and not self.rounds
        while measured.goes_on(self.config.epochs):
            why = "" if self.decision is None else "trained on for the comparison"
            line = measured.next_epoch(log)
            if self.ranks.is_first:
                self._show(progress_line(line, self.config.epochs, why), line["epoch"], self.config.epochs)
            if measured.has_diverged:
                return
            self.equality = self.equality or (measured.reports[0].equality if measured.reports else "")
            if self.decision is None and self._is_checked(measured.epoch):
                self.decision = self.ranks.told_by_first(self._decided(measured))
            if self.decision is not None and not goes_on:
                return
            with self.ranks.failing_together():
                log.save(self._state(measured.state()))

    def _is_checked(self, epoch: int) -> bool:
        first = 0 if self._policy.looks_before else 1
        return first <= epoch < first + self.config.check_epochs

    def _decided(self, measured: MeasuredTraining) -> dict[str, Any] | None:
        report, names, least = of_blocks(measured.reports[0]), measured.block_names, self.config.min_conflicting_rows
        removed = removed_blocks(report, names, policy=self._policy, min_conflicting_rows=least)
        if not removed:
            return None
        blocks = [name for stage in names for name in stage]
        at_end = report[blocks[-1]]
        return {
            "epoch": measured.epoch, "removed": removed, "entropy": finite_or_none(at_end.entropy),
            "blocks": [sum(name not in removed for name in stage) for stage in names],
            "reason": self._reason(measured.epoch, at_end, removed, blocks),
        }  # fmt: skip

    def _reason(self, epoch: int, result: BundleResult, removed: list[str], blocks: list[str]) -> str:
        when = f"after epoch {epoch}" if epoch else "before the training"
        first, end = blocks.index(removed[0]), removed[-1]
        is_span = removed == blocks[first : first + len(removed)]
        with_gaps = f"{removed[0]} and {end}" if len(removed) == 2 else f"the first is {removed[0]}, the last {end}"
        ends = f"{removed[0]} to {end}" if is_span else with_gaps
        which = end if len(removed) == 1 else f"{len(removed)} blocks, {ends}"
        bundles = counted(result.num_bundles, "bundle")
        return (
            f"{when} the last block, {blocks[-1]}, had {bundles} of {result.num_rows} samples, "
            f"{result.num_conflicting} with several labels: policy {self._policy.name!r} removed {which}"
        )

    def _closed(self, measured: MeasuredTraining, log: RunLog) -> tuple[str, str]:
        """Write the round down; a status and its reason when it was the last one."""
        for what, spent in measured.seconds.items():
            self.seconds[what] += spent
        decision, self.decision = self.decision, None
        told = decision or {"epoch": None, "removed": [], "entropy": None}
        end = self._end_of(measured) if decision is None else ("", decision["reason"])
        epochs = measured.epoch if decision is None else decision["epoch"]
        line = next(x for x in log.history if x["round"] == measured.round and x["epoch"] == epochs)
        self.rounds.append({
            "round": measured.round, "architecture": self.architecture.to_dict(), "name": str(self.architecture),
            "epochs": epochs, "conflict_epoch": told["epoch"], "removed": told["removed"], "entropy": told["entropy"],
            "reason": end[1], "test_accuracy": line["test_accuracy"],
        })  # fmt: skip
        if self.before is None:
            self.before = measured.summary(log)
        if decision is None:
            return end
        self._keep_best(measured, log)
        self.architecture = self.architecture.with_blocks(decision["blocks"])
        if not self.architecture.num_blocks:
            return "exhausted", "every block conflicted and was removed; a network without blocks was not trained"
        if len(self.rounds) >= self.config.max_rounds:
            last = len(self.rounds) - 1
            return "exhausted", f"the last block still conflicted in round {last}; max_rounds is reached"
        return "", ""

    def _keep_best(self, measured: MeasuredTraining, log: RunLog) -> None:
        """The network as this round leaves it, unless one before was better; of equals the later one is smaller."""
        line = log.history[-1]
        by = next((name for name in _BETTER if line[name] is not None), "train_loss")
        score = -math.inf if line[by] is None else _BETTER[by] * line[by]
        if measured.has_diverged or (self.best is not None and score < self.best["score"]):
            return
        self.best = {
            "score": score, "architecture": self.architecture.to_dict(), "model": measured.training.state()["model"],
            "after": {**_accuracies(measured.summary(log)), "round": measured.round, "chosen_by": by},
        }  # fmt: skip

    def _best_network(self, log: RunLog) -> tuple[nn.Module, dict[str, Any]]:
        """The best network of all rounds and its accuracies; it goes into the checkpoint, where a trained one is."""
        assert self.best is not None
        self.architecture, after = Architecture.from_dict(self.best["architecture"]), self.best["after"]
        model = self._build(self.architecture).to(self.samples.device)
        model.load_state_dict(self.best["model"])
        with self.ranks.failing_together():
            log.save(self._state({"training": {"model": self.best["model"]}}))
        kept = f"the network of round {after['round']}, the best by {after['chosen_by'].replace('_', ' ')}, is kept"
        self.ended = ("exhausted", f"{self.ended[1]}; {kept}")
        return model, after

    def _end_of(self, measured: MeasuredTraining) -> tuple[str, str]:
        if measured.has_diverged:
            return "diverged", f"the loss of epoch {measured.epoch} is {measured.loss}; lower the learning rate"
        checked = min(self.config.check_epochs, self.config.epochs)
        return (
            "trained",
            f"the last block {self._policy.passes} in the first {counted(checked, 'epoch')}; trained to the end",
        )

    def _state(self, measured: dict[str, Any]) -> dict[str, Any]:
        return {
            "architecture": self.architecture.to_dict(), "rounds": self.rounds, "before": self.before,
            "seconds": self.seconds, "decision": self.decision, "equality": self.equality,
            "best": self.best, "ended": self.ended, "measured": measured,
        }  # fmt: skip

    def _go_on(self, content: dict[str, Any]) -> None:
        self.architecture = Architecture.from_dict(content["architecture"])
        self.rounds, self.before = content["rounds"], content["before"]
        self.seconds, self.decision, self.equality = content["seconds"], content["decision"], content["equality"]
        # those of a run that an older version began have none
        self.best, self.ended = content.get("best"), tuple(content.get("ended", self.ended))

    def _result(self, model: nn.Module | None, accuracies: dict[str, Any] | None) -> dict[str, Any]:
        after = None if accuracies is None else {**self._network(self.architecture, model), **accuracies}
        status, reason = self.ended
        assert self.before is not None
        reason += "" if after is None else self.samples.chance_note(after["test_accuracy"])
        return {
            "command": "autotune", "version": __version__, "status": status, "reason": reason,
            "seed": self.config.seed, "dataset": self.samples.name, "policy": self._policy.name, "rounds": self.rounds,
            "before": {**self._network(self.start, None), **_accuracies(self.before)}, "after": after,
            "chance_accuracy": self.samples.chance_accuracy, "equality": self.equality, "ranks": self.ranks.size,
            **times(self.seconds),
        }  # fmt: skip

    def _network(self, architecture: Architecture, model: nn.Module | None) -> dict[str, Any]:
        """The architecture and what one forward pass of it costs, which no weight decides."""
        model = model if model is not None else self._build(architecture).to(self.samples.device)
        return {
            "architecture": architecture.to_dict(), "name": str(architecture), "blocks": architecture.num_blocks,
            **cost_of(model, self.samples, self.config),
        }  # fmt: skip


def of_blocks(report: LayerReport) -> dict[str, BundleResult]:
    """Block -> result; of a residual block, of which the branch was measured, the branch's."""
    return {**{block: report[layer] for layer, block in report.blocks.items() if layer in report}, **report}


_BETTER = {"validation_accuracy": 1, "test_accuracy": 1, "train_loss": -1}
"""Which of two networks is better: by the first of these columns of the history that is known, times its sign."""


def _accuracies(summary: dict[str, Any]) -> dict[str, Any]:
    names = ("test_accuracy", "mean_test_accuracy", "epochs", "num_conflicting_layers", "first_conflicting")
    # the summary of a run that an older version began has no held-back accuracy
    held_back = summary.get("validation_accuracy")
    return {name: summary[name] for name in names} | {
        "validation_accuracy": held_back,
        "trained": summary["epochs"] > 0,
    }

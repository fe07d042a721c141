"""A run in words: its status, its outcome in a sentence, its facts, what measuring took, its line beside others."""

from __future__ import annotations

import math

from ..runs.clean_text import text
from ..runs.outcomes import removed_from
from ..runs.record import RunRecord
from ..runs.schema import Accuracies, AutotuneResult, NetworkCost, RemoveResult, Result, TrainResult
from ..training.policies import POLICIES
from ..wording import NOTHING, count, counted, interval, learning_rate, milliseconds, percent, seconds
from .tables import named, planned


def status_of(run: RunRecord) -> str:
    """trained, exhausted, diverged, done or unfinished."""
    if run.result is None:
        return "unfinished"
    return text(run.result.status, 30) or ("done" if run.command == "remove" else "finished")


def measuring_share(run: RunRecord) -> float | None:
    """Share of the time that measuring took; from the epochs so far where the result does not say it."""
    if run.result is not None and run.result.measuring_share is not None:
        return run.result.measuring_share
    training, measuring = (_total(run, what) for what in ("training", "measuring"))
    return measuring / (training + measuring) if training + measuring > 0 else None


def _total(run: RunRecord, what: str) -> float:
    """Seconds of the epochs that say them."""
    spent = [getattr(epoch, f"seconds_{what}") for epoch in run.history]
    return math.fsum(each for each in spent if each is not None and math.isfinite(each))


def facts_of(run: RunRecord) -> list[tuple[str, str]]:
    """Names and values, without those that are not known."""
    config, result = run.config, run.result or Result()
    trained = result.run if isinstance(result, RemoveResult) else None
    seed = config.get("seed") if result.seed is None else result.seed
    at_first = " (at first)" if run.command == "autotune" else ""
    architecture = architecture_of(run)
    facts = [
        ("command", f"cbkernels {run.command}"),
        ("data set", text(config.get("dataset"), 80)),
        ("trained network", text(trained or config.get("run"), 80)),
        ("architecture", f"{architecture}{at_first}" if architecture else ""),
        ("policy", _policy(text(config.get("policy"), 40))),
        ("learning rate", _learning_rate(run)),
        ("seed", text(seed, 40)),
        ("device", text(run.environment.get("device"), 80)),
        ("cbkernels", text(result.version or config.get("version"), 40)),
        *_times(run, result),
        ("rows are one bundle when they are", _equality(run, result)),
    ]
    return [(name, value) for name, value in facts if value]


def architecture_of(run: RunRecord) -> str:
    """The network that the run began with."""
    first = run.result.before if isinstance(run.result, AutotuneResult) else None
    return named((first or run.result or Result()).architecture) or planned(run.config)


def _policy(name: str) -> str:
    return f"{name}: {POLICIES[name].does}" if name in POLICIES else name


def _learning_rate(run: RunRecord) -> str:
    """The schedule, how far it went, and what the grid made of it."""
    schedule, peak = text(run.config.get("schedule"), 40), run.config.get("learning_rate")
    rates = [epoch.learning_rate for epoch in run.history if epoch.learning_rate is not None]
    if not schedule or not rates:
        return ""
    highest = learning_rate(peak) if isinstance(peak, (int, float)) else text(peak, 40)
    if min(rates) == max(rates):
        return f"{schedule}, {highest}"
    went = interval(min(rates), max(rates), learning_rate)
    return f"{schedule}, {went} after the epochs; the grid takes the peak, {highest}, in all of them"


def _times(run: RunRecord, result: Result) -> list[tuple[str, str]]:
    training, measuring, share = result.seconds_training, result.seconds_measuring, measuring_share(run)
    training = training if training is not None else _total(run, "training") or None
    measuring = measuring if measuring is not None else _total(run, "measuring") or None
    took = seconds(training) if training is not None else ""
    if run.command == "remove":
        return [("fine-tuning took", took)]
    measured = f"{seconds(measuring)}, {percent(share)} of the time" if share is not None else ""
    return [("training took", took), ("measuring took", measured)]


def _equality(run: RunRecord, result: Result) -> str:
    said = text(result.equality)
    if said:
        return said.removeprefix("Rows are one bundle when they are ").rstrip(".")
    return run.layers[0].equality if run.layers else "not known: no layer was measured"


# --- the outcome in a sentence --------------------------------------------------------------------


def outcome_of(run: RunRecord) -> str:
    """What came out of the run."""
    if isinstance(run.result, TrainResult):
        return _of_training(run.result)
    if isinstance(run.result, AutotuneResult):
        return _of_autotune(run.result, status_of(run))
    return _of_removal(run.result) if isinstance(run.result, RemoveResult) else _of_unfinished(run)


def _of_unfinished(run: RunRecord) -> str:
    if not run.history:
        return "Unfinished: no epoch has been written yet."
    last, planned_epochs = run.history[-1], text(run.config.get("epochs"), 20)
    of_planned = f" of {planned_epochs}" if planned_epochs else ""
    round_ = f" of round {text(last.round)}" if run.command == "autotune" else ""
    return (f"Unfinished: epoch {count(last.epoch)}{of_planned}{round_} is done, with "
            f"{percent(last.test_accuracy)} test accuracy.")  # fmt: skip


def _of_training(result: TrainResult) -> str:
    network = named(result.architecture) or "the network"
    epochs = f" after {counted(result.epochs, 'epoch')}" if result.epochs is not None else ""
    verb = "diverged at" if result.status == "diverged" else "reached"
    words = f"{network}: {verb} {percent(result.test_accuracy)} test accuracy{epochs}{_chance(result)}"
    conflicting = result.num_conflicting_layers
    if conflicting is None:
        return f"{words}."
    if not conflicting:
        return f"{words}; no layer conflicts in the end."
    many = "layers conflict" if conflicting > 1 else "layer conflicts"
    first = text(result.first_conflicting, 60)
    which = f", the first is {first}" if first and conflicting > 1 else f": {first}" if first else ""
    return f"{words}; {count(conflicting)} {many} in the end{which}."


def _chance(result: Result) -> str:
    return f" (chance: {percent(result.chance_accuracy)})" if result.chance_accuracy is not None else ""


def _of_autotune(result: AutotuneResult, status: str) -> str:
    many = counted(len(result.rounds), "round")
    before, after = result.before or NetworkCost(), result.after
    if result.status != "trained" or after is None:
        reason = text(result.reason).rstrip(".")
        return f"Auto-tune ended as {status} after {many}{f': {reason}' if reason else ''}."
    old, new = (named(each.architecture, each.name) for each in (before, after))
    changed = f"from {old} to {new}" if old != new else f"with {new} unchanged"
    return (f"Auto-tune went in {many} {changed}; test accuracy {percent(before.test_accuracy)} before, "
            f"{percent(after.test_accuracy)} after{_chance(result)}. {_removed(result)}.")  # fmt: skip


def _removed(result: Result) -> str:
    removed = removed_from(result)
    return removed.said if removed else ""


def _of_removal(result: RemoveResult) -> str:
    accuracy = result.accuracy or Accuracies()
    words = f"{_removed(result)}; test accuracy {percent(accuracy.before)}"
    if not result.removed:
        return f"{words}."
    words += f" before, {percent(accuracy.removed)} without them"
    if accuracy.healed is None or not result.finetune_epochs:
        return f"{words}."
    return f"{words}, {percent(accuracy.healed)} after {counted(result.finetune_epochs, 'epoch')} of fine-tuning."


def compared(run: RunRecord) -> list[str]:
    """The run's cells in the table of all runs."""
    result = run.result or Result()
    before, after, end = None, None, NetworkCost()
    name = named(result.architecture)
    if isinstance(result, TrainResult):
        after, end = result.test_accuracy, result.cost or end
    elif isinstance(result, AutotuneResult):
        before, end = (result.before or end).test_accuracy, result.after or end
        after, name = end.test_accuracy, named(end.architecture or result.architecture, end.name)
    elif isinstance(result, RemoveResult):
        accuracy, end = result.accuracy or Accuracies(), result.after or end
        before, after = accuracy.before, accuracy.healed
        name = f"{name}, {len(result.removed)} removed" if name else ""
    if run.command == "train":
        name = name or planned(run.config)
    seed = run.config.get("seed") if result.seed is None else result.seed
    return [
        run.name,
        run.command,
        status_of(run),
        text(run.config.get("dataset"), 60) or NOTHING,
        name or NOTHING,
        text(seed, 30) or NOTHING,
        percent(before),
        percent(after),
        count(end.parameters),
        count(end.macs),
        milliseconds(end.latency_ms),
        NOTHING if run.command == "remove" else percent(measuring_share(run)),
    ]

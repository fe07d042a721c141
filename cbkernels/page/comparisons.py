"""Several runs on one page: a curve for all seeds of a configuration, what differs, and the verdicts on RePr."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..drawing.repr_figures import comparison_picture
from ..filters.criteria import STANDARD
from ..runs.clean_text import text
from ..runs.record import ComparisonRecord, RunRecord
from ..runs.schema import LARGEST, TrainResult
from ..wording import counted, gained, percent
from . import figures, tables
from .facts import compared
from .figures import Curve
from .sections import Figure, Section, curves_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


def seeds_together(runs: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """Runs whose configurations differ in the seed alone, in the order in which the first of each comes."""
    groups: dict[str, list[RunRecord]] = {}
    for position, run in enumerate(runs):
        others = json.dumps({name: value for name, value in run.config.items() if name != "seed"}, sort_keys=True)
        group = groups.setdefault(others, [])
        is_new = run.config.get("seed") not in [each.config.get("seed") for each in group]
        (group if is_new else groups.setdefault(f"{others} {position}", [])).append(run)
    return list(groups.values())


def _called(runs: Sequence[RunRecord]) -> str:
    """What such runs are called together."""
    if len(runs) == 1:
        return f"{runs[0].name} ({runs[0].command})"
    stems = {run.name.rstrip("0123456789").removesuffix("seed").rstrip("-_. ") for run in runs}
    same = stems.pop() if len(stems) == 1 else ""
    return f"{same or f'{runs[0].name} and others'}, {counted(len(runs), 'seed')} ({runs[0].command})"


def _mean_curve(runs: Sequence[RunRecord]) -> Curve:
    """Of the networks that they ended with, as long as all of them were trained."""
    curves = [curves_of(run)[-1] for run in runs]
    length = min(len(curve.epochs) for curve in curves)
    values = np.array([curve.test_accuracy[:length] for curve in curves])
    nothing = [math.nan] * length
    band = (values.min(axis=0).tolist(), values.max(axis=0).tolist()) if len(curves) > 1 else ((), ())
    return Curve(_called(runs), curves[0].epochs[:length], nothing, values.mean(axis=0).tolist(), nothing, *band)


def section_of(runs: Sequence[RunRecord]) -> Section:
    """Several runs in one picture, in one table, and what differs between them."""
    ended = [run for run in runs if run.history]
    curves = [_mean_curve(group) for group in seeds_together(ended)]
    chances = [run.result.chance_accuracy if run.result else None for run in ended]
    shown = []
    if curves:
        picture = figures.rendered(
            "comparison",
            f"Test accuracy over epochs of {counted(len(ended), 'run')} in one picture.",
            lambda: figures.overlaid_curves(curves, chances),
        )
        picture = replace(picture, runs=[curve.label for curve in curves])
        band = (" Runs that differ only in the seed are one line, their mean, in a band from the lowest to the highest "
                "of them.") if len(curves) < len(ended) else ""  # fmt: skip
        shown.append(Figure(picture, f"Test accuracy of the networks that the runs ended with.{band}", 110))
    groups = seeds_together(runs)
    differences = tables.differences_table({_called(group): [run.config for run in group] for group in groups})
    words = []
    if len(groups) == 1 < len(runs):
        seeds = ", ".join(text(run.config.get("seed"), 20) for run in runs)
        words, differences = [f"The {len(runs)} runs differ only in the seed: {seeds}."], None
    elif differences is None:
        words = ["Their configurations are the same."]
    told = [tables.comparison_table([compared(run) for run in runs]), differences]
    return Section("All runs", shown, [table for table in told if table], words)


# --- RePr -----------------------------------------------------------------------------------------


def verdicts_of(record: ComparisonRecord, picture_name: str) -> Section:
    """Who is better than standard training, by how much and how sure that is, with the picture."""
    comparison, config = record.comparison, record.comparison.config
    about = f"{text(config.get('dataset'), 80)}: {tables.planned(config)}, {counted(len(comparison.seeds), 'seed')}; "
    about += "every accuracy is that on the test data after the last epoch."
    verdicts = [f"{text(row.criterion, 40)}: {text(row.verdict)}." for row in comparison.rows
                if row.criterion != STANDARD]  # fmt: skip
    standard = _reached(record.runs.get(STANDARD, {}))
    differences = {
        name: {seed: gained(standard.get(seed), reached) for seed, reached in _reached(runs).items()}
        for name, runs in record.runs.items() if name != STANDARD
    }  # fmt: skip
    told = [tables.criteria_table(comparison.rows), tables.paired_table(differences, comparison.seeds)]
    picture = figures.rendered(
        picture_name,
        "Test accuracy and overlap of the filters over epochs, of every criterion: mean and one standard deviation.",
        lambda: picture_of(record),
    )
    shown = Figure(picture, "Test accuracy and overlap of the filters, mean of the seeds in a band of one standard "
                   "deviation; grey: filters are dropped.", 120)  # fmt: skip
    return Section("Does RePr help?", [shown], [table for table in told if table], [about, *verdicts])


def picture_of(record: ComparisonRecord) -> Drawing:
    """Accuracy and overlap of every criterion over the epochs.

    Raises:
        ImportError: matplotlib is missing.
    """
    config, runs = record.comparison.config, [run for of_name in record.runs.values() for run in of_name.values()]
    names = ("epoch", "test_accuracy", "orthogonality")
    histories = {
        text(criterion, 40): [{name: [_number(getattr(line, name)) for line in run.history] for name in names}
                    for run in of_seeds.values() if run.history]
        for criterion, of_seeds in record.runs.items()
    }  # fmt: skip
    cycles = next((run.result.repr for run in runs if isinstance(run.result, TrainResult) and run.result.repr), ())
    spans = [(_number(cycle.before.epoch), _number(cycle.reduced.epoch)) for cycle in cycles]
    reduced = [span for span in spans if not any(map(math.isnan, span))]
    share = config.get("repr_share")
    dropped = f"{percent(share)} of all" if isinstance(share, float) else "some"
    caption = (f"{text(config.get('dataset'), 80)}: {tables.planned(config)}; "
               f"{counted(len(record.comparison.seeds), 'seed')}, mean and one standard deviation. "
               f"Grey: {dropped} filters are dropped.")  # fmt: skip
    return comparison_picture({name: seeds for name, seeds in histories.items() if seeds}, reduced, caption)


def _number(value: float | None) -> float:
    """NaN where there is none, or one that no axis can reach."""
    return math.nan if value is None or not abs(value) <= LARGEST else value


def _reached(runs: Mapping[int, RunRecord]) -> dict[int, float | None]:
    """Seed -> test accuracy; None where the training diverged or has not ended."""
    ended = {seed: run.result for seed, run in runs.items() if isinstance(run.result, TrainResult)}
    return {seed: None if result.status == "diverged" else result.test_accuracy for seed, result in ended.items()}

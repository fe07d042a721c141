"""``cbkernels repr compare``: RePr against standard training on one network, equal epochs, several seeds.

Every training is a run folder of ``cbkernels train``; this puts them into one table and one picture and says plainly
when a difference is within the spread. The replications of RePr disagree, so the numbers of one's own network count.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ..._version import __version__
from ...files.folders import output_path
from ...filters.criteria import COMPARED, STANDARD, criterion_of
from ...ranks import is_first_process
from ...runs.folder import RunFolder
from ...runs.schema import COMPARISON
from ...runs.stored_runs import open_comparison
from ...wording import counted, gained, points
from ..config import TrainConfig, to_dict
from .train import Show, train

FEWEST_SEEDS = 3
"""Of a verdict: with two the signs agree in every second comparison of equally good methods."""


def compare(
    config: TrainConfig,
    out: str | os.PathLike[str],
    *,
    criteria: Sequence[str] | None = None,
    seeds: int = 3,
    show: Show = lambda status, epoch, epochs: None,
) -> dict[str, Any]:
    """Train with every criterion and seed; runs that are in ``out`` already are not trained again.

    Args:
        config: network, data, recipe and RePr's schedule; its seed is the first one.
        out: folder of the runs, of ``comparison.json`` and of the picture.
        criteria: ``criteria.STANDARD`` for no RePr, and names of criteria; None: those of ``criteria.COMPARED`` and the
            config's own.
        seeds: how many, at least 2, so that there is a spread.
        show: as in ``train``.

    Returns:
        What ``comparison.json`` holds: rows (criterion, accuracies, mean, std, difference to standard), the verdict on
        each as a sentence, the cycles.

    Raises:
        ValueError: an option is out of range, a folder holds a run of other options or somebody else's files, or
            another process writes it.
        OSError: ``out`` cannot be written.
    """
    criteria = list(dict.fromkeys((*COMPARED, config.repr_criterion) if criteria is None else criteria))
    others = [name for name in criteria if name != STANDARD]
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 2:
        raise ValueError(f"seeds is {seeds!r}; take at least 2, one alone has no spread")
    if STANDARD not in criteria or not others:
        raise ValueError(f"criteria is {criteria}; name {STANDARD!r} and at least one criterion")
    for name in others:
        criterion_of(name)  # refuses unknown ones before hours of training
    out = output_path(out, config.distill_from)
    with open_comparison(out) if is_first_process() else nullcontext(RunFolder(out)) as folder:
        return _compared(config, folder, criteria, range(config.seed, config.seed + seeds), show)


def _compared(
    config: TrainConfig, folder: RunFolder, criteria: Sequence[str], seeds: Sequence[int], show: Show
) -> dict[str, Any]:
    """Train all and write ``comparison.json``; what that holds."""
    others = [name for name in criteria if name != STANDARD]
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in criteria}
    for seed in seeds:
        # standard last: what RePr refuses, such as a schedule that is too long, it refuses at its first training
        for name in (*others, STANDARD):
            criterion = config.repr_criterion if name == STANDARD else name
            of_this = replace(config, seed=seed, repr=name != STANDARD, repr_criterion=criterion)

            def told(status: str, epoch: int, epochs: int, name: str = name, seed: int = seed) -> None:
                show(f"{name}, seed {seed}: {status}", epoch, epochs)

            run, others_so_far = run_of(folder.path, name, seed), sorted(folder.path.glob("*-seed*"))
            results[name].append(train(of_this, run, resume=True, sisters=others_so_far, show=told))
    content = {
        "command": "repr compare", "version": __version__, "config": to_dict(config),
        "seeds": list(seeds), "rows": [_row(name, results) for name in criteria],
        "cycles": {name: [run.get("repr") for run in results[name]] for name in others},
    }  # fmt: skip
    folder.write_json(COMPARISON, content)
    return content


def run_of(out: Path, criterion: str, seed: int) -> Path:
    """The run folder of one training."""
    return out / f"{criterion}-seed{seed}"


def _row(name: str, results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """A criterion's test accuracies after the last epoch, and how they differ from the same seeds' standard.

    Not a mean over the last epochs: those just after filters came back would count against RePr.
    """
    reached, standard = _accuracies(results[name]), _accuracies(results[STANDARD])
    finite = [a for a in reached if a is not None]
    differences = [a - b for a, b in zip(reached, standard, strict=True) if a is not None and b is not None]
    is_compared = name != STANDARD and len(differences) > 1
    too_few = "too few seeds to tell: fewer than two pairs of trainings ended"
    why_not = "what the others are compared with" if name == STANDARD else too_few
    return {
        "criterion": name, "test_accuracies": reached, "diverged": reached.count(None),
        "mean": mean(finite) if finite else None, "std": stdev(finite) if len(finite) > 1 else None,
        "difference": mean(differences) if is_compared else None,
        "difference_std": stdev(differences) if is_compared else None,
        "verdict": verdict(differences) if is_compared else why_not,
    }  # fmt: skip


def verdict(differences: Sequence[float]) -> str:
    """A sentence on differences to the standard training of the same seeds.

    Called better or worse only when every seed agrees and the mean exceeds the seeds' standard deviation. How sure that
    is: of methods that are equally good, one comparison in ``2 ** (seeds - 1)`` has the same sign with every seed.

    Example:
        >>> verdict([0.02, 0.03, 0.025]).partition("; ")[0]
        'better than standard training with each of the 3 seeds, by 2.5 points on average'
        >>> verdict([0.01, 0.0, 0.01]).partition(": ")[2]
        'the difference to standard training is +0.7 points on average, but its sign is not the same with all 3 seeds'
        >>> verdict([0.02, 0.03]).partition(": ")[0]
        'too few seeds to tell'
    """
    difference, spread, seeds = mean(differences), stdev(differences), len(differences)
    agree = all(d > 0 for d in differences) or all(d < 0 for d in differences)
    by_chance = f"of equally good methods one comparison in {2 ** (seeds - 1)} has the same sign with all seeds"
    said = f"the difference to standard training is {gained(0.0, difference)} on average"
    if seeds < FEWEST_SEEDS:
        return f"too few seeds to tell: {said} with {counted(seeds, 'seed')}; {by_chance}"
    if agree and abs(difference) > spread:
        word = "better" if difference > 0 else "worse"
        return (
            f"{word} than standard training with each of the {seeds} seeds, by {points(abs(difference))} on average; "
            f"{by_chance}"
        )
    why = f"and its standard deviation over the {seeds} seeds is {points(spread)}"
    if abs(difference) > spread:
        why = f"but its sign is not the same with all {seeds} seeds"
    return f"within the spread: {said}, {why}"


def _accuracies(results: Sequence[dict[str, Any]]) -> list[float | None]:
    return [None if result["status"] == "diverged" else result["test_accuracy"] for result in results]

"""Which learning rate an update grid takes, when a schedule changes it: the peak, the current one, or a given number.

The papers train at a constant rate. A grid of the momentary rate grows coarser as a schedule decays, until every layer
conflicts at its last steps, whatever the network has learnt. Read next: ``grid.py``, ``models/training_grid.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

CHOICES = ("peak", "current")
SCHEDULED = ("max_lr", "initial_lr", "min_lr")
"""What torch's schedulers leave in an optimizer's groups."""


class LearningRates:
    """The learning rates of an optimizer's groups, and the largest that each of them has had.

    The peak of a group is the largest of its ``max_lr`` and ``initial_lr``, which schedulers leave there, of its
    rate now, and of those seen since that schedule began; not a ``max_lr`` that a finished schedule left there. Of
    several groups the smallest rate counts, which gives the coarsest grid (``UpdateGrid.step``); groups without
    trainable parameters, and those of rate 0, do not count.

    Args:
        choice: "peak", "current", or the learning rate itself.

    Raises:
        TypeError, ValueError: another choice.
    """

    def __init__(self, choice: str | float = "peak") -> None:
        ways_out = f"pass {', '.join(map(repr, CHOICES))} or a positive number"
        if isinstance(choice, bool) or not isinstance(choice, (str, int, float)):
            raise TypeError(f"learning_rate is {choice!r}; {ways_out}")
        if choice not in CHOICES if isinstance(choice, str) else not 0 < choice < math.inf:
            raise ValueError(f"learning_rate is {choice!r}; {ways_out}")
        self._choice = choice
        self._seen: dict[int, tuple[dict[str, float], float, bool]] = {}

    def see(self, groups: Iterable[Mapping[str, Any]]) -> None:
        """Remember the rates that a group has now, unless they are tensors: never waits for a GPU."""
        for position, group in enumerate(groups):
            if all(isinstance(rate, (int, float)) for rate in (group.get("lr"), *_scheduled(group).values())):
                self._peak(position, group)

    def taken(self, groups: Iterable[Mapping[str, Any]]) -> tuple[float, dict[str, float]]:
        """The rate of the grid now.

        Args:
            groups: ``param_groups`` of an optimizer.

        Returns:
            The rate; and what a report tells of it: under "peak", "current" or "given" the rate itself, under "current"
            (or "peak") the other one where it differs, under "largest" that of the other groups where they differ.

        Raises:
            ValueError: no group, or no rate but 0.
        """
        groups = list(groups)
        pairs = [(self._peak(position, group), float(group["lr"])) for position, group in enumerate(groups)]
        if not pairs:
            raise ValueError("the optimizer has no group of parameters; pass an UpdateGrid(...) instead")
        pairs = [pair for pair, group in zip(pairs, groups, strict=True) if _trains(group)] or pairs
        name, other = ("current", "peak") if self._choice == "current" else ("peak", "current")
        if not isinstance(self._choice, str):
            name, pairs = "given", [(float(self._choice), current) for _, current in pairs]
        elif name == "current":
            pairs = [(current, peak) for peak, current in pairs]
        moving = [(rate, beside) for rate, beside in pairs if rate != 0]
        if not moving:
            more = "learning_rate='peak' or " if name == "current" else "the schedule's peak as learning_rate=, or "
            known = "" if name == "current" else ", and no larger one is known yet"
            raise ValueError(f"the learning rate is 0{known}; pass {more}an UpdateGrid(...) as grid=")
        (rate, beside), (largest, _) = min(moving), max(moving)
        told = {name: rate, other: beside, "largest": largest}
        return rate, {key: r for key, r in told.items() if key == name or not math.isclose(r, rate, rel_tol=1e-6)}

    def _peak(self, position: int, group: Mapping[str, Any]) -> float:
        current, scheduled = float(group["lr"]), {name: float(rate) for name, rate in _scheduled(group).items()}
        schedule, largest, is_stale = self._seen.get(position, (scheduled, current, False))
        if schedule != scheduled:  # another schedule has a peak of its own
            kept = {name for name, rate in scheduled.items() if schedule.get(name) == rate}
            largest, is_stale = current, kept == scheduled.keys() - {"initial_lr"}
        largest = max(current, largest)
        self._seen[position] = scheduled, largest, is_stale
        peaks = ("initial_lr",) if is_stale else ("max_lr", "initial_lr")
        return max([largest, *(scheduled[name] for name in peaks if name in scheduled)])


def _scheduled(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: group[name] for name in SCHEDULED if group.get(name) is not None}


def _trains(group: Mapping[str, Any]) -> bool:
    return any(parameter.requires_grad for parameter in group.get("params", ()))  # a rank's shard of it may be empty


def in_words(*told: tuple[Mapping[str, float], float]) -> str:
    """One sentence on the learning rates of one step or of several; "" where no other rate differs from the taken one.

    Args:
        told: what a report tells, as ``LearningRates.taken`` returned it, and the rate of its grid.
    """
    names = {name for rates, taken in told for name in rates if rates[name] == taken}
    name = next((name for name in ("given", *CHOICES) if name in names), None)
    if name is None or all(len(rates) < 2 for rates, _ in told):
        return ""

    def values(which: str) -> str:
        found = [rates.get(which, taken) for rates, taken in told]
        low, high = f"{min(found):.3g}", f"{max(found):.3g}"
        return low if low == high else f"{low} to {high}"

    other, known = "peak" if name == "current" else "current", {key for rates, _ in told for key in rates}
    words = f"The grid takes the {name} learning rate {values(name)}"
    if "largest" in known:
        words += f", the smallest of the optimizer's groups (the largest is {values('largest')})"
    if other in known:
        words += f"; the {'peak' if other == 'peak' else 'current one'} is {values(other)}"
    return f"{words}."

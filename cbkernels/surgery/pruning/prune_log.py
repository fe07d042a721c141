"""What a pruning tried and what came of it: a table, JSON, and a picture of accuracy against the share removed."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from ...files.json_files import finite_or_none
from ...files.typed_json import Count, NotNegative, required
from ...findings import records
from ...latencies import Latency, latency_change
from ...tables import format_table, html_table, shown, wrapped
from .baselines import BASELINES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KIND = "cbkernels pruning 1"


@dataclass(frozen=True)
class PruneStep:
    """One try: some blocks were removed, the rest healed, and the model was evaluated.

    Example:
        >>> PruneStep(("layer1.0",), (0.25,), True, "0.9 is not below 0.8", 1, accuracy_healed=0.9).accuracy_healed
        0.9
    """

    blocks: tuple[str, ...]
    """What was removed, under the names before the first removal; none in the step 0, the model as it was."""
    scores: tuple[float, ...]
    """Of these blocks, by the ranking."""
    kept: bool
    """Whether they stay removed."""
    reason: str
    """Why, in words."""
    num_removed: Count
    """Blocks that the evaluated model lacks, those of this step included."""
    accuracy_removed: float | None = None
    """What ``evaluate`` returned before healing; None where the blocks could not be removed together."""
    accuracy_healed: float | None = None
    """And after it; the same without ``heal``."""
    accuracy_test: float | None = None
    """What ``test`` returned then, of a step that stays."""
    was_healed: bool | None = None
    """Whether ``heal`` changed a weight of the model; None where nothing heals."""
    parameters: Count | None = None
    """Of the model then, as ``Cost`` has them; likewise what follows."""
    macs: Count | None = None
    latency_ms: NotNegative | None = None
    latency_ms_p10: NotNegative | None = None
    latency_ms_p90: NotNegative | None = None
    peak_memory_bytes: Count | None = None


@dataclass(repr=False)
class PruneLog:
    """All steps of one ``prune_blocks``; ``print`` shows a table.

    Scores are what ``evaluate`` returned, higher being better. The surgery's ``undo`` puts the removed blocks back into
    the healed rest, which is not the model of step 0 again.

    Example:
        >>> log = PruneLog("margin", "geometric", 0.125, None, 8)
        >>> log.steps.append(PruneStep((), (), True, "the model as it was", 0, 0.875, 0.875))
        >>> log.before, log.limit, log.removed
        (0.875, 0.75, [])
    """

    rank: str
    """Name of the ranking."""
    strategy: str
    """Name of the strategy."""
    max_drop: float
    """As asked for."""
    target: float | None
    """As asked for."""
    num_blocks: Count
    """Residual blocks of the model at first."""
    refused: dict[str, str] = field(default_factory=dict)
    """Blocks that cannot be removed from this model at all -> why."""
    steps: list[PruneStep] = field(default_factory=list)
    """The first one is the model as it was."""
    reason: str = ""
    """Why it ended; empty while it goes on."""
    baseline: str = "first"
    """As asked for."""
    num_samples: Count = 1
    """Of the example that costs are measured on, as ``samples_in`` counts them."""

    @property
    def before(self) -> float:
        """What ``evaluate`` returned at first."""
        accuracy = self.steps[0].accuracy_healed
        assert accuracy is not None, "of the model as it was"
        return accuracy

    @property
    def reference(self) -> float:
        """What ``max_drop`` counts from: ``before``, or with the baseline "best" the best score of the kept steps."""
        kept = [step.accuracy_healed for step in self.steps if step.kept and step.accuracy_healed is not None]
        return BASELINES.chosen(self.baseline).score(kept)

    @property
    def limit(self) -> float:
        """Steps below it are undone."""
        return self.reference - self.max_drop

    @property
    def removed(self) -> list[str]:
        """Blocks that are gone, in the order of their removal, under the names before the first one."""
        return [name for step in self.steps if step.kept for name in step.blocks]

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types; a score that is not finite is None."""
        content = {"kind": _KIND, **asdict(self), "removed": self.removed}
        for step in content["steps"]:
            step["blocks"], step["scores"] = list(step["blocks"]), [finite_or_none(s) for s in step["scores"]]
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> PruneLog:
        """The log of which ``to_dict`` returned this.

        Raises:
            ValueError: it is damaged, or something else.
        """
        try:
            if content["kind"] != _KIND:
                raise ValueError(f"its kind is {content['kind']!r}")
            required(cls, content, "its content")
            steps = [
                PruneStep(**{**step, "blocks": tuple(step["blocks"]), "scores": tuple(step["scores"])})
                for step in content["steps"]
            ]
            return cls(
                **{each.name: content[each.name] for each in fields(cls) if each.name in content} | {"steps": steps}
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is no log of a pruning, or a damaged one: {error}") from error

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write one JSON file, whole or not at all."""
        records.write_json(self.to_dict(), path)

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> PruneLog:
        """Read a file that ``to_json`` wrote.

        Raises:
            ValueError: the file is damaged, or something else.
            OSError: it cannot be read.
        """
        return records.read_json(path, cls.from_dict)

    def plot(self, path: str | os.PathLike[str] | None = None, *, others: Sequence[PruneLog] = ()) -> Figure:
        """Accuracy against the share of blocks removed, before and after healing, with the limit.

        Args:
            path: file to write, in the format of its suffix.
            others: logs of the same model to compare with, such as those of other rankings.

        Returns:
            A matplotlib Figure; notebooks show it.

        Raises:
            ValueError: matplotlib does not know the suffix.
            ImportError: matplotlib is missing.
        """
        from ...drawing.prune_figures import Curve, plot_curves

        logs = [self, *others]
        heals = any(step.accuracy_removed != step.accuracy_healed for log in logs for step in log.steps)
        curves = [Curve(log.rank, *(_points(log, kept) for kept in (True, False))) for log in logs]
        return plot_curves(curves, path, limit=self.limit, heals=heals)

    def __str__(self) -> str:
        return "\n".join([format_table(*self._table()), shown(self._told()), *map(wrapped, self._notes())])

    def __repr__(self) -> str:
        return f"PruneLog({self._told()})"

    def _repr_html_(self) -> str:
        return html_table(f"Pruning of {self.num_blocks} blocks", *self._table(), [self._told(), *self._notes()])

    def _told(self) -> str:
        told = f"{len(self.removed)} of {self.num_blocks} blocks removed by {self.rank}; {self.reason or 'not ended'}"
        count = len(self.refused)
        refused = f"; {count} block{'s' * (count > 1)} could not go at all, log.refused says why" if count else ""
        return f"{told}{refused}"

    def _notes(self) -> list[str]:
        """What one must know to read the scores, in sentences."""
        if not self.steps:
            return []
        told = BASELINES.chosen(self.baseline).does
        notes = [f"Scores: higher is better; the limit is {self.limit:.4f}, {self.max_drop:g} below {told}."]
        healings = [step.was_healed for step in self.steps if step.was_healed is not None]
        if not all(healings):
            notes.append(
                f"In {healings.count(False)} of {len(healings)} steps heal changed no weight of the model: let it "
                "train the very model that it is given, with an optimizer of that model's parameters."
            )
        best = max((step for step in self.steps if step.kept), key=lambda step: step.accuracy_healed or -math.inf)
        score = best.accuracy_healed
        if any(healings) and score is not None and score - self.reference > self.max_drop:
            notes.append(
                f"Healing also trained the model: the best score was {score:.4f} with {best.num_removed} blocks gone, "
                f"and the limit compares with {self.reference:.4f}, {told}; train the model first, or pass "
                "baseline='best'."
            )
        return notes

    def _table(self) -> tuple[list[str], list[list[object]]]:
        titles = ["step", "removed", "", "blocks", "score without them", "after healing", "parameters",
                  "MACs per sample", f"latency of {self.num_samples} (ms)", "change"]  # fmt: skip
        rows: list[list[object]] = []
        for number, step in enumerate(self.steps):
            scores = ("" if each is None else f"{each:.4f}" for each in (step.accuracy_removed, step.accuracy_healed))
            first, latency = (_latency(each) for each in (self.steps[0], step))
            rows.append([
                number, f"{step.num_removed} of {self.num_blocks}", "kept" if step.kept else "undone",
                _shortened(step.blocks), *scores, "" if step.parameters is None else step.parameters,
                "" if step.macs is None else round(step.macs / self.num_samples),
                "" if step.latency_ms is None else f"{step.latency_ms:.2f}",
                latency_change(first, latency) if number and first and latency else "",
            ])  # fmt: skip
        return titles, rows


def _latency(step: PruneStep) -> Latency | None:
    median, low, high = step.latency_ms, step.latency_ms_p10, step.latency_ms_p90
    return None if median is None or low is None or high is None else Latency(median, low, high)


def _shortened(names: Sequence[str]) -> str:
    """Names for a cell: of many the first and the last."""
    return ", ".join(names if len(names) <= 3 else (names[0], f"{len(names) - 2} more", names[-1]))


def _points(log: PruneLog, kept: bool) -> list[tuple[float, float, float]]:
    return [
        (step.num_removed / log.num_blocks, step.accuracy_removed, step.accuracy_healed)
        for step in log.steps
        if step.kept == kept and step.accuracy_removed is not None and step.accuracy_healed is not None
    ]

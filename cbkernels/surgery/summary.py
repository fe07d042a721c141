"""What a surgery changed, as a table: blocks and costs before and after, and what nobody has checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..latencies import Latency, latency_change
from ..models.cost import Cost
from ..tables import format_table, html_table, wrapped

_PER_SAMPLE = {"MACs per sample": "macs", "FLOPs per sample": "flops"}
_COSTS = {
    "parameters": "parameters", **_PER_SAMPLE, "latency of {}, median (ms)": "latency_ms",
    "latency of {}, p10 (ms)": "latency_ms_p10", "latency of {}, p90 (ms)": "latency_ms_p90",
    "peak memory of {} (bytes)": "peak_memory_bytes",
}  # fmt: skip
_HEALED = (
    "The model was healed without these blocks: surgery.undo() puts them back into the healed rest, which does not "
    "bring back the accuracy of the original; only a copy from before the pruning does."
)
_MANY = 1 / 3
"""Share of the blocks beyond which a removal at once is worth a sentence."""


@dataclass(frozen=True, repr=False)
class SurgerySummary:
    """Blocks and cost of a model before and after; ``print`` shows a table."""

    removed: list[str]
    """Names of the removed blocks."""
    blocks_before: int
    """Residual blocks found in the model before."""
    blocks_after: int
    """And afterwards."""
    before: Cost
    """What one pass of the example cost."""
    after: Cost
    """And afterwards."""
    was_evaluated: bool = False
    """Whether an evaluation decided that the blocks may go, as in ``prune_blocks``."""
    was_healed: bool = False
    """Whether ``prune_blocks`` trained what is left."""
    num_samples: int = 1
    """Of the example, as ``samples_in`` counts them."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return {
            "removed": list(self.removed),
            "before": {"blocks": self.blocks_before, **self.before.to_dict()},
            "after": {"blocks": self.blocks_after, **self.after.to_dict()},
            "was_evaluated": self.was_evaluated,
            "was_healed": self.was_healed,
            "num_samples": self.num_samples,
        }

    def __str__(self) -> str:
        header, rows = self._table()
        return "\n".join([format_table(header, rows), *map(wrapped, self._below())])

    def __repr__(self) -> str:
        ends = f"{self.blocks_before} -> {self.blocks_after} blocks"
        return f"SurgerySummary({ends}, {self.before.parameters} -> {self.after.parameters} parameters)"

    def _repr_html_(self) -> str:
        return html_table(f"Without {', '.join(self.removed) or 'nothing'}", *self._table(), self._below())

    def _table(self) -> tuple[list[str], list[list[object]]]:
        pairs: list[tuple[str, float, float]] = [("residual blocks", self.blocks_before, self.blocks_after)]
        for title, field in _COSTS.items():
            before, after = (getattr(cost, field) for cost in (self.before, self.after))
            if title in _PER_SAMPLE:
                before, after = (round(number / self.num_samples) for number in (before, after))
            pairs.append((title.format(self.num_samples), before, after))
        if not self.removed:
            return ["", "the model"], [[title, before] for title, before, _ in pairs]
        return ["", "before", "after", "change"], [[title, b, a, self._change(title, b, a)] for title, b, a in pairs]

    def _below(self) -> list[str]:
        if not self.removed:
            return ["No block was removed."]
        return [_HEALED] * self.was_healed + [self._unchecked()] * (not self.was_evaluated)

    def _change(self, title: str, before: float, after: float) -> str:
        if title.startswith("latency"):
            ends = [Latency(x.latency_ms, x.latency_ms_p10, x.latency_ms_p90) for x in (self.before, self.after)]
            return latency_change(*ends) if "median" in title else ""
        return f"{100 * (after - before) / before:+.1f} %" if before else ""

    def _unchecked(self) -> str:
        gone = self.blocks_before - self.blocks_after
        many = f"{gone} of {self.blocks_before} blocks went at once. " if gone > _MANY * self.blocks_before else ""
        return (
            f"{many}Nobody has checked how accurate the model is without them: evaluate it on held-out data, or let "
            "cb.prune_blocks(model, probe, evaluate=...) decide which blocks go."
        )

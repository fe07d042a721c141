"""What a surgery changed, as a table: blocks and costs before and after, and what nobody has checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..latencies import Latency, latency_change
from ..models.cost import Cost
from ..tables import format_table, wrapped

_COSTS = {
    "parameters": "parameters", "MACs": "macs", "FLOPs": "flops", "latency, median (ms)": "latency_ms",
    "latency, p10 (ms)": "latency_ms_p10", "latency, p90 (ms)": "latency_ms_p90",
    "peak memory (bytes)": "peak_memory_bytes",
}  # fmt: skip
_MANY = 1 / 3
"""Share of the blocks beyond which a removal at once is worth a sentence."""


@dataclass(frozen=True)
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

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return {
            "removed": list(self.removed),
            "before": {"blocks": self.blocks_before, **self.before.to_dict()},
            "after": {"blocks": self.blocks_after, **self.after.to_dict()},
            "was_evaluated": self.was_evaluated,
        }

    def __str__(self) -> str:
        if not self.removed:
            rows = [["residual blocks", self.blocks_before], *([x, getattr(self.before, y)] for x, y in _COSTS.items())]
            return format_table(["", "the model"], rows) + "\nNo block was removed."
        pairs = [("residual blocks", self.blocks_before, self.blocks_after)]
        pairs += [(title, getattr(self.before, field), getattr(self.after, field)) for title, field in _COSTS.items()]
        rows = [[title, b, a, self._change(title, b, a)] for title, b, a in pairs]
        table = format_table(["", "before", "after", "change"], rows)
        return "\n".join([table, *([] if self.was_evaluated else [wrapped(self._unchecked())])])

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

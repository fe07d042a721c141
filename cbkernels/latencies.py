"""Whether two latencies differ: what of a change in milliseconds may be said. Needs no other package."""

from __future__ import annotations

from typing import NamedTuple

TOO_NOISY = "too noisy to tell"


class Latency(NamedTuple):
    """Of repeated passes, in milliseconds."""

    median: float
    p10: float
    p90: float

    @property
    def is_noisy(self) -> bool:
        """A tenth of the passes took more than twice as long as the median."""
        return self.p90 > 2 * self.median


def latency_change(before: Latency, after: Latency) -> str:
    """The change of the median in percent, where it is larger than what eight of ten passes scatter by.

    Example:
        >>> latency_change(Latency(2.0, 1.9, 2.3), Latency(1.0, 0.9, 1.2))
        '-50.0 %'
        >>> latency_change(Latency(2.0, 1.9, 2.3), Latency(1.9, 1.8, 2.2))
        'too noisy to tell'
    """
    scatter = max(each.p90 - each.p10 for each in (before, after))
    difference = after.median - before.median
    if before.is_noisy or after.is_noisy or scatter >= abs(difference):
        return TOO_NOISY
    return f"{100 * difference / before.median:+.1f} %"

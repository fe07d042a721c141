"""A change of a latency is said only where it is larger than what the passes scatter by."""

from __future__ import annotations

import pytest

from cbkernels.latencies import TOO_NOISY, Latency, latency_change

QUIET = Latency(2.0, 1.9, 2.2)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (QUIET, Latency(1.5, 1.4, 1.6), "-25.0 %"),
        (QUIET, Latency(3.0, 2.9, 3.1), "+50.0 %"),
        (QUIET, QUIET, TOO_NOISY),
        (QUIET, Latency(1.75, 1.7, 1.8), TOO_NOISY),  # the scatter before exceeds the difference
        (QUIET, Latency(1.0, 0.9, 2.1), TOO_NOISY),  # p90 above twice the median
        (Latency(3.5, 0.33, 107.0), Latency(1.0, 0.9, 1.1), TOO_NOISY),
    ],
)
def test_changes(before: Latency, after: Latency, said: str) -> None:
    assert latency_change(before, after) == said

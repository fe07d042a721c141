"""Three times of one call: on the device by events, on the device by replaying a graph, on the host until it returns.

Before every call on the device its cache is filled by reading other memory, so that no line has to be written back
within the timed span; then the device sleeps while the host queues the call, so that no wait for the host is in it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

Json = dict[str, Any]
READ_BYTES = 256 << 20
"""Several times the largest L2 cache."""
SLEEP_CYCLES = 600_000
"""About a third of a millisecond: longer than the host needs to queue a call."""
WARM_UP = 2


class Clock(Protocol):
    """Measures calls on one kind of device."""

    how: str

    def on_device(self, run: Callable[[], Any], rounds: int) -> list[float]:
        """Seconds between events around each call."""

    def captured(self, run: Callable[[], Any]) -> tuple[Callable[[], Any], Any] | None:
        """A replay of ``run`` as a CUDA graph and its result; None where there are no graphs."""

    def wait(self) -> None:
        """Until everything queued is done."""


class Events:
    """CUDA events."""

    how = f"CUDA events around one call, behind a read of {READ_BYTES >> 20} MiB and a sleep of the device"

    def __init__(self) -> None:
        self._other = torch.zeros(READ_BYTES // 4, device="cuda")

    def on_device(self, run: Callable[[], Any], rounds: int) -> list[float]:
        pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(rounds)]
        for before, after in pairs:
            self._other.amax()
            torch.cuda._sleep(SLEEP_CYCLES)
            before.record()
            run()
            after.record()
        torch.cuda.synchronize()
        return [before.elapsed_time(after) / 1e3 for before, after in pairs]

    def captured(self, run: Callable[[], Any]) -> tuple[Callable[[], Any], Any] | None:
        run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = run()
        return graph.replay, result

    def wait(self) -> None:
        torch.cuda.synchronize()


class WallClock:
    """The host's clock, for a rehearsal on a CPU."""

    how = "the host's clock (a rehearsal)"

    def on_device(self, run: Callable[[], Any], rounds: int) -> list[float]:
        return host_times(run, rounds, self.wait)

    def captured(self, run: Callable[[], Any]) -> tuple[Callable[[], Any], Any] | None:
        return None

    def wait(self) -> None:
        return None


def host_times(run: Callable[[], Any], rounds: int, wait: Callable[[], None]) -> list[float]:
    """Seconds until each call returns, on an idle device."""
    found = []
    for _ in range(rounds):
        wait()
        start = time.perf_counter()
        result = run()
        found.append(time.perf_counter() - start)
        del result
    wait()
    return found


def summary(times: Sequence[float]) -> Json:
    quarters = statistics.quantiles(times, n=4) if len(times) > 1 else list(times) * 3
    return {"median_us": 1e6 * statistics.median(times), "min_us": 1e6 * min(times),
            "quartiles_us": [1e6 * quarters[0], 1e6 * quarters[2]], "rounds": len(times)}  # fmt: skip


def rounds_for(clock: Clock, run: Callable[[], Any], most: int, seconds: float) -> int:
    for _ in range(WARM_UP):
        run()
    first = clock.on_device(run, 1)[0]
    return int(min(most, max(3, seconds / max(first, 1e-6))))

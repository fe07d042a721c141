"""The goals for one CPU core and how far a run is from them; limits are data, verdicts are computed.

A measure is a number of one case, from medians: `reads` (ours / one read of the same bytes), `speedup`
(fastest peer / ours), `grid` and `threads` (ours with an update grid, with two threads, over ours),
`level` and `rate` (xxh3 + dict / a stream's update; bytes a second of that), `us` and `ms` (time of one
contender). The worst case that a limit selects decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Entry = dict[str, Any]
OURS = "bundle_rows"
STREAM = "BundleEntropy.update, all rows"
NO_FASTER = 0.95
"""A peer may look a twentieth faster before it counts."""
TWO_THREADS_NOISE = 1.1
"""Two threads may look a tenth slower than one before it counts: both run the same code on small work."""


def median(case: Entry, contender: str) -> float | None:
    times = case["times"].get(contender)
    return None if times is None else float(times["median_s"])


def ratio(case: Entry, above: str, below: str) -> float | None:
    a, b = median(case, above), median(case, below)
    return None if a is None or b is None else a / b


def best_peer(case: Entry) -> tuple[str, float] | None:
    peers = {name: float(t["median_s"]) for name, t in case["times"].items() if t["is_peer"]}
    return min(peers.items(), key=lambda item: item[1]) if peers else None


def speedup(case: Entry) -> float | None:
    peer, own = best_peer(case), median(case, OURS)
    return None if peer is None or own is None else peer[1] / own


MEASURES: dict[str, Callable[[Entry], float | None]] = {
    "reads": lambda case: ratio(case, OURS, "read"),
    "speedup": speedup,
    "grid": lambda case: ratio(case, "bundle_rows, grid", OURS),
    "threads": lambda case: ratio(case, "bundle_rows, 2 threads", OURS),
    "level": lambda case: ratio(case, "xxh3 + dict", STREAM),
    "rate": lambda case: (seconds := median(case, STREAM)) and case["bytes"] / seconds / 1e9,
}
MORE_IS_BETTER = ("speedup", "level", "rate")
FORMATS = {
    "reads": "{:.3g} reads",
    "speedup": "{:.3g}x the best peer",
    "grid": "{:.2f}x the time without",
    "threads": "{:.2f}x the time of one thread",
    "level": "{:.3g}x the speed of xxh3 + dict",
    "rate": "{:.3g} GB/s",
    "us": "{:.3g} us",
    "ms": "{:.3g} ms",
}


@dataclass(frozen=True)
class Limit:
    """One number to reach in every case that `at` selects."""

    kind: str
    bound: float
    at: Callable[[Entry], bool]
    contender: str = ""
    """For kind "us" and "ms"."""

    def text(self) -> str:
        sign = ">=" if self.kind in MORE_IS_BETTER else "<="
        return f"{sign} {FORMATS[self.kind].format(self.bound)}"

    def value(self, case: Entry) -> float | None:
        if self.kind in MEASURES:
            return MEASURES[self.kind](case)
        seconds = median(case, self.contender)
        return None if seconds is None else seconds * {"us": 1e6, "ms": 1e3}[self.kind]

    def worst(self, cases: list[Entry]) -> tuple[float, Entry] | None:
        found = [(v, case) for case in cases if self.at(case) and (v := self.value(case)) is not None]
        if not found:
            return None
        return (min if self.kind in MORE_IS_BETTER else max)(found, key=lambda item: item[0])

    def holds(self, value: float) -> bool:
        return value >= self.bound if self.kind in MORE_IS_BETTER else value <= self.bound


@dataclass(frozen=True)
class Goal:
    """A line of the goals: what must be reached and what is aimed at."""

    regime: str
    must: tuple[Limit, ...]
    aim: tuple[Limit, ...] = ()


def regime(data: str, *shapes: tuple[int, int]) -> Callable[[Entry], bool]:
    wanted = [list(shape) for shape in shapes]
    return lambda case: case["group"] == "regime" and case["data"] == data and case["shape"] in wanted


def in_any_order(case: Entry) -> bool:
    return case["group"] in ("regime", "adversarial", "strided") and not case["hot"]


def any_with_ours(case: Entry) -> bool:
    return OURS in case["times"]


def group(name: str) -> Callable[[Entry], bool]:
    return lambda case: case["group"] == name


SMALL, MIB32, MIB32_SHORT, GIB = (64, 16384), (512, 16384), (2048, 4096), (4096, 65536)
D512, D64 = (50000, 512), (1000000, 64)
LONG = (MIB32, MIB32_SHORT, GIB)

GOALS = (
    Goal(
        "all rows distinct, D >= 4096, from memory",
        (Limit("speedup", 30, regime("distinct", *LONG)),),
        (
            Limit("reads", 0.04, regime("distinct", MIB32, MIB32_SHORT)),
            Limit("reads", 0.01, regime("distinct", GIB)),
            Limit("speedup", 100, regime("distinct", *LONG)),
        ),
    ),
    Goal(
        "all distinct, (50000, 512)",
        (Limit("speedup", 20, regime("distinct", D512)),),
        (Limit("reads", 0.3, regime("distinct", D512)),),
    ),
    Goal(
        "all distinct, (1000000, 64)",
        (Limit("speedup", 20, regime("distinct", D64)),),
        (Limit("reads", 1.5, regime("distinct", D64)), Limit("speedup", 30, regime("distinct", D64))),
    ),
    Goal(
        "all equal, rows >= 64 KiB, from memory",
        (Limit("reads", 1.25, regime("equal", MIB32, GIB)),),
        (Limit("reads", 1.11, regime("equal", MIB32, GIB)),),
    ),
    Goal(
        "all equal, 512 columns",
        (Limit("reads", 1.3, regime("equal", D512)), Limit("speedup", 4, regime("equal", D512))),
        (Limit("reads", 1.1, regime("equal", D512)),),
    ),
    Goal(
        "all equal, 64 columns",
        (Limit("reads", 1.3, regime("equal", D64)), Limit("speedup", 25, regime("equal", D64))),
        (Limit("reads", 1.1, regime("equal", D64)),),
    ),
    Goal(
        "about 50 bundles, long rows, from memory",
        (Limit("reads", 1.4, regime("50 bundles", *LONG)),),
        (Limit("reads", 1.15, regime("50 bundles", *LONG)),),
    ),
    Goal(
        "any layout and memory order, from memory",
        (Limit("reads", 2.5, in_any_order),),
        (Limit("reads", 2.0, in_any_order),),
    ),
    Goal("no peer faster by more than 5 %", (Limit("speedup", NO_FASTER, any_with_ours),)),
    Goal(
        "streaming",
        (Limit("level", 1.0, group("streaming")),),
        (Limit("rate", 25, group("streaming")),),
    ),
    Goal(
        "update grid applied",
        (Limit("grid", 1.1, group("regime")),),
        (Limit("grid", 1.05, group("regime")),),
    ),
    Goal(
        "one call, (64, 16384) distinct, NumPy",
        (Limit("us", 30, group("call"), "bundle_rows, NumPy"),),
        (Limit("us", 10, group("call"), "bundle_rows, NumPy"),),
    ),
    Goal(
        "one call, (64, 16384) distinct, torch",
        (Limit("us", 30, group("call"), "bundle_rows, torch"),),
        (Limit("us", 10, group("call"), "bundle_rows, torch"),),
    ),
    Goal("two threads never slower than one", (Limit("threads", TWO_THREADS_NOISE, any_with_ours),)),
    Goal(
        "conflict_margin, (512, 16384)",
        (Limit("ms", 35, group("margin"), "conflict_margin"),),
        (Limit("ms", 25, group("margin"), "conflict_margin"),),
    ),
)

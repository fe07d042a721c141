"""Contenders measured in turn, round by round, each answer asserted before its first time counts.

Before every timed call either the caches are filled with something else and the contender's code (not
its data) is brought back by a small call ("cold"), or the contender itself runs once untimed ("hot").
The first contender is timed by pytest-benchmark, the others in its setup, in an order that rotates.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cbkernels import _core

from .limits import limits
from .pages import huge_page_share
from .regimes import Case


@dataclass(frozen=True)
class Contender:
    """Something that is timed."""

    name: str
    run: Callable[[Any], Any]
    check: Callable[[Any], None]
    """Raises AssertionError unless the result is right."""
    threads: int = 1
    hot: bool | None = None
    """None: as the case is."""
    is_peer: bool = False
    estimate_s: float = 0.0
    absent: str = ""
    """Why it cannot run here."""
    acts: Any = None
    """None: those of the case."""
    small: Any = None


class Race:
    """Runs the contenders of one case; what it returns goes into the JSON as it is."""

    def __init__(self, benchmark: Any, seconds_left: Callable[[], float], flush_bytes: int) -> None:
        self._benchmark = benchmark
        self._seconds_left = seconds_left
        self._other = _other_memory(flush_bytes)

    def __call__(self, case: Case, contenders: Sequence[Contender], *, rounds: int | None = None) -> dict[str, Any]:
        racing, skipped = self._admitted(contenders)
        times: dict[str, list[float]] = {c.name: [] for c in racing}
        first, work = self._warm_up(case, racing)
        if rounds is None:
            rounds = self._rounds([first[c.name] for c in racing if not c.is_peer])
        shares = {c.name: _share(c, first[c.name], rounds) for c in racing}
        lead, others = racing[0], racing[1:]

        def one_round() -> None:
            turn = max(map(len, times.values()), default=0)
            for c in others[turn % len(others) :] + others[: turn % len(others)] if others else []:
                if len(times[c.name]) < shares[c.name]:
                    self._prepare(case, c)
                    times[c.name].append(_timed(c, _acts(case, c))[0])
            times[lead.name].append(0.0)
            self._prepare(case, lead)

        acts = _acts(case, lead)
        self._benchmark.group = case.group
        self._benchmark.pedantic(lambda: lead.run(acts), setup=one_round, rounds=rounds, iterations=1)
        torch.set_num_threads(1)
        if self._benchmark.stats is None:
            return {}
        times[lead.name] = list(self._benchmark.stats.stats.data)
        report = {c.name: _summary(case, c, times[c.name], first[c.name]) for c in racing}
        return _described(case) | {"times": report, "skipped": skipped, "work": work}

    def _admitted(self, contenders: Sequence[Contender]) -> tuple[list[Contender], dict[str, str]]:
        late = self._seconds_left() <= 0
        racing, skipped = [], {}
        for c in contenders:
            limit = limits().loop_skip_s if c.name == "pairwise loop" else limits().peer_skip_s
            limit = min(limit, 0.1) if late else limit
            if c.absent:
                skipped[c.name] = c.absent
            elif c.is_peer and c.estimate_s > limit:
                skipped[c.name] = f"estimated {c.estimate_s:.1f} s, limit {limit:g} s"
            else:
                racing.append(c)
        return racing, skipped

    def _warm_up(self, case: Case, racing: list[Contender]) -> tuple[dict[str, float], dict[str, Any]]:
        first, work = {}, {}
        for c in racing:
            torch.set_num_threads(c.threads)
            first[c.name], result = _timed(c, _acts(case, c))
            if not c.is_peer and c.name.startswith("bundle_rows"):
                work[c.name] = _core.last_work()
            c.check(result)
            del result
        return first, work

    def _rounds(self, seconds: list[float]) -> int:
        per_round = sum(seconds) + len(seconds) * self._other.nbytes / 20e9
        fitting = int(limits().ours_s / max(per_round, 1e-6))
        return min(max(fitting, limits().min_rounds), limits().max_rounds)

    def _prepare(self, case: Case, c: Contender) -> None:
        torch.set_num_threads(c.threads)
        if _is_hot(case, c):
            c.run(_acts(case, c))
            return
        _core.read_bytes(self._other.ctypes.data, self._other.nbytes, c.threads)
        c.run(case.small if c.small is None else c.small)


def _timed(c: Contender, acts: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = c.run(acts)
    return time.perf_counter() - start, result


def _acts(case: Case, c: Contender) -> Any:
    return case.acts if c.acts is None else c.acts


def _is_hot(case: Case, c: Contender) -> bool:
    return case.hot if c.hot is None else c.hot


def _share(c: Contender, first_s: float, rounds: int) -> int:
    """Rounds of one contender; 0 means that its first call is all there is."""
    return min(rounds, int(limits().peer_s / max(first_s, 1e-9))) if c.is_peer else rounds


def _summary(case: Case, c: Contender, times: list[float], first_s: float) -> dict[str, Any]:
    state = "hot" if _is_hot(case, c) else "cold"
    if not times:
        times, state = [first_s], "first call, no warm-up"
    quarters = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    return {
        "min_s": min(times), "median_s": statistics.median(times), "max_s": max(times),
        "quartiles_s": [quarters[0], quarters[2]], "rounds": len(times), "threads": c.threads,
        "state": state, "is_peer": c.is_peer,
    }  # fmt: skip


def _described(case: Case) -> dict[str, Any]:
    return {
        "name": case.name, "group": case.group, "shape": list(case.shape), "measured_shape": list(case.acts.shape),
        "data": case.data, "layout": case.layout, "dtype": case.dtype, "bytes": case.storage.nbytes,
        "bundles": int(case.ids.max()) + 1, "hot": case.hot, "huge_page_share": huge_page_share(case.storage),
    }  # fmt: skip


def _other_memory(nbytes: int) -> Any:
    if nbytes not in _OTHER:
        _OTHER[nbytes] = np.ones(nbytes // 8, np.uint64)
    return _OTHER[nbytes]


_OTHER: dict[int, Any] = {}

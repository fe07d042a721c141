"""What we ship, timed on a GPU; every answer is asserted before it is timed: ``python times.py OUT SECONDS``.

The JSON OUT is written aside and renamed after every case; the lines printed are the same in words.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import doors  # type: ignore[import-not-found]
import torch
from clocks import Clock, Events, WallClock, host_times, rounds_for, summary  # type: ignore[import-not-found]
from gpu_checks.report import write_aside  # type: ignore[import-not-found]
from known_layers import (  # type: ignore[import-not-found]
    DATA,
    GRID,
    MARGIN_SHAPE,
    Case,
    check_counts,
    check_entropy,
    check_fingerprints,
    check_grid,
    check_ids,
    check_layers,
    check_margin,
    check_update,
    make_case,
)

import cbkernels as cb
from cbkernels import _core, backends, torch_operators
from cbkernels.arrays import as_labels, as_rows

Json = dict[str, Any]
SHAPES = ((64, 16384), (512, 16384), (2048, 4096), (50000, 512), (1000000, 64), (1000000, 4), (4096, 65536))
"""(1000000, 4) is 16 MB, so next to nothing but the work on the tables."""
BFLOAT16_SHAPES = ((512, 16384), (4096, 65536))
ODD_SHAPE = (512, 16383)
"""Rows whose length is no multiple of 16 bytes."""
LAYERS = ((120, 512, 16384), (120, 512, 512))
ROWS_OF_A_BLOCK = (512, 1024, 2048, 4096)
BLOCK_SHAPES = ((1024, 4096), (2048, 4096), (4096, 4096))
ROUNDS = 11
SECONDS_A_CALL = 0.06
COPY_BYTES = 1 << 30


class Call(NamedTuple):
    """Something of ours on one case."""

    name: str
    run: Callable[[], Any]
    check: Callable[[Any], None]
    waits: bool
    """For the device: no graph can hold it, and its time on the device holds the host's."""


def calls_of(case: Case, *, are_few: bool) -> Iterator[Call]:
    views = [as_rows(acts) for acts in case.acts]
    of_row, backend = as_labels(case.labels, views[0]), backends.choose("auto", views[0])
    if len(case.acts) > 1:
        queue, check = lambda: backend.queue_layers(views, of_row, None, False), check_counts(case)
        yield Call("counts queued and read", lambda: queue()(), check, True)
        yield Call("counts queued", queue, lambda read: check(read()), False)
        layers = {f"layer{i}": a for i, a in enumerate(case.acts)}
        for check_nan in (False, True):
            yield Call(f"bundle_entropy_layers, check_nan={check_nan}",
                       lambda c=check_nan: cb.bundle_entropy_layers(layers, case.labels, check_nan=c),
                       check_layers(case), True)  # fmt: skip
        return
    acts = case.acts[0]
    yield Call("bundle_rows", lambda: cb.bundle_rows(acts), check_ids(case), False)
    if are_few:
        return
    yield Call("row_fingerprints", lambda: torch_operators.row_fingerprints(acts), check_fingerprints(case), False)
    if case.entry["data"] in ("distinct", "equal"):
        yield Call("bundle_rows, grid", lambda: cb.bundle_rows(acts, grid=GRID), check_grid(case), False)
        yield Call("bundle_entropy", lambda: cb.bundle_entropy(acts, case.labels), check_entropy(case), True)
        yield Call("update", lambda: _updated(acts, case.labels), check_update(case), False)
        if tuple(acts.shape) == MARGIN_SHAPE:
            yield Call("conflict_margin", lambda: cb.conflict_margin(acts, case.labels), check_margin(case), True)
            yield Call("margin queued", lambda: backend.queue_margin(views[0], of_row),
                       lambda read: check_margin(case)(read()), False)  # fmt: skip


def _updated(acts: Any, labels: Any) -> Any:
    metric = cb.BundleEntropy()
    metric.update(acts, labels)
    return metric


def measure(case: Case, clock: Clock, seconds_left: Callable[[], float], *, are_few: bool = False) -> Json:
    """All calls of a case; those for which no time is left are named under "skipped"."""
    for call in calls_of(case, are_few=are_few):
        if seconds_left() <= 0:
            case.entry["skipped"][call.name] = "no time left"
            continue
        result = call.run()
        call.check(result)
        del result
        try:
            case.entry["calls"][call.name] = times_of(call, clock)
        except RuntimeError as error:  # of CUDA's; the answer was right, and there are other calls
            case.entry["skipped"][call.name] = f"FAILED: {error}"
    return case.entry


def times_of(call: Call, clock: Clock) -> Json:
    rounds = rounds_for(clock, call.run, ROUNDS, SECONDS_A_CALL)
    times = {"host": summary(host_times(call.run, rounds, clock.wait))}
    if not call.waits:
        times["event"] = summary(clock.on_device(call.run, rounds))
        if call.name != "update" and (graph := clock.captured(call.run)) is not None:
            times["graph"] = replayed(graph, call.check, clock, rounds)
    return times


def replayed(graph: tuple[Callable[[], Any], Any], check: Callable[[Any], None], clock: Clock, rounds: int) -> Json:
    """Times of a CUDA graph, whose answer is checked like the call's own."""
    replay, result = graph
    for part in result if isinstance(result, tuple) else (result,):
        if not callable(part):  # a reader of a graph refuses before the first replay
            part.fill_(True)  # what an earlier run left must not pass for an answer
    replay()
    clock.wait()
    check(result)
    return summary(clock.on_device(replay, rounds))


# --- yardsticks -------------------------------------------------------------------------------------------


def yardsticks(clock: Clock, device: str, num_bytes: int = COPY_BYTES) -> Json:
    """The device's own rates for large memory, and what an empty launch costs."""
    source = torch.ones(num_bytes // 4, device=device)
    target, one = torch.empty_like(source), torch.zeros(1, device=device)
    copied = summary(clock.on_device(lambda: target.copy_(source), 9))
    read = summary(clock.on_device(source.amax, 9))
    return {
        "copy": copied, "copy_bytes_per_s": 2e6 * num_bytes / copied["min_us"],
        "read": read, "read_bytes_per_s": 1e6 * num_bytes / read["min_us"],
        "smallest_launch": summary(clock.on_device(lambda: one.add_(1), 15)),
    }  # fmt: skip


def kernels_of(run: Callable[[], Any], rounds: int = 5) -> Json:
    """Name of every kernel and copy that a call queues, with the device's own times for it (by torch's profiler)."""
    from torch.profiler import ProfilerActivity, profile

    run()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(rounds):
            run()
        torch.cuda.synchronize()
    found: dict[str, list[float]] = {}
    for event in profiler.events():
        if "CUDA" in str(event.device_type):
            found.setdefault(event.name[:60], []).append(event.time_range.elapsed_us() * 1e-6)
    return {name: summary(times) for name, times in found.items()}


# --- all of it --------------------------------------------------------------------------------------------


def plan() -> list[tuple[tuple[int, ...], str, str]]:
    """What matters most first, so that a time limit takes the rest."""
    first = [((512, 16384), "float32", d) for d in DATA] + [((4096, 65536), "float32", d) for d in DATA]
    layers = [(shape, "float32", d) for shape in LAYERS for d in ("distinct", "50 bundles", "equal")]
    rest = [(shape, "float32", d) for shape in SHAPES for d in DATA]
    odd = [(ODD_SHAPE, "float32", d) for d in ("distinct", "equal")]
    halves = [(shape, "bfloat16", d) for shape in BFLOAT16_SHAPES for d in ("distinct", "equal")]
    return list(dict.fromkeys([*first, *layers, *rest, *odd, *halves]))


def goals(cases: Sequence[Json], copy_rate: float) -> list[Json]:
    """What was to be reached, in the card's own copy rate where rows must be read, and what was."""
    found = []

    def add(goal: str, limit_us: float, value: float | None) -> None:
        reached = None if value is None else value <= limit_us
        found.append({"goal": goal, "limit_us": round(limit_us, 1), "median_us": value, "reached": reached})

    by_name = {case["name"]: case for case in cases}

    def median(case: str, call: str, kind: str) -> float | None:
        times = by_name.get(case, {}).get("calls", {}).get(call, {}).get(kind)
        return None if times is None else float(times["median_us"])

    for case in cases:
        if case["data"] != "distinct" and case["bytes"] >= COPY_BYTES // 2 and "bundle_rows" in case["calls"]:
            read_us = 1e6 * case["bytes"] / copy_rate
            add(f"{case['name']}: 75 % of the copy rate", read_us / 0.75, median(case["name"], "bundle_rows", "graph"))
    add("(4096, 65536) distinct in 45 us", 45.0, median("(4096, 65536) float32 distinct", "bundle_rows", "graph"))
    add("10^6 rows of 64 distinct in 100 us", 100.0, median("(1000000, 64) float32 distinct", "bundle_rows", "graph"))
    for data in ("distinct", "pairs"):
        keys = median(f"(1000000, 4) float32 {data}", "bundle_rows", "graph")
        add(f"table work on 10^6 keys in 100 us: rows of 16 bytes, {data}", 100.0, keys)
    for case in cases:
        if len(case["shape"]) == 3 and (kernels := case.get("kernels")):
            ours = [t["median_us"] for name, t in kernels.items() if "group_rows" in name]
            most = 80.0 if case["shape"][2] == 512 else 1e6 * case["bytes"] / copy_rate / 0.75
            add(f"{case['name']}: time of the kernel", most, ours[0] if ours else None)
    return found


def lines_of(entry: Json, copy_rate: float) -> list[str]:
    """A case as text; in brackets how much of the copy rate it is to read everything once in that time."""
    lines = [entry["name"]]
    for name, kinds in [*entry["calls"].items(), *(("  kernel", {k: t}) for k, t in entry.get("kernels", {}).items())]:
        parts = []
        for kind, t in kinds.items():
            share = 1e6 * entry["bytes"] / t["median_us"] / copy_rate
            parts.append(f"{kind} {t['median_us']:.1f} us ({share:.2f})" if kind != "host" else
                         f"host {t['median_us']:.1f} us")  # fmt: skip
        lines.append(f"  {name}: {', '.join(parts)}")
    return lines + [f"  {name}: NOT MEASURED, {why}" for name, why in entry["skipped"].items()]


def write(path: Path, content: Json) -> None:
    write_aside(path, json.dumps(content, indent=1) + "\n")


def race(path: Path, seconds: float, device: str, clock: Clock, cases: Sequence[Any], copy_bytes: int) -> Json:
    """Every case; the file is complete after each."""
    start = time.monotonic()

    def left() -> float:
        return seconds - (time.monotonic() - start)

    rates = yardsticks(clock, device, copy_bytes)
    content: Json = {"how": clock.how, "grid": GRID.to_dict(), "yardsticks": rates, "cases": [], "skipped": []}
    print(f"copy {rates['copy_bytes_per_s'] / 1e12:.2f} TB/s, read {rates['read_bytes_per_s'] / 1e12:.2f} TB/s, "
          f"smallest launch {rates['smallest_launch']['median_us']:.1f} us", flush=True)  # fmt: skip
    for shape, dtype, data in cases:
        if left() <= 0:
            content["skipped"].append(f"{shape} {dtype} {data}")
            continue
        case = make_case(shape, data, dtype, device)
        measure(case, clock, left)
        content["cases"].append(case.entry)
        if len(shape) == 3 and device == "cuda":
            layers = next(c for c in calls_of(case, are_few=False) if c.name.startswith("bundle_entropy_layers"))
            case.entry["kernels"] = kernels_of(layers.run)
        write(path, content)
        print("\n".join(lines_of(case.entry, rates["copy_bytes_per_s"])), flush=True)
    if device == "cuda":
        content["rows_of_a_block"] = rows_of_a_block(clock, left)
    content["goals"] = goals(content["cases"], rates["copy_bytes_per_s"])
    write(path, content)
    for goal in content["goals"]:
        state = {True: "reached", False: "NOT REACHED", None: "not measured"}[goal["reached"]]
        print(f"{goal['goal']}: {state} ({goal['median_us']} us of {goal['limit_us']})", flush=True)
    return content


def rows_of_a_block(clock: Clock, left: Callable[[], float]) -> list[Json]:
    """``bundle_rows`` with a block, or the whole grid, that groups: up to how many rows is a block the faster one?"""
    found = []
    for shape in BLOCK_SHAPES:
        for data in ("distinct", "50 bundles"):
            case = make_case(shape, data, "float32", "cuda")
            for most in ROWS_OF_A_BLOCK:
                if left() <= 0:
                    break
                _core.cuda.use_launch_shape(0, 0, most)
                graph = clock.captured(lambda acts=case.acts[0]: cb.bundle_rows(acts))
                if graph is not None:
                    time_of = replayed(graph, check_ids(case), clock, ROUNDS)
                    found.append({"case": case.name, "rows_of_a_block": most, "graph": time_of})
                    print(f"{case.name}, block up to {most} rows: {time_of['median_us']:.1f} us", flush=True)
    _core.cuda.use_launch_shape(0, 0, 0)
    return found


def main() -> None:
    path, seconds = Path(sys.argv[1]), float(sys.argv[2])
    if doors.IS_REHEARSAL:
        small = [((40, 64), "float32", "distinct"), ((3, 40, 64), "float32", "equal"), ((64, 33), "float32", "pairs")]
        race(path, seconds, "cpu", WallClock(), small, 1 << 20)
    else:
        content = race(path, seconds, "cuda", Events(), plan(), COPY_BYTES)
        sys.exit(any(why.startswith("FAILED") for case in content["cases"] for why in case["skipped"].values()))


if __name__ == "__main__":
    main()

"""The GPU benchmark: what we ship against torch.unique(dim=0) and a device copy, in one run, answers asserted first.

Times are CUDA events around one call, after a write of FLUSH_BYTES that pushes everything out of the L2 cache and
keeps the GPU busy while the host queues the call: launch gaps of the host are not in them, what the call itself
waits for is. A case's record is written aside and renamed as soon as it is measured. Read next: `gpu_check.py`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

import cbkernels as cb
from cbkernels import torch_operators

Json = dict[str, Any]
SHAPES = ((64, 16384), (512, 16384), (2048, 4096), (50000, 512), (1000000, 64), (4096, 65536))
BFLOAT16_SHAPES = ((512, 16384), (50000, 512), (4096, 65536))
DATA = ("distinct", "50 bundles", "equal")
LAYERS = ((120, 512, 16384), (120, 512, 512))
MARGIN_SHAPE = (512, 16384)
FLUSH_BYTES = 256 << 20
ROUNDS = 21
OURS_S = 0.5
"""One contender of ours repeats for at most so long."""
PEER_S = 8.0
"""A peer whose call is expected to take longer is not called, and the record says so."""
PEER_REPEAT_S = 0.3
GRID = cb.UpdateGrid(learning_rate=1e-3, batch_size=64, weight_amplitude=0.73)


class Clock(Protocol):
    """Measures calls on one kind of device."""

    how: str

    def times(self, run: Callable[[], Any], rounds: int) -> list[float]:
        """Seconds of ``rounds`` calls."""

    def captured(self, run: Callable[[], Any]) -> tuple[Callable[[], None], Any] | None:
        """A replay of ``run`` as a CUDA graph and its result; None where there are no graphs."""

    def wait(self) -> None:
        """Until everything queued is done."""


class Events:
    """CUDA events, the L2 cache overwritten before every call."""

    how = f"CUDA events, one call, after a write of {FLUSH_BYTES >> 20} MiB"

    def __init__(self) -> None:
        self._other = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")

    def times(self, run: Callable[[], Any], rounds: int) -> list[float]:
        pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(rounds)]
        for before, after in pairs:
            self._other.fill_(1)
            before.record()
            run()
            after.record()
        torch.cuda.synchronize()
        return [before.elapsed_time(after) / 1e3 for before, after in pairs]

    def captured(self, run: Callable[[], Any]) -> tuple[Callable[[], None], Any] | None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = run()
        return graph.replay, result

    def wait(self) -> None:
        torch.cuda.synchronize()


class WallClock:
    """The host's clock, for trying this file out on a CPU."""

    how = "the host's clock"

    def times(self, run: Callable[[], Any], rounds: int) -> list[float]:
        found = []
        for _ in range(rounds):
            start = time.perf_counter()
            run()
            found.append(time.perf_counter() - start)
        return found

    def captured(self, run: Callable[[], Any]) -> tuple[Callable[[], None], Any] | None:
        return None

    def wait(self) -> None:
        return None


@dataclass
class Case:
    """Layers of one network, often a single one, and what is known about them."""

    name: str
    acts: list[Any]
    ids: Any
    """(N,) on the host: the bundle of every row of every layer."""
    labels: Any
    data: str
    entry: Json = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(a.numel() * a.element_size() for a in self.acts)


# --- data -------------------------------------------------------------------------------------------------


def make_case(shape: Sequence[int], data: str, dtype: str, device: str) -> Case:
    """``shape`` is (rows, columns) or (layers, rows, columns)."""
    *several, n, d = shape
    generator = torch.Generator(device).manual_seed(n * 31 + d)
    which = np.random.default_rng(n).integers(0, 50, n) if data == "50 bundles" else np.arange(n)
    which = np.zeros(n, np.int64) if data == "equal" else which
    acts = [_layer(which, d, getattr(torch, dtype), generator, device) for _ in range(several[0] if several else 1)]
    ids = first_seen(which)
    name = f"{' x '.join(map(str, [*several, f'({n}, {d})']))} {dtype} {data}"
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 10, n)).to(device)
    entry = {"name": name, "shape": list(shape), "dtype": dtype, "data": data, "bundles": int(ids.max()) + 1,
             "bytes": sum(a.numel() * a.element_size() for a in acts), "times": {}, "skipped": {}}  # fmt: skip
    return Case(name, acts, ids, labels, data, entry)


def _layer(which: Any, d: int, dtype: Any, generator: Any, device: str) -> Any:
    # every leader begins with another number, exact in bfloat16 too (7 bits a column)
    leaders = torch.randn(int(which.max()) + 1, d, generator=generator, device=device, dtype=torch.float32)
    number = torch.arange(len(leaders), device=device)
    for column in range(min(3, d)):
        leaders[:, column] = (number >> (7 * column)) % 128 + 1
    leaders = leaders.to(dtype)
    if len(leaders) == len(which):
        return leaders
    return leaders[torch.from_numpy(which).to(device)]


def first_seen(which: Any) -> Any:
    """Numbers that count upward in the order of first appearance."""
    _, first, inverse = np.unique(which, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse.ravel()]


def entropy_of(ids: Any, labels: Any) -> float:
    """H(label | bundle) in nats, by NumPy."""
    cells, count = np.unique(ids * 1000 + labels, return_counts=True)
    in_bundle = np.bincount(cells // 1000, weights=count)[cells // 1000]
    return math.fsum(count * np.log(in_bundle / count)) / len(ids)


# --- contenders -------------------------------------------------------------------------------------------


def contenders(case: Case) -> Iterator[tuple[str, Callable[[], Any], Callable[[Any], None] | None, bool]]:
    """Name, call, check of its result, and whether it can go into a CUDA graph."""
    if len(case.acts) > 1:
        layers = {f"layer{i}": a for i, a in enumerate(case.acts)}
        yield "bundle_entropy_layers", lambda: cb.bundle_entropy_layers(layers, case.labels), _check_layers(case), False
        return
    acts = case.acts[0]
    yield "bundle_rows", lambda: cb.bundle_rows(acts), _check_ids(case), True
    yield "bundle_entropy", lambda: cb.bundle_entropy(acts, case.labels), _check_entropy(case), False
    yield "row_fingerprints", lambda: torch_operators.row_fingerprints(acts), _check_fingerprints(case), True
    yield "bundle_rows, grid", lambda: cb.bundle_rows(acts, grid=GRID), _check_grid(case), True
    yield "update", lambda: _updated(acts, case.labels), _check_update(case), False
    if tuple(acts.shape) == MARGIN_SHAPE:
        yield "conflict_margin", lambda: cb.conflict_margin(acts, case.labels), _check_margin(case), False


def _updated(acts: Any, labels: Any) -> Any:
    metric = cb.BundleEntropy()
    metric.update(acts, labels)
    return metric


def _check_ids(case: Case) -> Callable[[Any], None]:
    def check(ids: Any) -> None:
        assert np.array_equal(ids.cpu().numpy(), case.ids), f"wrong bundles on {case.name}"

    return check


def _check_grid(case: Case) -> Callable[[Any], None]:
    """Against the CPU on a few rows, and no bundle torn apart on all."""

    def check(ids: Any) -> None:
        few = case.acts[0][:256]
        assert cb.bundle_rows(few, grid=GRID).tolist() == cb.bundle_rows(few.cpu(), grid=GRID).tolist(), case.name
        pairs = np.unique(np.stack([case.ids, ids.cpu().numpy()]), axis=1)
        assert pairs.shape[1] == case.entry["bundles"], f"the grid tears bundles apart on {case.name}"

    return check


def _check_entropy(case: Case) -> Callable[[Any], None]:
    expected = entropy_of(case.ids, case.labels.cpu().numpy())

    def check(result: Any) -> None:
        assert result.num_bundles == case.entry["bundles"], f"{result}, expected {case.entry['bundles']} bundles"
        assert abs(result.entropy - expected) < 1e-9, f"{result}, expected {expected}"

    return check


def _check_layers(case: Case) -> Callable[[Any], None]:
    one = _check_entropy(case)

    def check(results: Any) -> None:
        assert len(results) == len(case.acts)
        for result in results.values():
            one(result)

    return check


def _check_update(case: Case) -> Callable[[Any], None]:
    one = _check_entropy(case)
    return lambda metric: one(metric.compute())


def _check_fingerprints(case: Case) -> Callable[[Any], None]:
    def check(result: Any) -> None:
        found, holds_nan = (part.cpu().numpy() for part in result)
        few = torch_operators.row_fingerprints(case.acts[0][:64].cpu())[0].numpy()
        assert np.array_equal(found[:64], few), f"fingerprints differ from the CPU's on {case.name}"
        assert not holds_nan.any()
        assert len(np.unique(found, axis=0)) == case.entry["bundles"], case.name

    return check


def _check_margin(case: Case) -> Callable[[Any], None]:
    """Against the CPU, where it costs little; conflicts make it zero."""
    labels = case.labels.cpu().numpy()
    conflicts = any(len(set(labels[case.ids == b])) > 1 for b in range(case.entry["bundles"]))

    def check(margin: float) -> None:
        assert (margin == 0.0) == conflicts, (margin, case.name)
        few = case.acts[0][:48]
        assert cb.conflict_margin(few, case.labels[:48]) == cb.conflict_margin(few.cpu(), case.labels[:48].cpu())

    return check


# --- measuring --------------------------------------------------------------------------------------------


def measure(case: Case, clock: Clock, seconds_left: Callable[[], float]) -> Json:
    """All contenders of a case; those for which no time is left are named under "skipped"."""
    times, skipped = case.entry["times"], case.entry["skipped"]
    times["copy"] = copied(case, clock)
    for name, run, check, can_capture in contenders(case):
        if seconds_left() <= 0:
            skipped[name] = "no time left"
            continue
        result = run()
        if check is not None:
            check(result)
        del result
        times[name] = summary(repeated(run, clock), clock.how)
        graph = clock.captured(run) if can_capture else None
        if graph is not None:
            times[f"{name}, graph"] = replayed(graph, check, clock)
            del graph
    if len(case.acts) == 1:
        race_unique(case, clock, seconds_left)
    return case.entry


def copied(case: Case, clock: Clock) -> Json:
    """Times of a device copy of the same bytes, the yardstick."""
    there = [torch.empty_like(a) for a in case.acts]

    def copy() -> None:
        for target, source in zip(there, case.acts, strict=True):
            target.copy_(source)

    return summary(repeated(copy, clock), clock.how) | {"bytes_moved": 2 * case.bytes}


def replayed(graph: tuple[Callable[[], None], Any], check: Callable[[Any], None] | None, clock: Clock) -> Json:
    """Times of a CUDA graph, whose answer is checked like the call's own."""
    replay, result = graph
    for part in result if isinstance(result, tuple) else (result,):
        part.fill_(True)  # what an earlier run left must not pass for an answer
    replay()
    clock.wait()
    if check is not None:
        check(result)
    return summary(repeated(replay, clock), clock.how + ", CUDA graph")


def repeated(run: Callable[[], Any], clock: Clock) -> list[float]:
    run()
    first = clock.times(run, 1)[0]
    return clock.times(run, int(min(ROUNDS, max(3, OURS_S / max(first, 1e-6)))))


def race_unique(case: Case, clock: Clock, seconds_left: Callable[[], float]) -> None:
    """torch.unique(dim=0): first on a sixteenth of the columns, because one call can take minutes."""
    acts, name = case.acts[0], "torch.unique(dim=0)"

    def run(x: Any) -> Any:
        return torch.unique(x, dim=0, return_inverse=True)[1]

    part = acts[:, : max(1, acts.shape[1] // 16)].contiguous()
    run(part[:64])
    expected = 16 * clock.times(lambda: run(part), 1)[0]
    limit = min(PEER_S, seconds_left())
    if expected > limit:
        case.entry["skipped"][name] = f"expected {expected:.1f} s from a sixteenth of the columns, limit {limit:.1f} s"
        return
    inverse = []
    times = clock.times(lambda: inverse.append(run(acts)), 1)
    assert np.array_equal(first_seen(inverse.pop().cpu().numpy()), case.ids), f"torch.unique differs on {case.name}"
    how = clock.how + ", first call at this size"
    if times[0] < PEER_REPEAT_S:
        times, how = clock.times(lambda: run(acts), max(3, min(ROUNDS, int(PEER_REPEAT_S / times[0])))), clock.how
    case.entry["times"][name] = summary(times, how) | {"is_peer": True}


def summary(times: Sequence[float], how: str) -> Json:
    quarters = statistics.quantiles(times, n=4) if len(times) > 1 else list(times) * 3
    return {"median_s": statistics.median(times), "min_s": min(times), "max_s": max(times),
            "quartiles_s": [quarters[0], quarters[2]], "rounds": len(times), "how": how}  # fmt: skip


# --- what came out ----------------------------------------------------------------------------------------


def copy_rate(cases: Sequence[Json]) -> float:
    """Bytes per second, read plus written, of the best large copy."""
    rates = [c["times"]["copy"]["bytes_moved"] / c["times"]["copy"]["median_s"] for c in cases]
    return max(rates, default=0.0)


def goals(cases: Sequence[Json]) -> list[Json]:
    """The GPU goals: what was to be reached, what was, and by how much."""
    by_name = {c["name"]: c for c in cases}

    def median(case: str, contender: str) -> float | None:
        times = by_name.get(case, {}).get("times", {}).get(contender)
        return None if times is None else float(times["median_s"])

    wanted = [
        ("1 GiB with duplicates", "(4096, 65536) float32 equal", "bundle_rows", 300e-6),
        ("1 GiB all distinct", "(4096, 65536) float32 distinct", "bundle_rows", 30e-6),
        *((f"120 layers of (512, 16384), {d}", f"120 x (512, 16384) float32 {d}", "bundle_entropy_layers", 1.1e-3)
          for d in DATA),
        *((f"120 layers of (512, 512), {d}", f"120 x (512, 512) float32 {d}", "bundle_entropy_layers", 60e-6)
          for d in DATA),
    ]  # fmt: skip
    found = []
    for goal, case, contender, limit in wanted:
        value = median(case, contender)
        found.append({"goal": goal, "limit_s": limit, "median_s": value,
                      "reached": None if value is None else value <= limit})  # fmt: skip
    for name in by_name:
        peer, own = median(name, "torch.unique(dim=0)"), median(name, "bundle_rows")
        if peer is not None and own is not None:
            found.append({"goal": f"20 x torch.unique, {name}", "limit": 20.0, "ratio": peer / own,
                          "reached": peer / own >= 20.0})  # fmt: skip
    return found


def case_lines(entry: Json) -> list[str]:
    """A case as text: time, spread, and how often the device copies the same bytes in that time."""
    copy = entry["times"].get("copy", {}).get("median_s")
    lines = [entry["name"]]
    for name, t in entry["times"].items():
        of_copy = f"{t['median_s'] / copy:8.2f} copies" if copy else ""
        spread = f"{1e6 * t['quartiles_s'][0]:.1f} to {1e6 * t['quartiles_s'][1]:.1f}"
        lines.append(f"  {name:28} {1e6 * t['median_s']:12.1f} us  ({spread}, {t['rounds']} rounds) {of_copy}")
    lines += [f"  {name:28} NOT MEASURED: {why}" for name, why in entry["skipped"].items()]
    return lines


def write(path: Path, content: Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(aside, path)


def plan() -> list[tuple[tuple[int, ...], str, str]]:
    """What matters most first, so that a time limit takes the rest."""
    order: list[tuple[tuple[int, ...], str, str]] = [((512, 16384), "float32", d) for d in DATA]
    order += [((4096, 65536), "float32", d) for d in DATA]
    order += [(shape, "float32", d) for shape in LAYERS for d in DATA]
    order += [(shape, "float32", d) for shape in SHAPES for d in DATA]
    order += [(shape, "bfloat16", d) for shape in BFLOAT16_SHAPES for d in DATA]
    return list(dict.fromkeys(order))


def race(path: Path, seconds: float, device: str, clock: Clock, cases: Sequence[Any] | None = None) -> Json:
    """Everything in ``plan``; the file is complete after every case."""
    start = time.monotonic()
    content: Json = {"how": clock.how, "flush_bytes": FLUSH_BYTES, "grid": GRID.to_dict(), "cases": [], "skipped": []}
    for shape, dtype, data in plan() if cases is None else cases:
        left = seconds - (time.monotonic() - start)
        if left <= 0:
            content["skipped"].append(f"{shape} {dtype} {data}")
            print(f"NOT MEASURED, no time left: {shape} {dtype} {data}", flush=True)
            continue
        case = make_case(shape, data, dtype, device)
        measure(case, clock, lambda: seconds - (time.monotonic() - start))
        content["cases"].append(case.entry)
        content["copy_bytes_per_s"], content["goals"] = copy_rate(content["cases"]), goals(content["cases"])
        write(path, content)
        print("\n".join(case_lines(case.entry)), flush=True)
    write(path, content)
    for goal in content.get("goals", []):
        state = {True: "reached", False: "NOT REACHED", None: "not measured"}[goal["reached"]]
        value = goal.get("median_s", goal.get("ratio"))
        print(f"{goal['goal']}: {state} ({value} of {goal.get('limit_s', goal.get('limit'))})", flush=True)
    return content


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gpu-race", description="Time cbkernels on a GPU.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=180.0)
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("gpu-race: torch sees no GPU; nothing was measured")
        return 1
    race(options.out, options.seconds, "cuda", Events())
    return 0


if __name__ == "__main__":
    sys.exit(main())

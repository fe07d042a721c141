"""The peers on a GPU, ``torch.unique(dim=0)``, cuDF and ``cupy.unique(axis=0)``, beside ours in the same process.

``python peers.py OUT SECONDS``. A peer that is not installed, or whose call is expected to take long, is not called,
and the record says so.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import doors  # type: ignore[import-not-found]
import numpy as np
import torch
from clocks import Clock, Events, WallClock, rounds_for, summary  # type: ignore[import-not-found]
from known_layers import Case, first_seen, make_case  # type: ignore[import-not-found]
from times import SHAPES, write  # type: ignore[import-not-found]

import cbkernels as cb

Json = dict[str, Any]
LONGEST_S = 4.0
ROUNDS = 7
GOAL = 20.0


def torch_unique(x: Any) -> Any:
    return torch.unique(x, dim=0, return_inverse=True)[1]


def cupy_unique(x: Any) -> Any:
    import cupy

    return torch.from_dlpack(cupy.unique(cupy.from_dlpack(x), axis=0, return_inverse=True)[1])


def cudf_groupby(x: Any) -> Any:
    import cudf
    import cupy

    if x.shape[1] > MOST_CUDF_COLUMNS:
        raise ValueError(f"{x.shape[1]} columns; a table of more than {MOST_CUDF_COLUMNS} is not what cuDF is for")
    table = cudf.DataFrame(cupy.from_dlpack(x))
    return torch.from_dlpack(table.groupby(list(table.columns), sort=False).ngroup().values)


PEERS: dict[str, Callable[[Any], Any]] = {
    "torch.unique(dim=0)": torch_unique,
    "cuDF groupby().ngroup()": cudf_groupby,
    "cupy.unique(axis=0)": cupy_unique,
}
NEEDS = {"cuDF groupby().ngroup()": ("cudf", "cupy"), "cupy.unique(axis=0)": ("cupy",)}
"""Packages that a peer needs beside torch."""
MOST_CUDF_COLUMNS = 512
ONE_COMPARISON_AT_A_TIME = cupy_unique
"""It sorts on the host and asks the device for every comparison: the last of all, so that it holds nobody up."""


def not_installed() -> dict[str, str]:
    """Peers that cannot be asked on this machine, and why."""
    missing = {name: [p for p in needed if importlib.util.find_spec(p) is None] for name, needed in NEEDS.items()}
    return {name: f"{' and '.join(p)} NOT INSTALLED on this machine" for name, p in missing.items() if p}


def race(case: Case, clock: Clock, left: Callable[[], float], names: Collection[str] = ()) -> Json:
    """``bundle_rows`` and the peers of these names, all of them by default."""
    acts = case.acts[0]
    ours = clock.on_device(lambda: cb.bundle_rows(acts), rounds_for(clock, lambda: cb.bundle_rows(acts), ROUNDS, 0.1))
    entry: Json = {"name": case.name, "bundle_rows": summary(ours), "peers": {}, "skipped": {}}
    missing = not_installed()
    for name in names or PEERS:
        try:
            if name in missing:
                raise ImportError(missing[name])
            entry["peers"][name] = timed(PEERS[name], case, clock, min(LONGEST_S, left()))
        except Exception as error:  # a peer that cannot do it is a result, not a failure of ours
            entry["skipped"][name] = f"{type(error).__name__}: {str(error)[:200]}"
    for times in entry["peers"].values():
        times["ratio"] = times["median_us"] / entry["bundle_rows"]["median_us"]
    return entry


def timed(peer: Callable[[Any], Any], case: Case, clock: Clock, limit_s: float) -> Json:
    """Small pieces first, because one call can take minutes: some rows, then a sixteenth of the columns."""
    acts = case.acts[0]
    few, part = acts[:64].contiguous(), acts[:, : max(1, acts.shape[1] // 16)].contiguous()
    of_few = seconds_of(lambda: peer(few), clock)
    if peer is ONE_COMPARISON_AT_A_TIME:
        comparisons = len(acts) * math.log2(max(2, len(acts))) / (len(few) * math.log2(max(2, len(few))))
        refuse_to_wait(expected := of_few * comparisons, limit_s, "64 rows")
    else:
        refuse_to_wait(expected := 16 * seconds_of(lambda: peer(part), clock), limit_s, "a sixteenth of the columns")
    inverse = peer(acts)
    assert np.array_equal(first_seen(inverse.cpu().numpy().ravel()), case.ids), f"it differs on {case.name}"
    del inverse
    rounds = max(1, min(ROUNDS, int(limit_s / 4 / max(expected, 1e-6))))
    return summary(clock.on_device(lambda: peer(acts), rounds))


def seconds_of(run: Callable[[], Any], clock: Clock) -> float:
    """Of a second call: the first one may load or compile."""
    run()
    clock.wait()
    start = time.perf_counter()
    run()
    clock.wait()
    return time.perf_counter() - start


def refuse_to_wait(expected_s: float, limit_s: float, piece: str) -> None:
    if expected_s > limit_s:
        raise TimeoutError(f"expected {expected_s:.1f} s from {piece}, limit {limit_s:.1f} s")


def race_all(path: Path, clock: Clock, left: Callable[[], float], shapes: Any, device: str) -> Json:
    """Every case with the peers that are quick, then every case with the one that is not."""
    content: Json = {"cases": [], "skipped": [], "goal": GOAL, "how": clock.how, "not_installed": not_installed()}
    for name, why in content["not_installed"].items():
        print(f"  *** {name}: {why}: NOT MEASURED. ***", flush=True)
    slow = [name for name, peer in PEERS.items() if peer is ONE_COMPARISON_AT_A_TIME]
    entries: dict[str, Json] = {}
    for names in ([name for name in PEERS if name not in slow], slow):
        for data, shape in itertools.product(("distinct", "50 bundles"), shapes):
            if left() <= 1.0:
                content["skipped"].append(f"{shape} {data}: {', '.join(names)}")
                continue
            new = race(make_case(shape, data, "float32", device), clock, left, names)
            entry = entries.setdefault(new["name"], new)
            entry["peers"] |= new["peers"]
            entry["skipped"] |= new["skipped"]
            content["cases"] = list(entries.values())
            write(path, content)
            told = [f"{n} {t['median_us']:.0f} us, {t['ratio']:.0f}x" for n, t in new["peers"].items()]
            print(f"{new['name']}: ours {new['bundle_rows']['median_us']:.1f} us, {'; '.join(told)}", flush=True)
            print(*(f"  {name}: NOT MEASURED, {why}" for name, why in new["skipped"].items()), sep="\n", flush=True)
    ratios = [t["ratio"] for c in content["cases"] for t in c["peers"].values()]
    content["smallest_ratio"] = min(ratios, default=None)
    write(path, content)
    return content


def main() -> int:
    path, end = Path(sys.argv[1]), time.monotonic() + float(sys.argv[2])
    device, clock = ("cpu", WallClock()) if doors.IS_REHEARSAL else ("cuda", Events())
    shapes = ((40, 64), (300, 9)) if doors.IS_REHEARSAL else SHAPES
    content = race_all(path, clock, lambda: end - time.monotonic(), shapes, device)
    return 0 if content["smallest_ratio"] is not None or doors.IS_REHEARSAL else 1


if __name__ == "__main__":
    sys.exit(main())

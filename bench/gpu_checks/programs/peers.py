"""The peers on a GPU, ``torch.unique(dim=0)``, ``cupy.unique(axis=0)`` and cuDF, beside ours in the same process.

``python peers.py OUT SECONDS``. A peer whose call is expected to take long is not called, and the record says so.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
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
MOST_COLUMNS = 1024
"""Of a data frame."""


def torch_unique(x: Any) -> Any:
    return torch.unique(x, dim=0, return_inverse=True)[1]


def cupy_unique(x: Any) -> Any:
    import cupy

    return torch.from_dlpack(cupy.unique(cupy.from_dlpack(x), axis=0, return_inverse=True)[1])


def cudf_group_by(x: Any) -> Any:
    import cudf
    import cupy

    if x.shape[1] > MOST_COLUMNS:
        raise ValueError(f"a data frame of {x.shape[1]} columns takes its time for them, not for their values")
    frame = cudf.DataFrame(cupy.from_dlpack(x))
    return torch.from_dlpack(frame.groupby(list(frame.columns), sort=False).ngroup().values)


PEERS: dict[str, Callable[[Any], Any]] = {
    "torch.unique(dim=0)": torch_unique,
    "cupy.unique(axis=0)": cupy_unique,
    "cudf ngroup": cudf_group_by,
}
ONE_COMPARISON_AT_A_TIME = cupy_unique
"""It sorts on the host and asks the device for every comparison."""


def race(case: Case, clock: Clock, left: Callable[[], float]) -> Json:
    acts = case.acts[0]
    ours = clock.on_device(lambda: cb.bundle_rows(acts), rounds_for(clock, lambda: cb.bundle_rows(acts), ROUNDS, 0.1))
    entry: Json = {"name": case.name, "bundle_rows": summary(ours), "peers": {}, "skipped": {}}
    for name, peer in PEERS.items():
        try:
            entry["peers"][name] = timed(peer, case, clock, min(LONGEST_S, left()))
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
        refuse_to_wait(of_few * len(acts) / len(few), limit_s, "64 rows")
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


def main() -> int:
    path, end = Path(sys.argv[1]), time.monotonic() + float(sys.argv[2])
    device, clock = ("cpu", WallClock()) if doors.IS_REHEARSAL else ("cuda", Events())
    shapes = ((40, 64), (300, 9)) if doors.IS_REHEARSAL else SHAPES
    content: Json = {"cases": [], "skipped": [], "goal": GOAL, "how": clock.how}
    for data in ("distinct", "50 bundles"):
        for shape in shapes:
            if end - time.monotonic() <= 1.0:
                content["skipped"].append(f"{shape} {data}")
                continue
            entry = race(make_case(shape, data, "float32", device), clock, lambda: end - time.monotonic())
            content["cases"].append(entry)
            write(path, content)
            told = [f"{n} {t['median_us']:.0f} us, {t['ratio']:.0f}x" for n, t in entry["peers"].items()]
            print(f"{entry['name']}: ours {entry['bundle_rows']['median_us']:.1f} us, {'; '.join(told)}", flush=True)
            print(*(f"  {name}: NOT MEASURED, {why}" for name, why in entry["skipped"].items()), sep="\n", flush=True)
    ratios = [t["ratio"] for c in content["cases"] for t in c["peers"].values()]
    content["smallest_ratio"] = min(ratios, default=None)
    write(path, content)
    return 0 if ratios or doors.IS_REHEARSAL else 1


if __name__ == "__main__":
    sys.exit(main())

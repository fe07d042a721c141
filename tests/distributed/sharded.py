"""Random layers, labels and splits over ranks; the same seed gives the same on every rank. Needs no torch."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import cbkernels as cb
from cbkernels.grid import GRID_DTYPES

GRIDS = (None, *(cb.UpdateGrid(1e-3, 50, 0.7, dtype=d) for d in GRID_DTYPES))
TYPES = ("float32", "float64", "float16", "int8", "uint64", "bool")


class Job(NamedTuple):
    """Layers of the same samples, and where they are cut into shards."""

    layers: dict[str, Any]
    labels: np.ndarray
    cuts: list[int]
    grid: cb.UpdateGrid | None
    log_epsilon: float | None

    def shard(self, rank: int) -> slice:
        ends = [0, *self.cuts, len(self.labels)]
        return slice(ends[rank], ends[rank + 1])


def random_job(seed: int, num_ranks: int) -> Job:
    rng = np.random.default_rng([seed, num_ranks])
    num_rows = int(rng.choice([1, 2, 17, 200, 600]))
    layers = {f"layer{i}": random_rows(rng, num_rows) for i in range(int(rng.integers(1, 5)))}
    cuts = sorted(int(c) for c in rng.integers(0, num_rows + 1, num_ranks - 1))
    if rng.random() < 0.2:  # everything on one rank
        cuts = sorted(int(c) for c in rng.choice([0, num_rows], num_ranks - 1))
    grid = GRIDS[rng.integers(len(GRIDS))]
    return Job(layers, random_labels(rng, num_rows), cuts, grid, [None, 1e-5][rng.integers(2)])


def random_rows(rng: np.random.Generator, num_rows: int) -> np.ndarray:
    """All equal, few bundles, or all different; sometimes with a NaN."""
    dtype, num_columns = str(rng.choice(TYPES)), int(rng.choice([0, 1, 3, 20]))
    leaders = rng.normal(0, 3, (int(rng.choice([1, 2, 30, num_rows])), num_columns))
    if dtype[0] != "f":
        leaders = np.abs(leaders)
    acts = leaders.astype(dtype)[rng.integers(len(leaders), size=num_rows)]
    if dtype[0] == "f" and num_columns and rng.random() < 0.2:
        acts[rng.integers(num_rows, size=2), rng.integers(num_columns)] = np.nan
    return acts


def random_labels(rng: np.random.Generator, num_rows: int) -> np.ndarray:
    kind = rng.integers(5)
    if kind == 0:
        return np.arange(num_rows)
    if kind == 1:
        return rng.integers(-2, 2, num_rows).astype(np.int8)
    names = np.array([2**63 - 1, -(2**63), -(2**62) - 1, 0, 7, 2**40])[: int(rng.integers(1, 7))]
    return rng.choice(names, num_rows, p=np.arange(1, len(names) + 1) / np.arange(1, len(names) + 1).sum())


def metrics_of(job: Job, rank: int, batch: int = 90, *, leave_out_empty: bool = False) -> dict[str, cb.BundleEntropy]:
    """What a rank has seen of every layer; a rank without rows may leave the metrics out."""
    here = job.shard(rank)
    if leave_out_empty and here.start == here.stop:
        return {}
    metrics = {name: cb.BundleEntropy(grid=job.grid, log_epsilon=job.log_epsilon) for name in job.layers}
    for name, acts in job.layers.items():
        for begin in range(here.start, here.stop, batch):
            part = slice(begin, min(begin + batch, here.stop))
            metrics[name].update(acts[part], job.labels[part])
    return metrics


def of_one_process(job: Job) -> dict[str, dict[str, Any]]:
    """The streamed results of one process, after a look at the one-shot results."""
    whole = metrics_of(job._replace(cuts=[]), 0)
    found = {name: plain(metric.compute()) for name, metric in whole.items()}
    for name, acts in job.layers.items():
        at_once = plain(cb.bundle_entropy(acts, job.labels, grid=job.grid, log_epsilon=job.log_epsilon))
        assert found[name] == at_once | {"exact": False}
    return found


def plain(result: cb.BundleResult) -> dict[str, Any]:
    """Everything in a result, the entropy as its bits."""
    return result.to_dict() | {"entropy": float.hex(result.entropy)}

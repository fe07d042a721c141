"""The contenders of cbkernels, through the public functions, with the answers they must give."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import cbkernels as cb

from .peers import partition_on_grid
from .race import Contender
from .regimes import Array, Case

GRID = cb.UpdateGrid(learning_rate=1e-3, batch_size=64, weight_amplitude=0.73)


def bundle_rows(case: Case, *, threads: int = 1, hot: bool | None = None) -> Contender:
    name = "bundle_rows" + (f", {threads} threads" if threads > 1 else "")
    name += ", hot" if hot and not case.hot else ""
    return Contender(name, cb.bundle_rows, _is_partition(case, case.ids), threads, hot)


def bundle_rows_on_grid(case: Case) -> Contender:
    def run(acts: Any) -> Any:
        return cb.bundle_rows(acts, grid=GRID)

    return Contender("bundle_rows, grid", run, _is_partition(case, partition_on_grid(case, GRID)))


def bundle_entropy(case: Case, *, check_nan: bool) -> Contender:
    labels, small_labels = case.labels, np.arange(len(case.small)) % 3

    def run(acts: Any) -> cb.BundleResult:
        return cb.bundle_entropy(acts, small_labels if acts is case.small else labels, check_nan=check_nan)

    name = "bundle_entropy" + ("" if check_nan else ", check_nan=False")
    return Contender(name, run, is_entropy(case.ids, labels))


def is_entropy(ids: Array, labels: Array) -> Any:
    """A check of a BundleResult against counts made by NumPy."""
    num_conflicting, entropy = conditional_entropy(ids, labels)

    def check(result: cb.BundleResult) -> None:
        assert (result.num_bundles, result.num_conflicting) == (int(ids.max()) + 1, num_conflicting), result
        assert (result.num_rows, result.num_nan_rows) == (len(ids), 0), result
        assert abs(result.entropy - entropy) <= 1e-9, f"{result.entropy}, expected {entropy}"

    return check


def conditional_entropy(ids: Array, labels: Array) -> tuple[int, float]:
    """Number of conflicting bundles and H(label | bundle) in nats."""
    cells, counts = np.unique(ids * (int(labels.max()) + 1) + labels, return_counts=True)
    bundle = cells // (int(labels.max()) + 1)
    rows_in_bundle = np.bincount(bundle, weights=counts)[bundle]
    labels_in_bundle = np.bincount(bundle)
    nats = math.fsum(counts * np.log(rows_in_bundle / counts)) / len(ids)
    return int((labels_in_bundle > 1).sum()), nats


def _is_partition(case: Case, ids: Array) -> Any:
    def check(result: Any) -> None:
        assert np.array_equal(np.asarray(result), ids), f"wrong bundles on {case.name}"

    return check

"""Rows, labels and states chosen by somebody who knows how the hashes are made: right, and no slower than others.

Work is counted, never timed: ``collisions`` are rows, fingerprints and labels that were compared in vain because their
hashes agree, ``rows_searched`` the same on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import cbkernels as cb
from cbkernels import _core, backends, stream_keys
from cbkernels.arrays import as_rows

from . import emulation
from .chosen_rows import (
    FIXED,
    Key,
    fingerprints_routed_alike,
    forged,
    labels_of_one_slot,
    routed_alike,
    routed_alike_on_a_gpu,
)
from .inputs import on_host, place

KEYS: list[Key] = [(0x9E3779B97F4A7C15 * n % 2**64, 0xD1B54A32D192ED03 * n % 2**64) for n in range(1, 101)]
"""Keys that the chosen rows were not made for."""


def core_of(backend: str) -> Any:
    return emulation.load()[0] if backend == emulation.NAME else _core


@pytest.fixture
def route_by() -> Iterator[Callable[[Key], None]]:
    """Sets the key of the routing hashes of both modules; a random one afterwards."""
    cores = [core for core in (_core, emulation.load()[0]) if core is not None]

    def use(key: Key | None) -> None:
        for core in cores:
            core.use_routing_key(key)

    yield use
    use(None)


def tied(num_rows: int, num_columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of which most are there several times or differ in one value, and many labels."""
    rng = np.random.default_rng(num_columns)
    acts = rng.integers(3, size=(num_rows, num_columns)).astype(np.float32) * (
        rng.random(num_columns) < 3 / num_columns
    )
    return acts, rng.integers(-2, 30, size=num_rows)


@pytest.mark.parametrize(("num_rows", "num_columns"), [(90, 3), (600, 40), (40, 2500)])
def test_no_result_depends_on_the_keys(compiled: str, route_by: Any, num_rows: int, num_columns: int) -> None:
    acts, labels = tied(num_rows, num_columns)
    right = cb.bundle_rows(acts, backend="reference").tolist()
    counts = cb.bundle_entropy(acts, labels, backend="reference").to_dict()
    there, named = place(acts, compiled), place(labels, compiled)
    for key in KEYS[: 100 if num_rows < 100 or compiled == "cpu" else 5]:
        route_by(key)
        assert on_host(cb.bundle_rows(there, backend=compiled)).tolist() == right, key
        found = cb.bundle_entropy(there, named, backend=compiled).to_dict()
        assert {**found, "backend": "", "device": ""} == {**counts, "backend": "", "device": ""}, key


def test_both_processors_route_by_the_key(compiled: str, route_by: Any) -> None:
    """With few bits of every hash left, which of them collide is a matter of the key."""
    acts = np.tile(np.arange(3000, dtype=np.float32).reshape(100, 30), (2, 1))
    labels = place(np.arange(200), compiled)
    core, found = core_of(compiled), set()
    core.use_routing_bits(6)
    try:
        for key in [*KEYS[:4], (KEYS[0][0], KEYS[0][1] ^ 1)]:
            route_by(key)
            cb.bundle_entropy(place(acts, compiled), labels, backend=compiled)
            work = core.last_work()
            found.add((work["collisions"], work["rows_searched"]))
    finally:
        core.use_routing_bits(64)
    assert len(found) >= 4, found


@pytest.mark.parametrize("dtype", ["uint32", "float32", "uint64"])
@pytest.mark.parametrize(("num_rows", "num_columns", "at"), [(4000, 2, 0), (400, 64, 4), (300, 2048, 100)])
def test_rows_of_one_routing_hash(route_by: Any, dtype: str, num_rows: int, num_columns: int, at: int) -> None:
    for key in (FIXED, KEYS[0]):
        acts = routed_alike(key, num_rows, num_columns, dtype, at)
        acts = np.concatenate([acts, acts[::2]])  # duplicates, so that short rows are compared
        right = [*range(num_rows), *range(0, num_rows, 2)]
        for other in (KEYS[1], KEYS[2], KEYS[3]):
            route_by(other)
            assert cb.bundle_rows(acts).tolist() == right
            assert _core.last_work()["collisions"] == 0
        route_by(key)  # unlucky, or somebody found it out: noticed, and begun again under another key
        assert cb.bundle_rows(acts).tolist() == right
        work = _core.last_work()
        assert 0 < work["collisions"] <= len(acts) + 65
        assert work["bytes_touched"] <= 12 * work["bytes_total"]
        assert cb.bundle_entropy(acts, np.arange(len(acts))).num_bundles == num_rows


def test_rows_of_one_routing_hash_on_several_threads(route_by: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "num_threads", lambda: 3)
    acts = np.tile(routed_alike(FIXED, 150_000, 8), (2, 1))  # 9.6 MB: worth two threads
    for key in (FIXED, KEYS[0]):
        route_by(key)
        assert cb.bundle_rows(acts).tolist() == [*range(150_000)] * 2
        assert _core.last_work()["threads"] > 1
        assert (_core.last_work()["collisions"] == 0) == (key != FIXED)


def test_labels_of_one_slot(route_by: Any) -> None:
    for key in (FIXED, KEYS[0]):
        labels = np.tile(labels_of_one_slot(key, 600), 2)
        assert len(np.unique(labels)) == 600
        for other, most in ((KEYS[1], 1200), (KEYS[2], 1200), (key, 2 * 1200 * 600)):
            route_by(other)
            result = cb.bundle_entropy(np.zeros((1200, 1), np.float32), labels)
            assert (result.num_bundles, result.num_conflicting) == (1, 1)
            assert result.entropy == cb.bundle_entropy(np.zeros((1200, 1)), labels, backend="reference").entropy
            assert _core.last_work()["collisions"] <= most
        assert _core.last_work()["collisions"] > 1200 * 100, "the labels were made for this key"


def test_fingerprints_of_one_routing_hash(route_by: Any) -> None:
    """A state may come from anywhere, so the tables of fingerprints do not trust them either."""
    metric = cb.BundleEntropy()
    for key in (FIXED, KEYS[0]):
        found = {}
        for other in (KEYS[1], KEYS[2], key):
            route_by(other)
            fingerprints = fingerprints_routed_alike(key, 500)
            state = {**metric.state_dict(), "fingerprints": fingerprints, "labels": np.arange(500), "dtype": "float32"}
            metric.load_state_dict(state)
            assert metric.compute().num_bundles == 500
            found[other] = _core.last_work()["collisions"]
        assert found == {KEYS[1]: 0, KEYS[2]: 0, key: 500 * 499 // 2}


def test_rows_of_one_routing_hash_on_a_gpu(route_by: Any) -> None:
    if emulation.load()[0] is None:
        pytest.skip(f"{emulation.NAME}: NOT TESTED HERE (not built)")
    acts, searched = routed_alike_on_a_gpu(), []
    for key in (FIXED, *KEYS[:3]):
        route_by(key)
        assert cb.bundle_entropy(acts, np.arange(100), backend=emulation.NAME).num_bundles == 100
        searched.append(core_of(emulation.NAME).last_work()["rows_searched"])
        assert cb.bundle_rows(acts, backend=emulation.NAME).tolist() == [*range(100)]
    assert searched == [98, 0, 0, 0]


# --- fingerprints -----------------------------------------------------------------------------------------


def test_rows_forged_for_the_fixed_key_are_told_apart_under_a_random_one() -> None:
    acts, labels = forged(), np.arange(100)
    assert cb.bundle_entropy(acts, labels).num_bundles == 100
    for key, num_bundles in ((stream_keys.FIXED_KEY, 1), (None, 100), (5, 100), (b"sixteen bytes ..", 100)):
        metric = cb.BundleEntropy(key=key)
        metric.update(acts, labels)
        assert metric.compute().num_bundles == num_bundles


@pytest.mark.parametrize("key", [0, 1, 2**64 - 1, 2**64, 3 << 100 | 77, 2**128 - 1])
def test_every_backend_makes_the_fingerprints_of_a_key(compiled: str, key: int) -> None:
    acts = np.random.default_rng(0).normal(size=(5, 2100)).astype(np.float32)  # three blocks
    for part in (acts, acts[:, :7]):
        found = backends.TABLE[compiled].row_fingerprints(as_rows(place(part, compiled)), None, key)
        right = backends.TABLE["reference"].row_fingerprints(as_rows(part), None, key)
        assert on_host(found[0]).tolist() == right[0].tolist()
        assert (
            on_host(found[0]).tolist() != backends.TABLE["reference"].row_fingerprints(as_rows(part), None)[0].tolist()
        )

"""Every backend gives every hand-made answer of ``cases.py``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import cbkernels as cb
from cbkernels import _core, backends

from .all_of import all_of
from .cases import CASES, Case
from .inputs import place


def name_of(case: Case) -> str:
    return case.name


@pytest.fixture(params=CASES, ids=name_of)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def agrees(entropy: float, expected: float) -> bool:
    if math.isnan(expected):
        return math.isnan(entropy)
    return entropy == 0.0 if expected == 0.0 else math.isclose(entropy, expected, rel_tol=1e-12)


def test_names_are_unique_and_answers_consistent() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    for case in CASES:
        assert len(case.ids) == len(case.labels) == len(case.acts()), case.name
        assert len(set(case.ids)) == case.bundles, case.name
        assert list(dict.fromkeys(case.ids)) == list(range(case.bundles)), case.name
        assert math.isnan(case.entropy) == (case.nan_rows > 0), case.name


def test_is_in_this_build(anything: str) -> None:
    """One line in the report for what could not be tested here."""
    assert anything in backends.TABLE or anything in _core.build_info()["instruction_sets"]


def test_every_answer(case: Case, backend: str) -> None:
    """Ids, counts and entropy, at once, without looking for NaN, and streamed; the margin."""
    acts, labels = place(case.acts(), backend), place(np.asarray(case.labels), backend)
    with all_of("questions") as question:
        for name, ask in QUESTIONS.items():
            with question(name):
                ask(case, backend, acts, labels)


def check_bundle_of_every_row(case: Case, backend: str, acts: Any, labels: Any) -> None:
    ids = cb.bundle_rows(acts, grid=case.grid, tolerance=case.tolerance, backend=backend)
    assert ids.tolist() == list(case.ids)


def check_counts_and_entropy(case: Case, backend: str, acts: Any, labels: Any) -> None:
    result = cb.bundle_entropy(
        acts, labels, grid=case.grid, tolerance=case.tolerance, log_epsilon=case.log_epsilon, backend=backend
    )
    assert result.num_rows == len(case.labels)
    assert result.num_bundles == case.bundles
    assert result.num_conflicting == case.conflicting
    assert result.num_nan_rows == case.nan_rows
    assert agrees(result.entropy, case.entropy), (result.entropy, case.entropy)
    labels_of: dict[int, set[int]] = {}
    for bundle, label in zip(case.ids, case.labels, strict=True):
        labels_of.setdefault(bundle, set()).add(label)
    assert result.num_conflicting_rows == sum(len(labels_of[bundle]) > 1 for bundle in case.ids)
    assert result.backend == backend


def check_without_looking_for_nan(case: Case, backend: str, acts: Any, labels: Any) -> None:
    result = cb.bundle_entropy(acts, labels, grid=case.grid, tolerance=case.tolerance, check_nan=False, backend=backend)
    assert result.num_bundles == case.bundles
    assert result.num_conflicting == case.conflicting
    assert 0 <= result.num_nan_rows <= case.nan_rows


def check_stream(case: Case, backend: str, acts: Any, labels: Any) -> None:
    if case.tolerance is not None or max(np.asarray(case.labels).tolist()) >= 2**63:
        return  # streaming has neither a tolerance nor labels beyond int64
    metric = cb.BundleEntropy(grid=case.grid, log_epsilon=case.log_epsilon, backend=backend)
    metric.update(acts, labels)
    result = metric.compute()
    assert (result.num_rows, result.num_bundles) == (len(case.labels), case.bundles)
    assert (result.num_conflicting, result.num_nan_rows) == (case.conflicting, case.nan_rows)
    assert agrees(result.entropy, case.entropy), (result.entropy, case.entropy)


def check_margin(case: Case, backend: str, acts: Any, labels: Any) -> None:
    if case.margin is not None:
        assert cb.conflict_margin(acts, labels, backend=backend) == case.margin


QUESTIONS = {
    "bundle of every row": check_bundle_of_every_row,
    "counts and entropy": check_counts_and_entropy,
    "without looking for NaN": check_without_looking_for_nan,
    "stream": check_stream,
    "margin": check_margin,
}


def test_all_cases_as_layers_of_one_network(backend: str) -> None:
    for case in CASES:
        if case.tolerance is not None:
            continue
        acts, labels = place(case.acts(), backend), place(np.asarray(case.labels), backend)
        layers = {"first": acts, "again": acts}
        results = cb.bundle_entropy_layers(
            layers, labels, grid=case.grid, log_epsilon=case.log_epsilon, backend=backend
        )
        assert list(results) == ["first", "again"]
        for result in results.values():
            assert result.num_bundles == case.bundles, case.name
            assert result.num_conflicting == case.conflicting, case.name
            assert agrees(result.entropy, case.entropy), case.name


@pytest.mark.parametrize("case", [c for c in CASES if "subnormal" in c.name], ids=name_of)
def test_flushing_subnormals_to_zero_changes_nothing(case: Case, compiled: str) -> None:
    torch = pytest.importorskip("torch", reason="torch: NOT TESTED HERE")
    acts, labels = place(case.acts(), compiled), place(np.asarray(case.labels), compiled)
    if not torch.set_flush_denormal(True):
        pytest.skip("flushing of subnormals: NOT TESTED HERE (this processor cannot)")
    try:
        ids = cb.bundle_rows(acts, grid=case.grid, tolerance=case.tolerance, backend=compiled)
        result = cb.bundle_entropy(acts, labels, grid=case.grid, tolerance=case.tolerance, backend=compiled)
        margin = None if case.margin is None else cb.conflict_margin(acts, labels, backend=compiled)
    finally:
        torch.set_flush_denormal(False)
    assert ids.tolist() == list(case.ids)
    assert (result.num_bundles, result.num_conflicting) == (case.bundles, case.conflicting)
    assert margin == case.margin

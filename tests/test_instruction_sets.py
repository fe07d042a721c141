"""Every instruction set of this build gives the same bits, and forcing one takes effect."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest

import cbkernels as cb
from cbkernels import _core, backends
from cbkernels.arrays import DTYPES, as_rows

from .all_of import all_of
from .cases import CASES
from .inputs import FLOATS, LAYOUTS, not_a_number, special_values

GRIDS = [
    None,
    *[cb.UpdateGrid(1e-3, 50, 0.7, dtype=dtype) for dtype in ("float32", "float64", "float16", "bfloat16")],
    cb.UpdateGrid(1.0, 1, 0.0, dtype="bfloat16"),
]


def test_forcing_takes_effect(instruction_set: str) -> None:
    assert _core.build_info()["instruction_set"] == instruction_set
    assert instruction_set in _core.build_info()["instruction_sets"]


def test_portable_is_always_there_and_best_is_one_of_the_list() -> None:
    sets = _core.build_info()["instruction_sets"]
    assert "portable" in sets
    _core.use_instruction_set("best")
    assert _core.build_info()["instruction_set"] in sets


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("avx2", {"avx2", "f16c"}),
        ("avx512", {"avx2", "f16c", "avx512f", "avx512vl", "avx512bw", "avx512dq"}),
    ],
)
def test_a_set_is_there_exactly_where_the_processor_has_it(name: str, needs: set[str]) -> None:
    """Not lost to a compiler that asks the processor in another way."""
    cpuinfo = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not cpuinfo.is_file():
        pytest.skip(f"{name}: NOT TESTED HERE (x86-64 under Linux says in /proc/cpuinfo what it has)")
    flags = next(line for line in cpuinfo.read_text("utf-8").splitlines() if line.startswith("flags")).split()
    assert (name in _core.build_info()["instruction_sets"]) == (needs <= set(flags))


def test_the_best_set_comes_last_and_is_in_use() -> None:
    info = _core.build_info()
    assert info["instruction_set"] == info["instruction_sets"][-1]


@pytest.mark.parametrize("name", ["avx9", "", "BEST", "sse2"])
def test_unknown_set_is_refused_and_the_old_one_stays(name: str) -> None:
    before = _core.build_info()["instruction_set"]
    with pytest.raises(ValueError, match=f"{name}.*choose|choose.*{name}|'{name}'"):
        _core.use_instruction_set(name)
    assert _core.build_info()["instruction_set"] == before


def test_every_named_case(instruction_set: str) -> None:
    for case in CASES:
        ids = cb.bundle_rows(case.acts(), grid=case.grid, tolerance=case.tolerance)
        assert ids.tolist() == list(case.ids), case.name
        result = cb.bundle_entropy(case.acts(), np.asarray(case.labels), grid=case.grid, tolerance=case.tolerance)
        assert result.num_nan_rows == case.nan_rows, case.name
        assert result.num_conflicting == case.conflicting, case.name


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_width_of_every_type(instruction_set: str, dtype: str) -> None:
    """Widths around every vector and block; differences and NaN in every lane; each grid."""
    with all_of("widths") as width:
        for num_columns in (1, 7, 8, 16, 31, 33, 64, 65, 100, 257, 1023, 1025, 2600):
            with width(num_columns):
                check_width(dtype, num_columns)


def check_width(dtype: str, num_columns: int) -> None:
    rng = np.random.default_rng(num_columns)
    values = special_values(dtype)
    acts = np.tile(values[rng.integers(len(values), size=num_columns)], (70, 1))
    changed = rng.integers(num_columns, size=70)
    changed[:8] = np.minimum(np.arange(8), num_columns - 1)
    changed[8:16] = np.maximum(num_columns - 1 - np.arange(8), 0)
    for row in range(0, 70, 2):
        acts[row, changed[row]] = values[rng.integers(len(values))]
    if dtype in FLOATS:
        kinds = not_a_number(dtype)
        for row in range(0, 70, 9):
            acts[row, changed[row]] = kinds[row % len(kinds)]
    layout = list(LAYOUTS.values())[num_columns % len(LAYOUTS)](acts)
    labels = rng.integers(3, size=70)
    for grid in GRIDS:
        ids = cb.bundle_rows(layout, grid=grid)
        assert ids.tolist() == cb.bundle_rows(acts, grid=grid, backend="reference").tolist()
        found = backends.TABLE["cpu"].row_fingerprints(as_rows(layout), grid)
        right = backends.TABLE["reference"].row_fingerprints(as_rows(acts), grid)
        assert np.array_equal(found[0], right[0])
        assert np.array_equal(found[1], right[1])
        here = cb.bundle_entropy(layout, labels, grid=grid)
        assert here.num_nan_rows == int(right[1].sum())

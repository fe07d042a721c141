"""The fingerprint of ``docs/fingerprint.md``: golden values, equality, and independence of the layout."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import cbkernels as cb
from cbkernels import _core, backends
from cbkernels.arrays import DTYPES, as_rows

from .all_of import all_of
from .inputs import FLOATS, LAYOUTS, not_a_number, numpy_type, on_host, place, special_values, typed

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "fingerprint.md"

GOLDEN = [
    ("np.zeros(0)", "float32", "none", 0xC8FD171DD6F55159, 0x8E994FD5CCBF1E03),
    ("np.array([1.0])", "float32", "none", 0x44A54561B447C732, 0x5BA91C4D7859B2A4),
    ("(np.arange(5000) - 2500) * -0.125", "float32", "none", 0x629462049E19692E, 0x29820AC0131745AF),
    ("np.arange(1500) / 7", "float64", "none", 0x4BCCA65C757E8379, 0x91C2DFC079A94612),
    ("np.arange(2051) * 0.5 - 300", "float16", "none", 0x1EDF58315678FD6D, 0xE61649E12259EEE0),
    ("np.arange(101) * 257", "bfloat16 bits", "none", 0xC2AE39AFE0088839, 0xDEC4DF7D28211673),
    ("np.arange(127)", "float8_e4m3fn bits", "none", 0xDE47FBB79A4F3339, 0xE883F8DB16AF975D),
    ("np.arange(125) + 128", "float8_e5m2 bits", "none", 0x3C18FAC5F2295B74, 0x0CDCBD4D7A05BF3F),
    ("np.arange(100) - 50", "int8", "none", 0xD979AE668BAF2BA0, 0xE1E2FE8394302962),
    ("np.arange(40) * 0x0123456789abcdef", "uint64", "none", 0xBC5447280BBC15EC, 0xE31D75E48A017C25),
    ("np.arange(70) % 3 == 0", "bool", "none", 0xDD1824EB7805E67E, 0xFEA68AC7CE6B5E11),
    ("np.arange(1200) / 8", "float32", "float32", 0x284DDF0D605B9D6A, 0x5539372DFF1DDAE6),
    ("np.arange(1200) / 8", "float32", "bfloat16", 0x1466EF902A4DE33B, 0xB57B80E55560C175),
    ("np.arange(1200) / 8", "float32", "float16", 0xE370468FA1946EBB, 0x5431A6D90D456FE2),
    ("np.arange(1200) / 8", "float32", "float64", 0x676B834F12640787, 0xD5AEBBDEC5C4E7AC),
]


def fingerprints(acts: np.ndarray, backend: str, grid: cb.UpdateGrid | None = None) -> np.ndarray:
    found, holds_nan = map(on_host, backends.TABLE[backend].row_fingerprints(as_rows(place(acts, backend)), grid))
    assert (found.dtype, holds_nan.dtype) == (np.uint64, np.bool_)
    assert (found.shape, holds_nan.shape) == ((len(acts), 2), (len(acts),))
    assert not found[holds_nan].any(), "a flagged row has the fingerprint (0, 0)"
    return found


def golden_row(values: str, dtype: str) -> np.ndarray:
    row = eval(values, {"np": np})
    if not dtype.endswith(" bits"):
        return row.astype(dtype)
    kind = numpy_type(dtype.removesuffix(" bits"))
    return row.astype(f"u{kind.itemsize}").view(kind)


@pytest.mark.parametrize(("values", "dtype", "grid", "first", "second"), GOLDEN)
def test_golden_values(backend: str, values: str, dtype: str, grid: str, first: int, second: int) -> None:
    row = golden_row(values, dtype)
    on = None if grid == "none" else cb.UpdateGrid(0.001, 50, 0.7, dtype=grid)
    found = fingerprints(np.stack([row, row]), backend, on)
    assert [f"{int(f):016x}" for f in found[0]] == [f"{first:016x}", f"{second:016x}"]
    assert found[0].tolist() == found[1].tolist()


def test_golden_values_with_every_instruction_set(instruction_set: str) -> None:
    assert _core.build_info()["instruction_set"] == instruction_set
    for values, dtype, grid, first, second in GOLDEN:
        on = None if grid == "none" else cb.UpdateGrid(0.001, 50, 0.7, dtype=grid)
        assert fingerprints(golden_row(values, dtype)[None], "cpu", on).tolist() == [[first, second]], values


def test_the_document_holds_these_golden_values() -> None:
    if not DOCUMENT.is_file():
        pytest.skip("docs/fingerprint.md: NOT TESTED HERE (no source tree)")
    line = re.compile(r"\| `(.+?)` \| (.+?) \| (\w+) \| `([0-9a-f]{16})` \| `([0-9a-f]{16})` \|")
    table = [(*m[:3], int(m[3], 16), int(m[4], 16)) for m in line.findall(DOCUMENT.read_text(encoding="utf-8"))]
    assert table == GOLDEN


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_exactly_where_rows_are_equal(backend: str, dtype: str) -> None:
    with all_of("widths") as width:
        for num_columns in (1, 3, 16, 67, 1025):
            with width(num_columns):
                check_width(backend, dtype, num_columns)


def check_width(backend: str, dtype: str, num_columns: int) -> None:
    rng = np.random.default_rng(num_columns)
    values = np.concatenate([special_values(dtype), typed([0, 1, 2, 3], dtype)])
    palette = values[rng.integers(len(values), size=(5, num_columns))]
    acts = palette[rng.integers(5, size=20)]
    acts[7, -1], acts[11, 0] = values[1], values[-1]
    if dtype in FLOATS:
        acts[3, num_columns // 2] = not_a_number(dtype)[0]
    ids = cb.bundle_rows(place(acts, backend), backend=backend).tolist()
    found = [tuple(f) for f in fingerprints(acts, backend).tolist()]
    for i in range(20):
        for j in range(i):
            if (0, 0) not in (found[i], found[j]):
                assert (found[i] == found[j]) == (ids[i] == ids[j])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "float64", "float16", "uint8"])
def test_independent_of_the_layout(backend: str, dtype: str) -> None:
    values = special_values(dtype)
    with all_of("layouts and widths") as case:
        for num_columns in (1, 7, 60, 1030):
            acts = values[np.random.default_rng(3).integers(len(values), size=(5, num_columns))]
            expected = fingerprints(acts, backend).tolist()
            for name, layout in LAYOUTS.items():
                with case(name, num_columns):
                    assert fingerprints(layout(acts), backend).tolist() == expected


def test_independent_of_the_other_rows(backend: str) -> None:
    acts = np.random.default_rng(4).normal(size=(9, 2100)).astype(np.float32)
    together = fingerprints(acts, backend)
    assert [fingerprints(acts[i : i + 1], backend)[0].tolist() for i in range(9)] == together.tolist()


def test_depends_on_every_value_and_every_place(backend: str) -> None:
    acts = np.tile(np.arange(1, 2101, dtype=np.float32), (2101, 1))
    acts[np.arange(2100), np.arange(2100)] = -5
    found = fingerprints(acts, backend)
    assert len(np.unique(found, axis=0)) == 2101
    swapped = np.arange(1, 1401, dtype=np.float32)[None].repeat(1400, axis=0)
    rows = np.arange(1399)
    swapped[rows, rows], swapped[rows, rows + 1] = swapped[rows, rows + 1], swapped[rows, rows]
    assert len(np.unique(fingerprints(swapped, backend), axis=0)) == 1400


def test_trailing_zeros_are_no_collision_within_one_stream() -> None:
    """Padding with zero words is safe because rows of one stream have one length, which the stream checks."""
    metric = cb.BundleEntropy()
    metric.update(np.ones((2, 3), np.float32), np.array([0, 1]))
    with pytest.raises(ValueError, match="4 values per row after batches of 3"):
        metric.update(np.ones((2, 4), np.float32), np.array([0, 1]))


def test_many_random_rows_have_many_fingerprints(compiled: str) -> None:
    acts = np.arange(200_000, dtype=np.uint32)[:, None]
    found = fingerprints(acts, compiled)
    assert len(np.unique(found[:, 0])) == len(np.unique(found[:, 1])) == 200_000
    # every bit is set in about half of them: 100,000 with a standard deviation of 224
    for word in (0, 1):
        for bit in range(64):
            ones = int(((found[:, word] >> np.uint64(bit)) & np.uint64(1)).sum())
            assert abs(ones - 100_000) < 2000, (word, bit, ones)

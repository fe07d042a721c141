"""The fingerprint of ``docs/fingerprint.md``: golden values, equality, and independence of the layout."""

from __future__ import annotations

import re
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import pytest

import cbkernels as cb
from cbkernels import _core, backends, reference
from cbkernels.arrays import DTYPES, as_rows

from .all_of import all_of
from .inputs import FLOATS, LAYOUTS, not_a_number, numpy_type, on_host, place, special_values, typed

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "fingerprint.md"

GOLDEN = [
    ("np.zeros(0)", "float32", "none", 0xC8FD171DD6F55159, 0x8E994FD5CCBF1E03),
    ("np.array([1.0])", "float32", "none", 0x6D25FD0A4D36B7D3, 0x7AC6649C7D29013C),
    ("(np.arange(5000) - 2500) * -0.125", "float32", "none", 0x53B1FAD68CB95FCE, 0x8F1E36D8C8CA24C4),
    ("np.arange(1500) / 7", "float64", "none", 0xD2E706C8D8A79B4B, 0xFB85FB6C5CEBF88E),
    ("np.arange(2051) * 0.5 - 300", "float16", "none", 0x6E44285244F95040, 0xCDF40B4E83BC0A71),
    ("np.arange(101) * 257", "bfloat16 bits", "none", 0x7F701EB17F815207, 0x1F1DE3AC439639D2),
    ("np.arange(127)", "float8_e4m3fn bits", "none", 0xF566CA9EE29D0457, 0x1060E4914B5076BB),
    ("np.arange(125) + 128", "float8_e5m2 bits", "none", 0x13FA94CA9BA3FF21, 0x10439BFDED0C1F1D),
    ("np.arange(100) - 50", "int8", "none", 0xA22AC90148BE8697, 0xA49EF708E563B5A3),
    ("np.arange(40) * 0x0123456789abcdef", "uint64", "none", 0x64E07E7327D77F17, 0xFF2E69EDF211DC80),
    ("np.arange(70) % 3 == 0", "bool", "none", 0x0E59058C4978D291, 0xF775AD620B8364D8),
    ("np.arange(1200) / 8", "float32", "float32", 0x9BAA3C3933C31BBF, 0xFC0D590EAAA718B7),
    ("np.arange(1200) / 8", "float32", "bfloat16", 0xD088A0C1557DB8E6, 0x7238AF576DDDB6DD),
    ("np.arange(1200) / 8", "float32", "float16", 0x4C33697604E116CB, 0x20CD628CD302F047),
    ("np.arange(1200) / 8", "float32", "float64", 0x695E820640B880CE, 0x405B34D885E5A1F2),
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


# --- what a program can check of the proof, section 4 of the document, by the lines of section 3 ---------------------


def combination(letter: str, number: str, pattern: str) -> list[set[int]]:
    """What the lines ``letter = ...`` of the document are made of, in order."""
    if not DOCUMENT.is_file():
        pytest.skip("docs/fingerprint.md: NOT TESTED HERE (no source tree)")
    section = DOCUMENT.read_text(encoding="utf-8").partition("## 3.")[2].partition("## 4.")[0]
    lines = re.findall(rf"^    {letter}{number} = (.+)$", section, re.MULTILINE)
    return [{int(found) for found in re.findall(pattern, line)} for line in lines]


@pytest.fixture
def symbols() -> list[set[int]]:
    """Of each of the eight encoded symbols: which of the four it is the exclusive or of."""
    found = combination("y", r"\d", r"x(\d)")
    assert len(found) == 8
    return found


@pytest.fixture
def changed(symbols: list[set[int]]) -> set[frozenset[int]]:
    """Every set of encoded symbols in which two different blocks can differ."""
    words = {frozenset(i for i, of in enumerate(symbols) if len(of & set(x)) % 2) for x in subsets(range(4))}
    sets = set(words)
    while (larger := sets | {a | b for a in sets for b in words}) != sets:
        sets = larger
    return sets


def subsets(of: range) -> list[tuple[int, ...]]:
    """All but the empty one."""
    return list(chain.from_iterable(combinations(of, size) for size in range(1, len(of) + 1)))


def determinant(matrix: list[list[int]]) -> int:
    if not matrix:
        return 1
    return sum(
        (-1) ** column * value * determinant([row[:column] + row[column + 1 :] for row in matrix[1:]])
        for column, value in enumerate(matrix[0])
    )


def test_the_reference_encodes_and_combines_by_these_lines(symbols: list[set[int]]) -> None:
    assert list(map(set, reference._SYMBOLS)) == symbols
    assert list(map(set, reference._SUMS)) == combination("A", r"\[\d\]", r"N\[(\d)\]")


def test_at_least_four_symbols_differ(changed: set[frozenset[int]]) -> None:
    assert min(map(len, changed)) == 4
    assert sum(len(s) == 4 for s in changed) == 14
    assert all(any(len(w) == 4 and w <= s for w in changed) for s in changed)


def test_among_the_symbols_that_differ_there_is_an_odd_minor(changed: set[frozenset[int]]) -> None:
    """Of any of the four sums, so that each set of them is right with 2^-32 a sum."""
    sums = combination("A", r"\[\d\]", r"N\[(\d)\]")
    assert len(sums) == 4
    for which in subsets(range(4)):
        for s in changed:
            minors = (
                determinant([[int(column in sums[row]) for column in columns] for row in which])
                for columns in combinations(sorted(s), len(which))
            )
            assert any(minor % 2 for minor in minors), (which, sorted(s))


def test_one_key_in_all_makes_a_difference_of_two_products() -> None:
    """Three bits for 32: of the values of the key beside a word that differs at most one gives any difference."""
    size = 8
    key, other_key, a, changed_a, b, changed_b = np.ogrid[(slice(size),) * 6]
    before = (a + key) % size * ((b + other_key) % size)
    after = (changed_a + key) % size * ((changed_b + other_key) % size)
    differences = np.sort((before - after) % size**2, axis=0)
    is_repeated = (differences[1:] == differences[:-1]).any(axis=0)
    assert not (is_repeated & (b != changed_b)[0]).any()
    assert is_repeated.any(), "where the other word does not differ, one difference may have many keys"

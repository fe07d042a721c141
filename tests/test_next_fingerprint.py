"""What a program can check of the proof in ``docs/fingerprint.md``, section 6: exhaustively, by its own lines."""

from __future__ import annotations

import re
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import pytest

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "fingerprint.md"


def combination(letter: str, number: str, pattern: str) -> list[set[int]]:
    """What the lines ``letter = ...`` of the document are made of, in order."""
    if not DOCUMENT.is_file():
        pytest.skip("docs/fingerprint.md: NOT TESTED HERE (no source tree)")
    section = DOCUMENT.read_text(encoding="utf-8").partition("## 6.")[2]
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

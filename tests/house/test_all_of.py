"""One failing case hides no other one, and a loop over nothing is no test."""

from __future__ import annotations

import pytest

from ..all_of import all_of


def numbers(count: int) -> None:
    with all_of("numbers") as case:
        for number in range(count):
            with case(number, "in a row"):
                if number == 3:
                    raise ValueError("three")
                assert number % 2 == 0


def test_all_failures_are_listed() -> None:
    with pytest.raises(AssertionError) as caught:
        numbers(5)
    first, *failures = str(caught.value).splitlines()
    assert first == "2 of 5 numbers fail:"
    assert failures[0].startswith("1, in a row (test_all_of.py:16): AssertionError: assert (1 % 2) == 0")
    assert failures[-1] == "3, in a row (test_all_of.py:15): ValueError: three"


def test_no_failure_is_none() -> None:
    numbers(1)


def test_no_case_is_a_failure() -> None:
    with pytest.raises(AssertionError, match="there are no numbers"):
        numbers(0)


def test_what_is_skipped_inside_skips_the_test() -> None:
    with pytest.raises(pytest.skip.Exception), all_of("numbers") as case, case(1):
        pytest.skip("NOT TESTED HERE")


def test_a_long_list_is_cut() -> None:
    with pytest.raises(AssertionError, match="and 30 more"):
        numbers(100)

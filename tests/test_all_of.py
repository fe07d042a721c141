"""One failing case hides no other one, and a loop over nothing is no test."""

from __future__ import annotations

import pytest

from .all_of import all_of


def test_all_failures_are_listed() -> None:
    with pytest.raises(AssertionError) as caught, all_of("numbers") as case:
        for number in range(4):
            with case(number, "in a row"):
                if number == 3:
                    raise ValueError("three")
                assert number % 2 == 0
    first, *failures = str(caught.value).splitlines()
    assert first == "2 of 4 numbers fail:"
    assert failures[0].startswith("1, in a row (test_all_of.py:17): AssertionError: assert (1 % 2) == 0")
    assert failures[-1].startswith("3, in a row (test_all_of.py:16): ValueError: three")


def test_no_failure_is_none() -> None:
    with all_of("numbers") as case, case(1):
        pass


def test_no_case_is_a_failure() -> None:
    with pytest.raises(AssertionError, match="there are no numbers"), all_of("numbers"):
        pass


def test_what_is_skipped_inside_skips_the_test() -> None:
    with pytest.raises(pytest.skip.Exception), all_of("numbers") as case, case(1):
        pytest.skip("NOT TESTED HERE")


def test_a_long_list_is_cut() -> None:
    with pytest.raises(AssertionError, match="and 80 more"), all_of("numbers") as case:
        for number in range(100):
            with case(number):
                raise ValueError("no")

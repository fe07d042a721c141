"""The faults that ``make mutate-python`` plants fit the package as it is; planting them takes minutes."""

from __future__ import annotations

import ast
from pathlib import Path

import cbkernels

from ..all_of import all_of
from ..faults.planted import FAULTS

PACKAGE = Path(cbkernels.__file__).parent
TESTS = Path(__file__).resolve().parents[1]


def test_every_fault_can_be_planted_and_is_looked_for() -> None:
    with all_of("faults") as of_fault:
        for fault in FAULTS:
            with of_fault(fault.what):
                text = (PACKAGE / fault.file).read_text(encoding="utf-8")
                assert text.count(fault.text) == 1, "its text must be there once"
                ast.parse(text.replace(fault.text, fault.replacement))
                assert fault.tests
                assert all((TESTS / name).is_file() for name in fault.tests), fault.tests


def test_faults_are_in_all_rooms() -> None:
    rooms = {fault.what.partition(":")[0] for fault in FAULTS}
    assert len(rooms) >= 20, sorted(rooms)

"""Tests of csrc/cpu on a module with a fault: `CBKERNELS_EMULATION=MODULE python tests/emulation/probe_cpu.py`.

The module takes the place of the installed one before anything imports that: of two modules in a process the one
that was loaded first lends the other its functions.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = (
    "tests/test_work_counters.py",
    "tests/test_equal_short_rows.py",
    "tests/test_nan_in_different_rows.py",
    "tests/test_many_kinds_of_short_rows.py",
    "tests/test_memory_orders.py::test_the_last_rows_of_columns",
    "tests/test_memory_orders.py::test_runs_of_32_bytes_behind_a_gap",
    "tests/test_memory_orders.py::test_a_chunk_of_rows_that_all_differ_in_the_same_way",
    "tests/test_memory_orders.py::test_no_order_is_read_more_than_two_and_a_half_times",
    "tests/test_random_against_reference.py::test_more_rows_than_one_table_holds",
    "tests/test_margin.py::test_many_rows",
    "tests/test_margin.py::test_the_closest_pair_may_lie_in_two_groups_of_rows",
)


def main() -> int:
    spec = importlib.util.spec_from_file_location("cbkernels._core", os.environ["CBKERNELS_EMULATION"])
    assert spec is not None
    assert spec.loader is not None
    sys.modules["cbkernels._core"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path[0] = str(ROOT)
    return pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--tb=line", *(str(ROOT / test) for test in TESTS)])


if __name__ == "__main__":
    sys.exit(main())

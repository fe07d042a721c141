"""Writes cases and their answers into a file for a processor that has no Python here: ``run_cases.cpp`` reads it.

The named cases with the answers made by hand, the golden values of the fingerprint, a few cases that are large enough
for several threads, and random cases; these two with what the reference says. Every number is little-endian and
64 bits wide; an array is its length, then its bytes.
Run as `python tests/aarch64/export_cases.py FILE --random 1000 --seed 1`.
"""

from __future__ import annotations

import argparse
import random
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

if not __package__:  # run as a file: the folder above tests/ is then not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from cbkernels import UpdateGrid
from cbkernels.arrays import DTYPES, Labels, Rows, as_labels, as_rows
from cbkernels.backends import TABLE
from cbkernels.entropy import BundleCounts
from tests.cases import CASES
from tests.inputs import numpy_type
from tests.random_inputs import RandomCase, random_case
from tests.test_fingerprint import GOLDEN, golden_row

REFERENCE = TABLE["reference"]
MAGIC = b"cbkcase1"
PAIRS_TIMES_COLUMNS = 20_000
"""Largest random input for which the reference compares every pair of rows."""
MOST_ROWS_THAT_COLLIDE = 300
"""With equal routing hashes every row is compared with every leader: more rows would take minutes."""


@dataclass(frozen=True)
class Exported:
    """One question with all its answers; None: not asked."""

    name: str
    acts: np.ndarray
    labels: np.ndarray
    grid: UpdateGrid | None
    tolerance: tuple[float, float] | None
    ids: np.ndarray
    counts: BundleCounts
    fingerprints: tuple[np.ndarray, np.ndarray]
    margin: float | None


class Writer:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def integers(self, *values: int) -> None:
        self._file.write(struct.pack(f"<{len(values)}q", *values))

    def doubles(self, *values: float) -> None:
        self._file.write(struct.pack(f"<{len(values)}d", *values))

    def array(self, values: bytes | np.ndarray) -> None:
        data = values if isinstance(values, bytes) else np.ascontiguousarray(values).tobytes()
        self.integers(len(data))
        self._file.write(data)

    def memory(self, view: Rows) -> None:
        """How a view lies, where it begins in the bytes that it reaches, and these bytes.

        The address's last bits travel too: what is not aligned here must not be aligned there.
        """
        reaches = [(extent - 1) * stride for extent, stride in zip(view.shape, view.strides, strict=True)]
        low, high = view.pointer, view.pointer
        if 0 not in view.shape:
            low += sum(reach for reach in reaches if reach < 0)
            high += sum(reach for reach in reaches if reach > 0) + numpy_type(view.dtype).itemsize
        self.integers(view.code, len(view.shape), *view.shape, *view.strides, view.pointer - low, low % 64)
        self.array(view._replace(pointer=low, shape=(high - low,), strides=(1,), dtype="uint8").raw())

    def case(self, case: Exported) -> None:
        rows = as_rows(case.acts)
        labels = as_labels(case.labels, rows)
        self.array(case.name.encode())
        self.memory(rows)
        self.memory(_as_rows(labels, rows.num_rows))
        kind, *parameters = case.grid.parameters if case.grid else (0, 0.0, 0.0, 0.0)
        self.integers(kind)
        self.doubles(*parameters)
        self.integers(case.tolerance is not None)
        self.doubles(*(case.tolerance or (0.0, 0.0)))
        self.integers(len(case.acts) <= MOST_ROWS_THAT_COLLIDE)
        self.array(case.ids.astype(np.int64))
        counts = case.counts
        self.integers(counts.num_bundles, counts.num_nan_rows, counts.num_conflicting, counts.num_conflicting_rows)
        self.array(counts.label_counts.astype(np.int64))
        self.array(counts.starts.astype(np.int64))
        self.array(case.fingerprints[0].astype(np.uint64))
        self.array(case.fingerprints[1].astype(np.uint8))
        self.integers(case.margin is not None)
        self.doubles(0.0 if case.margin is None else case.margin)


def _as_rows(labels: Labels, num_rows: int) -> Rows:
    return Rows(labels.pointer, (num_rows,), (labels.stride,), DTYPES[labels.code], labels.code, "cpu", labels.owner)


def named_cases() -> list[Exported]:
    """Ids, counts and margins as ``cases.py`` has them; label counts and fingerprints by the reference."""
    exported = []
    for case in CASES:
        acts, labels = case.acts(), np.asarray(case.labels)
        rows = as_rows(acts)
        counts = REFERENCE.count_bundles(rows, as_labels(labels, rows), case.grid, case.tolerance, True)
        by_hand = (case.bundles, case.nan_rows, case.conflicting)
        assert (counts.num_bundles, counts.num_nan_rows, counts.num_conflicting) == by_hand, case.name
        exported.append(
            Exported(case.name, acts, labels, case.grid, case.tolerance, np.asarray(case.ids), counts,
                     REFERENCE.row_fingerprints(rows, case.grid), case.margin)
        )  # fmt: skip
    return exported


def golden_values() -> list[Exported]:
    """The rows of ``docs/fingerprint.md``, each twice, with the fingerprints that stand there."""
    exported = []
    for values, dtype, grid_dtype, first, second in GOLDEN:
        grid = None if grid_dtype == "none" else UpdateGrid(0.001, 50, 0.7, dtype=grid_dtype)
        acts, labels = np.stack([golden_row(values, dtype)] * 2), np.array([0, 1])
        rows = as_rows(acts)
        counts = REFERENCE.count_bundles(rows, as_labels(labels, rows), grid, None, True)
        fingerprints = np.array([[first, second]] * 2, np.uint64)
        exported.append(
            Exported(f"golden {values} {dtype}, grid {grid_dtype}", acts, labels, grid, None, np.zeros(2), counts,
                     (fingerprints, np.zeros(2, np.uint8)), 0.0)
        )  # fmt: skip
    return exported


def answered(name: str, case: RandomCase, *, with_margin: bool) -> Exported:
    """The case with all that the reference says of it."""
    rows = as_rows(case.acts)
    labels = as_labels(case.labels, rows)
    return Exported(
        name,
        case.acts,
        case.labels,
        case.grid,
        case.tolerance,
        REFERENCE.bundle_ids(rows, case.grid, case.tolerance),
        REFERENCE.count_bundles(rows, labels, case.grid, case.tolerance, True),
        REFERENCE.row_fingerprints(rows, case.grid),
        REFERENCE.conflict_margin(rows, labels) if with_margin else None,
    )


def large_cases() -> list[Exported]:
    """Beyond the thresholds from which on several threads work: short rows, long rows, many pairs for a margin."""
    rng = np.random.default_rng(5)
    short = rng.standard_normal((50, 300)).astype(np.float32)[rng.integers(50, size=9000)]
    long = np.repeat(rng.standard_normal((300, 5000)).astype(np.float32), 2, axis=0)
    long[::7, 4999] = 1e-42  # as a subnormal number it is not zero
    long[3, 4900] = np.nan
    pairs = rng.standard_normal((300, 4)).astype(np.float32)
    return [
        answered(name, RandomCase(acts, rng.integers(0, 5, len(acts)), None, None, ""), with_margin=with_margin)
        for name, acts, with_margin in (("large, short rows", short, False), ("large, long rows", long, False),
                                        ("large, margin", pairs, True))
    ]  # fmt: skip


def random_cases(seed: int, count: int) -> list[Exported]:
    """Cases 0 to ``count`` of this seed, as ``fuzz.py`` draws them."""
    exported = []
    for index in range(count):
        case = random_case(seed, index)
        few_pairs = len(case.acts) ** 2 * int(np.prod(case.acts.shape[1:])) <= PAIRS_TIMES_COLUMNS
        exported.append(answered(f"random case {index} of seed {seed}: {case}", case, with_margin=few_pairs))
    return exported


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--random", type=int, default=1000, help="how many random cases")
    parser.add_argument("--seed", type=int, default=None, help="default: a new one, printed")
    options = parser.parse_args(arguments)
    seed: Any = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    large = large_cases()
    cases = [*named_cases(), *golden_values(), *large, *random_cases(seed, options.random)]
    with options.file.open("wb") as file:
        file.write(MAGIC)
        writer = Writer(file)
        writer.integers(len(cases))
        for case in cases:
            writer.case(case)
    print(f"{options.file}: {len(CASES)} named cases, {len(GOLDEN)} golden values, {len(large)} large cases, "
          f"{options.random} random cases of seed {seed}, {options.file.stat().st_size} bytes")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())

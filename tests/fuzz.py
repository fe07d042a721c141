"""Random cases, the backends against the reference: `python tests/fuzz.py --cases 100000`, and with
`--emulated` the CUDA backend on emulated devices, in random order (`make emulation` builds it). `--patterns`
begins with every value of the 16-bit types, and with every rounding to them.

Integers and fingerprints must be identical, and so must the input afterwards. A failure prints the
numbers that run this case again alone. Progress goes to stderr, the last line to stdout.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

if not __package__:  # run as a file: the folder above tests/ is then not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cbkernels import UpdateGrid, _core
from cbkernels.arrays import as_labels, as_rows
from cbkernels.backends import TABLE, Cuda
from cbkernels.entropy import BundleCounts, entropy_of_counts
from tests import emulation
from tests.inputs import numpy_type, place
from tests.random_inputs import RandomCase, random_case

REFERENCE = TABLE["reference"]
PAIRS_TIMES_COLUMNS = 20_000
"""Largest input for which the reference compares every pair of rows (about 1 ms)."""


SMALL_BYTES, FEW_ROWS = 1 << 20, 1 << 12
MOST_EMULATED_ROWS = 20_000
"""Six times 10^5 rows take minutes, in which the threads that wait take more steps than a spin may."""


def content(case: RandomCase) -> tuple[int, int]:
    return hash(case.acts.tobytes()), hash(case.labels.tobytes())


def same_counts(a: BundleCounts, b: BundleCounts) -> bool:
    sizes = [sorted(map(tuple, np.split(c.label_counts, c.starts[1:-1]))) for c in (a, b)]
    return (
        (a.num_rows, a.num_bundles, a.num_nan_rows) == (b.num_rows, b.num_bundles, b.num_nan_rows)
        and (a.num_conflicting, a.num_conflicting_rows) == (b.num_conflicting, b.num_conflicting_rows)
        and a.label_counts.tolist() == b.label_counts.tolist()
        and a.starts.tolist() == b.starts.tolist()
        and sizes[0] == sizes[1]
        and repr(entropy_of_counts(a)) == repr(entropy_of_counts(b))
    )


def check(case: RandomCase, name: str) -> list[str]:
    """What differs between a backend and the reference."""
    backend = TABLE[name]
    rows = as_rows(case.acts)
    labels = as_labels(case.labels, rows)
    before = content(case)
    wrong = []
    ids = backend.bundle_ids(rows, case.grid, case.tolerance)
    if ids.tolist() != REFERENCE.bundle_ids(rows, case.grid, case.tolerance).tolist():
        wrong.append("bundle_ids")
    expected = REFERENCE.count_bundles(rows, labels, case.grid, case.tolerance, True)
    if not same_counts(backend.count_bundles(rows, labels, case.grid, case.tolerance, True), expected):
        wrong.append("count_bundles")
    unchecked = backend.count_bundles(rows, labels, case.grid, case.tolerance, False)
    if (unchecked.num_bundles, unchecked.label_counts.tolist()) != (
        expected.num_bundles,
        expected.label_counts.tolist(),
    ) or not 0 <= unchecked.num_nan_rows <= expected.num_nan_rows:
        wrong.append("count_bundles without check_nan")
    fingerprinted = rows if case.acts.nbytes < SMALL_BYTES else as_rows(case.acts[:3])
    for found, right in zip(
        backend.row_fingerprints(fingerprinted, case.grid),
        REFERENCE.row_fingerprints(fingerprinted, case.grid),
        strict=True,
    ):
        if not np.array_equal(found, right):
            wrong.append(f"row_fingerprints {right.dtype}")
    if rows.num_rows**2 * rows.num_columns <= PAIRS_TIMES_COLUMNS:
        margin = backend.conflict_margin(rows, labels)
        if repr(margin) != repr(REFERENCE.conflict_margin(rows, labels)):
            wrong.append(f"conflict_margin {margin!r}")
    if content(case) != before:
        wrong.append("the input was written to")
    return wrong


def run_one(seed: int, index: int, backends: list[str], sets: list[str]) -> list[str]:
    """Check one case with random threads, instruction set and routing hash; says what is wrong."""
    rng = random.Random(f"{seed} {index}")
    case = random_case(seed, index)
    threads, bits, instructions = rng.choice([1, 2, 3]), rng.choice([0, 1, 3, 8, 64, 64, 64]), rng.choice(sets)
    if case.acts.nbytes >= SMALL_BYTES or len(case.acts) >= FEW_ROWS:
        bits = 64  # every row compared with every leader would take minutes
    if emulation.NAME in backends:
        few = slice(MOST_EMULATED_ROWS)
        case = case._replace(acts=place(case.acts[few], emulation.NAME), labels=place(case.labels[few], emulation.NAME))
        shuffle_emulation(rng, bits)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    _core.use_instruction_set(instructions)
    _core.use_routing_bits(bits)
    found = []
    again = " --emulated" if emulation.NAME in backends else ""
    for name in backends:
        try:
            wrong = check(case, name)
        except Exception:
            wrong = [traceback.format_exc()]
        found += [f"{name}: {what}" for what in wrong]
    if found:
        found.insert(0, f"{case}, threads {threads}, routing bits {bits}, {instructions}")
        found.append(f"again: python tests/fuzz.py --seed {seed} --first {index} --cases 1{again}")
    return found


def pattern_cases() -> Iterator[RandomCase]:
    """Every pattern of a 16-bit type twice; around each of them, itself, the tie above it and the tie's neighbours."""
    numbers = np.arange(65536, dtype=np.uint16)
    for dtype in ("float16", "bfloat16"):
        values = numbers.view(numpy_type(dtype))
        twice = np.tile(values, 2)[:, None]
        yield RandomCase(twice, np.arange(len(twice)) % 3, None, None, "every pattern")
        grid = UpdateGrid(learning_rate=1.0, batch_size=1, weight_amplitude=0.0, dtype=dtype)
        with np.errstate(invalid="ignore"):
            exact = values.astype(np.float32).view(np.uint32)
        half = np.uint32(1 << 12 if dtype == "float16" else 1 << 15)
        for offset in (np.uint32(0), half - np.uint32(1), half, half + np.uint32(1)):
            near = (exact + offset).view(np.float32)[:, None]
            yield RandomCase(near, np.arange(len(near)) % 3, grid, None, f"every pattern, and {offset} bits")


def try_patterns(backends: list[str]) -> int:
    """How many of the pattern cases differ from the reference."""
    differences = 0
    for case in pattern_cases():
        found = [f"{name}: {what}" for name in backends for what in check(case, name)]
        differences += bool(found)
        print(
            "\n  ".join([f"fuzz: {case}" if not found else f"DIFFERENCE {case}", *found]), file=sys.stderr, flush=True
        )
    return differences


def use_emulation() -> None:
    """Puts the emulated CUDA backend into the table of backends."""
    core, missing = emulation.load()
    if core is None:
        raise SystemExit(f"fuzz: the emulated CUDA backend is missing: {missing}; NOTHING WAS TESTED")
    TABLE[emulation.NAME] = Cuda(emulation.NAME, core.cuda)


def shuffle_emulation(rng: random.Random, bits: int) -> None:
    """A random order of execution, shape of the grid and routing hash."""
    core, _ = emulation.load()
    core.emulation.schedule(rng.choice([0, rng.randrange(1, 2**32)]))
    core.cuda.use_launch_shape(rng.randrange(4), rng.choice([0, 32, 64, 96, 256]), rng.choice([0, 0, 4]))
    core.use_routing_bits(bits)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=None, help="default: a new one, printed")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--patterns", action="store_true", help="first every pattern of the 16-bit types")
    parser.add_argument("--emulated", action="store_true", help="the CUDA backend on emulated devices")
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    info: dict[str, Any] = _core.build_info()
    sets = list(info["instruction_sets"])
    backends = ["cpu"]
    if options.emulated:
        use_emulation()
        backends = [emulation.NAME]
    print(f"fuzz: seed {seed}, {options.cases} cases, backends {backends}, {sets}", file=sys.stderr)
    warnings.simplefilter("error")
    interactive = sys.stderr.isatty()
    differences, began, said = try_patterns(backends) if options.patterns else 0, time.monotonic(), 0.0
    for done in range(options.cases):
        found = run_one(seed, options.first + done, backends, sets)
        if found:
            differences += 1
            print("\n" + "\n  ".join(["DIFFERENCE", *found]), file=sys.stderr)
        now = time.monotonic()
        if now - said > (1 if interactive else 20) or done + 1 == options.cases:
            said = now
            line = f"fuzz: {done + 1}/{options.cases} cases, {differences} differences, {now - began:.0f} s"
            last = done + 1 == options.cases or not interactive
            print(f"\r{line}" if interactive else line, end="\n" if last else "", file=sys.stderr, flush=True)
    on = f", {emulation.launches()} kernel launches emulated" if options.emulated else ""
    print(f"fuzz: seed {seed}: {options.cases} cases, {differences} differences{on}")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())

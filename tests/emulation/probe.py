"""A short run of everything on the emulated devices, in many orders; ends with an error at the first difference.

``mutate.py`` runs it on modules with a fault: `CBKERNELS_EMULATION=MODULE python tests/emulation/probe.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

if not __package__:  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import cbkernels as cb
from cbkernels import UpdateGrid, backends
from cbkernels.arrays import as_labels, as_rows
from tests import emulation
from tests.cases import CASES
from tests.fuzz import check, same_counts
from tests.inputs import place
from tests.random_inputs import BOTH_TAILS, random_case, rows_in_both_tails, rows_of_one_close_pair

NAME = emulation.NAME
SHAPES = [(0, 0), (3, 64), (2, 96), (3, 256), (1, 32)]
"""Blocks, threads a block."""
core, missing = emulation.load()


def prepare(number: int, bits: int = 64) -> None:
    """Another order, another launch shape; layers are grouped by blocks and by the whole grid in turn."""
    core.emulation.schedule(number)
    core.cuda.use_launch_shape(*SHAPES[number % len(SHAPES)], 4 if number % 2 else 0)
    core.use_routing_bits(bits)


def require(is_right: bool, what: str) -> None:
    now = core.emulation.counters()
    if not is_right or now["errors"] or now["live_bytes"]:
        raise SystemExit(f"{what}: {core.emulation.last_error() or 'another result'}")


def sums_in_a_row() -> None:
    """The sum over a block alone, so often that a warp which goes on too early is seen in any order."""
    for number in range(1, 9):
        prepare(number)
        wrong = core.emulation.self_test.launch("sum_in_a_row", 2, 96, 192, shared_bytes=33 * 8)
        require(not any(wrong), f"sums in a row {number}")


def random_inputs() -> None:
    for index in range(40):
        prepare(index, (64, 8, 2, 0)[index % 4])
        case = random_case(77, index)
        wrong = check(case._replace(acts=place(case.acts, NAME), labels=place(case.labels, NAME)), NAME)
        require(not wrong, f"random case {index} {wrong}")
        if case.acts.nbytes:
            wrong = check(case._replace(acts=emulation.fenced(case.acts), labels=emulation.fenced(case.labels)), NAME)
            require(not wrong, f"fenced case {index} {wrong}")


def many_rows() -> None:
    for number in range(1, 31):
        prepare(number)
        rng = np.random.default_rng(number)
        rows = rng.integers(0, 2, (300 + 10 * number, 5)).astype(np.float32)
        labels = rng.integers(0, 100, len(rows))
        found = cb.bundle_entropy(rows, labels, backend=NAME)
        right = cb.bundle_entropy(rows, labels, backend="reference")
        require((found.entropy.hex(), found.num_bundles) == (right.entropy.hex(), right.num_bundles), f"rows {number}")


def rows_grouped_again() -> None:
    """Rows of one sample and several ends: the second time they come in the order in which warps listed them."""
    for number in range(1, 5):
        prepare(number)
        rows = np.repeat(np.arange(500, dtype=np.float32)[:, None] % 4, 300, axis=1)
        rows[:, 0] = np.random.default_rng(number).integers(0, 8, 500)  # in no place of the sample
        found = cb.bundle_rows(rows, backend=NAME)
        require(np.array_equal(found, cb.bundle_rows(rows, backend="reference")), f"rows grouped again {number}")


def layers_of_one_launch() -> None:
    for number in range(1, 7):
        prepare(number)
        rng = np.random.default_rng(number)
        labels = rng.integers(0, 3, 40)
        layers = {}
        for layer, width in enumerate(rng.choice([0, 1, 3, 40, 300, 1500], 80)):  # over 32 of each way to read rows
            palette = rng.integers(0, 2, (int(rng.integers(1, 41)), width))
            layers[str(layer)] = palette[rng.integers(len(palette), size=40)].astype(np.float32)
            if width and layer % 3 == 0:
                layers[str(layer)][rng.integers(40), -1] = (np.nan, 7)[layer % 2]
        found = cb.bundle_entropy_layers(layers, labels, backend=NAME)
        right = cb.bundle_entropy_layers(layers, labels, backend="reference")
        for layer in layers:
            a, b = found[layer], right[layer]
            require((a.num_bundles, a.num_nan_rows) == (b.num_bundles, b.num_nan_rows), f"layers {number}")
            require(a.entropy.hex() == b.entropy.hex(), f"entropy of layers {number}")


def fingerprints_and_margins() -> None:
    moves_zero = UpdateGrid(learning_rate=0.1, batch_size=10, weight_amplitude=1.0)
    for number in range(1, 9):
        prepare(number, (64, 2)[number % 2])  # with 2 bits, fingerprints of a stream share hashes
        rng = np.random.default_rng(number)
        long = as_rows(rng.integers(0, 2, (16, 9001)).astype(np.float32))
        for grid in (None, moves_zero):
            found = backends.TABLE[NAME].row_fingerprints(long, grid)[0]
            right = backends.TABLE["reference"].row_fingerprints(long, grid)[0]
            require(np.array_equal(found, right), f"fingerprints of long rows {number}, grid {grid}")
        names = rng.integers(0, 4, 70 + number)
        points = rng.normal(0, 1, (70 + number, (20, 600)[number % 2]))  # wide ones in several spans
        points = emulation.fenced(points.astype((np.float64, np.float32)[number // 2 % 2]))
        margin = cb.conflict_margin(points, names, backend=NAME)
        require(margin == cb.conflict_margin(points, names, backend="reference"), f"margin {number}")
        patterns, labels = rng.integers(0, 3, (500, 2)).astype(np.uint64), rng.integers(0, 4, 500)
        counts = core.cuda.count_fingerprints(patterns.ctypes.data, labels.ctypes.data, 500, False, 0, 0)
        same = same_counts(backends.BundleCounts(500, *counts), backends.count_fingerprints([(patterns, labels)], 0))
        require(same, f"fingerprints of a stream {number}")


def margins_on_the_cpu() -> None:
    hardly_apart = np.repeat(np.random.default_rng(0).permutation(120)[:, None] * -(2.0**-30), 240, axis=1)
    hardly_apart[np.arange(120), np.arange(120) * 2] = 1
    cases = [*map(rows_in_both_tails, BOTH_TAILS), (hardly_apart.astype(np.float32), np.arange(120))]
    for number, (points, names) in enumerate(cases):
        right = cb.conflict_margin(points, names, backend="reference")
        require(cb.conflict_margin(points, names, backend="cpu") == right, f"margin on the CPU {number}")
    for pair in ((250, 260), (254, 513)):
        points, apart = rows_of_one_close_pair(*pair)
        require(cb.conflict_margin(points, np.arange(1100), backend="cpu") == apart, f"margin of the pair {pair}")


def queued_numbers() -> None:
    """Readers that ask late, or never, beside a graph that nobody reads."""
    on_device, on_cpu = backends.TABLE[NAME], backends.TABLE["cpu"]
    for number in range(1, 5):
        prepare(number)
        rng = np.random.default_rng(number)
        inputs = [as_rows(rng.integers(0, 3, (20 + k, 4)).astype(np.float32)) for k in range(5)]
        names = [as_labels(rng.integers(0, 4, rows.num_rows), rows) for rows in inputs]
        core.emulation.capture(True)
        on_device.queue_layers([inputs[0]], names[0], None, True)
        core.emulation.capture(False)
        queued = [
            (on_device.queue_margin(rows, labels), on_device.queue_layers([rows], labels, None, True))
            for rows, labels in zip(inputs, names, strict=True)
        ]
        for _ in range(20):
            on_device.queue_margin(inputs[1], names[1])
        core.emulation.replay_copies()
        for rows, labels, (margin, counts) in list(zip(inputs, names, queued, strict=True))[::-1]:
            require(margin() == on_cpu.conflict_margin(rows, labels), f"queued margin {number}")
            right = on_cpu.count_bundles(rows, labels, None, None, True)
            require(same_counts(counts()[0], right), f"queued counts {number}")
        core.emulation.forget_graph()


def work_of_a_comparison() -> None:
    """A row whose NaN a comparison has seen is alone: hashing all of it would find the same again."""
    prepare(0)
    rows = np.ones((8, 1001), np.float32)
    rows[5, 0] = np.nan  # in no place of the sample
    found = cb.bundle_entropy(rows, np.arange(8), backend=NAME)
    require((found.num_bundles, found.num_nan_rows) == (2, 1), "a NaN behind the sample")
    work = core.last_work()
    require((work["rows_compared"], work["rows_fingerprinted"]) == (7, 0), f"work of a comparison: {work}")


def named_cases() -> None:
    for number, case in enumerate(CASES):
        if len(case.ids) > 300:
            continue
        prepare(number)
        acts, options = place(case.acts(), NAME), {"grid": case.grid, "tolerance": case.tolerance, "backend": NAME}
        require(cb.bundle_rows(acts, **options).tolist() == list(case.ids), f"case {case.name}")
        found = cb.bundle_entropy(acts, np.asarray(case.labels), **options)
        seen = (found.num_bundles, found.num_conflicting, found.num_nan_rows)
        require(seen == (case.bundles, case.conflicting, case.nan_rows), f"counts of case {case.name}")


def main() -> int:
    if core is None:
        raise SystemExit(f"{NAME}: {missing}")
    backends.TABLE[NAME] = backends.Cuda(NAME, core.cuda)
    backends.TABLE["cpu"] = type(backends.TABLE["cpu"])("cpu", core.cpu)
    parts = (sums_in_a_row, random_inputs, many_rows, rows_grouped_again, layers_of_one_launch,
             fingerprints_and_margins, margins_on_the_cpu, queued_numbers, work_of_a_comparison,
             named_cases)  # fmt: skip
    for part in parts:
        part()
    print(f"probe: {emulation.launches()} kernel launches emulated, no difference")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Memory: at most 64 bytes a row beyond the input, nothing left behind by success or error.

Peaks are high-water marks of a process of its own; leaks are the growth over many calls.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cbkernels as cb

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory: NOT TESTED HERE (no /proc)"),
    pytest.mark.slow,
    pytest.mark.xdist_group("memory and threads"),
    pytest.mark.skipif("CBKERNELS_SANITIZER" in os.environ, reason="memory: NOT TESTED HERE (a sanitizer uses more)"),
]

PEAK = """
import os, sys
import numpy as np
import cbkernels as cb
from cbkernels import backends
from cbkernels.arrays import as_rows
backends.num_threads = lambda: {threads}

def status(name):
    for line in open("/proc/self/status"):
        if line.startswith(name):
            return int(line.split()[1]) * 1024

acts = {acts}
labels, own_labels = np.arange(len(acts)) % 10, np.arange(len(acts))
grid = cb.UpdateGrid(learning_rate=1e-3, batch_size=50, weight_amplitude=0.7)
cb.bundle_entropy(acts[:100], labels[:100])  # whatever is loaded or allocated once
acts.sum(), labels.sum(), own_labels.sum()
open("/proc/self/clear_refs", "w").write("5")  # the high-water mark starts again here
before = status("VmRSS")
result = {call}
print(status("VmHWM") - before, len(acts))
"""


def extra_bytes_a_row(acts: str, call: str, threads: int = 1) -> float:
    done = subprocess.run(
        [sys.executable, "-c", PEAK.format(acts=acts, call=call, threads=threads)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    if "clear_refs" in done.stderr:
        pytest.skip("peak memory: NOT TESTED HERE (/proc/self/clear_refs cannot be written)")
    assert done.returncode == 0, done.stderr
    extra, num_rows = map(int, done.stdout.split())
    # the process itself moves by some pages: 2 MiB are 4 bytes a row here
    return (extra - (2 << 20)) / num_rows


ROWS = {
    "short_distinct": "np.random.default_rng(0).standard_normal((500_000, 16), np.float32)",
    "short_equal": "np.zeros((500_000, 16), np.float32)",
    "short_few_bundles": "np.arange(8_000_000, dtype=np.int32).reshape(-1, 16) % 160",
    "one_column": "np.arange(500_000, dtype=np.float64)[:, None] % 250_000",
    "distinct": "np.random.default_rng(0).standard_normal((500_000, 40), np.float32)",
    "short_pairs": "np.arange(8_000_000, dtype=np.int32).reshape(-1, 16)[np.arange(500_000) * 7 % 500_000 // 2]",
    "columns_first": "np.asfortranarray(np.random.default_rng(0).standard_normal((500_000, 40), np.float32))",
}


@pytest.mark.parametrize("acts", ROWS)
def test_sixty_four_bytes_a_row(acts: str) -> None:
    ids = extra_bytes_a_row(ROWS[acts], "cb.bundle_rows(acts)")
    assert ids <= 64 + 8, "beside the 8 bytes a row that are returned"
    assert extra_bytes_a_row(ROWS[acts], "cb.bundle_entropy(acts, labels)") <= 64


def test_sixty_four_bytes_a_row_with_a_grid_and_threads() -> None:
    assert extra_bytes_a_row(ROWS["distinct"], "cb.bundle_entropy(acts, labels, grid=grid)", threads=3) <= 64
    assert extra_bytes_a_row(ROWS["short_few_bundles"], "cb.bundle_entropy(acts, labels)", threads=3) <= 64


def test_sixty_four_bytes_a_row_when_every_row_conflicts() -> None:
    assert extra_bytes_a_row(ROWS["one_column"], "cb.bundle_entropy(acts, own_labels)") <= 64


@pytest.mark.parametrize("threads", [1, 3])
def test_sixty_four_bytes_a_row_for_the_margin(threads: int) -> None:
    acts = "np.random.default_rng(0).standard_normal((500_000, 1))"  # so many groups as rows
    assert extra_bytes_a_row(acts, "cb.conflict_margin(acts, labels)", threads) <= 64
    acts = "np.random.default_rng(0).standard_normal((500_000, 2), np.float32) * (1, 1e-9)"
    assert extra_bytes_a_row(acts, "cb.conflict_margin(acts, own_labels)", threads) <= 64


LONG_ROWS = {
    "rows": "(lambda x: (x.__setitem__((slice(None), -1), np.arange(100_000) % {bundles}), x)[1])"
    "(np.zeros((100_000, 4200), np.int8))",
    "columns": "(lambda x: (x.__setitem__(-1, np.arange(100_000) % {bundles}), x.T)[1])"
    "(np.zeros((4200, 100_000), np.int8))",
}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("order", LONG_ROWS)
def test_sixty_four_bytes_a_long_row_that_is_equal_to_another(order: str, threads: int) -> None:
    assert extra_bytes_a_row(LONG_ROWS[order].format(bundles=1), "cb.bundle_entropy(acts, labels)", threads) <= 64


@pytest.mark.parametrize("order", LONG_ROWS)
def test_a_long_row_that_differs_late_may_take_twice_as_much(order: str) -> None:
    assert extra_bytes_a_row(LONG_ROWS[order].format(bundles=100), "cb.bundle_rows(acts)") <= 128 + 8


def test_rows_compared_by_bands_take_scratch_memory_of_every_thread() -> None:
    acts = LONG_ROWS["columns"].format(bundles=100).replace("100_000", "60_000")
    for threads in (1, 4):
        assert extra_bytes_a_row(acts, "cb.bundle_rows(acts)", threads) * 60_000 <= 72 * 60_000 + threads * (4 << 20)


def test_wide_rows_cost_no_more_than_narrow_ones() -> None:
    """250 MB of rows that are read to the end: the kernel keeps none of them."""
    acts = "np.zeros((1000, 62_500), np.float32) + np.arange(1000, dtype=np.float32)[:, None] // 10"
    extra = extra_bytes_a_row(acts, "cb.bundle_entropy(acts, labels)", threads=2) * 1000
    assert extra < 4 << 20
    transposed = f"np.asfortranarray({acts})"
    assert extra_bytes_a_row(transposed, "cb.bundle_entropy(acts, labels)") * 1000 < 4 << 20


def test_twenty_four_bytes_a_row_streaming() -> None:
    code = "m = cb.BundleEntropy(); [m.update(acts[i:i + 1000], labels[i:i + 1000]) for i in range(0, len(acts), 1000)]"
    extra = extra_bytes_a_row(ROWS["short_distinct"], f"exec({code!r})")
    assert extra <= 24 + 4, "and one batch's fingerprints"


EPOCHS = """
import numpy as np
import cbkernels as cb

def status(name):
    for line in open("/proc/self/status"):
        if line.startswith(name):
            return int(line.split()[1]) * 1024

def batch(step):
    acts = np.empty((64, 16384), np.float32)  # 4 MiB, each time anew
    acts[:] = np.arange(64, dtype=np.float32)[:, None] + 64 * (step % {different})
    return acts

def epoch():
    open("/proc/self/clear_refs", "w").write("5")
    for step in range({updates}):
        metric.update(batch(step), labels)
    return status("VmHWM")

labels, metric = np.arange(64) % 10, cb.BundleEntropy({options})
for step in range(3):  # whatever is loaded or allocated once
    metric.update(batch(step), labels)
metric.compute()
metric.reset()
held = batch(0)
before = status("VmRSS")
del held
for _ in range({epochs}):
    peak = epoch()
    result = metric.compute()
    assert (result.num_rows, result.num_bundles) == (64 * {updates}, 64 * min({different}, {updates}))
    metric.reset()
    print(peak - before)
"""


def peaks_of_epochs(epochs: int, updates: int, different: int, options: str = "") -> list[int]:
    """Growth of a process at its peak in each epoch, in bytes; freed arrays go back to the system at once."""
    code = EPOCHS.format(epochs=epochs, updates=updates, different=different, options=options)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if "clear_refs" in done.stderr:
        pytest.skip("peak memory: NOT TESTED HERE (/proc/self/clear_refs cannot be written)")
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.split()]


@pytest.mark.parametrize("different", [1, 1000])
def test_a_thousand_updates_cost_24_bytes_a_row(different: int) -> None:
    """4 GiB of activations go by; what is kept is 1.5 MB, once more while it is joined."""
    (peak,) = peaks_of_epochs(1, 1000, different)
    assert peak <= 2 * 24 * 64_000 + (1 << 20), f"{peak / 64_000:.1f} bytes a row"


def test_memory_does_not_grow_from_epoch_to_epoch() -> None:
    first, *later = peaks_of_epochs(8, 200, 200, "grid=cb.UpdateGrid(1e-3, 50, 0.7)")
    assert len(later) == 7
    assert max(later) <= first + (1 << 20), "an epoch keeps 0.3 MB of rows, eight of them 2.5 MB"


# --- leaks ----------------------------------------------------------------------------------------


def resident_bytes() -> int:
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def grows(call: object, times: int) -> int:
    """Growth over the second half of the calls: caches have filled by then."""
    assert callable(call)
    for _ in range(times):
        call()
    middle = resident_bytes()
    for _ in range(times):
        call()
    return resident_bytes() - middle


def test_no_leak_over_many_good_calls() -> None:
    rng = np.random.default_rng(0)
    acts = rng.integers(0, 3, (2000, 5)).astype(np.float32)
    labels = rng.integers(0, 900, 2000)

    def call() -> None:
        result = cb.bundle_entropy(acts, labels)  # label counts: about 16 KB a call
        assert result.num_conflicting > 200
        cb.bundle_rows(acts)
        cb.conflict_margin(acts[:30], labels[:30])
        metric = cb.BundleEntropy()
        metric.update(acts, labels)
        metric.compute()

    assert grows(call, 300) < 2 << 20  # one leaked array of ids a call would be 4.8 MB


def test_no_leak_over_many_refusals() -> None:
    acts, labels = np.zeros((20_000, 2)), np.zeros(20_000, np.int64)

    def call() -> None:
        for wrong in (
            lambda: cb.bundle_entropy(acts * 1j, labels),
            lambda: cb.bundle_entropy(acts, labels * 0.5),
            lambda: cb.bundle_entropy(acts, labels[1:]),
            lambda: cb.bundle_entropy(acts, labels, backend="gpu"),
            lambda: cb.bundle_entropy(acts, labels, backend="cuda"),
            lambda: cb.bundle_rows(acts, tolerance=(0.1, -1.0)),
        ):
            with pytest.raises((TypeError, ValueError)):
                wrong()

    assert grows(call, 150) < 4 << 20  # one leaked array a call would be 24 MB


def test_no_reference_is_kept() -> None:
    acts, labels = np.zeros((10, 3)), np.zeros(10, np.int64)
    before = sys.getrefcount(acts), sys.getrefcount(labels)
    for backend in ("cpu", "reference"):
        cb.bundle_entropy(acts, labels, backend=backend)
        cb.bundle_rows(acts, backend=backend)
        cb.conflict_margin(acts, labels, backend=backend)
        with pytest.raises(ValueError, match="must agree"):
            cb.bundle_entropy(acts, labels[1:], backend=backend)
    metric = cb.BundleEntropy()
    metric.update(acts, labels)
    gc.collect()
    assert (sys.getrefcount(acts), sys.getrefcount(labels)) == before


def test_results_outlive_their_input() -> None:
    acts = np.random.default_rng(0).integers(0, 2, (5000, 2)).astype(np.float32)
    ids = cb.bundle_rows(acts)
    expected = ids.copy()
    del acts
    gc.collect()
    np.random.default_rng(1).normal(size=100_000)
    assert np.array_equal(ids, expected)
    assert ids.flags.owndata or ids.base is not None
    assert ids.flags.writeable

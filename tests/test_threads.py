"""Threads: any number gives the same bits; several callers at once; the GIL is free; fork does no harm."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import cbkernels as cb
from cbkernels import _core, backends
from cbkernels.arrays import as_labels, as_rows

pytestmark = pytest.mark.xdist_group("memory and threads")
GRID = cb.UpdateGrid(learning_rate=1e-3, batch_size=50, weight_amplitude=0.7)


def fifty_bundles() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(50, 5000)).astype(np.float32)[rng.integers(50, size=500)]


def one_column_each() -> np.ndarray:
    acts = np.zeros((700, 4000), np.float32)
    acts[np.arange(700), np.arange(700) * 37 % 4000] = 1 + np.arange(700) // 600
    return acts


def short_rows() -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.integers(0, 9, (300_000, 3)).astype(np.float32).repeat(3, axis=1)


def short_and_distinct() -> np.ndarray:
    return np.random.default_rng(2).normal(size=(60_000, 64)).astype(np.float32)


def one_value() -> np.ndarray:
    return np.full((40_000, 64), 2.5, np.float32)


def with_nan() -> np.ndarray:
    acts = fifty_bundles()
    acts[::7, 4999] = np.nan
    return acts


def columns_first() -> np.ndarray:
    return np.asfortranarray(fifty_bundles())


LARGE = [fifty_bundles, one_column_each, short_rows, short_and_distinct, one_value, with_nan, columns_first]


def everything(acts: np.ndarray) -> tuple[Any, ...]:
    labels = np.arange(len(acts)) % 10
    plain = cb.bundle_entropy(acts, labels)
    on_grid = cb.bundle_entropy(acts, labels, grid=GRID)
    fingerprints, holds_nan = backends.TABLE["cpu"].row_fingerprints(as_rows(acts), None)
    metric = cb.BundleEntropy()
    metric.update(acts, labels)
    return (
        plain.to_dict(), plain.entropy.hex(), on_grid.to_dict(), on_grid.entropy.hex(),
        cb.bundle_rows(acts).tobytes(), cb.bundle_rows(acts, grid=GRID).tobytes(),
        fingerprints.tobytes(), holds_nan.tobytes(), metric.compute().to_dict(),
    )  # fmt: skip


@pytest.mark.parametrize("make", LARGE, ids=lambda f: f.__name__)
def test_any_number_of_threads_gives_the_same(monkeypatch: pytest.MonkeyPatch, make: Callable[[], np.ndarray]) -> None:
    acts = make()
    monkeypatch.setattr(backends, "num_threads", lambda: 1)
    one = everything(acts)
    for threads in (2, 3, 7):
        monkeypatch.setattr(backends, "num_threads", lambda n=threads: n)
        assert everything(acts) == one


def test_one_thread_means_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "num_threads", lambda: 1)
    cb.bundle_rows(fifty_bundles())
    assert (_core.last_work()["threads"], _core.last_work()["parallel_regions"]) == (1, 0)


def test_more_threads_are_used_for_large_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "num_threads", lambda: 3)
    cb.bundle_rows(np.tile(fifty_bundles(), (2, 1)))
    assert _core.last_work()["threads"] == 3


def test_number_of_threads_comes_from_torch_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for wanted, threads in (("3", 3), ("5,2", 5), (" 2 ", 2)):
        monkeypatch.setenv("OMP_NUM_THREADS", wanted)
        assert backends.num_threads() == threads
    for nonsense in ("", "0", "-3", "many", "2.5"):
        monkeypatch.setenv("OMP_NUM_THREADS", nonsense)
        assert backends.num_threads() == cores
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert backends.num_threads() == cores
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 4, 7, 8}, raising=False)
    assert backends.num_threads() == 5
    monkeypatch.delattr(os, "sched_getaffinity")  # macOS and Windows have none
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert backends.num_threads() == 6
    monkeypatch.undo()
    torch = pytest.importorskip("torch", reason="torch: NOT TESTED HERE")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert backends.num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_eight_callers_at_once_on_shared_and_own_arrays() -> None:
    """One more draws the keys of the routing hashes anew all the time."""
    inputs = [make() for make in (fifty_bundles, one_column_each, short_and_distinct, with_nan)]
    expected = [everything(acts) for acts in inputs]
    are_done = threading.Event()

    def draw_keys() -> None:
        while not are_done.wait(0.001):
            _core.use_routing_key(None)

    with ThreadPoolExecutor(9) as pool:
        pool.submit(draw_keys)
        try:
            own = [acts.copy() for acts in inputs]
            jobs = [(k % 4, pool.submit(everything, (own if k % 8 < 4 else inputs)[k % 4])) for k in range(16)]
            for which, job in jobs:
                assert job.result() == expected[which]
        finally:
            are_done.set()


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="a Python without the GIL: NOT TESTED HERE")
def test_the_module_leaves_the_gil_off() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, cbkernels._core; print(sys._is_gil_enabled())"],
        capture_output=True, text=True, check=True, env={k: v for k, v in os.environ.items() if k != "PYTHON_GIL"},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_counters_belong_to_the_calling_thread() -> None:
    acts = fifty_bundles()
    cb.bundle_rows(acts)
    mine = _core.last_work()
    other = threading.Thread(target=lambda: cb.bundle_rows(np.zeros((3, 3))))
    other.start()
    other.join()
    assert _core.last_work() == mine


def test_one_stream_updated_by_several_threads_under_a_lock() -> None:
    acts, lock, metric = short_and_distinct()[:6000], threading.Lock(), cb.BundleEntropy()
    labels = np.arange(6000) % 3

    def add(part: int) -> None:
        with lock:
            metric.update(acts[part::6], labels[part::6])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(add, range(6)))
    assert metric.compute().num_bundles == 6000


def test_the_interpreter_runs_on_while_a_kernel_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the GIL held, the other thread would move only just before and just after the call."""
    monkeypatch.setattr(backends, "num_threads", lambda: 1)
    acts = np.tile(fifty_bundles(), (8, 1))  # 80 MB, about 10 ms
    rows, labels = as_rows(acts), as_labels(np.arange(len(acts)) % 10, as_rows(acts))
    ids, fingerprints = np.empty(len(acts), np.int64), np.empty((len(acts), 2), np.uint64)
    holds_nan = np.empty(len(acts), np.bool_)
    there = (rows.pointer, rows.shape, rows.strides, rows.code)
    named = (labels.pointer, labels.stride, labels.code)
    calls: list[Callable[[], Any]] = [
        lambda: _core.cpu.row_fingerprints(*there, None, (1, 2), fingerprints.ctypes.data, holds_nan.ctypes.data, 1),
        lambda: _core.cpu.bundle_ids(*there, None, None, ids.ctypes.data, 1),
        lambda: _core.cpu.count_bundles(*there, *named, None, None, True, 1),
        lambda: _core.cpu.conflict_margin(*there, *named, 1),
    ]
    for call in calls:
        ticks: list[float] = []
        stop = threading.Event()

        def tick(ticks: list[float] = ticks, stop: threading.Event = stop) -> None:
            while not stop.is_set():
                ticks.append(time.perf_counter())
                time.sleep(0.0002)

        counter = threading.Thread(target=tick)
        counter.start()
        moved, began = False, time.perf_counter()
        while not moved and time.perf_counter() - began < 5:
            start = time.perf_counter()
            call()
            end = time.perf_counter()
            quarter = (end - start) / 4
            moved = any(start + quarter < t < end - quarter for t in list(ticks))
        stop.set()
        counter.join()
        assert moved


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork: NOT TESTED HERE")
@pytest.mark.skipif(
    "CBKERNELS_SANITIZER" in os.environ,
    reason="fork: NOT TESTED HERE (a sanitizer's own locks do not survive a fork beside a thread that is ending)",
)
def test_a_forked_child_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after the parent used several threads; the child uses several, too."""
    monkeypatch.setattr(backends, "num_threads", lambda: 3)
    acts = np.tile(fifty_bundles(), (2, 1))
    labels = np.arange(len(acts)) % 10
    expected = cb.bundle_entropy(acts, labels).to_dict()
    for _ in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of fork in a process with threads
            child = os.fork()
        if child == 0:
            status = 1
            try:
                same = cb.bundle_entropy(acts, labels).to_dict() == expected
                status = 0 if same and cb.conflict_margin(acts[:50], labels[:50]) >= 0 else 2
            finally:
                os._exit(status)
        deadline = time.monotonic() + 60
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            if time.monotonic() > deadline:
                os.kill(child, 9)
                os.waitpid(child, 0)
                pytest.fail("the child hangs")
            time.sleep(0.01)
        assert os.waitstatus_to_exitcode(status) == 0
        assert cb.bundle_entropy(acts, labels).to_dict() == expected


def test_threads_of_a_call_are_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = "/proc/self/task"
    if not os.path.isdir(tasks):
        pytest.skip("threads that stay behind: NOT TESTED HERE (no /proc)")
    monkeypatch.setattr(backends, "num_threads", lambda: 4)
    acts = fifty_bundles()
    cb.bundle_rows(acts)
    time.sleep(0.05)
    before = len(os.listdir(tasks))
    for _ in range(30):
        cb.bundle_rows(acts)
    deadline = time.monotonic() + 5
    while len(os.listdir(tasks)) > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(os.listdir(tasks)) <= before


WRITTEN_MEANWHILE = """
import threading, numpy as np, cbkernels as cb
rows = np.repeat(np.arange(4.0, dtype=np.float32), 100_000)[:, None]
labels = np.arange(400_000) % 4
def write():
    for k in range(10**9):
        labels[:] = k % 900
threading.Thread(target=write, daemon=True).start()
for _ in range(20):
    cb.bundle_entropy(rows, labels)
print("whole")
"""


def test_labels_that_another_thread_writes_meanwhile_do_no_harm() -> None:
    """The counts are then of no use, but nothing is written outside of a table: in a process of its own, it lives."""
    done = subprocess.run(
        [sys.executable, "-c", WRITTEN_MEANWHILE], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout.strip()) == (0, "whole"), done.stderr[-300:]

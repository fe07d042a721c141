"""Numbers that a GPU leaves in pinned memory, on emulated devices: who waits for them, and what is kept meanwhile."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from cbkernels import backends
from cbkernels.arrays import as_labels, as_rows

from . import cuda_stand_in, emulation
from .cuda_stand_in import NAME as STAND_IN
from .cuda_stand_in import CudaHalf

core, missing = emulation.load()
emulated = pytest.mark.skipif(core is None, reason=f"{emulation.NAME}: NOT TESTED HERE ({missing})")
hooks: Any = getattr(core, "emulation", None)
half = cuda_stand_in.half

PIECE = 64 << 10
"""Bytes of pinned memory that one reader has at least."""
LABELS = np.arange(40) % 3
RNG = np.random.default_rng(0)
LAYERS = [RNG.integers(0, 2, (40, width)).astype(np.float32) for width in (3, 200, 4, 1)]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    yield
    if hooks is not None:
        hooks.capture(False)
        hooks.forget_graph()
        hooks.fail_api_call(0)
        hooks.make_copies_look_unfinished(False)
        hooks.self_test.synchronise()
        assert hooks.counters()["errors"] == 0


def plain(counts: list[backends.BundleCounts]) -> list[Any]:
    return [(c.num_bundles, c.num_conflicting, c.num_conflicting_rows, c.label_counts.tolist()) for c in counts]


def queue_counts(layers: list[Any], name: str = emulation.NAME, labels: Any = LABELS) -> Callable[[], list[Any]]:
    views = [as_rows(acts) for acts in layers]
    read = backends.TABLE[name].queue_layers(views, as_labels(labels, views[0]), None, True)
    return lambda: plain(read())


def queue_margin(acts: Any, name: str = emulation.NAME, labels: Any = LABELS) -> Callable[[], float]:
    rows = as_rows(acts)
    return backends.TABLE[name].queue_margin(rows, as_labels(labels, rows))


QUEUED: dict[str, Callable[[str], Callable[[], Any]]] = {
    "counts": lambda name: queue_counts(LAYERS, name),
    "margin": lambda name: queue_margin(LAYERS[1] * np.float32(1.5), name),
}


@emulated
@pytest.mark.parametrize("what", QUEUED)
def test_nothing_waits_before_somebody_asks(what: str) -> None:
    right = QUEUED[what]("cpu")()
    hooks.reset_counters()
    read = QUEUED[what](emulation.NAME)
    queued = hooks.counters()
    assert queued["launches"] > 0
    assert (queued["synchronisations"], queued["pageable_copies"], queued["live_bytes"]) == (0, 0, 0)
    launches = core.last_work()["launches"]
    assert read() == right
    assert hooks.counters()["synchronisations"] == 1
    assert core.last_work()["launches"] == launches == queued["launches"]
    assert read() == right, "a second time"


@emulated
def test_many_readers_in_any_order_and_from_any_thread() -> None:
    right = [queue_counts([acts], "cpu")() for acts in LAYERS]
    readers = [queue_counts([acts]) for acts in LAYERS]
    assert [read() for read in reversed(readers)] == right[::-1]
    found: list[Any] = [None] * 8

    def work(k: int) -> None:
        shared = readers[k % 4]()
        found[k] = (shared, queue_counts([LAYERS[k % 4]])())

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [(right[k % 4], right[k % 4]) for k in range(8)]


@emulated
def test_all_counts_come_at_once_when_they_are_many() -> None:
    """More than the 64 KiB that come unasked where somebody is waiting."""
    acts, labels = np.repeat(np.arange(300, dtype=np.float32), 2)[:, None], np.arange(600)
    layers = [acts] * 24
    assert queue_counts(layers, labels=labels)() == queue_counts(layers, "cpu", labels)()
    rows = as_rows(acts)
    waiting = backends.TABLE[emulation.NAME].count_layers([rows] * 24, as_labels(labels, rows), None, True)
    assert plain(waiting) == queue_counts(layers, "cpu", labels)()


@emulated
@pytest.mark.parametrize("what", QUEUED)
def test_a_graph_gives_the_numbers_of_its_replay(what: str) -> None:
    right = QUEUED[what]("cpu")()
    QUEUED[what](emulation.NAME)()
    hooks.capture(True)
    read = QUEUED[what](emulation.NAME)
    for is_capturing in (True, False):
        if not is_capturing:
            hooks.capture(False)
        with pytest.raises(RuntimeError, match=r"has not been replayed; replay it before you read"):
            read()
    hooks.replay_copies()
    assert read() == read() == right


@emulated
def test_a_graph_owns_what_it_copies_to_though_nobody_reads() -> None:
    queue_counts(LAYERS)(), queue_counts(LAYERS[:1])()
    hooks.capture(True)
    queue_counts(LAYERS)
    hooks.capture(False)
    gc.collect()
    before = hooks.counters()["live_pinned_bytes"]
    more_than_there_are = before // PIECE + 8  # other tests may have left idle pieces
    others = [queue_counts(LAYERS[:1]) for _ in range(more_than_there_are)]
    right = queue_counts(LAYERS[:1], "cpu")()
    hooks.replay_copies()  # over what is no reader's
    assert all(read() == right for read in others)
    others.clear()
    while_it_lives = hooks.counters()["live_pinned_bytes"]
    assert while_it_lives > before, "so many readers at once need as many pieces"
    hooks.forget_graph()
    others += [queue_counts(LAYERS[:1]) for _ in range(more_than_there_are + 1)]
    assert hooks.counters()["live_pinned_bytes"] == while_it_lives, "the graph's piece is used again"


@emulated
def test_who_never_asks_costs_nothing_for_long() -> None:
    """In a process of its own: pieces are used again when their copies are over, and at most 16 MiB stay idle."""
    code = f"""if True:
        import importlib.util, numpy as np
        spec = importlib.util.spec_from_file_location("_core", {core.__file__ if core else ""!r})
        core = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(core)
        hooks, acts, labels = core.emulation, np.zeros((4, 3), np.float32), np.zeros(4, np.int64)
        rows = (acts.ctypes.data, acts.shape, acts.strides, 1)
        def queue(layers=1):
            return core.cuda.queue_bundles([rows] * layers, labels.ctypes.data, 8, 6, None, True, 0, 0)
        def pieces():
            return hooks.counters()["live_pinned_bytes"] >> 16
        for _ in range(100):
            queue()
        print(pieces() <= 2, end=" ")
        hooks.make_copies_look_unfinished(True)
        for _ in range(20):
            queue()
        print(pieces() >= 20, end=" ")
        hooks.make_copies_look_unfinished(False)
        readers = [queue() for _ in range(300)]
        print(pieces() >= 300, hooks.counters()["synchronisations"], end=" ")
        del readers
        hooks.self_test.synchronise()
        queue(600)  # more than 64 KiB: a new piece
        print(pieces() <= 256 + 4, hooks.counters()["errors"], hooks.counters()["live_bytes"])
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "True True True 0 True 0 0\n", run.stdout + run.stderr


@emulated
def test_a_fork_is_told_and_may_let_go_of_what_it_inherits() -> None:
    code = f"""if True:
        import importlib.util, os, numpy as np
        spec = importlib.util.spec_from_file_location("_core", {core.__file__ if core else ""!r})
        core = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(core)
        acts, labels = np.zeros((4, 3), np.float32), np.zeros(4, np.int64)
        def queue():
            return core.cuda.queue_margin(
                acts.ctypes.data, acts.shape, acts.strides, 1, labels.ctypes.data, 8, 6, 0, 0
            )
        read = queue()
        child = os.fork()
        if child == 0:
            for call in (read, queue, core.cuda.require):
                try:
                    call()
                except ValueError as error:
                    print("forked from one that uses CUDA" in str(error), "spawn" in str(error), flush=True)
            del read
            os._exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), read())
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout == "True True\n" * 3 + "7 inf\n", run.stdout + run.stderr


@emulated
@pytest.mark.parametrize("is_captured", [False, True])
@pytest.mark.parametrize("what", QUEUED)
def test_whatever_fails_nothing_is_left_behind(what: str, is_captured: bool) -> None:
    acts = LAYERS[0][:4].copy()
    rows, names = (acts.ctypes.data, acts.shape, acts.strides, 1), (LABELS.ctypes.data, 8, 6)

    def outcome() -> Any:  # not by the backend, which tries again when there is no memory
        hooks.capture(is_captured)
        if what == "counts":
            read = core.cuda.queue_bundles([rows, rows], *names, None, True, 0, 0)
        else:
            read = core.cuda.queue_margin(*rows, *names, 0, 0)
        hooks.capture(False)
        hooks.replay_copies()
        return str(read())

    right = outcome()
    assert outcome() == right
    hooks.reset_counters()
    outcome()
    kept, num_calls = hooks.counters(), hooks.counters()["api_calls"]
    failed = 0
    for k in range(1, num_calls + 1):
        hooks.fail_api_call(k)
        try:
            outcome()
        except (MemoryError, RuntimeError):
            failed += 1
        hooks.fail_api_call(0)
        hooks.capture(False)
        hooks.forget_graph()
        hooks.self_test.synchronise()
        hooks.self_test.take_last_error()
        assert hooks.counters()["live_bytes"] == 0, k
        assert outcome() == right, k
        for kind in ("live_pinned_bytes", "live_events", "live_pools", "errors"):
            assert hooks.counters()[kind] == kept[kind], (k, kind)
    assert failed >= num_calls - 4, "putting the capture mode back, twice, freeing and forgetting may fail unnoticed"


@emulated
@pytest.mark.parametrize("what", QUEUED)
def test_the_callers_device_stays_when_it_reads(what: str) -> None:
    read = QUEUED[what](emulation.NAME)
    hooks.self_test.set_device(1)
    assert read() == QUEUED[what]("cpu")()
    assert hooks.self_test.current_device() == 1
    hooks.self_test.set_device(0)


def test_a_monitor_queues_everything_before_it_reads(half: CudaHalf) -> None:
    torch = pytest.importorskip("torch")
    import cbkernels as cb

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    probe = torch.randn(20, 3), torch.arange(20) % 2
    monitor = cb.LayerMonitor(model, probe, layers=r"\d", grid=None, margin=True, backend=STAND_IN)
    report = monitor.measure()
    assert set(report.margins) == set(report) == {"0", "1", "2"}
    assert half.names() == ["queue_bundles", *["queue_margin"] * 3, *["read"] * 4]

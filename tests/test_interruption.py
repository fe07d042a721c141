"""A kernel ends when it is asked to, and a process ends as it wants to, whatever its kernels do. Each in a process of
its own, since what is looked for is a hang or an abort.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cbkernels as cb
from cbkernels import held_rows, row_store, streaming

pytestmark = pytest.mark.xdist_group("memory and threads")


def run(code: str, *arguments: str, seconds: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter; every kernel that these tests stop would take longer than ``seconds``."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=seconds,
        env={**os.environ, **environment},
    )  # fmt: skip


LONG_KERNELS = """
import os, signal, sys, threading
import numpy as np
import cbkernels as cb
from cbkernels import backends

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job of a shell ignores
backends.num_threads = lambda: int(sys.argv[1])
rng = np.random.default_rng(0)
scattered = rng.random((300_000, 64), dtype=np.float32)
endless = np.broadcast_to(np.zeros(10**6, np.float32), (10**6, 10**6))  # 4 TB to read, 4 MB to hold
none_but_last = np.zeros((20_000, 3000), np.int16)
none_but_last[:, -1] = np.arange(20_000)
metric = cb.BundleEntropy()
metric.update(np.eye(3, 10**6, dtype=np.float32), np.arange(3))
before = metric.compute()
KERNELS = {
    "margin": lambda: cb.conflict_margin(scattered, np.arange(300_000)),
    "tolerance": lambda: cb.bundle_rows(none_but_last, tolerance=(0.0, 0.5)),
    "ids": lambda: cb.bundle_rows(endless),
    "entropy": lambda: cb.bundle_entropy(endless, np.zeros(10**6, np.int8)),
    "stream": lambda: metric.update(endless, np.zeros(10**6, np.int8)),
}
"""

INTERRUPTED = (
    LONG_KERNELS
    + """
first = threading.Thread(target=int)  # brings ThreadSanitizer's own thread, which stays
first.start()
first.join()
tasks = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else None
for name, kernel in KERNELS.items():
    signal_of_a_user = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    signal_of_a_user.start()
    try:
        kernel()
        print(name, "was not stopped")
    except KeyboardInterrupt:
        print(name)
    signal_of_a_user.join()
assert metric.compute() == before, metric
metric.update(np.ones((2, 10**6), np.float32), np.arange(2))
assert metric.compute().num_conflicting == 1
while tasks is not None and len(os.listdir("/proc/self/task")) > tasks:
    pass  # threads that are left end this by the time limit
"""
)


@pytest.mark.parametrize("threads", ["1", "3"])
def test_ctrl_c_ends_a_kernel_and_leaves_the_stream_as_it_was(threads: str) -> None:
    done = run(INTERRUPTED, threads)
    assert (done.returncode, done.stdout.split()) == (0, ["margin", "tolerance", "ids", "entropy", "stream"]), done


HANDLED = (
    LONG_KERNELS
    + """
seen = []
def handler(*_):
    seen.append(cb.bundle_rows(np.array([[1.0], [2.0], [1.0]])).tolist())  # a kernel inside of a kernel
    if len(seen) == 3:
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise LookupError("enough")
signal.signal(signal.SIGALRM, handler)
for kernel in KERNELS.values():
    signal.setitimer(signal.ITIMER_REAL, 0.15, 0.15)
    try:
        kernel()
    except LookupError as error:
        print(error)
    assert seen == [[0, 1, 0]] * 3, seen
    seen.clear()
"""
)


@pytest.mark.skipif(not hasattr(__import__("signal"), "setitimer"), reason="a timer: NOT TESTED HERE")
def test_a_handler_runs_meanwhile_and_the_kernel_goes_on_until_it_raises() -> None:
    done = run(HANDLED, "3")
    assert (done.returncode, done.stdout.split()) == (0, ["enough"] * 5), done


FINGERPRINTS_MEANWHILE = """
import os, signal
import numpy as np
from cbkernels import backends
from cbkernels.arrays import as_rows

backends.num_threads = lambda: 1
fingerprints = lambda rows, key: backends.TABLE["cpu"].row_fingerprints(rows, None, key)[0]
num_rows = 250 if "CBKERNELS_SANITIZER" in os.environ else 2_500  # a second, with and without
rows = as_rows(np.broadcast_to(np.random.default_rng(0).random(300_000, dtype=np.float32), (num_rows, 300_000)))
wider = as_rows(np.ones((2, 400_000), np.float32))
expected, seen = fingerprints(rows, 1), []
def handler(*_):
    seen.append([fingerprints(wider, key) for key in (1, 2)])
    signal.setitimer(signal.ITIMER_REAL, 0.01)  # again, when this one is done, however long it took
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.01)
found = fingerprints(rows, 1)
signal.setitimer(signal.ITIMER_REAL, 0)
assert seen
print((found != expected).sum(), "of them are wrong")
"""


@pytest.mark.skipif(not hasattr(__import__("signal"), "setitimer"), reason="a timer: NOT TESTED HERE")
def test_a_handler_that_fingerprints_takes_no_keys_away() -> None:
    """The keys that a thread keeps were those of the call that the handler interrupted: 4,000 of 5,000 changed."""
    done = run(FINGERPRINTS_MEANWHILE)
    assert (done.returncode, done.stdout) == (0, "0 of them are wrong\n"), done


ENDING = """
import sys, threading, time
import numpy as np
import cbkernels as cb
acts, labels = np.random.default_rng(0).normal(size=(2000, 1000)).astype(np.float32), np.arange(2000) % 7
def for_ever(kernel):
    while True:
        kernel()
for kernel in (
    lambda: cb.bundle_rows(acts),
    lambda: cb.bundle_entropy(acts, labels),
    lambda: cb.conflict_margin(acts[:9], labels[:9]),
    lambda: cb.BundleEntropy().update(acts, labels),
):
    kernel()  # imports what it needs
    threading.Thread(target=for_ever, args=(kernel,), daemon=True).start()
time.sleep(0.2)
sys.exit(7)
"""


def test_a_process_ends_with_its_own_exit_code_while_daemon_threads_are_in_kernels() -> None:
    done = run(ENDING, seconds=60)
    assert (done.returncode, done.stderr) == (7, "")


SUB_INTERPRETER = """
import sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
other = interpreters.create()
code = f'''
import sys
sys.path[:0] = {sys.path}
try:
    import cbkernels
except ImportError as error:
    print(error, flush=True)
'''
getattr(interpreters, "exec", None) and interpreters.exec(other, code) or interpreters.run_string(other, code)
import cbkernels
print(cbkernels.bundle_rows([[1.0], [1.0]]).tolist())
"""


def test_a_sub_interpreter_is_refused_in_one_sentence_and_the_main_one_goes_on() -> None:
    done = run(SUB_INTERPRETER, seconds=60)
    *said, ids = done.stdout.splitlines() or [""]
    assert (done.returncode, ids) == (0, "[0, 0]"), done
    assert said
    ours, of_python = "cbkernels cannot be imported in a sub-interpreter; ", "module cbkernels._core does not support"
    assert all(line.startswith((ours, of_python)) for line in said), "the latter since Python 3.13"


MANY_THREADS = """
import sys
sys.modules["torch"] = None
import numpy as np
import cbkernels as cb
from cbkernels import _core, backends
assert backends.num_threads() == 1024, backends.num_threads()
acts = np.arange(300_000)[:, None] * 7919 % 1009
assert cb.bundle_entropy(acts, acts[:, 0] % 3).num_bundles == 1009
"""


@pytest.mark.parametrize("wanted", ["1000000000", "9" * 5000])
def test_a_number_of_threads_that_no_machine_has_is_capped(wanted: str) -> None:
    done = run(MANY_THREADS, seconds=100, OMP_NUM_THREADS=wanted)
    assert done.returncode == 0, done.stderr[-300:]


# --- memory ---------------------------------------------------------------------------------------

MEASURED = """
import os, sys
import numpy as np
import cbkernels as cb
from cbkernels import backends

backends.num_threads = lambda: 4
rng = np.random.default_rng(0)
long = rng.random((50, 3000), dtype=np.float32)[rng.integers(50, size=2000)]
short = rng.integers(0, 9, (300_000, 8)).astype(np.float32)
labels = rng.integers(0, 1500, 300_000)
def streamed():
    metric = cb.BundleEntropy()
    metric.update(long, labels[:2000])
    return metric.compute()
KERNELS = [
    lambda: cb.bundle_entropy(long, labels[:2000]),
    lambda: cb.bundle_entropy(short, labels),
    lambda: cb.bundle_rows(long[:50], tolerance=(0.0, 0.1)),
    lambda: cb.conflict_margin(long[:300], labels[:300]),
    streamed,
]
RIGHT = [kernel() for kernel in KERNELS]
def outcome(number):
    try:
        found = KERNELS[number]()
    except MemoryError:
        return False
    assert np.array_equal(found, RIGHT[number]), number
    return True
"""

FAILING = (
    MEASURED
    + """
import ctypes
fail_after = ctypes.CDLL(os.environ["LD_PRELOAD"]).fail_after
fail_after.argtypes = [ctypes.c_long]
for number in range(len(KERNELS)):
    succeeded = []
    for k in [*range(120), 10**9]:
        fail_after(k)
        succeeded.append(outcome(number))
        fail_after(-1)
    assert not succeeded[0], number
    assert succeeded[-1], number
print("whole")
"""
)


@pytest.mark.skipif("CBKERNELS_SANITIZER" in os.environ, reason="memory: NOT TESTED HERE (a sanitizer has its own)")
def test_an_allocation_that_fails_in_any_thread_is_a_memory_error(tmp_path: Path) -> None:
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None or sys.platform != "linux":
        pytest.skip("allocations that fail: NOT TESTED HERE (no C++ compiler, or not Linux)")
    library = tmp_path / "failing.so"
    source = Path(__file__).with_name("failing_allocations.cpp")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
    done = run(FAILING, LD_PRELOAD=str(library))
    assert (done.returncode, done.stdout.strip()) == (0, "whole"), done.stderr[-300:]


LITTLE_MEMORY = (
    MEASURED
    + """
import resource
pages = int(open("/proc/self/statm").read().split()[0])
for number in range(len(KERNELS)):
    for megabytes in (*[0.25] * 9, 1, 3, 6, 10, 20, 40, 400):  # a stack that cannot grow ends any process
        child = os.fork()
        if child == 0:
            limit = pages * os.sysconf("SC_PAGE_SIZE") + int(megabytes * 2**20)
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            os._exit(0 if outcome(number) else 3)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in ((0,) if megabytes == 400 else (0, 3)), (number, megabytes, status)
print("whole")
"""
)


@pytest.mark.skipif("CBKERNELS_SANITIZER" in os.environ, reason="memory: NOT TESTED HERE (a sanitizer uses more)")
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="limits of memory: NOT TESTED HERE (no /proc)")
def test_a_limit_of_memory_is_a_memory_error_or_does_no_harm() -> None:
    done = run(LITTLE_MEMORY)
    assert (done.returncode, done.stdout.strip()) == (0, "whole"), done.stderr[-300:]


# --- all of an update or nothing ------------------------------------------------------------------


@contextmanager
def interrupted_at(step: int) -> Iterator[None]:
    """KeyboardInterrupt at the ``step``-th instruction of the package's Python that a stream runs through."""
    files = {module.__file__ for module in (streaming, held_rows, row_store)}
    left = step

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in files:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left < 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


ROWS, LABELS = np.array([[1.0, 2.0], [np.nan, 0.0], [3.0, 4.0]]), np.array([0, 1, 1])


def filled() -> cb.BundleEntropy:
    metric = cb.BundleEntropy()
    for _ in range(32):  # one more, and they are joined
        metric.update(np.arange(6.0).reshape(3, 2), LABELS)
    return metric


def contents(metric: cb.BundleEntropy) -> tuple[Any, ...]:
    state = metric.state_dict()
    arrays = state["fingerprints"].tobytes(), state["labels"].tobytes()
    return arrays, metric.num_rows, state["num_nan_rows"], state["dtype"], state["num_columns"]


@pytest.mark.parametrize("start", [cb.BundleEntropy, filled])
@pytest.mark.parametrize(
    "change",
    [
        lambda metric: metric.update(ROWS, LABELS),
        lambda metric: metric.merge(filled()),
        lambda metric: metric.load_state_dict(filled().state_dict()),
    ],
    ids=["update", "merge", "load"],
)
def test_an_interrupted_stream_holds_all_or_nothing(
    start: Callable[[], cb.BundleEntropy], change: Callable[[cb.BundleEntropy], None]
) -> None:
    changed = start()
    change(changed)
    allowed = [contents(start()), contents(changed)]
    step, seen = 0, set()
    while True:
        metric = start()
        try:
            with interrupted_at(step):
                change(metric)
        except KeyboardInterrupt:
            found = contents(metric)
            assert found in allowed, f"at instruction {step}"
            seen.add(allowed.index(found))
            step += 1 + step // 12
            continue
        break
    assert step > 20
    assert 0 in seen

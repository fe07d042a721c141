"""The emulated devices do what CUDA does; then the kernels on them, in many orders, against the reference."""

from __future__ import annotations

import re
import subprocess
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import cbkernels as cb
from cbkernels import backends
from cbkernels.arrays import as_labels, as_rows

from . import emulation
from .all_of import all_of
from .cases import CASES
from .current_device import watch
from .fuzz import check, same_counts
from .inputs import LAYOUTS, place
from .random_inputs import random_case, small_bundles

core, missing = emulation.load()
pytestmark = pytest.mark.skipif(core is None, reason=f"{emulation.NAME}: NOT TESTED HERE ({missing})")
hooks: Any = getattr(core, "emulation", None)
device: Any = getattr(hooks, "self_test", None)
HAS_ADDRESS_SANITIZER = "address" in (core.build_info()["flags"] if core else "")
SEEDS = range(12)
"""0: in order."""


@pytest.fixture(scope="module", autouse=True)
def staging() -> None:
    """What stays with the process, on both devices: no test after this one may add to it."""
    for on in (0, 1):
        outcome("count_bundles, layers", on)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Everything as it was, whatever the test did; nothing may be left alive."""
    hooks.reset_counters()
    before = hooks.counters()
    yield
    hooks.schedule(0)
    hooks.fail_api_call(0)
    hooks.pretend_no_device(False)
    hooks.capture(False)
    hooks.forget_graph()
    hooks.make_copies_look_unfinished(False)
    device.set_device(0)
    device.take_last_error()
    core.cuda.use_launch_shape(0, 0)
    core.use_routing_bits(64)
    after = hooks.counters()
    for kind in ("live_bytes", "live_pinned_bytes", "live_events"):
        assert after[kind] == before[kind], kind


def launch(kernel: str, blocks: int, threads: int, size: int, **options: Any) -> list[int]:
    return device.launch(kernel, blocks, threads, size, **options)


# --- one thread among others ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("blocks", "threads"), [(1, 32), (3, 64), (7, 256), (2, 1024)])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_thread_runs_once(blocks: int, threads: int, seed: int) -> None:
    hooks.schedule(seed)
    right = [blocks * 10**6 + b * 10**4 + t + 1 for b in range(blocks) for t in range(threads)]
    assert launch("write_indices", blocks, threads, blocks * threads) == right
    assert hooks.counters()["threads_run"] == blocks * threads
    assert hooks.counters()["launches"] == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_collectives(seed: int) -> None:
    hooks.schedule(seed)
    blocks, threads = 2, 96
    seen = np.array(launch("use_collectives", blocks, threads, 10 * blocks * threads), np.uint64)
    seen = seen.reshape(blocks, threads // 32, 32, 10)
    values = (np.arange(blocks * threads, dtype=np.uint64) * 2654435761 % 2**32).reshape(blocks, threads // 32, 32)
    lanes = np.arange(32, dtype=np.uint64)
    wide = values << np.uint64(32) | lanes
    right = np.zeros_like(seen)
    right[..., 0] = values[..., 5:6]
    right[..., 1] = wide[..., (np.arange(32) + 33) % 32]
    right[..., 2] = values[..., [max(lane - 3, lane if lane < 3 else 0) for lane in range(32)]]
    right[..., 3] = wide[..., np.arange(32) ^ 9]
    right[:, 1, :, 4] = 1
    right[:, 0, :, 5] = 1
    right[..., 6] = ((values >> np.uint64(31)) << lanes).sum(-1, dtype=np.uint64)[..., None]
    for column, key in ((7, values >> np.uint64(30)), (8, wide % np.uint64(3))):
        same = key[..., :, None] == key[..., None, :]
        right[..., column] = (same.astype(np.uint64) << lanes).sum(-1, dtype=np.uint64)
    right[1, :, :, 9] = 1
    assert np.array_equal(seen, right)


@pytest.mark.parametrize("seed", SEEDS)
def test_atomics(seed: int) -> None:
    hooks.schedule(seed)
    n = 3 * 64
    seen = launch("use_atomics", 3, 64, 11)
    assert seen[:5] == [n * (n - 1) // 2, 0, n - 1, 2**64 - 1, 0]
    assert seen[5] == seen[6], "the number of the only thread that came first"
    assert 1 <= seen[5] <= n
    assert seen[7:9] == [1, 1], "one exchange for all"
    assert seen[10] == 0
    assert np.array(seen[9:10], np.uint64).view(np.int32)[0] == -(n - 1)


# --- orders --------------------------------------------------------------------------------------------------


def test_order_zero_is_in_order_and_others_are_not() -> None:
    n = 2 * 64
    assert launch("record_order", 2, 64, n + 1)[1:] == list(range(n))
    orders = set()
    for seed in range(1, 6):
        hooks.schedule(seed)
        orders.add(tuple(launch("record_order", 2, 64, n + 1)[1:]))
    assert len(orders) == 5
    assert all(sorted(order) == list(range(n)) for order in orders)


def test_a_seed_repeats_its_orders() -> None:
    seen = []
    for _ in range(2):
        hooks.schedule(7)
        seen.append([launch("record_order", 3, 32, 97) for _ in range(3)])
    assert seen[0] == seen[1]
    assert seen[0][0] != seen[0][1], "the next launch has another order"


def test_threads_are_interrupted_between_reading_and_writing() -> None:
    n = 3 * 64
    assert launch("lose_updates", 3, 64, 2) == [n, n]
    for seed in range(1, 6):
        hooks.schedule(seed)
        updates, count = launch("lose_updates", 3, 64, 2)
        assert count == n
        assert updates < 0.9 * n, "an error in a kernel would have been seen"


@pytest.mark.skipif(HAS_ADDRESS_SANITIZER, reason="plain accesses: NOT TESTED HERE (ASan takes their place)")
def test_threads_are_interrupted_at_plain_accesses() -> None:
    n = 3 * 128
    assert launch("lose_plain_updates", 3, 128, 1) == [n]
    updates = []
    for seed in range(1, 11):
        hooks.schedule(seed)
        updates += launch("lose_plain_updates", 3, 128, 1)
    assert sum(count < n for count in updates) >= 5, updates


def test_some_warps_are_starved() -> None:
    slowest = []
    for seed in range(1, 21):
        hooks.schedule(seed)
        slowest.append(launch("race", 3, 128, 14, is_cooperative=True)[-1])
    assert min(slowest) < 20, "of 200 rounds, when another warp was done"
    assert max(slowest) > 50


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_blocks_may_wait_for_each_other(seed: int, blocks: int) -> None:
    hooks.schedule(seed)
    seen = launch("wait_for_the_grid", blocks, 64, 1 + 65 * blocks, is_cooperative=True)
    assert set(seen[1 + blocks :]) == {5 * blocks * (blocks + 1) // 2}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("start", [0, 2**31 - 8, 2**32 - 8, 2**32 - 23])
def test_the_grid_barrier_holds_when_its_counter_wraps(start: int, seed: int) -> None:
    hooks.schedule(seed)
    blocks, threads = 3, 64
    size = 2 + blocks + blocks * threads
    seen = launch("wait_at_the_grid_barrier", blocks, threads, size, is_cooperative=True, first=[start, start])
    assert seen[0] == (start + 20 * blocks) % 2**32
    assert seen[2 : 2 + blocks] == [20] * blocks
    assert sum(seen[2 + blocks :]) == 0, "a block went on before another had come"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("threads", [32, 96, 256])
def test_sums_over_a_block_follow_each_other(seed: int, threads: int) -> None:
    hooks.schedule(seed)
    assert launch("sum_in_a_row", 2, threads, 2 * threads, shared_bytes=33 * 8) == [0] * (2 * threads)


def test_more_blocks_than_fit_run_one_after_the_other() -> None:
    with pytest.raises(RuntimeError, match="cudaErrorCooperativeLaunchTooLarge"):
        launch("wait_for_the_grid", 4, 64, 300, is_cooperative=True)
    with pytest.raises(RuntimeError, match=r"cudaErrorLaunchFailure.*no progress"):
        launch("wait_for_the_last_block", 4, 32, 1)
    assert launch("wait_for_the_last_block", 3, 32, 1) == [1]


# --- what must end in an error -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("leave_before_the_barrier", r"barrier divergence: .* left the kernel .* __syncthreads \(thread 33"),
        ("leave_before_the_shuffle", r"warp divergence: .* left the kernel .* __shfl_sync"),
        ("leave_first", r"warp divergence: .* left the kernel .* __ballot_sync"),
        ("half_a_block_at_the_barrier", r"barrier divergence: .*__syncthreads"),
        ("half_a_warp_at_the_barrier", r"(warp|barrier) divergence: __sync.* wait in __sync"),
        ("two_collectives", r"warp divergence: (__ballot_sync .* __shfl_sync|__shfl_sync .* __ballot_sync)"),
        ("two_barriers", r"barrier divergence: .*__syncthreads_or"),
        ("half_a_mask", r"__syncwarp with a mask that is not the whole warp"),
        ("spin_forever", r"no progress: a spin that never ends"),
        ("add_forever", r"no progress: a spin that never ends"),
        pytest.param(
            "write_before_shared_memory", r"a write outside of the 64 bytes of shared memory",
            marks=pytest.mark.skipif(HAS_ADDRESS_SANITIZER, reason="guard bytes: NOT TESTED HERE (ASan ends it)"),
        ),
        pytest.param(
            "write_behind_shared_memory", r"a write outside of the 64 bytes of shared memory",
            marks=pytest.mark.skipif(HAS_ADDRESS_SANITIZER, reason="guard bytes: NOT TESTED HERE (ASan ends it)"),
        ),
    ],
)  # fmt: skip
def test_kernels_that_go_wrong(kernel: str, message: str, seed: int) -> None:
    hooks.schedule(seed)
    with pytest.raises(RuntimeError, match="cudaErrorLaunchFailure: unspecified launch failure: " + message):
        launch(kernel, 2, 64, 10, shared_bytes=64)
    assert hooks.counters()["errors"] == 1
    assert device.take_last_error() == "cudaErrorLaunchFailure"
    hooks.schedule(0)
    assert launch("write_indices", 1, 32, 32)[0] == 10**6 + 1, "the next launch is not disturbed"


@pytest.mark.parametrize(("blocks", "threads"), [(0, 32), (1, 0), (1, 33), (1, 1056)])
def test_shapes_that_no_launch_has(blocks: int, threads: int) -> None:
    with pytest.raises(RuntimeError, match="cudaErrorInvalidConfiguration"):
        launch("write_indices", blocks, threads, 2000)


def test_shared_memory() -> None:
    for blocks in (1, 3):
        assert set(launch("read_shared_memory", blocks, 64, 64 * blocks, shared_bytes=64)) == {0xCD}, "aligned garbage"
    too_much = 48 * 1024 + 1
    with pytest.raises(RuntimeError, match="cudaErrorInvalidValue"):
        launch("read_shared_memory", 1, 64, 64, shared_bytes=too_much)
    assert device.blocks_that_fit("read_shared_memory", 64, too_much) == ("cudaSuccess", 0)
    assert device.allow_shared_bytes("read_shared_memory", 64 * 1024 + 1) == "cudaErrorInvalidValue"
    assert device.allow_shared_bytes("read_shared_memory", 64 * 1024) == "cudaSuccess"
    assert device.blocks_that_fit("read_shared_memory", 64, 64 * 1024) == ("cudaSuccess", 1)
    assert device.blocks_that_fit("read_shared_memory", 1025, 64) == ("cudaSuccess", 0)
    assert set(launch("read_shared_memory", 1, 64, 64, shared_bytes=64 * 1024)) == {0xCD}


# --- memory and the API --------------------------------------------------------------------------------------


def test_memory_is_counted_and_full_of_garbage() -> None:
    before = hooks.counters()["live_pinned_bytes"]
    status, memory = device.malloc(100)
    assert (status, memory % 256) == ("cudaSuccess", 0)
    assert {device.read(memory + k) for k in range(100)} == {0xCB}
    _, in_order = device.malloc_async(1000)
    _, pinned = device.malloc_host(10)
    now = hooks.counters()
    assert (now["live_bytes"], now["allocations"], now["live_pinned_bytes"] - before) == (1100, 2, 10)
    assert device.free(memory) == device.free_async(in_order) == device.free_host(pinned) == "cudaSuccess"
    now = hooks.counters()
    assert (now["live_bytes"], now["peak_bytes"], now["errors"]) == (0, 1100, 0)
    assert now["live_pinned_bytes"] == before
    hooks.reset_counters()
    assert hooks.counters()["peak_bytes"] == 0


@pytest.mark.skipif(HAS_ADDRESS_SANITIZER, reason="guard bytes: NOT TESTED HERE (ASan ends it)")
@pytest.mark.parametrize("place", [-1, -256, 100, 355])
def test_a_write_outside_is_found(place: int) -> None:
    _, memory = device.malloc(100)
    device.write(memory + place, 1)
    assert device.free(memory) == "cudaErrorIllegalAddress"
    assert hooks.last_error() == "a write outside of an allocation of 100 bytes"
    assert hooks.counters()["errors"] == 1


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("_, m = t.malloc(8); t.free(m); t.free(m)", "memory that is not allocated, or was freed before"),
        ("_, m = t.malloc_async(8); t.free_host(m)", "cudaFreeHost(.*) of stream-ordered device memory"),
        ("_, m = t.malloc_host(8); t.free(m)", "cudaFree(.*) of pinned host memory"),
    ],
)
def test_freeing_the_wrong_thing_ends_the_process(mistake: str, message: str) -> None:
    load = f"import importlib.util as u; s = u.spec_from_file_location('_core', {core.__file__!r})"
    code = f"{load}; m = u.module_from_spec(s); s.loader.exec_module(m); t = m.emulation.self_test; {mistake}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode < 0
    assert "emulated CUDA: " in run.stderr
    assert re.search(message, run.stderr), run.stderr


HOST, DEVICE = 1, 2  # cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost


def test_copies() -> None:
    ours = np.arange(100, dtype=np.uint8)
    back = np.zeros(100, np.uint8)
    _, memory = device.malloc_async(100)
    _, pinned = device.malloc_host(100)
    assert device.copy(memory, ours.ctypes.data, 100, HOST) == "cudaSuccess"
    assert device.fill(memory + 50, 7, 10) == "cudaSuccess"
    assert device.copy(pinned, memory, 100, DEVICE) == "cudaSuccess"
    assert hooks.counters()["pageable_copies"] == 0
    assert device.read(pinned + 99) == 0xCB, "not yet"
    assert device.fill(memory + 99, 9, 1) == device.synchronise() == "cudaSuccess"
    assert device.read(pinned + 99) == 99, "what was there when the copy was queued"
    assert device.copy(memory + 99, pinned + 99, 1, HOST) == "cudaSuccess"
    assert device.copy(back.ctypes.data, memory, 100, DEVICE) == "cudaSuccess"
    assert hooks.counters()["pageable_copies"] == 1
    assert back.tolist() == [*range(50), *[7] * 10, *range(60, 100)]
    assert device.read(pinned + 99) == 99
    for wrong in (
        lambda: device.copy(memory + 1, ours.ctypes.data, 100, HOST),
        lambda: device.copy(back.ctypes.data, memory + 50, 51, DEVICE),
        lambda: device.fill(memory + 99, 0, 2),
        lambda: device.copy(memory, memory, 10, HOST),
        lambda: device.copy(pinned, ours.ctypes.data, 10, HOST),
        lambda: device.fill(pinned, 0, 1),
    ):
        assert wrong() == "cudaErrorInvalidValue"
    assert hooks.counters()["errors"] == 6
    device.free_async(memory)
    device.free_host(pinned)


def test_the_call_that_shall_fail_fails() -> None:
    hooks.fail_api_call(2)
    status, memory = device.malloc(8)
    assert status == "cudaSuccess"
    assert device.malloc_async(8) == ("cudaErrorMemoryAllocation", 0)
    assert device.take_last_error() == "cudaErrorMemoryAllocation"
    assert device.take_last_error() == "cudaSuccess"
    assert device.synchronise() == "cudaSuccess"
    hooks.fail_api_call(1)
    assert device.free(memory) == "cudaErrorMemoryAllocation"
    assert hooks.counters()["live_bytes"] == 0, "freed all the same"
    hooks.fail_api_call(1)
    with pytest.raises(RuntimeError, match="out of memory"):
        launch("write_indices", 1, 32, 32)
    assert hooks.counters()["launches"] == 0


def test_what_cannot_be_captured() -> None:
    ours = np.zeros(8, np.uint8)
    _, memory = device.malloc_async(8)
    _, pinned = device.malloc_host(8)
    hooks.capture(True)
    assert device.is_capturing()
    refused = "cudaErrorStreamCaptureUnsupported"
    assert device.synchronise() == refused
    assert device.malloc(8)[0] == device.malloc_host(8)[0] == refused
    assert device.copy(memory, ours.ctypes.data, 8, HOST) == refused
    assert device.copy(ours.ctypes.data, memory, 8, DEVICE) == refused
    assert device.copy(memory, pinned, 8, HOST) == "cudaSuccess"
    assert launch("write_indices", 1, 32, 32)[31] == 10**6 + 32
    hooks.register_device_memory(ours.ctypes.data, 8)
    assert device.copy(ours.ctypes.data, memory, 8, 3) == "cudaSuccess"
    hooks.register_device_memory(ours.ctypes.data, 0)
    assert device.copy(ours.ctypes.data, memory, 8, 3) == refused
    hooks.capture(False)
    assert not device.is_capturing()
    assert hooks.counters()["synchronisations"] == 0
    assert device.synchronise() == "cudaSuccess"
    assert hooks.counters()["synchronisations"] == 1
    device.free_async(memory)
    device.free_host(pinned)


def test_whose_memory_it_is() -> None:
    ours = np.zeros(8, np.uint8)
    device.set_device(1)
    _, memory = device.malloc_async(8)
    device.set_device(0)
    _, pinned = device.malloc_host(8)
    assert device.memory_type(memory + 7) == ("cudaSuccess", 2, 1)
    assert device.memory_type(pinned) == ("cudaSuccess", 1, 0)
    assert device.memory_type(ours.ctypes.data) == ("cudaSuccess", 0, -1)
    hooks.register_device_memory(ours.ctypes.data, 8)
    assert device.memory_type(ours.ctypes.data) == ("cudaSuccess", 2, 0)
    hooks.register_device_memory(ours.ctypes.data, 0)
    device.free_async(memory)
    device.free_host(pinned)


def test_two_devices_or_none() -> None:
    assert device.device_count() == ("cudaSuccess", 2)
    assert device.set_device(1) == "cudaSuccess"
    assert device.current_device() == 1
    assert device.set_device(2) == "cudaErrorInvalidDevice"
    assert device.current_device() == 1
    assert [device.attribute(a) for a in (16, 75, 76, 95, 97, 115)] == [3, 9, 0, 1, 64 * 1024, 1]
    hooks.pretend_no_device(True)
    assert device.device_count() == ("cudaErrorNoDevice", 0)
    assert device.malloc(8)[0] == "cudaErrorNoDevice"
    with pytest.raises(RuntimeError, match="no CUDA-capable device"):
        launch("write_indices", 1, 32, 32)


# --- the kernels of csrc/cuda --------------------------------------------------------------------------------

SHAPES = [(0, 0), (1, 32), (2, 64), (3, 96), (3, 256)]
"""(blocks, threads a block); zeros: the normal choice."""
ROUTING_BITS = [64, 64, 8, 2, 0]
"""Bits that are kept of every routing hash: with few, many rows collide."""
NAME = emulation.NAME


def run_as(seed: int, shape: tuple[int, int], rows_of_a_block: int = 0, bits: int = 64) -> None:
    hooks.schedule(seed)
    core.cuda.use_launch_shape(*shape, rows_of_a_block)
    core.use_routing_bits(bits)


def differences(seed: int, index: int) -> list[str]:
    case = random_case(seed, index)
    return check(case._replace(acts=place(case.acts, NAME), labels=place(case.labels, NAME)), NAME)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("seed", range(3))  # make fuzz-emulated has as many as are wanted
def test_random_inputs_in_random_order(seed: int, shape: tuple[int, int]) -> None:
    for index in range(12):
        bits = ROUTING_BITS[index % len(ROUTING_BITS)]
        for rows_of_a_block in (0, 4):  # 4: nearly every layer is grouped by the whole grid
            run_as(seed, shape, rows_of_a_block, bits)
            wrong = differences(1000 + 10 * seed + shape[0], index)
            assert not wrong, (wrong, str(random_case(1000 + 10 * seed + shape[0], index)), bits, rows_of_a_block)
    assert hooks.counters()["errors"] == 0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nothing_is_read_behind_the_input(seed: int) -> None:
    """The process would end: the next page belongs to nobody."""
    for index in range(60):
        run_as(seed, SHAPES[index % len(SHAPES)], 4 if index % 2 else 0)
        case = random_case(5000 + seed, index)
        if case.acts.nbytes:
            here = case._replace(acts=emulation.fenced(case.acts), labels=emulation.fenced(case.labels))
            assert check(here, NAME) == [], str(case)


def test_reading_behind_fenced_memory_ends_the_process() -> None:
    code = f"""if True:
        import importlib.util
        spec = importlib.util.spec_from_file_location("_core", {core.__file__ if core else ""!r})
        core = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(core)
        address = core.emulation.allocate_fenced(100)
        core.emulation.self_test.write(address + 99, 3)
        print(core.emulation.self_test.read(address + 99), flush=True)
        core.emulation.self_test.read(address + 100)
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout == "3\n"
    assert run.returncode != 0


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
@pytest.mark.parametrize("may_hold_nan", [False, True])
def test_fingerprints_of_a_stream(seed: int, may_hold_nan: bool) -> None:
    run_as(seed, SHAPES[seed], bits=1 if seed == 3 else 64)
    rng = np.random.default_rng(seed)
    for num_rows, kinds, num_labels in [(1, 1, 1), (40, 2, 3), (500, 3, 400), (700, 700, 2)]:
        found = rng.integers(0, kinds, (num_rows, 2)).astype(np.uint64)
        labels = rng.integers(-1, num_labels, num_rows)
        nan = (found == 0).all(1) & may_hold_nan
        counts = core.cuda.count_fingerprints(found.ctypes.data, labels.ctypes.data, num_rows, may_hold_nan, 0, 0)
        right = backends.count_fingerprints([(found[~nan], labels[~nan])], int(nan.sum()))
        assert same_counts(backends.BundleCounts(num_rows, *counts), right)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_named_cases_in_random_order(case: Any) -> None:
    with all_of("orders") as order:
        orders = [(1, (0, 0), 1), (2, (3, 64), 0), (3, (1, 32), 1)]
        for seed, shape, rows_of_a_block in orders if len(case.ids) <= 1000 else orders[:1]:  # test_many_rows has more
            with order(seed, shape, rows_of_a_block):
                check_case(case, seed, shape, rows_of_a_block)


def check_case(case: Any, seed: int, shape: tuple[int, int], rows_of_a_block: int) -> None:
    is_small = len(case.ids) <= 64
    run_as(seed, shape, rows_of_a_block, bits=0 if seed == 3 and is_small else 64)
    acts, labels = place(case.acts(), NAME), place(np.asarray(case.labels), NAME)
    options = {"grid": case.grid, "tolerance": case.tolerance, "backend": NAME}
    assert cb.bundle_rows(acts, **options).tolist() == list(case.ids)
    found = cb.bundle_entropy(acts, labels, log_epsilon=case.log_epsilon, **options)
    assert (found.num_bundles, found.num_conflicting) == (case.bundles, case.conflicting)
    assert found.num_nan_rows == case.nan_rows
    if case.margin is not None:
        assert cb.conflict_margin(acts, labels, backend=NAME) == case.margin
    assert hooks.counters()["errors"] == 0


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("seed", [1, 2])
def test_many_rows(layout: str, seed: int) -> None:
    """More than one block can group, some of them equal; most labels differ."""
    run_as(seed, (0, 0), rows_of_a_block=256)
    rng = np.random.default_rng(seed)
    acts = place(LAYOUTS[layout](rng.integers(0, 3, (700, 6)).astype(np.float32)), NAME)
    labels = rng.integers(0, 400, 700)
    assert cb.bundle_rows(acts, backend=NAME).tolist() == cb.bundle_rows(acts, backend="reference").tolist()
    rows = as_rows(acts)
    found = backends.TABLE[NAME].count_bundles(rows, as_labels(labels, rows), None, None, True)
    right = backends.TABLE["reference"].count_bundles(rows, as_labels(labels, rows), None, None, True)
    assert found.label_counts.tolist() == right.label_counts.tolist()
    assert found.starts.tolist() == right.starts.tolist()
    assert found.num_conflicting_rows == right.num_conflicting_rows


@pytest.mark.parametrize("seed", range(16))
@pytest.mark.parametrize("rows_of_a_block", [0, 4])
def test_many_small_bundles(seed: int, rows_of_a_block: int) -> None:
    """Neighbours in a comparison have leaders of their own; rows differ behind the places that the sample reads."""
    for num_rows in (3, 40, 200):
        run_as(seed, SHAPES[seed % len(SHAPES)], rows_of_a_block, bits=ROUTING_BITS[seed % len(ROUTING_BITS)])
        acts, labels = small_bundles(seed, num_rows), np.arange(num_rows) % 3
        here = place(acts, NAME)
        grid = cb.UpdateGrid(learning_rate=0.1, batch_size=8, weight_amplitude=0.7) if seed % 4 == 3 else None
        assert cb.bundle_rows(here, backend=NAME).tolist() == cb.bundle_rows(acts, backend="reference").tolist()
        found = cb.bundle_entropy(here, labels, grid=grid, backend=NAME)
        right = cb.bundle_entropy(acts, labels, grid=grid, backend="reference")
        assert (found.num_bundles, found.num_conflicting, found.num_nan_rows) == (
            right.num_bundles,
            right.num_conflicting,
            right.num_nan_rows,
        )
        assert found.entropy.hex() == right.entropy.hex()
    assert hooks.counters()["errors"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("key", [(0x243F6A8885A308D3, 0), (0xCD613E30D8F16ADF, 0x1027C4D1C386BBC4), None])
@pytest.mark.parametrize("order", range(12))
def test_small_bundles_in_many_orders(order: int, key: tuple[int, int] | None) -> None:
    """A grouping with fewer waits was wrong in one order of thirty here, and right in every other test.

    Under other keys than the first one a row took over its leader's NaN in a quarter of the orders, when another warp
    found it to differ meanwhile.
    """
    acts = small_bundles(67, 200)
    core.use_routing_key(key)
    run_as(order, (2, 96) if order % 2 == 0 else (3, 64), 3, bits=2)
    found = cb.bundle_rows(place(acts, NAME), backend=NAME)
    core.use_routing_key(None)
    assert found.tolist() == cb.bundle_rows(acts, backend="reference").tolist()


@pytest.mark.parametrize("seed", [0, 1])
def test_more_rows_than_one_block_groups(seed: int) -> None:
    run_as(seed, (0, 0))
    acts = small_bundles(seed, 4500)[:, :8].copy()
    assert cb.bundle_rows(acts, backend=NAME).tolist() == cb.bundle_rows(acts, backend="reference").tolist()


GRIDS = [
    None,
    cb.UpdateGrid(learning_rate=0.1, batch_size=8, weight_amplitude=0.7),
    cb.UpdateGrid(learning_rate=0.1, batch_size=8, weight_amplitude=0.7, dtype="bfloat16"),
]


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int32", "int8"])
@pytest.mark.parametrize("width", [1, 2, 3, 6, 63, 126, 130, 515, 1026, 4098])
def test_rows_that_do_not_begin_and_end_at_16_bytes(dtype: str, width: int) -> None:
    """The last values, before and behind the end of a word, a chunk, a warp's turn, a block of the hash."""
    run_as(width, SHAPES[width % len(SHAPES)], bits=2 if width % 4 == 2 else 64)
    rng = np.random.default_rng(width)
    base = rng.integers(0, 2, (4, width + 2)).astype(dtype)
    rows = base[rng.integers(4, size=40)]
    rows[::5, -1] = 3  # in columns that no sample of a long row reads
    rows[1::5, -2] = 4
    if dtype.startswith("f"):
        rows[rng.integers(40), -1] = np.nan
        rows[rows == 0] *= rng.choice([-1, 1], (rows == 0).sum()).astype(dtype)
    for acts in (rows[:, 2:], emulation.fenced(rows[:, 2:].copy())):
        for grid in GRIDS:
            found = cb.bundle_rows(acts, grid=grid, backend=NAME)
            assert found.tolist() == cb.bundle_rows(acts, grid=grid, backend="reference").tolist(), grid
            marks = [backends.TABLE[b].row_fingerprints(as_rows(acts), grid)[0] for b in (NAME, "reference")]
            assert np.array_equal(*marks), grid
    found, right = (cb.bundle_entropy(acts, np.arange(40) % 3, backend=b) for b in (NAME, "reference"))
    assert (found.num_nan_rows, found.entropy.hex()) == (right.num_nan_rows, right.entropy.hex())
    assert hooks.counters()["errors"] == 0


def kind_of(acts: np.ndarray) -> str:
    """Layers of one kind are read by one launch."""
    if acts[0].nbytes % 4:
        return "value by value"
    return f"{acts.dtype.name if acts.dtype.kind == 'f' else 'bits'}, {'words' if acts[0].nbytes % 16 else 'chunks'}"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("num_layers", [1, 2, 33, 70])
@pytest.mark.parametrize("rows_of_a_block", [0, 4])
def test_layers_of_all_widths_and_types_in_a_launch_a_kind(num_layers: int, seed: int, rows_of_a_block: int) -> None:
    run_as(seed, SHAPES[seed], rows_of_a_block, bits=8 if seed == 3 else 64)
    rng = np.random.default_rng([seed, num_layers])
    labels = rng.integers(0, 3, 21)
    layers = {}
    for layer in range(num_layers):
        width = int(rng.choice([0, 1, 3, 40, 700, 1500]))
        dtype = rng.choice(["float32", "float64", "float16", "int8", "bool"])
        palette = rng.integers(0, 2, (int(rng.integers(1, 22)), width))
        layers[f"{layer}"] = palette[rng.integers(len(palette), size=21)].astype(dtype)
        if width and rng.random() < 0.3:
            layers[f"{layer}"][rng.integers(21), rng.integers(width)] = np.nan if dtype.startswith("f") else 1
    found = cb.bundle_entropy_layers(layers, labels, backend=NAME)
    counters = hooks.counters()
    kinds = {kind_of(acts) for acts in layers.values()}
    assert (counters["launches"], counters["synchronisations"], counters["errors"]) == (len(kinds), 1, 0)
    for name, right in cb.bundle_entropy_layers(layers, labels, backend="reference").items():
        for what in ("num_bundles", "num_conflicting", "num_nan_rows", "num_conflicting_rows"):
            assert getattr(found[name], what) == getattr(right, what), (name, what)
        assert found[name].entropy.hex() == right.entropy.hex()


# --- the host's side of them ---------------------------------------------------------------------------------

ACTS = np.tile(np.arange(24, dtype=np.float32).reshape(4, 6), (5, 1))
LABELS = np.arange(20) // 2
FINGERPRINTS = np.arange(40, dtype=np.uint64).reshape(20, 2) // np.uint64(8)
RESULTS = {
    "ids": np.empty(20, np.int64),
    "fingerprints": np.empty((20, 2), np.uint64),
}
_rows = (ACTS.ctypes.data, ACTS.shape, ACTS.strides, 1)
_labels = (LABELS.ctypes.data, 8, 6)
CALLS: dict[str, Any] = {
    "bundle_ids": lambda c, on: c.bundle_ids(*_rows, None, None, RESULTS["ids"].ctypes.data, on, 0),
    "bundle_ids, near": lambda c, on: c.bundle_ids(*_rows, None, (0.0, 0.5), RESULTS["ids"].ctypes.data, on, 0),
    "count_bundles": lambda c, on: c.count_bundles([_rows], *_labels, None, None, True, on, 0),
    "count_bundles, layers": lambda c, on: c.count_bundles([_rows] * 3, *_labels, None, None, True, on, 0),
    "count_bundles, near": lambda c, on: c.count_bundles([_rows], *_labels, None, (0.0, 0.5), True, on, 0),
    "row_fingerprints": lambda c, on: c.row_fingerprints(
        *_rows, None, (1, 2), RESULTS["fingerprints"].ctypes.data, on, 0
    ),
    "count_fingerprints": lambda c, on: c.count_fingerprints(
        FINGERPRINTS.ctypes.data, LABELS.ctypes.data, 20, False, on, 0
    ),
    "conflict_margin": lambda c, on: c.conflict_margin(*_rows, *_labels, on, 0),
    "wait_for": lambda c, on: c.wait_for(on, 0, 1),
}
KEPT = ("live_pools", "live_pinned_bytes", "live_events")
"""Made once; they live as long as the process."""
NEVER_WAIT = ("bundle_ids", "bundle_ids, near", "row_fingerprints", "wait_for")


def plain(result: Any) -> Any:
    if isinstance(result, tuple | list):
        return [plain(part) for part in result]
    return result.tolist() if isinstance(result, np.ndarray) else result


def outcome(call: str, on: int = 0) -> Any:
    for array in RESULTS.values():
        array[:] = 99
    return plain(CALLS[call](core.cuda, on)), plain(list(RESULTS.values()))


@pytest.mark.parametrize("call", CALLS)
def test_only_numbers_wait_for_the_stream_and_once(call: str) -> None:
    outcome(call)
    counters = hooks.counters()
    assert counters["synchronisations"] == (0 if call in NEVER_WAIT else 1)
    assert counters["pageable_copies"] <= counters["synchronisations"]
    if call.startswith(("bundle_ids", "count")):
        assert counters["launches"] == 1


@pytest.mark.parametrize("call", CALLS)
def test_the_callers_device_stays(call: str) -> None:
    expected = outcome(call)
    assert outcome(call, on=1) == expected
    assert device.current_device() == 0
    device.set_device(1)
    assert outcome(call, on=0) == expected
    assert device.current_device() == 1


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("on", [0, 1])
def test_whatever_fails_nothing_is_left_behind(call: str, on: int) -> None:
    expected = outcome(call, on)
    hooks.reset_counters()
    outcome(call, on)
    kept = {kind: hooks.counters()[kind] for kind in KEPT}
    num_calls = hooks.counters()["api_calls"]
    failed = not_put_back = 0
    for k in range(1, num_calls + 1):
        hooks.fail_api_call(k)
        try:
            outcome(call, on)
        except (MemoryError, RuntimeError):
            failed += 1
        except AssertionError as error:  # watch() notices where putting the device back was what failed
            if "left device 1 the current one" not in str(error):
                raise
            not_put_back += 1
        hooks.fail_api_call(0)
        now = hooks.counters()
        assert (now["live_bytes"], now["errors"]) == (0, 0), k
        assert {kind: now[kind] for kind in KEPT} == kept, k
        device.set_device(0)
        assert device.take_last_error() == "cudaSuccess", k
        assert outcome(call, on) == expected, k
    assert not_put_back == on
    assert failed >= num_calls - 4, "putting device and capture mode back, and freeing, may fail unnoticed"


@pytest.mark.parametrize("num_layers", [1, 3])
def test_what_the_process_keeps_is_made_once_whatever_fails(num_layers: int) -> None:
    """In a process of its own: a pool, pinned memory and its event live as long as the process."""
    code = f"""if True:
        import importlib.util, numpy as np
        spec = importlib.util.spec_from_file_location("_core", {core.__file__ if core else ""!r})
        core = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(core)
        acts, labels = np.zeros((4, 3), np.float32), np.zeros(4, np.int64)
        rows = (acts.ctypes.data, acts.shape, acts.strides, 1)
        k = failed = 0
        while True:
            k += 1
            core.emulation.fail_api_call(k)
            try:
                counts = core.cuda.count_bundles(
                    [rows] * {num_layers}, labels.ctypes.data, 8, 6, None, None, True, 0, 0
                )
            except (MemoryError, RuntimeError):
                failed += 1
                continue
            break
        now = core.emulation.counters()
        print(failed > 5, now["live_pools"], now["live_events"], now["live_pinned_bytes"], [c[0] for c in counts])
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split("\n")[0] == f"True 1 1 65536 {[1] * num_layers}", run.stdout + run.stderr


def test_pinned_memory_is_not_used_again_before_its_copy_is_over() -> None:
    """In a process of its own, which keeps what it needed at the same time."""
    code = f"""if True:
        import importlib.util, numpy as np
        spec = importlib.util.spec_from_file_location("_core", {core.__file__ if core else ""!r})
        core = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(core)
        hooks, labels = core.emulation, np.zeros(4, np.int64)
        def bundles(*layers):
            where = [(a.ctypes.data, a.shape, a.strides, 1) for a in layers]
            return [c[0] for c in core.cuda.count_bundles(where, labels.ctypes.data, 8, 6, None, None, True, 0, 0)]
        equal, distinct = np.zeros((4, 3), np.float32), np.arange(12, dtype=np.float32).reshape(4, 3)
        for unfinished in (False, True, True, False):
            hooks.make_copies_look_unfinished(unfinished)
            now = hooks.counters()
            print(bundles(equal, distinct), bundles(distinct, equal), end=" ")
            print(hooks.counters()["live_pinned_bytes"] >> 16, hooks.counters()["live_events"])
            waits = hooks.counters()["synchronisations"] - now["synchronisations"]
            print(waits, hooks.self_test.take_last_error())
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seen = [line for line in run.stdout.splitlines() if line.startswith("[")]
    assert seen == [f"[1, 4] [4, 1] {kept} {kept}" for kept in (1, 5, 9, 9)], run.stdout + run.stderr
    assert run.stdout.count("2 cudaSuccess") == 4, "no other waits, no error left behind"


@pytest.mark.parametrize("call", CALLS)
def test_what_never_waits_can_be_captured(call: str) -> None:
    expected = outcome(call)
    hooks.capture(True)
    if call in NEVER_WAIT:
        assert outcome(call) == expected
        return
    before = hooks.counters()
    with pytest.raises(RuntimeError, match=r"its stream is being captured in a CUDA graph; call it outside"):
        outcome(call)
    now = hooks.counters()
    assert now["live_bytes"] == 0
    for kind in ("launches", "synchronisations", "allocations"):
        assert now[kind] == before[kind], "nothing was queued, so the capture goes on"
    hooks.capture(False)
    assert outcome(call) == expected


def test_the_first_call_of_a_process_can_be_captured() -> None:
    """What is made once is made although a graph is being captured, and the thread's capture mode comes back."""
    code = f"""if True:
        import importlib.util, numpy as np
        spec = importlib.util.spec_from_file_location("_core", {core.__file__ if core else ""!r})
        core = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(core)
        acts, ids = np.zeros((4, 3), np.float32), np.empty(4, np.int64)
        core.emulation.capture(True)
        core.cuda.bundle_ids(acts.ctypes.data, acts.shape, acts.strides, 1, None, None, ids.ctypes.data, 0, 0)
        print(ids.tolist(), core.emulation.self_test.malloc_host(8)[0])
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[0, 0, 0, 0] cudaErrorStreamCaptureUnsupported\n", run.stdout + run.stderr


def test_copies_from_pinned_memory_happen_later() -> None:
    """What the host changes too early would reach the device."""
    _, memory = device.malloc(1)
    _, pinned = device.malloc_host(1)
    device.write(pinned, 1)
    assert device.copy(memory, pinned, 1, HOST) == "cudaSuccess"
    device.write(pinned, 2)
    assert device.synchronise() == "cudaSuccess"
    assert device.read(memory) == 2
    device.free(memory), device.free_host(pinned)


def test_a_call_that_leaves_another_device_is_noticed() -> None:
    module = types.ModuleType("a_module")
    module.set_device = device.set_device  # type: ignore[attr-defined]
    restore = watch(module, hooks.device_of_this_thread)
    assert module.set_device(0) == "cudaSuccess"
    with pytest.raises(AssertionError, match="set_device left device 1 the current one; it was 0"):
        module.set_device(1)
    restore()
    assert module.set_device(0) == "cudaSuccess"
    assert module.set_device is device.set_device


def test_extra_memory_is_at_most_64_bytes_a_row() -> None:
    """The slope: a block needs some memory for every layer and launch, too."""
    peaks = []
    for num_rows in (4000, 12000):
        acts, labels = np.arange(num_rows, dtype=np.float32)[:, None], np.arange(num_rows)
        hooks.reset_counters()
        cb.bundle_entropy(acts, labels, backend=NAME)
        peaks.append(hooks.counters()["peak_bytes"])
    assert (peaks[1] - peaks[0]) / 8000 <= 64
    assert peaks[0] < 64 * 4000 + 4096


def test_without_a_device() -> None:
    assert core.cuda.missing_reason() == ""
    core.cuda.require()
    hooks.pretend_no_device(True)
    reason = core.cuda.missing_reason()
    assert reason.startswith("no NVIDIA GPU can be used here")
    with pytest.raises(ValueError, match=r"^no NVIDIA GPU can be used here.*; .*\.cpu\(\)$"):
        core.cuda.require()
    assert core.build_info()["cuda"] is True
    assert device.take_last_error() == "cudaSuccess"


def test_launch_shapes_that_are_refused() -> None:
    for blocks, threads in [(-1, 32), (1, 33), (1, 512)]:
        with pytest.raises(ValueError, match=rf"{blocks} blocks of {threads} threads"):
            core.cuda.use_launch_shape(blocks, threads)

"""Streaming on a GPU: state stays there, update never waits, and the numbers are those of the CPU.

Runs on stand-ins in CPU memory (``cuda_stand_in.py``); nothing here has seen a GPU. Those tests are in ``gpu/``.
"""

from __future__ import annotations

import copy
import math
import pickle
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cbkernels as cb
from cbkernels import BundleEntropy, UpdateGrid, backends
from cbkernels.arrays import as_labels, as_rows
from cbkernels.gpu_row_store import GpuRowStore

from . import cuda_stand_in
from .cuda_stand_in import NAME, CudaHalf, FakeStream, OnGpu, TorchWithGpu
from .inputs import INTEGERS
from .test_streaming import GRID, data, numbers, streamed

cuda, half, torch_with_gpu = cuda_stand_in.cuda, cuda_stand_in.half, cuda_stand_in.torch_with_gpu


def nan_data(dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    acts, labels = data()
    acts = (acts * 100).astype(dtype)
    if dtype == "float32":
        acts[[3, 77, 299], [0, 10, 5]] = math.nan
    return acts, labels


@pytest.fixture
def tensors(half: CudaHalf) -> Any:
    """torch, with a stand-in for the cuda half whose GPU memory is this process's."""
    return pytest.importorskip("torch", reason="torch: NOT TESTED HERE")


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), cuts=st.lists(st.integers(0, 400), max_size=9).map(sorted), nan=st.booleans(),
    grid=st.sampled_from([None, GRID]), as_tensors=st.booleans(), dtype=st.sampled_from(["f4", "i4"]),
)  # fmt: skip
def test_any_split_gives_the_one_shot_result(
    seed: int, cuts: list[int], grid: UpdateGrid | None, nan: bool, as_tensors: bool, dtype: str
) -> None:
    torch = pytest.importorskip("torch", reason="torch: NOT TESTED HERE")
    acts, labels = data(400, 3, seed)
    acts = (acts * 10).astype(dtype)
    if nan and dtype == "f4":
        acts[seed % 400, seed % 3] = math.nan
    whole = cb.bundle_entropy(acts, labels, grid=grid)
    with pytest.MonkeyPatch.context() as patch:
        functions = CudaHalf()
        patch.setitem(backends.TABLE, NAME, backends.Cuda(NAME, functions))
        metric = BundleEntropy(grid=grid, backend=NAME)
        for part, names in zip(np.split(acts, cuts), np.split(labels, cuts), strict=True):
            if len(part):
                metric.update(torch.from_numpy(part) if as_tensors else part, torch.from_numpy(names))
        assert set(functions.names()) == {"row_fingerprints"}, "update() waits for nothing"
        for _ in range(2):
            assert numbers(metric.compute()) == numbers(whole)
        assert functions.names().count("count_fingerprints") == 2
        assert metric.compute().backend == NAME


def test_update_writes_into_the_state(tensors: Any, half: CudaHalf) -> None:
    """A batch takes at most two launches and no memory but its 24 bytes a row and the growth."""
    metric = BundleEntropy(backend=NAME)
    acts = tensors.arange(100_000, dtype=tensors.float32)[:, None]
    labels = tensors.zeros(100_000, dtype=tensors.int8)
    launches = {1: 1, 63: 1, 64: 1, 100: 1, 5: 1, 30_000: 2, 2: 1, 69_765: 2}  # of batches of so many rows
    begin = 0
    for size, needed in launches.items():
        before = len(half.calls)
        metric.update(acts[begin : begin + size], labels[begin : begin + size])
        assert len(half.calls) - before == needed, "two: behind the rows of a block, and the rest in a new one"
        written = [details for _, details in half.calls[before:]]
        assert sum(details["shape"][0] for details in written) == size
        assert written[0]["acts"] == acts[begin:].data_ptr()
        begin += size
    (store,) = metric.held.on_gpus.values()
    held = sum(24 * len(block.labels) for block in store._blocks)
    assert 24 * 100_000 <= held <= 1.5 * 24 * 100_000 + 24 * 64
    places = [(b.patterns.data_ptr(), b.patterns.data_ptr() + 16 * b.used) for b in store._blocks]
    assert all(any(a <= details["to"] < b for a, b in places) for _, details in half.calls)
    assert metric.num_rows == 100_000
    assert metric.compute().num_bundles == 100_000
    (only,) = store._blocks  # joined once, so that computing again copies nothing
    metric.compute()
    assert store._blocks == [only]
    metric.update(acts[:7], labels[:7])
    assert metric.compute().num_bundles == 100_000
    assert metric.compute().num_rows == 100_007


def test_small_batches_leave_at_most_a_third_unused(tensors: Any, half: CudaHalf) -> None:
    metric = BundleEntropy(backend=NAME)
    for num_rows in range(50, 4000, 50):
        metric.update(tensors.ones((50, 1)), tensors.zeros(50, dtype=tensors.int64))
        (store,) = metric.held.on_gpus.values()
        assert num_rows <= sum(len(block.labels) for block in store._blocks) <= 1.5 * num_rows + 64


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_nan_rows_are_zero_fingerprints_of_floats(tensors: Any, half: CudaHalf, dtype: str) -> None:
    acts, labels = nan_data(dtype)
    metric = streamed(acts, labels, [100], NAME)
    assert metric.compute().num_nan_rows == (3 if dtype == "float32" else 0)
    assert half.calls[-1][1] == {"num_rows": 300, "nan": dtype == "float32", "device": 0, "stream": 0}
    state = metric.state_dict()
    assert state["num_nan_rows"] == (3 if dtype == "float32" else 0)


def test_zero_fingerprints_of_integers_stay(tensors: Any, half: CudaHalf) -> None:
    metric = BundleEntropy(backend=NAME)
    metric.update(np.zeros((2, 3), np.int32), [0, 1])
    (store,) = metric.held.on_gpus.values()
    store._blocks[0].patterns.zero_()
    assert metric.state_dict()["num_nan_rows"] == 0
    assert len(metric.state_dict()["labels"]) == 2
    assert metric.compute().num_conflicting == 1
    store.dtype = "float32"
    assert metric.state_dict()["num_nan_rows"] == 2


@pytest.mark.parametrize("grid", [None, GRID])
def test_state_is_that_of_the_cpu(tensors: Any, half: CudaHalf, grid: UpdateGrid | None) -> None:
    acts, labels = nan_data()
    ours, theirs = streamed(acts, labels, [70, 200], NAME, grid=grid), streamed(acts, labels, [], grid=grid)
    mine, other = ours.state_dict(), theirs.state_dict()
    assert mine.keys() == other.keys()
    for key in mine:
        assert np.array_equal(mine[key], other[key]), key
        assert type(mine[key]) is type(other[key])
    assert (mine["fingerprints"].dtype, mine["labels"].dtype) == (np.uint64, np.int64)
    again = BundleEntropy(grid=grid, backend=NAME)
    again.load_state_dict(mine)
    again.update(acts, labels)  # now on both sides
    both = streamed(np.concatenate([acts, acts]), np.concatenate([labels, labels]), [], grid=grid)
    assert numbers(again.compute()) == numbers(both.compute())
    assert again.num_rows == 600
    assert "count_fingerprints" not in half.names()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_merging(tensors: Any, half: CudaHalf, order: tuple[int, ...]) -> None:
    acts, labels = nan_data()
    names = [NAME, NAME, "cpu"]
    parts = [streamed(a, y, [3], n) for a, y, n in zip(np.split(acts, 3), np.split(labels, 3), names, strict=True)]
    before = [numbers(part.compute()) for part in parts]
    total = BundleEntropy(backend=NAME)
    for i in order:
        total.merge(parts[i])
    assert numbers(total.compute()) == numbers(streamed(acts, labels, []).compute())
    total.update(acts, labels)
    total.merge(total)
    four_times = streamed(np.concatenate([acts] * 4), np.concatenate([labels] * 4), [])
    assert numbers(total.compute()) == numbers(four_times.compute())
    assert [numbers(part.compute()) for part in parts] == before


def test_merging_stays_on_the_gpu(tensors: Any, half: CudaHalf) -> None:
    acts, labels = nan_data()
    one, other = streamed(acts[:100], labels[:100], [7], NAME), streamed(acts[100:], labels[100:], [9], NAME)
    half.calls.clear()
    one.merge(other)
    assert half.calls == []
    assert numbers(one.compute()) == numbers(streamed(acts, labels, []).compute())
    assert half.names() == ["count_fingerprints"]
    one.update(acts[:5], labels[:5])
    assert (one.num_rows, other.num_rows) == (305, 200)


def test_merging_leaves_no_gap(tensors: Any, half: CudaHalf) -> None:
    """Rows after a merge go on where the last batch ended."""
    acts, labels = data()
    one = streamed(acts[:10], labels[:10], [], NAME)
    place = half.calls[0][1]["to"]
    one.merge(streamed(acts[10:], labels[10:], [], NAME))
    one.update(acts[:20], labels[:20])
    assert half.calls[-1][1]["to"] == place + 16 * 10


def test_copies_are_apart_and_pickles_need_no_gpu(tensors: Any, half: CudaHalf) -> None:
    acts, labels = nan_data()
    metric = streamed(acts, labels, [10], NAME)
    expected = numbers(metric.compute())
    copied, pickled = copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))
    assert (list(copied.held.on_gpus), list(pickled.held.on_gpus)) == (["cpu"], [])
    for twin in (copied, pickled):
        assert numbers(twin.compute()) == expected
        twin.update(acts, labels)
        assert (twin.num_rows, metric.num_rows) == (600, 300)
        assert numbers(twin.compute()) == numbers(
            streamed(*(np.concatenate([x, x]) for x in (acts, labels)), []).compute()
        )
    assert numbers(metric.compute()) == expected


def test_reset_forgets(tensors: Any, half: CudaHalf) -> None:
    metric = streamed(*nan_data(), [], NAME)
    metric.reset()
    assert metric.num_rows == 0
    with pytest.raises(ValueError, match="no rows yet"):
        metric.compute()
    metric.update(np.zeros((2, 3), np.int8), [0, 1])
    assert metric.compute().num_conflicting == 1


@pytest.mark.parametrize("broken_after", [0, 1])
def test_update_that_fails_changes_nothing(tensors: Any, half: CudaHalf, broken_after: int) -> None:
    """Also when the second of its two launches fails; and a stream that is still empty may then be of another type."""
    acts, labels = nan_data()
    metric, fresh = streamed(acts[:50], labels[:50], [], NAME), BundleEntropy(backend=NAME)
    before = numbers(metric.compute())
    half.broken_after = broken_after
    with pytest.raises(RuntimeError, match="out of memory"):
        metric.update(acts, labels)  # 14 rows still fit into the first block
    half.broken_after = 0
    with pytest.raises(RuntimeError, match="out of memory"):
        fresh.update(acts, labels)
    half.broken_after = None
    assert (metric.num_rows, fresh.num_rows) == (50, 0)
    assert numbers(metric.compute()) == before
    metric.update(acts[50:], labels[50:])
    assert numbers(metric.compute()) == numbers(streamed(acts, labels, []).compute())
    fresh.update(np.zeros((2, 3), np.int8), [0, 1])
    assert next(iter(fresh.held.on_gpus.values())).dtype == "int8"


def test_labels_of_every_type(tensors: Any, half: CudaHalf) -> None:
    acts, labels = data()
    expected = numbers(streamed(acts, labels % 2, []).compute())
    for label_type in [*INTEGERS, "bool"]:
        given = tensors.from_numpy((labels % 2).astype(label_type))
        metric = BundleEntropy(backend=NAME)
        if label_type == "uint64":
            with pytest.raises(ValueError, match="labels has dtype uint64, whose range a GPU stream does not look at"):
                metric.update(tensors.from_numpy(acts), given)
            assert metric.num_rows == 0
            continue
        metric.update(tensors.from_numpy(acts), given)
        assert numbers(metric.compute()) == expected, label_type
    metric = BundleEntropy(backend=NAME)
    metric.update(acts, tensors.from_numpy(np.repeat(labels % 2, 2))[::2])
    assert numbers(metric.compute()) == expected


def test_inference_mode_and_gradients(tensors: Any, half: CudaHalf) -> None:
    """State made in inference mode is written to outside of it, and the other way round."""
    acts, labels = data()
    metric = BundleEntropy(backend=NAME)
    with tensors.inference_mode():
        metric.update(tensors.from_numpy(acts[:40]) + 0, tensors.from_numpy(labels[:40]) + 0)
    metric.update(tensors.from_numpy(acts[40:50]).requires_grad_(), tensors.from_numpy(labels[40:50]))
    with tensors.inference_mode():
        metric.update(tensors.from_numpy(acts[50:]) + 0, tensors.from_numpy(labels[50:]) + 0)
    assert numbers(metric.compute()) == numbers(streamed(acts, labels, []).compute())


def test_emulated_without_torch(half: CudaHalf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    acts, labels = nan_data()
    metric = streamed(acts, labels, [100], NAME)
    assert not metric.held.on_gpus
    assert numbers(metric.compute()) == numbers(streamed(acts, labels, []).compute())


def test_arrays_without_torch_are_refused(cuda: CudaHalf, monkeypatch: pytest.MonkeyPatch) -> None:
    acts, labels = data()
    message = "acts is on cuda:3, where a stream is kept in torch tensors; import torch with CUDA first"
    for name in ("torch of a CPU", "no torch"):
        if name == "no torch":
            monkeypatch.delitem(sys.modules, "torch", raising=False)
        metric = BundleEntropy()
        with pytest.raises(ValueError, match=message):
            metric.update(OnGpu(acts), OnGpu(labels))
        assert metric.num_rows == 0
    assert not cuda.calls


# --- with torch made to believe in a GPU ------------------------------------------------------------------


def test_stream_of_the_caller(cuda: CudaHalf, torch_with_gpu: TorchWithGpu) -> None:
    acts, labels = nan_data()
    there = [torch_with_gpu.tensor(torch_with_gpu.torch.from_numpy(x)) for x in (acts, labels)]
    metric = BundleEntropy()
    metric.update(there[0][:40], there[1][:40])
    first, second = torch_with_gpu.stream, FakeStream(800)
    assert (first.waited_for, torch_with_gpu.recorded) == ([], [])
    torch_with_gpu.stream = second
    metric.update(there[0][40:], there[1][40:])
    assert second.waited_for == [700], "work on the state is queued behind earlier work on it"
    (store,) = metric.held.on_gpus.values()
    first_block = store._blocks[0]
    # the allocator must not give them away while the second stream uses them
    assert torch_with_gpu.recorded == [(first_block.patterns.data_ptr(), 800), (first_block.labels.data_ptr(), 800)]
    torch_with_gpu.stream = first
    result = metric.compute()
    assert first.waited_for == [800]
    assert numbers(result) == numbers(streamed(acts, labels, []).compute())
    assert (result.device, result.backend) == ("cuda:1", "cuda")
    assert [(n, d["device"], d["stream"]) for n, d in cuda.calls] == [
        ("row_fingerprints", 1, 700), ("row_fingerprints", 1, 800), ("row_fingerprints", 1, 800),
        ("count_fingerprints", 1, 700),
    ]  # fmt: skip


def test_and_cpu_mixed(cuda: CudaHalf, torch_with_gpu: TorchWithGpu) -> None:
    acts, labels = nan_data()
    metric = BundleEntropy()
    metric.update(acts[:100], labels[:100])
    there = [torch_with_gpu.tensor(torch_with_gpu.torch.from_numpy(x)) for x in (acts[100:], labels[100:])]
    metric.update(*there)
    assert numbers(metric.compute()) == numbers(streamed(acts, labels, []).compute())
    assert "count_fingerprints" not in cuda.names()


def test_labels_of_another_library(cuda: CudaHalf, torch_with_gpu: TorchWithGpu) -> None:
    """The copy of the labels waits for their stream, and the library's array lives until it was read."""
    acts, labels = data()
    rows = as_rows(torch_with_gpu.tensor(torch_with_gpu.torch.from_numpy(acts)))
    owner = torch_with_gpu.torch.from_numpy(labels)
    theirs = as_labels(owner, as_rows(acts))
    theirs = theirs._replace(device="cuda:1", device_index=1, stream=4096, producer=owner)
    store = GpuRowStore(backends.TABLE["cuda"].on_gpu, "cuda:1", "float32")
    copied: list[list[int]] = []
    torch_with_gpu.when_recorded = lambda: copied.append(store._blocks[0].labels.tolist())
    store.append(rows, theirs, None, 5)
    assert copied == [labels.tolist()], "held until after the copy, not until before it"
    assert cuda.names()[:2] == ["wait_for", "row_fingerprints"]
    assert (cuda.calls[0][1]["stream"], cuda.calls[0][1]["producer"]) == (700, 4096)
    assert len(torch_with_gpu.events) == 1


def test_too_many_rows_for_the_gpu_are_counted_on_the_cpu(
    tensors: Any, half: CudaHalf, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts, labels = nan_data()
    metric = streamed(acts, labels, [100], NAME)
    monkeypatch.setattr(backends, "MOST_ROWS_ON_A_GPU", 299)
    assert numbers(metric.compute()) == numbers(streamed(acts, labels, []).compute())
    assert "count_fingerprints" not in half.names()

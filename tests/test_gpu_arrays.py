"""Arrays on a GPU: what reaches the compiled half, on which stream, in which order; whose arrays come back.

Runs on stand-ins in CPU memory (``cuda_stand_in.py``); nothing here has seen a GPU. Those tests are in ``gpu/``.
"""

from __future__ import annotations

import ctypes
import gc
import math
import re
import sys
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cbkernels as cb
from cbkernels import arrays, backends, device_arrays
from cbkernels.arrays import DTYPES, as_labels, as_rows

from . import cuda_stand_in, emulation
from .cuda_stand_in import NAME, CudaHalf, OnGpu, OnGpuWithDlpack, TorchWithGpu, array_of_library
from .inputs import LAYOUTS, WITHOUT_NUMPY_TYPE

cuda, half, torch_with_gpu = cuda_stand_in.cuda, cuda_stand_in.half, cuda_stand_in.torch_with_gpu

ROWS = np.array([[1, 2], [0, 5], [1, 2], [0, 5], [3, 3], [3, 3]], np.float32)
LABELS = np.array([0, 0, 1, 1, 0, 1])
IDS = [0, 1, 0, 1, 2, 2]


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)


def streams(half: CudaHalf) -> list[tuple[str, Any, Any]]:
    """(call, stream, whom it waits for) of every call."""
    return [(name, details["stream"], details.get("producer")) for name, details in half.calls]


# --- __cuda_array_interface__ -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d not in WITHOUT_NUMPY_TYPE])
def test_every_type_is_read(cuda: CudaHalf, without_torch: None, dtype: str) -> None:
    acts = ROWS.astype(dtype)
    expected = cb.bundle_entropy(acts, LABELS)
    result = cb.bundle_entropy(OnGpu(acts), OnGpu(LABELS))
    assert (result.dtype, result.device, result.backend) == (dtype, "cuda:3", "cuda")
    assert (result.num_bundles, result.num_conflicting) == (expected.num_bundles, expected.num_conflicting)
    assert result.entropy == expected.entropy


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_is_read_in_place(cuda: CudaHalf, without_torch: None, layout: str) -> None:
    acts = LAYOUTS[layout](np.arange(6 * 60, dtype=np.float32).reshape(6, 60))
    rows = as_rows(OnGpu(acts))
    assert (rows.pointer, rows.shape, rows.strides) == (acts.ctypes.data, acts.shape, acts.strides)
    assert cb.bundle_entropy(OnGpu(acts), OnGpu(LABELS)).num_bundles == 6
    ((_, details),) = cuda.calls
    assert details["layers"] == [(acts.ctypes.data, acts.shape, acts.strides, 1)]
    assert details["labels"] == LABELS.ctypes.data


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 0), (6, 2, 3, 4), (6, 0, 3), (1, 1)])
def test_no_strides_means_packed(half: CudaHalf, shape: tuple[int, ...]) -> None:
    values = np.zeros(shape, np.int16)
    rows = as_rows(OnGpuWithDlpack(values, strides=None))
    used = [(a, b) for a, b, extent in zip(rows.strides, values.strides, shape, strict=True) if extent > 1]
    assert all(a == b for a, b in used) or 0 in shape
    assert len(rows.strides) == len(shape)


def test_old_versions_have_no_stream_and_no_strides(half: CudaHalf) -> None:
    class Old(OnGpuWithDlpack):
        @property
        def __cuda_array_interface__(self) -> dict[str, Any]:
            now = super().__cuda_array_interface__
            return {key: now[key] for key in ("shape", "typestr", "data")} | {"version": 0}

    rows = as_rows(Old(ROWS))
    assert (rows.strides, rows.stream) == ((8, 4), None)


def test_device_comes_from_dlpack_or_else_from_the_driver(cuda: CudaHalf) -> None:
    assert as_rows(OnGpuWithDlpack(ROWS)).device == "cuda:1"
    assert as_rows(OnGpu(ROWS)).device == "cuda:3"
    assert as_rows(OnGpu(ROWS)).device_index == 3


def test_managed_memory_is_on_a_gpu(cuda: CudaHalf) -> None:
    class Managed(OnGpu):
        def __dlpack_device__(self) -> tuple[int, int]:
            return (13, 2)

        def __dlpack__(self, **options: Any) -> Any:
            raise BufferError("this capsule is for a GPU")

    assert as_rows(Managed(ROWS)).device == "cuda:2"


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"mask": OnGpu(ROWS)}, TypeError, "acts is a masked array; fill it first"),
    ({"stream": 0}, ValueError, "acts names stream 0, which may be two streams; its library must say 1, 2 or"),
    ({"typestr": "<c8"}, TypeError, "acts has dtype complex64; it must be real"),
    ({"typestr": ">f4"}, TypeError, "acts has dtype >f4; convert it to this machine's byte order first"),
    ({"typestr": "|V2"}, TypeError, "acts has dtype void16; it must be real"),
    ({"typestr": "nonsense"}, TypeError, "acts has a damaged __cuda_array_interface__ (TypeError: "),
    ({"data": None}, TypeError, "acts has a damaged __cuda_array_interface__ (TypeError: "),
    ({"data": (0, False)}, ValueError, "bytes into memory of 0, so its values are not there; pass it before"),
    ({"strides": (4,)}, TypeError, "damaged __cuda_array_interface__ (ValueError: 1 strides for 2 axes)"),
    ({"stream": "main"}, TypeError, "acts has a damaged __cuda_array_interface__ (ValueError: "),
    ({"shape": ()}, ValueError, "acts has shape (); it needs a first axis"),
    ({"shape": (0, 2)}, ValueError, "acts has shape (0, 2); at least one row is needed"),
]


@pytest.mark.parametrize(
    ("changes", "kind", "message"), REFUSED, ids=[f"{list(c)}-{message[:40]}" for c, _, message in REFUSED]
)
def test_refusals(
    cuda: CudaHalf, without_torch: None, changes: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=re.escape(message)) as caught:
        cb.bundle_entropy(OnGpu(ROWS, **changes), OnGpu(LABELS))
    assert "\n" not in str(caught.value)
    assert not cuda.calls


def test_interface_without_a_type(cuda: CudaHalf) -> None:
    class Half(OnGpu):
        __cuda_array_interface__ = {"data": (1, False), "shape": (2, 2)}  # type: ignore[assignment]  # noqa: RUF012

    with pytest.raises(TypeError, match=re.escape("acts has a damaged __cuda_array_interface__ (KeyError: 'typestr')")):
        as_rows(Half(ROWS))


# --- streams ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of_acts", "of_labels", "expected"),
    [
        (None, None, [("count_bundles", 0, None)]),
        (1, None, [("count_bundles", 1, None)]),
        (2, None, [("count_bundles", 2, None)]),
        (4096, None, [("count_bundles", 4096, None)]),
        (None, 4096, [("count_bundles", 4096, None)]),
        (4096, 4096, [("count_bundles", 4096, None)]),
        (4096, 8192, [("wait_for", 4096, 8192), ("count_bundles", 4096, None)]),
        (1, 4096, [("wait_for", 1, 4096), ("count_bundles", 1, None)]),
    ],
)
def test_work_runs_on_the_producers_stream(
    cuda: CudaHalf, of_acts: int | None, of_labels: int | None, expected: list[Any]
) -> None:
    cb.bundle_entropy(OnGpu(ROWS, of_acts), OnGpu(LABELS, of_labels))
    assert streams(cuda) == expected
    assert {details["device"] for _, details in cuda.calls} == {3}
    cuda.calls.clear()
    cb.conflict_margin(OnGpu(ROWS, of_acts), OnGpu(LABELS, of_labels))
    assert streams(cuda) == [("conflict_margin" if n == "count_bundles" else n, s, p) for n, s, p in expected]


def test_each_stream_of_several_layers_is_waited_for_once(cuda: CudaHalf) -> None:
    layers = {name: OnGpu(ROWS, stream) for name, stream in (("a", 11), ("b", 12), ("c", 11), ("d", None), ("e", 13))}
    cb.bundle_entropy_layers(layers, OnGpu(LABELS, 12))
    assert streams(cuda) == [("wait_for", 11, 12), ("wait_for", 11, 13), ("count_bundles", 11, None)]


def test_tensors_are_read_on_torchs_current_stream(cuda: CudaHalf, torch_with_gpu: TorchWithGpu) -> None:
    acts = torch_with_gpu.tensor(torch_with_gpu.torch.from_numpy(ROWS))
    labels = torch_with_gpu.tensor(torch_with_gpu.torch.from_numpy(LABELS))
    assert cb.bundle_entropy(acts, labels).device == "cuda:1"
    ids = cb.bundle_rows(acts)
    assert cb.conflict_margin(acts, labels) == 0.0
    assert streams(cuda) == [("count_bundles", 700, None), ("bundle_ids", 700, None), ("conflict_margin", 700, None)]
    assert {details["device"] for _, details in cuda.calls} == {1}
    assert (type(ids), ids.tolist()) == (torch_with_gpu.kind, IDS)
    assert cuda.calls[1][1]["ids"] == ids.data_ptr()


def test_tensors_wait_for_the_streams_of_other_arrays(cuda: CudaHalf, torch_with_gpu: TorchWithGpu) -> None:
    acts = torch_with_gpu.tensor(torch_with_gpu.torch.from_numpy(ROWS))
    rows = as_rows(acts)
    view = as_rows(OnGpu(LABELS, 4096))._replace(device="cuda:1", device_index=1)
    assert device_arrays.streams_of([rows, view]) == (700, [4096])
    assert device_arrays.streams_of([view, rows]) == (700, [4096])
    assert device_arrays.streams_of([view]) == (4096, [])
    # torch's 0 and the protocol's 1 are the same stream
    torch_with_gpu.stream = cuda_stand_in.FakeStream(0)
    assert device_arrays.streams_of([rows, view._replace(stream=1)]) == (0, [])


def test_memory_on_the_cpu_needs_no_stream(half: CudaHalf) -> None:
    cb.bundle_entropy(ROWS, LABELS, backend=NAME)
    assert streams(half) == [("count_bundles", 0, None)]
    assert half.calls[0][1]["device"] == 0


# --- one call for all layers ------------------------------------------------------------------------------


def test_layers_go_in_one_call(half: CudaHalf) -> None:
    layers = {"first": ROWS, "second": ROWS.astype(np.float16)[:, :1], "third": (ROWS * 0).reshape(6, 2, 1)}
    results = cb.bundle_entropy_layers(layers, LABELS, backend=NAME)
    ((_, details),) = half.calls
    assert [(shape, code) for _, shape, _, code in details["layers"]] == [((6, 2), 1), ((6, 1), 2), ((6, 2, 1), 1)]
    assert details["layers"][0][0] == ROWS.ctypes.data
    expected = cb.bundle_entropy_layers(layers, LABELS, backend="cpu")
    assert list(results) == list(expected)
    for name, result in results.items():
        assert (result.entropy, result.num_bundles) == (expected[name].entropy, expected[name].num_bundles)
        assert (result.dtype, result.num_columns) == (expected[name].dtype, expected[name].num_columns)


def test_no_layer_no_call(half: CudaHalf) -> None:
    assert cb.bundle_entropy_layers({}, LABELS, backend=NAME) == {}
    assert backends.TABLE[NAME].count_layers([], as_labels(LABELS, as_rows(ROWS)), None, True) == []
    for name in (NAME, "cpu"):
        assert backends.TABLE[name].queue_layers([], as_labels(LABELS, as_rows(ROWS)), None, True)() == []
    assert not half.calls


def test_every_backend_counts_layers_as_one_by_one(backend: str) -> None:
    layers = [as_rows(ROWS), as_rows(ROWS * 0), as_rows(np.full((6, 1), math.nan))]
    if backend == "cuda":
        pytest.skip("layers of NumPy arrays: NOT TESTED HERE (tests/gpu does it on the GPU)")
    labels = as_labels(LABELS, layers[0])
    chosen = backends.TABLE[backend]
    for together, rows in zip(chosen.count_layers(layers, labels, None, True), layers, strict=True):
        alone = chosen.count_bundles(rows, labels, None, None, True)
        assert (together.num_rows, together.num_bundles, together.num_nan_rows) == (
            alone.num_rows, alone.num_bundles, alone.num_nan_rows,
        )  # fmt: skip
        assert together.label_counts.tolist() == alone.label_counts.tolist()
        assert together.starts.tolist() == alone.starts.tolist()


def test_layers_of_two_devices_are_refused(cuda: CudaHalf) -> None:
    with pytest.raises(ValueError, match=re.escape("layers['b'] is on cuda:1 and labels on cuda:3; move one")):
        cb.bundle_entropy_layers({"a": OnGpu(ROWS), "b": OnGpuWithDlpack(ROWS)}, OnGpu(LABELS))
    with pytest.raises(ValueError, match=re.escape("acts is on cuda:3 and labels on cpu; move one to the other")):
        cb.bundle_entropy(OnGpu(ROWS), LABELS)
    assert not cuda.calls


# --- whose arrays come back -------------------------------------------------------------------------------


def test_ids_of_a_cupy_array_without_torch(
    cuda: CudaHalf, without_torch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cupy = cuda_stand_in.fake_cupy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    ids = cb.bundle_rows(array_of_library("cupy", ROWS, stream=4096))
    assert cupy.log == [("device", 1), ("empty", 6, np.int64), "left"]
    assert device_arrays.library_of(ids) == "cupy"
    assert ids.values.tolist() == IDS
    assert cuda.calls[0][1]["ids"] == ids.values.ctypes.data
    assert streams(cuda) == [("bundle_ids", 4096, None)]


@pytest.mark.parametrize(("stream", "expected"), [(None, 0), (1, 0), (2, 0), (4096, "stream 4096")])
def test_ids_of_a_numba_array(
    cuda: CudaHalf, monkeypatch: pytest.MonkeyPatch, stream: int | None, expected: Any
) -> None:
    numba = cuda_stand_in.fake_numba_cuda()
    monkeypatch.setitem(sys.modules, "numba", type(sys)("numba"))
    monkeypatch.setitem(sys.modules, "numba.cuda", numba)
    ids = cb.bundle_rows(array_of_library("numba_cuda", ROWS, stream=stream))
    assert numba.log == [("gpu", 1), ("device_array", 6, np.int64, expected)]
    assert ids.values.tolist() == IDS
    assert streams(cuda) == [("bundle_ids", stream or 0, None)]


def test_a_library_that_lends_no_memory(cuda: CudaHalf, without_torch: None) -> None:
    acts = array_of_library("jaxlib", ROWS)
    with pytest.raises(
        ValueError, match="acts is a jax ndarray on cuda:1, which lends no memory for ids; import torch"
    ):
        cb.bundle_rows(acts)
    assert not cuda.calls
    assert cb.bundle_entropy(acts, OnGpuWithDlpack(LABELS)).num_bundles == 3


@pytest.mark.parametrize("library", ["cupy", "jax", "numba", "somewhere"])
def test_ids_go_back_to_the_library_through_torch(
    cuda: CudaHalf, torch_with_gpu: TorchWithGpu, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", cuda_stand_in.fake_cupy())
    monkeypatch.setitem(sys.modules, "numba", type(sys)("numba"))
    monkeypatch.setitem(sys.modules, "numba.cuda", cuda_stand_in.fake_numba_cuda())
    jax_dlpack = type(sys)("jax.dlpack")
    jax_dlpack.from_dlpack = lambda ids: ("jax", ids.cpu().tolist())  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jax", type(sys)("jax"))
    monkeypatch.setitem(sys.modules, "jax.dlpack", jax_dlpack)
    ids = cb.bundle_rows(array_of_library({"jax": "jaxlib"}.get(library, library), ROWS))
    if library == "cupy":
        assert (device_arrays.library_of(ids), ids.values.tolist()) == ("cupy", IDS)
    elif library == "somewhere":
        assert (type(ids), ids.tolist()) == (torch_with_gpu.kind, IDS)
    else:
        assert ids == (library, IDS)
    assert streams(cuda) == [("bundle_ids", 700, None)]


def test_dlpack_goes_through_torch_where_torch_has_a_gpu(cuda: CudaHalf, torch_with_gpu: TorchWithGpu) -> None:
    """Torch tells the producer its current stream; the interface's own stream needs no second wait."""
    result = cb.bundle_entropy(OnGpuWithDlpack(ROWS, 4096), OnGpuWithDlpack(LABELS, 8192))
    assert (result.device, result.num_bundles) == ("cuda:1", 3)
    assert streams(cuda) == [("count_bundles", 700, None)]


def test_dlpack_alone_needs_torch(cuda: CudaHalf, without_torch: None) -> None:
    class DlpackAlone:
        def __dlpack_device__(self) -> tuple[int, int]:
            return (2, 0)

        def __dlpack__(self, **options: Any) -> Any:
            raise BufferError("this capsule is for a GPU")

    with pytest.raises(
        ValueError, match=re.escape("acts is on DLPack device (2, 0); import torch to pass it, or copy")
    ):
        cb.bundle_rows(DlpackAlone())


# --- lifetimes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["bundle_rows", "queue_layers", "queue_margin"])
def test_arrays_of_other_libraries_live_until_they_are_read(
    cuda: CudaHalf, torch_with_gpu: TorchWithGpu, call: str
) -> None:
    names = torch_with_gpu.tensor(torch_with_gpu.torch.from_numpy(LABELS))

    def queue() -> weakref.ref[Any]:
        acts = array_of_library("somewhere", ROWS.copy())
        rows = as_rows(acts)
        labels, backend = as_labels(names, rows), backends.TABLE["cuda"]
        if call == "bundle_rows":
            cb.bundle_rows(acts)
        elif call == "queue_layers":
            backend.queue_layers([rows], labels, None, True)
        else:
            backend.queue_margin(rows, labels)
        return weakref.ref(acts)

    first = queue()
    gc.collect()
    assert first() is not None, "the GPU has not read it yet"
    second = queue()
    assert [event.recorded_on for event in torch_with_gpu.events] == [700, 700]
    torch_with_gpu.events[0].done = True
    third = queue()
    gc.collect()
    assert first() is None
    assert second() is not None
    assert third() is not None


def test_tensors_are_not_held(cuda: CudaHalf, torch_with_gpu: TorchWithGpu) -> None:
    cb.bundle_rows(torch_with_gpu.tensor(torch_with_gpu.torch.from_numpy(ROWS)))
    assert not torch_with_gpu.events


def test_views_hold_their_array(cuda: CudaHalf) -> None:
    rows = as_rows(OnGpu(np.arange(200_000, dtype=np.float32).reshape(1000, 200)))
    assert rows.owner.values[999, 199] == 199_999


# --- what a GPU cannot do ---------------------------------------------------------------------------------


def test_too_many_rows_for_a_gpu(cuda: CudaHalf) -> None:
    many = {"shape": (2**30, 1), "strides": (0, 0)}
    labels = OnGpu(np.zeros(1, np.int64), shape=(2**30,), strides=(0,))
    for call in (
        lambda x: cb.bundle_rows(x),
        lambda x: cb.bundle_entropy(x, labels),
        lambda x: cb.bundle_entropy_layers({"a": x}, labels),
        lambda x: cb.conflict_margin(x, labels),
        lambda x: cb.BundleEntropy().update(x, labels),
    ):
        with pytest.raises(
            ValueError, match="acts has 1073741824 rows; a GPU counts at most 1073741823, so pass fewer"
        ):
            call(OnGpu(np.zeros(1, np.float32), **many))
    assert not cuda.calls


def test_gpu_memory_for_backends_of_the_cpu(cuda: CudaHalf) -> None:
    for name in ("cpu", "reference"):
        with pytest.raises(ValueError, match=f"acts is on cuda:3, where backend '{name}' cannot work; use backend"):
            cb.bundle_rows(OnGpu(ROWS), backend=name)


def test_cpu_memory_for_the_gpu(cuda: CudaHalf) -> None:
    with pytest.raises(ValueError, match="acts is on cpu, where backend 'cuda' cannot work; move it to a GPU or use"):
        cb.bundle_rows(ROWS, backend="cuda")


def test_a_gpu_that_is_not_there_is_said_first(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoGpu(CudaHalf):
        def require(self) -> None:
            raise ValueError("there is no GPU")

    monkeypatch.setitem(backends.TABLE, "cuda", backends.Cuda("cuda", NoGpu()))
    calls: list[Callable[[], Any]] = [
        lambda: cb.bundle_rows(ROWS, backend="cuda"),
        lambda: cb.bundle_rows(array_of_library("cupy", ROWS)),
        lambda: cb.BundleEntropy(backend="cuda").update(ROWS, LABELS),
        lambda: cb.bundle_entropy_layers({"a": ROWS}, LABELS, backend="cuda"),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"^there is no GPU$"):
            call()


def test_values_that_are_not_aligned() -> None:
    if emulation.NAME not in backends.TABLE:
        pytest.skip("values that are not aligned: NOT TESTED HERE (no emulated GPU)")
    with pytest.raises(ValueError, match=r"^acts begins at address .* copy the array first$") as caught:
        cb.bundle_rows(LAYOUTS["not_aligned"](ROWS), backend=emulation.NAME)
    assert "\n" not in str(caught.value)


# --- fingerprints -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_fingerprints_where_the_input_lives(half: CudaHalf, dtype: str) -> None:
    acts = ROWS.astype(dtype)
    if dtype == "float32":
        acts[4, 0] = math.nan
    right, holds_nan = backends.TABLE["cpu"].row_fingerprints(as_rows(acts), None)
    found, flags = backends.TABLE[NAME].row_fingerprints(as_rows(acts), None)
    assert isinstance(found, np.ndarray)
    assert (found.dtype, flags.dtype) == (np.uint64, np.bool_)
    assert np.array_equal(found, right)
    assert np.array_equal(flags, holds_nan)
    torch = pytest.importorskip("torch", reason="torch: NOT TESTED HERE")
    found, flags = backends.TABLE[NAME].row_fingerprints(as_rows(torch.from_numpy(acts)), None)
    assert (found.dtype, flags.dtype) == (torch.uint64, torch.bool)
    assert np.array_equal(found.numpy(), right)
    assert np.array_equal(flags.numpy(), holds_nan)


def test_zero_fingerprints_of_integers_are_no_nan(half: CudaHalf, monkeypatch: pytest.MonkeyPatch) -> None:
    def zeros(acts: int, shape: Any, strides: Any, dtype: int, grid: Any, key: Any, to: int, *where: int) -> None:
        ctypes.memset(to, 0, 16 * shape[0])

    monkeypatch.setattr(half, "row_fingerprints", zeros)
    torch = pytest.importorskip("torch", reason="torch: NOT TESTED HERE")
    for convert in (np.asarray, torch.from_numpy):
        assert not backends.TABLE[NAME].row_fingerprints(as_rows(convert(ROWS.astype(np.int32))), None)[1].any()
        assert backends.TABLE[NAME].row_fingerprints(as_rows(convert(ROWS)), None)[1].all()


def test_fingerprints_on_a_gpu_need_torch(cuda: CudaHalf, without_torch: None) -> None:
    with pytest.raises(ValueError, match="acts is on cuda:3, where fingerprints are tensors; import torch first"):
        backends.TABLE["cuda"].row_fingerprints(as_rows(OnGpu(ROWS)), None)
    assert arrays.torch_with_gpu() is None


# --- no memory left ---------------------------------------------------------------------------------------

CALLS = {
    "bundle_rows": lambda acts, labels: cb.bundle_rows(acts),
    "bundle_entropy": cb.bundle_entropy,
    "conflict_margin": cb.conflict_margin,
}


@pytest.mark.parametrize("call", CALLS)
def test_a_call_is_tried_again_with_the_memory_that_torch_held_in_reserve(
    cuda: CudaHalf, torch_with_gpu: TorchWithGpu, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    given_back: list[int] = []
    monkeypatch.setattr(torch_with_gpu.torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch_with_gpu.torch.cuda, "empty_cache", lambda: given_back.append(1))
    acts, labels = (torch_with_gpu.tensor(torch_with_gpu.torch.from_numpy(x)) for x in (ROWS, LABELS))
    expected = CALLS[call](acts, labels)
    assert given_back == []
    cuda.calls_without_memory = 1
    assert str(CALLS[call](acts, labels)) == str(expected)
    assert given_back == [1]
    cuda.calls_without_memory = 2
    with pytest.raises(
        MemoryError, match=r"^the GPU has no memory left for the call .*; free some of it, or pass fewer"
    ):
        CALLS[call](acts, labels)
    assert cuda.calls_without_memory == 0


def test_without_torch_a_call_without_memory_says_so(cuda: CudaHalf, without_torch: None) -> None:
    cuda.calls_without_memory = 2
    with pytest.raises(MemoryError, match="the GPU has no memory left"):
        cb.bundle_entropy(OnGpu(ROWS), OnGpu(LABELS))


def test_nothing_is_given_back_while_a_graph_is_captured(
    cuda: CudaHalf, torch_with_gpu: TorchWithGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would end the capture."""
    given_back: list[int] = []
    monkeypatch.setattr(torch_with_gpu.torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch_with_gpu.torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(torch_with_gpu.torch.cuda, "empty_cache", lambda: given_back.append(1))
    cuda.calls_without_memory = 2
    with pytest.raises(MemoryError):
        cb.bundle_rows(torch_with_gpu.tensor(torch_with_gpu.torch.from_numpy(ROWS)))
    assert given_back == []

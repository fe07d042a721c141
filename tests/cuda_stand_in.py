"""Stand-ins for what these tests lack: the compiled cuda half, GPU memory, the libraries that own it.

All memory is this process's own; calls, addresses and streams are written down in their order.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cbkernels import _core, backends

NAME = "stand-in for cuda"


class CudaHalf:
    """The functions of ``_core.cuda`` on CPU memory, by the cpu half; ``calls`` holds (name, details)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.broken_after: int | None = None
        self.calls_without_memory = 0

    def note(self, name: str, **details: Any) -> None:
        if self.calls_without_memory:
            self.calls_without_memory -= 1
            raise MemoryError
        if self.broken_after is not None:
            if self.broken_after == 0:
                raise RuntimeError("the GPU is out of memory")
            self.broken_after -= 1
        self.calls.append((name, details))

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def count_bundles(
        self, layers: Any, labels: int, label_stride: int, label_dtype: int, grid: Any, tolerance: Any,
        check_nan: bool, device: int, stream: int,
    ) -> Any:  # fmt: skip
        self.note("count_bundles", layers=layers, labels=labels, device=device, stream=stream)
        return [
            _core.cpu.count_bundles(*acts, labels, label_stride, label_dtype, grid, tolerance, check_nan, 1)
            for acts in layers
        ]

    def bundle_ids(
        self, acts: int, shape: Any, strides: Any, dtype: int, grid: Any, tolerance: Any,
        ids: int, device: int, stream: int,
    ) -> None:  # fmt: skip
        self.note("bundle_ids", acts=acts, strides=strides, ids=ids, device=device, stream=stream)
        _core.cpu.bundle_ids(acts, shape, strides, dtype, grid, tolerance, ids, 1)

    def row_fingerprints(
        self, acts: int, shape: Any, strides: Any, dtype: int, grid: Any, key: Any,
        fingerprints: int, device: int, stream: int,
    ) -> None:  # fmt: skip
        self.note("row_fingerprints", acts=acts, shape=shape, to=fingerprints, device=device, stream=stream)
        unused = np.empty(shape[0], np.bool_)
        _core.cpu.row_fingerprints(acts, shape, strides, dtype, grid, key, fingerprints, unused.ctypes.data, 1)

    def count_fingerprints(
        self, fingerprints: int, labels: int, num_rows: int, may_hold_nan: bool, device: int, stream: int
    ) -> Any:
        self.note("count_fingerprints", num_rows=num_rows, nan=may_hold_nan, device=device, stream=stream)
        found = _memory(fingerprints, (num_rows, 2), np.uint64)
        kept = (found != 0).any(axis=1) | (not may_hold_nan)
        found, names = found[kept], _memory(labels, (num_rows,), np.int64)[kept]
        blocks = [(found.ctypes.data, names.ctypes.data, len(names))]
        bundles, _, *others = _core.count_fingerprints(blocks, 1)
        return bundles + num_rows - len(names), num_rows - len(names), *others

    def conflict_margin(
        self, acts: int, shape: Any, strides: Any, dtype: int, labels: int, label_stride: int,
        label_dtype: int, device: int, stream: int,
    ) -> float:  # fmt: skip
        self.note("conflict_margin", acts=acts, labels=labels, device=device, stream=stream)
        return _core.cpu.conflict_margin(acts, shape, strides, dtype, labels, label_stride, label_dtype, 1)

    def queue_bundles(
        self, layers: Any, labels: int, label_stride: int, label_dtype: int, grid: Any, check_nan: bool,
        device: int, stream: int,
    ) -> Callable[[], Any]:  # fmt: skip
        self.note("queue_bundles", layers=layers, labels=labels, device=device, stream=stream)
        return self._read_later(
            [
                _core.cpu.count_bundles(*acts, labels, label_stride, label_dtype, grid, None, check_nan, 1)
                for acts in layers
            ]
        )

    def queue_margin(
        self, acts: int, shape: Any, strides: Any, dtype: int, labels: int, label_stride: int,
        label_dtype: int, device: int, stream: int,
    ) -> Callable[[], float]:  # fmt: skip
        self.note("queue_margin", acts=acts, labels=labels, device=device, stream=stream)
        return self._read_later(
            _core.cpu.conflict_margin(acts, shape, strides, dtype, labels, label_stride, label_dtype, 1)
        )

    def _read_later(self, numbers: Any) -> Callable[[], Any]:
        def read() -> Any:
            self.note("read")
            return numbers

        return read

    def wait_for(self, device: int, stream: int, producer: int) -> None:
        self.note("wait_for", device=device, stream=stream, producer=producer)

    def device_of(self, address: int) -> int:
        return 3

    def require(self) -> None:
        return None

    def missing_reason(self) -> str:
        return ""


def _memory(address: int, shape: tuple[int, ...], kind: Any) -> np.ndarray:
    interface = {"data": (address, True), "shape": shape, "typestr": np.dtype(kind).str, "version": 3}
    return np.asarray(SimpleNamespace(__array_interface__=interface))


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> CudaHalf:
    """A backend called NAME in the table, for memory on the CPU and memory said to be on a GPU."""
    functions = CudaHalf()
    monkeypatch.setitem(backends.TABLE, NAME, backends.Cuda(NAME, functions))
    return functions


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> CudaHalf:
    """The backend "cuda" itself on a stand-in, so that "auto" finds it."""
    functions = CudaHalf()
    monkeypatch.setitem(backends.TABLE, "cuda", backends.Cuda("cuda", functions))
    monkeypatch.setattr(_core.cuda, "device_of", functions.device_of)
    monkeypatch.setattr(_core.cuda, "require", functions.require)
    return functions


class OnGpu:
    """An array that says through ``__cuda_array_interface__`` that it is on a GPU."""

    def __init__(self, values: Any, stream: int | None = None, **changes: Any) -> None:
        self.values = np.asarray(values)
        self.stream = stream
        self.changes = changes

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        packed = self.values.flags.c_contiguous
        interface = {
            "shape": self.values.shape, "typestr": self.values.dtype.str, "version": 3, "stream": self.stream,
            "data": (self.values.ctypes.data, False), "strides": None if packed else self.values.strides,
        }  # fmt: skip
        return {**interface, **self.changes}


class OnGpuWithDlpack(OnGpu):
    """The same with DLPack, which names the device: 1."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 1)

    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("this capsule is for a GPU")


def array_of_library(package: str, values: Any, **options: Any) -> OnGpu:
    """An array whose type says that it comes from ``package``."""
    kind = type("ndarray", (OnGpuWithDlpack,), {"__module__": f"{package}._core"})
    array: OnGpu = kind(values, **options)
    return array


class FakeStream:
    """Of torch: its address, and whom it has waited for."""

    def __init__(self, address: int) -> None:
        self.cuda_stream = address
        self.waited_for: list[int] = []

    def wait_stream(self, other: FakeStream) -> None:
        self.waited_for.append(other.cuda_stream)


class TorchWithGpu:
    """Makes torch believe in a GPU: tensors say "cuda:1", ``stream`` is the current stream, all in CPU memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        torch = pytest.importorskip("torch", reason="torch: NOT TESTED HERE")
        self.torch = torch
        self.stream = FakeStream(700)
        self.events: list[SimpleNamespace] = []
        self.recorded: list[tuple[int, int]] = []
        self.when_recorded: Callable[[], Any] = lambda: None
        world = self

        class CudaTensor(torch.Tensor):
            device = property(lambda _: torch.device("cuda:1"))  # type: ignore[assignment]
            is_cpu = property(lambda _: False)  # type: ignore[assignment]
            is_cuda = property(lambda _: True)  # type: ignore[assignment]

            def get_device(self) -> int:
                return 1

            def record_stream(self, stream: FakeStream) -> None:
                world.recorded.append((self.data_ptr(), stream.cuda_stream))

            def cpu(self) -> Any:
                return self.as_subclass(torch.Tensor).clone()

        self.kind = CudaTensor
        empty = torch.empty
        monkeypatch.setattr(torch, "empty", lambda *shape, device=None, **o: self.tensor(empty(*shape, **o)))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: self.stream)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        monkeypatch.setattr(torch.cuda, "Event", self._event)
        monkeypatch.setattr(torch, "from_dlpack", lambda x: self.tensor(torch.from_numpy(x.values)))

    def tensor(self, x: Any) -> Any:
        """The same memory as a tensor "on cuda:1"."""
        return x.as_subclass(self.kind)

    def _event(self) -> SimpleNamespace:
        event = SimpleNamespace(done=False, recorded_on=None)

        def record(stream: FakeStream) -> None:
            event.recorded_on = stream.cuda_stream
            self.when_recorded()

        event.record = record
        event.query = lambda: event.done
        self.events.append(event)
        return event


@pytest.fixture
def torch_with_gpu(monkeypatch: pytest.MonkeyPatch) -> TorchWithGpu:
    return TorchWithGpu(monkeypatch)


def fake_cupy() -> Any:
    """What of CuPy is used: ``cuda.Device``, ``empty``, ``from_dlpack``; ``log`` says what was done."""
    log: list[Any] = []

    @contextmanager
    def device(index: int) -> Any:
        log.append(("device", index))
        yield
        log.append("left")

    def empty(num_rows: int, kind: Any) -> Any:
        log.append(("empty", num_rows, kind))
        return array_of_library("cupy", np.empty(num_rows, kind))

    def from_dlpack(tensor: Any) -> Any:
        log.append("from_dlpack")
        return array_of_library("cupy", np.asarray(tensor.cpu()))

    return SimpleNamespace(cuda=SimpleNamespace(Device=device), empty=empty, from_dlpack=from_dlpack, log=log)


def fake_numba_cuda() -> Any:
    """What of ``numba.cuda`` is used."""
    log: list[Any] = []

    class Gpus:
        @contextmanager
        def __getitem__(self, index: int) -> Any:
            log.append(("gpu", index))
            yield

    def device_array(num_rows: int, kind: Any, stream: Any) -> Any:
        log.append(("device_array", num_rows, kind, stream))
        return OnGpu(np.empty(num_rows, kind))

    return SimpleNamespace(
        gpus=Gpus(), device_array=device_array, external_stream=lambda address: f"stream {address}",
        as_cuda_array=lambda ids: ("numba", ids.cpu().tolist()), log=log,
    )  # fmt: skip

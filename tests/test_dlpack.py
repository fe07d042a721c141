"""Anything with DLPack: a producer that is neither NumPy nor torch is read in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cbkernels as cb
from cbkernels.arrays import DTYPES, as_rows

from .inputs import LAYOUTS, typed


class Producer:
    """The smallest thing that speaks DLPack, around an array or a tensor."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.asked = 0

    def __dlpack_device__(self) -> tuple[int, int]:
        kind, index = self.inner.__dlpack_device__()
        return int(kind), int(index)

    def __dlpack__(self, **options: Any) -> Any:
        self.asked += 1
        return self.inner.__dlpack__(**options)


class OldProducer(Producer):
    """From before version 1.0 of the protocol: knows no keyword but the stream."""

    def __dlpack__(self, stream: Any = None) -> Any:
        self.asked += 1
        return self.inner.__dlpack__()


LABELS = np.array([0, 0, 1, 1, 0, 1])
ROWS = np.array([[1, 2], [0, 5], [1, 2], [0, 5], [3, 3], [3, 3]])


@pytest.mark.parametrize("producer", [Producer, OldProducer])
@pytest.mark.parametrize("dtype", [d for d in DTYPES if d not in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "bool")])
def test_numpy_behind_a_producer(producer: type[Producer], dtype: str) -> None:
    acts = producer(ROWS.astype(dtype))
    result = cb.bundle_entropy(acts, producer(LABELS))
    assert (result.num_bundles, result.num_conflicting, result.dtype) == (3, 3, dtype)
    assert acts.asked == 1
    ids = cb.bundle_rows(producer(ROWS.astype(dtype)))
    assert ids.tolist() == [0, 1, 0, 1, 2, 2]
    assert isinstance(ids, np.ndarray)


@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_behind_a_producer(dtype: str) -> None:
    """NumPy cannot take bfloat16 or float8 from DLPack; torch can."""
    torch = pytest.importorskip("torch", reason="torch: NOT TESTED HERE")
    tensor = torch.from_numpy(ROWS).to(getattr(torch, dtype))
    acts, expected = Producer(tensor), ([0, 1, 0, 1, 2, 2], 3)
    if dtype == "bool":
        expected = ([0, 1, 0, 1, 0, 0], 2)
    try:
        tensor.__dlpack__()
    except (BufferError, RuntimeError, TypeError, ValueError):
        pytest.skip(f"{dtype} through DLPack: NOT TESTED HERE (this torch does not export it)")
    result = cb.bundle_entropy(acts, Producer(torch.from_numpy(LABELS)))
    assert result.num_bundles == expected[1]
    assert result.dtype == dtype
    assert list(cb.bundle_rows(Producer(tensor))) == expected[0]


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if "backwards" not in name and name != "not_aligned"])
def test_read_in_place(layout: str) -> None:
    """The view points into the producer's own memory, with its strides."""
    acts = LAYOUTS[layout](typed(np.arange(6 * 60).reshape(6, 60), "float32"))
    rows = as_rows(Producer(acts))
    assert rows.pointer == acts.ctypes.data
    assert rows.shape == acts.shape
    assert all(a == b for a, b, extent in zip(rows.strides, acts.strides, acts.shape, strict=True) if extent > 1)
    assert cb.bundle_rows(Producer(acts)).tolist() == list(range(6))


def test_read_only_memory_is_read() -> None:
    acts = ROWS.astype(np.float32)
    acts.flags.writeable = False
    assert cb.bundle_rows(Producer(acts)).tolist() == [0, 1, 0, 1, 2, 2]


def test_memory_lives_while_it_is_measured() -> None:
    rows = as_rows(Producer(np.arange(200_000, dtype=np.float32).reshape(1000, 200)))
    np.full(200_000, 3.0, np.float32)  # would take the memory if it were free
    assert rows.raw()[999, 199] == 199_999


def test_producers_in_layers_streams_and_margins() -> None:
    acts = ROWS.astype(np.float32)
    layers = cb.bundle_entropy_layers({"a": Producer(acts), "b": Producer(acts * 0)}, Producer(LABELS))
    assert [r.num_bundles for r in layers.values()] == [3, 1]
    assert cb.conflict_margin(Producer(acts), Producer(LABELS)) == 0.0
    metric = cb.BundleEntropy()
    metric.update(Producer(acts), Producer(LABELS))
    assert metric.compute().num_bundles == 3


def test_array_interface_without_dlpack() -> None:
    class OldArray:
        def __init__(self, inner: np.ndarray) -> None:
            self.__array_interface__ = inner.__array_interface__
            self.inner = inner

    ids = cb.bundle_rows(OldArray(ROWS.astype(np.float32)))
    assert ids.tolist() == [0, 1, 0, 1, 2, 2]


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_complex_through_dlpack_is_refused(dtype: type) -> None:
    with pytest.raises(TypeError, match=r"acts has dtype (torch\.)?complex"):
        cb.bundle_rows(Producer(ROWS.astype(dtype)))

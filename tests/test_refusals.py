"""Bad input: one clear sentence that quotes the value, as ValueError or TypeError; and nothing is harmed.

The grid's own parameters are in ``test_update_grid.py``, the streaming state in ``test_streaming.py``.
"""

from __future__ import annotations

import math
import mmap
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cbkernels as cb
from cbkernels import _core

GOOD = np.array([[1.0, 2.0], [1.0, 2.0]])
LABELS = np.array([0, 1])


class NotAnArray:
    def __repr__(self) -> str:
        return "NotAnArray()"


ACTS: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    ("no_axis", lambda: np.array(3.0), ValueError, "acts has shape (); it needs a first axis that counts the samples"),
    ("no_row", lambda: np.empty((0, 3)), ValueError, "acts has shape (0, 3); at least one row is needed"),
    ("no_row_at_all", lambda: np.empty(0), ValueError, "acts has shape (0,); at least one row is needed"),
    ("complex", lambda: GOOD * 1j, TypeError, "acts has dtype complex128; it must be real: float, integer or bool"),
    ("objects", lambda: GOOD.astype(object), TypeError, "acts has dtype object; it must be real"),
    ("strings", lambda: np.array([["a"], ["b"]]), TypeError, "acts has dtype str"),
    ("bytes", lambda: np.array([[b"a"], [b"b"]]), TypeError, "acts has dtype bytes"),
    ("dates", lambda: np.array([["2020-01-01"]], "datetime64[D]"), TypeError, "acts has dtype datetime64[D]"),
    ("times", lambda: np.array([[1]], "timedelta64[s]"), TypeError, "acts has dtype timedelta64[s]"),
    ("structured", lambda: np.zeros(2, [("a", "f4")]), TypeError, "it must be real: float, integer or bool"),
    ("long_double", lambda: GOOD.astype(np.longdouble), TypeError, f"acts has dtype {np.dtype(np.longdouble).name}"),
    ("other_byte_order", lambda: GOOD.astype(">f8"), TypeError, "acts has dtype >f8; convert it to this machine's"),
    ("masked", lambda: np.ma.masked_array(GOOD, GOOD > 1), TypeError, "acts is a masked array; fill it first"),
    ("none", lambda: None, TypeError, "acts is a NoneType; pass a NumPy array, a torch tensor or a DLPack producer"),
    ("number", lambda: 3.5, TypeError, "acts is a float; pass a NumPy array"),
    ("string", lambda: "acts.npy", TypeError, "acts is a str; pass a NumPy array"),
    ("something", NotAnArray, TypeError, "acts is a NotAnArray; pass a NumPy array"),
    ("dict", lambda: {"a": GOOD}, TypeError, "acts is a dict; pass a NumPy array"),
    ("class", lambda: np.ndarray, TypeError, "acts is a type; pass a NumPy array"),
    ("empty_list", lambda: [], ValueError, "acts has shape (0,); at least one row is needed"),
    ("list_of_strings", lambda: ["a", "b"], TypeError, "acts has dtype str"),
    ("list_of_none", lambda: [None, None], TypeError, "acts has dtype object"),
    ("huge_python_integers", lambda: [[10**30], [1]], TypeError, "acts has dtype object"),
    ("ragged_list", lambda: [[1.0], [1.0, 2.0]], ValueError, "acts"),
]  # fmt: skip

LABEL_ARRAYS: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    ("float", lambda: np.array([0.0, 1.0]), TypeError, "labels has dtype float64; class labels must be integers"),
    ("float32", lambda: np.zeros(2, np.float32), TypeError, "labels has dtype float32; class labels must be integers"),
    ("complex", lambda: np.zeros(2, complex), TypeError, "labels has dtype complex128"),
    ("objects", lambda: np.array([0, 1], object), TypeError, "labels has dtype object"),
    ("strings", lambda: np.array(["cat", "dog"]), TypeError, "labels has dtype str"),
    ("names", lambda: ["cat", "dog"], TypeError, "number the classes with np.unique(labels, return_inverse=True)[1]"),
    ("two_axes", lambda: np.zeros((2, 1), int), ValueError, "labels has shape (2, 1); it must be (2,), one label"),
    ("no_axis", lambda: np.array(1), ValueError, "labels has shape (); it must be (2,), one label per row"),
    ("too_short", lambda: np.zeros(1, int), ValueError, "labels has 1 entries for 2 rows; they must agree"),
    ("too_long", lambda: np.zeros(3, int), ValueError, "labels has 3 entries for 2 rows; they must agree"),
    ("empty", lambda: np.zeros(0, int), ValueError, "labels has 0 entries for 2 rows; they must agree"),
    ("other_byte_order", lambda: LABELS.astype(">i8"), TypeError, "labels has dtype >i8"),
    ("none", lambda: None, TypeError, "labels is a NoneType; pass a NumPy array"),
    ("number", lambda: 3, TypeError, "labels is a int; pass a NumPy array"),
    ("masked", lambda: np.ma.masked_array(LABELS, [True, False]), TypeError, "labels is a masked array"),
]  # fmt: skip

OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"grid": 1e-3}, TypeError, "grid is 0.001; pass an UpdateGrid or None"),
    ({"grid": (1e-3, 64, 0.7)}, TypeError, "grid is (0.001, 64, 0.7); pass an UpdateGrid or None"),
    ({"tolerance": 0.1}, TypeError, "tolerance is 0.1; pass a tuple (rtol, atol)"),
    ({"tolerance": (0.1,)}, TypeError, "tolerance is (0.1,); pass a tuple (rtol, atol)"),
    ({"tolerance": (0.1, 0.2, 0.3)}, TypeError, "tolerance is (0.1, 0.2, 0.3); pass a tuple (rtol, atol)"),
    ({"tolerance": (0.1, -1.0)}, ValueError, "tolerance is (0.1, -1.0); rtol and atol must be finite and not negative"),
    ({"tolerance": (math.nan, 0.0)}, ValueError, "tolerance is (nan, 0.0); rtol and atol must be finite"),
    ({"tolerance": (0.0, math.inf)}, ValueError, "tolerance is (0.0, inf); rtol and atol must be finite"),
    ({"tolerance": ("0", 0.0)}, ValueError, "tolerance is ('0', 0.0); rtol and atol must be finite"),
    ({"tolerance": (0.0, 0.1), "grid": cb.UpdateGrid(1e-3, 64, 0.7)}, ValueError,
     "tolerance and grid are two definitions of equal; pass one of them"),
    ({"log_epsilon": -1e-5}, ValueError, "log_epsilon is -1e-05; it must be finite and not negative"),
    ({"log_epsilon": math.nan}, ValueError, "log_epsilon is nan; it must be finite and not negative"),
    ({"log_epsilon": "1e-5"}, ValueError, "log_epsilon is '1e-5'; it must be finite and not negative"),
    ({"backend": "gpu"}, ValueError, "backend is 'gpu'; choose one of auto, reference, cpu, cuda"),
    ({"backend": None}, ValueError, "backend is None; choose one of auto, reference, cpu, cuda"),
]  # fmt: skip


def one_sentence(error: Exception) -> None:
    message = str(error)
    assert "\n" not in message
    assert 10 < len(message) < 300
    assert not message.startswith(" ")


def still_works() -> None:
    result = cb.bundle_entropy(GOOD, LABELS)
    assert (result.num_bundles, result.num_conflicting) == (1, 1)


@pytest.mark.parametrize(("make", "kind", "message"), [a[1:] for a in ACTS], ids=[a[0] for a in ACTS])
def test_activations(make: Callable[[], Any], kind: type[Exception], message: str) -> None:
    metric = cb.BundleEntropy()
    for call in (
        lambda x: cb.bundle_entropy(x, LABELS),
        lambda x: cb.bundle_rows(x),
        lambda x: cb.conflict_margin(x, LABELS),
        lambda x: metric.update(x, LABELS),
    ):
        with pytest.raises(kind, match=re.escape(message)) as caught:
            call(make())
        one_sentence(caught.value)
    assert metric.num_rows == 0
    still_works()


@pytest.mark.parametrize(("make", "kind", "message"), [a[1:] for a in LABEL_ARRAYS], ids=[a[0] for a in LABEL_ARRAYS])
def test_labels(make: Callable[[], Any], kind: type[Exception], message: str) -> None:
    metric = cb.BundleEntropy()
    for call in (
        lambda y: cb.bundle_entropy(GOOD, y),
        lambda y: cb.bundle_entropy_layers({"a": GOOD}, y),
        lambda y: cb.conflict_margin(GOOD, y),
        lambda y: metric.update(GOOD, y),
    ):
        with pytest.raises(kind, match=re.escape(message)) as caught:
            call(make())
        one_sentence(caught.value)
    assert metric.num_rows == 0
    still_works()


@pytest.mark.parametrize(("options", "kind", "message"), OPTIONS)
def test_options(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    calls: list[Callable[..., Any]] = [lambda **o: cb.bundle_entropy(GOOD, LABELS, **o)]
    if "log_epsilon" not in options:
        calls.append(lambda **o: cb.bundle_rows(GOOD, **o))
    if "tolerance" not in options:
        calls.append(lambda **o: cb.bundle_entropy_layers({"a": GOOD}, LABELS, **o))
        calls.append(lambda **o: cb.BundleEntropy(**o).update(GOOD, LABELS))
    for call in calls:
        with pytest.raises(kind, match=re.escape(message)) as caught:
            call(**options)
        one_sentence(caught.value)
    still_works()


def test_options_of_a_stream_are_refused_when_it_is_made() -> None:
    """Not after hours of batches."""
    with pytest.raises(ValueError, match="log_epsilon is -1"):
        cb.BundleEntropy(log_epsilon=-1.0)
    with pytest.raises(ValueError, match="backend is 'gpu'"):
        cb.BundleEntropy(backend="gpu")
    with pytest.raises(TypeError, match="grid is 3"):
        cb.BundleEntropy(grid=3)  # type: ignore[arg-type]


def test_first_argument_first() -> None:
    """Arguments are checked in the order of the signature."""
    with pytest.raises(TypeError, match="acts has dtype complex128"):
        cb.bundle_entropy(GOOD * 1j, "labels", grid=3, backend="gpu")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="labels is a str"):
        cb.bundle_entropy(GOOD, "labels", grid=3, backend="gpu")  # type: ignore[arg-type]


def test_layers_are_all_checked_before_the_first_is_measured() -> None:
    with pytest.raises(TypeError, match=re.escape("layers['second'] has dtype complex128")):
        cb.bundle_entropy_layers({"first": GOOD, "second": GOOD * 1j}, LABELS)
    with pytest.raises(ValueError, match=re.escape("labels has 2 entries for 3 rows")):
        cb.bundle_entropy_layers({"first": GOOD, "second": np.zeros((3, 1))}, LABELS)
    for wrong in ([GOOD], GOOD, None, "layers"):
        with pytest.raises(TypeError, match=f"layers is a {type(wrong).__name__}; pass a dict"):
            cb.bundle_entropy_layers(wrong, LABELS)  # type: ignore[arg-type]
    assert cb.bundle_entropy_layers({}, LABELS) == {}


def test_cuda_on_cpu_arrays_or_without_cuda() -> None:
    with pytest.raises(ValueError, match=r"CUDA|NVIDIA GPU|acts is on cpu") as caught:
        cb.bundle_entropy(GOOD, LABELS, backend="cuda")
    one_sentence(caught.value)
    reason = _core.cuda.missing_reason()
    if reason:
        assert str(caught.value) == reason
    build = _core.build_info()
    assert bool(build["cuda_reason"]) != build["cuda"]
    assert build["cuda"] or reason == build["cuda_reason"]
    still_works()


def test_the_cuda_half_refuses_where_it_is_not() -> None:
    """Not compiled in, no driver or no GPU: every function says so, and touches nothing."""
    reason = _core.cuda.missing_reason()
    if not reason:
        pytest.skip("refusals of the missing cuda half: NOT TESTED HERE (it is not missing)")
    x, y = GOOD.copy(), LABELS.copy()
    ids = np.full(4, -7)
    acts = (x.ctypes.data, x.shape, x.strides, 0)
    labels = (y.ctypes.data, 8, 6)
    here = (0, 0)
    for call in (
        _core.cuda.require,
        lambda: _core.cuda.bundle_ids(*acts, None, None, ids.ctypes.data, *here),
        lambda: _core.cuda.bundle_ids(*acts, None, (0.0, 0.0), ids.ctypes.data, *here),
        lambda: _core.cuda.count_bundles([acts], *labels, None, None, True, *here),
        lambda: _core.cuda.row_fingerprints(*acts, None, (1, 2), ids.ctypes.data, *here),
        lambda: _core.cuda.count_fingerprints(ids.ctypes.data, y.ctypes.data, 2, True, *here),
        lambda: _core.cuda.conflict_margin(*acts, *labels, *here),
        lambda: _core.cuda.wait_for(0, 1, 0),
        lambda: _core.cuda.device_of(ids.ctypes.data),
    ):
        with pytest.raises(ValueError, match=re.escape(reason)) as caught:
            call()
        one_sentence(caught.value)
    assert ids.tolist() == [-7] * 4, "nothing is half written"


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda t: t.zeros(2, 2, device="meta"), ValueError, "acts is a meta tensor and has no values"),
        (lambda t: t.eye(2).to_sparse(), TypeError, "acts is a sparse_coo tensor; convert it with .to_dense()"),
        (lambda t: t.zeros(2, 2, dtype=t.complex64), TypeError, "acts has dtype torch.complex64; it must be real"),
        (lambda t: t.zeros(()), ValueError, "acts has shape (); it needs a first axis"),
        (lambda t: t.zeros(0, 4), ValueError, "acts has shape (0, 4); at least one row is needed"),
        (lambda t: t.quantize_per_tensor(t.zeros(2, 2), 0.1, 0, t.qint8), TypeError, "acts has dtype torch.qint8"),
        (lambda t: t.zeros(2, 2).to_mkldnn(), TypeError, "acts is a"),
        (lambda t: t.nested.nested_tensor([t.zeros(2), t.zeros(3)], layout=t.jagged), TypeError, "acts"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_torch_tensors(make: Callable[[Any], Any], kind: type[Exception], message: str) -> None:
    torch = pytest.importorskip("torch", reason="torch: NOT TESTED HERE")
    try:
        acts = make(torch)
    except (NotImplementedError, RuntimeError, AttributeError) as error:
        pytest.skip(f"{message}: NOT TESTED HERE (this torch cannot make one: {str(error).splitlines()[0]})")
    with pytest.raises(kind, match=re.escape(message)) as caught:
        cb.bundle_entropy(acts, torch.tensor([0, 1]))
    one_sentence(caught.value)
    with pytest.raises(kind):
        cb.bundle_rows(acts)
    still_works()


def test_fake_tensors() -> None:
    torch = pytest.importorskip("torch", reason="torch: NOT TESTED HERE")
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        acts = torch.zeros(2, 3)
    for call in (
        lambda: cb.bundle_entropy(acts, LABELS[:2]),
        lambda: cb.bundle_entropy_layers({"acts": acts}, LABELS[:2]),
        lambda: cb.conflict_margin(acts, LABELS[:2]),
        lambda: cb.BundleEntropy().update(acts, LABELS[:2]),
    ):
        with pytest.raises(TypeError, match="is a FakeTensor, which may have no memory of its own; pass a plain"):
            call()
    still_works()


def test_tensors_inside_of_transforms() -> None:
    torch = pytest.importorskip("torch", reason="torch: NOT TESTED HERE")

    def refused(x: Any) -> Any:
        with pytest.raises(TypeError, match=r"acts is a tensor inside of a transform of torch\.func, which"):
            cb.bundle_entropy(x, LABELS[:2])
        return x.sum()

    torch.func.grad(refused)(torch.zeros(2, 3))
    torch.func.vmap(refused)(torch.zeros(4, 2, 3))
    still_works()


def test_compressed_sparse_tensors() -> None:
    torch = pytest.importorskip("torch", reason="torch: NOT TESTED HERE")
    with pytest.warns(UserWarning, match=r"(?i)sparse"):
        acts = torch.eye(2).to_sparse_csr()
    with pytest.raises(TypeError, match="acts is a sparse_csr tensor; convert it with"):
        cb.bundle_rows(acts)


def test_torch_labels() -> None:
    torch = pytest.importorskip("torch", reason="torch: NOT TESTED HERE")
    for labels, kind, message in (
        (torch.zeros(2), TypeError, "labels has dtype float32; class labels must be integers"),
        (torch.zeros(2, dtype=torch.bfloat16), TypeError, "labels has dtype bfloat16; class labels must be integers"),
        (torch.zeros(2, 1, dtype=torch.int64), ValueError, "labels has shape (2, 1); it must be (2,)"),
        (torch.zeros(2, dtype=torch.int64, device="meta"), ValueError, "labels is a meta tensor"),
    ):
        with pytest.raises(kind, match=re.escape(message)):
            cb.bundle_entropy(torch.zeros(2, 2), labels)


class Column:
    """Like pandas' and polars' columns: an array is to be had of it."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array(self.values, dtype)


@pytest.mark.parametrize("labels", [range(2), Column(0, 1), Column(np.int8(0), np.int8(1))])
def test_labels_may_be_what_data_frames_hold(labels: Any) -> None:
    assert cb.bundle_entropy(np.zeros((2, 3)), labels).num_conflicting == 1
    with pytest.raises(TypeError, match=r"labels has dtype str.*; class labels must be integers; number"):
        cb.bundle_entropy(np.zeros((2, 3)), Column("cat", "dog"))


def test_a_type_that_numpys_dlpack_does_not_know_is_read_as_an_array() -> None:
    """JAX's bfloat16, without torch."""
    bfloat16 = pytest.importorskip("ml_dtypes", reason="bfloat16 of NumPy: NOT TESTED HERE (no ml_dtypes)").bfloat16

    class Jax(Column):
        def __dlpack__(self, **options: Any) -> Any:
            raise BufferError("bfloat16 is not supported")

        def __dlpack_device__(self) -> tuple[int, int]:
            return 1, 0

        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return np.array(self.values).astype(bfloat16)

    assert cb.bundle_rows(Jax([1.0, 2.0], [1.0, 2.0], [3.0, 2.0])).tolist() == [0, 0, 1]


def test_what_holds_samples_of_several_sizes_says_how_to_pad_it() -> None:
    torch = pytest.importorskip("torch", reason="torch: NOT TESTED HERE")
    samples = [torch.zeros(3, 2), torch.zeros(2, 2)]
    with pytest.raises(TypeError, match=r"acts is a PackedSequence; pass torch\.nn\.utils\.rnn\.pad_packed_sequence"):
        cb.bundle_rows(torch.nn.utils.rnn.pack_sequence(samples))
    with pytest.warns(UserWarning, match="prototype"):
        nested = torch.nested.nested_tensor(samples)
    for acts in (nested, torch.nested.nested_tensor(samples, layout=torch.jagged)):
        with pytest.raises(
            TypeError, match=r"acts is a nested tensor, .* pass torch\.nested\.to_padded_tensor\(x, 0\)"
        ):
            cb.bundle_rows(acts)


def test_an_array_on_the_cpu_is_not_to_be_copied_there() -> None:
    pytest.importorskip("torch", reason="torch: NOT TESTED HERE")

    class OldProducer:
        def __dlpack__(self, stream: Any = None) -> Any:
            raise BufferError("read-only")

        def __dlpack_device__(self) -> tuple[int, int]:
            return 1, 0

    with pytest.raises(ValueError, match=r"which torch cannot read \(read-only\); pass a copy of it"):
        cb.bundle_rows(OldProducer())


def test_arrays_of_two_devices() -> None:
    torch = pytest.importorskip("torch", reason="torch: NOT TESTED HERE")
    if not torch.cuda.is_available():
        pytest.skip("tensors on two devices: NOT TESTED HERE (no GPU; test_gpu_arrays.py has stand-ins)")
    with pytest.raises(ValueError, match="acts is on cuda:0 and labels on cpu; move one to the other"):
        cb.bundle_entropy(torch.zeros(2, 2, device="cuda"), torch.zeros(2, dtype=torch.int64))


class OnAnotherDevice:
    """A DLPack producer whose memory is on a device of which this process knows nothing."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return (10, 0)  # ROCm

    def __dlpack__(self, **_: Any) -> Any:
        raise BufferError("no")


def test_dlpack_producer_elsewhere() -> None:
    with pytest.raises((ValueError, TypeError), match=r"acts .*(10, 0)") as caught:
        cb.bundle_entropy(OnAnotherDevice(), LABELS)
    one_sentence(caught.value)


def test_memory_that_cannot_be_had_is_an_exception() -> None:
    """A broadcast view costs no memory, but ids for 2**50 rows would: MemoryError, and the process lives."""
    acts = np.broadcast_to(np.zeros((1, 1), np.float32), (2**50, 1))
    with pytest.raises(MemoryError):
        cb.bundle_rows(acts)
    labels = np.broadcast_to(np.zeros(1, np.int64), 2**50)
    with pytest.raises(MemoryError):
        cb.bundle_entropy(acts, labels)
    still_works()


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_a_file_that_was_cut_short_after_it_was_mapped(tmp_path: Path, mode: Any) -> None:
    """To read what is behind its end is SIGBUS, which ended the process. Views whose rows are still there are read."""
    path, page = tmp_path / "a", mmap.ALLOCATIONGRANULARITY
    np.zeros(8 * page, np.uint8).tofile(path)
    mapped = np.memmap(path, np.uint8, mode, offset=page + 3, shape=(4, page))
    os.truncate(path, 4 * page)
    for cut in (mapped, mapped[::-1], mapped[2:], mapped[3:, :2], mapped[:, -1:]):
        with pytest.raises(ValueError, match=rf"acts reaches \d+ bytes into memory of {4 * page}, so its"):
            cb.bundle_rows(cut)
    with pytest.raises(ValueError, match="labels reaches"):
        cb.bundle_entropy(np.zeros((4, 1)), mapped[:, -1])
    for there in (mapped[:2], mapped[1::-1], mapped[:2].T, mapped[3:, :0], mapped[2:3, : page - 3]):
        assert cb.bundle_rows(there).tolist() == [0] * len(there)

"""The door: every refusal of an input is here, in the order of the arguments.

Arrays come in as NumPy, torch or anything with DLPack or ``__cuda_array_interface__`` and leave as
``Rows`` and ``Labels``: a pointer, a shape, byte strides, a type, a device and a stream. Nothing is
copied and nothing is written. Below this file there are no checks. Read next: ``backends.py``.
"""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import _core

DTYPES = (
    "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2",
    "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool",
)  # fmt: skip
"""Types of activations; the position is the code that the compiled module uses."""

_CODE = {name: code for code, name in enumerate(DTYPES)}
_FLOATS = frozenset(DTYPES[:6])
_RAW = {"bfloat16": np.uint16, "float8_e4m3fn": np.uint8, "float8_e5m2": np.uint8}
_DLPACK_CPU = 1
_DLPACK_CUDA = (2, 13)
"""Device memory and managed memory."""


class Rows(NamedTuple):
    """Activations of one layer: (N, ...) values of one type, anywhere, with any strides."""

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """Bytes."""
    dtype: str
    code: int
    device: str
    owner: Any
    """The array or tensor; holding it keeps the memory alive."""
    device_index: int = 0
    """Ordinal of the GPU."""
    stream: int | None = None
    """The stream whose work must come first, as in ``__cuda_array_interface__``; None: no such wish."""
    producer: Any = None
    """What came in, where it is on a GPU and not a torch tensor: results go back to its library."""

    @property
    def num_rows(self) -> int:
        """N."""
        return self.shape[0]

    @property
    def num_columns(self) -> int:
        """D, the product of the other axes."""
        return math.prod(self.shape[1:])

    def part(self, begin: int, num_rows: int) -> Rows:
        """The rows ``begin`` to ``begin + num_rows`` of the same memory."""
        return self._replace(pointer=self.pointer + begin * self.strides[0], shape=(num_rows, *self.shape[1:]))

    def _begins_with(self, array: npt.NDArray[Any]) -> bool:
        return bool(_core.address_of(array) == self.pointer)

    def raw(self) -> npt.NDArray[Any]:
        """The same memory as a NumPy array; types that NumPy lacks as unsigned integers."""
        if self.device != "cpu":
            raise ValueError(f"acts is on {self.device}; move it to the CPU for this backend")
        array: npt.NDArray[Any] = self.owner
        kind = np.dtype(_RAW.get(self.dtype, self.dtype))
        mine = self.shape, self.strides, kind
        if type(array) is np.ndarray and (array.shape, array.strides, array.dtype) == mine and self._begins_with(array):
            return array
        interface = {"data": (self.pointer, True), "shape": self.shape, "strides": self.strides,
                     "typestr": kind.str, "version": 3}  # fmt: skip
        if 0 in self.shape:
            return np.empty(self.shape, kind)
        return np.asarray(_Memory(interface, self.owner))


class _Memory:
    """What NumPy asks for to look at memory that another object owns."""

    def __init__(self, interface: dict[str, Any], owner: object) -> None:
        self.__array_interface__, self.owner = interface, owner


class Labels(Rows):
    """One integer per row, shape (N,)."""

    __slots__ = ()

    @property
    def stride(self) -> int:
        """Bytes."""
        return self.strides[0]


def may_hold_nan(dtype: str) -> bool:
    """Can a row of this type hold a NaN, before or after a grid? Floating-point types only."""
    return dtype in _FLOATS


def as_rows(acts: object, name: str = "acts", least: int = 1) -> Rows:
    """Check activations; ``least``: rows that are needed.

    Raises:
        ValueError: no first axis, no row, or memory that is not here (meta tensor).
        TypeError: complex, object, string, sparse, or not an array at all.
    """
    rows = _view(acts, name)
    if not rows.shape:
        raise ValueError(f"{name} has shape (); it needs a first axis that counts the samples")
    if rows.shape[0] < least:
        raise ValueError(f"{name} has shape {rows.shape}; at least one row is needed")
    return rows


def as_labels(labels: object, rows: Rows) -> Labels:
    """Check labels against the rows they belong to.

    Raises:
        ValueError: not of shape (N,), or on another device than the activations.
        TypeError: not integers.
    """
    view = _integers(labels)
    _require_one_for_each(view, rows, "acts")
    return Labels(*view)


def as_labels_of_layers(labels: object, layers: Sequence[Rows], called: Sequence[str]) -> Labels:
    """Check labels against the rows of several layers; ``called`` is how the user calls them.

    Raises:
        ValueError, TypeError: as ``as_labels``.
    """
    view = _integers(labels)
    for layer, rows in zip(called, layers, strict=True):
        _require_one_for_each(view, rows, layer)
    return Labels(*view)


def _integers(labels: object) -> Rows:
    view = _view(labels, "labels")
    if view.dtype in _FLOATS:
        raise not_numbered("labels has", view.dtype)
    return view


def _require_one_for_each(labels: Rows, rows: Rows, layer: str) -> None:
    if len(labels.shape) != 1:
        raise ValueError(f"labels has shape {labels.shape}; it must be ({rows.shape[0]},), one label per row")
    if labels.shape[0] != rows.shape[0]:
        raise ValueError(f"labels has {labels.shape[0]} entries for {rows.shape[0]} rows; they must agree")
    if labels.device != rows.device:
        raise ValueError(f"{layer} is on {rows.device} and labels on {labels.device}; move one to the other")


def not_numbered(labels: str, dtype: object) -> TypeError:
    """The refusal of labels ("labels has") that are no integers; ``dtype`` is NumPy's, torch's or a name."""
    kind = "str" if isinstance(dtype, np.dtype) and dtype.kind == "U" else str(dtype).removeprefix("torch.")
    must = "class labels must be integers; number the classes with np.unique(labels, return_inverse=True)[1]"
    return TypeError(f"{labels} dtype {kind}; {must}")


def _view(x: object, name: str) -> Rows:
    if isinstance(x, np.ndarray):
        return _numpy_view(x, name)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return _torch_view(torch, x, name)
    if isinstance(x, tuple) and hasattr(x, "batch_sizes"):  # torch's PackedSequence
        raise TypeError(
            f"{name} is a {type(x).__name__}; pass torch.nn.utils.rnn.pad_packed_sequence(x, batch_first=True)[0]"
        )
    if isinstance(x, (list, tuple, range)):
        try:
            return _numpy_view(np.asarray(x), name)
        except ValueError as error:
            raise ValueError(f"{name} is a {type(x).__name__} that is not an array: {error}") from error
    if isinstance(x, type):
        raise TypeError(f"{name} is a type; pass a NumPy array, a torch tensor or a DLPack producer")
    if hasattr(x, "__dlpack__") and hasattr(x, "__dlpack_device__"):
        return _dlpack_view(x, name)
    if hasattr(x, "__cuda_array_interface__"):
        return _cuda_array_view(x, name, None)
    if hasattr(x, "__array_interface__") or hasattr(x, "__array__"):  # the latter: pandas' and polars' columns
        return _numpy_view(np.asarray(x), name)
    raise TypeError(f"{name} is a {type(x).__name__}; pass a NumPy array, a torch tensor or a DLPack producer")


# native NumPy types, looked up by object because `dtype.name` takes 2 microseconds
_NUMPY = {np.dtype(name): (name, code) for name, code in _CODE.items() if name not in _RAW}


def _numpy_view(x: npt.NDArray[Any], name: str) -> Rows:
    if type(x) is not np.ndarray:
        _require_values(x, name)
    dtype, code = _NUMPY.get(x.dtype) or _rare_type(x.dtype, name)
    return Rows(_core.address_of(x), x.shape, x.strides, dtype, code, "cpu", x)


def _require_values(x: npt.NDArray[Any], name: str) -> None:
    """Refuse arrays that are more than their memory, or less."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array; fill it first, for example with .filled(0)")
    if isinstance(x, np.memmap) and 0 not in x.shape:
        _require_file(x, name)


def _rare_type(kind: np.dtype[Any], name: str) -> tuple[str, int]:
    """Name and code of a type that another package registered with NumPy; all others are refused."""
    if not kind.isnative:
        raise TypeError(f"{name} has dtype {kind.str}; convert it to this machine's byte order first")
    if kind.name not in _CODE:
        if name == "labels":
            raise not_numbered("labels has", kind)
        raise TypeError(f"{name} has dtype {kind.name}; it must be real: float, integer or bool")
    return kind.name, _CODE[kind.name]


_TORCH: dict[Any, tuple[str, int, int]] = {}


def _torch_view(torch: Any, x: Any, name: str) -> Rows:
    if not _TORCH:
        _TORCH.update(
            {getattr(torch, d): (d, code, getattr(torch, d).itemsize)
             for code, d in enumerate(DTYPES) if hasattr(torch, d)}
        )  # fmt: skip
    if x.is_nested:
        raise TypeError(
            f"{name} is a nested tensor, whose samples differ in size; pass torch.nested.to_padded_tensor(x, 0)"
        )
    if x.layout is not torch.strided:
        layout = str(x.layout).removeprefix("torch.")
        raise TypeError(f"{name} is a {layout} tensor; convert it with .to_dense() first")
    kind = type(x)
    if kind is not torch.Tensor and kind.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        raise TypeError(f"{name} is a {kind.__name__}, which may have no memory of its own; pass a plain tensor")
    if torch._C._functorch.is_functorch_wrapped_tensor(x):
        raise TypeError(f"{name} is a tensor inside of a transform of torch.func, which has no values; pass it outside")
    device = "cpu" if x.is_cpu else str(x.device)
    if device != "cpu" and not device.startswith("cuda"):
        if device == "meta":
            raise ValueError(f"{name} is a meta tensor and has no values; materialise it first")
        raise ValueError(f"{name} is on {device}; move it to the CPU first")
    known = _TORCH.get(x.dtype)
    if known is None:
        raise TypeError(f"{name} has dtype {x.dtype}; it must be real: float, integer or bool")
    if x.is_neg():
        x = x.resolve_neg()
    dtype, code, itemsize = known
    pointer, shape, strides = x.data_ptr(), tuple(x.shape), tuple([s * itemsize for s in x.stride()])
    if 0 not in shape:
        # without gaps this is their number of bytes, which is asked for in a quarter of the time
        span = x.nbytes if x.is_contiguous() else _span(shape, strides) + itemsize
        _require_memory(name, x.storage_offset() * itemsize + span, x.untyped_storage().nbytes() if pointer else 0)
    index = 0 if device == "cpu" else x.get_device()
    return Rows(pointer, shape, strides, dtype, code, device, x, index)


def _span(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Bytes from the first value to the last one."""
    return sum([(n - 1) * s for n, s in zip(shape, strides, strict=True)])


def _require_memory(name: str, reached: int, present: int) -> None:
    if reached > present:
        raise ValueError(
            f"{name} reaches {reached} bytes into memory of {present}, so its values are not there; "
            "pass it before its storage is freed or resized"
        )


def _require_file(x: Any, name: str) -> None:
    """Refuse what is mapped behind the end of a file that was cut short since: to read it would end the process."""
    if x._mmap is None:  # memory of its own
        return
    last = x.ctypes.data + sum(max(0, (n - 1) * s) for n, s in zip(x.shape, x.strides, strict=True)) + x.itemsize
    begins = x.offset - x.offset % mmap.ALLOCATIONGRANULARITY
    reached = begins + last - np.frombuffer(x._mmap, np.uint8).ctypes.data
    _require_memory(name, reached, x._mmap.size())


def _dlpack_view(x: Any, name: str) -> Rows:
    kind, index = (int(part) for part in x.__dlpack_device__())
    torch = sys.modules.get("torch")
    if kind == _DLPACK_CPU:
        try:
            array = np.from_dlpack(x)
            view = _numpy_view(array, name)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            if hasattr(x, "__array__"):  # of a type that NumPy's DLPack does not know, such as JAX's bfloat16
                return _numpy_view(np.asarray(x), name)
            if torch is None:
                raise TypeError(f"{name} cannot be read through DLPack without torch: {error}") from error
        else:  # for a null pointer NumPy makes memory of its own and leaves it as it is
            _require_memory(name, array.nbytes, 0 if array.flags.owndata else array.nbytes)
            return view
    if kind in _DLPACK_CUDA:
        if hasattr(x, "__cuda_array_interface__") and not torch_with_gpu():
            return _cuda_array_view(x, name, index)
        _core.cuda.require()
    where = f"{name} is on DLPack device {(kind, index)}"
    if torch is None:
        raise ValueError(f"{where}; import torch to pass it, or copy it to the CPU")
    try:
        tensor = torch.from_dlpack(x)  # on a GPU this lets torch's current stream wait for the producer's
    except (AssertionError, BufferError, RuntimeError, TypeError, ValueError) as error:
        advice = "pass a copy of it" if kind == _DLPACK_CPU else "copy it to the CPU"
        raise ValueError(f"{where}, which torch cannot read ({error}); {advice}") from error
    rows = _torch_view(torch, tensor, name)
    return rows if rows.device == "cpu" else rows._replace(producer=x)


def torch_with_gpu() -> Any:
    """The module torch if it is imported and has a GPU to work with, else None."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_available() else None


def _cuda_array_view(x: Any, name: str, device_index: int | None) -> Rows:
    """Versions 0 to 3 of the interface; ``device_index`` None asks the driver where the memory is."""
    interface = x.__cuda_array_interface__
    try:
        pointer, shape = int(interface["data"][0]), tuple(int(extent) for extent in interface["shape"])
        kind, strides, stream = np.dtype(interface["typestr"]), interface.get("strides"), interface.get("stream")
        if strides is not None:
            strides = tuple(int(stride) for stride in strides)
            if len(strides) != len(shape):
                raise ValueError(f"{len(strides)} strides for {len(shape)} axes")
        stream = None if stream is None else int(stream)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise TypeError(
            f"{name} has a damaged __cuda_array_interface__ ({type(error).__name__}: {error}); pass a torch tensor"
        ) from error
    if interface.get("mask") is not None:
        raise TypeError(f"{name} is a masked array; fill it first")
    dtype, code = _NUMPY.get(kind) or _rare_type(kind, name)
    if stream == 0:
        raise ValueError(f"{name} names stream 0, which may be two streams; its library must say 1, 2 or an address")
    if strides is None:
        strides = _packed_strides(shape, kind.itemsize)
    num_bytes = math.prod(shape) * kind.itemsize
    _require_memory(name, num_bytes, num_bytes if pointer else 0)
    if device_index is None:
        device_index = _core.cuda.device_of(pointer) if pointer else 0  # null: an array without a value
    device = f"cuda:{device_index}"
    return Rows(pointer, shape, strides, dtype, code, device, x, device_index, stream, x)


def _packed_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Byte strides of values that lie in C order without gaps."""
    strides = [itemsize]
    for extent in shape[:0:-1]:
        strides.append(strides[-1] * extent)
    return tuple(strides[: len(shape)][::-1])

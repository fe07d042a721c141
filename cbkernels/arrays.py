"""The door: every refusal of an input is here, in the order of the arguments.

Arrays come in as NumPy, torch or anything with DLPack and leave as ``Rows`` and ``Labels``:
a pointer, a shape, byte strides and a type. Nothing is copied and nothing is written.
Below this file there are no checks. Read next: ``backends.py``.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

DTYPES = (
    "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2",
    "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool",
)  # fmt: skip
"""Types of activations; the position is the code that the compiled module uses."""

_CODE = {name: code for code, name in enumerate(DTYPES)}
_FLOATS = frozenset(DTYPES[:6])
_RAW = {"bfloat16": np.uint16, "float8_e4m3fn": np.uint8, "float8_e5m2": np.uint8}
_DLPACK_CPU = 1


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

    @property
    def num_rows(self) -> int:
        """N."""
        return self.shape[0]

    @property
    def num_columns(self) -> int:
        """D, the product of the other axes."""
        columns = 1
        for extent in self.shape[1:]:
            columns *= extent
        return columns

    def raw(self) -> npt.NDArray[Any]:
        """The same memory as a NumPy array; types that NumPy lacks as unsigned integers."""
        if self.device != "cpu":
            raise ValueError(f"acts is on {self.device}; move it to the CPU for this backend")
        kind = np.dtype(_RAW.get(self.dtype, self.dtype))
        interface = {"data": (self.pointer, True), "shape": self.shape, "strides": self.strides,
                     "typestr": kind.str, "version": 3}  # fmt: skip
        if 0 in self.shape:
            return np.empty(self.shape, kind)
        return np.asarray(type("Memory", (), {"__array_interface__": interface, "owner": self.owner})())


class Labels(NamedTuple):
    """One integer per row."""

    pointer: int
    stride: int
    """Bytes."""
    code: int
    device: str
    owner: Any

    def raw(self, num_rows: int) -> npt.NDArray[Any]:
        """The same memory as a NumPy array of shape (N,)."""
        return Rows(self.pointer, (num_rows,), (self.stride,), DTYPES[self.code], self.code,
                    self.device, self.owner).raw()  # fmt: skip


def as_rows(acts: object, name: str = "acts") -> Rows:
    """Check activations.

    Raises:
        ValueError: no first axis, no row, or memory that is not here (meta tensor).
        TypeError: complex, object, string, sparse, or not an array at all.
    """
    rows = _view(acts, name)
    if not rows.shape:
        raise ValueError(f"{name} has shape (); it needs a first axis that counts the samples")
    if rows.shape[0] == 0:
        raise ValueError(f"{name} has shape {rows.shape}; at least one row is needed")
    return rows


def as_labels(labels: object, rows: Rows, name: str = "labels") -> Labels:
    """Check labels against the rows they belong to.

    Raises:
        ValueError: not of shape (N,), or on another device than the activations.
        TypeError: not integers.
    """
    view = _view(labels, name)
    if view.dtype in _FLOATS:
        raise TypeError(f"{name} has dtype {view.dtype}; class labels must be integers")
    if len(view.shape) != 1:
        raise ValueError(f"{name} has shape {view.shape}; it must be ({rows.shape[0]},), one label per row")
    if view.shape[0] != rows.shape[0]:
        raise ValueError(f"{name} has {view.shape[0]} entries for {rows.shape[0]} rows; they must agree")
    if view.device != rows.device:
        raise ValueError(f"acts is on {rows.device} and {name} on {view.device}; move one to the other")
    return Labels(view.pointer, view.strides[0], view.code, view.device, view.owner)


def _view(x: object, name: str) -> Rows:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return _torch_view(torch, x, name)
    if isinstance(x, np.ndarray):
        return _numpy_view(x, name)
    if isinstance(x, (list, tuple)):
        try:
            return _numpy_view(np.asarray(x), name)
        except ValueError as error:
            raise ValueError(f"{name} is a {type(x).__name__} that is not an array: {error}") from error
    if isinstance(x, type):
        raise TypeError(f"{name} is a type; pass a NumPy array, a torch tensor or a DLPack producer")
    if hasattr(x, "__dlpack__") and hasattr(x, "__dlpack_device__"):
        return _dlpack_view(x, name)
    if hasattr(x, "__array_interface__"):
        return _numpy_view(np.asarray(x), name)
    raise TypeError(f"{name} is a {type(x).__name__}; pass a NumPy array, a torch tensor or a DLPack producer")


# native NumPy types, looked up by object because `dtype.name` takes 2 microseconds
_NUMPY = {np.dtype(name): (name, code) for name, code in _CODE.items() if name not in _RAW}


def _numpy_view(x: npt.NDArray[Any], name: str) -> Rows:
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array; fill it first, for example with .filled(0)")
    known = _NUMPY.get(x.dtype)
    if known is None:  # a type that another package registered, or no real type
        dtype = x.dtype.name
        if not x.dtype.isnative:
            raise TypeError(f"{name} has dtype {x.dtype.str}; convert it to this machine's byte order first")
        if dtype not in _CODE:
            raise TypeError(f"{name} has dtype {dtype}; it must be real: float, integer or bool")
        known = (dtype, _CODE[dtype])
    return Rows(x.ctypes.data, x.shape, x.strides, known[0], known[1], "cpu", x)


_TORCH: dict[Any, tuple[str, int, int]] = {}


def _torch_view(torch: Any, x: Any, name: str) -> Rows:
    if not _TORCH:
        _TORCH.update(
            {getattr(torch, d): (d, code, getattr(torch, d).itemsize)
             for code, d in enumerate(DTYPES) if hasattr(torch, d)}
        )  # fmt: skip
    if x.layout is not torch.strided:
        layout = str(x.layout).removeprefix("torch.")
        raise TypeError(f"{name} is a {layout} tensor; convert it with .to_dense() first")
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
    strides = tuple([s * itemsize for s in x.stride()])
    return Rows(x.data_ptr(), tuple(x.shape), strides, dtype, code, device, x)


def _dlpack_view(x: Any, name: str) -> Rows:
    kind, index = (int(part) for part in x.__dlpack_device__())
    torch = sys.modules.get("torch")
    if kind == _DLPACK_CPU:
        try:
            return _numpy_view(np.from_dlpack(x), name)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            if torch is None:
                raise TypeError(f"{name} cannot be read through DLPack without torch: {error}") from error
    where = f"{name} is on DLPack device {(kind, index)}"
    if torch is None:
        raise ValueError(f"{where}; import torch to pass it, or copy it to the CPU")
    try:
        tensor = torch.from_dlpack(x)
    except (AssertionError, BufferError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{where}, which torch cannot read ({error}); copy it to the CPU") from error
    return _torch_view(torch, tensor, name)

"""Arrays in ``.npy``, ``.npz`` and ``.safetensors`` files, whole or in pieces of rows.

Nothing in a file is ever executed: pickled objects are refused. ``.npy`` and ``.safetensors`` are memory-mapped (a
file that another process cuts short meanwhile ends this one, with SIGBUS), ``.npz`` members are read when they are
asked for, up to a limit. The safetensors header is read here, because the package's NumPy door knows neither
bfloat16 nor float8.
"""

from __future__ import annotations

import math
import os
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from .json_files import json_value
from .unpacking import UNPACK_UP_TO, TooLarge, require_room

Array = npt.NDArray[Any]

_KEYED = re.compile(r"^(.*\.(?:npz|safetensors)):(.+)$", re.DOTALL | re.IGNORECASE)
_SAFETENSORS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_RAW = {"bfloat16": "uint16", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8"}
_LONGEST_HEADER_BYTES = 32 << 20
"""Of 300,000 tensors; parsed it takes twenty times as much."""
_BYTES_A_ROW = 64
"""That a measurement takes for a row, however few bytes the row itself has."""


@dataclass(frozen=True)
class StoredArray:
    """An array in a file; nothing but its header has been read yet."""

    name: str
    """Key in the file; for ``.npy`` the file's own name without the ending."""
    shape: tuple[int, ...]
    dtype: str
    num_bytes: int
    read: Callable[[], Any]
    """The whole array, memory-mapped where the format allows it."""
    read_pieces: Callable[[int], Iterator[Any]]
    """The array in pieces of so many rows, the last one shorter."""


def open_arrays(where: str, unpack_up_to: int = UNPACK_UP_TO) -> list[StoredArray]:
    """List the arrays of a file.

    An odd array spoils no other one: with a key only that array is looked at, and values of a type that is not known
    are refused when they are read.

    Args:
        where: ``FILE.npy``, ``FILE.npz``, ``FILE.safetensors``, or ``FILE.npz:key`` to choose one.
        unpack_up_to: bytes; a member of a ``.npz`` that would take more memory is not read, see ``unpacking.py``.

    Returns:
        The arrays in the file's order; one for ``.npy`` and with a key.

    Raises:
        OSError: the file is missing or cannot be opened.
        ValueError: it is damaged, lacks the key, has a name twice, or has another ending.
    """
    path, key = split_key(where)
    ending = os.path.splitext(path)[1].lower()
    readers: dict[str, Callable[[str, str | None], list[StoredArray]]] = {
        ".npy": _npy, ".npz": partial(_npz, most=unpack_up_to), ".safetensors": _safetensors
    }  # fmt: skip
    if ending not in readers:
        raise ValueError(f"{path} does not end in .npy, .npz or .safetensors")
    with _sentences(path):
        return readers[ending](path, key)


def split_key(where: str) -> tuple[str, str | None]:
    """Split ``FILE.npz:key`` into path and key; a file whose name looks like that wins."""
    match = _KEYED.match(where)
    if match is None or os.path.exists(where):
        return where, None
    return match[1], match[2]


def _chosen(found: dict[str, Any], key: str | None) -> dict[str, Any]:
    if key is None:
        return found
    if key not in found:
        raise _Refused(f"has no array {key!r}; it has {_listed(list(found))}")
    return {key: found[key]}


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:8])
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown or "none"


@contextmanager
def _sentences(path: str) -> Iterator[None]:
    """Turn what a damaged file causes into one ValueError that names the file."""
    try:
        yield
    except TooLarge:
        raise
    except _Refused as error:
        raise ValueError(f"{path} {error}") from error
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # whatever NumPy, zipfile and the parsers under them make of it
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise ValueError(f"{path} is damaged or truncated: {error}") from error


@contextmanager
def _unwarned() -> Iterator[None]:
    """Without NumPy's and Python's warnings about a header that Python 2 wrote, or that looks like one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _Refused(Exception):
    """A file that is read well enough to say what is wrong with it."""


def _stored(
    path: str, name: str, shape: tuple[int, ...], dtype: str, num_bytes: int,
    read: Callable[[], Any], read_pieces: Callable[[int], Iterator[Any]] | None = None, refusal: str = "",
) -> StoredArray:  # fmt: skip
    """``refusal``: why its values cannot be read, however whole the file is."""

    def require_known() -> None:
        if refusal:
            raise _Refused(refusal)

    def slices(num_rows: int) -> Iterator[Any]:
        whole = read()
        for first in range(0, len(whole), num_rows):
            yield whole[first : first + num_rows]

    def guarded() -> Any:
        with _sentences(path):
            require_known()
            return read()

    def guarded_pieces(num_rows: int) -> Iterator[Any]:
        with _sentences(path):
            require_known()
            yield from (read_pieces or slices)(num_rows)

    return StoredArray(name, shape, dtype, num_bytes, guarded, guarded_pieces)


def _stored_mapped(
    path: str, name: str, shape: tuple[int, ...], dtype: str, raw: np.dtype[Any], offset: int, order: str = "C"
) -> StoredArray:
    """An array that is mapped; ``raw``: the type that NumPy knows its values by."""

    def mapped(shape: tuple[int, ...], offset: int) -> Any:
        if 0 in shape:
            return as_small_float(np.empty(shape, raw), dtype)
        array: Array = np.memmap(path, raw, "r", offset, shape, "F" if order == "F" else "C")
        # older safetensors files may start at an odd address
        return as_small_float(array if array.flags.aligned else np.array(array), dtype)

    def pieces(num_rows: int) -> Iterator[Any]:
        """One after the other, so that no more than two of them count as used memory."""
        row_bytes = math.prod(shape[1:]) * raw.itemsize
        for first in range(0, shape[0], num_rows):
            yield mapped((min(num_rows, shape[0] - first), *shape[1:]), offset + first * row_bytes)

    num_bytes = math.prod(shape) * raw.itemsize
    return _stored(path, name, shape, dtype, num_bytes, lambda: mapped(shape, offset), None if order == "F" else pieces)


# .npy


@dataclass(frozen=True)
class _NpyHeader:
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def refusal(self) -> str:
        """Why the values cannot be read; empty if they can."""
        pickled = "holds pickled Python objects, which are never loaded; save numbers instead"
        return pickled if self.dtype.hasobject else ""


def _npy_header(file: IO[bytes]) -> _NpyHeader:
    """Read the header; the file is then at the first value."""
    start = file.read(8)
    if start[:6] != b"\x93NUMPY":
        kind = "a pickle, which is never loaded" if start[:1] == b"\x80" else "not a NumPy array"
        raise _Refused("is empty" if not start else f"is {kind}")
    readers = {b"\x01\x00": np.lib.format.read_array_header_1_0, b"\x02\x00": np.lib.format.read_array_header_2_0}
    if start[6:] not in readers:
        raise _Refused(f"has the .npy version {list(start[6:])}, which is for records, not for numbers")
    with _unwarned():
        header = _NpyHeader(*readers[start[6:]](file))
    if any(extent < 0 for extent in header.shape):
        raise ValueError(f"its shape is {header.shape}")
    return header


def _npy(path: str, _: str | None) -> list[StoredArray]:
    with open(path, "rb") as file:
        header = _npy_header(file)
        if header.refusal:
            raise _Refused(header.refusal)
        offset = file.tell()
        missing = offset + header.num_bytes - os.fstat(file.fileno()).st_size
    if missing > 0:
        raise ValueError(f"{missing} bytes are missing")

    name = os.path.splitext(os.path.basename(path))[0]
    order = "F" if header.fortran_order else "C"
    return [_stored_mapped(path, name, header.shape, header.dtype.name, header.dtype, offset, order)]


# .npz


def _npz(path: str, key: str | None, most: int) -> list[StoredArray]:
    with zipfile.ZipFile(path) as archive:
        members = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
        named = {entry.filename[:-4]: entry for entry in members}
        if not named:
            raise _Refused("holds no array")
        if len(named) < len(members):
            raise _Refused(f"has several arrays of one name; it has {_listed([e.filename[:-4] for e in members])}")
        return [_npz_member(path, archive, entry, most) for entry in _chosen(named, key).values()]


def _npz_member(path: str, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, most: int) -> StoredArray:
    member, name = entry.filename, entry.filename[:-4]
    try:
        with archive.open(member) as file:
            header = _npy_header(file)
    except _Refused as error:
        raise _Refused(f"member {name!r} {error}") from error
    except RuntimeError as error:  # of zipfile: a password, or a way to compress that it does not know
        raise _Refused(f"member {name!r} cannot be unpacked: {error}; save it with numpy.savez") from error
    if header.num_bytes > entry.file_size and not header.refusal:
        raise ValueError(f"member {name!r} has {entry.file_size} bytes for {header.num_bytes} of values")

    def require(num_bytes: int) -> None:
        require_room(f"{path}, array {name!r},", num_bytes, os.path.getsize(path), most)

    def read() -> Array:
        require(max(header.num_bytes, _BYTES_A_ROW * math.prod(header.shape[:1])))
        with zipfile.ZipFile(path) as archive, archive.open(member) as file, _unwarned():
            array: Array = np.lib.format.read_array(file, allow_pickle=False)
            return array

    def read_pieces(num_rows: int) -> Iterator[Array]:
        row_bytes = math.prod(header.shape[1:]) * header.dtype.itemsize
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            _npy_header(file)
            for first in range(0, header.shape[0], num_rows):
                rows = min(num_rows, header.shape[0] - first)
                require(rows * row_bytes)
                content = file.read(rows * row_bytes)
                # a member that is too short fails here: its values do not fill the shape
                yield np.frombuffer(content, header.dtype).reshape(rows, *header.shape[1:])

    by_rows = header.shape and 0 not in header.shape and not header.fortran_order
    return _stored(
        path, name, header.shape, header.dtype.name, header.num_bytes, read, read_pieces if by_rows else None,
        f"member {name!r} {header.refusal}" if header.refusal else "",
    )  # fmt: skip


# .safetensors


def _safetensors(path: str, key: str | None) -> list[StoredArray]:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        if len(prefix) < 8:
            raise ValueError("its header is missing")
        (length,) = struct.unpack("<Q", prefix)
        if length > min(size - 8, _LONGEST_HEADER_BYTES):
            raise ValueError(f"its header claims {length} bytes")
        header = json_value(file.read(length), "its header")
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    first_byte = 8 + length
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if not tensors:
        raise _Refused("holds no tensor")
    return [_safetensor(path, name, entry, first_byte, size) for name, entry in _chosen(tensors, key).items()]


def _safetensor(path: str, name: str, entry: Any, first_byte: int, file_size: int) -> StoredArray:
    try:
        stored: str = entry["dtype"]
        shape: tuple[int, ...] = tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        numbers = [*shape, begin, end]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the entry of tensor {name!r} is {entry!r}") from error
    if not isinstance(stored, str) or not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"the entry of tensor {name!r} is {entry!r}")
    if not begin <= end <= file_size - first_byte:
        raise ValueError(f"tensor {name!r} does not fit its {file_size} bytes")
    dtype = _SAFETENSORS.get(stored)
    if dtype is None:
        refusal = f"holds tensor {name!r} of type {stored}, which is not measured; known are {', '.join(_SAFETENSORS)}"
        return _stored(path, name, shape, stored, end - begin, tuple, refusal=refusal)
    raw = np.dtype(_RAW.get(dtype, dtype))
    if end - begin != math.prod(shape) * raw.itemsize:
        raise ValueError(f"tensor {name!r} of {end - begin} bytes cannot have shape {shape} of {stored}")

    return _stored_mapped(path, name, shape, dtype, raw, first_byte + begin)


def as_small_float(raw: Array, dtype: str) -> Any:
    """Give bits the float type that NumPy lacks, through ml_dtypes or, failing that, torch.

    Args:
        raw: unsigned integers.
        dtype: what they are; a type that NumPy has is returned as it came.

    Raises:
        ImportError: neither package is installed.
    """
    if dtype not in _RAW:
        return raw
    try:
        import ml_dtypes

        return raw.view(getattr(ml_dtypes, dtype))
    except ImportError:
        pass
    try:
        import torch
    except ImportError:
        raise ImportError(f"{dtype} needs the package ml_dtypes (small) or torch: pip install ml_dtypes") from None
    return torch.from_numpy(np.array(raw)).view(getattr(torch, dtype))

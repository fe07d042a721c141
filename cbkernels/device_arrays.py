"""Arrays on a GPU and the streams they are used on: whom to wait for, where results are made, who gets them.

Work runs on torch's current stream where torch is used, else on the producer's own stream; no call
waits on the host. Results are made by the library whose array came in. Read next: ``backends.py``.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from . import _core
from .arrays import Rows


def streams_of(views: Sequence[Rows], result: Any = None) -> tuple[int, list[int]]:
    """On which stream to work, and which streams hold work that must come first.

    Args:
        views: inputs, all on one device. One on the CPU (an emulated GPU) needs no stream.
        result: an array that the work fills; memory of torch belongs to torch's current stream.

    Returns:
        Addresses of streams; 1 and 2 are the default streams as in ``__cuda_array_interface__``.
    """
    on_gpu = [view for view in views if view.device != "cpu"]
    wanted = list(dict.fromkeys(view.stream for view in on_gpu if view.stream is not None))
    if on_gpu and _belongs_to_torch(result, on_gpu):
        wanted.insert(0, int(sys.modules["torch"].cuda.current_stream(on_gpu[0].device_index).cuda_stream))
    if not wanted:
        return 0, []
    # torch calls the legacy default stream 0, __cuda_array_interface__ calls it 1
    return wanted[0], [s for s in wanted[1:] if s != wanted[0] and {s, wanted[0]} != {0, 1}]


def _belongs_to_torch(result: Any, views: Sequence[Rows]) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and any(isinstance(x, torch.Tensor) for x in (result, *(v.owner for v in views)))


def new_ids(rows: Rows) -> tuple[Any, int]:
    """Room for (N,) int64 where the rows are, and its address.

    Raises:
        ValueError: the rows are on a GPU and their library cannot lend memory that others write to.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(rows.owner, torch.Tensor):
        ids = torch.empty(rows.num_rows, dtype=torch.int64, device=rows.owner.device)
        return ids, ids.data_ptr()
    if rows.device == "cpu":
        ids = np.empty(rows.num_rows, np.int64)
        return ids, _core.address_of(ids)
    make = _LENDERS.get(library_of(rows.producer))
    if make is None:
        kind = f"{library_of(rows.producer)} {type(rows.producer).__name__}"
        raise ValueError(
            f"acts is a {kind} on {rows.device}, which lends no memory for ids; import torch first, which lends it"
        )
    ids = make(rows)
    return ids, int(ids.__cuda_array_interface__["data"][0])


def give_back_reserve_of_torch() -> None:
    """Memory that torch keeps although no tensor is in it goes back to the GPU, where others can have it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized() and not torch.cuda.is_current_stream_capturing():
        torch.cuda.empty_cache()


def handed_back(ids: Any, rows: Rows) -> Any:
    """The ids as an array of the library that brought the rows, without a copy."""
    torch = sys.modules.get("torch")
    if rows.producer is None or torch is None or not isinstance(ids, torch.Tensor):
        return ids
    convert = _RECEIVERS.get(library_of(rows.producer))
    return ids if convert is None else convert(ids)


def library_of(x: object) -> str:
    """Name of the package that the type of ``x`` comes from; jaxlib is jax, numba_cuda is numba."""
    package = type(x).__module__.partition(".")[0]
    return {"jaxlib": "jax", "numba_cuda": "numba"}.get(package, package)


def _lent_by_cupy(rows: Rows) -> Any:
    cupy = import_module("cupy")
    with cupy.cuda.Device(rows.device_index):
        return cupy.empty(rows.num_rows, np.int64)


def _lent_by_numba(rows: Rows) -> Any:
    cuda = import_module("numba.cuda")
    # the array's own stream: 1 and 2 are default streams, with which Numba's 0 is in order
    stream = cuda.external_stream(rows.stream) if rows.stream is not None and rows.stream > 2 else 0
    with cuda.gpus[rows.device_index]:
        return cuda.device_array(rows.num_rows, np.int64, stream=stream)


_LENDERS: dict[str, Callable[[Rows], Any]] = {"cupy": _lent_by_cupy, "numba": _lent_by_numba}

# JAX makes int32 of int64 unless its 64-bit mode is on
_RECEIVERS: dict[str, Callable[[Any], Any]] = {
    "cupy": lambda ids: import_module("cupy").from_dlpack(ids),
    "jax": lambda ids: import_module("jax.dlpack").from_dlpack(ids),
    "numba": lambda ids: import_module("numba.cuda").as_cuda_array(ids),
}


class OwnersInUse:
    """Keeps arrays of other libraries alive until the GPU has read them.

    Their allocators know nothing of torch's stream and would give the memory away while work on it
    is only queued. Torch's own tensors need no such care: they are read on the stream they live on.
    What was read is let go in the next call.
    """

    def __init__(self) -> None:
        self._held: list[tuple[Any, Any]] = []
        self._lock = threading.Lock()

    def hold(self, views: Sequence[Rows], result: Any) -> None:
        """Call after work on ``views`` that fills ``result`` was queued; never waits."""
        owners = [(view.owner, view.producer) for view in views if view.producer is not None]
        if not owners or not _belongs_to_torch(result, views):
            return
        cuda = sys.modules["torch"].cuda
        if cuda.is_current_stream_capturing():  # what a graph reads is the caller's to keep
            return
        event = cuda.Event()
        event.record(cuda.current_stream(views[0].device_index))
        with self._lock:
            self._held = [(done, held) for done, held in self._held if not done.query()]
            self._held.append((event, owners))

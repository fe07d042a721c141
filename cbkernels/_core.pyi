"""The compiled module: pointers in, integers out, GIL released.

Addresses are plain integers, shapes and strides tuples (strides in bytes), types the positions in
``arrays.DTYPES``. A grid is ``UpdateGrid.parameters``. No argument is checked here again.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

version: str

_Grid = tuple[int, float, float, float] | None
_Tolerance = tuple[float, float] | None
_Key = tuple[int, int]
"""The low and the high 64 bits."""
_Int64 = npt.NDArray[np.int64]
_Counts = tuple[int, int, int, int, _Int64, _Int64]
"""num_bundles, num_nan_rows, num_conflicting, num_conflicting_rows, label_counts, starts."""

class _Cpu:
    def count_bundles(
        self,
        acts: int,
        shape: Sequence[int],
        strides: Sequence[int],
        dtype: int,
        labels: int,
        label_stride: int,
        label_dtype: int,
        grid: _Grid,
        tolerance: _Tolerance,
        check_nan: bool,
        num_threads: int,
    ) -> _Counts: ...
    def bundle_ids(
        self,
        acts: int,
        shape: Sequence[int],
        strides: Sequence[int],
        dtype: int,
        grid: _Grid,
        tolerance: _Tolerance,
        ids: int,
        num_threads: int,
    ) -> int:
        """Writes (N,) int64 to the address ``ids``; returns the number of bundles."""

    def row_fingerprints(
        self,
        acts: int,
        shape: Sequence[int],
        strides: Sequence[int],
        dtype: int,
        grid: _Grid,
        key: _Key,
        fingerprints: int,
        holds_nan: int,
        num_threads: int,
    ) -> None:
        """Writes (N, 2) uint64 and (N,) bool."""

    def conflict_margin(
        self,
        acts: int,
        shape: Sequence[int],
        strides: Sequence[int],
        dtype: int,
        labels: int,
        label_stride: int,
        label_dtype: int,
        num_threads: int,
    ) -> float: ...
    def require(self) -> None:
        """Does nothing: the CPU is always there."""

class _Cuda:
    """Arrays are memory of GPU ``device``; ``stream`` is the address of a cudaStream_t, 0 the legacy default."""

    def count_bundles(
        self,
        layers: Sequence[tuple[int, Sequence[int], Sequence[int], int]],
        labels: int,
        label_stride: int,
        label_dtype: int,
        grid: _Grid,
        tolerance: _Tolerance,
        check_nan: bool,
        device: int,
        stream: int,
    ) -> list[_Counts]:
        """Layers are (acts, shape, strides, dtype); one launch for every kind of value; waits for the stream once."""

    def queue_bundles(
        self,
        layers: Sequence[tuple[int, Sequence[int], Sequence[int], int]],
        labels: int,
        label_stride: int,
        label_dtype: int,
        grid: _Grid,
        check_nan: bool,
        device: int,
        stream: int,
    ) -> Callable[[], list[_Counts]]:
        """The same, never waiting; what comes back waits and reads, any number of times, after a graph's replay too."""

    def bundle_ids(
        self,
        acts: int,
        shape: Sequence[int],
        strides: Sequence[int],
        dtype: int,
        grid: _Grid,
        tolerance: _Tolerance,
        ids: int,
        device: int,
        stream: int,
    ) -> None:
        """Writes (N,) int64 to the address ``ids``; never waits."""

    def row_fingerprints(
        self,
        acts: int,
        shape: Sequence[int],
        strides: Sequence[int],
        dtype: int,
        grid: _Grid,
        key: _Key,
        fingerprints: int,
        device: int,
        stream: int,
    ) -> None:
        """Writes (N, 2) uint64, (0, 0) for a row that holds a NaN; never waits."""

    def count_fingerprints(
        self, fingerprints: int, labels: int, num_rows: int, may_hold_nan: bool, device: int, stream: int
    ) -> _Counts:
        """Contiguous (N, 2) uint64 and (N,) int64; rows of (0, 0) are NaN rows if there may be some."""

    def conflict_margin(
        self,
        acts: int,
        shape: Sequence[int],
        strides: Sequence[int],
        dtype: int,
        labels: int,
        label_stride: int,
        label_dtype: int,
        device: int,
        stream: int,
    ) -> float: ...
    def queue_margin(
        self,
        acts: int,
        shape: Sequence[int],
        strides: Sequence[int],
        dtype: int,
        labels: int,
        label_stride: int,
        label_dtype: int,
        device: int,
        stream: int,
    ) -> Callable[[], float]:
        """The same, never waiting; see ``queue_bundles``."""

    def wait_for(self, device: int, stream: int, producer: int) -> None:
        """Queues on ``stream``: nothing more before what the stream ``producer`` holds now."""

    def device_of(self, address: int) -> int:
        """Ordinal of the GPU whose memory this is."""

    def require(self) -> None:
        """Raises ValueError with ``missing_reason`` unless a GPU can be used here now."""

    def missing_reason(self) -> str:
        """Why no GPU can be used here now; empty when one can. Asks the driver."""

    def use_launch_shape(self, blocks: int, threads: int, rows_of_a_block: int = 0) -> None:
        """For tests: blocks, threads a block and rows a block of every launch; zeros are the normal choice."""

cpu: _Cpu
cuda: _Cuda

def count_fingerprints(blocks: Sequence[tuple[int, int, int]], num_threads: int) -> _Counts:
    """Blocks are (address of (n, 2) uint64, address of (n,) int64, n)."""

def build_info() -> dict[str, Any]:
    """compiler, flags, cuda (bool: compiled in), cuda_reason (why not), cuda_architectures (str),
    instruction_sets, instruction_set, num_dtypes, pointer_bits; never asks the driver."""

def use_instruction_set(name: str) -> None:
    """For tests: "portable", "avx2", "avx512" or "best"; ValueError if this processor lacks it."""

def use_routing_bits(bits: int) -> None:
    """For tests: keep only so many bits of every routing hash, so that collisions happen; 64 is normal."""

def use_routing_key(key: _Key | None) -> None:
    """For tests: another key of the routing hashes; None draws a random one, as a process does at first."""

def last_work() -> dict[str, int]:
    """Counters of this thread's last call: bytes_touched, bytes_total, rows_sampled, rows_compared,
    keys_in_tables, rows_fingerprinted, rows_searched, collisions, comparisons, threads, parallel_regions, launches."""

def address_of(array: npt.NDArray[Any]) -> int:
    """Of its first value; ``ctypes.data`` takes a microsecond."""

def read_bytes(address: int, num_bytes: int, num_threads: int) -> int:
    """One plain read of memory, the yardstick of the benchmarks: the exclusive or of its 64-bit words."""

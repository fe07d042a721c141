"""The compiled module: pointers in, integers out, GIL released.

Addresses are plain integers, shapes and strides tuples (strides in bytes), types the positions in
``arrays.DTYPES``. A grid is ``UpdateGrid.parameters``. No argument is checked here again.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

version: str

_Grid = tuple[int, float, float, float] | None
_Tolerance = tuple[float, float] | None
_Int64 = npt.NDArray[np.int64]

class _Functions:
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
    ) -> tuple[int, int, int, int, _Int64, _Int64]:
        """num_bundles, num_nan_rows, num_conflicting, num_conflicting_rows, label_counts, starts."""

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
        """Raises ValueError with the reason when this half is not in the build."""

cpu: _Functions
cuda: _Functions

def count_fingerprints(
    blocks: Sequence[tuple[int, int, int]], num_threads: int
) -> tuple[int, int, int, int, _Int64, _Int64]:
    """Blocks are (address of (n, 2) uint64, address of (n,) int64, n); returns as count_bundles."""

def build_info() -> dict[str, Any]:
    """compiler, flags, cuda (bool), cuda_reason, instruction_sets, instruction_set, pointer_bits."""

def use_instruction_set(name: str) -> None:
    """For tests: "portable", "avx2" or "best"; ValueError if this processor lacks it."""

def use_routing_bits(bits: int) -> None:
    """For tests: keep only so many bits of every routing hash, so that collisions happen; 64 is normal."""

def last_work() -> dict[str, int]:
    """Counters of this thread's last call: bytes_touched, bytes_total, rows_sampled, rows_compared,
    rows_fingerprinted, rows_searched, comparisons, threads, parallel_regions."""

def read_bytes(address: int, num_bytes: int, num_threads: int) -> int:
    """One plain read of memory, the yardstick of the benchmarks: the exclusive or of its 64-bit words."""

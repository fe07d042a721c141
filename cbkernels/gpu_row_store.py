"""What a stream keeps on a GPU: a fingerprint and a label of each row, 24 bytes, in torch tensors.

Adding rows never waits for the GPU, so rows that hold a NaN stay in, with the fingerprint (0, 0).
Each call may come on another of torch's streams: it is queued behind the one before. They grow by blocks
that are never copied again. Twin: ``row_store.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from . import row_store
from .arrays import Labels, Rows, may_hold_nan
from .backends import Cuda
from .entropy import BundleCounts
from .grid import UpdateGrid

_LARGEST_BLOCK_ROWS = 1 << 16


def rows_of_next_block(num_rows: int) -> int:
    """Rows of the block behind ``num_rows`` rows: half of them, so at most a third is ever unused."""
    return min(_LARGEST_BLOCK_ROWS, max(64, num_rows // 2))


class _Block:
    """(n, 2) int64 bits of fingerprints and (n,) int64 labels, of which the first ``used`` rows are filled."""

    def __init__(self, patterns: Any, labels: Any, used: int) -> None:
        self.patterns = patterns
        self.labels = labels
        self.used = used


class GpuRowStore:
    """Growing tensors of (fingerprint, label) of rows of one type on one device.

    Args:
        backend: what fills and counts them.
        device: as torch names it.
        dtype: type of the rows; it says whether (0, 0) means NaN.
    """

    def __init__(self, backend: Cuda, device: str, dtype: str) -> None:
        self.backend = backend
        self.device = device
        self.dtype = dtype
        self.size = 0
        self._blocks: list[_Block] = []  # only the last one has unused rows
        self._stream: Any = None

    def append(self, rows: Rows, labels: Labels, grid: UpdateGrid | None, key: int) -> None:
        """Add a batch, its fingerprints written in place; never waits. All of it or, on an error, nothing."""
        with self._queued() as torch:
            names = _as_tensor(torch, labels)
            pieces = self._room(torch, rows.num_rows)
            begin = 0
            for block, num_rows in pieces:
                here = slice(block.used, block.used + num_rows)
                self.backend.write_fingerprints(rows.part(begin, num_rows), grid, key, block.patterns[here], labels)
                block.labels[here].copy_(names[begin : begin + num_rows])
                self.backend.hold_labels(labels, block.labels)
                begin += num_rows
            for block, num_rows in pieces:
                block.used += num_rows
            self.size += rows.num_rows

    def extend(self, other: GpuRowStore) -> None:
        """Add a copy of what another store of the same device holds; never waits."""
        with self._queued() as torch, other._queued():
            patterns, labels = other._concatenated(torch)
            self._blocks.insert(max(len(self._blocks) - 1, 0), _Block(patterns, labels, len(labels)))
            self.size += len(labels)

    def count(self) -> BundleCounts:
        """Count labels per bundle of equal fingerprints, where the rows are; waits for the GPU once."""
        with self._queued() as torch:
            blocks = self._blocks
            if len(blocks) > 1:
                patterns, labels = self._concatenated(torch)
                blocks = [_Block(patterns, labels, len(labels))]
            used = slice(blocks[0].used)
            counts = self.backend.count_fingerprints(blocks[0].patterns[used], blocks[0].labels[used], self.dtype)
            self._blocks = blocks
        return counts

    def on_host(self) -> tuple[row_store.Fingerprints, row_store.Labels, int]:
        """Fingerprints and labels of the rows without NaN, and the number of the others; waits for the GPU."""
        with self._queued():
            blocks = [(patterns.cpu().numpy(), labels.cpu().numpy()) for patterns, labels in self._filled()]
        fingerprints = np.concatenate([patterns for patterns, _ in blocks]).view(np.uint64)
        labels = np.concatenate([labels for _, labels in blocks])
        if not may_hold_nan(self.dtype):
            return fingerprints, labels, 0
        kept = (fingerprints != 0).any(axis=1)
        return fingerprints[kept], labels[kept], len(labels) - int(kept.sum())

    def __copy__(self) -> GpuRowStore:
        twin = GpuRowStore(self.backend, self.device, self.dtype)
        # shares the tensors, which are written only behind the rows that either holds
        twin._blocks = [_Block(block.patterns, block.labels, block.used) for block in self._blocks]
        twin.size, twin._stream = self.size, self._stream
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> GpuRowStore:
        twin = GpuRowStore(self.backend, self.device, self.dtype)
        twin.extend(self)
        return twin

    def _filled(self) -> Iterator[tuple[Any, Any]]:
        for block in self._blocks:
            yield block.patterns[: block.used], block.labels[: block.used]

    def _concatenated(self, torch: Any) -> tuple[Any, Any]:
        """All rows in new tensors."""
        filled = list(self._filled())
        return torch.cat([patterns for patterns, _ in filled]), torch.cat([labels for _, labels in filled])

    def _room(self, torch: Any, num_rows: int) -> list[tuple[_Block, int]]:
        """Where to write so many rows: behind the used rows of one block, or of two."""
        first = min(num_rows, len(self._blocks[-1].labels) - self._blocks[-1].used) if self._blocks else 0
        pieces = [(self._blocks[-1], first)] if first else []
        if first < num_rows:
            size = max(num_rows - first, rows_of_next_block(self.size + first))
            patterns = torch.empty((size, 2), dtype=torch.int64, device=self.device)
            block = _Block(patterns, torch.empty(size, dtype=torch.int64, device=self.device), 0)
            self._blocks.append(block)
            pieces.append((block, num_rows - first))
        return pieces

    @contextmanager
    def _queued(self) -> Iterator[Any]:
        """Yields torch; what follows runs on its current stream behind all earlier work on the blocks."""
        torch = sys.modules["torch"]
        # tensors made in inference mode could not be written to outside of it
        with torch.inference_mode(False), torch.no_grad():
            if self.device != "cpu":
                current = torch.cuda.current_stream(self.device)
                if self._stream is not None and self._stream != current:
                    current.wait_stream(self._stream)
                    for block in self._blocks:  # so that the allocator waits for this stream too
                        block.patterns.record_stream(current)
                        block.labels.record_stream(current)
                self._stream = current
            yield torch


def _as_tensor(torch: Any, labels: Labels) -> Any:
    """(N,) labels as a tensor on their device."""
    if isinstance(labels.owner, torch.Tensor):
        return labels.owner
    if labels.device == "cpu":  # an emulated GPU
        return torch.from_numpy(labels.raw().copy())
    return torch.as_tensor(labels.owner, device=labels.device)

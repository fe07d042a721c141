"""What a stream keeps on the CPU: a fingerprint and a label of each row, 24 bytes.

Its twin for a GPU is ``gpu_row_store.py``; both grow by blocks that are never copied again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Fingerprints = npt.NDArray[np.uint64]
Labels = npt.NDArray[np.int64]

_LARGEST_BLOCK_ROWS = 1 << 16


def rows_of_next_block(num_rows: int) -> int:
    """Rows of the block behind ``num_rows`` rows: half of them, so at most a third is ever unused."""
    return min(_LARGEST_BLOCK_ROWS, max(64, num_rows // 2))


class RowStore:
    """Growing arrays of (fingerprint, label)."""

    def __init__(self) -> None:
        self._blocks: list[tuple[Fingerprints, Labels]] = []
        self._used = 0  # rows of the last block
        self.size = 0

    def __copy__(self) -> RowStore:
        twin = RowStore()  # shares the arrays, which are written only behind the rows that either holds
        twin._blocks, twin._used, twin.size = self._blocks.copy(), self._used, self.size
        return twin

    def append(self, fingerprints: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
        """Copy (n, 2) fingerprints and (n,) labels."""
        done = 0
        while done < len(labels):
            if not self._blocks or self._used == len(self._blocks[-1][1]):
                rows = rows_of_next_block(self.size)
                self._blocks.append((np.empty((rows, 2), np.uint64), np.empty(rows, np.int64)))
                self._used = 0
            open_fingerprints, open_labels = self._blocks[-1]
            take = min(len(labels) - done, len(open_labels) - self._used)
            open_fingerprints[self._used : self._used + take] = fingerprints[done : done + take]
            open_labels[self._used : self._used + take] = labels[done : done + take]
            self._used += take
            done += take
        self.size += done

    def blocks(self) -> Iterator[tuple[Fingerprints, Labels]]:
        """All rows, as views."""
        yield from self._blocks[:-1]
        for fingerprints, labels in self._blocks[-1:]:
            yield fingerprints[: self._used], labels[: self._used]

    def concatenated(self) -> tuple[Fingerprints, Labels]:
        """All rows, as copies."""
        blocks = [(np.empty((0, 2), np.uint64), np.empty(0, np.int64)), *self.blocks()]
        return np.concatenate([b[0] for b in blocks]), np.concatenate([b[1] for b in blocks])

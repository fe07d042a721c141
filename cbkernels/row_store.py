"""What a stream keeps on the CPU: a fingerprint and a label of each row, 24 bytes.

Its twin for a GPU is ``gpu_row_store.py``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Fingerprints = npt.NDArray[np.uint64]
Labels = npt.NDArray[np.int64]
Block = tuple[Fingerprints, Labels]
"""(n, 2) fingerprints and (n,) labels that nobody writes to any more."""

_MOST_BATCHES = 32
_BLOCK_ROWS = 1 << 16


class RowStore:
    """Blocks of (fingerprint, label), which are never written again: whoever holds a store may share its arrays.

    Batches stay as they come, for in the middle of a training whatever an update touches is far away from the
    processor. As soon as there are more than 32 of them, or 65,536 rows in them, they are joined.

    Attributes:
        size: number of rows.
    """

    def __init__(self) -> None:
        self.size = 0
        self._blocks: tuple[Block, ...] = ()  # of 65,536 rows and more; but the batches before one that long
        self._batches: tuple[Block, ...] = ()
        self._rows_in_batches = 0

    def with_rows(self, fingerprints: Fingerprints, labels: Labels) -> RowStore:
        """A store that holds these (n, 2) fingerprints and (n,) labels too: the arrays themselves, not copies."""
        after = RowStore()
        after.size = self.size + len(labels)
        if len(labels) >= _BLOCK_ROWS:
            earlier = (_joined(self._batches),) if self._batches else ()
            after._blocks = (*self._blocks, *earlier, (fingerprints, labels))
            return after
        after._blocks, after._batches = self._blocks, (*self._batches, (fingerprints, labels))
        after._rows_in_batches = self._rows_in_batches + len(labels)
        if after._rows_in_batches >= _BLOCK_ROWS:
            after._blocks, after._batches = (*self._blocks, _joined(after._batches)), ()
            after._rows_in_batches = 0
        elif len(after._batches) > _MOST_BATCHES:
            after._batches = (_joined(after._batches),)
        return after

    def with_all_of(self, other: RowStore) -> RowStore:
        """A store that holds the rows of both."""
        after = self
        for fingerprints, labels in other._blocks + other._batches:  # whole: a part would keep the rest in memory
            after = after.with_rows(fingerprints, labels)
        return after

    def blocks(self) -> Iterator[Block]:
        """All rows, 65,536 at most at a time."""
        for fingerprints, labels in self._blocks + self._batches:
            for begin in range(0, len(labels), _BLOCK_ROWS):
                here = slice(begin, begin + _BLOCK_ROWS)
                yield fingerprints[here], labels[here]

    def concatenated(self) -> Block:
        """All rows, as copies."""
        return _joined(((np.empty((0, 2), np.uint64), np.empty(0, np.int64)), *self.blocks()))


def _joined(blocks: tuple[Block, ...]) -> Block:
    return np.concatenate([fingerprints for fingerprints, _ in blocks]), np.concatenate([y for _, y in blocks])

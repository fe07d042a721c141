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
_FULL_BLOCK_ROWS = 1 << 16


class RowStore:
    """Blocks of (fingerprint, label), which are never written again: whoever holds a store may share its arrays.

    Batches stay as they come, for in the middle of a training whatever an update touches is far away from the
    processor; when there are 32 of them, they become a block, or join one that is not full.

    Attributes:
        size: number of rows.
    """

    def __init__(self) -> None:
        self.size = 0
        self._full: tuple[Block, ...] = ()
        self._batches: tuple[Block, ...] = ()

    def with_rows(self, fingerprints: Fingerprints, labels: Labels) -> RowStore:
        """A store that holds these (n, 2) fingerprints and (n,) labels too: the arrays themselves, not copies."""
        after = RowStore()
        after.size = self.size + len(labels)
        after._full, after._batches = self._full, (*self._batches, (fingerprints, labels))
        if len(labels) < _FULL_BLOCK_ROWS and len(after._batches) > _MOST_BATCHES:
            after._batches = (_joined(after._batches),)
        if len(after._batches[-1][1]) >= _FULL_BLOCK_ROWS:
            after._full, after._batches = after._full + after._batches, ()
        return after

    def blocks(self) -> Iterator[Block]:
        """All rows, 65,536 at most at a time."""
        for fingerprints, labels in self._full + self._batches:
            for begin in range(0, len(labels), _FULL_BLOCK_ROWS):
                here = slice(begin, begin + _FULL_BLOCK_ROWS)
                yield fingerprints[here], labels[here]

    def concatenated(self) -> Block:
        """All rows, as copies."""
        return _joined(((np.empty((0, 2), np.uint64), np.empty(0, np.int64)), *self.blocks()))


def _joined(blocks: tuple[Block, ...]) -> Block:
    return np.concatenate([fingerprints for fingerprints, _ in blocks]), np.concatenate([y for _, y in blocks])

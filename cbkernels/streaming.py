"""Bundle entropy over many batches: 24 bytes a row instead of the rows.

Keeps a 128-bit fingerprint (``docs/fingerprint.md``) and the label of each row, where the row was
(``held_rows.py``). Two different rows share a fingerprint with probability at most 2**-120, over a key that was drawn
at random and that whoever makes the rows does not know: results are probabilistic, not exact. Batches may be split,
ordered and merged in any way: the result is the same, bit for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, SupportsIndex

import numpy as np
import numpy.typing as npt

from . import backends, stream_keys
from .arrays import DTYPES, as_labels, as_rows
from .entropy import entropy_of_counts
from .grid import UpdateGrid
from .held_rows import FORMAT, HeldRows, require_format
from .options import check_options
from .result import BundleResult, result_of

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class BundleEntropy:
    """Streaming bundle entropy: ``update`` with batches, ``compute`` when asked.

    Args:
        grid: as in ``bundle_entropy``.
        log_epsilon: as in ``bundle_entropy``.
        backend: as in ``bundle_entropy``.
        key: of the fingerprints, 16 bytes or an integer below 2**128. None draws one at random, once for this process
            and those that ``torch.distributed`` has joined with it, so that nobody can make rows which share a
            fingerprint. Metrics whose rows meet need the same key: give one to all where their states are brought
            together otherwise. ``state_dict`` and pickles hold it: whoever reads them knows it.

    On a GPU ``update`` never waits for the device and the state stays there in torch tensors, 24
    bytes a row; ``compute`` waits once. A row that holds a NaN is kept as the fingerprint (0, 0),
    which another row has with probability 2**-128. Rows of several devices may be mixed; they are
    then counted on the CPU. Pickles and ``state_dict`` hold CPU memory only.

    Example:
        >>> import numpy as np
        >>> metric = BundleEntropy()
        >>> for label in (0, 1):
        ...     metric.update(np.zeros((2, 3)), np.array([label, label]))
        >>> metric.compute().num_conflicting
        1
    """

    held: HeldRows
    """What has been seen since the last reset; ``compute_across_ranks`` reads it."""
    higher_is_better = False
    is_differentiable = False

    def __init__(
        self, *, grid: UpdateGrid | None = None, log_epsilon: float | None = None, backend: str = "auto",
        key: bytes | SupportsIndex | None = None,
    ) -> None:  # fmt: skip
        check_options(grid, None, log_epsilon)
        backends.require_name(backend)
        self.grid = grid
        self.log_epsilon = log_epsilon
        self._backend = backend
        self._given_key = stream_keys.checked_key(key)
        self.reset()

    def reset(self) -> None:
        """Forget all rows; the options stay."""
        self.held = HeldRows(self._given_key)

    @property
    def num_rows(self) -> int:
        """Rows seen since the last reset."""
        return self.held.num_rows

    @property
    def key(self) -> int:
        """Key of the fingerprints; chosen by the first rows, or now."""
        return self.held.key

    def update(self, acts: object, labels: object) -> None:
        """Add a batch.

        Args:
            acts: (N, ...) activations; the type and the number of values per row must be those of
                the first batch.
            labels: (N,) integers.

        A batch without a row adds nothing.

        Raises:
            TypeError, ValueError: one sentence; the state is then unchanged.

        Ctrl-C and every other exception leave all of the batch in the state or nothing of it; ``num_rows`` tells.
        """
        if _holds_none(labels) and not as_rows(acts, least=0).num_rows:
            return
        rows = as_rows(acts)
        of_row = as_labels(labels, rows)
        self.held.add(rows, of_row, self.grid, backends.choose(self._backend, rows))

    def merge(self, other: BundleEntropy) -> None:
        """Add everything another metric has seen; the other is left as it is.

        Raises:
            ValueError: the other has another grid, rows of another type or width, or rows under another key.
        """
        if not isinstance(other, BundleEntropy):
            raise TypeError(f"other is a {type(other).__name__}; pass a BundleEntropy")
        if other.grid != self.grid:
            raise ValueError(f"other has grid {other.grid} and this metric {self.grid}; they must agree")
        self.held.extend(other.held)

    def compute(self, process_group: ProcessGroup | Literal["world"] | None = None) -> BundleResult:
        """Result over all rows so far; the metric stays as it is.

        Args:
            process_group: None for the rows of this process, without a word to any other. "world"
                or a group of ``torch.distributed`` for the rows of all its ranks; then each of them
                must call, and gets the same result. Many layers: ``compute_across_ranks``.

        Raises:
            ValueError: no rows yet, or what ``compute_across_ranks`` says.
        """
        if process_group is not None:
            from .distributed import compute_across_ranks  # which needs torch

            return compute_across_ranks({"": self}, process_group)[""]
        held = self.held
        if held.dtype is None or not held.num_rows:
            raise ValueError("no rows yet: call update() before compute()")
        counts = held.counts()
        return result_of(
            entropy_of_counts(counts, self.log_epsilon), counts, held.num_columns, held.dtype, held.device,
            held.backend, self.grid, self.log_epsilon, exact=False,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Everything seen so far, as plain types and NumPy arrays; waits for a GPU that holds some of it.

        ``torch.load(weights_only=True)`` takes no NumPy arrays: save ``torch.from_numpy`` of the two that are in it;
        ``load_state_dict`` takes them, too.
        """
        gathered, num_nan_rows = self.held.on_host()
        fingerprints, labels = gathered.concatenated()
        return {
            "format": FORMAT, "fingerprints": fingerprints, "labels": labels, "num_nan_rows": num_nan_rows,
            "dtype": self.held.dtype, "num_columns": self.held.num_columns,
            "grid": None if self.grid is None else self.grid.to_dict(), "key": stream_keys.as_text(self.key),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replace what was seen by what ``state_dict`` returned, and go on with its key.

        Raises:
            ValueError: the state is damaged, from another format, of another grid, or under another key than the
                rows or the ``key=`` of this metric; this metric is then unchanged.
        """
        fingerprints, labels, key = _checked_state(state, self.grid)
        self.held.require_key(key, "the state")
        held = HeldRows(self._given_key)
        held.restore(fingerprints, labels, key, state["num_nan_rows"], state["dtype"], state["num_columns"])
        self.held = held


def _holds_none(labels: object) -> bool:
    try:
        return len(labels) == 0  # type: ignore[arg-type]
    except TypeError:  # no length: neither a number nor an array without an axis is a batch
        return False


def _checked_state(
    state: dict[str, Any], own_grid: UpdateGrid | None
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64], int]:
    """The state's two arrays and its key, after everything in it was found to be what ``state_dict`` writes."""
    if not isinstance(state, dict):
        raise TypeError(f"the state is a {type(state).__name__}; pass what BundleEntropy.state_dict() returned")
    if "format" in state:  # first: an older one lacks more
        require_format(state["format"], "the state")
    missing = {"format", "fingerprints", "labels", "num_nan_rows", "dtype", "num_columns", "grid", "key"} - set(state)
    if missing:
        raise ValueError(f"the state lacks {sorted(missing)}; it is not one of BundleEntropy.state_dict()")
    key = stream_keys.from_text(state["key"])
    for name in ("num_nan_rows", "num_columns"):
        if not isinstance(state[name], int) or state[name] < 0:
            raise ValueError(f"the state has {name} {state[name]!r}; it must be an integer that is not negative")
    try:
        grid = None if state["grid"] is None else UpdateGrid(**state["grid"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"the state has grid {state['grid']!r}, which is none: {error}") from error
    if grid != own_grid:
        raise ValueError(f"the state has grid {grid} and this metric {own_grid}; they must agree")
    fingerprints, labels = np.asarray(state["fingerprints"]), np.asarray(state["labels"])
    n, found = labels.size, (fingerprints.dtype, fingerprints.shape, labels.dtype, labels.shape)
    if found != (np.dtype(np.uint64), (n, 2), np.dtype(np.int64), (n,)):
        raise ValueError(
            f"the state has fingerprints {fingerprints.dtype}{fingerprints.shape} and labels "
            f"{labels.dtype}{labels.shape}; they must be uint64 (n, 2) and int64 (n,)"
        )
    is_empty = len(labels) + state["num_nan_rows"] == 0
    if state["dtype"] not in DTYPES and not (state["dtype"] is None and is_empty):
        raise ValueError(f"the state has dtype {state['dtype']!r}; it must be one of {', '.join(DTYPES)}")
    return fingerprints, labels, key

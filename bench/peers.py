"""What people use today, each at its best: torch.unique, np.unique, a dict of xxh3 hashes, a plain loop, and for
short rows the data frames of polars and pandas, grouped by all columns.

And `one_read`, the yardstick: the bytes read once by as many threads. All contenders get the same
memory; copies a peer needs (contiguous rows for a byte view) are part of its time. The estimates
decide only whether a slow peer is run at all.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from typing import Any

import numpy as np
import torch
import xxhash

from cbkernels import UpdateGrid, _core

from .race import Contender
from .regimes import Array, Case, by_leader


def torch_unique(acts: Any) -> Any:
    rows = acts if isinstance(acts, torch.Tensor) else torch.from_numpy(acts)
    return torch.unique(rows, dim=0, return_inverse=True)[1]


def numpy_unique(acts: Any) -> Array:
    rows = _bytes_of_rows(acts)
    return np.unique(rows.view(f"V{rows.shape[1]}").ravel(), return_inverse=True)[1]


def hash_dict(acts: Any) -> list[int]:
    """Not exact: rows are taken as equal when their 128-bit hashes are."""
    seen: dict[bytes, int] = {}
    return [seen.setdefault(xxhash.xxh3_128_digest(row), len(seen)) for row in _bytes_of_rows(acts)]


def pairwise_loop(acts: Any) -> Array:
    """Every row that is still alone against all behind it, until no row is left."""
    rows = acts.reshape(len(acts), -1)
    ids = np.full(len(rows), -1)
    bundle = 0
    for leader in range(len(rows)):
        if ids[leader] < 0:
            ids[leader:][np.asarray((rows[leader:] == rows[leader]).all(1))] = bundle
            bundle += 1
    return ids


def polars_group_by(acts: Any) -> Array:
    polars = importlib.import_module("polars")
    frame = polars.from_numpy(acts.reshape(len(acts), -1))
    bundles = frame.with_row_index("row of acts").group_by(frame.columns).agg("row of acts")["row of acts"]
    ids = np.empty(len(acts), np.int64)
    ids[bundles.explode().to_numpy()] = np.repeat(np.arange(len(bundles)), bundles.list.len().to_numpy())
    return ids


def pandas_group_by(acts: Any) -> Array:
    pandas = importlib.import_module("pandas")
    frame = pandas.DataFrame(acts.reshape(len(acts), -1))
    return np.asarray(frame.groupby(list(frame.columns), sort=False).ngroup())


OF_SHORT_ROWS: dict[str, Any] = {"polars group_by": polars_group_by, "pandas ngroup": pandas_group_by}
MOST_COLUMNS = 1024
"""Above it a data frame takes its time for its columns, not for their values."""


def absent(peer: str) -> str:
    """What to say of a peer that is not installed; empty when it is."""
    package = peer.split()[0]
    if peer in OF_SHORT_ROWS and importlib.util.find_spec(package) is None:
        return f"{package} is not installed: NOT MEASURED"
    return ""


def peers(case: Case) -> list[Contender]:
    """All that suit the case, with their partition asserted to be the one the data was built with."""
    n, nbytes, bundles = len(case.ids), case.storage.nbytes, int(case.ids.max()) + 1
    sorting = n * math.log2(n)
    estimates = {
        "torch.unique": (torch_unique, 4e-9 * nbytes + 2e-7 * sorting),
        "np.unique": (numpy_unique, 1e-8 * nbytes + 5e-8 * sorting),
        "xxh3 + dict": (hash_dict, 1e-10 * nbytes + 3e-7 * n),
        "pairwise loop": (pairwise_loop, bundles * math.prod(case.acts.shape) * (0.5 if bundles == n else 0.9) * 1e-9),
    }
    if case.shape[1] <= MOST_COLUMNS:
        estimates |= {name: (run, 1e-7 * math.prod(case.acts.shape)) for name, run in OF_SHORT_ROWS.items()}

    def check(partition: Any) -> None:
        assert np.array_equal(by_leader(partition), case.ids), f"a peer disagrees on {case.name}"

    return [
        Contender(name, run, check, is_peer=True, estimate_s=seconds, absent=absent(name))
        for name, (run, seconds) in estimates.items()
    ]


def one_read(case: Case, threads: int = 1) -> Contender:
    """Every byte once, by wide loads."""
    storage = case.storage

    def run(acts: Any) -> int:
        if acts is case.small:
            return _core.read_bytes(storage.ctypes.data, 64, threads)
        return _core.read_bytes(storage.ctypes.data, storage.nbytes, threads)

    def check(result: int) -> None:
        for byte in (0, storage.nbytes // 2 + 1, storage.nbytes - 1):
            storage[byte] ^= 1
            changed = run(None)
            storage[byte] ^= 1
            assert changed != result, f"byte {byte} of {storage.nbytes} was not read"

    return Contender("read" if threads == 1 else f"read, {threads} threads", run, check, threads)


def other_reads(case: Case) -> list[Contender]:
    """Reads by NumPy and torch: is the yardstick as fast as they are?"""
    words, values = case.storage.view(np.uint64), torch.from_numpy(case.storage.view(np.int64))

    def check(result: Any) -> None:
        assert result is not None

    return [
        Contender("np.bitwise_xor.reduce", lambda acts: np.bitwise_xor.reduce(words), check),
        Contender("np.add.reduce", lambda acts: np.add.reduce(words), check),
        Contender("torch.sum", lambda acts: values.sum(), check),
    ]


def partition_on_grid(case: Case, grid: UpdateGrid) -> Array:
    """Bundles on a float32 update grid, by NumPy arithmetic and hashes."""
    w, lr, inverse = (np.float32(p) for p in (grid.weight_amplitude, grid.learning_rate, 1.0 / grid.batch_size))
    seen: dict[bytes, int] = {}
    ids = np.empty(len(case.ids), np.int64)
    for a in range(0, len(ids), 256):
        rows = case.acts[a : a + 256]
        rows = rows.float().numpy() if isinstance(rows, torch.Tensor) else rows.astype(np.float32)
        rows = np.ascontiguousarray(rows).reshape(len(rows), -1)
        mapped = w - (rows * lr) * inverse + np.float32(0)
        for i, row in enumerate(mapped):
            ids[a + i] = seen.setdefault(xxhash.xxh3_128_digest(row), len(seen))
    return ids


def _bytes_of_rows(acts: Any) -> Array:
    if isinstance(acts, torch.Tensor):
        acts = acts.view(torch.uint8 if acts.element_size() == 1 else torch.int16).numpy()
    return np.ascontiguousarray(acts).reshape(len(acts), -1).view(np.uint8)

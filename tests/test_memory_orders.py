"""Rows that are not the outermost axis of the memory: the same bundles, and no more reads, than of rows that are.

Where rows lie closer together than their own columns do, whole bands of columns are compared at once
(``csrc/cpu/compare_bands.h``). Every answer here is the reference's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import cbkernels as cb
from cbkernels import _core, backends
from cbkernels.arrays import DTYPES

from .all_of import all_of
from .inputs import FLOATS, LAYOUTS, not_a_number, typed
from .test_work_counters import ADVERSARIAL, work_of

Order = Callable[[np.ndarray], np.ndarray]


def columns_first(acts: np.ndarray) -> np.ndarray:
    return np.asfortranarray(acts)


def time_major(acts: np.ndarray) -> np.ndarray:
    """Eight steps, rows, features."""
    n, d = acts.shape
    return np.ascontiguousarray(acts.reshape(n, 8, d // 8).transpose(1, 0, 2)).transpose(1, 0, 2)


def samples_in_the_middle(acts: np.ndarray) -> np.ndarray:
    """Runs of four values, shorter than a cache line."""
    n, d = acts.shape
    return np.ascontiguousarray(acts.reshape(n, d // 4, 4).transpose(1, 0, 2)).transpose(1, 0, 2)


def runs_of_32_bytes(acts: np.ndarray) -> np.ndarray:
    """Rows side by side, a vector of each: compared as the values of a column are."""
    n, d = acts.shape
    run = 32 // acts.itemsize
    return np.ascontiguousarray(acts.reshape(n, d // run, run).transpose(1, 0, 2)).transpose(1, 0, 2)


def every_other_row_of_columns(acts: np.ndarray) -> np.ndarray:
    return np.repeat(acts.T, 2, axis=1).T[1::2]


def cropped(acts: np.ndarray) -> np.ndarray:
    """Rows outermost, made of runs with gaps between them."""
    n, d = acts.shape
    framed = np.zeros((n, 8, d // 8 + 3), acts.dtype)
    framed[:, :, 1:-2] = acts.reshape(n, 8, d // 8)
    return framed[:, :, 1:-2]


ORDERS = [
    columns_first, time_major, samples_in_the_middle, runs_of_32_bytes, every_other_row_of_columns, cropped,
]  # fmt: skip
BANDED = ORDERS[:-1]
GRID = cb.UpdateGrid(learning_rate=1e-3, batch_size=50, weight_amplitude=1e-9)
FINE_GRID = cb.UpdateGrid(learning_rate=1.0, batch_size=7, weight_amplitude=0.5, dtype="float64")


def reads_of(acts: np.ndarray, call: Callable[[np.ndarray], object] = cb.bundle_rows) -> float:
    work = work_of(lambda: call(acts))
    return work["bytes_touched"] / work["bytes_total"]


@pytest.mark.parametrize("order", ORDERS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("make", ADVERSARIAL, ids=lambda f: f.__name__)
def test_no_order_is_read_more_than_two_and_a_half_times(make: Callable[[], np.ndarray], order: Order) -> None:
    acts = order(make()[:256])
    right = cb.bundle_rows(acts, backend="reference").tolist()
    with all_of("calls") as call:
        for backwards in (False, True):
            with call(f"bundle_rows, backwards {backwards}"):
                assert reads_of(acts[::-1] if backwards else acts) <= 2.5
        with call("bundle_rows on a grid"):
            assert reads_of(acts, lambda a: cb.bundle_rows(a, grid=GRID)) <= 2.5
        with call("bundle_entropy"):  # once more for NaN in rows that are alone
            assert reads_of(acts, lambda a: cb.bundle_entropy(a, np.arange(len(a)) % 3)) <= 3.5
        with call("ids"):
            assert cb.bundle_rows(acts).tolist() == right


@pytest.mark.parametrize("order", ORDERS, ids=lambda f: f.__name__)
def test_equal_rows_are_read_once(order: Order) -> None:
    acts = order(np.full((300, 4096), 1.5, np.float32))
    most = 1.02 if order in BANDED else 1.25
    assert reads_of(acts) <= most
    assert reads_of(acts, lambda a: cb.bundle_entropy(a, np.arange(len(a)) % 3)) <= most
    assert reads_of(acts, lambda a: cb.bundle_rows(a, grid=GRID)) <= most


@pytest.mark.parametrize("order", BANDED, ids=lambda f: f.__name__)
def test_rows_that_differ_are_told_apart_while_they_are_read(order: Order) -> None:
    """A row that leaves its leader is hashed in the same pass: one more settles which of them are equal."""
    acts = np.zeros((320, 4096), np.float32)
    acts[np.arange(320), 16 * (np.arange(320) // 2) + 7] = 1  # pairs, and the sample sees none of it
    assert cb.bundle_rows(order(acts)).tolist() == (np.arange(320) // 2).tolist()
    assert _core.last_work()["bytes_touched"] <= 2.2 * acts.nbytes


@pytest.mark.parametrize("order", BANDED, ids=lambda f: f.__name__)
def test_few_rows_of_many_are_not_worth_a_band(order: Order) -> None:
    acts = np.random.default_rng(0).standard_normal((320, 4096), np.float32)
    acts[300] = acts[200]
    assert cb.bundle_rows(order(acts))[300] == 200
    assert _core.last_work()["bytes_touched"] <= 0.05 * acts.nbytes


@pytest.mark.parametrize("order", ORDERS, ids=lambda f: f.__name__)
def test_every_type_in_every_order(order: Order) -> None:
    """Pairs, zeros of both signs, and a NaN in a row that would have company."""
    with all_of("types and grids") as kind:
        for dtype in DTYPES:
            rng = np.random.default_rng(3)
            acts = typed(rng.integers(0, 2, (20, 1600)), dtype)[rng.integers(20, size=70)]
            acts[rng.integers(70, size=9), rng.integers(1600, size=9)] = typed(1, dtype)
            if dtype in FLOATS:
                acts[40:] = np.where(acts[40:] == 0, typed(-0.0, dtype), acts[40:])
                acts[33, 1599] = acts[5, 0] = not_a_number(dtype)[0]
            placed, labels = order(acts), rng.integers(0, 3, 70)
            for grid in (None, GRID, FINE_GRID):
                with kind(f"{dtype}, {grid}"):
                    right = cb.bundle_rows(placed, grid=grid, backend="reference")
                    assert cb.bundle_rows(placed, grid=grid, backend="cpu").tolist() == right.tolist()
                    counted = cb.bundle_entropy(placed, labels, grid=grid, backend="cpu")
                    assert counted.num_nan_rows == 2 * (dtype in FLOATS)


@pytest.mark.parametrize("order", ORDERS, ids=lambda f: f.__name__)
def test_nan_of_rows_that_are_alone_are_counted_once_and_in_one_read(order: Order) -> None:
    acts = np.random.default_rng(1).standard_normal((300, 4096), np.float32)
    acts[[7, 150, 299], [4095, 1000, 0]] = np.nan
    placed = order(acts)
    assert cb.bundle_entropy(placed, np.arange(300) % 3).num_nan_rows == 3
    assert _core.last_work()["bytes_touched"] <= 1.05 * acts.nbytes


@pytest.mark.parametrize("order", BANDED, ids=lambda f: f.__name__)
def test_several_threads_find_the_same_bundles(
    monkeypatch: pytest.MonkeyPatch, routing_bits: Callable[[int], None], order: Order
) -> None:
    """Each thread has some of the columns: a row may leave its leader in the share of any of them, or of all."""
    rng = np.random.default_rng(2)
    acts = np.zeros((700, 6400), np.float32)  # 17 MiB: several threads
    for _ in range(3):
        acts[np.arange(700), rng.choice([3, 700, 1500, 3300, 5100, 6399], 700)] = rng.integers(0, 3, 700)
    acts[[20, 300], [6399, 100]] = np.nan
    placed, ids = order(acts), []
    for threads in (1, 2, 3, 7):
        monkeypatch.setattr(backends, "num_threads", lambda threads=threads: threads)
        ids.append(cb.bundle_rows(placed).tolist())
        assert cb.bundle_entropy(placed, np.arange(700) % 3).num_nan_rows == 2
        assert _core.last_work()["threads"] == threads
    monkeypatch.setattr(backends, "num_threads", lambda: 3)
    routing_bits(4)  # rows that left in different places come together, and only a comparison tells them apart
    ids.append(cb.bundle_rows(placed).tolist())
    assert ids[1:] == ids[:1] * 4
    assert ids[0] == cb.bundle_rows(acts, backend="reference").tolist()


@pytest.mark.parametrize("name", LAYOUTS)
def test_collisions_change_nothing(routing_bits: Callable[[int], None], name: str) -> None:
    rng = np.random.default_rng(4)
    acts = np.zeros((60, 1530), np.float32)
    for _ in range(2):
        acts[np.arange(60), rng.integers(1530, size=60)] = rng.integers(0, 3, 60)
    placed = LAYOUTS[name](acts)
    right = cb.bundle_rows(acts, backend="reference").tolist()
    with all_of("routing bits") as number:
        for bits in (0, 1, 2, 4, 64):
            with number(bits):
                routing_bits(bits)
                assert cb.bundle_rows(placed).tolist() == right


@pytest.mark.parametrize("order", BANDED, ids=lambda f: f.__name__)
@pytest.mark.parametrize("num_rows", [64, 700, 9001])
def test_rows_shorter_than_a_block_in_every_order(order: Order, num_rows: int) -> None:
    """Half of the rows are one bundle, side by side, the others are led from anywhere; some leave their leader late."""
    with all_of("types") as kind:
        for dtype in ("float32", "float64", "bfloat16", "int8"):
            rng = np.random.default_rng(4)
            bundle = np.where(np.arange(num_rows) % 500 < 250, 0, rng.integers(0, 40, num_rows))
            acts = typed(rng.integers(0, 2, (40, 160)), dtype)[bundle]
            late = rng.choice(np.arange(num_rows // 2, num_rows), 20, replace=False)
            acts[late, rng.integers(160, size=20)] = typed(3, dtype)
            if dtype in FLOATS:
                acts[num_rows - 3, 50] = not_a_number(dtype)[0]
            right = cb.bundle_rows(np.ascontiguousarray(acts), backend="cpu").tolist()
            if num_rows < 1000:
                assert right == cb.bundle_rows(acts, backend="reference").tolist()
            for grid in (None, GRID):
                with kind(f"{dtype}, {grid}"):
                    assert cb.bundle_rows(order(acts), grid=grid, backend="cpu").tolist() == right


@pytest.mark.parametrize("order", [columns_first, runs_of_32_bytes], ids=lambda f: f.__name__)
def test_equal_columns_are_not_turned_into_rows(order: Order) -> None:
    """Only the chunk of 512 rows in which a row leaves its leader is copied; the others are compared as they lie."""
    acts = np.zeros((4096, 960), np.float32)
    assert reads_of(order(acts)) <= 1.02
    acts[3000, 520] = 1  # seen by no sample: from there on, an eighth of the rows is read once more
    assert 1.01 <= reads_of(order(acts)) <= 1.15


@pytest.mark.parametrize("order", [columns_first, runs_of_32_bytes], ids=lambda f: f.__name__)
def test_a_chunk_of_rows_that_all_differ_in_the_same_way(order: Order) -> None:
    """512 rows leave their leader in every value of some columns, which no sample sees."""
    acts = np.zeros((1536, 960), np.float32)
    acts[512:1024, 512:640] = 1
    assert cb.bundle_rows(order(acts)).tolist() == [0] * 512 + [1] * 512 + [0] * 512


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "uint8"])
def test_runs_of_32_bytes_behind_a_gap(dtype: str) -> None:
    """Runs of one axis, then a gap, then those of the next: one value of a row differs, in each of them once."""
    run, num_rows, row = 32 // np.dtype(dtype).itemsize, 300, 150
    with all_of("places") as place:
        for outer, inner in ((1, 45), (3, 11), (40, 5), (2, 1)):
            framed = np.zeros((outer, inner + 2, num_rows, run), dtype)
            acts = framed[:, 1:-1]
            for o, i in np.ndindex(outer, inner):
                acts[o, i, row, (o + i) % run] = 1
                with place(f"{(o, i)} of {(outer, inner)}"):
                    assert cb.bundle_rows(acts.transpose(2, 0, 1, 3)).tolist() == [0] * row + [1] + [0] * (
                        num_rows - row - 1
                    )
                acts[o, i, row] = 0


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "uint8", "bool"])
def test_the_last_rows_of_columns(dtype: str) -> None:
    """Columns of any length end within a vector; the sample sees none of these values."""
    with all_of("numbers of rows") as number:
        for num_rows in (65, 71, 130, 515, 8193 + 30):
            acts = np.zeros((num_rows, 3000), np.int8)
            acts[-1, 2000] = acts[num_rows // 2, 2001] = 1
            right = np.zeros(num_rows, int)
            right[num_rows // 2], right[-1] = 1, 2
            with number(str(num_rows)):
                assert cb.bundle_rows(columns_first(typed(acts, dtype)), backend="cpu").tolist() == right.tolist()

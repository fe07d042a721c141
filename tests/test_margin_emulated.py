"""The conflict margin on emulated devices: tiles that are cut into spans and tiles that are not, in many orders."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import cbkernels as cb

from . import emulation
from .inputs import FLOATS, INTEGERS, LAYOUTS, not_a_number, place, special_values, typed

core, missing = emulation.load()
pytestmark = pytest.mark.skipif(core is None, reason=f"{emulation.NAME}: NOT TESTED HERE ({missing})")

LAUNCHES = [(0, 0, 0), (1, 1, 32), (2, 2, 96), (3, 3, 256)]
"""(seed of the order, blocks, threads a block); zeros: the normal choice."""
SOME_ARE_SLOW = [*LAUNCHES[1::2], *(pytest.param(launch, marks=pytest.mark.slow) for launch in LAUNCHES[::2])]
SHAPES = [(2, 5000), (3, 1), (5, 0), (70, 3000), (64, 999), (130, 700)]
"""One block's tile cut, one value, none, three tiles cut in two, rows that are not in chunks, six tiles not cut."""
CUT, NOT_CUT = (40, 1111), (40, 100)
TYPES = [*FLOATS, *INTEGERS, "bool"]


@pytest.fixture(autouse=True)
def normal_launches() -> Iterator[None]:
    yield
    core.emulation.schedule(0)
    core.cuda.use_launch_shape(0, 0)
    assert core.emulation.counters()["errors"] == 0


def use(launch: tuple[int, int, int]) -> None:
    core.emulation.schedule(launch[0])
    core.cuda.use_launch_shape(*launch[1:])


def margins(acts: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """On an emulated device, where nothing may be read behind the input, and on the CPU."""
    here = emulation.fenced(acts) if acts.nbytes and acts.flags.c_contiguous else place(acts, emulation.NAME)
    return cb.conflict_margin(here, labels, backend=emulation.NAME), cb.conflict_margin(acts, labels, backend="cpu")


@pytest.mark.parametrize("launch", SOME_ARE_SLOW, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64", "int64", "int8"])
def test_thin_and_wide_rows(shape: tuple[int, int], dtype: str, launch: tuple[int, int, int]) -> None:
    use(launch)
    rng = np.random.default_rng(shape[0])
    acts = typed(30 * rng.normal(size=shape), dtype)
    labels = np.arange(shape[0]) % 7
    found, right = margins(acts, labels)
    assert found == right
    assert (found > 0) == (shape[1] > 0)


@pytest.mark.parametrize("dtype", TYPES)
def test_random_cases(dtype: str) -> None:
    rng = np.random.default_rng(TYPES.index(dtype))
    layouts = sorted(set(LAYOUTS))
    for number in range(30):
        use(LAUNCHES[number % len(LAUNCHES)])
        shape = int(rng.integers(2, 75)), int(rng.choice([1, 8, 127, 128, 200, 256, 320, 600]))
        values = rng.normal(size=shape) * rng.choice([1, 100]) if number % 3 else rng.integers(0, 3, shape)
        acts = typed(np.abs(values) if dtype.startswith(("u", "bool")) else values, dtype)
        if number % 4 == 1:
            some = rng.random(shape) < 1 / shape[1]
            acts[some] = rng.choice(special_values(dtype), int(some.sum()))
        if number % 4 == 2 and dtype in FLOATS:
            acts[rng.integers(shape[0]), -1] = rng.choice(not_a_number(dtype))
        labels = rng.integers(0, int(rng.choice([1, 2, 50])), shape[0])
        layout = str(rng.choice(layouts)) if number % 2 else "contiguous"
        found, right = margins(LAYOUTS[layout](acts), labels)
        assert found == right, (number, shape, layout)


# --- float32 says which pairs to look at, float64 how far they are apart ----------------------------------


def hardly_apart(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """All pairs are 1 + k / 2**30 apart: equal in float32."""
    rows, columns = np.arange(shape[0]), shape[1]
    acts = np.repeat(-rng.permutation(shape[0])[:, None] * 2.0**-30, columns, axis=1)
    acts[rows, rows * (columns // shape[0])] = 1
    return acts.astype(np.float32)


def too_far_apart(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Every second row is further from the others than the largest float32."""
    acts = np.zeros(shape, np.float32)
    acts[:, -1] = np.where(np.arange(shape[0]) % 2, 1, -1) * (2e38 + 1e36 * rng.permutation(shape[0]))
    return acts


def subnormal(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return (rng.integers(0, 2**20, shape) * 2.0**-149).astype(np.float32)


def infinite(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    acts = rng.normal(size=shape).astype(np.float32)
    acts[:, shape[1] // 2] = np.where(np.arange(shape[0]) < 3, math.inf, -math.inf)
    return acts


def infinitely_apart(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    acts = np.zeros(shape, np.float32)
    acts[np.arange(shape[0]), rng.permutation(shape[1])[: shape[0]]] = math.inf
    return acts


def equal_and_not(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    acts = rng.normal(size=shape).astype(np.float32)
    acts[-1] = acts[3]
    return acts


def one_hot(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return np.eye(*shape, dtype=np.float32)[rng.permutation(shape[0])]


def mostly_nan(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    acts = rng.normal(size=shape).astype(np.float32)
    acts[3:-3, -1] = math.nan
    return acts


KINDS = [hardly_apart, too_far_apart, subnormal, infinite, infinitely_apart, equal_and_not, one_hot, mostly_nan]


@pytest.mark.parametrize("launch", SOME_ARE_SLOW, ids=str)
@pytest.mark.parametrize("shape", [CUT, NOT_CUT, (130, 260)], ids=str)
@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_exact_to_the_last_bit(
    make: Callable[[Any, Any], np.ndarray], shape: tuple[int, int], launch: tuple[int, int, int]
) -> None:
    use(launch)
    rng = np.random.default_rng(5)
    acts = make(rng, shape)
    for labels in (np.arange(shape[0]) % 2, np.arange(shape[0]), np.arange(shape[0]) // 35):
        found, right = margins(acts, labels)
        assert found == right
    assert margins(acts, np.zeros(shape[0], np.int64)) == (math.inf, math.inf)


@pytest.mark.parametrize("shape", [CUT, NOT_CUT], ids=str)
def test_the_closest_of_equal_rounded_distances(shape: tuple[int, int]) -> None:
    """Far from the first tie and from the neighbours that the search begins with."""
    acts = hardly_apart(np.random.default_rng(12), shape)
    labels = np.zeros(shape[0], np.int64)
    labels[-20:] = 1
    found, right = margins(acts, labels)
    _, of_neighbours = margins(acts[:-19], labels[:-19])  # each row and the next one with another label
    assert found == right
    assert 1 < right < of_neighbours < 1 + 2.0**-24, "equal in float32"


def test_a_distance_of_all_ones() -> None:
    """The largest of 64-bit integers is the pattern of no distance."""
    acts = np.array([[0], [2**64 - 1]], np.uint64)
    assert margins(acts, np.array([0, 1])) == (2.0**64, 2.0**64)
    assert margins(np.repeat(acts, 300, 1), np.array([0, 1])) == (2.0**64, 2.0**64)


# --- work -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "shape", "launches"),
    [
        ("float32", NOT_CUT, 3),
        ("float32", CUT, 6),
        ("bfloat16", CUT, 6),
        ("float64", CUT, 4),
        ("int64", CUT, 4),
        ("int8", CUT, 4),
        ("int8", NOT_CUT, 3),
        ("float32", (130, 1000), 3),
    ],
)
def test_launches_waits_and_memory(dtype: str, shape: tuple[int, int], launches: int) -> None:
    """Few tiles take 48 KiB of device memory each, at most one for every block that can be resident: here three."""
    acts = typed(np.random.default_rng(0).normal(size=shape) * 50, dtype)
    core.emulation.reset_counters()
    cb.conflict_margin(acts, np.arange(shape[0]) % 10, backend=emulation.NAME)
    counters = core.emulation.counters()
    assert (counters["launches"], counters["synchronisations"], counters["allocations"]) == (launches, 1, 1)
    assert core.last_work()["launches"] == launches
    assert counters["peak_bytes"] <= 64 * shape[0] + (3 * 48 << 10 if launches > 3 else 0)


@pytest.mark.parametrize("dtype", ["int16", "float64"])
def test_a_tile_ends_when_no_pair_can_be_the_best(dtype: str) -> None:
    """Steps of warps and blocks, beside those of the search for a first bound."""

    def steps(acts: np.ndarray, labels: np.ndarray) -> int:
        core.emulation.reset_counters()
        cb.conflict_margin(typed(acts, dtype), labels, backend=emulation.NAME)
        return int(core.emulation.counters()["collectives"])

    def steps_of_tiles(acts: np.ndarray) -> int:
        return steps(acts, np.arange(len(acts))) - steps(acts, np.zeros(len(acts), np.int64))

    near = np.random.default_rng(0).integers(0, 100, (200, 3000))
    far = near.copy()
    far[:, 0] += 320 * (np.arange(200) // 2)  # rows are far from all others but their neighbour
    assert 0 < steps_of_tiles(far) < 0.8 * steps_of_tiles(near)


@pytest.mark.parametrize(
    ("num_rows", "columns"), [(64, 16384), (512, 16384), (512, 512), (1000, 65536), (1408, 128), (3, 9_999), (5, 0)]
)
def test_few_tiles_are_cut_so_that_all_multiprocessors_of_a_large_gpu_work(num_rows: int, columns: int) -> None:
    """An H100 has 132, each with room for two blocks of tiles; nobody needs one to see who gets what."""
    num_row_spans, row_span, num_tiles, num_spans, span = core.emulation.self_test.cut_of(num_rows, columns, 4000, 264)
    assert num_tiles == sum(range(1, -(-num_rows // 64) + 1)), "of 64 x 64 pairs, on and above the diagonal"
    for spans, length in ((num_spans, span), (num_row_spans, row_span)):
        assert (spans - 1) * length < max(columns, 1) <= spans * length, "every column once, no span empty"
    assert span % 32 == 0 == row_span % 128, "a span begins at a chunk"
    assert num_tiles * num_spans <= 2 * 264, "their maxima are put together afterwards"
    blocks = min(num_tiles * max(columns // 160, 1), 132)
    assert num_tiles * num_spans >= blocks, "one for every multiprocessor, as far as the columns go"


def test_many_tiles_are_not_cut() -> None:
    """Every one of them would take 48 KiB; (512, 16384) has 36 on 264 blocks, each cut in 14."""
    assert core.emulation.self_test.cut_of(512, 16384, 4000, 264)[2:4] == (36, 14)
    assert core.emulation.self_test.cut_of(1409, 16384, 4000, 264)[2:4] == (276, 1)

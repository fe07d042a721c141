"""The update grid: bit for bit NumPy's arithmetic, its step a proof, its parameters checked."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import cbkernels as cb
from cbkernels.grid import GRID_DTYPES

from . import emulation
from .all_of import all_of
from .inputs import patterns_of_sixteen_bits, place, special_values, typed

BATCH_SIZES = [7, 32, 50, 64, 100]


def seen(a: np.ndarray, grid: cb.UpdateGrid) -> np.ndarray:
    """w - a * lr * (1.0 / batch_size), as one writes it in NumPy; 16-bit types by ml_dtypes and NumPy."""
    work = np.float64 if grid.dtype == "float64" else np.float32
    stored = typed(grid.weight_amplitude, grid.dtype).astype(np.float64)
    w = work(stored if np.isfinite(stored) else grid.weight_amplitude)  # g overflows by itself where the type ends
    lr, inverse = work(grid.learning_rate), work(1.0 / grid.batch_size)
    with np.errstate(all="ignore"):
        return typed(w - a.astype(work) * lr * inverse, grid.dtype)


def ids_of_values(values: np.ndarray) -> list[int]:
    """First-come numbers of equal numbers; every NaN has its own."""
    numbers: dict[Any, int] = {}
    ids = []
    for position, value in enumerate(values.astype(np.float64).tolist()):
        key = ("nan", position) if math.isnan(value) else value + 0.0
        ids.append(numbers.setdefault(key, len(numbers)))
    return ids


@pytest.mark.parametrize("dtype", GRID_DTYPES)
@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_agrees_with_numpy_on_many_values(backend: str, batch_size: int, dtype: str) -> None:
    rng = np.random.default_rng(batch_size)
    # a coarse grid needs large activations to tell any two apart
    spread = {"float64": 1e-9, "float32": 8.0, "float16": 5e4, "bfloat16": 5e5}[dtype]
    # the emulation takes a second for so many, and `make fuzz-emulated` tries as many more as are wanted
    a = rng.uniform(-spread, spread, 2000 if backend == emulation.NAME else 30_000)
    a = a if dtype == "float64" else a.astype(np.float32)
    for lr, w in ((1e-3, 0.7), (0.03, 1.7), (1e-3, 0.0)):
        grid = cb.UpdateGrid(learning_rate=lr, batch_size=batch_size, weight_amplitude=w, dtype=dtype)
        ids = cb.bundle_rows(place(a[:, None], backend), grid=grid, backend=backend)
        assert ids.tolist() == ids_of_values(seen(a, grid))


@pytest.mark.parametrize("dtype", GRID_DTYPES)
def test_special_values_of_every_type(backend: str, dtype: str) -> None:
    types = ("float64", "float32", "float16", "bfloat16", "int64", "uint64", "int8", "bool")
    grids = [
        cb.UpdateGrid(learning_rate=lr, batch_size=batch_size, weight_amplitude=w, dtype=dtype)
        for lr, batch_size, w in ((1.0, 1, 0.0), (1e-3, 50, 0.7), (1e3, 7, 1e38), (1e-30, 100, 1e-3))
    ]
    with all_of("types on grids") as case:
        for acts_dtype, grid in itertools.product(types, grids):
            with case(acts_dtype, grid):
                values = special_values(acts_dtype)
                ids = cb.bundle_rows(place(values[:, None], backend), grid=grid, backend=backend)
                assert ids.tolist() == ids_of_values(seen(values, grid))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_rounding_to_sixteen_bits(compiled: str, dtype: str) -> None:
    """Around each pattern, where all are tried: itself, the tie above it, and the neighbours of the tie."""
    numbers = patterns_of_sixteen_bits(dtype, compiled)
    exact = (numbers.view(np.float16).astype(np.float32).view(np.uint32) if dtype == "float16"
             else numbers.astype(np.uint32) << np.uint32(16))  # fmt: skip
    half = np.uint32(1 << 12 if dtype == "float16" else 1 << 15)
    grid = cb.UpdateGrid(learning_rate=1.0, batch_size=1, weight_amplitude=0.0, dtype=dtype)
    for offset in (np.uint32(0), half - np.uint32(1), half, half + np.uint32(1)):
        a = (exact + offset).view(np.float32)
        ids = cb.bundle_rows(place(a[:, None], compiled), grid=grid, backend=compiled)
        assert ids.tolist() == ids_of_values(seen(a, grid))


def test_authors_definition_of_a_bundle(backend: str) -> None:
    """i, j are one bundle iff fl(W - a_i*lr/B) == fl(W - a_j*lr/B) in every component, pair by pair."""
    rng = np.random.default_rng(0)
    a = np.round(rng.uniform(0, 0.02, (60, 3)), 3).astype(np.float32)
    grid = cb.UpdateGrid(learning_rate=1e-3, batch_size=64, weight_amplitude=0.9)
    ids = cb.bundle_rows(place(a, backend), grid=grid, backend=backend).tolist()
    w, lr, inverse = np.float32(0.9), np.float32(1e-3), np.float32(1 / 64)
    for i in range(60):
        for j in range(60):
            assert (ids[i] == ids[j]) == bool((w - a[i] * lr * inverse == w - a[j] * lr * inverse).all())
    assert 1 < len(set(ids)) < len(np.unique(a, axis=0)), "the grid makes some different rows equal"


def test_rounding_of_the_parameters() -> None:
    grid = cb.UpdateGrid(learning_rate=1e-3, batch_size=50, weight_amplitude=0.7)
    assert grid.parameters == (1, float(np.float32(0.7)), float(np.float32(1e-3)), float(np.float32(0.02)))
    assert cb.UpdateGrid(1e-3, 50, 0.7, dtype="float64").parameters == (2, 0.7, 1e-3, 0.02)
    for code, dtype, w in ((3, "float16", 0.7001953125), (4, "bfloat16", 0.69921875)):
        assert cb.UpdateGrid(1e-3, 50, 0.7, dtype=dtype).parameters == (code, w, *grid.parameters[2:])


@pytest.mark.parametrize("dtype", GRID_DTYPES)
def test_the_weight_is_rounded_to_the_type_that_it_is_stored_in(dtype: str) -> None:
    weights = [0.0, 3e-8, 2e-38, 1e-40, *10 ** np.random.default_rng(0).uniform(-42, 4, 500)]
    rounded = [cb.UpdateGrid(1e-3, 50, w, dtype=dtype).parameters[1] for w in np.float32(weights)]
    assert rounded == typed(np.float32(weights), dtype).astype(np.float64).tolist()
    bits = {"float16": 10, "bfloat16": 7, "float32": 23, "float64": 52}[dtype]
    for w, steps in ((0.5, 0), (1.5, 2), (2.5, 2), (0.5 + 2**-20, 1), (1.5 - 2**-20, 1)):
        given = 1 + w * 2.0**-bits  # at once, not by way of float32, which would make ties of the last two
        if dtype != "float64":
            assert cb.UpdateGrid(1e-3, 50, given, dtype=dtype).parameters[1] == 1 + steps * 2.0**-bits


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_weight_beside_a_midpoint_changes_no_step_and_is_kept_as_it_was_given(dtype: str) -> None:
    w = 1 + 2.0 ** -{"float16": 11, "bfloat16": 8}[dtype]
    grid, stored = (cb.UpdateGrid(1e-3, 64, weight, dtype=dtype) for weight in (w, 1.0))
    assert grid.parameters == stored.parameters
    assert (grid.step(), grid.step(0.05), grid.bits(1.0)) == (stored.step(), stored.step(0.05), stored.bits(1.0))
    assert (grid.weight_amplitude, grid.to_dict()["weight_amplitude"]) == (w, w)


# --- step and bits --------------------------------------------------------------------------------


def test_steps_of_the_paper() -> None:
    """|W| in [0.5, 1): 0.004; in [1, 2): 0.0076; a bfloat16 weight makes it 65,536 times coarser."""
    step = cb.UpdateGrid(1e-3, 64, 0.7).step()
    assert math.isclose(step, 2**-24 * 64 / 1e-3, rel_tol=1e-6)
    assert math.isclose(cb.UpdateGrid(1e-3, 64, 1.5).step(), 2 * step, rel_tol=1e-6)
    assert cb.UpdateGrid(1e-3, 64, 0.7, dtype="bfloat16").step() == 65536 * step
    assert cb.UpdateGrid(1e-3, 64, 0.7, dtype="float16").step() == 8192 * step


@pytest.mark.parametrize("dtype", GRID_DTYPES)
def test_a_step_is_not_larger_than_it_must_be(dtype: str) -> None:
    """Beside a large weight the bound for true amplitudes is the paper's resolution; half of it merges values."""
    grid = cb.UpdateGrid(1e-3, 64, 0.7, dtype=dtype)
    assert grid.step() <= grid.step(1.0) <= 1.01 * grid.step()
    a = np.arange(60) * (grid.step() / 2)
    assert 29 <= cb.bundle_rows(a[:, None], grid=grid).max() <= 31


def test_bits() -> None:
    grid = cb.UpdateGrid(1e-3, 64, 0.7)
    assert grid.bits(grid.step()) == 0.0
    assert grid.bits(8 * grid.step()) == 3.0
    assert grid.bits(grid.step() / 2) == -1.0
    assert grid.bits(0.0) == -math.inf
    assert grid.bits(math.inf) == math.inf
    assert grid.step(math.inf) == math.inf, "values that large may meet anywhere"
    assert grid.bits(5.0, amplitude=math.inf) == -math.inf
    assert cb.UpdateGrid(1e-30, 1, 1e30).bits(5e-324) == -math.inf, "a margin that is nothing beside the step"
    for wrong in (-1.0, math.nan):
        with pytest.raises(ValueError, match=f"margin is {wrong}"):
            grid.bits(wrong)


def pairs_one_step_apart(grid: cb.UpdateGrid, amplitude: float, rng: np.random.Generator) -> np.ndarray:
    """(n, 2) activations of at most this amplitude, as little above one step apart as their type allows."""
    step = grid.step(amplitude)
    if not step < 2 * amplitude:
        return np.empty((0, 2), np.float32)  # nothing can be that far apart
    starts = rng.uniform(-amplitude, amplitude - step, 200)
    work = np.float64 if grid.dtype == "float64" else np.float32
    low, high = starts.astype(work), (starts + step).astype(work)
    high = np.where(high.astype(np.float64) - low > step, high, np.nextafter(high, work(np.inf)))
    sure = (high.astype(np.float64) - low.astype(np.float64) > step) & (np.abs(high) <= amplitude)
    return np.stack([low[sure], high[sure]], axis=1)


def assert_margin_is_a_proof(grid: cb.UpdateGrid, amplitude: float, rng: np.random.Generator) -> int:
    pairs = pairs_one_step_apart(grid, amplitude, rng)
    g = seen(pairs, grid)
    assert (g[:, 0] != g[:, 1]).all(), (grid, amplitude)
    for pair in pairs[:2]:
        margin = cb.conflict_margin(pair[:, None], np.array([0, 1]))
        assert margin > grid.step(amplitude)
        assert grid.bits(margin, amplitude=amplitude) > 0
        assert cb.bundle_entropy(pair[:, None], np.array([0, 1]), grid=grid).num_conflicting == 0
    return len(pairs)


@pytest.mark.parametrize("dtype", GRID_DTYPES)
@pytest.mark.parametrize("weight", ["none", "small", "any"])
def test_a_margin_above_the_step_proves_that_no_conflict_exists(dtype: str, weight: str) -> None:
    """Values further apart than step(amplitude) never share a grid point. Without a weight roundings weigh most."""
    rng = np.random.default_rng(0)
    tried = 0
    for _ in range(200):
        lr, batch_size, amplitude = 10 ** rng.uniform(-7, 2), int(rng.integers(1, 5000)), 10 ** rng.uniform(-5, 5)
        largest = {"none": 0.0, "small": amplitude * lr / batch_size, "any": 1e3}[weight]
        grid = cb.UpdateGrid(lr, batch_size, float(rng.uniform(0, largest)), dtype=dtype)
        tried += assert_margin_is_a_proof(grid, amplitude, rng)
    assert tried > 1000


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(GRID_DTYPES), st.floats(1e-9, 1e3), st.integers(1, 5000), st.floats(0, 1e4),
    st.floats(1e-6, 1e6), st.integers(0, 10**6),
)  # fmt: skip
@example("float16", 1.0, 1, 0.0, 1e5, 0)  # numbers that overflow are not told apart
def test_a_margin_above_the_step_is_a_proof_for_any_grid(
    dtype: str, lr: float, batch_size: int, w: float, amplitude: float, seed: int
) -> None:
    assert_margin_is_a_proof(cb.UpdateGrid(lr, batch_size, w, dtype=dtype), amplitude, np.random.default_rng(seed))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(GRID_DTYPES))
def test_no_conflict_where_the_margin_says_so(seed: int, dtype: str) -> None:
    rng = np.random.default_rng(seed)
    acts = (rng.normal(size=(40, 3)) * 10 ** rng.uniform(-4, 4)).astype(np.float32)
    labels = rng.integers(3, size=40)
    grid = cb.UpdateGrid(float(10 ** rng.uniform(-5, 0)), 64, float(rng.uniform(0, 3)), dtype=dtype)
    amplitude = float(np.abs(acts).max())
    margin = cb.conflict_margin(acts, labels)
    if margin > grid.step(amplitude):
        assert cb.bundle_entropy(acts, labels, grid=grid).num_conflicting == 0


# --- from_optimizer -------------------------------------------------------------------------------


def test_from_optimizer_takes_what_the_paper_takes() -> None:
    torch = pytest.importorskip("torch", reason="torch: NOT TESTED HERE")
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    with torch.no_grad():
        model[1].weight[2] = -3.5  # a batch norm scale counts, and its sign does not
        model[1].running_var[:] = 99.0  # a buffer does not
    grid = cb.UpdateGrid.from_optimizer(model, torch.optim.SGD(model.parameters(), lr=0.25), 32)
    assert grid == cb.UpdateGrid(learning_rate=0.25, batch_size=32, weight_amplitude=3.5)
    with torch.no_grad():
        model[0].weight[0, 0] = 7.0
    model[0].weight.requires_grad_(False)  # nor does a frozen weight
    again = cb.UpdateGrid.from_optimizer(model, torch.optim.SGD(model.parameters(), lr=0.25), 32)
    assert again.weight_amplitude == 3.5
    half = cb.UpdateGrid.from_optimizer(model.to(torch.bfloat16), torch.optim.SGD(model.parameters(), lr=0.25), 32)
    assert half.dtype == "bfloat16"
    named = cb.UpdateGrid.from_optimizer(model, torch.optim.SGD(model.parameters(), lr=0.25), 32, dtype="float32")
    assert named.dtype == "float32"


@pytest.mark.parametrize("first", GRID_DTYPES)
@pytest.mark.parametrize("second", GRID_DTYPES)
def test_from_optimizer_takes_the_coarsest_of_several_types(first: str, second: str) -> None:
    torch = pytest.importorskip("torch", reason="torch: NOT TESTED HERE")
    layers = [torch.nn.Linear(2, 2).to(getattr(torch, dtype)) for dtype in (first, second)]
    model = torch.nn.Sequential(*layers)
    coarsest = min(first, second, key=("bfloat16", "float16", "float32", "float64").index)
    assert cb.UpdateGrid.from_optimizer(model, torch.optim.SGD(model.parameters(), lr=0.1), 8).dtype == coarsest


def test_from_optimizer_takes_the_peak_of_a_schedule() -> None:
    torch = pytest.importorskip("torch", reason="torch: NOT TESTED HERE")
    schedules, model = torch.optim.lr_scheduler, torch.nn.Linear(2, 2)
    for make, peak, current in (
        (lambda o: None, 0.1, 0.1),
        (lambda o: schedules.OneCycleLR(o, max_lr=0.4, total_steps=8), 0.4, 0.016),
        (lambda o: schedules.LambdaLR(o, lambda step: step / 4), 0.1, 0.0),
        (lambda o: schedules.LambdaLR(o, lambda step: 2.0), 0.2, 0.2),  # never smaller than the rate of now
    ):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        make(optimizer)
        assert cb.UpdateGrid.from_optimizer(model, optimizer, 8).learning_rate == pytest.approx(peak)
        if current:
            now = cb.UpdateGrid.from_optimizer(model, optimizer, 8, learning_rate="current")
            assert now.learning_rate == pytest.approx(current)


def test_from_optimizer_takes_the_coarsest_grid_of_the_groups_that_train() -> None:
    torch = pytest.importorskip("torch", reason="torch: NOT TESTED HERE")
    model, frozen = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2).requires_grad_(False)
    given = [(model.weight, 0.2), (model.bias, 0.1), (frozen.weight, 1e-9)]
    optimizer = torch.optim.SGD([{"params": [p], "lr": lr} for p, lr in given])
    optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)], "lr": 0.0})  # not trained so far
    grid = cb.UpdateGrid.from_optimizer(model, optimizer, 8)
    assert grid.learning_rate == 0.1
    others = [cb.UpdateGrid(lr, 8, grid.weight_amplitude) for lr in (0.1, 0.2)]
    assert grid.step() == max(other.step() for other in others) > min(other.step() for other in others)
    model.bias.requires_grad_(False)
    assert cb.UpdateGrid.from_optimizer(model, optimizer, 8).learning_rate == 0.2


def test_from_optimizer_refuses() -> None:
    torch = pytest.importorskip("torch", reason="torch: NOT TESTED HERE")
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for choice in ("largest", -1.0, math.nan):
        with pytest.raises(ValueError, match=f"learning_rate is {choice!r}; pass 'peak', 'current' or a positive num"):
            cb.UpdateGrid.from_optimizer(model, optimizer, 32, learning_rate=choice)
    with pytest.raises(TypeError, match="learning_rate is None; pass 'peak', 'current' or a positive number"):
        cb.UpdateGrid.from_optimizer(model, optimizer, 32, learning_rate=None)  # type: ignore[arg-type]
    optimizer.param_groups[0]["lr"] = 0.0
    with pytest.raises(ValueError, match=r"the learning rate is 0; pass learning_rate='peak' or an UpdateGrid\(...\)"):
        cb.UpdateGrid.from_optimizer(model, optimizer, 32, learning_rate="current")
    with pytest.raises(ValueError, match="the learning rate is 0, and no larger one is known yet; pass the schedule's"):
        cb.UpdateGrid.from_optimizer(model, optimizer, 32)
    assert cb.UpdateGrid.from_optimizer(model, optimizer, 32, learning_rate=0.5).learning_rate == 0.5
    with torch.no_grad():
        model.weight[0, 0] = math.nan
    with pytest.raises(ValueError, match="largest absolute weight is nan"):
        cb.UpdateGrid.from_optimizer(model, optimizer, 32)
    with torch.no_grad():
        model.weight[0, 0] = math.inf
    with pytest.raises(ValueError, match="largest absolute weight is inf"):
        cb.UpdateGrid.from_optimizer(model, optimizer, 32)
    frozen = torch.nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        cb.UpdateGrid.from_optimizer(frozen, optimizer, 32)


def test_from_optimizer_finds_a_nan_in_any_parameter() -> None:
    torch = pytest.importorskip("torch", reason="torch: NOT TESTED HERE")
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    for position in range(3):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(1.0)
            model[position].bias[1] = math.nan
        with pytest.raises(ValueError, match="diverged"):
            cb.UpdateGrid.from_optimizer(model, torch.optim.SGD(model.parameters(), lr=0.1), 8)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "kind", "message"),
    [
        ({"learning_rate": 0}, ValueError, "learning_rate is 0; it must be positive and finite"),
        ({"learning_rate": -0.1}, ValueError, "learning_rate is -0.1; it must be positive and finite"),
        ({"learning_rate": math.nan}, ValueError, "learning_rate is nan; it must be positive and finite"),
        ({"learning_rate": math.inf}, ValueError, "learning_rate is inf; it must be positive and finite"),
        ({"learning_rate": "0.1"}, TypeError, "learning_rate is '0.1'; it must be a number"),
        ({"learning_rate": True}, TypeError, "learning_rate is True; it must be a number"),
        ({"learning_rate": None}, TypeError, "learning_rate is None; it must be a number"),
        ({"learning_rate": 1e-60}, ValueError, "learning_rate is 1e-60, which float32 arithmetic rounds to 0"),
        ({"learning_rate": 1e60}, ValueError, r"learning_rate is 1e\+60, which float32 arithmetic rounds to inf"),
        ({"batch_size": 0}, ValueError, "batch_size is 0; it must be positive and finite"),
        ({"batch_size": -64}, ValueError, "batch_size is -64; it must be positive and finite"),
        ({"batch_size": math.inf}, ValueError, "batch_size is inf; it must be positive and finite"),
        ({"batch_size": [64]}, TypeError, r"batch_size is \[64\]; it must be a number"),
        ({"batch_size": 2.0**170}, ValueError, "1 / batch_size is 6.68.*e-52, which float32 arithmetic rounds to 0"),
        ({"weight_amplitude": -1.0}, ValueError, "weight_amplitude is -1.0; it must be finite and not negative"),
        ({"weight_amplitude": math.nan}, ValueError, "weight_amplitude is nan; it must be finite"),
        ({"weight_amplitude": math.inf}, ValueError, "weight_amplitude is inf; it must be finite"),
        ({"weight_amplitude": 1e39}, ValueError, r"weight_amplitude is 1e\+39, which float32 rounds to infinity"),
        ({"weight_amplitude": 1j}, TypeError, "weight_amplitude is 1j; it must be a number"),
        ({"dtype": "float8"}, ValueError, "dtype is 'float8'; choose one of float32, float64, float16, bfloat16"),
    ],
)
def test_refused_parameters(changed: dict[str, Any], kind: type[Exception], message: str) -> None:
    good: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 64, "weight_amplitude": 0.7}
    with pytest.raises(kind, match=message):
        cb.UpdateGrid(**{**good, **changed})


def test_a_grid_is_a_value() -> None:
    grid = cb.UpdateGrid(1e-3, 64, 0.7)
    assert grid == cb.UpdateGrid(1e-3, 64, 0.7)
    assert len({grid, cb.UpdateGrid(1e-3, 64, 0.7), cb.UpdateGrid(1e-3, 32, 0.7)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        grid.learning_rate = 1.0  # type: ignore[misc]
    assert cb.UpdateGrid(**grid.to_dict()) == grid
    assert repr(grid) == "UpdateGrid(learning_rate=0.001, batch_size=64, weight_amplitude=0.7, dtype='float32')"


def test_numpy_scalars_are_numbers() -> None:
    grid = cb.UpdateGrid(np.float32(1e-3), np.int64(64), np.float64(0.7))  # type: ignore[arg-type]
    assert grid.parameters == cb.UpdateGrid(float(np.float32(1e-3)), 64, 0.7).parameters

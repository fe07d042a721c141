"""The operators for torch: what opcheck demands, one node in a graph, eager's answer however torch records."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import cbkernels as cb
from cbkernels import backends, stream_keys
from cbkernels.arrays import DTYPES, as_rows, may_hold_nan
from cbkernels.grid import GRID_DTYPES

from .inputs import FLOATS, INTEGERS, not_a_number, numpy_type, place, special_values
from .test_fingerprint import GOLDEN, golden_row

torch: Any = pytest.importorskip("torch", reason="torch: NOT TESTED HERE")

# these import torch
from cbkernels import torch_operators  # noqa: E402

from .test_torch_inputs import STRIDED  # noqa: E402

OPERATORS = {name: getattr(torch.ops.cbkernels, name).default for name in ("bundle_rows", "row_fingerprints")}
GRIDS = {"none": None, **{d: cb.UpdateGrid(1e-3, 50.5, 0.7, dtype=d) for d in GRID_DTYPES}}
ROWS = [[1, 2], [0, 5], [1, 2], [0, 5], [3, 3], [3, 4]]
CANNOT_BE_COMPARED = ("float8_e4m3fn", "float8_e5m2")
"""torch has no allclose for them, which opcheck compares inputs with."""
IDS = [0, 1, 0, 1, 2, 3]


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def random_rows(dtype: str, n: int = 12, d: int = 60) -> Any:
    """(n, d) tensor with equal rows, zeros of both signs, extremes and a NaN."""
    rng = np.random.default_rng(5)
    values = special_values(dtype)
    acts = values[rng.integers(len(values), size=(4, d))][rng.integers(4, size=n)]
    if dtype in FLOATS:
        acts[3, d // 2] = not_a_number(dtype)[0]
    return torch.from_numpy(acts.view(f"u{acts.itemsize}")).view(getattr(torch, dtype))


def arguments(grid: cb.UpdateGrid | None) -> dict[str, Any]:
    if grid is None:
        return {}
    return {"learning_rate": grid.learning_rate, "batch_size": float(grid.batch_size),
            "weight_amplitude": grid.weight_amplitude, "grid_dtype": grid.dtype}  # fmt: skip


class Recorder:
    """A compiler that runs what it is given and remembers it."""

    def __init__(self) -> None:
        self.graphs: list[Any] = []

    def __call__(self, module: Any, inputs: Any) -> Any:
        self.graphs.append(module)
        return module.forward

    def calls(self) -> list[str]:
        """Our operators in the latest graph."""
        targets = [str(node.target) for node in self.graphs[-1].graph.nodes if node.op == "call_function"]
        return [t for t in targets if "cbkernels" in t]


# --- what opcheck demands ---------------------------------------------------------------------------------


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck_of_every_type(operator: str, dtype: str) -> None:
    utilities = ["test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
    if dtype in CANNOT_BE_COMPARED:
        utilities.remove("test_schema")  # that nothing is written is tested below
    torch.library.opcheck(OPERATORS[operator], (random_rows(dtype),), {}, test_utils=utilities)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("layout", STRIDED)
def test_opcheck_of_every_layout(operator: str, layout: str) -> None:
    torch.library.opcheck(OPERATORS[operator], (STRIDED[layout](random_rows("float32")),), {})


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("grid", GRIDS)
def test_opcheck_of_every_grid(operator: str, grid: str) -> None:
    torch.library.opcheck(OPERATORS[operator], (random_rows("float32"),), arguments(GRIDS[grid]))


@pytest.mark.parametrize("operator", OPERATORS)
def test_opcheck_with_gradients_asked_for(operator: str) -> None:
    """With an input that requires a gradient opcheck looks at autograd, too."""
    checked = torch.library.opcheck(OPERATORS[operator], (torch.randn(5, 7, requires_grad=True),), {})
    assert set(checked.values()) == {"SUCCESS"}
    assert {"test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"} <= set(checked)


def test_opcheck_of_a_tolerance() -> None:
    torch.library.opcheck(OPERATORS["bundle_rows"], (random_rows("float32"),), {"rtol": 0.0, "atol": 0.25})


@pytest.mark.parametrize("shape", [(1, 3), (4, 0), (7,), (2, 3, 4, 5), (1, 1)])
def test_opcheck_of_odd_shapes(shape: tuple[int, ...]) -> None:
    for operator in OPERATORS.values():
        torch.library.opcheck(operator, (torch.ones(shape),), {})


# --- the same answer as outside of a graph ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "grid"),
    [*((dtype, "none") for dtype in DTYPES), *(("float32", grid) for grid in GRIDS if grid != "none")],
)
def test_compiled_is_eager(compiled: str, dtype: str, grid: str) -> None:
    numpy_type(dtype)  # says what is NOT TESTED HERE without ml_dtypes
    acts, recorder = place(random_rows(dtype), compiled), Recorder()
    expected = cb.bundle_rows(acts, grid=GRIDS[grid], backend=compiled)

    def measured(x: Any) -> Any:
        return cb.bundle_rows(x, grid=GRIDS[grid], backend=compiled)

    ids = torch.compile(measured, fullgraph=True, backend=recorder)(acts)
    assert recorder.calls() == ["cbkernels.bundle_rows"]
    assert (ids.dtype, ids.device, ids.shape) == (torch.int64, acts.device, (12,))
    assert ids.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("layout", "shapes"), [*((layout, "static") for layout in STRIDED), ("channels_last", "dynamic")]
)
def test_compiled_reads_every_layout(layout: str, shapes: str) -> None:
    acts = STRIDED[layout](torch.from_numpy(np.random.default_rng(1).integers(0, 2, (3, 60))[[0, 1, 0, 2, 1]]).float())
    run = torch.compile(cb.bundle_rows, fullgraph=True, backend="aot_eager", dynamic=shapes == "dynamic")
    assert run(acts).tolist() == [0, 1, 0, 2, 1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it loads inductor
def test_through_the_default_compiler() -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("inductor: NOT TESTED HERE (it needs a C++ compiler)")
    acts = torch.tensor(ROWS, dtype=torch.float32)

    def network(x: Any) -> tuple[Any, Any]:
        hidden = torch.relu(x * 2 - 1)
        return cb.bundle_rows(hidden), hidden.sum()

    ids, total = torch.compile(network, fullgraph=True)(acts)
    assert ids.tolist() == IDS
    assert total.item() == network(acts)[1].item()


def test_tolerance_and_backend_go_into_the_graph() -> None:
    acts, recorder = torch.tensor([[1.0], [1.2], [5.0]]), Recorder()

    def measured(x: Any) -> tuple[Any, Any, Any]:
        return (cb.bundle_rows(x), cb.bundle_rows(x, tolerance=(0.0, 0.25)),
                cb.bundle_rows(x, tolerance=(0.5, 0.0), backend="reference"))  # fmt: skip

    ids = torch.compile(measured, fullgraph=True, backend=recorder)(acts)
    assert [i.tolist() for i in ids] == [[0, 1, 2], [0, 0, 1], [0, 0, 1]]
    last = [n for n in recorder.graphs[0].graph.nodes if "cbkernels" in str(n.target)][-1]
    assert (last.kwargs["rtol"], last.kwargs["atol"], last.kwargs["backend"]) == (0.5, 0.0, "reference")


def test_one_compilation_serves_all_numbers_of_rows_and_columns() -> None:
    recorder = Recorder()
    run = torch.compile(lambda x: cb.bundle_rows(x * 2), fullgraph=True, backend=recorder)
    for n, d in ((5, 8), (9, 3), (2, 40), (60, 7)):
        acts = torch.from_numpy(np.random.default_rng(n).integers(0, 2, (n, d)).astype(np.float32))
        torch._dynamo.mark_dynamic(acts, 0)
        torch._dynamo.mark_dynamic(acts, 1)
        assert run(acts).tolist() == cb.bundle_rows(acts).tolist()
    assert len(recorder.graphs) == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_grid_may_change_between_calls(dtype: str) -> None:
    """torch compiles once for each grid, because numbers are constants of a graph; never yesterday's numbers."""
    acts, recorder, seen = torch.tensor([[0.0], [1e-3], [1.0], [3.0]]), Recorder(), set()
    run = torch.compile(lambda x, g: cb.bundle_rows(x, grid=g), fullgraph=True, backend=recorder)
    for rate, size in ((1e-4, 50), (1e-3, 50), (1e-3, 64.5), (1e-12, 64), (1.0, 1)):
        grid = cb.UpdateGrid(rate, size, 0.7, dtype=dtype)
        expected = cb.bundle_rows(acts, grid=grid).tolist()
        assert run(acts, grid).tolist() == expected, grid
        seen.add(tuple(expected))
        run(acts, grid)
    assert len(seen) > 1
    assert len(recorder.graphs) == 5
    assert run(acts, None).tolist() == [0, 1, 2, 3]


def test_fingerprints_have_the_golden_values(compiled: str) -> None:
    for values, dtype, name, first, second in GOLDEN:
        row = golden_row(values, dtype)
        pair = np.stack([row, row])
        acts = torch.from_numpy(pair.view(f"u{row.itemsize}")).view(getattr(torch, dtype.removesuffix(" bits")))
        acts = place(acts, compiled)
        grid = None if name == "none" else cb.UpdateGrid(0.001, 50, 0.7, dtype=name)
        found, holds_nan = torch_operators.row_fingerprints(acts, grid=grid, backend=compiled)
        assert (found.dtype, found.shape, found.device) == (torch.int64, (2, 2), acts.device)
        assert found.cpu().numpy().view(np.uint64).tolist() == [[first, second]] * 2, values
        assert (holds_nan.dtype, holds_nan.tolist()) == (torch.bool, [False, False])


def test_fingerprints_under_a_key(compiled: str) -> None:
    acts = place(torch.arange(6.0).reshape(2, 3), compiled)
    for key, number in ((5 << 70, 5 << 70), (bytes(14) + b"\x01\x02", 258), (0, 0), (None, stream_keys.FIXED_KEY)):
        right = backends.TABLE["reference"].row_fingerprints(as_rows(acts.cpu()), None, number)[0].tolist()
        found = torch_operators.row_fingerprints(acts, key=key, backend=compiled)[0]
        assert found.cpu().numpy().view(np.uint64).tolist() == right, key
    with pytest.raises(ValueError, match=re.escape("the key is 'x'; it must be 32 hexadecimal digits")):
        OPERATORS["row_fingerprints"](acts, key="x", backend=compiled)


@pytest.mark.parametrize(("dtype", "grid"), [*((dtype, "none") for dtype in DTYPES), ("float32", "bfloat16")])
def test_fingerprints_in_a_graph(compiled: str, dtype: str, grid: str) -> None:
    numpy_type(dtype)
    acts = place(random_rows(dtype), compiled)
    recorder = Recorder()

    def measured(x: Any) -> Any:
        return torch_operators.row_fingerprints(x, grid=GRIDS[grid], backend=compiled)

    found, holds_nan = torch.compile(measured, fullgraph=True, backend=recorder)(acts)
    assert recorder.calls() == ["cbkernels.row_fingerprints"]
    patterns, flags = backends.TABLE["reference"].row_fingerprints(as_rows(acts.cpu()), GRIDS[grid])
    assert found.cpu().numpy().view(np.uint64).tolist() == patterns.tolist()
    assert holds_nan.tolist() == flags.tolist()
    assert flags.any() == may_hold_nan(dtype), "the input was to hold a NaN"
    assert not found[holds_nan].any()


# --- autograd, autocast, modes ----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["eager", "aot_eager"])
def test_gradients_flow_around_it(how: str) -> None:
    weight = torch.ones(2, 3, requires_grad=True)

    def loss(acts: Any) -> tuple[Any, Any]:
        hidden = torch.relu(acts @ weight)
        ids = cb.bundle_rows(hidden)
        return (hidden * ids[:, None]).sum(), ids

    value, ids = torch.compile(loss, fullgraph=True, backend=how)(torch.tensor(ROWS, dtype=torch.float32))
    value.backward()
    assert ids.tolist() == IDS
    assert ids.requires_grad is False
    # sum of id * row over the rows: 0 [1 2] + 1 [0 5] + 0 [1 2] + 1 [0 5] + 2 [3 3] + 3 [3 4]
    assert weight.grad.tolist() == [[15.0] * 3, [28.0] * 3]


@pytest.mark.parametrize("operator", OPERATORS)
def test_results_never_require_a_gradient(operator: str) -> None:
    results = OPERATORS[operator](torch.randn(4, 3, requires_grad=True))
    for result in results if isinstance(results, tuple) else [results]:
        assert (result.requires_grad, result.grad_fn) == (False, None)


def test_autocast_leaves_the_input_alone() -> None:
    acts = torch.tensor([[1.0], [1.0 + 2**-20]])  # one value in bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert OPERATORS["bundle_rows"](acts).tolist() == [0, 1]
        assert torch.compile(cb.bundle_rows, fullgraph=True, backend="aot_eager")(acts).tolist() == [0, 1]


def test_inference_mode_and_no_grad() -> None:
    run = torch.compile(lambda x: cb.bundle_rows(x + 1), fullgraph=True, backend="aot_eager")
    acts = torch.tensor(ROWS, dtype=torch.float32)
    for mode in (torch.inference_mode, torch.no_grad):
        with mode():
            assert run(acts).tolist() == IDS
            assert OPERATORS["bundle_rows"](acts).tolist() == IDS


@pytest.mark.parametrize("dtype", DTYPES)
def test_inputs_are_not_written(dtype: str) -> None:
    acts = random_rows(dtype)
    before, version = acts.clone(), acts._version
    for operator in OPERATORS.values():
        operator(acts)
    assert torch.equal(acts.view(torch.uint8), before.view(torch.uint8))
    assert acts._version == version


# --- recorded in other ways -------------------------------------------------------------------------------


@pytest.mark.parametrize("in_dim", [0, 1, 2])
def test_vmap_measures_each_matrix(in_dim: int) -> None:
    batch = torch.stack([torch.tensor(ROWS), torch.zeros(6, 2), torch.tensor(ROWS[::-1])]).float()
    expected = [IDS, [0] * 6, [0, 1, 2, 3, 2, 3]]
    moved = batch.movedim(0, in_dim)
    assert torch.vmap(cb.bundle_rows, in_dims=in_dim)(moved).tolist() == expected
    found, holds_nan = torch.vmap(torch_operators.row_fingerprints, in_dims=in_dim)(moved)
    assert (found.shape, holds_nan.shape) == ((3, 6, 2), (3, 6))
    for one, matrix in zip(found, batch, strict=True):
        assert torch.equal(one, torch_operators.row_fingerprints(matrix)[0])


def test_vmap_keeps_the_options() -> None:
    batch = torch.tensor([[[1.0], [1.2]], [[1.0], [9.0]]])
    assert torch.vmap(lambda x: cb.bundle_rows(x, tolerance=(0.0, 0.25)))(batch).tolist() == [[0, 0], [0, 1]]
    coarse = cb.UpdateGrid(1e-9, 64, 1.0)
    assert torch.vmap(lambda x: cb.bundle_rows(x, grid=coarse))(batch).tolist() == [[0, 0], [0, 0]]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, when it first loads its rules for jvp
def test_gradients_of_functions_that_use_it() -> None:
    acts = torch.tensor(ROWS, dtype=torch.float32)
    grad = torch.func.grad(lambda x: (x * cb.bundle_rows(x)[:, None]).sum())(acts)
    assert grad.tolist() == [[float(i)] * 2 for i in IDS]
    value, tangent = torch.func.jvp(lambda x: x.sum() + cb.bundle_rows(x).sum(), (acts,), (torch.ones_like(acts),))
    assert (value.item(), tangent.item()) == (29 + 7, 12)


def test_meta_tensors_give_shapes() -> None:
    acts = torch.empty(6, 3, 4, device="meta")
    ids = OPERATORS["bundle_rows"](acts)
    assert (ids.shape, ids.dtype, ids.device.type) == ((6,), torch.int64, "meta")
    found, holds_nan = OPERATORS["row_fingerprints"](acts)
    assert (found.shape, found.dtype, holds_nan.shape, holds_nan.dtype) == ((6, 2), torch.int64, (6,), torch.bool)
    with pytest.raises(ValueError, match="meta tensor"):
        cb.bundle_rows(acts)


def test_fake_tensors_give_shapes_inside_and_outside_of_their_mode() -> None:
    """They have no memory: a kernel that read it would end the process."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        acts = torch.empty(6, 3)
        assert cb.bundle_rows(acts).shape == (6,)
    ids = cb.bundle_rows(acts)
    assert (type(ids).__name__, ids.shape, ids.dtype) == ("FakeTensor", (6,), torch.int64)


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_make_fx_records_a_call_and_no_constant(mode: str) -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    acts = torch.tensor(ROWS, dtype=torch.float32)
    graph = make_fx(lambda x: cb.bundle_rows(x), tracing_mode=mode)(acts)
    assert [str(n.target) for n in graph.graph.nodes if n.op == "call_function"] == ["cbkernels.bundle_rows.default"]
    assert graph(torch.zeros(6, 2)).tolist() == [0] * 6


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_trace_holds_a_call_and_no_constant() -> None:
    acts = torch.tensor(ROWS, dtype=torch.float32)
    traced = torch.jit.trace(cb.bundle_rows, (acts,), check_trace=False)
    assert "cbkernels::bundle_rows" in str(traced.graph)
    assert traced(torch.zeros(6, 2)).tolist() == [0] * 6


def test_modes_see_the_operator() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Log(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    acts = torch.tensor(ROWS, dtype=torch.float32)
    with Log():
        ids = cb.bundle_rows(acts)
    assert ids.tolist() == IDS
    assert seen[0] == "cbkernels.bundle_rows.default"


def test_export_with_a_dynamic_number_of_rows(tmp_path: Any) -> None:
    class Network(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return cb.bundle_rows(torch.relu(x), grid=GRIDS["float32"])

    acts = torch.tensor(ROWS, dtype=torch.float32)
    program = torch.export.export(Network(), (acts,), dynamic_shapes=({0: torch.export.Dim("rows")},))
    path = tmp_path / "network.pt2"
    torch.export.save(program, path)
    code = (
        "import sys, torch, cbkernels.torch_operators\n"
        "run = torch.export.load(sys.argv[1]).module()\n"
        "print(run(torch.tensor([[3.0, 1], [0, 1], [3, 1]])).tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "[0, 1, 0]", done.stderr


# --- refusals and imports ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("acts", "options", "kind", "message"),
    [
        (torch.tensor(3.0), {}, ValueError, "acts has shape (); it needs a first axis that counts the samples"),
        (torch.empty(0, 3), {}, ValueError, "acts has shape (0, 3); at least one row is needed"),
        (torch.zeros(2, 3, dtype=torch.complex64), {}, TypeError, "acts has dtype torch.complex64; it must be real"),
        (torch.zeros(2, 3), {"backend": "gpu"}, ValueError, "backend is 'gpu'; choose one of auto"),
        (torch.zeros(2, 3), {"learning_rate": 0.1}, ValueError,
         "batch_size, weight_amplitude is None; a grid needs all of learning_rate, batch_size, weight_amplitude"),
        (torch.zeros(2, 3), {"learning_rate": -1.0, "batch_size": 2.0, "weight_amplitude": 1.0}, ValueError,
         "learning_rate is -1.0; it must be positive and finite"),
        (torch.zeros(2, 3), {"learning_rate": 1.0, "batch_size": 2.0, "weight_amplitude": 1.0, "grid_dtype": "int8"},
         ValueError, "dtype is 'int8'; choose one of float32"),
    ],
)  # fmt: skip
def test_operators_refuse_real_and_meta_tensors_alike(
    acts: Any, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    for operator in OPERATORS.values():
        for where in ("cpu", "meta"):
            with pytest.raises(kind, match=re.escape(message)):
                operator(acts.to(where), **options)


def test_tolerance_is_refused_as_elsewhere() -> None:
    run = OPERATORS["bundle_rows"]
    for where in ("cpu", "meta"):
        acts = torch.zeros(2, 3, device=where)
        with pytest.raises(ValueError, match=re.escape("rtol is 0.5 and atol is None; a tolerance needs both")):
            run(acts, rtol=0.5)
        with pytest.raises(ValueError, match=r"tolerance is \(-1\.0, 0\.0\); rtol and atol must be finite"):
            run(acts, rtol=-1.0, atol=0.0)
        with pytest.raises(ValueError, match="two definitions of equal"):
            run(acts, rtol=0.1, atol=0.0, **arguments(GRIDS["float32"]))


@pytest.mark.parametrize("bad", ["no_axis", "complex", "grid"])
def test_refusals_while_compiling_quote_the_value(bad: str) -> None:
    acts = {"no_axis": torch.tensor(3.0), "complex": torch.zeros(2, 3, dtype=torch.complex64)}.get(
        bad, torch.zeros(2, 3)
    )
    grid: Any = 0.25 if bad == "grid" else None
    message = {"no_axis": "acts has shape ()", "complex": "dtype torch.complex64", "grid": "UpdateGrid"}[bad]
    with pytest.raises(Exception, match=re.escape(message)):
        torch.compile(lambda x: cb.bundle_rows(x, grid=grid), fullgraph=True, backend="eager")(acts)


def test_operators_are_registered_when_they_are_needed() -> None:
    code = """
import sys
import cbkernels as cb
assert "torch" not in sys.modules
import torch
acts = torch.tensor([[1.0], [1.0]])
assert cb.bundle_rows(acts).tolist() == [0, 0]
assert "cbkernels.torch_operators" not in sys.modules and not hasattr(torch.ops.cbkernels, "bundle_rows")
assert torch.compile(cb.bundle_rows, fullgraph=True, backend="eager")(acts).tolist() == [0, 0]
assert torch.ops.cbkernels.bundle_rows(acts).tolist() == [0, 0]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_every_integer_type_has_rows_without_nan() -> None:
    for dtype in (*INTEGERS, "bool"):
        _, holds_nan = torch_operators.row_fingerprints(torch.ones(3, 2).to(getattr(torch, dtype)))
        assert not holds_nan.any()

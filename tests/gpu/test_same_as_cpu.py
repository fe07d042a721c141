"""The GPU's answers are the CPU's, bit for bit: every type, layout, grid, launch shape; layers in one launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cbkernels as cb
from cbkernels import _core
from cbkernels.arrays import DTYPES

from .presence import need_gpu

torch: Any = need_gpu()

from cbkernels import torch_operators  # noqa: E402 (imports torch)

from ..inputs import numpy_type  # noqa: E402
from ..test_torch_inputs import STRIDED  # noqa: E402
from .known_rows import GRIDS, labels_of, plain, random_rows, special_rows  # noqa: E402

SHAPES = [(1, 1), (2, 3), (33, 1), (40, 60), (64, 4096), (300, 33), (3000, 5), (5000, 300), (17, 20001)]


def assert_same(acts: Any, there: Any, grid: cb.UpdateGrid | None = None) -> None:
    labels = labels_of(len(acts))
    assert cb.bundle_rows(there, grid=grid).tolist() == cb.bundle_rows(acts, grid=grid).tolist()
    expected = cb.bundle_entropy(acts, labels, grid=grid)
    assert plain(cb.bundle_entropy(there, labels.cuda(), grid=grid)) == plain(expected)
    found, holds_nan = torch_operators.row_fingerprints(there, grid=grid)
    patterns, flags = torch_operators.row_fingerprints(acts, grid=grid)
    assert found.cpu().tolist() == patterns.tolist()
    assert holds_nan.cpu().tolist() == flags.tolist()
    on_gpu, on_cpu = cb.BundleEntropy(grid=grid), cb.BundleEntropy(grid=grid)
    for part in range(0, len(acts), 1000):
        on_gpu.update(there[part : part + 1000], labels[part : part + 1000].cuda())
        on_cpu.update(acts[part : part + 1000], labels[part : part + 1000])
    assert plain(on_gpu.compute()) == plain(on_cpu.compute())
    if len(acts) <= 300:
        assert cb.conflict_margin(there, labels.cuda()) == cb.conflict_margin(acts, labels)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type(dtype: str, shape: tuple[int, int]) -> None:
    numpy_type(dtype)  # says what is NOT TESTED HERE without ml_dtypes
    acts = special_rows(dtype, *shape)
    assert_same(acts, acts.cuda())


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_grid(dtype: str, grid: str) -> None:
    numpy_type(dtype)
    acts = special_rows(dtype, 90, 201)
    assert_same(acts, acts.cuda(), GRIDS[grid])


def moved(x: Any) -> Any:
    """The same view of the same memory, on the GPU."""
    storage = x.untyped_storage().cuda()
    return torch.empty(0, dtype=x.dtype, device="cuda").set_(storage, x.storage_offset(), x.shape, x.stride())


@pytest.mark.parametrize("layout", STRIDED)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64", "int8"])
def test_every_layout(dtype: str, layout: str) -> None:
    leaders = torch.randint(0, 3, (5, 60), generator=torch.Generator().manual_seed(3)).to(getattr(torch, dtype))
    acts = STRIDED[layout](leaders[torch.arange(40) * 7 % 5].to(torch.float32)).to(getattr(torch, dtype))
    there = moved(acts)
    assert there.stride() == acts.stride()
    assert_same(acts, there)
    for odd in (acts[::3], acts.flatten(1)[:, 7:50:2], acts.flatten(1).t().contiguous().t()):
        assert_same(odd, moved(odd))


def test_not_aligned_and_expanded() -> None:
    base = special_rows("int8", 50, 130)
    for offset in (1, 2, 3, 7, 15):
        assert_same(base[:, offset : offset + 100], base.cuda()[:, offset : offset + 100])
    row = torch.randn(1, 1000)
    assert cb.bundle_rows(row.cuda().expand(70, 1000)).tolist() == [0] * 70
    column = torch.tensor([[1.0], [2.0], [1.0]])
    assert cb.bundle_rows(column.cuda().expand(3, 5000)).tolist() == [0, 1, 0]


@pytest.mark.parametrize("shape", [(1, 32), (1, 256), (3, 64), (7, 128), (1000, 96), (0, 0)], ids=str)
def test_every_launch_shape(launch_shape: Callable[[int, int], None], shape: tuple[int, int]) -> None:
    launch_shape(*shape)
    for num_rows, num_columns in ((1, 5), (64, 700), (2500, 20), (9, 30000)):
        acts = special_rows("float32", num_rows, num_columns)
        assert_same(acts, acts.cuda())
        acts = random_rows(num_rows, num_columns)
        assert_same(acts, acts.cuda(), GRIDS["float32"])


@pytest.mark.parametrize("bundles", [0, 1, 50, 20_000])
def test_many_rows(bundles: int) -> None:
    acts = random_rows(200_000, 24, bundles=bundles)
    assert_same(acts, acts.cuda())
    assert cb.bundle_rows(acts.cuda()).max().item() + 1 == min(bundles or 200_000, len(torch.unique(acts, dim=0)))


def test_more_than_four_gibibytes() -> None:
    """Offsets beyond 32 bits: the last rows differ from the others in their last value only."""
    num_rows, num_columns = 70_000, 32_768
    if torch.cuda.mem_get_info()[0] < 6 * num_rows * num_columns:
        pytest.skip("more than 4 GiB: NOT TESTED HERE (too little memory on the GPU)")
    acts = torch.zeros(num_rows, num_columns, dtype=torch.bfloat16, device="cuda")
    acts[-3:, -1] = torch.tensor([1.0, 2.0, 1.0])
    expected = torch.zeros(num_rows, dtype=torch.int64)
    expected[-3:] = torch.tensor([1, 2, 1])
    assert torch.equal(cb.bundle_rows(acts).cpu(), expected)


def test_same_answer_every_time() -> None:
    """The order of atomics differs from run to run; the answer does not."""
    acts = random_rows(30_000, 40, bundles=3000).cuda()
    labels = labels_of(30_000).cuda()
    first_ids, first = cb.bundle_rows(acts).clone(), plain(cb.bundle_entropy(acts, labels))
    for _ in range(30):
        assert torch.equal(cb.bundle_rows(acts), first_ids)
        assert plain(cb.bundle_entropy(acts, labels)) == first


@pytest.mark.parametrize("tolerance", [(0.0, 0.25), (0.1, 0.0), (0.0, 0.0)])
def test_tolerance(tolerance: tuple[float, float]) -> None:
    acts = torch.randint(0, 4, (300, 3), generator=torch.Generator().manual_seed(2)).float() * 0.2
    assert (
        cb.bundle_rows(acts.cuda(), tolerance=tolerance).tolist() == cb.bundle_rows(acts, tolerance=tolerance).tolist()
    )


# --- many layers ------------------------------------------------------------------------------------------


def test_a_network_of_120_layers_in_a_launch_a_kind() -> None:
    """Ragged widths, mixed types and layouts, one grid; the same as one by one."""
    types = ["float32", "bfloat16", "float16", "float64", "int8", "bool"]
    cpu = {f"layer{i}": special_rows(types[i % len(types)], 96, 1 + 37 * i, seed=i) for i in range(120)}
    cpu["layer7"] = cpu["layer7"].t().contiguous().t()
    gpu, labels = {name: a.cuda() for name, a in cpu.items()}, labels_of(96)
    # float32 in words, float64 in chunks, 16-bit floats and integers in both, and what is read value by value
    for grid, num_kinds in ((None, 7), (GRIDS["float32"], 3)):
        expected = cb.bundle_entropy_layers(cpu, labels, grid=grid)
        found = cb.bundle_entropy_layers(gpu, labels.cuda(), grid=grid)
        assert list(found) == list(cpu)
        assert _core.last_work()["launches"] == num_kinds
        for name, result in found.items():
            assert plain(result) == plain(expected[name]), name


def test_two_thousand_layers() -> None:
    acts = [special_rows("float32", 20, 3 + i % 9, seed=i % 50).cuda() for i in range(2000)]
    labels = labels_of(20).cuda()
    found = cb.bundle_entropy_layers({str(i): a for i, a in enumerate(acts)}, labels)
    for i in range(0, 2000, 97):
        assert plain(found[str(i)]) == plain(cb.bundle_entropy(acts[i].cpu(), labels.cpu())), i


def test_layers_with_and_without_columns() -> None:
    layers = {
        "none": torch.zeros(5, 0).cuda(),
        "one": torch.tensor([1.0, 2, 1, 2, 3]).cuda(),
        "four": torch.zeros(5, 2, 3, 4).cuda(),
    }
    found = cb.bundle_entropy_layers(layers, labels_of(5).cuda())
    assert [r.num_bundles for r in found.values()] == [1, 3, 1]


# --- the margin -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64", "int64", "uint64", "uint8"])
@pytest.mark.parametrize(
    "shape", [(2, 1), (65, 130), (2, 300_001), (130, 2000), (70, 30_001), (700, 33), (1500, 300)], ids=str
)
def test_margin(dtype: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(8)
    acts = torch.from_numpy(rng.normal(size=shape) * 100).to(getattr(torch, dtype) if dtype[0] != "u" else torch.int64)
    acts = acts.abs().to(torch.uint8) if dtype == "uint8" else acts.view(torch.uint64) if dtype == "uint64" else acts
    labels = labels_of(shape[0])
    labels[0], labels[1] = 0, 1
    assert cb.conflict_margin(acts.cuda(), labels.cuda()) == cb.conflict_margin(acts, labels)
    assert cb.conflict_margin(acts.cuda(), torch.zeros_like(labels).cuda()) == float("inf")


# --- where it runs ----------------------------------------------------------------------------------------


def test_results_are_where_the_input_is() -> None:
    acts = random_rows(50, 20).cuda()
    ids = cb.bundle_rows(acts)
    assert (ids.device, ids.dtype) == (acts.device, torch.int64)
    result = cb.bundle_entropy(acts, labels_of(50).cuda())
    assert (result.backend, result.device) == ("cuda", str(acts.device))


def test_another_device_than_the_current_one() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("a second GPU: NOT TESTED HERE (there is one)")
    acts, labels = random_rows(500, 200), labels_of(500)
    expected = plain(cb.bundle_entropy(acts, labels))
    there = acts.to("cuda:1")
    assert torch.cuda.current_device() == 0
    assert cb.bundle_rows(there).device == there.device
    assert plain(cb.bundle_entropy(there, labels.to("cuda:1"))) == expected
    assert torch.cuda.current_device() == 0
    with pytest.raises(ValueError, match="acts is on cuda:1 and labels on cuda:0"):
        cb.bundle_entropy(there, labels.to("cuda:0"))


def test_labels_on_the_cpu_are_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="acts is on cuda:0 and labels on cpu; move one to the other"):
        cb.bundle_entropy(random_rows(5, 2).cuda(), labels_of(5))

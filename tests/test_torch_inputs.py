"""Tensors: every type and layout is read in place, results come back as tensors, autograd is left alone."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

import cbkernels as cb
from cbkernels.arrays import DTYPES, as_rows

from .all_of import all_of
from .inputs import INTEGERS

torch: Any = pytest.importorskip("torch", reason="torch: NOT TESTED HERE")

ROWS = [[1, 2], [0, 5], [1, 2], [0, 5], [3, 3], [3, 4]]
LABELS = torch.tensor([0, 0, 1, 0, 2, 2])


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type(backend: str, dtype: str) -> None:
    device = "cuda" if backend == "cuda" else "cpu"
    acts = torch.tensor(ROWS).to(getattr(torch, dtype)).to(device)
    ids = cb.bundle_rows(acts, backend=backend)
    assert isinstance(ids, torch.Tensor)
    assert (ids.dtype, ids.device.type, ids.shape) == (torch.int64, device, (6,))
    expected = [0, 1, 0, 1, 0, 0] if dtype == "bool" else [0, 1, 0, 1, 2, 3]
    assert ids.tolist() == expected
    result = cb.bundle_entropy(acts, LABELS.to(device), backend=backend)
    assert result.dtype == dtype
    assert result.num_bundles == len(set(expected))
    assert result.num_conflicting == 1
    assert type(result.entropy) is float


def test_every_integer_type_of_labels() -> None:
    acts = torch.zeros(6, 2)
    expected = cb.bundle_entropy(acts, LABELS).entropy
    for dtype in INTEGERS:
        assert cb.bundle_entropy(acts, LABELS.to(getattr(torch, dtype))).entropy == expected


def test_agrees_with_unique() -> None:
    rng = np.random.default_rng(0)
    acts = torch.from_numpy(rng.integers(0, 3, (500, 4)).astype(np.float32))
    _, inverse = torch.unique(acts, dim=0, return_inverse=True)
    ids = cb.bundle_rows(acts)
    # the same partition: each of ours is one of theirs, and the other way round
    both = torch.unique(torch.stack([ids, inverse]), dim=1)
    assert both.shape[1] == len(torch.unique(inverse)) == len(torch.unique(ids))


STRIDED = {
    "transposed": lambda x: x.t().contiguous().t(),
    "every_other_column": lambda x: torch.repeat_interleave(x, 2, 1)[:, ::2],
    "every_other_row": lambda x: torch.repeat_interleave(x, 2, 0)[::2],
    "channels_last": lambda x: x.reshape(len(x), 4, 5, 3).to(memory_format=torch.channels_last),
    "permuted": lambda x: x.reshape(len(x), 4, 15).permute(1, 0, 2).contiguous().permute(1, 0, 2),
    "slice_of_features": lambda x: torch.cat([x + 1, x, x + 2], 1)[:, 60:120],
    "with_an_offset": lambda x: torch.cat([torch.zeros(3), x.flatten()]).as_strided(x.shape, (60, 1), 3),
    "unfolded_axes": lambda x: x.reshape(len(x), 2, 5, 3, 2),
    "flattened": lambda x: x.reshape(len(x), 4, 5, 3).flatten(1),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64", "float8_e5m2"])
def test_strides(backend: str, dtype: str) -> None:
    with all_of("layouts") as case:
        for layout in STRIDED:
            with case(layout):
                check_strides(backend, layout, dtype)


def check_strides(backend: str, layout: str, dtype: str) -> None:
    rng = np.random.default_rng(1)
    base = torch.from_numpy(rng.integers(0, 2, (3, 60)))[rng.integers(3, size=12)]
    acts = STRIDED[layout](base.to(torch.float32)).to(getattr(torch, dtype))
    if backend == "cuda":
        acts = acts.cuda()
    _, inverse = np.unique(base.numpy(), axis=0, return_inverse=True)
    first = list(dict.fromkeys(inverse.ravel().tolist()))
    assert cb.bundle_rows(acts, backend=backend).tolist() == [first.index(k) for k in inverse.ravel()]


def test_expanded_tensors() -> None:
    assert cb.bundle_rows(torch.tensor([[1.0, 2.0]]).expand(5, 2)).tolist() == [0] * 5
    assert cb.bundle_rows(torch.tensor([[1.0], [2.0], [1.0]]).expand(3, 4000)).tolist() == [0, 1, 0]


def test_is_read_in_place() -> None:
    acts = torch.randn(4, 6, 5).permute(0, 2, 1)
    rows = as_rows(acts)
    assert rows.pointer == acts.data_ptr()
    assert rows.strides == tuple(4 * s for s in acts.stride())


def test_requires_grad_and_graphs_are_left_alone() -> None:
    x = torch.randn(6, 3, requires_grad=True)
    acts = torch.relu(x @ torch.randn(3, 8))
    version = acts._version
    assert cb.bundle_entropy(acts, LABELS).num_rows == 6
    assert cb.bundle_rows(x).requires_grad is False
    assert cb.conflict_margin(acts, LABELS) >= 0
    acts.sum().backward()
    assert x.grad is not None
    assert acts._version == version


def test_inside_no_grad_and_inference_mode() -> None:
    with torch.no_grad():
        assert cb.bundle_rows(torch.zeros(3, 2)).tolist() == [0, 0, 0]
    with torch.inference_mode():
        assert cb.bundle_rows(torch.zeros(3, 2)).tolist() == [0, 0, 0]


def test_parameters_and_subclasses() -> None:
    class Named(torch.Tensor):
        pass

    assert cb.bundle_rows(torch.nn.Parameter(torch.zeros(3, 2))).tolist() == [0, 0, 0]
    assert cb.bundle_rows(torch.eye(3).as_subclass(Named)).tolist() == [0, 1, 2]


def test_lazy_negation_is_resolved() -> None:
    """The imaginary part of a conjugate is a view with the negative bit set; memory holds the other sign."""
    acts = torch.tensor([[0 + 0j], [0 - 1j], [0 + 1j]]).conj().imag
    assert acts.is_neg()
    assert acts.tolist() == [[0.0], [1.0], [-1.0]]
    # beside 2**24 the grid tells 0 and 1 apart, but not 0 and -1: the wrong sign would give 0, 0, 1
    grid = cb.UpdateGrid(learning_rate=1.0, batch_size=1, weight_amplitude=2.0**24)
    assert cb.bundle_rows(acts, grid=grid).tolist() == [0, 1, 0]
    assert cb.bundle_rows(acts).tolist() == [0, 1, 2]


def test_lazy_conjugation_of_real_parts() -> None:
    z = torch.tensor([[1 + 2j], [1 - 2j], [3 + 2j]])
    assert cb.bundle_rows(z.conj().real).tolist() == [0, 0, 1]


def test_tensor_of_no_columns_and_of_one_axis() -> None:
    assert cb.bundle_rows(torch.zeros(4, 0)).tolist() == [0, 0, 0, 0]
    assert cb.bundle_rows(torch.tensor([3, 4, 3])).tolist() == [0, 1, 0]


def test_mixtures_of_numpy_and_torch() -> None:
    acts = torch.tensor(ROWS, dtype=torch.float32)
    assert cb.bundle_entropy(acts, LABELS.numpy()).num_bundles == 4
    assert cb.bundle_entropy(acts.numpy(), LABELS).num_bundles == 4
    assert cb.bundle_entropy(acts, LABELS.tolist()).num_bundles == 4


def test_bfloat16_of_torch_is_that_of_the_reference() -> None:
    acts = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)[:, None]
    assert torch.equal(cb.bundle_rows(acts), cb.bundle_rows(acts, backend="reference"))


def test_pinned_and_shared_memory() -> None:
    shared = torch.zeros(3, 2).share_memory_()
    assert cb.bundle_rows(shared).tolist() == [0, 0, 0]
    if not torch.cuda.is_available():
        pytest.skip("pinned memory: NOT TESTED HERE (no GPU)")
    assert cb.bundle_rows(torch.zeros(3, 2).pin_memory()).tolist() == [0, 0, 0]


class Exported:
    """A tensor of another library, seen through DLPack only."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __dlpack__(self, **options: Any) -> Any:
        return self.tensor.__dlpack__()

    def __dlpack_device__(self) -> Any:
        return self.tensor.__dlpack_device__()


def resized(num_bytes: int) -> torch.Tensor:
    acts = torch.ones(4, 6)
    acts.untyped_storage().resize_(num_bytes)
    return acts


@pytest.mark.parametrize("pass_as", [lambda x: x, Exported], ids=["tensor", "dlpack"])
def test_values_that_are_not_there_are_refused_and_not_read(pass_as: Any) -> None:
    """As a sharded model leaves its weights. The last one is a tensor of zeros without memory, as autograd has some."""
    shifted = torch.ones(10, 6)[3:7]
    assert cb.bundle_rows(pass_as(shifted)).tolist() == [0, 0, 0, 0]
    assert cb.bundle_rows(pass_as(torch.ones(4, 0))).tolist() == [0, 0, 0, 0]
    for gone in (resized(0), torch._efficientzerotensor((4, 6))):
        with pytest.raises(ValueError, match="acts reaches 96 bytes into memory of 0, so its values are not there"):
            cb.bundle_rows(pass_as(gone))
    labels = torch.zeros(8, dtype=torch.int32)
    labels.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="labels reaches 32 bytes into memory of 0"):
        cb.bundle_entropy(np.ones((8, 2)), pass_as(labels))


def test_a_tensor_longer_than_its_storage_is_refused() -> None:
    with pytest.raises(ValueError, match="acts reaches 96 bytes into memory of 95,"):
        cb.bundle_rows(resized(95))
    assert cb.bundle_rows(resized(96)).tolist() == [0, 0, 0, 0]
    acts = torch.ones(10, 6)[3:]
    acts.untyped_storage().resize_(239)
    with pytest.raises(ValueError, match="acts reaches 240 bytes into memory of 239,"):
        cb.bundle_rows(acts)


def test_memory_mapped_tensor(tmp_path: Any) -> None:
    path = tmp_path / "acts.bin"
    np.arange(12, dtype=np.float32).tofile(path)
    acts = torch.from_file(str(path), size=12, dtype=torch.float32).reshape(4, 3)
    assert cb.bundle_rows(acts).tolist() == [0, 1, 2, 3]


def test_a_state_with_tensors_in_place_of_arrays_is_loaded_without_pickle() -> None:
    metric = cb.BundleEntropy()
    metric.update(np.eye(5, 2, dtype=np.float32), np.arange(5) % 2)
    state = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in metric.state_dict().items()}
    file, loaded = io.BytesIO(), cb.BundleEntropy()
    torch.save(state, file)
    file.seek(0)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assert loaded.compute() == metric.compute()
    loaded.update(np.eye(5, 2, dtype=np.float32), np.arange(5) % 2)
    assert (loaded.compute().num_bundles, loaded.num_rows) == (3, 10)

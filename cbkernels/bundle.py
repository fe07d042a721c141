"""One-shot measurements: bundles of rows, their entropy, several layers at once, the margin.

Exact: a hash may route rows, a comparison decides (``docs/method.md``).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

from . import backends
from .arrays import Rows, as_labels, as_labels_of_layers, as_rows
from .entropy import BundleCounts, entropies_of_counts, entropy_of_counts
from .grid import UpdateGrid
from .options import Tolerance, check_options
from .result import BundleResult, result_of

if TYPE_CHECKING:
    import torch


def bundle_entropy(
    acts: object,
    labels: object,
    *,
    grid: UpdateGrid | None = None,
    log_epsilon: float | None = None,
    tolerance: Tolerance | None = None,
    check_nan: bool = True,
    backend: str = "auto",
) -> BundleResult:
    """Bundle entropy of one layer (Peer et al., WACV 2021, section 3).

    Args:
        acts: (N, ...) activations, N >= 1; everything behind the first axis is one row. NumPy,
            torch, or anything with DLPack or ``__cuda_array_interface__``; floats down to 8 bits,
            integers, bool (bytes 0 or 1); any strides, read in place. On a GPU at most 2**30 - 1
            rows; the work is queued on torch's current stream, or, without tensors, on the stream
            that the array names.
        labels: (N,) integers, any values, on the device of the activations.
        grid: compare values as the next weight update would see them; None compares plain values
            (IEEE: ``-0.0 == 0.0``, a NaN equals nothing).
        log_epsilon: the authors' published-code variant ``-sum p ln(p + eps)``, clipped at 0.
        tolerance: ``(rtol, atol)``: a row joins the first bundle whose leader ``l`` satisfies
            ``|a - l| <= atol + rtol * |l|`` everywhere, in float64, infinities only near
            themselves (the authors' later variant). Not
            transitive: the result depends on the order of the rows. Excludes ``grid``.
        check_nan: look for NaN in every row, at the price of one read of the data. False looks only
            where rows are read anyway: bundles stay exact, but a NaN in a row that is alone may go
            unnoticed.
        backend: "auto" (where the input lives), "cpu", "cuda" or "reference".

    Returns:
        BundleResult; entropy in nats.

    Raises:
        TypeError, ValueError: one sentence that quotes what is wrong.

    Example:
        >>> import numpy as np
        >>> r = bundle_entropy(np.zeros((4, 3), np.float32), np.array([0, 0, 1, 1]))
        >>> r.num_bundles, r.num_conflicting, round(r.entropy, 4)
        (1, 1, 0.6931)
    """
    rows = as_rows(acts)
    of_row = as_labels(labels, rows)
    check_options(grid, tolerance, log_epsilon)
    chosen = backends.choose(backend, rows)
    counts = chosen.count_bundles(rows, of_row, grid, tolerance, check_nan)
    return _result(entropy_of_counts(counts, log_epsilon), rows, counts, chosen.name, grid, log_epsilon, tolerance)


def bundle_rows(
    acts: object, *, grid: UpdateGrid | None = None, tolerance: Tolerance | None = None, backend: str = "auto"
) -> Any:
    """Number the bundles: equal rows get the same id, a fast ``unique(dim=0, return_inverse=True)``.

    Args:
        acts: as in ``bundle_entropy``.
        grid: as in ``bundle_entropy``.
        tolerance: as in ``bundle_entropy``.
        backend: as in ``bundle_entropy``.

    Returns:
        (N,) int64 where the input lives: a torch tensor on the same device; on a GPU an array of
        CuPy, JAX (int32 unless its 64-bit mode is on) or Numba where one came in; else NumPy. On a
        GPU the call never waits.
        Ids count upward in the order of the first rows of the bundles; a row with a NaN is a
        bundle of its own.

    A tensor may come in while torch records: inside ``torch.compile`` (``fullgraph=True``, dynamic
    shapes), ``torch.export``, ``torch.vmap`` the call is one operator, ``torch.ops.cbkernels.bundle_rows``.
    Construct the grid outside of the compiled function, which torch compiles once for each grid it gets.

    Example:
        >>> import numpy as np
        >>> bundle_rows(np.array([[1.0, 2.0], [0.0, 5.0], [1.0, 2.0], [-0.0, 5.0]])).tolist()
        [0, 1, 0, 1]
    """
    if _is_recorded(acts):
        from . import torch_operators

        return torch_operators.bundle_rows(acts, grid=grid, tolerance=tolerance, backend=backend)
    rows = as_rows(acts)
    check_options(grid, tolerance, None)
    return backends.choose(backend, rows).bundle_ids(rows, grid, tolerance)


def _is_recorded(acts: object) -> TypeGuard[torch.Tensor]:
    """Does torch write this call down (compile, export, trace, vmap, fake tensors) instead of running it?"""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(acts, torch.Tensor):
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    if torch._C._len_torch_dispatch_stack() or torch._C._functorch.peek_interpreter_stack() is not None:
        return True
    kind: Any = type(acts)
    if kind is torch.Tensor or acts.layout is not torch.strided:
        return False
    return kind.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__  # fake tensors outside of their mode


def bundle_entropy_layers(
    layers: Mapping[str, object],
    labels: object,
    *,
    grid: UpdateGrid | None = None,
    log_epsilon: float | None = None,
    check_nan: bool = True,
    backend: str = "auto",
) -> dict[str, BundleResult]:
    """Bundle entropy of many layers for the same samples; on a GPU in one launch for every kind of value.

    Args:
        layers: name -> (N, ...) activations, all on one device; shapes and types may differ.
        labels: (N,) integers.
        grid: as in ``bundle_entropy``.
        log_epsilon: as in ``bundle_entropy``.
        check_nan: as in ``bundle_entropy``.
        backend: as in ``bundle_entropy``.

    Returns:
        name -> BundleResult, in the order given.

    Example:
        >>> import numpy as np
        >>> acts = {"fc1": np.eye(4), "fc2": np.zeros((4, 2))}
        >>> [r.num_bundles for r in bundle_entropy_layers(acts, np.array([0, 1, 2, 3])).values()]
        [4, 1]
    """
    if not isinstance(layers, Mapping):
        raise TypeError(f"layers is a {type(layers).__name__}; pass a dict of name -> activations")
    # every layer is checked before the first is measured
    called = [f"layers[{name!r}]" for name in layers]
    measured = [as_rows(acts, name) for name, acts in zip(called, layers.values(), strict=True)]
    if not measured:
        return {}
    # labels are on one device and every layer must be there too, so one backend counts them all
    of_row = as_labels_of_layers(labels, measured, called)
    check_options(grid, None, log_epsilon)
    chosen = backends.choose(backend, measured[0])
    counts = chosen.count_layers(measured, of_row, grid, check_nan)
    return results_of_layers(dict(zip(layers, measured, strict=True)), counts, chosen.name, grid, log_epsilon)


def results_of_layers(
    layers: Mapping[str, Rows], counts: Sequence[BundleCounts], backend: str, grid: UpdateGrid | None,
    log_epsilon: float | None = None,
) -> dict[str, BundleResult]:  # fmt: skip
    """The results of layers that the backend of this name has counted: views that ``arrays.py`` made."""
    entropies = entropies_of_counts(counts, log_epsilon)
    return {
        name: _result(entropy, rows, of_layer, backend, grid, log_epsilon, None)
        for (name, rows), of_layer, entropy in zip(layers.items(), counts, entropies, strict=True)
    }


def conflict_margin(acts: object, labels: object, *, backend: str = "auto") -> float:
    """How far a layer is from a conflict: the smallest distance of two rows with different labels.

    ``min over i, j with y_i != y_j of max_k |a_i[k] - a_j[k]|``. Above the grid's step no conflict
    exists; ``grid.bits(margin)`` says how many bits of precision are left. Pairs are given up as
    soon as one component exceeds the best so far; the worst case is all pairs of all columns.

    Args:
        acts: as in ``bundle_entropy``.
        labels: (N,) integers.
        backend: as in ``bundle_entropy``.

    Returns:
        float, in units of the activations, computed in float64 (integers exactly, then rounded);
        inf when fewer than two labels remain. Equal values are 0 apart, infinities included.
        Rows that hold a NaN are left out.

    Example:
        >>> import numpy as np
        >>> conflict_margin(np.array([[0.0, 1.0], [0.25, 1.5], [9.0, 9.0]]), np.array([0, 1, 0]))
        0.5
    """
    rows = as_rows(acts)
    of_row = as_labels(labels, rows)
    return backends.choose(backend, rows).conflict_margin(rows, of_row)


def _result(
    entropy: float, rows: Rows, counts: BundleCounts, backend: str, grid: UpdateGrid | None,
    log_epsilon: float | None, tolerance: Tolerance | None,
) -> BundleResult:  # fmt: skip
    return result_of(
        entropy, counts, rows.num_columns, rows.dtype, rows.device, backend, grid, log_epsilon, tolerance=tolerance
    )

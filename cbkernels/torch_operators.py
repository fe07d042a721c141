"""PyTorch operators: `bundle_rows` and `row_fingerprints` inside torch.compile, torch.export and vmap.

Importing this file imports torch and registers ``torch.ops.cbkernels.*``; ``bundle_rows`` imports it when
torch records a call instead of running it. A program that loads an exported graph imports it itself.
Nothing is computed here: the implementations are those of ``backends.py``. Read next: ``bundle.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, SupportsIndex

import torch

from . import backends
from .arrays import DTYPES, as_rows
from .grid import UpdateGrid
from .options import Tolerance, check_options
from .stream_keys import FIXED_KEY, as_text, checked_key, from_text

_GRID = "float? learning_rate=None, float? batch_size=None, float? weight_amplitude=None, str grid_dtype='float32'"
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout)
"""Traceable, and any strides will do: the compiler need not copy the input into a layout of its choice."""

_library: Any = torch.library.Library("cbkernels", "DEF")  # type: ignore[no-untyped-call]
_library.define(
    f"bundle_rows(Tensor acts, *, {_GRID}, float? rtol=None, float? atol=None, str backend='auto') -> Tensor",
    tags=_TAGS,
)
_library.define(
    f"row_fingerprints(Tensor acts, *, {_GRID}, str key='{as_text(FIXED_KEY)}', str backend='auto') -> "
    "(Tensor fingerprints, Tensor holds_nan)",
    tags=_TAGS,
)


def bundle_rows(
    acts: torch.Tensor, *, grid: UpdateGrid | None = None, tolerance: Tolerance | None = None, backend: str = "auto"
) -> torch.Tensor:
    """``cbkernels.bundle_rows`` of a tensor as a call of ``torch.ops.cbkernels.bundle_rows``.

    Args:
        acts: as in ``cbkernels.bundle_entropy``.
        grid: as in ``cbkernels.bundle_entropy``; construct it outside of compiled functions.
        tolerance: as in ``cbkernels.bundle_entropy``.
        backend: as in ``cbkernels.bundle_entropy``.

    Returns:
        (N,) int64 on the device of ``acts``; never requires a gradient.
    """
    check_options(grid, tolerance, None)
    rtol, atol = (None, None) if tolerance is None else tolerance
    ids: torch.Tensor = torch.ops.cbkernels.bundle_rows(acts, **_arguments(grid), rtol=rtol, atol=atol, backend=backend)
    return ids


def row_fingerprints(
    acts: torch.Tensor, *, grid: UpdateGrid | None = None, key: bytes | SupportsIndex | None = None,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """128-bit fingerprints (``docs/fingerprint.md``) as a call of ``torch.ops.cbkernels.row_fingerprints``.

    Args:
        acts: as in ``cbkernels.bundle_entropy``.
        grid: as in ``cbkernels.bundle_entropy``; construct it outside of compiled functions.
        key: 16 bytes or an integer below 2**128. None is the fixed key, which is the same everywhere and known to
            everybody: whoever knows a key can make rows that share a fingerprint under it.
        backend: as in ``cbkernels.bundle_entropy``.

    Returns:
        (N, 2) int64, the bit patterns of the two unsigned numbers (torch sorts and compares int64, not
        uint64; ``.view(torch.uint64)`` gives the numbers), and (N,) bool: does the row hold a NaN. Such a
        row has the fingerprint (0, 0). On a GPU the call never waits; there every row with the
        fingerprint (0, 0) counts as one with a NaN, which is wrong with probability 2^-128.

    Example:
        >>> fingerprints, holds_nan = row_fingerprints(torch.tensor([[0.0, 1.0], [-0.0, 1.0], [torch.nan, 1.0]]))
        >>> bool((fingerprints[0] == fingerprints[1]).all()), holds_nan.tolist()
        (True, [False, False, True])
    """
    check_options(grid, None, None)
    given = {} if key is None else {"key": as_text(checked_key(key) or 0)}
    fingerprints, holds_nan = torch.ops.cbkernels.row_fingerprints(acts, **_arguments(grid), **given, backend=backend)
    return fingerprints, holds_nan


def _arguments(grid: UpdateGrid | None) -> dict[str, Any]:
    """A grid as the operators take it: numbers and a string, because a graph holds no Python objects."""
    if grid is None:
        return {}
    # float(): a batch size may be an int, which the schema does not take where it is symbolic
    return {
        "learning_rate": float(grid.learning_rate),
        "batch_size": float(grid.batch_size),
        "weight_amplitude": float(grid.weight_amplitude),
        "grid_dtype": grid.dtype,
    }


def _grid(
    learning_rate: float | None = None, batch_size: float | None = None, weight_amplitude: float | None = None,
    grid_dtype: str = "float32", **others: Any,
) -> UpdateGrid | None:  # fmt: skip
    numbers = {"learning_rate": learning_rate, "batch_size": batch_size, "weight_amplitude": weight_amplitude}
    missing = [name for name, number in numbers.items() if number is None]
    if len(missing) == len(numbers):
        return None
    if missing:
        raise ValueError(
            f"{', '.join(missing)} is None; a grid needs all of {', '.join(numbers)}, no grid none of them"
        )
    return UpdateGrid(**numbers, dtype=grid_dtype)  # type: ignore[arg-type]


def _tolerance(rtol: float | None = None, atol: float | None = None, **others: Any) -> Tolerance | None:
    if rtol is None and atol is None:
        return None
    if rtol is None or atol is None:
        raise ValueError(f"rtol is {rtol} and atol is {atol}; a tolerance needs both")
    return rtol, atol


def _bundle_rows(acts: torch.Tensor, *, backend: str = "auto", **options: Any) -> torch.Tensor:
    rows = as_rows(acts)
    grid, tolerance = _grid(**options), _tolerance(**options)
    check_options(grid, tolerance, None)
    return _tensor(backends.choose(backend, rows).bundle_ids(rows, grid, tolerance), acts)


def _row_fingerprints(
    acts: torch.Tensor, *, key: str = as_text(FIXED_KEY), backend: str = "auto", **options: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    rows = as_rows(acts)
    found = backends.choose(backend, rows).row_fingerprints(rows, _grid(**options), from_text(key))
    fingerprints, holds_nan = found
    return _tensor(fingerprints, acts).view(torch.int64), _tensor(holds_nan, acts)


def _tensor(x: Any, acts: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(x, device=acts.device)


def _fake_bundle_rows(acts: torch.Tensor, *, backend: str = "auto", **options: Any) -> torch.Tensor:
    return acts.new_empty((_checked_num_rows(acts, backend, options),), dtype=torch.int64)


def _fake_row_fingerprints(
    acts: torch.Tensor, *, backend: str = "auto", **options: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    num_rows = _checked_num_rows(acts, backend, options)
    return acts.new_empty((num_rows, 2), dtype=torch.int64), acts.new_empty((num_rows,), dtype=torch.bool)


_TYPES = {getattr(torch, name) for name in DTYPES if hasattr(torch, name)}


def _checked_num_rows(acts: torch.Tensor, backend: str, options: dict[str, Any]) -> Any:
    """N, which may be symbolic; refuses what is known to be wrong without values and without running."""
    backends.require_name(backend)
    if acts.dim() == 0:
        raise ValueError("acts has shape (); it needs a first axis that counts the samples")
    if isinstance(acts.shape[0], int) and acts.shape[0] == 0:
        raise ValueError(f"acts has shape {tuple(acts.shape)}; at least one row is needed")
    if acts.dtype not in _TYPES:
        raise TypeError(f"acts has dtype {acts.dtype}; it must be real: float, integer or bool")
    if not any(isinstance(x, torch.SymFloat) for x in options.values()):
        check_options(_grid(**options), _tolerance(**options), None)
    return acts.shape[0]


def _vmap_bundle_rows(info: Any, in_dims: Any, acts: torch.Tensor, **options: Any) -> tuple[torch.Tensor, int]:
    return torch.stack([torch.ops.cbkernels.bundle_rows(one, **options) for one in acts.unbind(in_dims[0])]), 0


def _vmap_row_fingerprints(
    info: Any, in_dims: Any, acts: torch.Tensor, **options: Any
) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[int, int]]:
    each = [torch.ops.cbkernels.row_fingerprints(one, **options) for one in acts.unbind(in_dims[0])]
    return (torch.stack([f for f, _ in each]), torch.stack([h for _, h in each])), (0, 0)


def _register(name: str, runs: Callable[..., Any], fake: Callable[..., Any], vmap: Callable[..., Any]) -> None:
    for processor in ("CPU", "CUDA"):
        _library.impl(name, runs, processor)
    torch.library.register_fake(f"cbkernels::{name}", fake, lib=_library)
    torch.library.register_vmap(f"cbkernels::{name}", vmap, lib=_library)


_register("bundle_rows", _bundle_rows, _fake_bundle_rows, _vmap_bundle_rows)
_register("row_fingerprints", _row_fingerprints, _fake_row_fingerprints, _vmap_row_fingerprints)

"""Rows with known difficulties, on the CPU and on the GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import cbkernels as cb
from cbkernels.grid import GRID_DTYPES

from ..inputs import FLOATS, not_a_number, special_values

GRIDS = {"none": None, **{d: cb.UpdateGrid(1e-3, 50, 0.7, dtype=d) for d in GRID_DTYPES}}


def special_rows(dtype: str, num_rows: int, num_columns: int, *, bundles: int = 7, seed: int = 0) -> Any:
    """(N, D) CPU tensor: few bundles, zeros of both signs, extremes, rows that differ in one value, a NaN."""
    rng = np.random.default_rng(seed)
    values = special_values(dtype)
    leaders = values[rng.integers(len(values), size=(bundles, num_columns))]
    acts = leaders[rng.integers(bundles, size=num_rows)]
    if num_columns:
        for row in rng.integers(num_rows, size=max(1, num_rows // 5)):
            acts[row, rng.integers(num_columns)] = values[rng.integers(len(values))]
        if dtype in FLOATS and num_rows > 2:
            acts[num_rows // 2, num_columns // 2] = not_a_number(dtype)[0]
    return torch.from_numpy(acts.view(f"u{acts.itemsize}")).view(getattr(torch, dtype))


def random_rows(num_rows: int, num_columns: int, *, bundles: int = 50, seed: int = 0) -> Any:
    """(N, D) float32 CPU tensor of normal values with about so many bundles; 0: all distinct."""
    generator = torch.Generator().manual_seed(seed)
    leaders = torch.randn(bundles or num_rows, num_columns, generator=generator)
    return leaders[torch.randint(bundles, (num_rows,), generator=generator)] if bundles else leaders


def labels_of(num_rows: int, classes: int = 3) -> Any:
    """(N,) int64 CPU tensor."""
    return torch.from_numpy(np.random.default_rng(1).integers(classes, size=num_rows))


def plain(result: Any) -> dict[str, Any]:
    """A result without the names of device and backend, the entropy as its bits."""
    left_out = {"device", "backend"}
    return {k: v for k, v in result.to_dict().items() if k not in left_out} | {"entropy": result.entropy.hex()}

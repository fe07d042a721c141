"""Filters that come back: orthogonal to what they were and to the kept ones, with a fresh optimizer.

After RePr (arXiv 1811.07275), section 5. Where a layer has no room left (32 filters of 27 weights), a documented
relaxation takes its place. Read next: ``masks.py``, ``repr.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..ranks import Ranks
from ..surgery.optimizer import optimizers_in
from .layers import FilterLayer

SAME_DIRECTION = 1e-6
"""Singular values below it, of rows of length 1, count as none: cosines with what is left out stay below it."""


def orthogonal_filters(
    kept: torch.Tensor, old: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, list[bool]]:
    """New filters for those that come back.

    Each is a random direction orthogonal to all kept filters and to its own old value, and new ones are orthogonal
    to each other as far as there is room: ``d - 1 - rank(kept)`` of them, then the next so many, and so on. Their
    length is the median of the kept filters' lengths that are not zero.

    Where the kept filters and the old value span everything, the filter is made orthogonal to its old value, to the
    kept filters whose cosine with that is largest (d // 2 with the old value) and to the latest new ones, as long as a
    quarter of the directions is left. Its length is then what remains of a random vector of the median length, so
    that it never exceeds that. A filter of one weight is a random number.

    Args:
        kept: (k, d) filters that stay, k >= 1.
        old: (r, d) what the others were.
        generator: of the random directions, on the CPU.

    Returns:
        (r, d) float64 on the CPU; for each whether it was relaxed.
    """
    kept, old = (rows.detach().to("cpu", torch.float64) for rows in (kept, old))
    norms = kept.norm(dim=1)
    length = float(norms[norms > 0].median()) if bool((norms > 0).any()) else 1.0
    num_weights = kept.shape[1]
    taken = of_kept = _row_space(kept)
    new, relaxed = torch.empty_like(old), list[bool]()
    for number, before in enumerate(old):
        basis = _extended(taken, before)
        relaxed.append(len(basis) == num_weights)
        if relaxed[-1]:
            basis = _relaxed_basis(kept, before, new[:number])
        start = torch.randn(num_weights, generator=generator, dtype=torch.float64)
        direction = _projected(start, basis)
        size = direction.norm()
        new[number] = direction * (length / (start.norm() if relaxed[-1] else size))
        # two directions are left for the next one: its old value and itself; without them a new set begins
        has_room = not relaxed[-1] and len(taken) < num_weights - 2
        taken = torch.cat([taken, (direction / size)[None]]) if has_room else of_kept
    return new, relaxed


def _row_space(rows: torch.Tensor) -> torch.Tensor:
    """An orthonormal basis of what the rows span, (rank, d)."""
    units = nn.functional.normalize(rows, dim=1, eps=torch.finfo(torch.float64).tiny)
    _, values, directions = torch.linalg.svd(units, full_matrices=False)
    basis: torch.Tensor = directions[values > SAME_DIRECTION]
    return basis


def _extended(basis: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """The basis and what it lacks to span the row."""
    norm = row.norm()
    rest = _projected(row / norm, basis) if norm > 0 else row
    size = rest.norm()
    return torch.cat([basis, (rest / size)[None]]) if size > SAME_DIRECTION and len(basis) < len(row) else basis


def _relaxed_basis(kept: torch.Tensor, before: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """An orthonormal basis of some of what a filter should be orthogonal to; a quarter of the directions is left."""
    num_weights = len(before)
    norms = (kept.norm(dim=1) * before.norm()).clamp(min=torch.finfo(torch.float64).tiny)
    worst_first = ((kept @ before).abs() / norms).argsort(descending=True, stable=True)
    rows = torch.cat([before[None], kept[worst_first[: max(0, num_weights // 2 - 1)]], new.flip(0)])
    most = num_weights - max(1, num_weights // 4)
    basis: torch.Tensor = torch.linalg.qr(rows[:most].T).Q.T
    return basis


def _projected(vector: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Without its part in the basis; twice, for what rounding leaves the first time."""
    for _ in range(2):
        vector = vector - basis.T @ (basis @ vector)
    return vector


def bring_back(
    layer: FilterLayer,
    filters: Sequence[int],
    generator: torch.Generator,
    optimizer: torch.optim.Optimizer,
    ranks: Ranks,
) -> bool:
    """``start_afresh`` with ``orthogonal_filters``, rank 0's on all ranks; whether any of them was relaxed."""
    new, relaxed = orthogonal_filters(layer.rows(without=filters), layer.rows()[list(filters)], generator)
    new = new.to(layer.weight.device, torch.float32)
    ranks.take_from_first(new)
    start_afresh(layer, filters, new, optimizer)
    return any(relaxed)


@torch.no_grad()
def start_afresh(
    layer: FilterLayer, filters: Sequence[int], values: torch.Tensor, optimizer: torch.optim.Optimizer
) -> None:
    """Give filters new weights, and everything else of them its first value.

    Bias 0; of the norm weight 1, bias 0, running mean 0 and variance 1; momentum and averages of the optimizer 0, and
    Lookahead's slow weights where the new ones are. An optimizer counts its steps once for all filters of a layer: that
    count goes on, so that Adam's correction of averages that began at 0 is over, and its first steps with the new
    filters are up to ``(1 - b1) / sqrt(1 - b2)`` learning rates long, 3.2 with the usual betas.

    Args:
        layer: changed.
        filters: indices, r of them.
        values: (r, d) new weights.
        optimizer: changed; also those inside of it.
    """
    for name, tensor in layer.tensors().items():
        index = torch.tensor(list(filters), device=tensor.device)
        if name == "weight":
            new = values.to(tensor.device, tensor.dtype).reshape(len(index), *tensor.shape[1:])
            tensor.index_copy_(0, index, new)
        else:
            is_scale = name.endswith((".weight", ".running_var"))
            tensor.index_fill_(0, index, 1.0 if is_scale else 0.0)
        for each in optimizers_in(optimizer):
            for key, content in getattr(each, "state", {}).get(tensor, {}).items():
                if isinstance(content, torch.Tensor) and content.shape == tensor.shape and content.ndim:
                    rows = tensor[index] if key == "slow" else torch.zeros_like(tensor[index])
                    content.index_copy_(0, index.to(content.device), rows.to(content.device, content.dtype))

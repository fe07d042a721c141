"""What the branches of residual blocks put out, measured block by block; and blocks whose branch is switched off.

The blocks have parts ``shortcut`` and ``branch`` and return ``relu(shortcut(x) + branch(x))``; a branch has two
convolutions, ``conv1`` and ``conv2``. The package's own residual networks are made of such blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from ..bundle import bundle_entropy, conflict_margin
from ..files.json_files import finite_or_none
from ..grid import UpdateGrid
from ..result import BundleResult
from .evaluation import evaluating, outputs_taken

EPSILON = 1e-6
"""Added to the variances, as in the authors' code: a dead convolution has none."""


@dataclass(frozen=True)
class BlockMeasurement:
    """One residual block on the probe batch."""

    block: str
    """Its name in the model."""
    stage: int
    """Which stage it is in, from 0."""
    result: BundleResult
    """Of the scaled branch output."""
    margin: float
    """Conflict margin of the scaled branch output."""
    amplitude: float
    """Largest absolute value of the scaled branch output that is not NaN."""
    margin_bits: float
    """The margin in steps of the grid, as a power of two; inf with one label only, -inf for a margin of 0."""
    similarity: float
    """Mean cosine of what the block returns and what it would return without its branch: of output and input, but
    for a block whose shortcut is a projection. 1: the branch changes nothing."""

    @property
    def branch(self) -> str:
        """Name of the module that removal switches off."""
        return f"{self.block}.branch"

    def conflicts(self, min_conflicting_rows: int = 1) -> bool:
        """Whether at least so many rows are in conflicting bundles, or one holds a NaN."""
        return self.result.num_conflicting_rows >= min_conflicting_rows or self.result.num_nan_rows > 0

    def to_dict(self) -> dict[str, Any]:
        """JSON types; a number that is not finite is None."""
        counts = ("num_rows", "num_bundles", "num_conflicting", "num_conflicting_rows")
        measured = {
            "entropy": self.result.entropy,
            "margin": self.margin,
            "margin_bits": self.margin_bits,
            "similarity": self.similarity,
        }
        return {
            "block": self.block,
            "branch": self.branch,
            "stage": self.stage,
            **{name: getattr(self.result, name) for name in counts},
            **{name: finite_or_none(value) for name, value in measured.items()},
        }


def measure_blocks(
    model: nn.Module, stages: Sequence[Sequence[str]], images: torch.Tensor, labels: Any, grid: UpdateGrid
) -> list[BlockMeasurement]:
    """Measure residual blocks in one forward pass, in evaluation mode; the model stays as it is.

    The branch output (after the second batch norm, before the shortcut is added) is multiplied by 1/std of the first
    and 1/std of the second convolution's output, each over all its values on the probe: batch norm divides the
    weights' update by them (arXiv 2103.04331, removal of layers).

    Args:
        model: with such blocks.
        stages: names of the blocks to measure, stage by stage; those that were cut are left out.
        images: (N, C, H, W) float, prepared, on the model's device.
        labels: (N,) integers.
        grid: of the training.

    Returns:
        One measurement a block, in the order of the model.
    """
    stage_of = {name: stage for stage, names in enumerate(stages) for name in names}
    parts = ["", ".shortcut", ".branch", ".branch.conv1", ".branch.conv2"]
    found: list[BlockMeasurement] = []
    seen: dict[str, Any] = {}
    labels = torch.as_tensor(labels, device=images.device)

    def take(layer: str, name: str, module: nn.Module, output: torch.Tensor) -> None:
        if name in stage_of:
            similarity = _similarity(output, torch.relu(seen["shortcut"]))
            found.append(BlockMeasurement(name, stage_of[name], **seen["branch"], similarity=similarity))
            seen.clear()
        elif name.endswith(".shortcut"):
            seen["shortcut"] = output
        elif name.endswith(".branch"):
            scaled = output.float() * (seen["conv1"] * seen["conv2"])
            seen["branch"] = _measured(scaled, labels, grid)
        else:
            seen[name[-5:]] = 1 / math.sqrt(float(output.float().var(unbiased=False)) + EPSILON)

    with evaluating(model) as inner, outputs_taken(inner, [name + part for name in stage_of for part in parts], take):
        inner(images)
    return found


def _measured(scaled: torch.Tensor, labels: torch.Tensor, grid: UpdateGrid) -> dict[str, Any]:
    margin = conflict_margin(scaled, labels)
    amplitude = float(torch.nan_to_num(scaled, nan=0.0, posinf=math.inf, neginf=-math.inf).abs().max())
    bits = grid.bits(margin, amplitude=amplitude)
    result = bundle_entropy(scaled, labels, grid=grid)
    return {"result": result, "margin": margin, "amplitude": amplitude, "margin_bits": bits}


def _similarity(one: torch.Tensor, other: torch.Tensor) -> float:
    one, other = one.flatten(1).float(), other.flatten(1).float()
    cosine = nn.functional.cosine_similarity(one, other)
    return float(torch.where((one == other).all(1), 1.0, cosine).mean())  # rows of zeros have no direction


@contextmanager
def without_branches(model: nn.Module, blocks: Iterable[str]) -> Iterator[None]:
    """Within it, blocks return ``relu(shortcut(x))``, as after ``remove_layers``; the model is not rebuilt for it.

    Args:
        model: with such blocks.
        blocks: their names.
    """
    with ExitStack() as stack:
        for block in map(model.get_submodule, blocks):
            vars(block)["forward"] = partial(_shortcut, block)  # an instance's own goes before its class's
            stack.callback(vars(block).pop, "forward", None)
        yield


def _shortcut(block: Any, x: torch.Tensor) -> torch.Tensor:
    return torch.relu(block.shortcut(x))

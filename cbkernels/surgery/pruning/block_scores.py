"""What the rankings of residual blocks score them by: pure functions of a model and a probe. Smallest goes first."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ...bundle import bundle_entropy, conflict_margin
from ...grid import UpdateGrid
from ...models.evaluation import device_of, evaluating, every_layer_called, tensors_in
from ...models.probe import ProbeBatch
from ..plan import Removable
from .branch_outputs import each_block, each_branch

Loss = Callable[[Any, torch.Tensor], torch.Tensor]
"""What the model returned and (N,) labels -> a loss."""


@dataclass(frozen=True)
class Candidates:
    """The blocks that a model has now, and what a score may be made of."""

    model: nn.Module
    """Unwrapped; a score leaves it as it is."""
    removable: Removable
    batches: Sequence[ProbeBatch]
    """The probe, on the model's device."""
    grid: UpdateGrid | None
    loss: Loss | None
    seed: int
    first_names: Mapping[str, str]
    """Name now -> name before the first removal, of every block."""
    min_conflicting_rows: int = 1
    """Rows in conflicting bundles that make a conflict."""

    @property
    def names(self) -> list[str]:
        """Those that could go, in the order of execution."""
        return list(self.removable.steps)

    @property
    def num_rows(self) -> int:
        """N of the whole probe."""
        return sum(batch.num_rows for batch in self.batches)


def probe_on(model: nn.Module, batches: Sequence[ProbeBatch]) -> list[ProbeBatch]:
    """The probe's batches with samples, where the model is."""
    device = device_of(model)
    return [batch.to(device) for batch in batches if batch.num_rows]


def margin(asked: Candidates) -> dict[str, float]:
    """A block is as far from a conflict as that of its branches which is furthest; the nearest pair of all batches."""
    scores = dict[str, float]()
    for batch in asked.batches:
        for block, margins in _of_branches(asked, batch, conflict_margin).items():
            scores[block] = min(max(margins), scores.get(block, math.inf))
    return scores


def conflicts(asked: Candidates) -> dict[str, float]:
    """Minus the smallest entropy of a block's branches, where all of them conflict; the mean over the samples."""
    scores = dict[str, float]()

    def entropy(rows: torch.Tensor, labels: torch.Tensor) -> float:
        result = bundle_entropy(rows, labels, grid=asked.grid)
        conflicts = result.num_conflicting_rows >= asked.min_conflicting_rows
        return math.inf if math.isnan(result.entropy) else result.entropy * conflicts

    for batch in asked.batches:
        for block, entropies in _of_branches(asked, batch, entropy).items():
            scores[block] = scores.get(block, 0.0) - min(entropies) * batch.num_rows / asked.num_rows
    return {block: score for block, score in scores.items() if score < 0}


def _of_branches(
    asked: Candidates, batch: ProbeBatch, measure: Callable[[torch.Tensor, torch.Tensor], float]
) -> dict[str, list[float]]:
    """Block -> what ``measure`` makes of the rows of each of its branches, and of their labels."""
    found = dict[str, list[float]]()

    def take(block: str, rows: torch.Tensor) -> None:
        found.setdefault(block, []).append(measure(rows, batch.labels.to(rows.device)))

    each_branch(asked.model, asked.removable, batch, take)
    return found


def similarity(asked: Candidates) -> dict[str, float]:
    """One minus the mean cosine of what a block returns and what would be left of it: block influence."""
    scores = dict[str, float]()

    def take(block: str, output: torch.Tensor, remains: torch.Tensor) -> None:
        start = 2 if output.ndim == 3 else 1  # of a sequence the mean over its places
        one, other = output.flatten(start).float(), remains.flatten(start).float()
        cosine = torch.where((one == other).all(-1), 1.0, nn.functional.cosine_similarity(one, other, dim=-1))
        influence = (1 - float(cosine.mean())) * batch.num_rows / asked.num_rows
        scores[block] = scores.get(block, 0.0) + influence

    for batch in asked.batches:
        each_block(asked.model, asked.removable, batch, take)
    return scores


def taylor(asked: Candidates) -> dict[str, float]:
    """How much the loss would change to first order without the branches: the mean of |sum of gradient x output|."""
    totals = dict.fromkeys(asked.names, 0.0)
    for batch in asked.batches:
        for block, changes in _changes_of_loss(asked, batch):
            totals[block] += float(changes.abs().sum()) / asked.num_rows
    return totals


def _changes_of_loss(asked: Candidates, batch: ProbeBatch) -> Iterator[tuple[str, torch.Tensor]]:
    gates = list[tuple[str, torch.Tensor]]()
    hooks = []

    def gated(block: str) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            is_nested = isinstance(output, (tuple, list))
            main = output[0] if is_nested else output
            if not isinstance(main, torch.Tensor):
                return None
            of_samples = main.ndim > 0 and len(main) == batch.num_rows
            shape = [batch.num_rows, *[1] * (main.ndim - 1)] if of_samples else [1] * main.ndim
            gate = torch.ones(shape, dtype=main.dtype, device=main.device, requires_grad=True)
            gates.append((block, gate))
            return type(output)([main * gate, *output[1:]]) if is_nested else main * gate

        return hook

    with evaluating(asked.model) as inner, every_layer_called():
        try:
            for name, block in asked.removable.found.blocks.items():
                if name in asked.removable.steps:
                    hooks += [
                        inner.get_submodule(part).register_forward_hook(gated(name))
                        for part in block.branches or (name,)
                    ]
            with torch.enable_grad():
                loss = (asked.loss or _cross_entropy)(inner(*batch.args, **batch.kwargs), batch.labels)
                found = torch.autograd.grad(loss * batch.num_rows, [gate for _, gate in gates], allow_unused=True)
        finally:
            for each in hooks:
                each.remove()
    for (name, _), gradient in zip(gates, found, strict=True):
        if gradient is not None:
            yield name, gradient.float()


def _cross_entropy(output: Any, labels: torch.Tensor) -> torch.Tensor:
    logits = output["logits"] if hasattr(output, "keys") and "logits" in output else next(tensors_in(output), None)
    if logits is None or logits.ndim != 2 or len(logits) != len(labels):
        shape = "no tensor" if logits is None else f"a tensor of shape {tuple(logits.shape)}"
        raise ValueError(
            f"rank is 'taylor', but the model returns {shape}, no logits of {len(labels)} samples; pass loss="
        )
    return nn.functional.cross_entropy(logits.float(), labels.to(logits.device))


def weight_norm(asked: Candidates) -> dict[str, float]:
    """Root mean square of the last matrix of weights of each branch; the largest of a block's branches."""
    return _of_last_parts(asked, lambda m: m.weight.ndim > 1, lambda w: float(w.float().square().mean().sqrt()))


def bn_scale(asked: Candidates) -> dict[str, float]:
    """Mean absolute scale of the last batch norm of each branch; the largest of a block's branches."""

    def is_norm(module: nn.Module) -> bool:
        return isinstance(module, nn.modules.batchnorm._BatchNorm)

    scores = _of_last_parts(asked, is_norm, lambda w: float(w.float().abs().mean()))
    if not scores:
        raise ValueError("rank is 'bn_scale', but no branch has a batch norm with a scale; choose another ranking")
    return scores


def _of_last_parts(
    asked: Candidates, fits: Callable[[Any], bool], score: Callable[[torch.Tensor], float]
) -> dict[str, float]:
    recording = asked.removable.found.recording
    assert recording is not None, "the candidates were found with an example"
    modules, order, scores = dict(asked.model.named_modules()), recording.order(), dict[str, float]()
    for name, step in asked.removable.steps.items():
        shortcut = f"{name}.{step.shortcut}"
        inside = [
            part for part in order
            if part.startswith(f"{name}.") and not f"{part}.".startswith(f"{shortcut}.")
            and isinstance(getattr(modules[part], "weight", None), torch.Tensor) and fits(modules[part])
        ]  # fmt: skip
        last = dict[str, float]()
        for branch in asked.removable.found.blocks[name].branches or (name,):
            before = [part for part in inside if f"{part}.".startswith(f"{branch}.")]
            before = before or [part for part in inside if order.index(part) < order.index(branch)]
            if before:
                last[before[-1]] = score(modules[before[-1]].weight.detach())
        if last:
            scores[name] = max(last.values())
    return scores


def random(asked: Candidates) -> dict[str, float]:
    """Drawn by the seed and the block's first name."""
    places = {name: zlib.crc32(asked.first_names[name].encode()) for name in asked.names}
    return {name: float(np.random.default_rng([asked.seed, place]).random()) for name, place in places.items()}

"""A plain training loop with the papers' recipe: RAdam in Lookahead, constant learning rate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from .lookahead import Lookahead


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of the papers (Peer et al., WACV 2021)."""

    learning_rate: float = 1e-3
    batch_size: int = 64
    eps: float = 1e-6
    weight_decay: float = 1e-2
    lookahead_steps: int = 6
    lookahead_alpha: float = 0.5


def build_optimizer(model: nn.Module, recipe: Recipe) -> Lookahead:
    """Rectified Adam with decoupled weight decay inside Lookahead."""
    inner = torch.optim.RAdam(
        model.parameters(), lr=recipe.learning_rate, eps=recipe.eps, weight_decay=recipe.weight_decay,
        decoupled_weight_decay=True, foreach=True,
    )  # fmt: skip
    return Lookahead(inner, recipe.lookahead_steps, recipe.lookahead_alpha)


def batches(num_samples: int, batch_size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Indices of one epoch in random order; the last partial batch is dropped.

    Raises:
        ValueError: there is not one whole batch.
    """
    if num_samples < batch_size:
        raise ValueError(f"{num_samples} samples do not fill one batch of {batch_size}")
    order = torch.randperm(num_samples, generator=generator)
    for first in range(0, num_samples - batch_size + 1, batch_size):
        yield order[first : first + batch_size]


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    batch_size: int,
    generator: torch.Generator,
) -> float:
    """One pass over the training data.

    Args:
        model: maps (batch_size, ...) images to logits; left in training mode.
        optimizer: over the model's parameters.
        images: (N, ...) float32.
        labels: (N,) int64.
        batch_size: samples a step.
        generator: decides the order; the same seed gives the same epochs.

    Returns:
        Mean cross-entropy over the batches, in nats, each taken before its own update.
    """
    model.train()
    losses = []
    for chosen in batches(len(labels), batch_size, generator):
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


@torch.no_grad()
def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of samples whose largest logit is their label's; leaves the model in evaluation mode."""
    model.eval()
    return float((model(images).argmax(1) == labels).float().mean())

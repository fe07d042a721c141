"""The optimizers: a table; ``--optimizer`` names one. Torch is imported when one is built."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...choices import Choice, Choices

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Optimizer(Choice):
    """A way to update weights.

    Args:
        build: (parameters, config) -> the optimizer, with what a ``TrainConfig`` says of it: learning_rate, ...
    """

    build: Callable[[Iterable[Any], Any], torch.optim.Optimizer]


def _radam(parameters: Iterable[Any], config: Any) -> torch.optim.Optimizer:
    """arXiv 2011.02956, section 4: RAdam, lr 1e-3, eps 1e-6, decoupled weight decay 1e-2, Lookahead (6, 0.5)."""
    import torch

    from .lookahead import Lookahead

    inner = torch.optim.RAdam(
        parameters, lr=config.learning_rate, eps=config.eps, weight_decay=config.weight_decay,
        decoupled_weight_decay=True, foreach=True,
    )  # fmt: skip
    return Lookahead(inner, config.lookahead_steps, config.lookahead_alpha)


def _sgd(parameters: Iterable[Any], config: Any) -> torch.optim.Optimizer:
    import torch

    lr, decay = config.learning_rate, config.weight_decay
    return torch.optim.SGD(parameters, lr=lr, momentum=config.momentum, weight_decay=decay, foreach=True)


def _adamw(parameters: Iterable[Any], config: Any) -> torch.optim.Optimizer:
    import torch

    lr, decay = config.learning_rate, config.weight_decay
    return torch.optim.AdamW(parameters, lr=lr, eps=config.eps, weight_decay=decay, foreach=True)


OPTIMIZERS = Choices("optimizer", [
    Optimizer("radam", "rectified Adam inside of Lookahead, as in the papers", _radam),
    Optimizer("sgd", "gradient descent with momentum", _sgd),
    Optimizer("adamw", "Adam with decoupled weight decay", _adamw),
])  # fmt: skip


def build_optimizer(model: torch.nn.Module, config: Any) -> torch.optim.Optimizer:
    """The one that a ``TrainConfig`` names."""
    return OPTIMIZERS.chosen(config.optimizer).build(model.parameters(), config)

"""The optimizers by name, with the papers' as the default: rectified Adam inside of Lookahead."""

from __future__ import annotations

import torch
from torch import nn

from ..config import TrainConfig
from .lookahead import Lookahead


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer that the config names.

    Source: arXiv 2011.02956, section 4: RAdam, lr 1e-3, eps 1e-6, decoupled weight decay 1e-2, Lookahead (6, 0.5).
    """
    parameters = model.parameters()
    lr, weight_decay = config.learning_rate, config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=config.momentum, weight_decay=weight_decay, foreach=True)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, eps=config.eps, weight_decay=weight_decay, foreach=True)
    inner = torch.optim.RAdam(
        parameters, lr=lr, eps=config.eps, weight_decay=weight_decay, decoupled_weight_decay=True, foreach=True
    )
    return Lookahead(inner, config.lookahead_steps, config.lookahead_alpha)

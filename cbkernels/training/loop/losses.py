"""What is added to the cross-entropy: an orthogonality loss, or a teacher's logits (distillation).

The comparisons of RePr (Prakash et al., CVPR 2019, arXiv 1811.07275); ``epochs.py`` adds them up.
"""

from __future__ import annotations

import torch
from torch import nn


def orthogonality_loss(model: nn.Module) -> torch.Tensor:
    """How much the filters of each convolution overlap: the sum of ``|W W^T - I|`` over all of them.

    Args:
        model: its ``Conv2d`` layers count; W has one row a filter, of length 1.

    Returns:
        () tensor with a gradient, 0 when all filters of every layer are orthogonal (or there are none).

    Source: RePr, section "orthogonality loss"; rows are of length 1 as where filters are ranked.

    Example:
        >>> layer = nn.Conv2d(1, 2, (1, 2))
        >>> _ = nn.init.constant_(layer.weight, 3.0)  # two equal filters: |W W^T - I| is 1 off the diagonal
        >>> round(orthogonality_loss(layer).item(), 5)
        2.0
    """
    total = torch.zeros(())
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            rows = nn.functional.normalize(layer.weight.flatten(1).float(), dim=1)
            overlap = rows @ rows.T - torch.eye(len(rows), device=rows.device)
            total = total.to(rows.device) + overlap.abs().sum()
    return total


def distillation_loss(logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """How far a student's logits are from a teacher's: ``T^2 KL(softmax(teacher / T) || softmax(student / T))``.

    Args:
        logits: (B, classes), the student's.
        teacher_logits: (B, classes).
        temperature: T, positive.

    Returns:
        () tensor, mean over the batch, nats.

    Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2.

    Example:
        >>> logits = torch.tensor([[0.0, 4.0]])
        >>> round(float(distillation_loss(torch.zeros(1, 2), logits, 4.0)), 3)  # 16 (ln 2 - 0.5822)
        1.775
    """
    student = nn.functional.log_softmax(logits / temperature, dim=1)
    teacher = nn.functional.log_softmax(teacher_logits / temperature, dim=1)
    return temperature**2 * nn.functional.kl_div(student, teacher, reduction="batchmean", log_target=True)

"""How much a filter is worth: a table of small pure functions, open to one's own; ``--repr-criterion`` names one.

One convention for all: **the lowest scores are dropped first**. A criterion names what it takes as its arguments,
n filters of one layer at a time, and returns (n,) scores; ``MEASURED`` lists what there is to take. Torch comes late.
Read next: ``records.py`` (what is measured for them), ``ranking.py`` (who goes).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..choices import Choice, Choices

if TYPE_CHECKING:
    import torch

Criterion = Callable[..., Any]

MEASURED = {
    "weights": "(n, d) float32: the filters as rows",
    "generator": "torch.Generator for random numbers, seeded anew for every layer and cycle",
    "activations": "(N, n, P) float32: what the layer puts out, behind its norm and before its activation function, "
    "of N samples at P positions (1 for dense layers)",
    "gradients": "(N, n, P): of each sample's own loss for the activations",
    "accuracy_lost": "(n,): by how much the accuracy on the data falls when the filter alone is zeroed",
    "loss_added": "(n,): by how much the mean loss on the data rises when the filter alone is zeroed",
}
"""What a criterion can take, by the names of its arguments."""
BY_BATCH = ("activations", "gradients")
"""Criteria that take these are called for every batch; their scores are averaged over the samples."""
NEEDS_DATA = (*BY_BATCH, "accuracy_lost", "loss_added")


def overlaps(weights: torch.Tensor) -> torch.Tensor:
    """How much each filter overlaps with the others of its layer.

    Args:
        weights: (n, d), a filter a row.

    Returns:
        (n,) float64: the row sums of ``|W W^T - I|``, divided by n, of rows of length 1; a row of zeros stays.

    Source: RePr (arXiv 1811.07275), section 5, inter-filter orthogonality.

    Example:
        >>> import torch
        >>> overlaps(torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])).tolist()
        [0.3333333333333333, 0.0, 0.3333333333333333]
    """
    import torch

    tiny = torch.finfo(torch.float64).tiny
    rows = torch.nn.functional.normalize(weights.double(), dim=1, eps=tiny)
    overlap: torch.Tensor = (rows @ rows.T - torch.eye(len(rows), dtype=rows.dtype)).abs().sum(1) / len(rows)
    return overlap


def orthogonality(weights: torch.Tensor) -> torch.Tensor:
    """Minus ``overlaps``: filters that say what others say too go first (RePr, section 5)."""
    return -overlaps(weights)


def orthogonality_published(weights: torch.Tensor) -> torch.Tensor:
    """The variant in the author's published code: the layer normalised at once, absolute value after the mean.

    ``-|mean over j of (W W^T - I)[f, j]|`` with W divided by its Frobenius norm.
    """
    import torch

    rows = weights.double()
    rows = rows / rows.norm().clamp(min=torch.finfo(torch.float64).tiny)
    score: torch.Tensor = -(rows @ rows.T - torch.eye(len(rows), dtype=rows.dtype)).mean(1).abs()
    return score


def weight_norm(weights: torch.Tensor) -> torch.Tensor:
    """Euclidean length of the filter."""
    lengths: torch.Tensor = weights.double().norm(dim=1)
    return lengths


def random(weights: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Uniform random numbers in [0, 1)."""
    import torch

    return torch.rand(len(weights), generator=generator, dtype=torch.float64)


def activation_norm(activations: torch.Tensor) -> torch.Tensor:
    """Root mean square over the positions of what a ReLU passes on, averaged over the samples."""
    return activations.double().clamp(min=0).square().mean(2).sqrt().mean(0)


def apoz(activations: torch.Tensor) -> torch.Tensor:
    """Minus the share of zeros behind a ReLU (APoZ: Hu et al., arXiv 1607.03250)."""
    return -(activations <= 0).double().mean((0, 2))


def gradient(gradients: torch.Tensor) -> torch.Tensor:
    """Mean absolute gradient of the loss for the filter's output."""
    return gradients.double().abs().mean((0, 2))


def taylor(activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """First-order change of the loss when the filter is zeroed: mean over samples of ``|mean over positions of a g|``.

    Source: Molchanov et al., arXiv 1611.06440, equation 8.
    """
    return (activations.double() * gradients.double()).mean(2).abs().mean(0)


def oracle(accuracy_lost: torch.Tensor) -> torch.Tensor:
    """Accuracy lost without the filter (RePr's greedy oracle); coarse on little data, where many filters tie."""
    return accuracy_lost


def oracle_loss(loss_added: torch.Tensor) -> torch.Tensor:
    """Loss added without the filter: the oracle with hardly any ties."""
    return loss_added


@dataclass(frozen=True)
class FilterCriterion(Choice):
    """A function that scores filters.

    Args:
        function: its arguments are names of ``MEASURED``; returns (n,) finite scores of one layer.
    """

    function: Criterion


CRITERIA = Choices("criterion", [
    FilterCriterion("orthogonality", "those that overlap most with others of their layer", orthogonality),
    FilterCriterion("orthogonality_published", "the same as the author's code computes it", orthogonality_published),
    FilterCriterion("weight_norm", "those with the smallest weights", weight_norm),
    FilterCriterion("random", "filters drawn at random", random),
    FilterCriterion("activation_norm", "those of whose output little passes the ReLU", activation_norm),
    FilterCriterion("apoz", "those of whose output most often nothing passes the ReLU", apoz),
    FilterCriterion("gradient", "those on whose output the loss depends little", gradient),
    FilterCriterion("taylor", "those without which the loss changes least, by a first-order estimate", taylor),
    FilterCriterion("oracle", "those without which the accuracy on held-back samples falls least", oracle),
    FilterCriterion("oracle_loss", "those without which the loss on held-back samples rises least", oracle_loss),
])  # fmt: skip
STANDARD = "standard"
"""Training without RePr, in a comparison of criteria."""
COMPARED: Sequence[str] = (STANDARD, random.__name__, weight_norm.__name__)
"""What the schedule's own criterion is compared with where nobody says."""


def register_criterion(name: str, function: Criterion) -> None:
    """Make a criterion of one's own known under a name.

    Args:
        name: new.
        function: its arguments are names of ``MEASURED``; returns (n,) finite scores of one layer, the lowest of which
            are dropped first, whole network together.

    Raises:
        ValueError: the name is taken by another function, or an argument is unknown.
        TypeError: not a function, or not a name.

    Example:
        >>> def largest_weight(weights):
        ...     return weights.abs().amax(1)
        >>> register_criterion("largest_weight", largest_weight)
        >>> criterion_of("largest_weight")[0]
        'largest_weight'
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"name is {name!r}; it must be a string")
    if name in CRITERIA and CRITERIA[name].function is not function:
        raise ValueError(f"a criterion {name!r} is registered already; choose another name")
    arguments_of(function)
    does = (inspect.getdoc(function) or "").partition("\n")[0].rstrip(".") or "one of your own"
    CRITERIA.add(FilterCriterion(name, does, function))


def criterion_of(criterion: str | Criterion) -> tuple[str, Criterion]:
    """Name and function of a criterion.

    Raises:
        ValueError: unknown name, or an argument that cannot be measured.
        TypeError: neither name nor function.
    """
    if isinstance(criterion, str):
        if criterion not in CRITERIA:
            raise ValueError(f"criterion is {criterion!r}; choose one of {', '.join(CRITERIA)}, or pass a function")
        return criterion, CRITERIA[criterion].function
    arguments_of(criterion)
    return getattr(criterion, "__name__", type(criterion).__name__), criterion


def arguments_of(function: Criterion) -> tuple[str, ...]:
    """Names of what a criterion takes, all of them in ``MEASURED``; errors as in ``register_criterion``."""
    if not callable(function):
        raise TypeError(f"criterion is {function!r}; pass a name or a function")
    names = [p.name for p in inspect.signature(function).parameters.values() if p.default is inspect.Parameter.empty]
    unknown = [name for name in names if name not in MEASURED]
    if unknown or not names:
        said = repr(unknown[0]) if unknown else "nothing"
        raise ValueError(f"the criterion takes {said}; name its arguments after {', '.join(MEASURED)}")
    return tuple(names)

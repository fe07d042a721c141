"""What criteria look at beyond the weights: activations, gradients, and what the network loses without a filter.

The model is run in evaluation mode on samples that the user gives, and left as it was: no gradient, no random number
and no running statistic of the training changes. Read next: ``criteria.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from ..models.evaluation import device_of, evaluating
from .criteria import BY_BATCH, NEEDS_DATA, Criterion, arguments_of
from .layers import FilterLayer
from .masks import FilterMasks

Batch = tuple[Any, Any]
Data = Batch | Callable[[], Iterable[Batch]]
"""A batch (inputs, labels), or a function that gives some, the same ones at each call."""
Loss = Callable[[Any, Any], torch.Tensor]
"""Of outputs and labels, the mean over the samples."""


def filter_scores(
    criterion: Criterion,
    model: nn.Module,
    layers: Sequence[FilterLayer],
    masks: FilterMasks,
    generators: Mapping[str, torch.Generator],
    data: Data | None = None,
    loss: Loss = nn.functional.cross_entropy,
) -> dict[str, list[float]]:
    """A score for every filter.

    Args:
        criterion: see ``criteria.py``.
        model: with nothing dropped.
        layers: whose filters are scored.
        masks: of these layers; what the oracles zero filters with.
        generators: of every layer, for criteria that draw.
        data: for criteria that need samples.
        loss: mean over the samples.

    Raises:
        ValueError: no data though the criterion needs some, a layer that they do not reach, scores that are not
            (n,) or not finite.
    """
    wanted = arguments_of(criterion)
    taken: dict[str, dict[str, Any]] = {
        layer.name: {"weights": layer.rows(), "generator": generators[layer.name]} for layer in layers
    }
    batches = _batches(data, device_of(model)) if set(wanted) & set(NEEDS_DATA) else []
    if "accuracy_lost" in wanted or "loss_added" in wanted:
        for name, losses in _losses_without(model, layers, masks, batches, loss).items():
            taken[name].update(losses)
    totals: dict[str, torch.Tensor] = {}
    num_samples = 0
    for inputs, labels in batches if set(wanted) & set(BY_BATCH) else [(None, None)]:
        size = 1 if labels is None else len(labels)
        recorded = {} if labels is None else _recorded(model, layers, inputs, labels, loss, "gradients" in wanted)
        for layer in layers:
            content = {**taken[layer.name], **recorded.get(layer.name, {})}
            score = _checked(criterion(**{name: content[name] for name in wanted}), layer)
            totals[layer.name] = totals.get(layer.name, 0) + size * score
        num_samples += size
    return {name: (total / num_samples).tolist() for name, total in totals.items()}


def _checked(returned: Any, layer: FilterLayer) -> torch.Tensor:
    scores: torch.Tensor = torch.as_tensor(returned, dtype=torch.float64, device="cpu").detach()
    if tuple(scores.shape) != (layer.num_filters,):
        raise ValueError(
            f"the criterion returned scores of shape {tuple(scores.shape)} for layer {layer.name!r}; it has "
            f"{layer.num_filters} filters, return ({layer.num_filters},)"
        )
    if not bool(scores.isfinite().all()):
        bad = int((~scores.isfinite()).nonzero()[0])
        raise ValueError(
            f"filter {bad} of layer {layer.name!r} has the score {scores[bad].item()}; "
            "has the training diverged, or the criterion divided by zero"
        )
    return scores


def _batches(data: Data | None, device: torch.device) -> list[Batch]:
    batches = list(data() if callable(data) else [data] if data is not None else [])
    if not batches:
        raise ValueError("data holds no batch; criteria that look at samples need one")
    for batch in batches:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not len(batch[1]):
            raise ValueError(f"data gives a {type(batch).__name__}; batches are pairs of inputs and labels")
    return [(torch.as_tensor(inputs).to(device), torch.as_tensor(labels).to(device)) for inputs, labels in batches]


@contextmanager
def _outputs(layers: Sequence[FilterLayer]) -> Iterator[dict[str, list[torch.Tensor]]]:
    """What the layers put out, call by call."""
    outputs: dict[str, list[torch.Tensor]] = {layer.name: [] for layer in layers}

    def hook_of(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            outputs[name].append(output)
            return output.clone()  # an in-place ReLU behind overwrites this one

        return hook

    modules = [(layer.name, module) for layer in layers for module in layer.norms[-1:] or (layer.module,)]
    handles = [module.register_forward_hook(hook_of(name)) for name, module in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _recorded(
    model: nn.Module, layers: Sequence[FilterLayer], inputs: Any, labels: Any, loss: Loss, with_gradients: bool
) -> dict[str, dict[str, torch.Tensor]]:
    with evaluating(model) as inner, _outputs(layers) as outputs, torch.set_grad_enabled(with_gradients):
        # the sum over the samples: each one's gradient is then that of its own loss
        total = loss(inner(inputs), labels) * len(labels)
    for name, calls in outputs.items():
        if not calls:
            raise ValueError(f"the data do not reach layer {name!r}; leave it out with layers=")
    flat = [call for calls in outputs.values() for call in calls]
    gradients = iter(torch.autograd.grad(total, flat, materialize_grads=True) if with_gradients else ())
    result = {}
    for layer in layers:
        calls = outputs[layer.name]
        result[layer.name] = {"activations": _by_position(layer, calls)}
        if with_gradients:
            result[layer.name]["gradients"] = _by_position(layer, [next(gradients) for _ in calls])
    return result


def _by_position(layer: FilterLayer, calls: list[torch.Tensor]) -> torch.Tensor:
    """(N, n, P) of what convolutions (N, n, ...) and dense layers (N, ..., n) put out, all calls together."""
    if not layer.norms and not isinstance(layer.module, _ConvNd):
        calls = [output.movedim(-1, 1) for output in calls]
    return torch.cat([output.detach().float().reshape(len(output), layer.num_filters, -1) for output in calls], 2)


def _losses_without(
    model: nn.Module, layers: Sequence[FilterLayer], masks: FilterMasks, batches: list[Batch], loss: Loss
) -> dict[str, dict[str, torch.Tensor]]:
    with evaluating(model) as inner:
        wrong, mean_loss = _evaluated(inner, batches, loss)
        found: dict[str, dict[str, torch.Tensor]] = {}
        for layer in layers:
            without = []
            for index in range(layer.num_filters):
                with masks.only_without(layer.name, index):
                    without.append(_evaluated(inner, batches, loss))
            lost, added = (torch.tensor(column, dtype=torch.float64) for column in zip(*without, strict=True))
            found[layer.name] = {"accuracy_lost": lost - wrong, "loss_added": added - mean_loss}
    return found


def _evaluated(model: nn.Module, batches: list[Batch], loss: Loss) -> tuple[float, float]:
    """Share of wrong samples, mean loss."""
    wrong, total, size = 0, 0.0, 0
    for inputs, labels in batches:
        outputs = model(inputs)
        wrong += int((outputs.argmax(1) != labels).sum())
        total += float(loss(outputs, labels)) * len(labels)
        size += len(labels)
    return wrong / size, total / size

"""RePr: train, drop the worst filters, train the smaller network, bring them back orthogonal to the others, again.

After "RePr: Improved Training of Convolutional Filters", Prakash et al., CVPR 2019 (arXiv 1811.07275). Works in any
loop: ``RePr(model, optimizer, ...)``, then ``.step(epoch)`` at the beginning of every epoch. Read next:
``criteria.py`` (who is worst), ``masks.py`` (dropped), ``reinitialisation.py`` (brought back).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import distributed, nn

from ..models.evaluation import unwrapped
from ..ranks import Ranks
from .criteria import NEEDS_DATA, Criterion, arguments_of, criterion_of, overlaps
from .layers import FilterLayer, find_filter_layers
from .masks import FilterMasks
from .ranking import allowed, num_dropped, require_enough, worst_filters
from .records import Data, Loss, filter_scores
from .reinitialisation import orthogonal_filters, start_afresh

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"full_epochs": 20, "reduced_epochs": 10, "share": 0.30, "cycles": 3, "criterion": "orthogonality"},
    "published": {
        "full_epochs": 20, "reduced_epochs": 20, "share": 0.50, "cycles": 9, "criterion": "orthogonality_published",
    },
}  # fmt: skip
"""The text of the paper, and the author's published code."""


@dataclass(frozen=True)
class Schedule:
    """``cycles`` times ``full_epochs`` (S1) of the whole network and ``reduced_epochs`` (S2) of the smaller one.

    Raises:
        ValueError, TypeError: a number is not a positive integer, or the training is too short.
    """

    full_epochs: int
    reduced_epochs: int
    cycles: int
    total_epochs: int | None = None
    """Of the training; None: not checked. At least one epoch must follow the last cycle."""

    def __post_init__(self) -> None:
        for name in ("full_epochs", "reduced_epochs", "cycles"):
            require_count(name, getattr(self, name), 1)
        if self.total_epochs is None:
            return
        require_count("total_epochs", self.total_epochs, 1)
        needed = self.cycles * (self.full_epochs + self.reduced_epochs)
        if needed >= self.total_epochs:
            raise ValueError(
                f"{self.cycles} cycles of full_epochs {self.full_epochs} + reduced_epochs {self.reduced_epochs} are "
                f"{needed} epochs, and the training has {self.total_epochs}; one more at least has to follow, with "
                "all filters: take fewer cycles or shorter ones"
            )

    def cycle_of(self, epoch: int) -> int | None:
        """Which cycle's filters are dropped in this epoch, both from 0; None: the network is whole."""
        cycle, within = divmod(epoch, self.full_epochs + self.reduced_epochs)
        return cycle if cycle < self.cycles and within >= self.full_epochs else None


@dataclass(frozen=True)
class FilterEvent:
    """Filters went or came back."""

    epoch: int
    """It happened before this epoch, from 0."""
    cycle: int
    """From 0."""
    kind: str
    """"dropped" or "restored"."""
    filters: Mapping[str, tuple[int, ...]]
    """layer -> sorted indices."""
    relaxed: tuple[str, ...] = field(default=())
    """Layers without room for orthogonal filters; see ``reinitialisation.py``."""

    @property
    def num_filters(self) -> int:
        """Of all layers."""
        return sum(map(len, self.filters.values()))

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        filters = {name: list(indices) for name, indices in self.filters.items()}
        return {**asdict(self), "filters": filters, "relaxed": list(self.relaxed)}


@dataclass(frozen=True)
class OrthogonalityMeasure:
    """How much filters overlap with others of their layer; 0: all of each layer are orthogonal."""

    layers: Mapping[str, float]
    """layer -> mean over its filters."""
    mean: float
    """Over all filters of the network."""


def orthogonality_measure(
    model: nn.Module, *, linear: bool = False, dropped: Mapping[str, Sequence[int]] | None = None
) -> OrthogonalityMeasure:
    """Mean of the paper's overlap ``sum_j |W W^T - I|_fj / n`` per layer and over all filters.

    Args:
        model: with convolutions.
        linear: dense layers too.
        dropped: layer -> filters that do not count.

    Raises:
        ValueError: the model has no layer of filters.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), nn.Linear(2, 2))
        >>> _ = nn.init.ones_(model[0].weight)
        >>> orthogonality_measure(model)
        OrthogonalityMeasure(layers={'0': 0.5}, mean=0.5)
    """
    return _measured(find_filter_layers(model, linear=linear).layers, dropped or {})


def _measured(layers: Sequence[FilterLayer], dropped: Mapping[str, Sequence[int]]) -> OrthogonalityMeasure:
    kept = {layer.name: overlaps(_kept(layer.rows(), dropped.get(layer.name, ()))) for layer in layers}
    means = {name: float(of_layer.mean()) for name, of_layer in kept.items() if len(of_layer)}
    return OrthogonalityMeasure(means, float(torch.cat(list(kept.values())).mean()))


class RePr:
    """The filters of a network, dropped and brought back by a schedule.

    Make it before ``torch.compile``'s first call of the model, or let it reset the compiler. With DDP make it on all
    ranks and call ``step`` on all: rank 0 decides.

    Args:
        model: with convolutions; wrapped in DDP or ``torch.compile`` or not. It gets forward hooks, no parameter, no
            buffer, no key of its ``state_dict``. A copy of it made while filters are dropped lacks them too, for good.
        optimizer: the one whose ``step`` is called. It gets step hooks.
        full_epochs: of the whole network in a cycle, S1 (20).
        reduced_epochs: of the smaller one, S2 (10).
        share: of the ranked filters of all layers together that is dropped, in (0, 1), rounded to whole filters (0.3).
        cycles: how often, N (3).
        criterion: a name (see ``filter_criteria.CRITERIA``) or a function; lowest scores go ("orthogonality").
        linear: dense layers too, but for the last one.
        rank_first: whether filters of the first layer may be dropped.
        max_layer_share: of a layer's filters at most, in (0, 1], and one always stays; None: no limit, and an error
            when a layer would lose all.
        layers: which are ranked: "auto", or names, a regular expression, a function; see ``find_filter_layers``.
        example: what the model takes, to see which norm follows which convolution; see there.
        seed: of random criteria and new filters.
        preset: "paper" for the numbers in brackets, "published" for the author's code (20, 20, 0.5, 9, the layer
            normalised at once, absolute value after the mean); what is passed beside it counts.
        data: for criteria that look at samples: a pair (inputs, labels), or a function that returns such batches, asked
            whenever filters are ranked, on rank 0 only.
        loss: of outputs and labels, the mean over the samples, for those criteria.
        total_epochs: of the training, to check the schedule against.
        ranks: None: all of ``torch.distributed`` where it is initialised.

    Raises:
        ValueError, TypeError: one sentence that quotes the option.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        >>> method = RePr(model, optimizer, full_epochs=1, reduced_epochs=1, share=0.25, cycles=1, total_epochs=3)
        >>> for epoch in range(3):
        ...     event = method.step(epoch)  # and then an epoch of training
        ...     print(epoch, event and (event.kind, event.num_filters))
        0 None
        1 ('dropped', 2)
        2 ('restored', 2)

    Source: arXiv 1811.07275, sections 4 and 5.
    """

    layers: tuple[FilterLayer, ...]
    """Those that are ranked."""
    left_out: dict[str, str]
    """layer -> why its filters are not."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        full_epochs: int | None = None,
        reduced_epochs: int | None = None,
        share: float | None = None,
        cycles: int | None = None,
        criterion: str | Criterion | None = None,
        linear: bool = False,
        rank_first: bool = True,
        max_layer_share: float | None = None,
        layers: Any = "auto",
        example: Any = None,
        seed: int = 0,
        preset: str | None = None,
        data: Data | None = None,
        loss: Loss = nn.functional.cross_entropy,
        total_epochs: int | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        given = {"full_epochs": full_epochs, "reduced_epochs": reduced_epochs, "share": share, "cycles": cycles,
                 "criterion": criterion}  # fmt: skip
        chosen = {**_preset(preset), **{name: value for name, value in given.items() if value is not None}}
        self.schedule = Schedule(chosen["full_epochs"], chosen["reduced_epochs"], chosen["cycles"], total_epochs)
        self.share, self.max_layer_share = chosen["share"], max_layer_share
        _require_share("share", self.share, below_one=True)
        if max_layer_share is not None:
            _require_share("max_layer_share", max_layer_share, below_one=False)
        require_count("seed", seed, 0)
        self.criterion, self._function = criterion_of(chosen["criterion"])
        if data is None and set(arguments_of(self._function)) & set(NEEDS_DATA):
            raise ValueError(f"criterion {self.criterion!r} looks at samples; pass data=(inputs, labels)")
        self._model, self._optimizer, self._data, self._loss = unwrapped(model), optimizer, data, loss
        self.seed, self._given_ranks = seed, ranks
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"optimizer is a {type(optimizer).__name__}; pass the torch.optim.Optimizer that takes the steps"
            )
        found = find_filter_layers(model, optimizer, linear=linear, layers=layers, example=example)
        self.left_out = dict(found.left_out)
        self.layers = tuple(layer for layer in found.layers if rank_first or not layer.is_first)
        if not rank_first:
            self.left_out.update({e.name: "it is the first layer" for e in found.layers if e.is_first})
        self._require_droppable()
        self._masks = FilterMasks(self.layers, optimizer)
        self._cycle: int | None = None

    def _require_droppable(self) -> None:
        if not self.layers:
            raise ValueError("rank_first is False and the model has no other layer of filters; rank the first one too")
        sizes = {layer.name: layer.num_filters for layer in self.layers}
        wanted = num_dropped(sum(sizes.values()), self.share)
        left = {name: allowed(size, self.max_layer_share) for name, size in sizes.items()}
        require_enough(left, wanted, self.share, self.max_layer_share)

    @property
    def dropped(self) -> dict[str, tuple[int, ...]]:
        """layer -> sorted indices of the filters that are dropped now."""
        return dict(self._masks.dropped)

    @property
    def _ranks(self) -> Ranks:
        if self._given_ranks is not None:
            return self._given_ranks
        if distributed.is_available() and distributed.is_initialized():
            return Ranks(distributed.get_rank(), distributed.get_world_size())
        return Ranks()

    def step(self, epoch: int) -> FilterEvent | None:
        """Drop filters, or bring them back, if the schedule says so; called at the beginning of every epoch.

        Args:
            epoch: from 0. Asking again for the same one changes nothing.

        Returns:
            What was done; None when nothing was.

        Raises:
            ValueError: the scores are not finite, or all filters of a layer would go; nothing is changed then.
        """
        require_count("epoch", epoch, 0)
        cycle = self.schedule.cycle_of(epoch)
        if cycle == self._cycle:
            return None
        event = self.restore(epoch)
        return event if cycle is None else self._drop(epoch, cycle)

    def _drop(self, epoch: int, cycle: int) -> FilterEvent:
        ranks, chosen = self._ranks, None
        with ranks.failing_together():
            if ranks.is_first:
                generators = {e.name: self._generator(cycle, number, 0) for number, e in enumerate(self.layers)}
                scores = filter_scores(
                    self._function, self._model, self.layers, self._masks, generators, self._data, self._loss
                )
                chosen = worst_filters(scores, self.share, self.max_layer_share)
        filters: dict[str, tuple[int, ...]] = ranks.told_by_first(chosen)
        self._masks.drop(filters)
        self._cycle = cycle
        return FilterEvent(epoch, cycle, "dropped", filters)

    def restore(self, epoch: int) -> FilterEvent | None:
        """Bring the dropped filters back now, such as after an early stop; None when there are none.

        Args:
            epoch: what the event says.
        """
        if self._cycle is None:
            return None
        cycle, filters = self._cycle, self.dropped
        self._masks.bring_back()
        self._cycle = None
        relaxed = []
        for number, layer in enumerate(self.layers):
            if layer.name not in filters:
                continue
            indices, rows = list(filters[layer.name]), layer.rows()
            kept = _kept(rows, indices)
            new, is_relaxed = orthogonal_filters(kept, rows[indices], self._generator(cycle, number, 1))
            self._ranks.take_from_first(new := new.to(layer.weight.device, torch.float32))
            start_afresh(layer, indices, new, self._optimizer)
            if any(is_relaxed):
                relaxed.append(layer.name)
        return FilterEvent(epoch, cycle, "restored", filters, tuple(relaxed))

    def orthogonality(self) -> OrthogonalityMeasure:
        """``orthogonality_measure`` of the ranked layers, without the filters that are dropped now."""
        return _measured(self.layers, self.dropped)

    def remove(self) -> None:
        """Leave no trace on model and optimizer. Filters that are dropped work again, with their old values."""
        self._masks.remove()
        self._cycle = None

    def _generator(self, *numbers: int) -> torch.Generator:
        """Of its own for every cycle, layer and purpose: a run that was interrupted needs no random state."""
        seed = int(np.random.SeedSequence((self.seed, *numbers)).generate_state(1, np.uint64)[0])
        return torch.Generator().manual_seed(seed % 2**63)

    # --- stopping and going on --------------------------------------------------------------------

    def _options(self) -> dict[str, Any]:
        schedule = asdict(self.schedule)
        del schedule["total_epochs"]
        own = {"share": self.share, "criterion": self.criterion, "max_layer_share": self.max_layer_share}
        return {**schedule, **own, "seed": self.seed, "layers": {e.name: e.num_filters for e in self.layers}}

    def state_dict(self) -> dict[str, Any]:
        """Tensors and JSON types; with those of model and optimizer it is all that the next epoch depends on."""
        filters = {name: list(indices) for name, indices in self.dropped.items()}
        return {"options": self._options(), "cycle": self._cycle, "filters": filters, "values": self._masks.values()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict()`` was taken, before or after model and optimizer are loaded.

        Raises:
            ValueError: the state is that of other options, or of another model; nothing is changed then.
        """
        own = self._options()
        try:
            options, cycle = dict(state["options"]), state["cycle"]
            filters = {str(name): tuple(map(int, indices)) for name, indices in state["filters"].items()}
            values = {name: dict(state["values"][name]) for name in filters}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is no state of RePr, something is missing or of another kind: {error}") from error
        for name, value in own.items():
            if options.get(name) != value:
                raise ValueError(f"the state was taken with {name} {options.get(name)!r}, and here it is {value!r}")
        tensors = {layer.name: layer.tensors() for layer in self.layers}
        for name, indices in filters.items():
            shapes = {key: (len(indices), *tensor.shape[1:]) for key, tensor in tensors[name].items()}
            if {key: tuple(rows.shape) for key, rows in values[name].items()} != shapes:
                raise ValueError(f"the state's filters of layer {name!r} have other shapes than this model's")
        self._masks.forget()
        self._masks.drop(filters, values)
        self._cycle = None if cycle is None else int(cycle)


def _kept(rows: torch.Tensor, dropped: Sequence[int]) -> torch.Tensor:
    stays = torch.ones(len(rows), dtype=torch.bool)
    stays[list(dropped)] = False
    return rows[stays]


def _preset(preset: str | None) -> dict[str, Any]:
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"preset is {preset!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[preset or "paper"]


def require_count(name: str, value: object, least: int) -> None:
    """Refuse what is not a whole number of at least so much.

    Raises:
        TypeError, ValueError: one sentence.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is {value!r}; pass a whole number")
    if value < least:
        raise ValueError(f"{name} is {value!r}; it must be at least {least}")


def _require_share(name: str, value: object, below_one: bool) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is {value!r}; pass a number")
    if not (0 < value < 1 or (value == 1 and not below_one)):
        hint = f", such as {value / 100:g}" if 1 < value < 100 else ""
        raise ValueError(f"{name} is {value!r}; it must be above 0 and {'below' if below_one else 'at most'} 1{hint}")

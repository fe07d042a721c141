"""RePr: train, drop the worst filters, train the smaller network, bring them back orthogonal to the others, again.

After "RePr: Improved Training of Convolutional Filters", Prakash et al., CVPR 2019 (arXiv 1811.07275). Works in any
loop: ``RePr(model, optimizer, ...)``, then ``.step(epoch)`` at the beginning of every epoch. Read next:
``schedule.py`` (when), ``ranking.py`` (who), ``masks.py`` (dropped), ``reinitialisation.py`` (brought back).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ..models.evaluation import unwrapped
from ..ranks import Ranks, joined_ranks
from .criteria import NEEDS_DATA, Criterion, arguments_of, criterion_of
from .layers import FilterLayer, find_filter_layers
from .masks import FilterMasks
from .overlap import OrthogonalityMeasure, overlap_of
from .ranking import places, worst_filters
from .records import Data, Loss, filter_scores
from .reinitialisation import bring_back
from .schedule import PRESETS, FilterEvent, require_count
from .state import stored_in


def generator_of(*seeds: int) -> torch.Generator:
    """Random numbers of their own for every combination of seeds, the same with every version of NumPy."""
    seed = int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(seed % 2**63)


class RePr:
    """The filters of a network, dropped and brought back by a schedule.

    Make it before ``torch.compile``'s first call of the model, or let it reset the compiler. With DDP make it on all
    ranks and call ``step`` on all: rank 0 decides.

    Args:
        model: with convolutions; wrapped in DDP or ``torch.compile`` or not. It gets forward hooks, no parameter, no
            buffer, no key of its ``state_dict``. A copy of it made while filters are dropped lacks them too, for good.
        optimizer: the one whose ``step`` is called. It gets step hooks.
        full_epochs, reduced_epochs, share, cycles, criterion, max_layer_share, total_epochs: as in ``Schedule``;
            what is not passed is the preset's.
        linear, layers, example: which are ranked, and how that is seen; as in ``find_filter_layers``.
        rank_first: whether filters of the first layer may be dropped.
        seed: of random criteria and new filters.
        preset: "paper", or "published" for the author's code (S2 20, share 0.5, 9 cycles, the layer normalised at
            once, absolute value after the mean).
        data: for criteria that look at samples: a pair (inputs, labels), or a function that returns such batches, asked
            whenever filters are ranked, on rank 0 only.
        loss: of outputs and labels, the mean over the samples, for those criteria.
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
        given: dict[str, Any] = {
            "full_epochs": full_epochs, "reduced_epochs": reduced_epochs, "share": share, "cycles": cycles,
            "criterion": criterion, "max_layer_share": max_layer_share, "total_epochs": total_epochs,
        }  # fmt: skip
        named = {name: value for name, value in given.items() if value is not None}
        self.schedule = replace(PRESETS.chosen(preset or "paper").schedule, **named)
        self.criterion, self._function = criterion_of(self.schedule.criterion)
        if data is None and set(arguments_of(self._function)) & set(NEEDS_DATA):
            raise ValueError(f"criterion {self.criterion!r} looks at samples; pass data=(inputs, labels)")
        require_count("seed", seed, 0)
        self._model, self._optimizer, self._data, self._loss = unwrapped(model), optimizer, data, loss
        self.seed, self._given_ranks = seed, ranks
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"optimizer is a {type(optimizer).__name__}; pass the torch.optim.Optimizer that takes the steps"
            )
        found = find_filter_layers(model, optimizer, linear=linear, layers=layers, example=example)
        found = found if rank_first else found.without_first()
        self.layers, self.left_out = found.layers, found.left_out
        places({layer.name: layer.num_filters for layer in self.layers}, self.schedule.share, max_layer_share)
        self._masks = FilterMasks(self.layers, optimizer)
        self._cycle: int | None = None

    @property
    def dropped(self) -> dict[str, tuple[int, ...]]:
        """layer -> sorted indices of the filters that are dropped now."""
        return dict(self._masks.dropped)

    @property
    def _ranks(self) -> Ranks:
        return self._given_ranks or joined_ranks()

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
        ranks, schedule, chosen = self._ranks, self.schedule, None
        with ranks.failing_together():
            if ranks.is_first:
                # of its own for every cycle, layer and purpose: a run that was interrupted needs no random state
                generators = {e.name: generator_of(self.seed, cycle, i, 0) for i, e in enumerate(self.layers)}
                scores = filter_scores(
                    self._function, self._model, self.layers, self._masks, generators, self._data, self._loss
                )
                chosen = worst_filters(scores, schedule.share, schedule.max_layer_share)
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
        relaxed = tuple(
            layer.name
            for i, layer in enumerate(self.layers)
            if layer.name in filters
            and bring_back(
                layer, filters[layer.name], generator_of(self.seed, cycle, i, 1), self._optimizer, self._ranks
            )
        )
        return FilterEvent(epoch, cycle, "restored", filters, relaxed)

    def orthogonality(self) -> OrthogonalityMeasure:
        """``orthogonality_measure`` of the ranked layers, without the filters that are dropped now."""
        return overlap_of(self.layers, self.dropped)

    def remove(self) -> None:
        """Leave no trace on model and optimizer. Filters that are dropped work again, with their old values."""
        self._masks.remove()
        self._cycle = None

    def _options(self) -> dict[str, Any]:
        """All that decides what is dropped when, as JSON types."""
        numbers = {**vars(self.schedule), "criterion": self.criterion, "seed": self.seed}
        del numbers["total_epochs"]
        return {**numbers, "layers": {layer.name: layer.num_filters for layer in self.layers}}

    def state_dict(self) -> dict[str, Any]:
        """Tensors and JSON types; with those of model and optimizer it is all that the next epoch depends on."""
        filters = {name: list(indices) for name, indices in self._masks.dropped.items()}
        return {
            "options": self._options(), "cycle": self._cycle, "filters": filters, "values": self._masks.values(),
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict()`` was taken, before or after model and optimizer are loaded.

        Raises:
            ValueError: the state is that of other options, or of another model; nothing is changed then.
        """
        cycle, filters, values = stored_in(state, self._options(), self.layers)
        self._masks.drop(filters, values)
        self._cycle = cycle

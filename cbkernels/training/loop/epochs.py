"""One training of one network: an epoch at a time, on one process or several, stopped and continued bit for bit.

What is measured and written in between is not its concern: ``measured_epochs.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...filters.repr import RePr, generator_of
from ...filters.schedule import FilterEvent
from ...models.evaluation import unwrapped
from ...ranks import Ranks
from ..config import TrainConfig
from ..data.samples import Samples, accuracy_of, num_right
from .losses import distillation_loss, orthogonality_loss
from .optimizers import build_optimizer
from .schedules import build_schedule


@dataclass(frozen=True)
class Recipe:
    """What a user brings of a training; None is what the config names.

    Args:
        loss: (logits, labels) -> a scalar.
        optimizer: (parameters) -> a ``torch.optim.Optimizer``.
        schedule: (optimizer, number of updates of the training) -> a scheduler, which is stepped after every update.
    """

    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = nn.functional.cross_entropy
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None
    schedule: Callable[[torch.optim.Optimizer, int], Any] | None = None


class Training:
    """A network, its optimizer with its schedule, and its random numbers.

    Args:
        model: on any device; moved to the samples' one.
        config: the recipe.
        samples: what it learns.
        teacher: a network in evaluation mode, on the samples' device, whose logits are learned too (distillation).
        ranks: with several, each takes an equal part of every batch and gradients are averaged (DDP).
        recipe: what is not the config's.

    Raises:
        TypeError: the recipe's optimizer is none.
        ValueError: the batch cannot be divided by the number of ranks.
    """

    epoch: int
    """Epochs that were trained."""
    after_batch: Callable[[int, int], object]
    """Called with the number of the batch, from 1, and the number of batches in an epoch."""

    def __init__(
        self, model: nn.Module, config: TrainConfig, samples: Samples, ranks: Ranks | None = None,
        teacher: nn.Module | None = None, recipe: Recipe | None = None,
    ) -> None:  # fmt: skip
        self.ranks = ranks or Ranks()
        self._teacher = teacher
        if config.batch_size % self.ranks.size:
            raise ValueError(f"batch_size is {config.batch_size}; it must be a multiple of the {self.ranks.size} ranks")
        self.config, self.samples = config, samples
        self.model = model.to(samples.device)
        if config.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._recipe = recipe = recipe or Recipe()
        own, updates = recipe.optimizer, len(samples.train_indices) // config.batch_size
        self.optimizer = build_optimizer(self.model, config) if own is None else own(self.model.parameters())
        if not hasattr(self.optimizer, "param_groups"):
            raise TypeError(f"optimizer made a {type(self.optimizer).__name__}; it must make a torch.optim.Optimizer")
        self._schedule = (
            build_schedule(self.optimizer, config, updates)
            if recipe.schedule is None
            else recipe.schedule(self.optimizer, config.epochs * updates)
        )
        self._module = self._for_training()
        self.repr = self._repr() if config.repr else None
        self.event: FilterEvent | None = None
        self.epoch = 0
        self.after_batch = lambda done, batches: None

    @property
    def learning_rate(self) -> float:
        """Of the update that comes next."""
        return float(self.optimizer.param_groups[0]["lr"])

    def _for_training(self) -> nn.Module:
        module = self.model
        if self.ranks.size > 1:
            on_gpu = [self.samples.device] if self.samples.device.type == "cuda" else None
            module = nn.parallel.DistributedDataParallel(module, device_ids=on_gpu)
        return torch.compile(module) if self.config.compile else module  # type: ignore[return-value]

    def _repr(self) -> RePr:
        config = self.config
        return RePr(
            self._module, self.optimizer, full_epochs=config.repr_full_epochs,
            reduced_epochs=config.repr_reduced_epochs, share=config.repr_share, cycles=config.repr_cycles,
            criterion=config.repr_criterion, rank_first=config.repr_rank_first,
            max_layer_share=config.repr_max_layer_share, seed=config.seed, data=self._ranking_data,
            total_epochs=config.epochs, example=self.samples.example(2), ranks=self.ranks,
        )  # fmt: skip

    def _ranking_data(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """What criteria look at: the held-back samples, or the probe batch when there are none."""
        indices = self.samples.validation_indices
        indices = (indices if len(indices) else self.samples.probe_indices).to(self.samples.device)
        images, labels = self.samples.train
        for part in torch.split(indices, self.config.batch_size):
            yield self.samples.preparation.for_testing(images[part]), labels[part]

    def train_epoch(self) -> float:
        """One pass over the training part in random order; the last partial batch is dropped.

        Returns:
            Mean loss of the batches (cross-entropy in nats, and what the config adds), each taken before its own
            update; not finite after a divergence, NaN when a weight is not finite after the last update.
        """
        self.event = self.repr.step(self.epoch) if self.repr is not None else None
        self._module.train()
        losses = []
        images, labels = self.samples.train
        # every epoch has seeds of its own, so that an interrupted run goes on without any random state
        order = generator_of(self.config.seed, self.epoch)
        augmentation = generator_of(self.config.seed, self.epoch, 1, self.ranks.rank)
        torch.manual_seed(generator_of(self.config.seed, self.epoch, 2, self.ranks.rank).initial_seed())  # for dropout
        batches = len(self.samples.train_indices) // self.config.batch_size
        for done, chosen in enumerate(self._batches(order), 1):
            self.optimizer.zero_grad(set_to_none=True)
            loss = self._loss(images[chosen], labels[chosen], augmentation)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self._schedule.step()
            losses.append(loss.detach())
            self.after_batch(done, batches)
        for buffer in self.model.buffers():  # each rank averaged its own part of the last batch
            self.ranks.take_from_first(buffer)
        self.epoch += 1
        mean_loss = float(self.ranks.sum(torch.stack(losses).double().mean())) / self.ranks.size
        return mean_loss if self._has_finite_weights() else math.nan

    def _has_finite_weights(self) -> bool:
        """The loss was taken before the last update, which can be the one that diverged."""
        weights = [p.detach() for p in self.model.parameters() if p.is_floating_point() and p.numel()]
        largest = [n.float() for n in torch._foreach_norm(weights, math.inf)] if weights else []
        return not largest or bool(torch.stack(largest).isfinite().all())

    def _batches(self, generator: torch.Generator) -> Iterator[torch.Tensor]:
        """Indices of this rank's part of every batch, on the device of the samples."""
        trained_on, size = self.samples.train_indices, self.config.batch_size
        order = trained_on[torch.randperm(len(trained_on), generator=generator)]
        for first in range(0, len(order) - size + 1, size):
            yield self.ranks.of_this(order[first : first + size]).to(self.samples.device, non_blocking=True)

    def _loss(self, images: torch.Tensor, labels: torch.Tensor, augmentation: torch.Generator) -> torch.Tensor:
        inputs = self.samples.preparation.for_training(images, augmentation)
        if self.config.channels_last and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        amp = torch.autocast(inputs.device.type, torch.bfloat16) if self.config.amp else nullcontext()
        with amp:
            logits = self._module(inputs)
            loss = self._recipe.loss(logits, labels)
            if self._teacher is not None:
                with torch.no_grad():
                    taught = self._teacher(inputs)
                weight, temperature = self.config.distill_weight, self.config.distill_temperature
                loss = (1 - weight) * loss + weight * distillation_loss(logits.float(), taught.float(), temperature)
        if self.config.orthogonality_loss:
            loss = loss + self.config.orthogonality_loss * orthogonality_loss(self.model)
        return loss

    def test_accuracy(self) -> float:
        """On the test part, divided over the ranks; NaN without one. Float32, without autocast."""
        images, labels = map(self.ranks.of_this, self.samples.test)
        right = num_right(self.model, images, labels, self.samples.preparation)
        count = len(self.samples.test[1])
        return float(self.ranks.sum(right)) / count if count else math.nan

    def validation_accuracy(self) -> float | None:
        """On the part that was held back; None when nothing was."""
        held_back = self.samples.validation_indices.to(self.samples.device)
        if not len(held_back):
            return None
        images, labels = self.samples.train
        return accuracy_of(self.model, images[held_back], labels[held_back], self.samples.preparation)

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on, as tensors and JSON types."""
        model = dict(unwrapped(self.model).state_dict())
        state = {"epoch": self.epoch, "model": model, "optimizer": self.optimizer.state_dict(),
                 "schedule": self._schedule.state_dict()}  # fmt: skip
        return state if self.repr is None else {**state, "repr": self.repr.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where ``state()`` was taken.

        Raises:
            ValueError: the state is that of another network.
        """
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if "schedule" in state:  # older ones know none but the constant one
                self._schedule.load_state_dict(state["schedule"])
            if self.repr is not None:
                self.repr.load_state_dict(state["repr"])
            self.epoch = int(state["epoch"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"the checkpoint is that of another network: {str(error).splitlines()[0]}") from error

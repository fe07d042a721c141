"""The processes of a training: one alone, or those that ``torchrun`` started, over gloo or nccl."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

from .distributed import answered


@dataclass(frozen=True)
class Ranks:
    """Which of the processes this one is."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Rank 0 writes files and prints."""
        return self.rank == 0

    def of_this(self, samples: torch.Tensor) -> torch.Tensor:
        """This rank's share of samples or their indices: every ``size``-th, a view."""
        return samples[self.rank :: self.size]

    def told_by_first(self, value: Any) -> Any:
        """Rank 0's value, on all ranks."""
        if self.size == 1:
            return value
        told = [value]
        distributed.broadcast_object_list(told, src=0)
        return told[0]

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """What fails on rank 0 inside, such as writing a file, is raised on all ranks: none waits for it in vain."""
        error: Exception | None = None
        try:
            yield
        except (ImportError, OSError, TypeError, ValueError) as raised:
            error = raised
        error = self.told_by_first(error) or error
        if error is not None:
            raise error

    def take_from_first(self, tensor: torch.Tensor) -> None:
        """Overwrite a tensor by rank 0's."""
        if self.size > 1:
            distributed.broadcast(tensor, src=0)

    def sum(self, numbers: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, on all ranks."""
        if self.size > 1:
            distributed.all_reduce(numbers)
        return numbers


def started_by_torchrun() -> bool:
    """More than one process, by the variables that ``torchrun`` sets."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first_process() -> bool:
    """Rank 0, or a process alone; known before the ranks have joined."""
    return os.environ.get("RANK", "0") == "0"


def joined_ranks() -> Ranks:
    """Which of the processes that have joined this one is; one alone where none have."""
    if distributed.is_available() and distributed.is_initialized():
        return Ranks(distributed.get_rank(), distributed.get_world_size())
    return Ranks()


def device_named(name: str) -> torch.device:
    """The device of this process: "auto" takes a GPU where there is one, with ``torchrun`` one each.

    Raises:
        ValueError: no such device here.
    """
    local = int(os.environ.get("LOCAL_RANK", "0")) if started_by_torchrun() else 0
    if name == "auto":
        return torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device is {name!r}; name one such as 'cpu', 'cuda', 'cuda:1'") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"device is {name!r}, and torch sees no GPU here; use 'cpu' or 'auto'")
        index = local if device.index is None else device.index
        if index >= torch.cuda.device_count():
            raise ValueError(f"device is {name!r}, and there are {torch.cuda.device_count()} GPUs; count from 0")
        return torch.device("cuda", index)
    return device


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Join the other processes, if ``torchrun`` started any and nobody has joined yet; leave at the end."""
    if distributed.is_initialized() or not started_by_torchrun():
        yield joined_ranks()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        with answered():
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
            yield joined_ranks()
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()

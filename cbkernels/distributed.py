"""Bundle entropy over the ranks of ``torch.distributed``: the result of one process, bit for bit.

What travels and how it is added up is in ``tallies.py``; one process: ``streaming.py``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from .result import BundleResult
from .tallies import Stream, Tallies, compute

try:
    import torch
    from torch import distributed as dist
except ImportError:
    raise ModuleNotFoundError("computing across ranks needs torch: pip install torch", name="torch") from None

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

T = TypeVar("T")
_OF_A_CONNECTION = re.compile("connection|gloo|nccl", re.IGNORECASE)
"""In what torch says of ranks that are gone, which is mostly a plain RuntimeError."""


@contextmanager
def answered() -> Iterator[None]:
    """Turn what torch says of ranks that died, or did not answer in their group's time, into one ConnectionError."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not _OF_A_CONNECTION.search(str(error)):
            raise
        rank = dist.get_rank() if dist.is_initialized() else os.environ.get("RANK", "0")
        told = f"rank {rank} lost the other ranks; see what the first that ended says"
        raise ConnectionError(told if "imed out" not in str(error) else f"{told}, or which one hangs") from error


def compute_across_ranks(
    metrics: Mapping[str, Stream],
    group: ProcessGroup | str | None = None,
    *,
    error: str | None = None,
    alike: Mapping[str, object] | None = None,
) -> dict[str, BundleResult]:
    """Results over the rows of all ranks, the same on every rank; every rank of the group must call it.

    Many small layers travel together: the number of exchanges grows with the number of rows, not with
    the number of layers. The metrics stay as they are.

    Args:
        metrics: name -> ``BundleEntropy``, the same names on all ranks; those of a rank without rows may be
            missing altogether. Labels of one bundle meet on one rank.
        group: of ``torch.distributed``; None or "world" is the default group. With nccl the rows
            travel through the memory of the current GPU.
        error: why this rank has nothing to offer; then all ranks raise it.
        alike: what else must be the same on all ranks, in words -> its value, such as a checksum of the weights.

    Returns:
        name -> BundleResult, in the order of the lowest rank that has any name; type, device and
        backend are those of the lowest rank that has rows.

    Raises:
        ImportError: torch is missing.
        ValueError, TypeError: no such group.
        ValueError: one rank failed or ranks disagree; the same sentence on all of them.

    Example:
        >>> import cbkernels, numpy as np, torch.distributed as dist
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> metric = cbkernels.BundleEntropy()
        >>> metric.update(np.zeros((4, 3)), np.array([0, 0, 1, 1]))
        >>> compute_across_ranks({"conv1": metric})["conv1"].num_conflicting
        1
        >>> dist.destroy_process_group()
    """
    return compute(metrics, _TorchRanks(group), error, alike or {})


def told_by_all(answer: T, group: ProcessGroup | str | None = None) -> list[T]:
    """What every rank has to say, in the order of the ranks; every rank of the group must call it."""
    return _TorchRanks(group).gather(answer)


class _TorchRanks:
    """The ranks of a process group of ``torch.distributed``."""

    def __init__(self, group: ProcessGroup | str | None) -> None:
        if not dist.is_available():
            raise ValueError("this torch is built without torch.distributed; compute(process_group=None) works alone")
        if isinstance(group, str) and group != "world":
            raise ValueError(f"process_group is {group!r}; pass None, 'world' or a group of torch.distributed")
        if not dist.is_initialized():
            raise ValueError(
                f"process_group is {group!r} before torch.distributed.init_process_group(); call that first, "
                "or start the script with torchrun"
            )
        if group == dist.GroupMember.NON_GROUP_MEMBER:  # type: ignore[comparison-overlap]
            raise ValueError(f"rank {dist.get_rank()} is no member of the process group; only its members may call")
        group = dist.group.WORLD if group is None or isinstance(group, str) else group
        if not isinstance(group, dist.ProcessGroup):
            raise TypeError(f"process_group is a {type(group).__name__}; pass None, 'world' or a ProcessGroup")
        self._group = group
        self.index, self.count = dist.get_rank(group), dist.get_world_size(group)
        self._device = "cuda" if dist.get_backend(group) == "nccl" else "cpu"

    def gather(self, answer: object) -> list[Any]:
        answers: list[Any] = [None] * self.count
        with answered():
            dist.all_gather_object(answers, answer, group=self._group)
        return answers

    def exchange(self, tallies: Tallies, outgoing: list[int], incoming: list[int]) -> Tallies:
        sent = torch.from_numpy(tallies).to(self._device)
        received = torch.empty((sum(incoming), 4), dtype=torch.int64, device=self._device)
        with answered():
            dist.all_to_all_single(received, sent, incoming, outgoing, group=self._group)
            result: Tallies = received.cpu().numpy()
        return result

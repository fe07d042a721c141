"""What a model costs on one example: parameters, MACs, FLOPs, latency, peak memory.

FLOPs are those of matrix products, convolutions and attention as ``torch.utils.flop_counter`` counts them, and
MACs are half of them; nothing else is called a FLOP here.
"""

from __future__ import annotations

import time
import warnings
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from .evaluation import device_of, evaluating

_WARM_UP = 3


@dataclass(frozen=True)
class Cost:
    """One forward pass in evaluation mode, without gradients, uncompiled."""

    parameters: int
    """Numbers in all parameters, shared ones counted once."""
    macs: int
    """Multiply-adds of matrix products and convolutions: FLOPs / 2."""
    flops: int
    """Multiplications and additions of matrix products and convolutions."""
    latency_ms: float
    """Median of the repeats, in milliseconds."""
    latency_ms_p10: float
    """A tenth of the repeats were at least as fast."""
    latency_ms_p90: float
    """A tenth of the repeats were at least as slow."""
    peak_memory_bytes: int
    """Parameters and buffers, and the most bytes that the pass held at once beside them. On a GPU the allocator's
    count; on a CPU that of tensors seen by the dispatcher, without buffers inside of single operations."""
    device: str
    """Where it ran, "cpu" or "cuda"."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return asdict(self)


def measure_cost(model: nn.Module, example: object, *, repeats: int = 20) -> Cost:
    """Cost of one forward pass.

    Args:
        model: left as it was; ``torch.compile`` and DDP are looked through, so the latency is the eager one.
        example: a tensor, a tuple of positional arguments or a dict of keyword arguments, on the model's device.
        repeats: timed passes, after three others.

    Raises:
        ValueError: ``repeats`` is below 1.
        TypeError: not a ``torch.nn.Module``.

    Example:
        >>> import torch
        >>> cost = measure_cost(torch.nn.Linear(10, 4), torch.zeros(2, 10))
        >>> cost.parameters, cost.macs, cost.flops
        (44, 80, 160)
    """
    return measure_costs({"": lambda: None}, model, example, repeats=repeats)[""]


def measure_costs(
    states: Mapping[str, Callable[[], object]], model: nn.Module, example: object, *, repeats: int = 20
) -> dict[str, Cost]:
    """Costs of a model in several states, timed in turns so that a noisy machine is noisy to all of them.

    Args:
        states: name -> function that puts the model into this state; outside of the timed part.
        model: what changes.
        example: see ``measure_cost``.
        repeats: timed passes of every state.

    Raises:
        ValueError: ``repeats`` is below 1.
    """
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise ValueError(f"repeats is {repeats!r}; it must be a positive integer")
    counts: dict[str, tuple[int, int, int]] = {}
    times: dict[str, list[float]] = {name: [] for name in states}
    kind = "cpu"
    for turn in range(-_WARM_UP, repeats):
        for name, enter in states.items():
            enter()
            with evaluating(model) as inner:
                device = device_of(inner)
                kind = device.type
                seconds = _seconds(inner, example, device)
                if turn >= 0:
                    times[name].append(seconds)
                elif turn == -1:
                    flops, peak = _flops(inner, example), _peak_bytes(inner, example, device)
                    counts[name] = sum(p.numel() for p in inner.parameters()), flops, peak
    costs = {}
    for name, (parameters, flops, peak) in counts.items():
        ordered = sorted(times[name])
        median, low, high = (1000 * ordered[round(q * (len(ordered) - 1))] for q in (0.5, 0.1, 0.9))
        costs[name] = Cost(parameters, flops // 2, flops, median, low, high, peak, kind)
    return costs


def call_with(model: nn.Module, example: object) -> Any:
    """The model's output for a tensor, a tuple of positional or a mapping of keyword arguments."""
    if isinstance(example, Mapping) or (hasattr(example, "keys") and hasattr(example, "__getitem__")):
        return model(**{key: example[key] for key in example.keys()})  # noqa: SIM118
    if isinstance(example, (tuple, list)):
        return model(*example)
    return model(example)


def samples_in(example: object) -> int:
    """How many samples an example holds: the entries along the first axis of its first tensor that has axes.

    Example:
        >>> import torch
        >>> samples_in({"input_ids": torch.zeros(6, 9)}), samples_in(3)
        (6, 1)
    """
    parts: Any = example
    if hasattr(example, "keys") and hasattr(example, "__getitem__"):
        parts = [example[key] for key in example.keys()]  # noqa: SIM118
    return next((len(t) for t in tree_leaves(parts) if isinstance(t, torch.Tensor) and t.ndim and len(t)), 1)


def _seconds(model: nn.Module, example: object, device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        call_with(model, example)
        return time.perf_counter() - start
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    with torch.cuda.device(device):
        torch.cuda.synchronize()
        began.record()
        call_with(model, example)
        ended.record()
        torch.cuda.synchronize()
    return float(began.elapsed_time(ended)) / 1000


def _flops(model: nn.Module, example: object) -> int:
    counter = FlopCounterMode(display=False)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "TF32 acceleration")  # that of flags() on a CPU
        # fused attention and recurrent kernels have no formula on a CPU; written out they are matrix products
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast_path)
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(counter)
        call_with(model, example)
    return int(counter.get_total_flops())


def _peak_bytes(model: nn.Module, example: object, device: torch.device) -> int:
    storages = {t.untyped_storage().data_ptr(): t for t in (*model.parameters(), *model.buffers())}
    resident = sum(t.untyped_storage().nbytes() for t in storages.values())
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call_with(model, example)
        torch.cuda.synchronize(device)
        return resident + int(torch.cuda.max_memory_allocated(device)) - int(before)
    known = {t.untyped_storage()._cdata for t in storages.values()}
    with _LiveBytes(known) as live:
        call_with(model, example)
    return resident + int(live.peak)


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages made inside of it and alive, without the ``known`` ones: ``peak`` in bytes."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._known = known
        self._alive: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        inputs = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for leaf in tree_leaves(output):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf.untyped_storage(), inputs)
        return output

    def _add(self, storage: torch.UntypedStorage, inputs: set[int]) -> None:
        key = storage._cdata
        if key in self._alive or key in inputs or key in self._known:
            return
        size = storage.nbytes()
        self._alive[key] = weakref.finalize(storage, self._remove, key, size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _remove(self, key: int, size: int) -> None:
        del self._alive[key]
        self.now -= size

"""Bundle entropy as a torchmetrics ``Metric``: streaming, 24 bytes a row, exact across ranks.

The work is done by ``cbkernels.BundleEntropy`` (``streaming.py``); this file is its torchmetrics manners. The stream is
no registered state: torchmetrics would gather all of it on every rank, and reduce it tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from .. import streaming
from ..grid import UpdateGrid
from ..lazy import require_package
from ..result import BundleResult

if TYPE_CHECKING:
    import torch

_torch = require_package("torch", "cbkernels.integrations.torchmetrics")
_torchmetrics = require_package("torchmetrics", "cbkernels.integrations.torchmetrics")


class BundleEntropy(_torchmetrics.Metric):  # type: ignore[misc,name-defined]
    """Bundle entropy of one layer over all batches since the last ``reset``.

    Args:
        grid: as in ``cbkernels.bundle_entropy``; None compares plain values.
        log_epsilon: as in ``cbkernels.bundle_entropy``.
        backend: as in ``cbkernels.bundle_entropy``.
        key: as in ``cbkernels.BundleEntropy``.
        **kwargs: of ``torchmetrics.Metric``: ``sync_on_compute``, ``process_group``, ``dist_sync_on_step``,
            ``distributed_available_fn``, ``compute_with_cache``.

    ``compute`` returns a float64 scalar on the metric's device, in nats; ``compute_result`` the counts behind it.
    ``update`` never waits for a GPU; activations may be on any device. Rows are kept as 128-bit fingerprints.
    Under ``torch.distributed`` every rank gets the result of one process over all rows, bit for bit, whatever the
    shards' sizes: ranks exchange fingerprints, never activations. Nothing is cached unless ``compute_with_cache``
    asks for it: a rank without new rows would return its cached value while the others wait for it.

    Raises:
        TypeError, ValueError: one sentence that quotes the argument.

    Example:
        >>> import torch
        >>> metric = BundleEntropy()
        >>> for label in (0, 1):
        ...     metric.update(torch.zeros(2, 3), torch.tensor([label, label]))
        >>> round(metric.compute().item(), 4), metric.compute_result().num_conflicting
        (0.6931, 1)
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    plot_lower_bound = 0.0

    def __init__(
        self, *, grid: UpdateGrid | None = None, log_epsilon: float | None = None, backend: str = "auto",
        key: bytes | SupportsIndex | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        _refuse_gathering(kwargs.get("dist_sync_fn"))
        kwargs.setdefault("compute_with_cache", False)
        super().__init__(**kwargs)
        self._update_count: int
        self._options: dict[str, Any] = {"grid": grid, "log_epsilon": log_epsilon, "backend": backend, "key": key}
        self._stream = self._new_stream()
        self._of_all_ranks: BundleResult | None = None
        self._is_persistent = False

    def _new_stream(self, **options: Any) -> streaming.BundleEntropy:
        return streaming.BundleEntropy(**{**self._options, **options})

    @property
    def num_rows(self) -> int:
        """Rows that this process has seen since the last reset."""
        return self._stream.num_rows

    def update(self, acts: torch.Tensor, labels: torch.Tensor) -> None:
        """Add a batch.

        Args:
            acts: (N, ...) activations; type and number of values per row must be those of the first batch.
            labels: (N,) integers.

        Raises:
            TypeError, ValueError: one sentence; the rows so far are then unchanged.
        """
        self._stream.update(acts, labels)

    def compute(self) -> torch.Tensor:
        """Bundle entropy in nats, a float64 scalar; NaN when a row holds a NaN.

        Raises:
            ValueError: no rows yet, on no rank.
        """
        return self._as_tensor(self._result())

    def compute_result(self) -> BundleResult:
        """What ``compute`` computes, with the counts behind it; across ranks every rank must call it.

        Raises:
            ValueError: no rows yet, on no rank.
        """
        if self._is_synced:
            return self._result()
        with self.sync_context(should_sync=self._to_sync):
            return self._result()

    def _result(self) -> BundleResult:
        return self._stream.compute() if self._of_all_ranks is None else self._of_all_ranks

    def _as_tensor(self, result: BundleResult) -> torch.Tensor:
        dtype = _torch.float32 if self.device.type == "mps" else _torch.float64  # Apple's GPUs have no float64
        scalar: torch.Tensor = _torch.tensor(result.entropy, dtype=dtype, device=self.device)
        return scalar

    def forward(self, acts: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Add a batch and return the value of this batch alone.

        Args:
            acts: as in ``update``.
            labels: as in ``update``.

        Raises:
            TypeError, ValueError: one sentence; the rows so far are then unchanged.
        """
        if self._is_synced:
            raise _torchmetrics.utilities.exceptions.TorchMetricsUserError(
                "the metric holds the result of all ranks; call unsync() before the next batch"
            )
        batch = self._new_stream(key=self._stream.key)
        batch.update(acts, labels)
        self._stream.merge(batch)
        self._update_count += 1
        self._computed = None
        is_shared = self.dist_sync_on_step and self.distributed_available_fn()
        if is_shared or batch.num_rows:
            result = batch.compute(self.process_group or "world") if is_shared else batch.compute()
            value = self._as_tensor(result)
        else:
            value = _torch.tensor(float("nan"), device=self.device)
        self._forward_cache = value
        return value

    def reset(self) -> None:
        """Forget all rows; the options stay."""
        super().reset()
        self._stream, self._of_all_ranks = self._new_stream(), None

    def merge_state(self, incoming_state: BundleEntropy | dict[str, Any]) -> None:
        """Add everything that another metric has seen.

        Args:
            incoming_state: the other metric, or its ``metric_state``.

        Raises:
            TypeError, ValueError: the other has another grid, rows of another type or width, or rows under another key.
        """
        if isinstance(incoming_state, dict):
            other = self._new_stream()
            other.load_state_dict(_with_arrays(incoming_state))
        elif isinstance(incoming_state, BundleEntropy):
            other = incoming_state._stream
        else:
            raise TypeError(f"incoming_state is a {type(incoming_state).__name__}; pass a metric or its metric_state")
        self._stream.merge(other)
        self._update_count += 1
        self._computed = None

    def _reduce_states(self, *others: Any) -> None:
        """What wrappers such as Running call with the registered states that they kept."""
        raise _torchmetrics.utilities.exceptions.TorchMetricsUserError(
            "this metric registers no states, so a wrapper that keeps them (such as Running) has nothing to keep; "
            "hold one BundleEntropy for each part of the window and merge_state them"
        )

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw one value or several, as every torchmetrics metric does.

        Args:
            val: what ``compute`` or ``forward`` returned, or a list of that; None computes.
            ax: matplotlib axes to draw on.

        Returns:
            A matplotlib figure and its axes.

        Raises:
            ModuleNotFoundError: matplotlib is missing.
        """
        return self._plot(val, ax)

    def _sync_dist(self, dist_sync_fn: Callable[..., Any] | None = None, process_group: Any = None) -> None:
        """What ``sync`` does when it has found that there are ranks."""
        _refuse_gathering(dist_sync_fn)
        self._of_all_ranks = self._stream.compute(process_group or self.process_group or "world")

    def unsync(self, should_unsync: bool = True) -> None:
        """Go back to the rows of this process.

        Args:
            should_unsync: False does nothing.
        """
        super().unsync(should_unsync)
        if should_unsync:
            self._of_all_ranks = None

    @property
    def metric_state(self) -> dict[str, Any]:
        """Everything seen so far, as plain types and CPU tensors."""
        return _with_tensors(self._stream.state_dict())

    def persistent(self, mode: bool = False) -> None:
        """Say whether ``state_dict`` holds the rows; at first it does not.

        Args:
            mode: does it?
        """
        self._is_persistent = mode

    def state_dict(self, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> dict[str, Any]:
        """As of any module; with ``persistent(True)`` the rows are in the entry "stream".

        Args:
            destination: dict to fill.
            prefix: of the names.
            keep_vars: as in ``torch.nn.Module.state_dict``.
        """
        filled: dict[str, Any] = super().state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)
        if self._is_persistent:
            filled[f"{prefix}stream"] = self.metric_state
        return filled

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """What ``load_state_dict`` does."""
        state = state_dict.pop(f"{prefix}stream", None)
        if state is not None:
            self._stream.load_state_dict(_with_arrays(state))
            self._computed = None
            self._update_count = max(self._update_count, 1)
        super()._load_from_state_dict(state_dict, prefix, *others)


def _refuse_gathering(dist_sync_fn: object) -> None:
    if dist_sync_fn not in (None, _torchmetrics.utilities.distributed.gather_all_tensors):
        raise ValueError(
            f"dist_sync_fn is {dist_sync_fn!r}; ranks exchange fingerprints here, so pass process_group= or "
            "distributed_available_fn= instead"
        )


def _with_tensors(state: dict[str, Any]) -> dict[str, Any]:
    """The stream's state as ``torch.load(weights_only=True)`` reads it: uint64 becomes the bits of int64."""
    arrays = {"fingerprints": state["fingerprints"].view(np.int64), "labels": state["labels"]}
    return {**state, **{name: _torch.from_numpy(array) for name, array in arrays.items()}}


def _with_arrays(state: dict[str, Any]) -> dict[str, Any]:
    missing = {"fingerprints", "labels"} - set(state)
    if missing:
        raise ValueError(f"the state lacks {sorted(missing)}; it is not one of this metric")
    fingerprints, labels = (state[name].cpu().numpy() for name in ("fingerprints", "labels"))
    return {**state, "fingerprints": fingerprints.view(np.uint64), "labels": labels}

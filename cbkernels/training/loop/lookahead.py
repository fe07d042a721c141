"""Lookahead: every k steps the weights go back half of the way (Zhang et al., NeurIPS 2019)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class Lookahead(torch.optim.Optimizer):
    """Slow weights around another optimizer: ``slow += alpha * (fast - slow); fast = slow``.

    Args:
        inner: the optimizer that takes the steps; its parameter groups and its learning rate are
            this one's, so schedulers work on either.
        steps: fast steps between two synchronisations, at least 1.
        alpha: how far the slow weights follow, in (0, 1].

    Raises:
        ValueError: ``steps`` or ``alpha`` is out of range.
    """

    def __init__(self, inner: torch.optim.Optimizer, steps: int = 6, alpha: float = 0.5) -> None:
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps is {steps!r}; it must be a positive integer")
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha is {alpha!r}; it must be above 0 and at most 1")
        self.inner, self.steps, self.alpha = inner, steps, alpha
        self.steps_taken = 0
        self._is_ready = False
        super().__init__(inner.param_groups, inner.defaults)
        self.param_groups = inner.param_groups
        self._start(self._parameters())
        self._is_ready = True

    def _start(self, parameters: Iterable[torch.Tensor]) -> None:
        """Slow weights are state per parameter, as other optimizers keep theirs: dropping one drops both."""
        for parameter in parameters:
            self.state[parameter]["slow"] = parameter.detach().clone()

    def _parameters(self) -> list[torch.Tensor]:
        return [p for group in self.inner.param_groups for p in group["params"]]

    def _slow(self) -> list[torch.Tensor]:
        return [self.state[p]["slow"] for p in self._parameters()]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters to the inner optimizer; their slow weights start where they are now."""
        if not self._is_ready:  # called by Optimizer.__init__ for groups that the inner one has
            return
        self.inner.add_param_group(param_group)
        self._start(self.inner.param_groups[-1]["params"])

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of the inner optimizer and, every ``steps`` of them, a synchronisation."""
        loss = self.inner.step(closure) if closure is not None else self.inner.step()
        self.steps_taken += 1
        if self.steps_taken % self.steps == 0:
            with torch.no_grad():
                for fast in self._parameters():
                    slow = self.state[fast]["slow"]
                    slow.lerp_(fast, self.alpha)
                    fast.copy_(slow)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's, in the form of every optimizer's, which ``torch.distributed.checkpoint`` takes too.

        The slow weights are in it as state of their parameters, the number of steps taken in every group.
        """
        found = self.inner.state_dict()
        state = {i: {**found["state"].get(i, {}), "slow": slow.clone()} for i, slow in enumerate(self._slow())}
        groups = [{**group, "steps_taken": self.steps_taken} for group in found["param_groups"]]
        return {**found, "state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken.

        Raises:
            ValueError: the state is of other parameters; nothing is changed then.
        """
        inner, saved_slow, steps_taken = _parts_of(state_dict)
        shapes = [tuple(s.shape) for s in saved_slow]
        if shapes != [tuple(s.shape) for s in self._slow()]:
            raise ValueError(f"the state has slow weights of shapes {shapes}; the parameters differ")
        self.inner.load_state_dict(inner)
        self.param_groups = self.inner.param_groups
        for slow, saved in zip(self._slow(), saved_slow, strict=True):
            slow.copy_(saved)
        self.steps_taken = steps_taken

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()  # Optimizer's own would leave out everything above


def _parts_of(state: dict[str, Any]) -> tuple[dict[str, Any], list[torch.Tensor], int]:
    """State of the inner optimizer, slow weights and steps taken."""
    if "inner" in state:  # of version 0.1.0
        return state["inner"], state["slow"], int(state["steps_taken"])
    groups = [{key: value for key, value in group.items() if key != "steps_taken"} for group in state["param_groups"]]
    slow = [
        state["state"][name]["slow"] for group in groups for name in group["params"]
    ]  # numbers, or names of weights
    bare = {i: {key: value for key, value in one.items() if key != "slow"} for i, one in state["state"].items()}
    inner = {**state, "state": {i: one for i, one in bare.items() if one}, "param_groups": groups}
    return inner, slow, int(state["param_groups"][0]["steps_taken"])

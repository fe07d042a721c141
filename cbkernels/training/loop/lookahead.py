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
        """The inner optimizer's state, the slow weights and the number of steps taken."""
        slow = [s.clone() for s in self._slow()]
        return {"inner": self.inner.state_dict(), "slow": slow, "steps_taken": self.steps_taken}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken.

        Raises:
            ValueError: the state is of other parameters; nothing is changed then.
        """
        shapes = [tuple(s.shape) for s in state_dict["slow"]]
        if shapes != [tuple(s.shape) for s in self._slow()]:
            raise ValueError(f"the state has slow weights of shapes {shapes}; the parameters differ")
        self.inner.load_state_dict(state_dict["inner"])
        self.param_groups = self.inner.param_groups
        for slow, saved in zip(self._slow(), state_dict["slow"], strict=True):
            slow.copy_(saved)
        self.steps_taken = int(state_dict["steps_taken"])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()  # Optimizer's own would leave out everything above

"""The update grid: activations as the next weight update would see them.

Two values that the grid maps to one number cannot be told apart by a gradient step
(Peer et al., "Conflicting Bundles", WACV 2021, section 3). The kernels apply it in
``csrc/update_grid.h``, the definition in ``reference.py``; this file only checks and
rounds its parameters, once, so that every backend gets the same numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .learning_rates import LearningRates

if TYPE_CHECKING:
    import torch

GRID_DTYPES = ("float32", "float64", "float16", "bfloat16")
"""Types in which an optimizer may keep the weights; the position + 1 is the kernel's code."""

_MANTISSA_BITS = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}
_LARGEST = {"float64": 2.0**1023, "float32": 2.0**127, "float16": 2.0**15, "bfloat16": 2.0**127}
_SMALLEST_EXPONENT = {"float64": -1022, "float32": -126, "float16": -14, "bfloat16": -126}


@dataclass(frozen=True)
class UpdateGrid:
    """Resolution of a weight update: ``g(a) = w - (a * lr) * (1 / batch_size)``.

    Every operation is rounded on its own, in this order, in ``dtype``; ``float16`` and
    ``bfloat16`` compute in float32 and round the result once, as an optimizer does that
    keeps 16-bit weights. ``w`` is first rounded to ``dtype``, because weights that are stored
    in a type are values of it. Rows are equal when ``g`` of all their values is equal.

    Args:
        learning_rate: learning rate of the training, positive and finite.
        batch_size: batch size of the training (not of the measurement), positive.
        weight_amplitude: ``w``, the largest absolute value of all trainable weights; kept as it is given.
        dtype: type the weights are stored in: "float32", "float64", "float16", "bfloat16".

    Raises:
        TypeError, ValueError: a parameter is not a number of the range above.

    Example:
        >>> grid = UpdateGrid(learning_rate=1e-3, batch_size=64, weight_amplitude=0.7)
        >>> round(grid.step(), 5)
        0.00381
    """

    learning_rate: float
    batch_size: int
    weight_amplitude: float
    dtype: str = "float32"
    parameters: tuple[int, float, float, float] = field(init=False, repr=False, compare=False)
    """What the kernels get: (code of the dtype, w, lr, 1 / batch_size), rounded."""

    def __post_init__(self) -> None:
        if self.dtype not in GRID_DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}; choose one of {', '.join(GRID_DTYPES)}")
        rate = _number("learning_rate", self.learning_rate)
        size = _number("batch_size", self.batch_size)
        amplitude = _number("weight_amplitude", self.weight_amplitude)
        for name, number in (("learning_rate", rate), ("batch_size", size)):
            if not 0 < number < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be positive and finite")
        if not (amplitude >= 0 and math.isfinite(amplitude)):
            raise ValueError(f"weight_amplitude is {self.weight_amplitude!r}; it must be finite and not negative")
        arithmetic: type[np.floating[Any]] = np.float64 if self.dtype == "float64" else np.float32
        with np.errstate(over="ignore", under="ignore"):
            w, lr, inverse = arithmetic(self._rounded(amplitude)), arithmetic(rate), arithmetic(1.0 / size)
        for name, given, rounded in (
            ("learning_rate", self.learning_rate, lr),
            ("1 / batch_size", 1.0 / size, inverse),
        ):
            if not (rounded > 0 and np.isfinite(rounded)):
                raise ValueError(f"{name} is {given!r}, which {self.dtype} arithmetic rounds to {rounded}")
        if not np.isfinite(w):
            raise ValueError(f"weight_amplitude is {self.weight_amplitude!r}, which {self.dtype} rounds to infinity")
        code = GRID_DTYPES.index(self.dtype) + 1
        object.__setattr__(self, "parameters", (code, float(w), float(lr), float(inverse)))

    @classmethod
    def from_optimizer(
        cls, model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch_size: int, *, dtype: str | None = None,
        learning_rate: str | float = "peak",
    ) -> UpdateGrid:  # fmt: skip
        """Take the grid of a training that is under way, as the paper does.

        Args:
            model: its largest absolute trainable parameter (batch norm scales included) is ``w``.
            optimizer: its learning rate; of several groups that train something the smallest, which gives the
                coarsest grid (``step``).
            batch_size: the training's batch size.
            dtype: defaults to the type the trainable parameters are stored in, the coarsest if
                they differ.
            learning_rate: "peak": the largest of a group's ``max_lr`` and ``initial_lr``, which the schedulers of
                torch leave there, and its rate of now, so that a schedule does not change the grid. "current": the
                rate of now. Or the rate itself, for a schedule whose peak is none of these (one that scales a rate
                of 1, or a cycle).

        Raises:
            TypeError, ValueError: no trainable parameter, a parameter that is not finite, no learning rate but 0, or
                another ``learning_rate``.
        """
        trainable = [p.detach() for p in model.parameters() if p.requires_grad and p.numel()]
        if not trainable:
            raise ValueError("the model has no trainable parameter; pass UpdateGrid(...) instead")
        if any(p.is_meta for p in trainable):
            raise ValueError('weights are on the device "meta", which holds no values; pass UpdateGrid(...) instead')
        amplitude = _largest_absolute_value(trainable)
        if not math.isfinite(amplitude):
            raise ValueError(f"the largest absolute weight is {amplitude}; the training has diverged")
        rate, _ = LearningRates(learning_rate).taken(optimizer.param_groups)
        if dtype is None:
            stored = {str(p.dtype).removeprefix("torch.") for p in trainable}
            dtype = next((d for d in ("bfloat16", "float16", "float32", "float64") if d in stored), "float32")
        return cls(learning_rate=rate, batch_size=batch_size, weight_amplitude=amplitude, dtype=dtype)

    def step(self, amplitude: float = 0.0) -> float:
        """Smallest difference of two activations that is certain to survive the grid.

        Args:
            amplitude: largest absolute activation. 0 gives the paper's resolution
                ``ulp(w) * batch_size / lr``, right for activations whose update is small beside
                ``w``; with the true amplitude it is a bound: values further apart than this
                never share a grid point.

        Returns:
            float, in units of the activations; inf where values that large may meet at infinity.
        """
        _, w, lr, inverse = self.parameters
        amplitude = abs(float(amplitude))
        update = amplitude * lr * inverse
        work = "float64" if self.dtype == "float64" else "float32"
        if w + update >= _LARGEST[self.dtype] or max(amplitude, amplitude * lr) >= _LARGEST[work]:
            return math.inf  # values this large may meet at infinity
        spacing = self._spacing(w + update)
        if amplitude > 0:
            # three roundings before the last one: the value's own conversion and two products
            spacing = 1.001 * spacing + 8 * update * 2.0 ** -(_MANTISSA_BITS[work] + 1)
            spacing += 2 * self._spacing(0.0, work) * (1 + inverse)
            if work != self.dtype:
                spacing += 1.001 * self._spacing(w + update, work)
        return spacing / (lr * inverse)

    def bits(self, margin: float, *, amplitude: float = 0.0) -> float:
        """Bits of precision left before a layer conflicts: ``log2(margin / step)``.

        Args:
            margin: what ``conflict_margin`` returned.
            amplitude: see ``step``; with the largest absolute activation, more than 0 bits
                prove that the layer has no conflict on this grid.

        Returns:
            float: 0 at one step, negative below it, -inf for margin 0 and where ``step`` is infinite, inf for
            one label only.
        """
        if math.isnan(margin) or margin < 0:
            raise ValueError(f"margin is {margin!r}; it must not be negative or NaN")
        if math.isinf(margin):
            return math.inf
        steps = margin / self.step(amplitude)  # 0 too where no step is large enough to be certain
        return math.log2(steps) if steps else -math.inf

    def to_dict(self) -> dict[str, Any]:
        """The four parameters as JSON types."""
        return {
            "learning_rate": float(self.learning_rate),
            "batch_size": int(self.batch_size) if float(self.batch_size).is_integer() else float(self.batch_size),
            "weight_amplitude": float(self.weight_amplitude),
            "dtype": self.dtype,
        }

    def _rounded(self, weight: float) -> float:
        """The nearest number of the type's precision, ties to the even one; beyond its largest one ``g`` overflows."""
        spacing = self._spacing(weight)
        return round(weight / spacing) * spacing

    def _spacing(self, magnitude: float, dtype: str | None = None) -> float:
        """Distance of neighbouring floats of ``dtype`` at ``magnitude``."""
        dtype = dtype or self.dtype
        exponent = math.frexp(magnitude)[1] - 1 if magnitude else _SMALLEST_EXPONENT[dtype]
        return math.ldexp(1.0, max(exponent, _SMALLEST_EXPONENT[dtype]) - _MANTISSA_BITS[dtype])


def _largest_absolute_value(tensors: list[torch.Tensor]) -> float:
    """NaN where a tensor holds one; waits once for each device, not once for each tensor."""
    import torch

    alike: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
    for tensor in tensors:
        real = tensor.abs() if tensor.is_complex() else tensor
        dtype = torch.float64 if real.dtype == torch.float64 else torch.float32
        alike.setdefault((tensor.device, dtype), []).append(real)
    of_device: dict[torch.device, list[torch.Tensor]] = {}
    for (device, dtype), reals in alike.items():
        norms = torch._foreach_norm(reals, math.inf, dtype=dtype)
        of_device.setdefault(device, []).append(torch.stack(norms).max().double())
    found = torch.tensor([float(torch.stack(values).max()) for values in of_device.values()], dtype=torch.float64)
    return float(found.max())  # unlike Python's, torch's max of NaN and a number is NaN


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} is {value!r}; it must be a number")
    return float(value)

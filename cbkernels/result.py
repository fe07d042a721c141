"""What a measurement returns: the numbers, and what exactly was measured."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ._version import __version__
from .entropy import BundleCounts
from .grid import UpdateGrid


@dataclass(frozen=True, slots=True)
class BundleResult:
    """Bundle entropy of one layer and the integers behind it.

    ``float(result)`` is the entropy. Whether a layer conflicts is asked of the integer
    ``num_conflicting``, never of the float.

    Attributes:
        entropy: nats; NaN when a row holds a NaN.
        num_bundles: number of different rows (each NaN row is one).
        num_conflicting: bundles whose rows carry at least two labels.
        num_nan_rows: rows that hold a NaN.
        num_rows: N.
        num_conflicting_rows: rows in conflicting bundles.
        num_columns: D, values per row.
        dtype: type of the activations, e.g. "bfloat16".
        device: where they were, e.g. "cpu", "cuda:0".
        backend: what measured: "cpu", "cuda", "reference".
        grid: the update grid, None for plain equality.
        tolerance: (rtol, atol) of the order-dependent isclose variant, else None.
        log_epsilon: of the authors' variant of the logarithm, else None.
        exact: True when rows were compared, False when 128-bit fingerprints were
            (two different rows share one with probability at most 2**-120 over a key that was drawn at random).
        version: of cbkernels.
    """

    entropy: float
    num_bundles: int
    num_conflicting: int
    num_nan_rows: int
    num_rows: int
    num_conflicting_rows: int
    num_columns: int
    dtype: str
    device: str
    backend: str
    grid: UpdateGrid | None = None
    tolerance: tuple[float, float] | None = None
    log_epsilon: float | None = None
    exact: bool = True
    version: str = __version__

    def __float__(self) -> float:
        return self.entropy

    @property
    def is_conflicting(self) -> bool:
        """At least one bundle carries two labels."""
        return self.num_conflicting > 0

    @property
    def equality(self) -> str:
        """The definition of "equal" that was used, in words."""
        if self.tolerance is not None:
            return f"isclose to the bundle's leader, rtol={self.tolerance[0]:g} atol={self.tolerance[1]:g}"
        if self.grid is not None:
            g = self.grid
            return (
                f"equal on the {g.dtype} update grid, lr={g.learning_rate:g} "
                f"batch_size={g.batch_size:g} w={g.weight_amplitude:g}"
            )
        return "equal values"

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON types (a NaN entropy becomes None)."""
        return {
            **{f.name: getattr(self, f.name) for f in fields(self)},
            "entropy": None if self.entropy != self.entropy else self.entropy,
            "grid": None if self.grid is None else self.grid.to_dict(),
            "tolerance": None if self.tolerance is None else list(self.tolerance),
            "equality": self.equality,
        }

    def __repr__(self) -> str:
        nan = f", {self.num_nan_rows} NaN rows" if self.num_nan_rows else ""
        return (
            f"BundleResult(entropy={self.entropy:.6g}, {self.num_bundles} bundles of {self.num_rows} rows, "
            f"{self.num_conflicting} conflicting{nan}; {self.equality})"
        )


def result_of(
    entropy: float, counts: BundleCounts, num_columns: int, dtype: str, device: str, backend: str,
    grid: UpdateGrid | None, log_epsilon: float | None, *,
    tolerance: tuple[float, float] | None = None, exact: bool = True,
) -> BundleResult:  # fmt: skip
    """The result of a measurement, however its counts came about; arguments as the attributes of ``BundleResult``."""
    return BundleResult(
        entropy, counts.num_bundles, counts.num_conflicting, counts.num_nan_rows, counts.num_rows,
        counts.num_conflicting_rows, num_columns, dtype, device, backend, grid, tolerance, log_epsilon, exact,
    )  # fmt: skip

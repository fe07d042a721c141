"""Refusals of options; those of arrays are in ``arrays.py``."""

from __future__ import annotations

from .grid import UpdateGrid

Tolerance = tuple[float, float]


def check_options(grid: UpdateGrid | None, tolerance: Tolerance | None, log_epsilon: float | None) -> None:
    """Check what decides when rows are equal and how the logarithm is taken.

    Raises:
        TypeError, ValueError: one sentence that quotes the option.
    """
    if grid is not None and not isinstance(grid, UpdateGrid):
        raise TypeError(f"grid is {grid!r}; pass an UpdateGrid or None")
    if tolerance is not None:
        if not (isinstance(tolerance, tuple) and len(tolerance) == 2):
            raise TypeError(f"tolerance is {tolerance!r}; pass a tuple (rtol, atol)")
        if not all(_is_finite_and_not_negative(t) for t in tolerance):
            raise ValueError(f"tolerance is {tolerance!r}; rtol and atol must be finite and not negative")
        if grid is not None:
            raise ValueError("tolerance and grid are two definitions of equal; pass one of them")
    if log_epsilon is not None and not _is_finite_and_not_negative(log_epsilon):
        raise ValueError(f"log_epsilon is {log_epsilon!r}; it must be finite and not negative")


def _is_finite_and_not_negative(x: object) -> bool:
    return isinstance(x, (int, float)) and 0 <= x < float("inf")

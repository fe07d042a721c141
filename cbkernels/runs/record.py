"""A run as values: what its folder holds, read and typed. ``reader.py`` makes it; needs NumPy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .clean_text import text
from .schema import Comparison, Epoch, Result


@dataclass(frozen=True, eq=False)
class LayerTable:
    """One network of a run over its epochs, measured at one resolution: layers x epochs."""

    run: str
    round: int
    dtype: str
    """Of the update grid; "" for plain equality."""
    equality: str
    """The definition of equal in words."""
    layers: Sequence[str]
    """L names, the first layer first."""
    epochs: Sequence[int]
    """E of them, ascending."""
    measured: npt.NDArray[np.bool_]
    """(L, E), False where ``layers.csv`` has no line."""
    columns: Mapping[str, npt.NDArray[Any]]
    """Column of ``layers.csv`` or ``margins.csv`` -> (L, E) values; NaN, 0 or "" where there is none."""

    @property
    def entropy(self) -> npt.NDArray[np.float64]:
        """(L, E), nats; NaN where a row held a NaN."""
        return self.columns["entropy"]

    @property
    def num_conflicting(self) -> npt.NDArray[np.int64]:
        """(L, E) conflicting bundles."""
        return self.columns["num_conflicting"]

    @property
    def margin_bits(self) -> npt.NDArray[np.float64] | None:
        """(L, E) conflict margins in bits, infinities included; None where none was measured."""
        return self.columns.get("bits")


@dataclass(frozen=True)
class RunRecord:
    """What the folder of a run holds."""

    folder: Path
    command: str
    config: Mapping[str, Any]
    """The options and the version of the package that began it, JSON types."""
    environment: Mapping[str, Any]
    """Versions and machine, JSON types."""
    result: Result | None
    """Of the command's kind; None while the run is unfinished, or where it is damaged."""
    written_result: Mapping[str, Any]
    """The same as it is written, JSON types; empty where ``result`` is None."""
    history: Sequence[Epoch]
    """In the file's order."""
    layers: Sequence[LayerTable]
    notes: tuple[str, ...] = ()
    """A sentence on everything that is missing, damaged, or too large."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return text(self.folder.resolve().name) or "run"


@dataclass(frozen=True)
class ComparisonRecord:
    """What the folder of ``repr compare`` holds."""

    folder: Path
    comparison: Comparison
    runs: Mapping[str, Mapping[int, RunRecord]]
    """Criterion -> seed -> its run, of those that are there."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return text(self.folder.resolve().name) or "comparison"

"""A run's folder: every file is written aside and renamed, so a kill leaves the old or the new one."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..files.whole_files import write_whole
from ..grid import UpdateGrid
from ..result import BundleResult

LAYER_COLUMNS = (
    "run", "round", "epoch", "layer", "num_rows", "num_bundles", "num_conflicting", "entropy", "grid",
)  # fmt: skip
"""Columns of ``layers.csv``."""
MARGIN_COLUMNS = ("run", "round", "epoch", "layer", "margin", "bits", "grid")
"""Columns of ``margins.csv``."""


class RunFolder:
    """Files of one run.

    Args:
        path: made if it is missing, parents included.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)

    def write_bytes(self, name: str, content: bytes) -> Path:
        """Write a file aside and rename it.

        Raises:
            OSError: no space, no permission; an older file of that name is then unchanged.
        """
        target = self.path / name
        write_whole(target, content)
        return target

    def write_json(self, name: str, content: Mapping[str, Any]) -> Path:
        """Write one JSON object; NaN and infinities are refused as ValueError."""
        text = json.dumps(content, indent=2, allow_nan=False)
        return self.write_bytes(name, f"{text}\n".encode())

    def write_json_lines(self, name: str, lines: Iterable[Mapping[str, Any]]) -> Path:
        """Write one JSON object a line; NaN and infinities are refused as ValueError."""
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        return self.write_bytes(name, text.encode())

    def write_layers(self, rows: Iterable[Mapping[str, object]]) -> Path:
        """Write ``layers.csv`` from rows made by ``layer_row``."""
        text = io.StringIO()
        writer = csv.DictWriter(text, LAYER_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return self.write_bytes("layers.csv", text.getvalue().encode())


def layer_row(run: str, round_: int, epoch: int, layer: str, result: BundleResult) -> dict[str, object]:
    """One line of ``layers.csv``.

    Args:
        run: which network of the run.
        round_: pass of auto-tune, 0 where there is only one.
        epoch: epochs trained so far; 0 is before the training.
        layer: its name.
        result: what was measured; the entropy is written with all its digits ("nan" if it is one),
            the grid as ``dtype lr=... batch_size=... w=...``, empty for plain equality.
    """
    return {
        "run": run,
        "round": round_,
        "epoch": epoch,
        "layer": layer,
        "num_rows": result.num_rows,
        "num_bundles": result.num_bundles,
        "num_conflicting": result.num_conflicting,
        "entropy": repr(result.entropy),
        "grid": _grid(result.grid),
    }


def margin_row(
    run: str, round_: int, epoch: int, layer: str, margin: float, bits: float | None, grid: UpdateGrid | None
) -> dict[str, object]:
    """One line of ``margins.csv``: the conflict margin, and its bits above the grid's step ("nan": unknown)."""
    written = repr(float("nan") if bits is None else bits)
    return {
        "run": run, "round": round_, "epoch": epoch, "layer": layer, "margin": repr(margin), "bits": written,
        "grid": _grid(grid),
    }  # fmt: skip


def _grid(grid: UpdateGrid | None) -> str:
    if grid is None:
        return ""
    g = grid.to_dict()
    return f"{g['dtype']} lr={g['learning_rate']!r} batch_size={g['batch_size']} w={g['weight_amplitude']!r}"

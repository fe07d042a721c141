"""Reads run folders: config, result, history and layer tables as checked values. Needs NumPy only.

What a report cannot do without (``config.json``) is refused in one sentence; any other file that is missing,
damaged or too large becomes a sentence in ``RunFiles.notes``. Every text is cleaned of what cannot be shown.
Read next: ``page/run_page.py``, which makes a page of it; ``folder.py`` writes these files.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..drawing.history_figures import HeatMap

COMMANDS = ("train", "autotune", "remove")
MOST_BYTES = {"config.json": 1 << 20, "env.json": 1 << 20, "result.json": 16 << 20, "history.jsonl": 64 << 20,
              "layers.csv": 256 << 20, "margins.csv": 256 << 20}  # fmt: skip
"""Larger files are not read: 120 layers, 120 epochs and 20 rounds fill a tenth of it."""
MOST_CELLS = 2_000_000
"""Of one layer table; a few lines with made-up epochs must not ask for all memory."""
_PLACE = ("run", "round", "epoch", "layer", "grid")
_NEEDED = (("history.jsonl", "curves"), ("layers.csv", "heat maps"))
_GRID = re.compile(r"(\w+) lr=(\S+) batch_size=(\S+) w=(\S+)")


@dataclass(frozen=True)
class LayerTable:
    """One network of a run over its epochs, measured at one resolution."""

    run: str
    round: int
    dtype: str
    """Of the update grid; "" for plain equality."""
    equality: str
    """The definition of equal in words."""
    heat_map: HeatMap
    """Its title is empty."""


@dataclass(frozen=True)
class RunFiles:
    """What one run folder holds.

    ``result`` is None while the run is unfinished. ``history`` holds a dict an epoch, in the file's order.
    """

    folder: Path
    command: str
    config: dict[str, Any]
    env: dict[str, Any]
    result: dict[str, Any] | None
    history: tuple[dict[str, Any], ...]
    layers: tuple[LayerTable, ...]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The folder's name."""
        return text(self.folder.resolve().name) or "run"


def read_run(folder: str | os.PathLike[str]) -> RunFiles:
    """Read what is there.

    Args:
        folder: written by ``cbkernels train``, ``autotune`` or ``remove``, finished or not.

    Raises:
        ValueError: not a run folder, or its ``config.json`` is damaged or of another command.
        OSError: no such folder, or it cannot be read.
    """
    path = Path(folder)
    if not path.exists():
        raise FileNotFoundError(2, "no such run folder", str(path))
    if not (path / "config.json").is_file():
        raise ValueError(f"{os.fspath(path)!r} is not a run folder, it has no config.json; "
                         "pass the --out of cbkernels train, autotune or remove")  # fmt: skip
    config = _json_object(path / "config.json")
    command = config.get("command")
    if command not in COMMANDS:
        raise ValueError(f"{os.fspath(path / 'config.json')}: command is {command!r}; "
                         f"a report can be made of {', '.join(COMMANDS)}")  # fmt: skip
    notes: list[str] = []
    result = _optional_object(path / "result.json", notes)
    if result is not None and result.get("command", command) != command:
        notes.append(f"result.json is left out: it is of the command {text(result.get('command'))}, not of {command}.")
        result = None
    env = _optional_object(path / "env.json", notes) or {}
    if command != "remove":  # which may end without an epoch of training
        notes += [f"{name} is missing: there are no {what}." for name, what in _NEEDED if not (path / name).is_file()]
    history = tuple(_history(path / "history.jsonl", notes))
    return RunFiles(path, command, config, env, result, history, _layer_tables(path, notes), tuple(notes))


# --- single values --------------------------------------------------------------------------------


def number(value: object) -> float | None:
    """A number of a file as float, infinities and NaN included; None for everything else.

    Example:
        >>> number(3), number("3"), number(True), number(None)
        (3.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def text(value: object, most: int = 300) -> str:
    """A value of a file as a short line: what is invisible, reorders text or is no character becomes U+FFFD.

    Example:
        >>> text("conv1"), text("a" * 9, most=4), text(None), text([3, 12])
        ('conv1', 'aaa…', '', '[3, 12]')
    """
    if value is None:
        return ""
    if isinstance(value, (dict, list)):
        value = json.dumps(value, ensure_ascii=False, default=str)
    words = " ".join(str(value)[: 4 * most].split())
    clean = "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn") else c for c in words)
    return clean if len(clean) <= most else f"{clean[: most - 1]}…"


def items_of(value: object) -> list[dict[str, Any]]:
    """The objects of a list; none where the file holds something else."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def object_of(value: object) -> dict[str, Any]:
    """The object itself; an empty one where the file holds something else."""
    return value if isinstance(value, dict) else {}


# --- files ----------------------------------------------------------------------------------------


def _checked_bytes(path: Path) -> bytes:
    """The content of a file that is not larger than its kind may be."""
    most = MOST_BYTES[path.name]
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path} has more than {most >> 20} MiB; such a file is not read")
    return content


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_checked_bytes(path).decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {text(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; a JSON object is needed")
    return content


def _optional_object(path: Path, notes: list[str]) -> dict[str, Any] | None:
    """None where the file is missing, which is not noted, or damaged, which is."""
    if not path.is_file():
        return None
    try:
        return _json_object(path)
    except (OSError, ValueError) as error:
        notes.append(_left_out(path, error))
        return None


def _left_out(path: Path, error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    reason = reason.removeprefix(f"{path} ").removeprefix("cannot be read: ")
    return f"{path.name} is left out: {text(reason)}."


def _history(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """Its lines; one that is cut off or damaged is left out and noted."""
    if not path.is_file():
        return []
    try:
        lines = _checked_bytes(path).split(b"\n")
    except (OSError, ValueError) as error:
        notes.append(_left_out(path, error))
        return []
    epochs, damaged = [], []
    for position, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line.decode())
        except (ValueError, RecursionError):
            content = None
        if isinstance(content, dict) and number(content.get("epoch")) is not None:
            epochs.append(content)
        else:
            damaged.append(position)
    if damaged:
        others = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        notes.append(f"{path.name} is damaged or cut off at line {damaged[0]}{others}: what is there is left out.")
    return epochs


# --- layers x epochs ------------------------------------------------------------------------------


@dataclass
class _Cells:
    """What the CSV files say of one round at one resolution; the last line of a layer and epoch counts."""

    grids: list[str] = field(default_factory=list)
    layers: dict[str, int] = field(default_factory=dict)
    entropy: dict[tuple[int, int], tuple[float, int]] = field(default_factory=dict)
    bits: dict[tuple[int, int], float] = field(default_factory=dict)

    def position(self, row: Mapping[str, str]) -> tuple[int, int]:
        layer = self.layers.setdefault(row["layer"], len(self.layers))
        if not self.grids or self.grids[-1] != row["grid"]:
            self.grids.append(row["grid"])
        return layer, int(row["epoch"])


def _layer_tables(folder: Path, notes: list[str]) -> tuple[LayerTable, ...]:
    cells: dict[tuple[str, int, str], _Cells] = {}
    for row in _rows(folder / "layers.csv", (*_PLACE, "num_conflicting", "entropy"), notes):
        place = cells.setdefault(_key(row), _Cells())
        place.entropy[place.position(row)] = (float(row["entropy"]), int(row["num_conflicting"]))
    for row in _rows(folder / "margins.csv", (*_PLACE, "bits"), notes):
        place = cells.setdefault(_key(row), _Cells())
        place.bits[place.position(row)] = float(row["bits"] or "nan")
    tables = []
    for (run, round_, dtype), place in cells.items():
        epochs = sorted({epoch for _, epoch in (*place.entropy, *place.bits)})
        if len(place.layers) * len(epochs) > MOST_CELLS:
            notes.append(f"layers.csv: round {round_} is left out: {len(place.layers)} layers x {len(epochs)} epochs "
                         f"are more than {MOST_CELLS} cells.")  # fmt: skip
            continue
        words = equality_of(place.grids)
        tables.append(LayerTable(text(run, 40), round_, text(dtype, 20), words, _heat_map(place, epochs)))
    return tuple(tables)


def _key(row: Mapping[str, str]) -> tuple[str, int, str]:
    return row["run"], int(row["round"]), row["grid"].partition(" ")[0]


def _rows(path: Path, needed: tuple[str, ...], notes: list[str]) -> Iterator[dict[str, str]]:
    """Rows of a CSV file that can be read; the others are counted in a note."""
    if not path.is_file():
        return
    try:
        content = _checked_bytes(path).decode()
    except (OSError, ValueError) as error:
        notes.append(_left_out(path, error))
        return
    reader = csv.DictReader(content.replace("\0", "").splitlines())
    lacking = [name for name in needed if name not in (reader.fieldnames or [])]
    if lacking:
        notes.append(f"{path.name} is left out: it has no column {lacking[0]!r}.")
        return
    damaged = 0
    try:
        for row in reader:
            if _is_readable(row, needed):
                yield row
            else:
                damaged += 1
    except csv.Error as error:
        notes.append(f"{path.name} is read up to line {reader.line_num}: {text(error)}.")
    if damaged:
        notes.append(f"{path.name}: {damaged} {'line is' if damaged == 1 else 'lines are'} damaged and left out.")


def _is_readable(row: Mapping[str, str | None], needed: tuple[str, ...]) -> bool:
    try:
        for name in needed:
            value = row[name]
            if value is None:
                return False
            if name in ("round", "epoch", "num_conflicting") and abs(int(value)) >= 2**31:
                return False
            if name in ("entropy", "bits"):
                float(value or "nan")  # no bits where there is no grid
    except ValueError:
        return False
    return True


def _heat_map(place: _Cells, epochs: list[int]) -> HeatMap:
    shape = (len(place.layers), len(epochs))
    column = {epoch: i for i, epoch in enumerate(epochs)}
    entropy = np.full(shape, math.nan)
    conflicting = np.zeros(shape, np.int64)
    measured = np.zeros(shape, np.bool_)
    bits: npt.NDArray[np.float64] | None = np.full(shape, math.nan) if place.bits else None
    for (layer, epoch), (value, count) in place.entropy.items():
        at = layer, column[epoch]
        entropy[at], conflicting[at], measured[at] = value, count, True
    for (layer, epoch), value in place.bits.items():
        assert bits is not None
        bits[layer, column[epoch]] = value
    return HeatMap("", [text(name, 60) for name in place.layers], epochs, entropy, conflicting, measured, bits)


def equality_of(grids: list[str]) -> str:
    """The definition of equal in words, from the grids of ``layers.csv``.

    Example:
        >>> equality_of(["float32 lr=0.001 batch_size=64 w=0.73", "float32 lr=0.001 batch_size=64 w=1.5"])
        'equal on the float32 update grid, lr=0.001 batch_size=64 w=0.73 to 1.5'
        >>> equality_of([""])
        'equal values'
    """
    parts = [match.groups() for grid in grids if (match := _GRID.fullmatch(grid.strip()))]
    if not parts:
        return text(grids[0]) or "equal values" if grids else "equal values"
    rate, size, amplitude = (_range([part[i] for part in parts]) for i in (1, 2, 3))
    return f"equal on the {text(parts[0][0])} update grid, lr={rate} batch_size={size} w={amplitude}"


def _range(values: list[str]) -> str:
    try:
        low, high = (f"{end(map(float, values)):g}" for end in (min, max))
    except ValueError:
        return text(values[0], 40)
    return low if low == high else f"{low} to {high}"

"""Reads run folders, whatever became of them: the one place that is tolerant of damage. Needs NumPy only.

What a run cannot do without (``config.json``) is refused in one sentence; any other file that is missing, damaged or
too large becomes a sentence in ``RunRecord.notes``. Read next: ``schema.py`` (files, columns, fields), ``record.py``.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..files.json_files import json_object, read_bytes, read_json_object
from ..files.typed_json import typed
from ..findings.columns import NAMES as REPORT_COLUMNS
from . import schema
from .clean_text import text
from .record import ComparisonRecord, LayerTable, RunRecord
from .schema import COMPARISON, CONFIG, ENVIRONMENT, HISTORY, RESULT, Epoch, Table

MOST_BYTES = {CONFIG: 1 << 20, ENVIRONMENT: 1 << 20, RESULT: 16 << 20, HISTORY: 64 << 20,
              schema.LAYERS.file: 256 << 20, schema.MARGINS.file: 256 << 20}  # fmt: skip
"""Larger files are not read: 120 layers, 120 epochs and 20 rounds fill a tenth of it."""
MOST_CELLS = 2_000_000
"""Of one layer table; a few lines with made-up epochs must not ask for all memory."""
_NEEDED = ((HISTORY, "curves"), (schema.LAYERS.file, "heat maps"))
_GRID = re.compile(r"(\w+) lr=(\S+) batch_size=(\S+) w=(\S+)")
_EMPTY: Mapping[type, Any] = {int: 0, float: math.nan, str: ""}
Read = TypeVar("Read")


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """``config.json``: the command, the version, and the options.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged or too large.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; name the folder of a run")
    return read_json_object(path, MOST_BYTES[CONFIG])


def data_found_at(folder: str | os.PathLike[str], dataset: str) -> str | None:
    """Where a run found this data set on this disk; None where ``env.json`` does not say it, or of another one."""
    config, machine = (_optional(Path(folder) / name, [], read_json_object) or {} for name in (CONFIG, ENVIRONMENT))
    found = machine.get("data") if config.get("dataset") == dataset else None
    return found if isinstance(found, str) else None


def read_run(folder: str | os.PathLike[str], *, tables: bool = True) -> RunRecord:
    """Read what is there.

    Args:
        folder: written by ``cbkernels train``, ``autotune`` or ``remove``, finished or not.
        tables: False passes the layer tables over.

    Raises:
        ValueError: not a run folder, or its ``config.json`` is damaged or of another command.
        OSError: no such folder, or it cannot be read.
    """
    path = Path(folder)
    if not path.exists():
        raise FileNotFoundError(2, "no such run folder", str(path))
    if not (path / CONFIG).is_file():
        raise ValueError(f"{os.fspath(path)!r} is not a run folder, it has no config.json; "
                         "pass the --out of cbkernels train, autotune or remove")  # fmt: skip
    config = read_config(path)
    command = config.get("command")
    if not isinstance(command, str) or command not in schema.RESULTS:
        raise ValueError(f"{os.fspath(path / CONFIG)}: command is {command!r}; "
                         f"a report can be made of {', '.join(schema.RESULTS)}")  # fmt: skip
    notes: list[str] = []
    written = _optional(path / RESULT, notes, partial(read_json_object, finite=False)) or {}
    if written.get("command", command) != command:
        notes.append(f"{RESULT} is left out: it is of the command {text(written.get('command'))}, not of {command}.")
        written = {}
    environment = _optional(path / ENVIRONMENT, notes, read_json_object) or {}
    if command != "remove":  # which may end without an epoch of training
        notes += [f"{name} is missing: there are no {what}." for name, what in _NEEDED if not (path / name).is_file()]
    damage: list[str] = []
    result = typed(schema.RESULTS[command], written, damage) if written else None
    _note_damage(RESULT, damage, notes)
    history = _history(path / HISTORY, notes)
    layers = _layer_tables(path, notes) if tables else ()
    return RunRecord(path, command, config, environment, result, written, history, layers, tuple(notes))


def read_comparison(folder: str | os.PathLike[str]) -> ComparisonRecord | None:
    """Read the folder of ``repr compare`` with its runs; None where it holds no ``comparison.json``.

    Raises:
        ValueError: the file is damaged or of another command, or none of its runs is there.
        OSError: it cannot be read.
    """
    path = Path(folder)
    if not (path / COMPARISON).is_file():
        return None
    comparison = typed(schema.Comparison, read_json_object(path / COMPARISON, MOST_BYTES[RESULT]), [])
    if comparison.command != "repr compare":
        raise ValueError(f"{os.fspath(path / COMPARISON)} is not of cbkernels repr compare; name the folder of a run")
    there = {each.name: each for each in path.iterdir() if (each / CONFIG).is_file()}
    runs = {
        name: {seed: read_run(there[run]) for seed in comparison.seeds if (run := f"{name}-seed{seed}") in there}
        for name in (row.criterion for row in comparison.rows) if name is not None
    }  # fmt: skip
    if not any(runs.values()):
        raise ValueError(f"{os.fspath(path)!r} holds none of the runs that its {COMPARISON} names")
    return ComparisonRecord(path, comparison, runs)


def is_drawn(path: Path) -> bool:
    """Whether a file is a page or a picture of this package."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        begins = file.read(4096)
    return any(mark in begins for mark in schema.MARKS)


# --- files ----------------------------------------------------------------------------------------


def _optional(path: Path, notes: list[str], read: Callable[[Path, int], Read]) -> Read | None:
    """What ``read`` returns; None where the file is missing, which is not noted, or damaged, which is."""
    if not path.is_file():
        return None
    try:
        return read(path, MOST_BYTES[path.name])
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        notes.append(f"{path.name} is left out: {text(reason.replace(f'{path} ', 'it ', 1))}.")
        return None


def _note_damage(name: str, damage: Sequence[str], notes: list[str]) -> None:
    """One sentence on values of wrong types."""
    if damage:
        others = f", and {len(damage) - 1} more such values are" if len(damage) > 1 else " is"
        notes.append(f"{name}: {text(damage[0])}; it{others} left out.")


def _history(path: Path, notes: list[str]) -> list[Epoch]:
    """Its lines; one that is cut off or damaged is left out and noted."""
    epochs: list[Epoch] = []
    damaged: list[int] = []
    damage: list[str] = []
    for position, line in enumerate((_optional(path, notes, read_bytes) or b"").split(b"\n"), 1):
        if not line.strip():
            continue
        wrong: list[str] = []
        try:
            epoch = typed(Epoch, json_object(line, path.name, finite=False), wrong, f"line {position}: ")
        except ValueError:
            epoch = Epoch()
        if epoch.epoch is None:
            damaged.append(position)
        else:
            epochs.append(epoch)
            damage += wrong
    if damaged:
        others = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        notes.append(f"{path.name} is damaged or cut off at line {damaged[0]}{others}: what is there is left out.")
    _note_damage(path.name, damage, notes)
    return epochs


# --- layers x epochs ------------------------------------------------------------------------------


def _layer_tables(folder: Path, notes: list[str]) -> list[LayerTable]:
    """One for every network and resolution that a line is of."""
    groups: dict[tuple[str, int, str], list[tuple[Table, dict[str, Any]]]] = {}
    for table in (schema.LAYERS, schema.MARGINS):
        for row in _rows(folder / table.file, table, notes):
            key = row["run"], row["round"], row["grid"].partition(" ")[0]
            groups.setdefault(key, []).append((table, row))
    tables = []
    for (run, round_, dtype), rows in groups.items():
        layers, grids = (dict.fromkeys(row[name] for _, row in rows) for name in ("layer", "grid"))
        epochs = sorted({row["epoch"] for _, row in rows})
        if len(layers) * len(epochs) > MOST_CELLS:
            extent = f"{len(layers)} layers x {len(epochs)} epochs"
            notes.append(f"layers.csv: round {round_} is left out: {extent} are more than {MOST_CELLS} cells.")
            continue
        measured, columns = _arrays(rows, list(layers), epochs)
        names = [text(name, 60) for name in layers]
        equality = equality_of(list(grids))
        tables.append(LayerTable(text(run, 40), round_, text(dtype, 20), equality, names, epochs, measured, columns))
    return tables


def _arrays(
    rows: Sequence[tuple[Table, Mapping[str, Any]]], layers: Sequence[str], epochs: Sequence[int]
) -> tuple[Any, dict[str, Any]]:
    """Which cells were measured, and an array for every column; the last line of a layer and epoch counts."""
    shape = (len(layers), len(epochs))
    of_layer, of_epoch = ({value: i for i, value in enumerate(values)} for values in (layers, epochs))
    measured = np.zeros(shape, np.bool_)
    tables = {table.file: table.measured for table in (schema.LAYERS, rows[-1][0])}  # margins come last
    columns = {
        column.name: np.full(shape, _EMPTY[column.kind], object if column.kind is str else None)
        for file in tables
        for column in tables[file]
    }
    for table, row in rows:
        at = of_layer[row["layer"]], of_epoch[row["epoch"]]
        measured[at] |= table is schema.LAYERS
        for column in tables[table.file]:
            columns[column.name][at] = row[column.name]
    return measured, columns


def _rows(path: Path, table: Table, notes: list[str]) -> Iterator[dict[str, Any]]:
    """Lines of a table that can be read; the others are counted in a note."""
    content = _optional(path, notes, lambda path, most: read_bytes(path, most).decode())
    if content is None:
        return
    reader = csv.DictReader(io.StringIO(content.replace("\0", ""), newline=""))
    try:
        header = list(reader.fieldnames or [])
    except csv.Error as error:
        notes.append(f"{path.name} is left out: {text(error)}.")
        return
    lacking = [column.name for column in table.columns if column.is_needed and column.name not in header]
    if lacking:
        of_report = header == list(REPORT_COLUMNS)
        what = "it is what LayerReport.to_csv writes, not the table of a run" if of_report else (
            f"it has no column {lacking[0]!r}")  # fmt: skip
        notes.append(f"{path.name} is left out: {what}.")
        return
    columns = [column for column in table.columns if column.is_needed or column.name in header]
    empty = {column.name: _EMPTY[column.kind] for column in table.columns}
    damaged = 0
    try:
        for row in reader:
            try:
                yield {**empty, **{column.name: column.read(row[column.name]) for column in columns}}
            except ValueError:
                damaged += 1
    except csv.Error as error:
        notes.append(f"{path.name} is read up to line {reader.line_num}: {text(error)}.")
    if damaged:
        notes.append(f"{path.name}: {damaged} {'line is' if damaged == 1 else 'lines are'} damaged and left out.")


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

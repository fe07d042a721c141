"""What a run writes while it goes on: history, layers, margins, and the checkpoint that they agree with.

All text is kept and written whole, then the checkpoint with the number of lines; a run that goes on cuts the files
back to it, so that a kill between two writes leaves no trace.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..findings.layer_report import LayerReport
from .checkpoints import load_checkpoint, save_checkpoint
from .folder import LAYER_COLUMNS, MARGIN_COLUMNS, RunFolder, layer_row, margin_row

CHECKPOINT = "checkpoint.safetensors"
_TABLES = {"layers.csv": LAYER_COLUMNS, "margins.csv": MARGIN_COLUMNS}


class RunLog:
    """The lines of one run.

    Args:
        folder: where they are written; None keeps them in memory only.
        tensorboard: also write event files, into ``tensorboard/``.
    """

    def __init__(self, folder: RunFolder | None, *, tensorboard: bool = False) -> None:
        self.folder = folder
        self.history: list[dict[str, Any]] = []
        self._lines: dict[str, list[str]] = {name: [_csv(columns)] for name, columns in _TABLES.items()}
        self._writer = _event_writer(folder.path) if folder is not None and tensorboard else None

    def add_reports(self, run: str, round_: int, epoch: int, reports: Iterable[LayerReport]) -> None:
        """Rows of everything that was measured after an epoch."""
        for report in reports:
            self._lines["layers.csv"] += [
                _csv(layer_row(run, round_, epoch, name, result).values()) for name, result in report.items()
            ]
            bits = report.margin_bits
            self._lines["margins.csv"] += [
                _csv(margin_row(run, round_, epoch, name, margin, bits[name], report.grid).values())
                for name, margin in report.margins.items()
            ]

    def add_epoch(self, line: Mapping[str, Any]) -> None:
        """A line of ``history.jsonl``; numbers that are not finite become null."""
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        self.history.append(finite)
        if self._writer is not None:
            prefix = f"{finite['run']}/round {finite['round']}/"
            for name, value in finite.items():
                if isinstance(value, float):
                    self._writer.add_scalar(prefix + name, value, finite["epoch"])
            self._writer.flush()

    def write(self) -> None:
        """Write ``history.jsonl`` and the tables.

        Raises:
            OSError: no space, no permission; the older files are then unchanged.
        """
        if self.folder is None:
            return
        self.folder.write_bytes("history.jsonl", "".join(json.dumps(line) + "\n" for line in self.history).encode())
        for name, lines in self._tables().items():
            self.folder.write_bytes(name, "".join(lines).encode())

    def _tables(self) -> dict[str, list[str]]:
        """``layers.csv``, and ``margins.csv`` once there is a margin."""
        return {name: lines for name, lines in self._lines.items() if name == "layers.csv" or len(lines) > 1}

    def save(self, content: Mapping[str, Any]) -> None:
        """``write``, then the checkpoint: ``content`` and how many lines go with it."""
        if self.folder is None:
            return
        self.write()
        lines = {"history.jsonl": len(self.history), **{name: len(table) for name, table in self._tables().items()}}
        save_checkpoint(self.folder.path / CHECKPOINT, {**content, "lines": lines})

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint, the lines cut back to it; None when the run was killed before its first one.

        Raises:
            ValueError: a file is damaged.
        """
        if self.folder is None or not (self.folder.path / CHECKPOINT).exists():
            return None
        content = load_checkpoint(self.folder.path / CHECKPOINT)
        try:
            lines = content["lines"]
            self.history = [
                json.loads(line) for line in _kept(self.folder.path / "history.jsonl", lines["history.jsonl"])
            ]
            for name in ("layers.csv", *(["margins.csv"] if "margins.csv" in lines else [])):
                self._lines[name] = _kept(self.folder.path / name, lines[name])
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{self.folder.path} does not fit its checkpoint ({error!r}); start a new run") from error
        return content

    def close(self) -> None:
        """Close the event files."""
        if self._writer is not None:
            self._writer.close()


def _csv(values: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


def _kept(path: Path, count: int) -> list[str]:
    try:
        lines = path.read_text().splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); start a new run") from error
    if len(lines) < count:
        raise ValueError(f"{path} has {len(lines)} lines and its checkpoint {count}; start a new run")
    return lines[:count]


def _event_writer(path: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ImportError("--tensorboard needs tensorboard: pip install tensorboard") from None
    return SummaryWriter(str(path / "tensorboard"))

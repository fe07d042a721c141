"""What a run writes while it goes on: history, layers, margins, and the checkpoint that they agree with.

All text is kept and written whole, then the checkpoint with the number of lines; a run that goes on cuts the files
back to it, so that a kill between two writes leaves no trace.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..files.checkpoints import load_checkpoint, save_checkpoint
from ..files.json_files import finite_or_none, json_object
from ..files.typed_json import required
from ..findings.layer_report import LayerReport
from . import schema
from .folder import RunFolder
from .schema import CHECKPOINT, EVENTS, HISTORY, MeasuredLayer


class RunLog:
    """The lines of one run.

    Args:
        folder: where they are written; None keeps them in memory only.
        tensorboard: also write event files, into ``tensorboard/``.
    """

    def __init__(self, folder: RunFolder | None, *, tensorboard: bool = False) -> None:
        self.folder = folder
        self.history: list[dict[str, Any]] = []
        self._lines = {table.file: [table.header] for table in (schema.LAYERS, schema.MARGINS)}
        self._writer = _event_writer(folder.path) if folder is not None and tensorboard else None

    def add_reports(self, run: str, round_: int, epoch: int, reports: Iterable[LayerReport]) -> None:
        """Rows of everything that was measured after an epoch."""
        for report in reports:
            bits, nan = report.margin_bits, float("nan")
            for layer, result in report.items():
                margin = report.margins.get(layer, nan)
                measured = MeasuredLayer(run, round_, epoch, layer, result, margin, bits[layer])
                for table in (schema.LAYERS, *([schema.MARGINS] if layer in report.margins else ())):
                    self._lines[table.file] += table.line(measured).splitlines(keepends=True)

    def add_epoch(self, line: Mapping[str, Any]) -> None:
        """A line of ``history.jsonl``; numbers that are not finite become null."""
        finite = {name: finite_or_none(v) if isinstance(v, float) else v for name, v in line.items()}
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
        self.folder.write_json_lines(HISTORY, self.history)
        for name, lines in self._tables().items():
            self.folder.write_bytes(name, "".join(lines).encode())

    def _tables(self) -> dict[str, list[str]]:
        """``layers.csv``, and ``margins.csv`` once there is a margin."""
        return {name: lines for name, lines in self._lines.items() if name == schema.LAYERS.file or len(lines) > 1}

    def save(self, content: Mapping[str, Any]) -> None:
        """``write``, then the checkpoint: ``content`` and how many lines go with it."""
        if self.folder is None:
            return
        self.write()
        lines = {HISTORY: len(self.history), **{name: len(table) for name, table in self._tables().items()}}
        save_checkpoint(self.folder.path / CHECKPOINT, {**content, "lines": lines})

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint, the lines cut back to it; None when the run was killed before its first one.

        Raises:
            ValueError: a file is damaged, or the checkpoint of a run that had one is gone.
        """
        if self.folder is None:
            return None
        path = self.folder.path / HISTORY
        if not (self.folder.path / CHECKPOINT).exists():
            if path.exists() and path.read_bytes().count(b"\n") > 1:  # one line is written before the first checkpoint
                raise ValueError(
                    f"{self.folder.path / CHECKPOINT} is gone, and {HISTORY} has epochs behind the first one; bring it "
                    "back, or start again with --overwrite"
                )
            return None
        content = load_checkpoint(self.folder.path / CHECKPOINT)
        try:
            counts = content["lines"]
            self.history = [json_object(line, path) for line in _kept(path, counts[HISTORY])]
            for line in self.history:
                required(schema.Epoch, line, path)
            for table in (schema.LAYERS, *([schema.MARGINS] if schema.MARGINS.file in counts else ())):
                file = self.folder.path / table.file
                self._lines[table.file] = _kept(file, counts[table.file])
                if self._lines[table.file][:1] != [table.header]:
                    raise ValueError(f"{file} is damaged: its first line is not {table.header.strip()!r}")
        except (KeyError, TypeError, ValueError) as error:
            reason = (
                error if isinstance(error, ValueError) else f"{path.parent} does not fit its checkpoint ({error!r})"
            )
            raise ValueError(f"{reason}; bring the run's files back, or start again with --overwrite") from error
        return content

    def close(self) -> None:
        """Close the event files."""
        if self._writer is not None:
            self._writer.close()


def _kept(path: Path, count: int) -> list[str]:
    try:
        lines = path.read_bytes().decode().splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from error
    if len(lines) < count:
        raise ValueError(f"{path} has {len(lines)} lines and its checkpoint {count}")
    return lines[:count]


def _event_writer(path: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ImportError("--tensorboard needs tensorboard: pip install tensorboard") from None
    return SummaryWriter(str(path / EVENTS))

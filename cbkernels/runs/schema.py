"""What is in the folder of a run: every file, every column of its tables, every field of its results, once.

A column of ``layers.csv`` says how it is written from what was measured, how it is read, and whether the report shows
it. Fields of JSON files are those of dataclasses here; ``reader.py`` fills them, None standing for what a file lacks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..files.csv_files import csv_cell, csv_line
from ..files.folder_lock import LOCK
from ..files.typed_json import Count, DifferenceOfShares, NotNegative, Share

if TYPE_CHECKING:  # the command line reads names here, and a line of --help needs no NumPy
    from ..grid import UpdateGrid
    from ..result import BundleResult

KIND = "cbkernels run 1"
"""What ``config.json`` says under "schema", beside "command" and "version"; folders of version 0.1.0 lack it."""
CONFIG, ENVIRONMENT, RESULT, HISTORY = "config.json", "env.json", "result.json", "history.jsonl"
"""``env.json`` holds versions, the machine and, as "data", the path at which the data were found, or null."""
CHECKPOINT, PROGRESS = "checkpoint.safetensors", "progress.json"
"""What a training, and a removal, goes on from."""
REPORT, PICTURES = "report.html", ("report_files/*.svg", "report_files/*.png")
"""For the folder of the pictures see ``pictures_folder`` in ``page/run_page.py``."""
EVENTS = "tensorboard"
EXPORT = "model"
"""Folder of the network that a removal ends with."""
PRUNING = "pruning"
"""Folder from which a removal goes on; deleted when it has ended."""
REMOVAL = "removal"
"""Folder of the removal of a run's blocks, unless one names another: a run folder in the run folder."""
COMPARISON, COMPARISON_PICTURE = "comparison.json", "comparison.png"
"""Of ``repr compare``, in the folder above its runs."""


# --- tables ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MeasuredLayer:
    """One layer as it was measured once."""

    run: str
    """Which network of the run."""
    round: int
    """Pass of auto-tune, 0 where there is only one."""
    epoch: int
    """Epochs trained so far; 0 is before the training."""
    layer: str
    result: BundleResult
    margin: float = float("nan")
    bits: float | None = None
    """The margin in bits above the grid's step; None without a grid."""


LARGEST = 1e200
"""Of what is read to be drawn: beside the largest of all floats the ticks of an axis overflow."""


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    kind: type[int] | type[float] | type[str]
    written: Callable[[MeasuredLayer], object]
    title: str = ""
    """Heads its cells in the report's table of layers; "" where the report draws it, or leaves it out."""
    is_needed: bool = True
    """A table without it is not read; of another column the cells are then 0, NaN or empty."""
    is_signed: bool = False
    """Whether its numbers may be negative."""
    may_be_infinite: bool = False
    """Others that are larger than ``LARGEST`` were never measured."""

    def read(self, cell: str | None) -> Any:
        """The value of a cell; a ValueError if it is none, or not in the column's range, or None: not there."""
        if cell is None:
            raise ValueError("the line is too short")
        if self.kind is str:
            return csv_cell(cell)
        value = int(cell) if self.kind is int else float(cell or "nan")
        is_large = abs(value) > LARGEST and not (self.may_be_infinite and math.isinf(value))
        if is_large or (value < 0 and not self.is_signed) or (self.kind is int and value >= 2**31):
            most = "2**31 - 1" if self.kind is int else f"{LARGEST:g}"
            raise ValueError(f"{self.name} is {cell}; it must be {f'-{most}' if self.is_signed else 0} to {most}")
        return value


@dataclass(frozen=True)
class Table:
    """A CSV file with a line a layer and epoch."""

    file: str
    columns: tuple[Column, ...]

    @property
    def measured(self) -> list[Column]:
        """Those that do not say where a line belongs."""
        return [column for column in self.columns if column not in (*_PLACE, _GRID)]

    @property
    def header(self) -> str:
        """The first line, with its newline."""
        return csv_line(column.name for column in self.columns)

    def line(self, measured: MeasuredLayer) -> str:
        """The line of a measurement, with its newline."""
        return csv_line(column.written(measured) for column in self.columns)


def _grid(grid: UpdateGrid | None) -> str:
    """``dtype lr=... batch_size=... w=...``; empty for plain equality."""
    if grid is None:
        return ""
    g = grid.to_dict()
    return f"{g['dtype']} lr={g['learning_rate']!r} batch_size={g['batch_size']} w={g['weight_amplitude']!r}"


_PLACE = (
    Column("run", str, lambda m: m.run),
    Column("round", int, lambda m: m.round),
    Column("epoch", int, lambda m: m.epoch),
    Column("layer", str, lambda m: m.layer),
)
_GRID = Column("grid", str, lambda m: _grid(m.result.grid))
LAYERS = Table(
    "layers.csv",
    (
        *_PLACE,
        Column("num_rows", int, lambda m: m.result.num_rows, is_needed=False),
        Column("num_bundles", int, lambda m: m.result.num_bundles, is_needed=False),
        Column("num_conflicting", int, lambda m: m.result.num_conflicting),
        Column("entropy", float, lambda m: repr(m.result.entropy)),
        _GRID,
    ),
)
"""Every layer of a run after every epoch. ``LayerReport.to_csv`` writes other columns, of one report."""
MARGINS = Table(
    "margins.csv",
    (
        *_PLACE,
        Column("margin", float, lambda m: repr(m.margin), is_needed=False, may_be_infinite=True),
        Column(
            "bits",
            float,
            lambda m: repr(float("nan") if m.bits is None else m.bits),
            is_signed=True,
            may_be_infinite=True,
        ),
        _GRID,
    ),
)
"""Conflict margins, where they were measured."""

_TRAINING = (
    REPORT, RESULT, CHECKPOINT, MARGINS.file, LAYERS.file, HISTORY, f"{EVENTS}/events.out.tfevents.*", ENVIRONMENT,
)  # fmt: skip
PRUNING_FILES = tuple(f"{PRUNING}/*/{name}" for name in ("pruning.json", "weights-*.safetensors", LOCK))
EXPORTED = tuple(f"{EXPORT}/{name}" for name in ("network.json", "surgery.json", "model.safetensors", LOCK))
FILES: Mapping[str, tuple[str, ...]] = {
    "train": _TRAINING,
    "autotune": _TRAINING,
    "remove": (
        REPORT, RESULT, PROGRESS, *PRUNING_FILES, *EXPORTED, LAYERS.file, HISTORY, ENVIRONMENT,
    ),
    "repr compare": (REPORT, COMPARISON_PICTURE),
}  # fmt: skip
"""Command -> what it writes beside ``config.json`` or ``comparison.json``, and what a new run deletes of an older one,
in this order. All else in a folder is somebody else's. Pictures of a report are replaced, not deleted."""
MARKS = (b'content="cbkernels ', b"Software\0cbkernels", b"<dc:title>cbkernels")
"""One of them is near the beginning of every page and picture of this package."""
DRAWN = (REPORT, COMPARISON_PICTURE, *PICTURES)
"""What is written without the folder's lock: anybody who may read a run may draw it."""


# --- fields of JSON files -------------------------------------------------------------------------


@dataclass(frozen=True)
class Epoch:
    """A line of ``history.jsonl``; shares in [0, 1], entropies in nats, times in seconds."""

    run: str | None = None
    round: Count | None = None
    seed: Count | None = None
    epoch: NotNegative | None = None
    train_loss: float | None = None
    test_accuracy: Share | None = None
    validation_accuracy: Share | None = None
    learning_rate: NotNegative | None = None
    """Of the update that comes next, as the schedule has it; that of the grid is in the tables of layers."""
    weight_amplitude: NotNegative | None = None
    num_conflicting_layers: Count | None = None
    first_conflicting: str | None = None
    most_conflicting_rows: Share | None = None
    """Of the probe, in the layer that has the most."""
    mean_entropy: NotNegative | None = None
    mean_entropy_bfloat16: NotNegative | None = None
    mean_entropy_float16: NotNegative | None = None
    least_margin_bits: float | None = None
    repr_event: str | None = None
    dropped_filters: Count | None = None
    orthogonality: NotNegative | None = None
    seconds_training: NotNegative | None = None
    seconds_measuring: NotNegative | None = None
    seconds_evaluating: NotNegative | None = None


@dataclass(frozen=True)
class Trained:
    """A network and how its training ended."""

    architecture: dict[str, Any] | None = None
    name: str | None = None
    epochs: Count | None = None
    trained: bool | None = None
    """Whether it was at all, of the networks of auto-tune."""
    test_accuracy: Share | None = None
    validation_accuracy: Share | None = None
    mean_test_accuracy: Share | None = None
    num_conflicting_layers: Count | None = None
    first_conflicting: str | None = None


@dataclass(frozen=True)
class NetworkCost(Trained):
    """A network and what one forward pass of it costs; how it was trained is said of auto-tune's alone."""

    blocks: Count | None = None
    parameters: NotNegative | None = None
    macs: NotNegative | None = None
    flops: NotNegative | None = None
    latency_ms: NotNegative | None = None
    latency_ms_p10: NotNegative | None = None
    latency_ms_p90: NotNegative | None = None
    peak_memory_bytes: NotNegative | None = None
    device: str | None = None
    latency_batch: Count | None = None
    round: Count | None = None
    """The one that it is of, of an exhausted auto-tune, ..."""
    chosen_by: str | None = None
    """... and the column of the history that chose it."""


@dataclass(frozen=True)
class Result:
    """What ``result.json`` holds of every command, None where it does not."""

    command: str | None = None
    version: str | None = None
    status: str | None = None
    reason: str | None = None
    seed: Count | None = None
    dataset: str | None = None
    architecture: dict[str, Any] | None = None
    chance_accuracy: Share | None = None
    equality: str | None = None
    ranks: Count | None = None
    seconds_training: NotNegative | None = None
    seconds_measuring: NotNegative | None = None
    seconds_evaluating: NotNegative | None = None
    measuring_share: Share | None = None


@dataclass(frozen=True)
class Cycle:
    """One cycle of RePr; of the epochs at its ends only what a cycle can change."""

    cycle: Count | None = None
    dropped_filters: Count | None = None
    before: Epoch = field(default_factory=Epoch)
    reduced: Epoch = field(default_factory=Epoch)
    after: Epoch = field(default_factory=Epoch)


@dataclass(frozen=True)
class TrainResult(Trained, Result):
    """Of ``train``."""

    entropy_mean: Mapping[str, NotNegative] = field(default_factory=dict)
    repr: tuple[Cycle, ...] = ()
    cost: NetworkCost | None = None


@dataclass(frozen=True)
class Round(Trained):
    """One pass of auto-tune."""

    round: Count | None = None
    conflict_epoch: Count | None = None
    removed: tuple[str, ...] = ()
    entropy: NotNegative | None = None
    reason: str | None = None


@dataclass(frozen=True)
class AutotuneResult(Result):
    """Of ``autotune``."""

    policy: str | None = None
    rounds: tuple[Round, ...] = ()
    before: NetworkCost | None = None
    after: NetworkCost | None = None


@dataclass(frozen=True)
class Block:
    """A residual block before any removal."""

    block: str | None = None
    branch: str | None = None
    stage: Count | None = None
    num_rows: Count | None = None
    num_bundles: Count | None = None
    num_conflicting: Count | None = None
    num_conflicting_rows: Count | None = None
    entropy: NotNegative | None = None
    margin: NotNegative | None = None
    margin_bits: float | None = None
    similarity: float | None = None
    conflicts: bool | None = None
    accuracy_without: Share | None = None


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy without so many blocks."""

    removed: Count | None = None
    mean: Share | None = None
    std: NotNegative | None = None
    draws: Count | None = None


@dataclass(frozen=True)
class Part:
    """Samples that an accuracy was taken on."""

    split: str | None = None
    samples: Count | None = None
    accuracy: Share | None = None


@dataclass(frozen=True)
class Step:
    """One try of a removal: some blocks, and what the guard said without them."""

    block: str | None = None
    """The blocks, in words."""
    blocks: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    """Of the blocks, by the ranking."""
    num_removed: Count | None = None
    """Blocks that the network lacked then."""
    kept: bool | None = None
    """Whether they stay removed."""
    accuracy: Share | None = None
    """Of the healed network on the samples of the guard, which decides; of the unhealed one where none heals."""
    accuracy_removed: Share | None = None
    """Of the network on these samples before it healed."""
    accuracy_test: Share | None = None
    """Of the healed network on the test samples, of a step that stays; it decides nothing."""
    parameters: Count | None = None
    macs: Count | None = None
    latency_ms: NotNegative | None = None
    peak_memory_bytes: Count | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Accuracies:
    """Of a network before the removal, of the same weights without the blocks, and healed."""

    before: Share | None = None
    removed: Share | None = None
    healed: Share | None = None


@dataclass(frozen=True)
class Pruning:
    """What one ranking removed."""

    rank: str | None = None
    steps: tuple[Step, ...] = ()
    removed: tuple[str, ...] = ()
    reason: str | None = None
    accuracy: Accuracies | None = None
    """On the test samples."""
    finetune_epochs: Count | None = None
    """Epochs for which the network that is left healed, all healings together."""


@dataclass(frozen=True)
class RemoveResult(Pruning, Result):
    """Of ``remove``."""

    run: str | None = None
    blocks: tuple[Block, ...] = ()
    num_conflicting_blocks: Count | None = None
    curves: Mapping[str, tuple[CurvePoint, ...]] = field(default_factory=dict)
    study: Part | None = None
    compared: tuple[Pruning, ...] = ()
    """Other rankings, which pruned copies of the network."""
    strategy: str | None = None
    heal: str | None = None
    heal_epochs: Count | None = None
    max_drop: NotNegative | None = None
    target: Share | None = None
    notes: tuple[str, ...] = ()
    """Why the guard, or the network, may decide nothing."""
    guard: Part | None = None
    test: Part | None = None
    before: NetworkCost | None = None
    after: NetworkCost | None = None
    export: str | None = None


@dataclass(frozen=True)
class Pruned:
    """What ``progress.json`` holds of a ranking that has pruned its network."""

    outcome: Pruning | None = None
    history: tuple[Epoch, ...] = ()
    """Lines of the healings that the network kept."""


@dataclass(frozen=True)
class RemovalState:
    """What ``progress.json`` holds; a removal that goes on takes its numbers for its own."""

    of: dict[str, Any] = field(default_factory=dict)
    accuracies: Mapping[str, Share] = field(default_factory=dict)
    healings: Mapping[str, Mapping[str, tuple[Epoch, ...]]] = field(default_factory=dict)
    """Ranking -> number of blocks that were gone -> lines of the history."""
    outcomes: Mapping[str, Pruned] = field(default_factory=dict)


@dataclass(frozen=True)
class Criterion:
    """How one criterion of RePr, or standard training, did in ``repr compare``."""

    criterion: str | None = None
    mean: Share | None = None
    std: NotNegative | None = None
    """Of the test accuracies over the seeds."""
    difference: DifferenceOfShares | None = None
    """To standard training of the same seeds, mean, ..."""
    difference_std: NotNegative | None = None
    """... and standard deviation."""
    verdict: str | None = None


@dataclass(frozen=True)
class Comparison:
    """What ``comparison.json`` holds beside what its runs hold."""

    command: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[Count, ...] = ()
    rows: tuple[Criterion, ...] = ()


RESULTS: Mapping[str, type[Result]] = {"train": TrainResult, "autotune": AutotuneResult, "remove": RemoveResult}
"""Command -> what its ``result.json`` holds."""

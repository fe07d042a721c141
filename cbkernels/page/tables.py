"""Values of a run's record as words and tables: what ``sections.py`` puts on the page. Needs no other package.

None, which stands for what a file does not hold, becomes a dash; texts of files are cleaned.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..latencies import Latency, latency_change
from ..runs import schema
from ..runs.clean_text import text
from ..runs.record import LayerTable
from ..runs.schema import Accuracies, Criterion, Cycle, Epoch, NetworkCost, RemoveResult, Round
from ..training.networks.architecture import Architecture
from ..training.networks.kinds import MODELS
from ..wording import (
    NOTHING,
    Words,
    bits,
    change,
    count,
    gained,
    interval,
    milliseconds,
    nats,
    percent,
    points,
    size,
)  # fmt: skip

MOST_ROWS = 200
MOST_NAMES = 150
_FIRST_NAMES = 4


@dataclass(frozen=True)
class Names:
    """A cell with several names: the first few, the others folded."""

    first: str
    rest: str = ""
    num_rest: int = 0


@dataclass(frozen=True)
class Table:
    """A table of the page; its first column heads the rows."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | Names]]
    text_columns: Collection[int]
    """The others hold numbers, which are aligned to the right."""
    notes: Sequence[str] = ()

    @property
    def texts(self) -> Iterator[str]:
        """All that is read in it."""
        yield from (self.caption, *self.header, *self.notes)
        for cell in (cell for row in self.rows for cell in row):
            yield cell if isinstance(cell, str) else f"{cell.first} {cell.rest}"


# --- words of files -----------------------------------------------------------------------------


def named(architecture: object, name: object = None) -> str:
    """An architecture in words; ``name`` where the file has one."""
    if isinstance(name, str) and name:
        return text(name, 120)
    try:
        return text(str(Architecture.from_dict(architecture if isinstance(architecture, dict) else {})), 120)
    except (ValueError, TypeError):
        return text(architecture, 120) if architecture else ""


def planned(config: Mapping[str, Any]) -> str:
    """The architecture that a run's config asks for, in words."""
    kind = MODELS.get(text(config.get("model")))
    known = {name: config[name] for name in ("blocks", "model", "width_multiplier") if name in config}
    content = known if kind is None else kind.planned(config)
    return named(content) if content.get("blocks") not in (None, [], [None]) else ""


def names_of(names: Sequence[str]) -> Names:
    """A list of names, the first few of them in sight."""
    shown = [text(name, 60) for name in names[:MOST_NAMES]]
    if len(shown) <= _FIRST_NAMES + 1:
        return Names(", ".join(shown) or NOTHING)
    rest = ", ".join(shown[_FIRST_NAMES:]) + (" …" if len(names) > len(shown) else "")
    return Names(", ".join(shown[:_FIRST_NAMES]), rest, len(names) - _FIRST_NAMES)


# --- tables ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Column:
    """A column of a table with an item a row."""

    title: str
    cell: Callable[[Any], str | Names]
    is_text: bool = False


def _table(caption: str, columns: Sequence[_Column], items: Sequence[object]) -> Table | None:
    """None if there is no item."""
    rows = [[column.cell(item) or NOTHING for column in columns] for item in items]
    texts = [i for i, column in enumerate(columns) if column.is_text]
    return _of_rows(caption, [column.title for column in columns], rows, texts) if rows else None


def _of_rows(
    caption: str, header: Sequence[str], rows: Sequence[Sequence[str | Names]],
    texts: Collection[int] = (0,), notes: Sequence[str] = (),
) -> Table:  # fmt: skip
    notes = [*notes, *([f"{len(rows) - MOST_ROWS} more rows are in result.json."] if len(rows) > MOST_ROWS else [])]
    kept = rows[:MOST_ROWS]
    if any((cell if isinstance(cell, str) else cell.first) == NOTHING for row in kept for cell in row):
        notes.append(f"{NOTHING} stands for no value.")
    return Table(caption, header, kept, texts, notes)


_OF_ROUND: Sequence[_Column] = (
    _Column("round", lambda each: text(each.round), is_text=True),
    _Column("architecture", lambda each: named(each.architecture, each.name), is_text=True),
    _Column("epochs", lambda each: count(each.epochs)),
    _Column("conflict in epoch", lambda each: count(each.conflict_epoch)),
    _Column("entropy (nats)", lambda each: nats(each.entropy)),
    _Column("blocks removed", lambda each: count(len(each.removed))),
    _Column("removed", lambda each: names_of(each.removed), is_text=True),
    _Column("reason", lambda each: text(each.reason), is_text=True),
    _Column("test accuracy then", lambda each: percent(each.test_accuracy)),
)


def rounds_table(rounds: Sequence[Round]) -> Table | None:
    """Every round of auto-tune with the reason of what was removed; None if there is none."""
    return _table("Rounds of auto-tune", _OF_ROUND, rounds)


_COSTS: tuple[tuple[str, str, Words], ...] = (
    ("blocks", "blocks", count),
    ("parameters", "parameters", count),
    ("MACs", "macs", count),
    ("FLOPs", "flops", count),
    ("latency, median", "latency_ms", milliseconds),
    ("peak memory", "peak_memory_bytes", size),
)


def _spread(cost: NetworkCost) -> str:
    """From where to where eight of ten calls lie."""
    return interval(cost.latency_ms_p10, cost.latency_ms_p90, milliseconds)


def _latency_change(before: NetworkCost, after: NetworkCost) -> str:
    """What may be said of it; "" where the passes' scatter is not known."""
    known = [
        Latency(each.latency_ms, each.latency_ms_p10, each.latency_ms_p90)
        for each in (before, after)
        if each.latency_ms and each.latency_ms_p10 is not None and each.latency_ms_p90 is not None
    ]
    return latency_change(*known) if len(known) == 2 else ""


def _cost_rows(*costs: NetworkCost) -> Iterator[list[str]]:
    """A row for every kind of cost; of two networks with the change."""
    for words, key, shown in _COSTS:
        values = [getattr(cost, key) for cost in costs]
        if key == "blocks" and None in values:  # of a run of train, and of older folders
            continue
        changed = _latency_change(*costs) if key == "latency_ms" and len(costs) == 2 else ""
        yield [words, *map(shown, values), *([changed or change(*values)] if len(costs) == 2 else [])]
        if key == "latency_ms":
            yield ["latency, p10 to p90", *map(_spread, costs), *([""] if len(costs) == 2 else [])]


def costs_table(before: NetworkCost | None, after: NetworkCost | None, rows: Sequence[Sequence[str]]) -> Table | None:
    """What changed: architecture, parameters, MACs, FLOPs, latency, memory; None if nothing is known.

    Args:
        before: the network that was started from.
        after: the one that the run ended with.
        rows: on accuracies and epochs, to begin with.
    """
    ends = [before or NetworkCost(), after or NetworkCost()]
    names = [named(each.architecture, each.name) for each in ends]
    of_names = [["architecture", *(name or NOTHING for name in names), ""]] if any(names) else []
    of_costs = _cost_rows(*ends) if before or after else ()
    table = [*of_names, *map(list, rows), *of_costs]
    header = ["", "before", "after", "change"]
    return _of_rows("Before and after", header, table, notes=_what_costs_are(after or ends[0])) if table else None


def cost_table(cost: NetworkCost | None) -> Table | None:
    """What one network costs; None if nothing is known."""
    if cost is None:
        return None
    return _of_rows("Cost of the network", ["", "value"], list(_cost_rows(cost)), notes=_what_costs_are(cost))


def _what_costs_are(cost: NetworkCost) -> list[str]:
    of = f" of {count(cost.latency_batch)} samples" if cost.latency_batch is not None else ""
    on = f"{of} on {text(cost.device, 80)}" if cost.device else of
    return [f"One forward pass{on} without gradients; MACs are multiply-adds of matrix products and convolutions, "
            "each of which is two FLOPs."]  # fmt: skip


_OF_BLOCK: Sequence[_Column] = (
    _Column("block", lambda block: text(block.block, 60), is_text=True),
    _Column("stage", lambda block: text(block.stage, 20), is_text=True),
    _Column("bundles", lambda block: count(block.num_bundles)),
    _Column("conflicting bundles", lambda block: count(block.num_conflicting)),
    _Column("entropy (nats)", lambda block: nats(block.entropy)),
    _Column("conflict margin", lambda block: nats(block.margin)),
    _Column("margin (bits)", lambda block: bits(block.margin_bits)),
    _Column("similarity of input, output", lambda block: nats(block.similarity)),
    _Column("accuracy without it", lambda block: percent(block.accuracy_without)),
)


def blocks_table(result: RemoveResult) -> Table | None:
    """Every block's measurement and fate, in the order of execution; None if there is none."""
    columns = [
        *_OF_BLOCK,
        _Column("in the end", lambda block: "removed" if block.block in result.removed else "stays", is_text=True),
    ]
    return _table("Residual blocks before any removal, measured at their branches", columns, result.blocks)


def prunings_table(result: RemoveResult) -> Table | None:
    """What every ranking removed; None if only one was asked for."""
    columns = (
        _Column("ranking", lambda each: text(each.rank, 40), is_text=True),
        _Column("blocks removed", lambda each: f"{len(each.removed)} of {len(result.blocks) or NOTHING}"),
        _Column("test accuracy before", lambda each: percent((each.accuracy or Accuracies()).before)),
        _Column("not healed", lambda each: percent((each.accuracy or Accuracies()).removed)),
        _Column("healed", lambda each: percent((each.accuracy or Accuracies()).healed)),
        _Column("epochs of healing", lambda each: count(each.finetune_epochs)),
        _Column("reason", lambda each: text(each.reason), is_text=True),
    )
    return _table("What each ranking removed", columns, (result, *result.compared)) if result.compared else None


def steps_table(result: RemoveResult) -> Table | None:
    """The guarded removal, step by step; None if there is none."""
    numbers = iter(range(1, len(result.steps) + 1))
    columns = (
        _Column("step", lambda step: str(next(numbers)), is_text=True),
        _Column("block", lambda step: text(step.block, 60), is_text=True),
        _Column("decision", lambda step: "removed" if step.kept else "stays", is_text=True),
        _Column("accuracy (guard)", lambda step: percent(step.accuracy)),
        _Column("before healing", lambda step: percent(step.accuracy_removed)),
        _Column("test accuracy", lambda step: percent(step.accuracy_test)),
        _Column("parameters", lambda step: count(step.parameters)),
        _Column("latency", lambda step: milliseconds(step.latency_ms)),
        _Column("peak memory", lambda step: size(step.peak_memory_bytes)),
        _Column("reason", lambda step: text(step.reason), is_text=True),
    )
    return _table("The guarded removal, step by step", columns, result.steps)


_OF_CYCLE: tuple[tuple[str, str, Words], ...] = (
    ("test accuracy", "test_accuracy", percent),
    ("conflicting layers", "num_conflicting_layers", count),
    ("mean entropy (nats)", "mean_entropy", nats),
    ("as if in bfloat16", "mean_entropy_bfloat16", nats),
    ("least margin (bits)", "least_margin_bits", bits),
    ("overlap of filters", "orthogonality", nats),
)


def cycles_table(cycles: Sequence[Cycle]) -> Table | None:
    """What each cycle of RePr changed: three lines a cycle; None if there is none."""
    ends: list[tuple[str, Epoch]] = []
    for cycle in cycles:
        without = f"without {count(cycle.dropped_filters)} filters"
        when = (("before", cycle.before), (without, cycle.reduced), ("back and trained", cycle.after))
        ends += [(f"{text(cycle.cycle, 20)}: {words}", end) for words, end in when]
    measured = [each for each in _OF_CYCLE if any(getattr(end, each[1]) is not None for _, end in ends)]
    rows = [[words, count(end.epoch), *(shown(getattr(end, key)) for _, key, shown in measured)] for words, end in ends]
    header = ["cycle", "epoch", *(title for title, _, _ in measured)]
    return _of_rows("Cycles of RePr: what dropping and bringing back filters changed", header, rows) if rows else None


def layers_table(layers: LayerTable) -> Table | None:
    """The columns of the layer tables that have a title, after the last epoch; None if none has."""
    titled = [column for table in (schema.LAYERS, schema.MARGINS) for column in table.columns
              if column.title and column.name in layers.columns]  # fmt: skip
    if not titled or not layers.epochs:
        return None
    words: dict[type, Callable[[Any], str]] = {str: lambda v: text(v) or NOTHING, int: count, float: nats}
    cells = [[words[each.kind](v) for v in layers.columns[each.name][:, -1]] for each in titled]
    texts = {0, *(i for i, each in enumerate(titled, 1) if each.kind is str)}
    header = ["layer", *(each.title for each in titled)]
    return _of_rows("Layers after the last epoch", header, [*zip(layers.layers, *cells, strict=True)], texts)


_NO_OPTIONS = ("schema",)


def differences_table(columns: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table | None:
    """Options that differ between runs; None if none does.

    Args:
        columns: a title -> the configurations of the runs in this column, which may differ in the seed.
    """
    configs = [config for of_column in columns.values() for config in of_column]
    rows = []
    for name in dict.fromkeys(name for config in configs for name in config if name not in _NO_OPTIONS):
        values = [list(dict.fromkeys(_option(config[name]) for config in of_column if name in config))
                  for of_column in columns.values()]  # fmt: skip
        if len({value for of_column in values for value in of_column}) > 1:
            rows.append([text(name, 40), *(", ".join(of_column) or NOTHING for of_column in values)])
    header = ["option", *columns]
    return _of_rows("What differs between their configurations", header, rows, range(len(header))) if rows else None


def _option(value: object) -> str:
    """The value of an option in a configuration."""
    return text(value if isinstance(value, str) else json.dumps(value), 80)


def criteria_table(rows: Sequence[Criterion]) -> Table | None:
    """How each criterion of RePr did over all seeds; None if there is none."""
    columns = (
        _Column("criterion", lambda each: text(each.criterion, 40), is_text=True),
        _Column("test accuracy, mean of the seeds", lambda each: percent(each.mean)),
        _Column("standard deviation", lambda each: points(each.std)),
        _Column("difference to standard, mean", lambda each: gained(0.0, each.difference)),
        _Column("its standard deviation", lambda each: points(each.difference_std)),
    )
    return _table("Every criterion over all seeds", columns, rows)


def paired_table(differences: Mapping[str, Mapping[int, str]], seeds: Sequence[int]) -> Table | None:
    """How much better than standard training of the same seed: criterion -> seed -> words; None if there is none."""
    rows = [[text(name, 40), *(of_seed.get(seed, NOTHING) for seed in seeds)] for name, of_seed in differences.items()]
    header = ["criterion", *(f"seed {seed}" for seed in seeds)]
    return _of_rows("Differences to standard training, seed by seed", header, rows) if rows else None


def comparison_table(rows: Sequence[Sequence[str]]) -> Table:
    """Several runs, one a line."""
    header = ["run", "command", "status", "data set", "architecture in the end", "seed", "accuracy before",
              "accuracy in the end", "parameters", "MACs", "latency", "time for measuring"]  # fmt: skip
    return _of_rows("All runs", header, rows, {0, 1, 2, 3, 4})

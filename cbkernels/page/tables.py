"""Numbers of run folders as words and tables: what ``run_page.py`` puts on its page. Needs no other package.

Everything here takes values as files hold them (absent, null, NaN, of a wrong type) and returns clean text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..runs.reader import RunFiles, items_of, number, object_of, text
from ..training.networks.architecture import Architecture
from ..training.networks.kinds import MODELS

NOTHING = "\u2013"
"""Stands for null and for what a file does not hold."""
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
    text_columns: frozenset[int] = frozenset({0})
    """The others hold numbers, which are aligned to the right."""
    notes: Sequence[str] = field(default=())


# --- words for values -----------------------------------------------------------------------------


def _worded(value: object, words: Callable[[float], str]) -> str:
    found = number(value)
    if found is None:
        return text(value, 60) or NOTHING
    if math.isnan(found):
        return "NaN"
    return words(found) if math.isfinite(found) else ("inf" if found > 0 else "-inf")


def percent(value: object) -> str:
    """A share in percent.

    Example:
        >>> percent(0.9317), percent(None), percent(float("nan"))
        ('93.2 %', '–', 'NaN')
    """
    return _worded(value, lambda share: f"{100 * share:.1f} %")


def count(value: object) -> str:
    """A whole number with separators, a large one in thousands, millions or milliards.

    Example:
        >>> count(1234), count(28_801_234), count(5e12)
        ('1,234', '28.80 M', '5,000 G')
    """

    def words(n: float) -> str:
        for least, unit in ((1e9, "G"), (1e6, "M"), (1e5, "k")):
            if abs(n) >= least:
                size = n / (1e3 if unit == "k" else least)
                return f"{size:,.0f} {unit}" if abs(size) >= 1000 else f"{size:.2f} {unit}"
        return f"{n:,.0f}" if n == int(n) else f"{n:,.2f}"

    return _worded(value, words)


def plain(value: object, digits: int = 4) -> str:
    """A number with so many significant digits."""
    return _worded(value, lambda n: f"{n:.{digits}g}")


def size(value: object) -> str:
    """Bytes in KiB, MiB or GiB."""

    def words(n: float) -> str:
        unit, least = next(((u, b) for u, b in (("GiB", 2**30), ("MiB", 2**20)) if abs(n) >= b), ("KiB", 2**10))
        return f"{n / least:.1f} {unit}"

    return _worded(value, words)


def seconds(value: object) -> str:
    """A time: seconds, minutes or hours.

    Example:
        >>> seconds(0.234), seconds(71), seconds(7300)
        ('0.23 s', '1 min 11 s', '2 h 1 min')
    """

    def words(n: float) -> str:
        if n < 60:
            return f"{n:.2g} s" if n < 9.95 else f"{n:.0f} s"
        n = round(n)
        return f"{n // 60} min {n % 60} s" if n < 3600 else f"{n // 3600} h {n % 3600 // 60} min"

    return _worded(value, words)


def change(before: object, after: object) -> str:
    """How much larger or smaller, in percent of the value before.

    Example:
        >>> change(200, 150), change(0, 3), change(3, 3)
        ('-25.0 %', '–', '0.0 %')
    """
    old, new = number(before), number(after)
    if old is None or new is None or old <= 0 or not math.isfinite(old) or not math.isfinite(new):
        return NOTHING
    return f"{100 * (new - old) / old:+.1f} %" if new != old else "0.0 %"


def points(before: object, after: object) -> str:
    """The difference of two accuracies in percentage points."""
    old, new = number(before), number(after)
    if old is None or new is None or not math.isfinite(new - old):
        return NOTHING
    return f"{100 * (new - old):+.1f} points" if new != old else "0.0 points"


def named(architecture: object, name: object = None) -> str:
    """An architecture in words; ``name`` where the file has one."""
    if isinstance(name, str) and name:
        return text(name, 120)
    try:
        return text(str(Architecture.from_dict(object_of(architecture))), 120)
    except (ValueError, TypeError):
        return text(architecture, 120) if architecture else ""


def planned(config: Mapping[str, Any]) -> str:
    """The architecture that a run's config asks for, in words."""
    kind = MODELS.get(text(config.get("model")))
    known = {name: config[name] for name in ("blocks", "model", "width_multiplier") if name in config}
    content = known if kind is None else kind.planned(config)
    return named(content) if content.get("blocks") not in (None, [], [None]) else ""


def names_of(value: object) -> Names:
    """A list of names, the first few of them in sight."""
    names = [text(name, 60) for name in value[:MOST_NAMES]] if isinstance(value, list) else []
    if not names:
        return Names(NOTHING)
    if len(names) <= _FIRST_NAMES + 1:
        return Names(", ".join(names))
    total = len(value) if isinstance(value, list) else 0
    rest = ", ".join(names[_FIRST_NAMES:]) + (" …" if total > len(names) else "")
    return Names(", ".join(names[:_FIRST_NAMES]), rest, total - _FIRST_NAMES)


# --- tables ---------------------------------------------------------------------------------------


def _table(
    caption: str, header: Sequence[str], rows: Sequence[Sequence[str | Names]], texts: set[int],
    notes: Sequence[str] = (),
) -> Table:  # fmt: skip
    notes = [*notes, *([f"{len(rows) - MOST_ROWS} more rows are in result.json."] if len(rows) > MOST_ROWS else [])]
    kept = rows[:MOST_ROWS]
    if any(cell == NOTHING or (isinstance(cell, Names) and cell.first == NOTHING) for row in kept for cell in row):
        notes.append(f"{NOTHING} stands for no value.")
    return Table(caption, header, kept, frozenset(texts), notes)


def rounds_table(result: Mapping[str, Any]) -> Table | None:
    """Every round of auto-tune with the reason of what was removed; None if there is none."""
    rows: list[list[str | Names]] = [
        [
            text(each.get("round"), 20) or NOTHING,
            named(each.get("architecture"), each.get("name")) or NOTHING,
            plain(each.get("epochs")),
            plain(each.get("conflict_epoch")),
            plain(each.get("entropy")),
            names_of(each.get("removed")),
            text(each.get("reason")) or NOTHING,
            percent(each.get("test_accuracy")),
        ]
        for each in items_of(result.get("rounds"))
    ]
    header = ["round", "architecture", "epochs", "conflict in epoch", "entropy (nats)", "removed", "reason",
              "test accuracy"]  # fmt: skip
    return _table("Rounds of auto-tune", header, rows, {0, 1, 5, 6}) if rows else None


_COSTS: tuple[tuple[str, str, Callable[[object], str]], ...] = (
    ("parameters", "parameters", count),
    ("MACs", "macs", count),
    ("FLOPs", "flops", count),
    ("latency, median", "latency_ms", lambda v: _milliseconds(v)),
    ("peak memory", "peak_memory_bytes", size),
)


_SPREAD = "latency, p10 to p90"


def _milliseconds(value: object) -> str:
    worded = plain(value, 3)
    return f"{worded} ms" if number(value) is not None else worded


def _spread(cost: Mapping[str, Any]) -> str:
    """From where to where eight of ten calls lie."""
    low, high = cost.get("latency_ms_p10"), cost.get("latency_ms_p90")
    if number(low) is None or number(high) is None:
        return NOTHING
    return f"{plain(low, 3)} to {_milliseconds(high)}"


def costs_table(
    before: Mapping[str, Any], after: Mapping[str, Any], accuracies: Sequence[Sequence[str]] = ()
) -> Table | None:
    """What changed: architecture, accuracy, parameters, MACs, FLOPs, latency, memory; None if nothing is known.

    Args:
        before: of the network that was started from.
        after: of the one that the run ended with.
        accuracies: rows to begin with, in place of the ``test_accuracy`` of both.
    """
    rows = [list(row) for row in accuracies]
    if not rows and ("test_accuracy" in before or "test_accuracy" in after):
        old, new = before.get("test_accuracy"), after.get("test_accuracy")
        rows.append(["test accuracy", percent(old), percent(new), points(old, new)])
    if "epochs" in before or "epochs" in after:
        rows.append(["epochs of training", plain(before.get("epochs")), plain(after.get("epochs")), ""])
    for words, key, shown in _COSTS:
        if key in before or key in after:
            old, new = before.get(key), after.get(key)
            rows.append([words, shown(old), shown(new), change(old, new)])
            if key == "latency_ms":
                rows.append([_SPREAD, _spread(before), _spread(after), ""])
    names = [named(each.get("architecture"), each.get("name")) for each in (before, after)]
    if any(names):
        rows.insert(0, ["architecture", *(name or NOTHING for name in names), ""])
    if not rows:
        return None
    return _table(
        "Before and after", ["", "before", "after", "change"], rows, {0}, _what_costs_are({**before, **after})
    )


def cost_table(cost: Mapping[str, Any]) -> Table | None:
    """What one network costs; None if nothing is known."""
    rows: list[list[str]] = []
    for words, key, shown in _COSTS:
        if key in cost:
            rows.append([words, shown(cost.get(key))])
            if key == "latency_ms":
                rows.append([_SPREAD, _spread(cost)])
    return _table("Cost of the network", ["", "value"], rows, {0}, _what_costs_are(cost)) if rows else None


def _what_costs_are(cost: Mapping[str, Any]) -> list[str]:
    of = f" of {count(cost['latency_batch'])} samples" if number(cost.get("latency_batch")) is not None else ""
    on = f"{of} on {text(cost['device'], 80)}" if cost.get("device") else of
    return [f"One forward pass{on} without gradients; MACs are multiply-adds of matrix products and convolutions, "
            "each of which is two FLOPs."]  # fmt: skip


def blocks_table(result: Mapping[str, Any]) -> Table | None:
    """Every block's measurement and fate, in the order of execution; None if there is none."""
    removed = set(map(text, result["removed"])) if isinstance(result.get("removed"), list) else set()
    rows = [
        [
            text(block.get("block"), 60) or NOTHING,
            text(block.get("stage"), 20) or NOTHING,
            plain(block.get("num_bundles")),
            plain(block.get("num_conflicting")),
            plain(block.get("entropy")),
            plain(block.get("margin")),
            plain(block.get("margin_bits"), 3),
            plain(block.get("similarity")),
            percent(block.get("accuracy_without")),
            "removed" if text(block.get("block")) in removed else "stays",
        ]
        for block in items_of(result.get("blocks"))
    ]
    header = ["block", "stage", "bundles", "conflicting bundles", "entropy (nats)", "conflict margin", "margin (bits)",
              "similarity of input, output", "accuracy without it", "in the end"]  # fmt: skip
    caption = "Residual blocks before any removal, measured at their branches"
    return _table(caption, header, rows, {0, 1, 9}) if rows else None


def steps_table(result: Mapping[str, Any]) -> Table | None:
    """The guarded removal, one block at a time; None if there is none."""
    removed = set(map(text, result["removed"])) if isinstance(result.get("removed"), list) else set()
    rows = [
        [
            str(position),
            text(step.get("block"), 60) or NOTHING,
            "removed" if text(step.get("block")) in removed else "stays",
            percent(step.get("accuracy")),
            text(step.get("reason")) or NOTHING,
        ]
        for position, step in enumerate(items_of(result.get("steps")), 1)
    ]
    header = ["step", "block", "decision", "accuracy (guard)", "reason"]
    return _table("The guarded removal, one block at a time", header, rows, {0, 1, 2, 4}) if rows else None


_OF_CYCLE: tuple[tuple[str, str, Callable[[object], str]], ...] = (
    ("test accuracy", "test_accuracy", percent),
    ("conflicting layers", "num_conflicting_layers", plain),
    ("mean entropy (nats)", "mean_entropy", plain),
    ("as if in bfloat16", "mean_entropy_bfloat16", plain),
    ("least margin (bits)", "least_margin_bits", plain),
    ("overlap of filters", "orthogonality", plain),
)


def cycles_table(result: Mapping[str, Any]) -> Table | None:
    """What each cycle of RePr changed: three lines a cycle; None if there is none."""
    cycles = items_of(result.get("repr"))
    known = {name for cycle in cycles for when in _WHEN for name in object_of(cycle.get(when))}
    columns = [column for column in _OF_CYCLE if column[1] in known]
    rows = [
        [
            f"{text(cycle.get('cycle'), 20)}: {words.format(count(cycle.get('dropped_filters')))}",
            plain(object_of(cycle.get(when)).get("epoch")),
            *(shown(object_of(cycle.get(when)).get(name)) for _, name, shown in columns),
        ]
        for cycle in cycles
        for when, words in _WHEN.items()
    ]
    header = ["cycle", "epoch", *(title for title, _, _ in columns)]
    return (
        _table("Cycles of RePr: what dropping and bringing back filters changed", header, rows, {0}) if rows else None
    )


_WHEN = {"before": "before", "reduced": "without {} filters", "after": "back and trained"}


def guard_words(result: Mapping[str, Any]) -> str:
    """What the guard of the removal looks at, and how the removal ended."""
    guard, drop, words = object_of(result.get("guard")), number(result.get("max_drop")), []
    if guard.get("split"):
        samples = f", {count(guard['samples'])} samples" if number(guard.get("samples")) is not None else ""
        may = f"; it may fall by {100 * drop:.1f} points" if drop is not None else ""
        words.append(f"the guard is the accuracy on {text(guard.get('split'), 40)}{samples}{may}")
    words.append(text(result.get("reason")).rstrip("."))
    return " ".join(f"{sentence[:1].upper()}{sentence[1:]}." for sentence in words if sentence)


def comparison_table(runs: Sequence[RunFiles]) -> Table:
    """Several runs, one a line."""
    rows = [
        [run.name, run.command, status_of(run), text(run.config.get("dataset"), 60) or NOTHING, *_compared(run)]
        for run in runs
    ]
    header = ["run", "command", "status", "data set", "architecture in the end", "seed", "accuracy before",
              "accuracy in the end", "parameters", "MACs", "latency", "time for measuring"]  # fmt: skip
    return _table("All runs", header, rows, {0, 1, 2, 3, 4})


def _compared(run: RunFiles) -> list[str]:
    """The cells of a run from its architecture on."""
    result = run.result or {}
    before, after, accuracies = (object_of(result.get(key)) for key in ("before", "after", "accuracy"))
    start = {"test_accuracy": accuracies.get("before"), **before}
    end = {"test_accuracy": accuracies.get("healed"), **after}
    if run.command == "train":
        end = {"test_accuracy": result.get("test_accuracy"), **object_of(result.get("cost"))}
    name = named(end.get("architecture") or result.get("architecture"), end.get("name"))
    if run.command == "train":
        name = name or planned(run.config)
    elif name and isinstance(result.get("removed"), list):
        name += f", {len(result['removed'])} removed"
    return [
        name or NOTHING,
        text(result.get("seed", run.config.get("seed")), 30) or NOTHING,
        percent(start.get("test_accuracy")),
        percent(end.get("test_accuracy")),
        count(end.get("parameters")),
        count(end.get("macs")),
        _milliseconds(end.get("latency_ms")),
        NOTHING if run.command == "remove" else percent(measuring_share(run)),
    ]


# --- a run in words -------------------------------------------------------------------------------


def status_of(run: RunFiles) -> str:
    """trained, exhausted, diverged, done or unfinished."""
    if run.result is None:
        return "unfinished"
    return text(run.result.get("status"), 30) or ("done" if run.command == "remove" else "finished")


def measuring_share(run: RunFiles) -> float | None:
    """Share of the time that measuring took; from the epochs so far where the result does not say it."""
    said = number((run.result or {}).get("measuring_share"))
    if said is not None:
        return said
    training, measuring = (total(run, key) for key in ("seconds_training", "seconds_measuring"))
    return measuring / (training + measuring) if training + measuring > 0 else None


def total(run: RunFiles, key: str) -> float:
    """Sum of one of the history's times in seconds, of the epochs that have it."""
    values = [number(line.get(key)) for line in run.history]
    return math.fsum(v for v in values if v is not None and math.isfinite(v))

"""The sections of a run on its page: figures and tables with the words around them, one function a kind of run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from ..drawing.block_figures import Stage
from ..drawing.prune_figures import Curve as PruneCurve
from ..drawing.prune_figures import plot_curves
from ..runs.clean_text import text
from ..runs.outcomes import baseline_of
from ..runs.record import LayerTable, RunRecord
from ..runs.schema import AutotuneResult, NetworkCost, RemoveResult, TrainResult
from ..wording import count, counted, gained, percent, points
from . import architectures, figures, tables
from .facts import architecture_of
from .figures import Curve, Picture
from .tables import Table
from .terms import Term, explained

MOST_MAPS = 24
"""Heat maps of a run; of more rounds the middle ones are left out."""


@dataclass(frozen=True)
class Figure:
    """A picture with the words below it."""

    picture: Picture
    caption: str
    weight: int
    """The page keeps those of the highest weight when it would become too large."""


@dataclass(frozen=True)
class Section:
    """A heading with what belongs to it."""

    title: str
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    words: Sequence[str] = ()

    @property
    def texts(self) -> list[str]:
        """All that is read in it."""
        of_tables = [words for table in self.tables for words in table.texts]
        return [self.title, *self.words, *(figure.caption for figure in self.figures), *of_tables]


def with_terms(section: Section, known: set[Term]) -> Section:
    """With sentences on the terms that it uses for the first time."""
    return replace(section, words=[*section.words, *explained(section.texts, known)])


def sections_of(run: RunRecord, prefix: str) -> list[Section]:
    """All that have a figure or a table, in their order; names of pictures begin with ``prefix``."""
    result = run.result
    sections: list[Section] = []
    if isinstance(result, AutotuneResult):
        sections += _of_autotune(result, prefix)
    if isinstance(result, RemoveResult):
        sections += _of_removal(result, prefix)
    sections.append(_curves_section(run, prefix))
    if run.command != "remove":  # one measurement: a table says it
        sections += _heat_map_sections(run, prefix)
        trained = [table for table in run.layers if table.dtype == run.layers[0].dtype]
        sections += _of_table(tables.layers_table(trained[-1]) if trained else None)
    if isinstance(result, TrainResult):
        sections += _of_table(tables.cycles_table(result.repr))
        sections += _of_table(tables.cost_table(result.cost))
    return [section for section in sections if section.figures or section.tables or section.words]


def _of_table(table: Table | None, *words: str) -> list[Section]:
    """A section for a table, under its own caption."""
    return [Section(table.caption, tables=[table], words=[each for each in words if each])] if table else []


# --- auto-tune, removal ---------------------------------------------------------------------------


def _of_autotune(result: AutotuneResult, prefix: str) -> list[Section]:
    reason = text(result.reason).rstrip(".")
    baseline = f"{said[:1].upper()}{said[1:]}." if (said := baseline_of(result)) else ""
    ended = f"Auto-tune ended as {text(result.status, 30)}: {reason}." if reason else ""
    old, new = result.before or NetworkCost(), result.after or NetworkCost()
    accuracies = [_accuracies("test accuracy", old.test_accuracy, new.test_accuracy)]
    rows = [*accuracies, ["epochs of training", count(old.epochs), count(new.epochs), ""]]
    costs = tables.costs_table(result.before, result.after, rows if result.before or result.after else ())
    blocks = _blocks(*architectures.stages_of_autotune(result), prefix)
    return [
        *_of_table(costs),
        blocks,
        *_of_table(tables.rounds_table(result.rounds), ended, baseline, _numbering(len(result.rounds))),
    ]


def _numbering(rounds: int) -> str:
    """What the names of layers mean, on a page of so many networks."""
    anew = "Every round trains a new network and numbers its layers anew"
    return f"{anew}: the same name in two rounds may be two layers." if rounds > 1 else ""


def _of_removal(result: RemoveResult, prefix: str) -> list[Section]:
    rows = [] if (known := result.accuracy) is None else [
        _accuracies("test accuracy, right after removal", known.before, known.removed),
        _accuracies("test accuracy, healed", known.before, known.healed),
    ]  # fmt: skip
    is_cut = bool(result.removed)
    costs = tables.costs_table(result.before, result.after, rows) if is_cut else tables.cost_table(result.before)
    return [
        *_of_table(costs),
        _blocks(architectures.stages_of_removal(result), "", prefix),
        Section("What each ranking removed", _pruning_curves(result, prefix), _listed(tables.prunings_table(result))),
        Section("What blocks are worth", [*_removal_curves(result, prefix), *_block_costs(result, prefix)]),
        *_of_table(tables.steps_table(result), _guard_words(result)),
        *_of_table(tables.blocks_table(result)),
    ]


def _blocks(stages: Sequence[Stage], remark: str, prefix: str) -> Section:
    """The network before and after as boxes."""
    drawn = architectures.picture_of(stages, prefix, remark)
    return Section("Blocks before and after", [Figure(*drawn, 85)] if drawn else [])


def _listed(table: Table | None) -> list[Table]:
    return [table] if table else []


def _pruning_curves(result: RemoveResult, prefix: str) -> list[Figure]:
    """Accuracy against the share of the blocks that are gone, a curve a ranking."""
    guard = result.guard.accuracy if result.guard else None
    if guard is None or not any(step.num_removed for step in result.steps) or not result.blocks:
        return []
    curves = []
    for each in (result, *result.compared):
        tried: dict[bool, list[tuple[float, float, float]]] = {True: [(0.0, guard, guard)], False: []}
        for step in each.steps:
            gone, cut, healed = step.num_removed, step.accuracy_removed, step.accuracy
            if gone is not None and cut is not None and healed is not None:
                tried[bool(step.kept)].append((gone / len(result.blocks), cut, healed))
        curves.append(PruneCurve(text(each.rank, 40), tried[True], tried[False]))
    heals = any(one != other for curve in curves for _, one, other in (*curve.kept, *curve.undone))
    picture = figures.rendered(
        f"{prefix}pruning",
        "Accuracy against the share of the blocks that are removed, by each ranking that was asked for.",
        lambda: plot_curves(curves, None, limit=guard - (result.max_drop or 0.0), heals=heals),
    )
    return [Figure(picture, "Accuracy on the samples of the guard against the share of the blocks removed.", 95)]


def _accuracies(words: str, before: float | None, after: float | None) -> list[str]:
    return [words, percent(before), percent(after), gained(before, after)]


def _guard_words(result: RemoveResult) -> str:
    """What the guard of the removal looks at, and how the removal ended."""
    guard, words = result.guard, []
    if guard and guard.split:
        samples = f", {count(guard.samples)} samples" if guard.samples is not None else ""
        may = f"; it may fall by {points(result.max_drop)}" if result.max_drop is not None else ""
        words.append(f"the guard is the accuracy on {text(guard.split, 40)}{samples}{may}")
    words += [text(result.reason).rstrip("."), "blocks keep the names that they had before any removal"]
    return " ".join(f"{sentence[:1].upper()}{sentence[1:]}." for sentence in words if sentence)


def _removal_curves(result: RemoveResult, prefix: str) -> list[Figure]:
    curves, study = result.curves, result.study
    if not any(curves.get(kind) for kind in figures.CURVES):
        return []
    draws = [point.draws for kind in ("conflicting", "non_conflicting", "any") for point in curves.get(kind, ())
             if point.draws is not None]  # fmt: skip
    most = f" of {counted(max(draws), 'draw')}" if draws else ""
    samples = f" on {count(study.samples)} samples" if study and study.samples else ""
    words = f"Mean and one standard deviation{most}, no retraining{samples}."
    picture = figures.rendered(
        f"{prefix}removal-curves",
        "Test accuracy against the number of removed blocks, for conflicting, non-conflicting and random blocks.",
        lambda: figures.removal_curves(curves, study.accuracy if study else None, words),
    )
    return [Figure(picture, "Accuracy against the number of blocks that are removed together.", 90)]


def _block_costs(result: RemoveResult, prefix: str) -> list[Figure]:
    if all(block.accuracy_without is None for block in result.blocks):
        return []
    accuracy = result.study.accuracy if result.study else None
    picture = figures.rendered(
        f"{prefix}blocks",
        "For every block: test accuracy without it, and its conflict margin in bits.",
        lambda: figures.block_costs(result.blocks, result.removed, accuracy),
    )
    return [Figure(picture, "What each block costs when it alone is removed, and its conflict margin.", 80)]


# --- curves over epochs ---------------------------------------------------------------------------


def _curves_section(run: RunRecord, prefix: str) -> Section:
    curves = curves_of(run)
    if not curves:
        return Section("Accuracy and loss")
    picture = figures.rendered(
        f"{prefix}curves",
        f"Test accuracy and training loss over the epochs of {len(curves)} "
        f"{'network' if len(curves) == 1 else 'networks, one after the other'}.",
        lambda: figures.training_curves(curves, run.result.chance_accuracy if run.result else None),
    )
    is_removal = run.command == "remove"
    at_line = "where more blocks were removed" if is_removal else "a restart from fresh weights"
    lines = f" A dashed line is {at_line}." if len(curves) > 1 else ""
    baseline = f" {said[:1].upper()}{said[1:]}." if (said := baseline_of(run.result)) else ""
    caption = (f"Accuracy and loss over epochs; epoch 0 is before the {'healing' if is_removal else 'training'}."
               f"{lines}{baseline}")  # fmt: skip
    return Section("Accuracy and loss", [Figure(picture, caption, 100)])


def curves_of(run: RunRecord) -> list[Curve]:
    """A curve for every network of the history, in the order in which they were trained."""
    curves = []
    for (name, round_), group in groupby(run.history, lambda epoch: (epoch.run, epoch.round)):
        values = [(each.epoch, each.train_loss, each.test_accuracy, each.validation_accuracy) for each in group]
        known = ([math.nan if value is None else value for value in column] for column in zip(*values, strict=True))
        curves.append(Curve(network_words(text(name, 40), text(round_), run.command), *known))
    return curves


def network_words(run: str, round_: str, command: str) -> str:
    """What one network of a run is called: "" for the only one of ``train``."""
    if command == "train" and run in ("", "train"):
        return ""
    if run == "finetune":
        return f"healing without {round_} block{'s' * (round_ != '1')}" if round_ not in ("", "0") else "fine-tuning"
    return f"round {round_}" if run in ("", "autotune") else f"{run} {round_}".replace("autotune", "")


# --- layers x epochs ------------------------------------------------------------------------------


def _heat_map_sections(run: RunRecord, prefix: str) -> list[Section]:
    """Entropies as trained, as if in other types, and margins."""
    measured = [table for table in run.layers if table.measured.any()]
    trained = [table for table in measured if table.dtype == measured[0].dtype]
    others = [table for table in measured if table.dtype != measured[0].dtype]
    left = MOST_MAPS
    sections = []
    for title, kind, chosen in (
        ("Bundle entropy of every layer", "entropy", trained),
        ("The same as if the weights were of another type", "what-if", others),
        ("Conflict margin of every layer", "margin", [t for t in run.layers if t.margin_bits is not None]),
    ):
        drawn = [table for table in chosen if kind == "margin" or not _is_empty(table)]
        shown = _ends(drawn, left)
        left -= len(shown)
        missing = len(drawn) - len(shown)
        rounds = 0 if isinstance(run.result, AutotuneResult) else len({table.round for table in chosen})
        words = [_numbering(rounds)] if rounds > 1 else []  # the table of rounds says it elsewhere
        words += [f"{missing} of {len(chosen)} rounds are not drawn."] if missing else []
        words += [_said(run, table) for table in chosen if table not in drawn]
        sections.append(Section(title, [_heat_map(run, each, kind, prefix, shown) for each in shown], words=words))
    return sections


def _ends(layers: Sequence[LayerTable], most: int) -> list[LayerTable]:
    """The first and the last of them, as many as are allowed."""
    if len(layers) <= most:
        return list(layers)
    return [*layers[: most - most // 2], *layers[len(layers) - most // 2 :]]


def _is_empty(table: LayerTable) -> bool:
    """Nothing in the whole map conflicts, and no row held a NaN: words say it."""
    return not (table.num_conflicting > 0).any() and not np.isnan(table.entropy[table.measured]).any()


def _title(run: RunRecord, table: LayerTable) -> str:
    """Which network it is of."""
    network = network_words(table.run, str(table.round), run.command)
    return ", ".join(filter(None, (network, _architecture_of_round(run, table.round))))


def _as_if(run: RunRecord, table: LayerTable) -> str:
    """In what type, where that is not the training's."""
    return f" as if in {table.dtype}" if table.dtype != run.layers[0].dtype else ""


def _said(run: RunRecord, table: LayerTable, what: str = "Bundle entropy") -> str:
    """The sentence on a network's conflicts."""
    title = _title(run, table)
    if network_words(table.run, str(table.round), run.command):
        title = f"{title[:1].upper()}{title[1:]}"  # else it begins with the name of a model
    return f"{title or what}{_as_if(run, table)}: {_conflicts_in_words(table)}."


def _heat_map(run: RunRecord, table: LayerTable, kind: str, prefix: str, shown: Sequence[LayerTable]) -> Figure:
    of_file = [words for words in (table.run, table.dtype) if words.isidentifier() and words.isascii()]
    name = "-".join([f"{prefix}{kind}", *of_file, f"{abs(table.round):02d}"])
    what = "Conflict margin in bits" if kind == "margin" else "Bundle entropy in nats"
    top = max(float(np.nanmax(each.entropy, initial=0.0)) for each in shown)
    top = top if 0 < top < math.inf else 1.0
    title, as_if = _title(run, table), _as_if(run, table)
    picture = figures.rendered(
        name,
        f"{what}{as_if}, layer by epoch{f', {title}' if title else ''}; {_conflicts_in_words(table)}.",
        lambda: figures.layer_map(table, f"{title}{as_if}", None if kind == "margin" else top),
    )
    values, unit = (table.margin_bits, "bits") if kind == "margin" else (table.entropy, "nats")
    picture = replace(picture, cells=figures.cells_of(table, table.entropy if values is None else values, unit))
    return Figure(picture, _said(run, table, what), 70 if table in (shown[0], shown[-1]) else 50)


def _architecture_of_round(run: RunRecord, round_: int) -> str:
    if isinstance(run.result, AutotuneResult):
        known = [tables.named(each.architecture, each.name) for each in run.result.rounds if each.round == round_]
        return known[0] if known else tables.named(run.result.architecture)
    return architecture_of(run) if run.command == "train" else ""


def _conflicts_in_words(table: LayerTable) -> str:
    conflicts = table.num_conflicting > 0
    layers, of = int(conflicts.any(axis=1).sum()), counted(len(table.layers), "layer")
    if not layers:
        return f"none of {of} ever conflicts"
    at = int(conflicts.any(axis=0).argmax())
    first, epoch = table.layers[int(conflicts[:, at].argmax())], f"epoch {table.epochs[at]}"
    is_one = len(table.epochs) == 1
    verb = "conflicts" if layers == 1 else "conflict"
    when, where = (f"in {epoch}", first) if is_one else ("at some time", f"{first}, in {epoch}")
    return f"{layers} of {of} {verb} {when}{': ' if layers == 1 else '; the first is '}{where}"

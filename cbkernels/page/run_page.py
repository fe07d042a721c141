"""``write_report``: run folders become one HTML page that opens without a network, and its pictures as files.

Needs matplotlib and Jinja2, imported late. ``runs/reader.py`` reads, ``tables.py`` words, ``drawing/run_figures.py``
draws; this file decides what is on the page, and in which order, and keeps it below ``MOST_BYTES``.
"""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..drawing import run_figures
from ..drawing.figures import require_matplotlib
from ..drawing.run_figures import Curve, Picture
from ..files.whole_files import write_whole
from ..runs.folder import RunFolder
from ..runs.reader import LayerTable, RunFiles, items_of, number, object_of, read_run, text
from . import tables
from .tables import Table, percent

MOST_BYTES = 1_900_000
"""Of the page."""
MOST_MAPS = 24
"""Heat maps of a run; of more rounds the middle ones are left out."""
_MOST_JSON = 20_000


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


@dataclass(frozen=True)
class RunPage:
    """What the page says of one run."""

    anchor: str
    name: str
    status: str
    outcome: str
    notes: Sequence[str]
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    details: Sequence[tuple[str, str]] = field(default=())
    """Title and JSON text, folded."""


def write_report(
    folders: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    pictures: str | os.PathLike[str] | None = None,
) -> Path:
    """Write the report of one run, or of several runs beside each other.

    Args:
        folders: run folders of ``cbkernels train``, ``autotune`` or ``remove``, finished or not.
        out: the HTML file; it loads nothing and stays below 2 MB.
        pictures: folder for the same pictures as PNG and SVG; None takes ``report_files`` beside a ``report.html``.

    Returns:
        ``out`` as a Path.

    Raises:
        ImportError: matplotlib or Jinja2 is missing.
        ValueError: no folder, or one that is no run folder.
        OSError: a file cannot be read or written.
    """
    _require_packages()
    if isinstance(folders, (str, os.PathLike)):
        raise TypeError(f"folders is {os.fspath(folders)!r}; pass a list of run folders")
    if not folders:
        raise ValueError("folders is empty; pass at least one run folder")
    target = Path(out)
    beside = pictures_folder(target) if pictures is None else Path(pictures)
    runs = [read_run(folder) for folder in folders]
    pages = [_run_page(run, f"run-{position}", len(runs) > 1) for position, run in enumerate(runs, 1)]
    comparison = _comparison(runs) if len(runs) > 1 else None
    sections = [section for page in pages for section in page.sections] + ([comparison] if comparison else [])
    figures = [figure for section in sections for figure in section.figures]
    folder = RunFolder(beside)
    for figure in figures:
        folder.write_bytes(f"{figure.picture.name}.svg", figure.picture.svg)
        folder.write_bytes(f"{figure.picture.name}.png", figure.picture.png)
    page = _page(pages, comparison, _embedded(figures, MOST_BYTES - len(_page(pages, comparison, {}, beside))), beside)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, page)
    return target


def pictures_folder(out: str | os.PathLike[str]) -> Path:
    """Where the pictures of a report go unless one says otherwise.

    Example:
        >>> pictures_folder("runs/a/report.html").as_posix()
        'runs/a/report_files'
    """
    target = Path(out)
    return target.with_name(f"{target.stem}_files")


def _require_packages() -> None:
    require_matplotlib()
    try:
        import jinja2  # noqa: F401
    except ImportError:
        raise ImportError("reports need Jinja2: pip install Jinja2") from None


# --- one run --------------------------------------------------------------------------------------


def _run_page(run: RunFiles, anchor: str, is_one_of_several: bool) -> RunPage:
    prefix = f"{anchor}-" if is_one_of_several else ""
    result = run.result or {}
    sections = [
        *(_autotune_sections(result) if run.command == "autotune" else ()),
        *(_removal_sections(result, prefix) if run.command == "remove" else ()),
        _curves_section(run, prefix),
        *(_heat_map_sections(run, prefix) if run.command != "remove" else ()),  # one measurement: a table says it
    ]
    if run.command == "train":
        sections += _of_table(tables.cycles_table(result))
        sections += _of_table(tables.cost_table(object_of(result.get("cost"))))
    notes = list(run.notes)
    if run.result is None and not any(note.startswith("result.json") for note in notes):
        notes.insert(0, "The run is unfinished, it has no result.json yet: this is what its folder holds so far.")
    shown = [section for section in sections if section.figures or section.tables]
    files = [("Environment", run.env), ("Configuration (config.json)", run.config)]
    details = [(title, _json(content)) for title, content in files if content]
    status = tables.status_of(run)
    return RunPage(anchor, run.name, status, _outcome(run), notes, list(_facts(run)), shown, details)


def _json(content: Mapping[str, Any]) -> str:
    """Names and values, a line each, in full unless it is absurdly long."""
    written = "\n".join(_lines(content, 0))
    return written if len(written) <= _MOST_JSON else f"{written[:_MOST_JSON]} …"


def _lines(content: Mapping[str, Any], depth: int) -> Iterator[str]:
    for key, value in content.items():
        name = f"{'    ' * depth}{text(key, 100)}:"
        if isinstance(value, dict) and value and depth < 3:
            yield name
            yield from _lines(value, depth + 1)
        else:
            yield f"{name} {text(value if isinstance(value, str) else json.dumps(value, default=str), 400)}"


def _facts(run: RunFiles) -> Iterator[tuple[str, str]]:
    config, result = run.config, run.result or {}
    yield "command", f"cbkernels {run.command}"
    data_set = text(config.get("dataset"), 80)
    if data_set:
        yield "data set", data_set
    if text(result.get("run") or config.get("run"), 80):
        yield "trained network", text(result.get("run") or config.get("run"), 80)
    first = object_of(result.get("before")).get("architecture") if run.command == "autotune" else None
    architecture = tables.named(first or result.get("architecture")) or tables.planned(config)
    if architecture:
        yield "architecture", f"{architecture}{' (at first)' if run.command == 'autotune' else ''}"
    if text(config.get("policy")):
        yield "policy", text(config.get("policy"), 40)
    seed = result.get("seed", config.get("seed"))
    if seed is not None:
        yield "seed", text(seed, 40)
    if text(run.env.get("device")):
        yield "device", text(run.env.get("device"), 80)
    version = text(result.get("version") or config.get("version"), 40)
    if version:
        yield "cbkernels", version
    yield from _times(run)
    yield "rows are one bundle when they are", _equality(run)


def _times(run: RunFiles) -> Iterator[tuple[str, str]]:
    result = run.result or {}
    training, measuring = (
        result[key] if number(result.get(key)) is not None else tables.total(run, key) or None
        for key in ("seconds_training", "seconds_measuring")
    )
    if training is not None:
        yield "fine-tuning took" if run.command == "remove" else "training took", tables.seconds(training)
    share = tables.measuring_share(run)
    if run.command != "remove" and share is not None:
        yield "measuring took", f"{tables.seconds(measuring)}, {percent(share)} of the time"


def _equality(run: RunFiles) -> str:
    said = text((run.result or {}).get("equality"))
    if said:
        return said.removeprefix("Rows are one bundle when they are ").rstrip(".")
    return run.layers[0].equality if run.layers else "not known: no layer was measured"


# --- the outcome in a sentence --------------------------------------------------------------------


def _outcome(run: RunFiles) -> str:
    if run.result is None:
        return _unfinished(run)
    return {"train": _train_outcome, "autotune": _autotune_outcome, "remove": _remove_outcome}[run.command](run)


def _unfinished(run: RunFiles) -> str:
    if not run.history:
        return "Unfinished: no epoch has been written yet."
    last = run.history[-1]
    planned = run.config.get("epochs")
    of_planned = f" of {tables.plain(planned)}" if number(planned) is not None else ""
    round_ = f" of round {text(last.get('round'), 20)}" if run.command == "autotune" else ""
    return (f"Unfinished: epoch {tables.plain(last.get('epoch'))}{of_planned}{round_} is done, with "
            f"{percent(last.get('test_accuracy'))} test accuracy.")  # fmt: skip


def _train_outcome(run: RunFiles) -> str:
    result = run.result or {}
    network = tables.named(result.get("architecture")) or "the network"
    chance = _chance_words(result)
    epochs = f" after {tables.plain(result['epochs'])} epochs" if number(result.get("epochs")) is not None else ""
    verb = "diverged at" if result.get("status") == "diverged" else "reached"
    words = f"{network}: {verb} {percent(result.get('test_accuracy'))} test accuracy{epochs}{chance}"
    conflicting = number(result.get("num_conflicting_layers"))
    if conflicting is None:
        return f"{words}."
    if not conflicting:
        return f"{words}; no layer conflicts in the end."
    many = "layers conflict" if conflicting > 1 else "layer conflicts"
    first = text(result.get("first_conflicting"), 60)
    which = f", the first is {first}" if first and conflicting > 1 else f": {first}" if first else ""
    return f"{words}; {conflicting:g} {many} in the end{which}."


def _chance_words(result: Mapping[str, Any]) -> str:
    chance = result.get("chance_accuracy")
    return f" (chance: {percent(chance)})" if number(chance) is not None else ""


def _autotune_outcome(run: RunFiles) -> str:
    result = run.result or {}
    before, after = object_of(result.get("before")), object_of(result.get("after"))
    rounds = len(items_of(result.get("rounds")))
    many = "1 round" if rounds == 1 else f"{rounds} rounds"
    old, new = (tables.named(each.get("architecture"), each.get("name")) for each in (before, after))
    if result.get("status") != "trained" or not after:
        reason = text(result.get("reason")).rstrip(".")
        return f"Auto-tune ended as {tables.status_of(run)} after {many}{f': {reason}' if reason else ''}."
    changed = f"from {old} to {new}" if old != new else f"with {new} unchanged"
    return (f"Auto-tune went in {many} {changed}; test accuracy {percent(before.get('test_accuracy'))} before, "
            f"{percent(after.get('test_accuracy'))} after{_chance_words(result)}.")  # fmt: skip


def _remove_outcome(run: RunFiles) -> str:
    result = run.result or {}
    accuracy = object_of(result.get("accuracy"))
    removed = result.get("removed") if isinstance(result.get("removed"), list) else []
    blocks = len(items_of(result.get("blocks")))
    words = (f"{len(removed or [])}{f' of {blocks}' if blocks else ''} residual blocks were removed; test accuracy "
             f"{percent(accuracy.get('before'))} before, {percent(accuracy.get('removed'))} without them")  # fmt: skip
    tuned = number(result.get("finetune_epochs"))
    if number(accuracy.get("healed")) is None or not tuned or not removed:
        return f"{words}."
    return f"{words}, {percent(accuracy.get('healed'))} after {tuned:g} epochs of fine-tuning."


# --- sections -------------------------------------------------------------------------------------


def _of_table(table: Table | None, words: str = "") -> list[Section]:
    """A section for a table, under its own caption."""
    return [Section(table.caption, tables=[table], words=[words] if words else [])] if table else []


def _autotune_sections(result: Mapping[str, Any]) -> list[Section]:
    before, after = object_of(result.get("before")), object_of(result.get("after"))
    reason = text(result.get("reason")).rstrip(".")
    ended = f"Auto-tune ended as {text(result.get('status'), 30)}: {reason}." if reason else ""
    return [*_of_table(tables.costs_table(before, after)), *_of_table(tables.rounds_table(result), ended)]


def _removal_sections(result: Mapping[str, Any], prefix: str) -> list[Section]:
    accuracy = object_of(result.get("accuracy"))
    before, removed, healed = (accuracy.get(key) for key in ("before", "removed", "healed"))
    rows = [
        [f"test accuracy, {words}", percent(before), percent(then), tables.points(before, then)]
        for words, then in (("right after removal", removed), ("healed", healed))
    ]
    ends = object_of(result.get("before")), object_of(result.get("after"))
    return [
        *_of_table(tables.costs_table(*ends, rows if accuracy else ())),
        Section("What blocks are worth", _removal_figures(result, prefix)),
        *_of_table(tables.steps_table(result), tables.guard_words(result)),
        *_of_table(tables.blocks_table(result)),
    ]


def points_of(curves: Mapping[str, Any]) -> dict[str, list[tuple[float, float, float]]]:
    """Kind -> (removed blocks, mean accuracy, standard deviation) of a study, without points that hold no number."""
    found = {}
    for kind in run_figures.CURVES:
        points = [[number(p.get(k)) for k in ("removed", "mean", "std")] for p in items_of(curves.get(kind))]
        found[kind] = sorted((k, m, s or 0.0) for k, m, s in points if k is not None and m is not None)
    return found


def block_cost(block: Mapping[str, Any], removed: Sequence[str]) -> run_figures.BlockCost:
    """What a file says of a block, for its picture; ``removed``: names of the blocks that are gone."""
    accuracy, bits = (
        math.nan if x is None or math.isinf(x) else x
        for x in (number(block.get("accuracy_without")), number(block.get("margin_bits")))
    )
    is_conflicting = (number(block.get("num_conflicting")) or 0) > 0
    return run_figures.BlockCost(accuracy, bits, is_conflicting, text(block.get("block")) in removed)


def _removal_figures(result: Mapping[str, Any], prefix: str) -> list[Figure]:
    study, curves = object_of(result.get("study")), object_of(result.get("curves"))
    accuracy = number(study.get("accuracy"))
    figures = []
    if any(items_of(curves.get(kind)) for kind in run_figures.CURVES):
        draws = {number(point.get("draws")) for kind in ("conflicting", "non_conflicting", "any")
                 for point in items_of(curves.get(kind))} - {None}  # fmt: skip
        most = f" of {tables.plain(max(d for d in draws if d is not None))} draws" if draws else ""
        samples = f" on {tables.count(study['samples'])} samples" if number(study.get("samples")) else ""
        words = f"Mean and one standard deviation{most}, no retraining{samples}."
        picture = run_figures.rendered(
            f"{prefix}removal-curves",
            "Test accuracy against the number of removed blocks, for conflicting, non-conflicting and random blocks.",
            lambda: run_figures.removal_curves(points_of(curves), accuracy, words),
        )
        figures.append(Figure(picture, "Accuracy against the number of blocks that are removed together.", 90))
    blocks = items_of(result.get("blocks"))
    if any(number(block.get("accuracy_without")) is not None for block in blocks):
        removed = [text(name) for name in result["removed"]] if isinstance(result.get("removed"), list) else []
        picture = run_figures.rendered(
            f"{prefix}blocks",
            "For every block: test accuracy without it, and its conflict margin in bits.",
            lambda: run_figures.block_costs([block_cost(block, removed) for block in blocks], accuracy),
        )
        figures.append(Figure(picture, "What each block costs when it alone is removed, and its conflict margin.", 80))
    return figures


def _curves_section(run: RunFiles, prefix: str) -> Section:
    curves = curves_of(run)
    if not curves:
        return Section("Accuracy and loss")
    picture = run_figures.rendered(
        f"{prefix}curves",
        f"Test accuracy and training loss over the epochs of {len(curves)} "
        f"{'network' if len(curves) == 1 else 'networks, one after the other'}.",
        lambda: run_figures.training_curves(curves, number((run.result or {}).get("chance_accuracy"))),
    )
    restarts = " A dashed line is a restart from fresh weights." if len(curves) > 1 else ""
    caption = f"Accuracy and loss over epochs; epoch 0 is before training.{restarts}"
    return Section("Accuracy and loss", [Figure(picture, caption, 100)])


def curves_of(run: RunFiles) -> list[Curve]:
    """A curve for every network of the history, in the order in which they were trained."""
    groups: list[list[dict[str, Any]]] = []
    last: tuple[str, str] | None = None
    for line in run.history:
        key = text(line.get("run"), 40), text(line.get("round"), 20)
        if key != last:
            groups.append([])
        groups[-1].append(line)
        last = key
    return [_curve(lines, run) for lines in groups]


def _curve(lines: Sequence[Mapping[str, Any]], run: RunFiles) -> Curve:
    def values(key: str) -> list[float]:
        return [math.nan if (found := number(line.get(key))) is None else found for line in lines]

    return Curve(
        network_words(text(lines[0].get("run"), 40), text(lines[0].get("round"), 20), run.command),
        values("epoch"), values("train_loss"), values("test_accuracy"), values("validation_accuracy"),
    )  # fmt: skip


def network_words(run: str, round_: str, command: str) -> str:
    """What one network of a run is called: "" for the only one of ``train``."""
    if command == "train" and run in ("", "train"):
        return ""
    if run == "finetune":
        return "fine-tuning"
    return f"round {round_}" if run in ("", "autotune") else f"{run} {round_}".replace("autotune", "")


def _heat_map_sections(run: RunFiles, prefix: str) -> list[Section]:
    """Entropies as trained, as if in other types, and margins."""
    tables = [table for table in run.layers if table.heat_map.measured is not None and table.heat_map.measured.any()]
    first = tables[0].dtype if tables else ""
    trained, others = [t for t in tables if t.dtype == first], [t for t in tables if t.dtype != first]
    margins = [t for t in run.layers if t.heat_map.margin_bits is not None]
    left = MOST_MAPS
    sections = []
    for title, kind, chosen in (
        ("Bundle entropy of every layer", "entropy", trained),
        ("The same as if the weights were of another type", "what-if", others),
        ("Conflict margin of every layer", "margin", margins),
    ):
        shown = _ends(chosen, left)
        left -= len(shown)
        figures = [_heat_map_figure(run, table, kind, prefix, shown) for table in shown]
        missing = len(chosen) - len(shown)
        words = [f"{missing} of {len(chosen)} rounds are not drawn."] if missing else []
        sections.append(Section(title, figures, words=words))
    return sections


def _ends(tables: Sequence[LayerTable], most: int) -> list[LayerTable]:
    """The first and the last of them, as many as are allowed."""
    if len(tables) <= most:
        return list(tables)
    return [*tables[: most - most // 2], *tables[len(tables) - most // 2 :]]


def _heat_map_figure(run: RunFiles, table: LayerTable, kind: str, prefix: str, shown: Sequence[LayerTable]) -> Figure:
    network = network_words(table.run, str(table.round), run.command)
    architecture = _architecture_of_round(run, table.round)
    title = ", ".join(words for words in (network, architecture) if words)
    as_if = f" as if in {table.dtype}" if table.dtype != run.layers[0].dtype else ""
    name = "-".join(filter(None, (f"{prefix}{kind}", _file_words(table))))
    what = "Conflict margin in bits" if kind == "margin" else "Bundle entropy in nats"
    top = max((float(np.nanmax(t.heat_map.entropy, initial=0.0)) for t in shown), default=0.0)
    top = top if 0 < top < math.inf else 1.0
    picture = run_figures.rendered(
        name,
        f"{what}{as_if}, layer by epoch{f', {title}' if title else ''}; {_conflicts_in_words(table)}.",
        lambda: run_figures.margin_map(table, f"{title}{as_if}") if kind == "margin"
        else run_figures.entropy_map(table, f"{title}{as_if}", top),
    )  # fmt: skip
    heading = f"{title[:1].upper()}{title[1:]}" if network else title or what
    weight = 70 if table in (shown[0], shown[-1]) else 50
    return Figure(picture, f"{heading}{as_if}: {_conflicts_in_words(table)}.", weight)


def _file_words(table: LayerTable) -> str:
    parts = [part for part in (table.run, table.dtype) if part and part.isidentifier() and part.isascii()]
    return "-".join([*parts, f"{abs(table.round):02d}"])


def _architecture_of_round(run: RunFiles, round_: int) -> str:
    result = run.result or {}
    for each in items_of(result.get("rounds")):
        if number(each.get("round")) == round_:
            return tables.named(each.get("architecture"), each.get("name"))
    planned = tables.planned(run.config) if run.command == "train" else ""
    return tables.named(result.get("architecture")) or planned


def _conflicts_in_words(table: LayerTable) -> str:
    each = table.heat_map
    conflicts = each.num_conflicting > 0
    layers = int(conflicts.any(axis=1).sum())
    if not layers:
        return f"none of {len(each.names)} layers ever conflicts"
    epoch = each.steps[int(conflicts.any(axis=0).argmax())]
    first = each.names[int(conflicts[:, conflicts.any(axis=0).argmax()].argmax())]
    return f"{layers} of {len(each.names)} layers conflict, from epoch {epoch} on, where {first} is the first"


def _comparison(runs: Sequence[RunFiles]) -> Section:
    curves, chances = [], []
    for run in runs:
        found = curves_of(run)
        if found:
            curves.append(replace(found[-1], label=f"{run.name} ({run.command})"))
            chances.append(number((run.result or {}).get("chance_accuracy")))
    figures = []
    if curves:
        picture = run_figures.rendered(
            "comparison",
            f"Test accuracy over epochs of {len(curves)} runs in one picture.",
            lambda: run_figures.overlaid_curves(curves, chances),
        )
        figures.append(Figure(picture, "Test accuracy of every run, of the network that it ended with.", 110))
    return Section("All runs", figures, [tables.comparison_table(runs)])


# --- the page -------------------------------------------------------------------------------------


def _embedded(figures: Sequence[Figure], room: int) -> dict[str, str]:
    """Name -> data URI of the pictures that fit into so many bytes, the weightiest first.

    SVG stays sharp; the PNG is taken where it is far smaller.
    """
    uris: dict[str, str] = {}
    for figure in sorted(figures, key=lambda f: -f.weight):
        picture = figure.picture
        use_png = len(picture.svg) > max(120_000, 2 * len(picture.png))
        kind, content = ("png", picture.png) if use_png else ("svg+xml", picture.svg)
        uri = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
        if len(uri) <= room:
            uris[picture.name] = uri
            room -= len(uri)
    return uris


def _page(pages: Sequence[RunPage], comparison: Section | None, uris: Mapping[str, str], pictures: Path) -> bytes:
    import jinja2

    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    title = f"{pages[0].name}: {pages[0].facts[0][1]}" if len(pages) == 1 else f"{len(pages)} runs compared"
    html = templates.get_template("run_report.html").render(
        title=title, pages=pages, comparison=comparison, uris=uris, version=__version__, pictures=pictures.name,
    )  # fmt: skip
    return html.encode("utf-8", "replace")

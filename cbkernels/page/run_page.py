"""``write_report``: run folders become one HTML page that opens without a network, and its pictures as files.

Needs matplotlib and Jinja2, imported late. ``runs/reader.py`` reads, ``sections.py`` says what is on the page, and in
which order, with ``facts.py`` and ``tables.py`` for words and ``figures.py`` for pictures; this file puts it together.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from .._version import __version__
from ..drawing.figures import require_matplotlib
from ..files.folders import make_folder, output_path
from ..files.whole_files import write_whole
from ..runs.clean_text import lines_of
from ..runs.reader import is_drawn, read_comparison, read_run
from ..runs.record import ComparisonRecord, RunRecord
from ..runs.schema import CONFIG, RESULT
from .comparisons import section_of, verdicts_of
from .facts import facts_of, outcome_of, status_of
from .figures import Cells
from .sections import Figure, Section, sections_of, with_terms
from .terms import Term, explained

MOST_BYTES = 1_900_000
"""Of the page."""
MOST_VALUES = 400_000
"""Bytes of the values that are shown when one points at a heat map, of all maps together."""
_MOST_LETTERS = 20_000
"""Of a file that is shown as it is."""


@dataclass(frozen=True)
class RunPage:
    """What the page says of one run."""

    anchor: str
    name: str
    status: str
    outcome: str
    notes: Sequence[str]
    facts: Sequence[tuple[str, str]]
    terms: Sequence[str]
    """Sentences on the terms above them that are new to the reader."""
    sections: Sequence[Section]
    details: Sequence[tuple[str, str]]
    """Title and JSON text, folded."""


@dataclass(frozen=True)
class Comparison:
    """What the page says of several runs together."""

    title: str
    verdicts: Sequence[Section]
    """Of ``repr compare``, before the outcomes of the runs."""
    terms: Sequence[str]
    """Sentences on the terms in the outcomes of the runs."""
    overview: Section

    @property
    def sections(self) -> list[Section]:
        """All of them."""
        return [*self.verdicts, self.overview]


def write_report(
    folders: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    pictures: str | os.PathLike[str] | None = None,
) -> Path:
    """Write the report of one run, or of several runs beside each other.

    Args:
        folders: of runs of ``cbkernels train``, ``autotune`` or ``remove``, finished or not, and of ``repr compare``.
        out: the HTML file; it loads nothing and stays below 2 MB.
        pictures: folder for the same pictures as PNG and SVG; None takes ``report_files`` beside a ``report.html``.

    Returns:
        ``out`` as a Path.

    Raises:
        ImportError: matplotlib or Jinja2 is missing.
        ValueError: no folder, one that is no run folder, or a file would be replaced that is not of a report.
        OSError: a file cannot be read or written.
    """
    require_matplotlib()
    try:
        import jinja2  # noqa: F401
    except ImportError:
        raise ImportError("reports need Jinja2: pip install Jinja2") from None
    if isinstance(folders, (str, os.PathLike)):
        raise TypeError(f"folders is {os.fspath(folders)!r}; pass a list of run folders")
    if not folders:
        raise ValueError("folders is empty; pass at least one run folder")
    target = output_path(out)
    beside = pictures_folder(target) if pictures is None else output_path(pictures)
    if beside.is_symlink():
        raise ValueError(f"{beside} is a link to another folder, which is not written to; name that folder instead")
    _require_ours(target)
    pages, comparison = _read(folders)
    together = comparison.sections if comparison else []
    sections = [*(section for page in pages for section in page.sections), *together]
    figures = [figure for section in sections for figure in section.figures]
    written: dict[str, bytes] = {}
    for figure in figures:
        written |= {f"{figure.picture.name}.svg": figure.picture.svg, f"{figure.picture.name}.png": figure.picture.png}
    if beside != pictures_folder(target) or not target.exists():  # else they are those of an older page of ours
        for name in written:
            _require_ours(beside / name)
    make_folder(beside)
    for name, content in written.items():
        write_whole(beside / name, content, is_synced=False)
    room = MOST_BYTES - len(_page(pages, comparison, {}, {}, beside))
    uris = _embedded(figures, room)
    values = _shown_values(figures, min(MOST_VALUES, room - sum(map(len, uris.values()))))
    page = _page(pages, comparison, uris, values, beside)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, page)
    return target


def _read(folders: Sequence[str | os.PathLike[str]]) -> tuple[list[RunPage], Comparison | None]:
    """What the page says of every run, and of all together; the runs of ``repr compare`` are where its folder is."""
    runs: list[RunRecord] = []
    compared: list[ComparisonRecord] = []
    for folder in folders:
        if record := read_comparison(folder):
            compared.append(record)
            runs += [run for of_name in record.runs.values() for run in of_name.values()]
        else:
            runs.append(read_run(folder))
    known: set[Term] = set()
    comparison = _comparison(runs, compared, known, len(folders) == 1) if compared or len(runs) > 1 else None
    pages = [_run_page(run, f"run-{position}", bool(comparison), known) for position, run in enumerate(runs, 1)]
    return pages, comparison


def _require_ours(path: Path) -> None:
    """Refuse to replace what is not of a report."""
    if os.path.lexists(path) and not is_drawn(path):
        raise ValueError(f"{path} is not of a report of cbkernels; move it away, or name another --out or --pictures")


def pictures_folder(out: str | os.PathLike[str]) -> Path:
    """Where the pictures of a report go unless one says otherwise.

    Example:
        >>> pictures_folder("runs/a/report.html").as_posix()
        'runs/a/report_files'
    """
    target = Path(out)
    return target.with_name(f"{target.stem}_files")


def _comparison(
    runs: Sequence[RunRecord], compared: Sequence[ComparisonRecord], known: set[Term], is_alone: bool
) -> Comparison:
    verdicts = [with_terms(verdicts_of(record, f"repr-{position}"), known) for position, record in enumerate(compared)]
    terms = explained(map(outcome_of, runs), known)
    title = f"{compared[0].name}: cbkernels repr compare" if is_alone else f"{len(runs)} runs compared"
    return Comparison(title, verdicts, terms, with_terms(section_of(runs), known))


def _run_page(run: RunRecord, anchor: str, is_one_of_several: bool, known: set[Term]) -> RunPage:
    notes = list(run.notes)
    if run.result is None and not any(note.startswith(RESULT) for note in notes):
        notes.insert(0, "The run is unfinished, it has no result.json yet: this is what its folder holds so far.")
    files = [("Environment", run.environment), (f"Configuration ({CONFIG})", run.config)]
    written = [(title, "\n".join(lines_of(content))) for title, content in files if content]
    details = [(title, t if len(t) <= _MOST_LETTERS else f"{t[:_MOST_LETTERS]} …") for title, t in written]
    outcome, facts = outcome_of(run), facts_of(run)
    terms = explained([outcome, *notes, *map(" ".join, facts)], known)
    sections = [with_terms(each, known) for each in sections_of(run, f"{anchor}-" if is_one_of_several else "")]
    return RunPage(anchor, run.name, status_of(run), outcome, notes, facts, terms, sections, details)


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


def _shown_values(figures: Sequence[Figure], room: int) -> dict[str, Cells]:
    """Name of a heat map -> its values, of those that fit into so many bytes, the weightiest first."""
    shown: dict[str, Cells] = {}
    for figure in sorted(figures, key=lambda f: -f.weight):
        if (cells := figure.picture.cells) is not None:
            needed = len(escape("".join((*cells.layers, *cells.rows))).encode()) + 12 * len(cells.steps) + 400
            needed += 10 * len(cells.layers)
            if needed <= room:
                shown[figure.picture.name] = cells
                room -= needed
    return shown


def _page(
    pages: Sequence[RunPage], comparison: Comparison | None, uris: Mapping[str, str], values: Mapping[str, Cells],
    pictures: Path,
) -> bytes:  # fmt: skip
    import jinja2
    from markupsafe import Markup

    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    title = comparison.title if comparison else f"{pages[0].name}: {pages[0].facts[0][1]}"
    script = Path(__file__).with_name("templates").joinpath("run_report.js").read_text(encoding="utf-8")
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()  # no other script may run
    html = templates.get_template("run_report.html").render(
        title=title, pages=pages, comparison=comparison, uris=uris, values=values, version=__version__,
        pictures=pictures.name, script=Markup(script), script_hash=script_hash,
    )  # fmt: skip
    return html.encode("utf-8", "replace")

"""docs/models.md, written from what is found: ``python -m tests.models.zoo.document`` (``make models``).

A row is made by one measurement of an entry and by trying to remove each of its blocks. ``test_zoo.py`` makes every
row anew and compares it with the file. A model whose library is not here keeps its row.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from cbkernels.surgery.surgery import remove_layers

from .catalogue import CATALOGUE
from .deviations import DEVIATIONS
from .entries import Entry
from .libraries import missing
from .promises import built, measured

PATH = Path(__file__).resolve().parents[3] / "docs" / "models.md"
_BEGIN, _END = "<!-- models:begin -->", "<!-- models:end -->"
_HEAD = "| model | library | blocks found | branches | removable | remarks |\n|---|---|---|---|---|---|\n"


def row(entry: Entry) -> str:
    """The line of the table, from a look at the model."""
    model, example = built(entry)
    report = measured(model, example)
    parts = {block: list[str]() for block in report.blocks.values()}
    for layer, block in report.blocks.items():
        if layer not in parts and "#" not in layer:
            parts[block].append(layer.removeprefix(f"{block}."))
    notes = dict.fromkeys(re.sub(r"'[^']*'", lambda name: re.sub(r"\d+", "*", name[0]), note) for note in report.notes)
    remarks = [entry.remarks, *(f"The report notes: {note}." for note in notes)]
    told = {cause for (name, _), (_, cause) in DEVIATIONS.items() if name == entry.name}
    cells = [
        entry.name, entry.library, _counted(parts), _listed(" ".join(found) for found in parts.values()),
        _removable(entry, list(parts)), " ".join(filter(None, [*remarks, *sorted(told)])),
    ]  # fmt: skip
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _counted(blocks: Iterable[str]) -> str:
    """``layer*.*`` (5): names with their numbers left out, and how many there are."""
    counts = Counter(re.sub(r"\d+", "*", block) for block in blocks)
    return ", ".join(f"{count} `{pattern}`" for pattern, count in counts.items()) or "none"


def _listed(branches: Iterable[str]) -> str:
    return "; ".join(f"`{each}`" if each else "made by no module" for each in dict.fromkeys(branches))


def _removable(entry: Entry, blocks: list[str]) -> str:
    """How many of the blocks can go, and why the others cannot."""
    reasons: Counter[str] = Counter()
    for block in blocks:
        model, example = built(entry)
        try:
            remove_layers(model, block, example=example)
        except ValueError as error:
            reasons[_reason(str(error))] += 1
    can_go = len(blocks) - sum(reasons.values())
    refused = "; ".join(f"{count} refused: {reason}" for reason, count in reasons.items())
    if not refused:
        return "all" if blocks else ""
    return f"{can_go} of {len(blocks)}; {refused}" if can_go else refused


def _reason(sentence: str) -> str:
    """A refusal without the names of modules, so that equal ones can be counted."""
    clause = re.split(r"; |, so nothing can|, which its model", sentence)[0]
    clause = re.sub(r"^'[^']*' \(\w+\) ", "", clause)
    clause = re.sub(r" '[^']*' \(\w+\) ", " the block ", clause)
    clause = re.sub(r"without \[.*?\]", "without it", clause)
    clause = re.sub(r"without '.*' the model differs(.* cannot say):.*", r"without it the model differs\1", clause)
    return re.sub(r"'(?:[^']*\.)?([^'.]*)'", r"`\1`", clause)


def rows() -> dict[str, str]:
    """Name -> line of the table in the file."""
    table = PATH.read_text().partition(_BEGIN)[2].partition(_END)[0] if PATH.exists() else ""
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return {line[2:].partition(" | ")[0]: line for line in lines[1:]}


def main() -> None:
    warnings.simplefilter("ignore")
    known, written = rows(), dict[str, str]()
    for entry in CATALOGUE.values():
        reason = missing(entry.library)
        if reason is None:
            written[entry.name] = row(entry)
        elif entry.name in known:
            written[entry.name] = known[entry.name]
        print(entry.name if reason is None else reason, file=sys.stderr)
    before, _, rest = PATH.read_text().partition(_BEGIN)
    after = rest.partition(_END)[2]
    table = "\n".join(written.values())
    PATH.write_text(f"{before}{_BEGIN}\n{_HEAD}{table}\n{_END}{after}")


if __name__ == "__main__":
    main()

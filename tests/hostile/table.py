"""The table of docs/reliability.md from what ``make hostile`` noted: ``table.py FILE... DOCUMENT``."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

PLACE = re.compile(r"(<!-- hostile: begin -->\n).*?(<!-- hostile: end -->)", re.DOTALL)


def table_of(files: Sequence[Path]) -> str:
    """Lines of a table, what was tried in one file after the other."""
    runs = [json.loads(file.read_text()) for file in files]
    rows = [f"| {r['tried']} | {r['command']} | {r['times']:,} | {r['held']} |" for run in runs for r in run["rows"]]
    about = sorted({f"commit {run['commit']}, seed {run['seed']}, `HOSTILE={run['scale']:g}`" for run in runs})
    return "\n".join([f"Noted at {'; '.join(about)}.", "", "| tried | command or file | times | what held |",
                      "|---|---|---|---|", *rows, ""])  # fmt: skip


def with_table(document: str, files: Sequence[Path]) -> str:
    return PLACE.sub(lambda place: place[1] + table_of(files) + place[2], document)


if __name__ == "__main__":
    *names, document = map(Path, sys.argv[1:])
    document.write_text(with_table(document.read_text(), names))

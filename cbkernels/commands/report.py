"""``cbkernels report RUN...``: run folders become one HTML page without a network."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from ..files.folders import output_path
from ..runs.schema import REPORT
from ..tables import shown


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "report",
        help="draw one HTML page of a run, or of several beside each other",
        description="Draw one HTML page of a run, or of several beside each other: what was run, what came out, "
        "heat maps, curves and tables.\nThe page opens without a network; drawing it needs matplotlib and Jinja2.",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+",
                        help="the folder of a run of train, autotune or remove, or of repr compare")  # fmt: skip
    parser.add_argument("--out", metavar="FILE",
                        help="the page to write (default RUN/report.html; of several runs ./report.html)")  # fmt: skip
    parser.add_argument("--pictures", metavar="DIR",
                        help="the folder for its PNG and SVG files "
                        "(default beside the page, with _files in place of .html)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(less_memory="name fewer runs")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Write the page and the pictures, print where they are."""
    from ..page.run_page import pictures_folder, write_report

    usual = Path(arguments.runs[0]) / REPORT if len(arguments.runs) == 1 else REPORT
    out = output_path(usual if arguments.out is None else arguments.out)
    folder = pictures_folder(out) if arguments.pictures is None else arguments.pictures
    page = write_report(arguments.runs, out, folder)
    pictures = sorted(os.fspath(p) for p in Path(folder).iterdir() if p.suffix in (".png", ".svg"))
    if arguments.json:
        print(json.dumps({"report": os.fspath(page), "pictures": pictures}, indent=2))
    else:
        print(shown(f"Report: {page}"), shown(f"Pictures: {folder} ({len(pictures)} files)"), sep="\n")
    return 0

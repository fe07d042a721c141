"""What ``train`` and ``autotune`` have in common on the command line: options, resuming, the end of a run."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..files.folders import output_path
from ..runs.schema import CONFIG
from ..tables import shown
from ..training.config import from_dict
from .config_options import add_config_options, given_options
from .progress import Progress

EXIT_DIVERGED = 1
REQUIRED = ("torch", "safetensors")
LESS_MEMORY = "make --batch-size, --probe-size or the network smaller"


def add_run_options(
    parser: argparse.ArgumentParser, kind: type[Any], out: str,
    resume: str = "go on with the run in DIR after its last complete epoch",
) -> None:  # fmt: skip
    """The options of a config, and where its run goes."""
    run = parser.add_argument_group("the run")
    run.add_argument("--out", default=out, metavar="DIR", help=f"the folder to write (default {out})")
    run.add_argument(
        "--config", metavar="FILE", help="the config.json to take options from; options on the command line win"
    )
    again = run.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help=resume)
    again.add_argument("--overwrite", action="store_true", help="delete the run in DIR")
    run.add_argument("--json", action="store_true", help="print result.json instead of a table")
    parser.set_defaults(
        goes_on=(CONFIG, "the same command with --resume goes on after the last complete epoch"),
        less_memory=LESS_MEMORY,
    )
    add_config_options(parser, kind)


def run_training(
    arguments: argparse.Namespace, command: str, kind: type[Any], run: Callable[..., dict[str, Any]],
    text: Callable[[dict[str, Any]], str], *, says: bool = False,
) -> int:  # fmt: skip
    """Run ``run(config, out, ...)`` and print what came of it; with ``says`` it says more than a line an epoch.

    Returns:
        0; 1 when the training diverged.
    """
    from ..ranks import is_first_process

    output_path(arguments.out)
    config = config_of(arguments, command, kind)
    is_first = is_first_process()
    with Progress(log=is_first) as progress:
        told: dict[str, Any] = {"show": progress.epoch, **({"say": progress.say} if says else {})}
        result = run(config, arguments.out, resume=arguments.resume, overwrite=arguments.overwrite, **told)
    if is_first:
        tell(result, text, arguments.json, Path(arguments.out))
        if result["status"] == "diverged":
            print(f"cbkernels: error: the training diverged: {shown(result['reason'])}", file=sys.stderr)
    return EXIT_DIVERGED if result["status"] == "diverged" else 0


def config_of(arguments: argparse.Namespace, command: str, kind: type[Any]) -> Any:
    """The config: what was given, else what ``--config`` or the run to go on with says, else the defaults."""
    from ..files.json_files import read_json_object
    from ..runs.stored_runs import ABOUT, stored_config

    content: dict[str, Any] = {}
    if arguments.config is not None:
        content = read_json_object(arguments.config)
        content = {name: value for name, value in content.items() if name not in ABOUT}
    if arguments.resume:
        stored = stored_config(arguments.out, command)
        if stored is None:
            raise ValueError(f"{arguments.out} holds no run to go on with; name its folder or leave out --resume")
        if arguments.config is None:
            content = stored
            content.pop("run", None)  # what a removal is of: no option
    return from_dict(kind, {**content, **given_options(arguments, kind)})


def require_torch_for(command: str) -> None:
    """Refuse with what to install.

    Raises:
        ImportError: torch or safetensors is missing.
    """
    missing = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"cbkernels {command} trains networks and needs {missing[0]}: pip install torch safetensors")


def tell(
    result: dict[str, Any], text: Callable[[dict[str, Any]], str], as_json: bool, out: Path,
    runs: Sequence[Path] = (), *more: str,
) -> None:  # fmt: skip
    """Write the report of ``runs``, by default of ``out``; print the result, and where what is."""
    report = write_report(list(runs) or [out], out / "report.html")
    if as_json:
        print(json.dumps(result, indent=2, allow_nan=False))
    else:
        paths = [f"Files: {out}{os.sep}", *more, f"Report: {report or 'none'}"]
        print("\n".join([text(result), "", *map(shown, paths)]))


def write_report(folders: list[Path], out: Path) -> str | None:
    """The report of a run; without what draws it the run is whole all the same, and stderr says what is missing."""
    from ..page.run_page import write_report as write

    try:
        return str(write(folders, out))
    except (ImportError, ValueError) as error:
        print(shown(f"cbkernels: no report: {error}"), file=sys.stderr)
        return None

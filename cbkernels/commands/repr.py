"""``cbkernels repr compare``: does RePr help on this network? Equal epochs, several seeds, an honest verdict."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..files.folders import output_path
from ..filters.criteria import COMPARED, CRITERIA, STANDARD
from ..runs.schema import COMPARISON_PICTURE
from ..tables import format_table, shown, wrapped
from ..training.config import TrainConfig, from_dict
from ..wording import count, counted, gained, nats, percent, points
from .config_options import add_config_options, given_options
from .progress import Progress
from .training_command import LESS_MEMORY, require_torch_for, tell

DEFAULTS: dict[str, Any] = {"model": "cnn", "depth": 3, "width": 32, "epochs": 100}
"""The paper's small network; options that are named go first."""
_DECIDED = ("repr", "repr_criterion")
_DESCRIPTION = """\
Train the same network with equal numbers of epochs: standard, and with RePr dropping random filters, those of small
weights and those that overlap, with several seeds each. The tables say when a difference is within the spread.
By default three convolutions of 32 filters train for 100 epochs. Runs that are in DIR already are not trained again."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "repr", help="compare RePr with standard training on a network", description=_DESCRIPTION,
        usage="cbkernels repr compare [options]",
    )  # fmt: skip
    parser.add_argument("what", choices=("compare",), metavar="{compare}", help="the comparison")
    parser.add_argument("--out", default="runs/repr", metavar="DIR", help="the folder to write (default runs/repr)")
    usual = f"{' '.join(COMPARED)} and the preset's, {TrainConfig.repr_criterion} where none is named"
    told = f"{STANDARD}: a training without RePr; {CRITERIA.told()}"
    says = f"the criteria that are compared; {told} (default {usual})".replace("%", "%%")
    parser.add_argument("--criteria", nargs="+", metavar="NAME", help=says)
    parser.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="the number of seeds, counted upward from --seed (default 3)"
    )
    parser.add_argument("--json", action="store_true", help="print comparison.json instead of tables")
    parser.set_defaults(
        goes_on=("", "the same command goes on: what is trained is not trained again"), less_memory=LESS_MEMORY
    )
    add_config_options(parser, TrainConfig, DEFAULTS, _DECIDED)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Train all, write table and picture, print."""
    require_torch_for("repr compare")
    for name in _DECIDED:
        if hasattr(arguments, name):
            raise ValueError(f"--{name.replace('_', '-')} is decided by --criteria here; leave it out")
    config = from_dict(TrainConfig, {**DEFAULTS, **given_options(arguments, TrainConfig)})
    out = output_path(arguments.out)
    from ..training.procedures.compare_repr import compare

    with Progress(log=True) as progress:
        content = compare(config, out, criteria=arguments.criteria, seeds=arguments.seeds, show=progress.epoch)
    picture = _draw(out)
    tell(content, lambda content: _text(content, config), arguments.json, out, [out], f"Picture: {picture or 'none'}")
    return 0


def _draw(out: Path) -> str | None:
    from ..drawing.figures import save
    from ..page.comparisons import picture_of
    from ..runs.reader import read_comparison

    try:
        record = read_comparison(out)
        assert record is not None
        save(picture_of(record), out / COMPARISON_PICTURE)
    except ImportError as error:
        print(shown(f"cbkernels: no picture: {error}"), file=sys.stderr)
        return None
    return str(out / COMPARISON_PICTURE)


def _text(content: dict[str, Any], config: TrainConfig) -> str:
    rows = [
        [row["criterion"], percent(row["mean"]), points(row["std"]), gained(0.0, row["difference"]),
         ", ".join(percent(a) for a in row["test_accuracies"])]
        for row in content["rows"]
    ]  # fmt: skip
    table = format_table(["criterion", "test accuracy", "std", "difference", "each seed"], rows)
    verdicts = [wrapped(f"{row['criterion']}: {row['verdict']}.", "  ") for row in content["rows"]]
    about = (
        f"{config.dataset}: {config.architecture}, {counted(config.epochs, 'epoch')}; test accuracy after the last "
        f"one; RePr: {counted(config.repr_cycles, 'cycle')} of {config.repr_full_epochs} + "
        f"{config.repr_reduced_epochs} epochs, "
        f"{percent(config.repr_share)} of the filters."
    )
    return "\n\n".join(filter(None, [wrapped(about), table, "\n".join(verdicts), _cycles(content)]))


def _cycles(content: dict[str, Any]) -> str:
    """Conflicts before and after each cycle, mean over the seeds."""
    lines = []
    for name, seeds in content["cycles"].items():
        for k in range(min((len(cycles or []) for cycles in seeds), default=0)):
            of_cycle = [cycles[k] for cycles in seeds]
            lines.append([
                f"{name}, cycle {k}",
                *(_mean(of_cycle, when, column) for column in _OF_CYCLE for when in ("before", "reduced", "after")),
            ])  # fmt: skip
    if not lines:
        return ""
    heads = [f"{title} {when}" for title, _ in _OF_CYCLE.values() for when in ("before", "reduced", "after")]
    return "Does RePr remove conflicts? Mean over the seeds:\n" + format_table(["", *heads], lines)


_OF_CYCLE = {
    "num_conflicting_layers": ("conflicting", count), "mean_entropy": ("entropy", nats),
    "test_accuracy": ("accuracy", percent),
}  # fmt: skip


def _mean(cycles: list[dict[str, Any]], when: str, column: str) -> str:
    values = [cycle[when].get(column) for cycle in cycles]
    known = [value for value in values if value is not None]
    return _OF_CYCLE[column][1](sum(known) / len(known) if known else None)

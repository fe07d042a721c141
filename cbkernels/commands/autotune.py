"""``cbkernels autotune``: remove conflicting layers and train again until a network trains without conflict."""

from __future__ import annotations

import argparse
from typing import Any

from ..runs.outcomes import told_of
from ..runs.schema import AutotuneResult
from ..tables import format_table, wrapped
from ..training.config import AutotuneConfig
from ..training.procedures.rounds import TITLES, rows_of_rounds
from ..wording import count, counted, milliseconds, percent, size
from .training_command import add_run_options, require_torch_for, run_training

_DESCRIPTION = """\
Start from a network that is too deep; when its last block conflicts in the first epochs, remove the
conflicting blocks, start again from scratch, and train the network that does not conflict to its end."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "autotune", help="shorten a network until no layer conflicts, then train it", description=_DESCRIPTION
    )
    add_run_options(parser, AutotuneConfig, "runs/autotune")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Auto-tune, and print what came of it."""
    require_torch_for("autotune")
    from ..training.procedures.autotune import autotune_configured

    return run_training(arguments, "autotune", AutotuneConfig, autotune_configured, text)


def text(result: dict[str, Any]) -> str:
    """The rounds, before and after, and how it ended."""
    rounds = format_table(TITLES, rows_of_rounds(result))
    reasons = [wrapped(f"round {each['round']}: {each['reason']}", "  ") for each in result["rounds"]]
    table = format_table(*_before_and_after(result))
    chance = "" if result["chance_accuracy"] is None else f" Chance is {percent(result['chance_accuracy'])}."
    closing = [
        f"{result['status']}: {result['reason']}.{chance}",
        *told_of(AutotuneResult, result),
        f"Equal: {result['equality']}.",
        f"Measuring took {percent(result['measuring_share'])} of the time of training.",
    ]
    return "\n\n".join([rounds, "\n".join(reasons), table, "\n".join(map(wrapped, closing))])


def _before_and_after(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    columns = [name for name in ("before", "after") if result[name] is not None]
    networks = [result[name] for name in columns]
    rows = [
        ["network", *(x["name"] for x in networks)],
        ["blocks", *(count(x["blocks"]) for x in networks)],
        ["epochs", *(x["epochs"] or "not trained" for x in networks)],
        *(
            [f"{part} accuracy", *(percent(x[name]) for x in networks)]
            for part, name in (("test", "test_accuracy"), ("validation", "validation_accuracy"))
            if part == "test" or any(x[name] is not None for x in networks)
        ),
        ["parameters", *(count(x["parameters"]) for x in networks)],
        [f"MACs for {counted(networks[0]['latency_batch'], 'sample')}", *(count(x["macs"]) for x in networks)],
        ["latency", *(milliseconds(x["latency_ms"]) for x in networks)],
        ["peak memory", *(size(x["peak_memory_bytes"]) for x in networks)],
    ]
    return ["", *columns], rows

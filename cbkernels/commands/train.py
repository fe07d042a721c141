"""``cbkernels train``: train one network and measure it every epoch."""

from __future__ import annotations

import argparse
from typing import Any

from ..tables import shown
from ..training.config import TrainConfig
from ..wording import count, counted, interval, milliseconds, percent
from .training_command import add_run_options, require_torch_for, run_training

_DESCRIPTION = """\
Train a network on a data set and measure after every epoch which of its layers conflict.
By default a small dense network, which can learn, trains on digits by the papers' recipe. After its first
batches it says how long all epochs will take. With torchrun it trains on several processes (DDP)."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "train", help="train a network and measure every layer after every epoch", description=_DESCRIPTION
    )
    resume = (
        "go on with the run in DIR after its last complete epoch; of what decides its numbers only --epochs may be "
    )
    add_run_options(parser, TrainConfig, "runs/train", f"{resume}larger, with a constant schedule")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Train, and print what came of it."""
    require_torch_for("train")
    from ..training.procedures.train import train

    return run_training(arguments, "train", TrainConfig, train, _text, says=True)


def _text(result: dict[str, Any]) -> str:
    cost, first = result["cost"], result["first_conflicting"] or "none"
    rows = [
        ["network", result["name"]],
        ["status", f"{result['status']}: {result['reason']}"],
        ["test accuracy", f"{percent(result['test_accuracy'])} (chance {percent(result['chance_accuracy'])})"],
        *([] if result["validation_accuracy"] is None
          else [["validation accuracy", percent(result["validation_accuracy"])]]),
        ["conflicting layers", f"{result['num_conflicting_layers']}, the first: {first}"],
        ["parameters", count(cost["parameters"])],
        ["MACs", f"{count(cost['macs'])} for {counted(cost['latency_batch'], 'sample')}"],
        ["latency", f"{milliseconds(cost['latency_ms'])}, p10 to p90: "
                    f"{interval(cost['latency_ms_p10'], cost['latency_ms_p90'], milliseconds)}"],
        ["measuring", f"{percent(result['measuring_share'])} of the time of training"],
    ]  # fmt: skip
    width = max(len(title) for title, _ in rows)
    return "\n".join(f"{title.ljust(width)}  {shown(value)}" for title, value in rows)

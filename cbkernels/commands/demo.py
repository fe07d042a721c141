"""``cbkernels demo``: see conflicting layers in a minute, on real digits, from the kernel."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import textwrap
from pathlib import Path
from typing import Any

from ..progress import Progress
from ..tables import format_table

_WIDTH = 110


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "demo",
        help="train a deep narrow and a shallow wide network on digits and measure every layer",
        description="Train 50 layers of 10 and 3 layers of 128 on 8x8 digits; measure every hidden layer "
        "after every epoch.",
    )
    parser.add_argument("--out", default="runs/demo", metavar="DIR", help="folder to write (default runs/demo)")
    parser.add_argument("--epochs", type=int, default=40, metavar="N", help="of each network (default 40)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of weights and batches (default 0)")
    parser.add_argument(
        "--weights", choices=["torch", "he_uniform"], default="torch",
        help="how they start: as torch.nn.Linear starts them (default), or as the papers do",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Run the demo and print its tables."""
    if importlib.util.find_spec("torch") is None:
        raise ImportError("the demo trains networks and needs torch: pip install torch matplotlib")
    from ..demo import DemoConfig, run_demo

    config = DemoConfig(arguments.epochs, arguments.seed, weights=arguments.weights)
    with Progress(log=True) as progress:
        outcome = run_demo(config, arguments.out, progress.show)
    if outcome["heatmap"] is None:
        print("cbkernels: no picture: matplotlib is missing (pip install matplotlib)", file=sys.stderr)
    if arguments.json:
        print(json.dumps(outcome, indent=2, allow_nan=False))
    else:
        print(_text(outcome, Path(arguments.out)))
    return 0


def _text(outcome: dict[str, Any], out: Path) -> str:
    sections = []
    for name, network in outcome["networks"].items():
        rows = [
            [layer["layer"], layer["num_bundles"], layer["num_conflicting"], _entropy(layer["entropy"])]
            for layer in network["layers"]
        ]
        table = format_table(["layer", "bundles", "conflicting", "entropy (nats)"], rows)
        sections.append(
            f"{name}: {network['architecture']}, {network['parameters']} parameters, "
            f"after epoch {outcome['epochs']}\n\n{table}"
        )
    accuracies = [
        [network["architecture"], f"{network['test_accuracy']:.1%}", f"{outcome['chance_accuracy']:.1%}",
         network["first_conflicting"] or "none"]
        for network in outcome["networks"].values()
    ]  # fmt: skip
    sections.append(format_table(["network", "test accuracy", "chance", "first conflicting layer"], accuracies))
    sections += [
        textwrap.fill(f"{network['architecture']}: {network['conclusion']}", _WIDTH)
        for network in outcome["networks"].values()
    ]
    sections.append(textwrap.fill(f"{outcome['equality']} {_STARTS[outcome['weights']]}", _WIDTH))
    share = outcome["measuring_share"]
    sections.append(f"Measuring {outcome['probe_rows']} probe samples after every epoch took {share:.1%} of the time.")
    sections.append(f"Files: {out}{os.sep}\nPicture: {outcome['heatmap'] or 'none'}")
    return "\n\n".join(sections)


_STARTS = {
    "torch": "The weights started as torch.nn.Linear starts them; --weights he_uniform starts them as the papers do.",
    "he_uniform": "The weights started He-uniform with zero biases, as in the papers.",
}


def _entropy(value: float | None) -> float:
    return float("nan") if value is None else value

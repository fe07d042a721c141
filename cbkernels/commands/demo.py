"""``cbkernels demo``: auto-tune makes a network that cannot learn learn, on real digits, in a minute."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..training.config import AutotuneConfig
from ..training.policies import POLICIES
from .autotune import text
from .training_command import require_torch_for, run_training

PRESET: dict[str, Any] = {"depth": 50, "width": 10, "batch_size": 16, "learning_rate": 5e-3, "epochs": 30}
"""Deep and narrow on purpose; the rest is as in the papers."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "demo",
        help="auto-tune a network of 50 layers on digits: what conflicts goes, what is left learns",
        description="Train 50 layers of 10 on 8x8 digits, find out which of them conflict, remove those and train "
        "again: cbkernels autotune with small settings. The run in DIR is replaced.",
    )
    parser.add_argument("--out", default="runs/demo", metavar="DIR", help="folder to write (default runs/demo)")
    parser.add_argument(
        "--epochs", type=int, default=PRESET["epochs"], metavar="N", help="of each network (default %(default)s)"
    )
    parser.add_argument("--policy", choices=POLICIES, default="all", help="see cbkernels autotune --help (default all)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of weights and batches (default 0)")
    parser.add_argument("--json", action="store_true", help="print result.json instead of a table")
    parser.set_defaults(config=None, resume=False, overwrite=True)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Auto-tune, and print what came of it."""
    require_torch_for("demo")
    from ..training.procedures.autotune import autotune_configured

    vars(arguments).update({**PRESET, **vars(arguments)})
    given = {name: getattr(arguments, name) for name in (*PRESET, "policy", "seed", "out")}
    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in given.items())
    print(f"cbkernels autotune {options}", file=sys.stderr)
    return run_training(arguments, "autotune", AutotuneConfig, autotune_configured, text)

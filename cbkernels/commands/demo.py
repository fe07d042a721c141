"""``cbkernels demo``: auto-tune makes a network that cannot learn learn, on real digits, in a minute."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..files.folders import output_path
from ..runs.schema import CONFIG
from ..training.config import AutotuneConfig, from_dict, to_dict
from ..training.policies import POLICIES
from .autotune import text
from .training_command import require_torch_for, run_training

PRESETS: dict[str, dict[str, Any]] = {
    "vgg": {
        "model": "vgg", "blocks": (3, 12, 41, 3), "width_multiplier": 0.125, "optimizer": "adamw",
        "learning_rate": 5e-3, "epochs": 15, "policy": "added", "threads": 1,
    },
    "fnn": {
        "model": "fnn", "depth": 50, "width": 10, "batch_size": 16, "learning_rate": 5e-3, "epochs": 30,
        "policy": "all",
    },
}  # fmt: skip
"""Too deep on purpose. The papers' plain network of 120 layers at 1/8 of its width, with an optimizer that needs a few
hundred steps only; deep and narrow dense layers. The rest is as in the papers."""


_DESCRIPTION = """\
Train the papers' plain convolutional network of 120 layers on 8x8 digits, find out which of its
layers conflict, remove those and train again: this is cbkernels autotune with small settings.
A demo that DIR holds is replaced."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "demo",
        help="auto-tune a network of 120 layers on digits: what conflicts goes, what is left learns",
        description=_DESCRIPTION,
    )
    parser.add_argument("--out", default="runs/demo", metavar="DIR", help="the folder to write (default runs/demo)")
    parser.add_argument(
        "--model", choices=PRESETS, default="vgg",
        help="the network; vgg: convolutions, 59 blocks of two; fnn: 50 dense layers of 10 (default vgg)",
    )  # fmt: skip
    parser.add_argument(
        "--epochs",
        type=int,
        default=argparse.SUPPRESS,
        metavar="N",
        help=f"the number of epochs of each network ({_of_each('epochs')})",
    )
    parser.add_argument(
        "--policy", choices=POLICIES, default=argparse.SUPPRESS,
        help=f"which blocks are removed; {POLICIES.told()} ({_of_each('policy')})",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="the seed of the weights and the batches (default 0)"
    )
    parser.add_argument("--json", action="store_true", help="print result.json instead of a table")
    parser.set_defaults(
        config=None, resume=False, overwrite=True, less_memory="take --model fnn",
        goes_on=(CONFIG, "cbkernels autotune --resume --out {out} goes on after the last complete epoch"),
    )  # fmt: skip
    return parser


def _of_each(option: str) -> str:
    return "default " + ", ".join(f"{preset[option]} with {model}" for model, preset in PRESETS.items())


def run(arguments: argparse.Namespace) -> int:
    """Auto-tune, and print what came of it."""
    require_torch_for("demo")
    from ..training.procedures.autotune import autotune_configured

    _require_demo(output_path(arguments.out))
    preset = PRESETS[arguments.model]
    vars(arguments).update({**preset, **vars(arguments)})
    given = {name: getattr(arguments, name) for name in (*preset, "seed", "out")}
    options = " ".join(f"--{name.replace('_', '-')} {_typed(value)}" for name, value in given.items())
    print(f"cbkernels autotune {options}", file=sys.stderr)
    return run_training(arguments, "autotune", AutotuneConfig, autotune_configured, text)


def _require_demo(out: Path) -> None:
    """Refuse to replace a run that no demo made: without an option that asks for it only what costs a minute goes."""
    from ..runs.stored_runs import MACHINE, stored_config

    stored = stored_config(out, "autotune")
    free = ("epochs", "policy", "probe_size", "seed", *MACHINE)
    demos = [to_dict(from_dict(AutotuneConfig, preset)) for preset in PRESETS.values()]
    if stored is not None and not any(
        all(stored.get(name, value) == value for name, value in of_demo.items() if name not in free)
        for of_demo in demos
    ):
        raise ValueError(f"{out} holds an auto-tune that is no demo; name another --out")


def _typed(value: Any) -> str:
    """As an option's value is typed."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)

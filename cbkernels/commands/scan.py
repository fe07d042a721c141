"""``cbkernels scan MODEL``: the layer table of any model, as it starts or with weights from a file."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from .._version import __version__
from ..lazy import require_package
from ..tables import wrapped

_DESCRIPTION = """\
Run a model once on a probe batch and print which of its layers make samples indistinguishable.

MODEL is module:function, of which the function returns the model; hf:PATH, a local folder of a Hugging Face model;
or torchvision:NAME. The code of MODEL is imported from the working folder or from what is installed; nothing is
downloaded, and code that lies beside weights is never run."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "scan", help="measure every layer of a model of your own, once, untrained or with weights",
        description=_DESCRIPTION,
    )  # fmt: skip
    parser.add_argument("model", metavar="MODEL", help="the model: module:function, hf:PATH or torchvision:NAME")
    parser.add_argument("--weights", metavar="FILE",
                        help="the file of the weights: .safetensors, or a file of torch.save that holds tensors alone "
                        "(default the weights that the model starts with)")  # fmt: skip
    parser.add_argument("--layers", metavar="PATTERN", default="auto",
                        help="a regular expression of the names of the layers (default auto: blocks, "
                        "else activations)")  # fmt: skip
    parser.add_argument("--device", metavar="DEVICE", default="auto", help="the device: auto, cpu, cuda, cuda:1, ... "
                        "(default auto)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    _add_probe(parser.add_argument_group("the probe batch"))
    grid = parser.add_argument_group(
        "which rows are equal", "Rows are compared on the update grid of these options and of the model's weights."
    )
    grid.add_argument("--learning-rate", type=float, default=1e-3, metavar="LR",
                      help="the learning rate of the training (default 0.001)")  # fmt: skip
    grid.add_argument("--batch-size", type=int, default=64, metavar="B",
                      help="the batch size of the training (default 64)")  # fmt: skip
    grid.add_argument("--plain", action="store_true", help="values are compared as they are, without a grid")
    parser.set_defaults(less_memory="make --samples smaller")
    return parser


def _add_probe(group: Any) -> None:
    group.add_argument("--probe", metavar="FILE",
                       help="the .npz or .safetensors file of the samples; the array called labels or y holds their "
                       "labels, all others go into the model (default a made-up batch)")  # fmt: skip
    group.add_argument("--shape", type=int, nargs="+", metavar="N",
                       help="the shape of a made-up sample, such as 3 224 224 (default what is known of the model)",
                       )  # fmt: skip
    group.add_argument("--tokens", type=int, metavar="N",
                       help="the number below which made-up whole numbers lie, for models that take ids of tokens",
                       )  # fmt: skip
    group.add_argument("--samples", type=int, default=64, metavar="N",
                       help="the number of made-up samples (default 64)")  # fmt: skip
    group.add_argument("--seed", type=int, default=0, metavar="S",
                       help="the seed of the made-up samples and of weights that are drawn (default 0)")  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Make the model, measure it once, print."""
    torch: Any = require_package("torch", "cbkernels scan")
    from ..models.model_sources import model_named
    from ..models.monitor import LayerMonitor
    from ..models.scan_probes import made_up_probe, probe_of_file
    from ..ranks import device_named

    _check(arguments)
    model = model_named(arguments.model, seed=arguments.seed)
    if arguments.weights is not None:
        _load(model, arguments.weights)
    if arguments.probe is not None:
        probe, told = probe_of_file(arguments.probe)
    else:
        told_of_model = (arguments.shape, arguments.tokens, arguments.samples, arguments.seed)
        probe, told = made_up_probe(model, arguments.model, *told_of_model)
    grid: dict[str, Any] = {"grid": None}
    if not arguments.plain:
        optimizer = torch.optim.SGD(model.parameters(), lr=arguments.learning_rate)
        grid = {"optimizer": optimizer, "batch_size": arguments.batch_size}
    monitor = LayerMonitor(model.to(device_named(arguments.device)), probe, layers=arguments.layers, **grid)
    try:
        report = monitor.measure(step=0)
    except Exception as error:
        why = " ".join(str(error).split())
        raise ValueError(f"{arguments.model} cannot be measured on {told}: {why}") from error
    weights = f"the weights of {arguments.weights}" if arguments.weights else "the weights that it starts with"
    if arguments.json:
        about = {"version": __version__, "name": arguments.model, "weights": arguments.weights, "probe": told}
        print(json.dumps(about | report.to_dict(), indent=2, allow_nan=False))
    else:
        print(wrapped(f"{arguments.model} with {weights}, on {told}."), report, sep="\n\n")
    return 0


def _load(model: Any, weights: str) -> None:
    from ..models.model_sources import load_weights
    from ..surgery.files import STEPS

    try:
        load_weights(model, weights)
    except ValueError as error:
        beside = Path(weights).with_name(STEPS)
        if not beside.is_file():
            raise
        loads = f"cbkernels.Surgery.load({os.fspath(beside.parent)!r}, model) makes it of a whole model"
        raise ValueError(f"{error}; {STEPS} beside it says that it is of a cut model: {loads}") from error


def _check(arguments: argparse.Namespace) -> None:
    for option in ("samples", "tokens", "batch_size"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise ValueError(f"{option} is {value}; it must be at least 1")
    if arguments.shape is not None and min(arguments.shape) < 1:
        raise ValueError(f"shape is {arguments.shape}; all of its numbers must be at least 1")

"""``cbkernels measure ACTS LABELS``: bundle entropy of activations in files.

Small arrays are measured at once, exactly; large ones go through ``BundleEntropy`` in pieces, in
constant memory beyond 24 bytes a row. The table and the JSON say which of the two was done.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from typing import TYPE_CHECKING, Any

from .._version import __version__
from ..files.json_files import finite_or_none
from ..files.unpacking import UNPACK_UP_TO
from ..tables import cell, format_table
from ..wording import count, percent
from .progress import Progress
from .sizes import num_bytes

if TYPE_CHECKING:
    from ..files.array_files import StoredArray
    from ..grid import UpdateGrid
    from ..result import BundleResult

EXIT_ABOVE = 2
PIECE_BYTES = 64 << 20

_EPILOG = """\
ACTS is .npy, .npz or .safetensors; in the last two every array whose first axis
agrees with LABELS is a layer, FILE.npz:key chooses one. LABELS is an integer array
of one entry a row, FILE.npy or FILE.npz:key. No pickle is ever loaded.

In the JSON an entropy of null is NaN (a row holds one), a margin of null means that
there is only one label, bits of null that the margin is 0 or null.

exit codes: 0 measured; 1 an error, wrong usage included (one sentence on stderr);
2 measured, and a layer is above --fail-above or NaN; 130 interrupted, 143 terminated."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "measure",
        help="measure the bundle entropy of activations in .npy, .npz or .safetensors files",
        description="Measure the bundle entropy of every layer whose activations are in a file.",
        epilog=_EPILOG,
    )
    parser.add_argument("acts", metavar="ACTS", help="the file of the activations, arrays of shape (N, ...)")
    parser.add_argument("labels", metavar="LABELS", help="the file of the labels, an array of N integers")
    _add_equality(parser)
    size = parser.add_argument_group(
        "large files",
        "Rows of streamed arrays are compared by fingerprints of 128 bits, under a key that is drawn at random for "
        "this run. Two different rows then count as equal with probability at most 2^-120, whoever made the file.",
    )
    size.add_argument("--exact-up-to", type=num_bytes, default=1 << 30, metavar="BYTES",
                      help="the size above which arrays are streamed: 512MiB, 2G, ... (default 1GiB)")  # fmt: skip
    size.add_argument("--unpack-up-to", type=num_bytes, default=UNPACK_UP_TO, metavar="BYTES",
                      help="the memory that an array of a compressed .npz may take (default 4GiB)")  # fmt: skip
    size.add_argument("--stream", action="store_true",
                      help="every array is streamed, also small ones")  # fmt: skip
    size.add_argument("--chunk-rows", type=_positive_integer, metavar="N",
                      help="the number of rows read at a time; implies --stream (default: about 64 MiB)")  # fmt: skip
    parser.add_argument("--margin", action="store_true",
                        help="the conflict margin is measured too, also in bits above the grid's step")  # fmt: skip
    parser.add_argument("--fail-above", type=_threshold, metavar="X",
                        help="the exit code is 2 if a layer's entropy is NaN or above X nats")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(less_memory="pass --stream, with a smaller --chunk-rows if that is not enough")
    return parser


def _add_equality(parser: argparse.ArgumentParser) -> None:
    equal = parser.add_argument_group(
        "which rows are equal",
        "Rows are compared by plain equality or, if the first three options are given, on the training's update grid.",
    )
    equal.add_argument("--learning-rate", type=float, metavar="LR", help="the learning rate of the training")
    equal.add_argument("--batch-size", type=float, metavar="B", help="the batch size of the training")
    equal.add_argument("--weight-amplitude", type=float, metavar="W", help="the largest absolute weight")
    equal.add_argument("--grid-dtype", metavar="DTYPE",
                       help="the type of the weights: float32 (default), float64, float16, bfloat16")  # fmt: skip
    equal.add_argument("--tolerance", type=float, nargs=2, metavar=("RTOL", "ATOL"),
                       help="rows close to a bundle's first row are equal; depends on the order of rows")  # fmt: skip
    equal.add_argument("--log-epsilon", type=float, metavar="EPS",
                       help="the authors' logarithm ln(p + EPS) is taken, 1e-5 in their code")  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, and judge by ``--fail-above``."""
    from ..bundle import conflict_margin

    grid = _grid(arguments)
    layers, labels = _open(arguments)
    measured: dict[str, BundleResult] = {}
    margins: dict[str, float] = {}
    for layer in layers:
        try:
            measured[layer.name] = _measure(layer, labels, grid, arguments)
            if arguments.margin:
                margins[layer.name] = conflict_margin(layer.read(), labels)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"layer {layer.name!r}: {error}" if len(layers) > 1 else str(error)) from error
    threshold = arguments.fail_above
    above = [] if threshold is None else [name for name, result in measured.items() if not result.entropy <= threshold]
    if arguments.json:
        print(json.dumps(_as_json(arguments, measured, margins, grid, above), indent=2, allow_nan=False))
    else:
        print(_as_text(measured, margins, grid))
    if above:
        listed = ", ".join(f"{name!r} ({cell(measured[name].entropy)})" for name in above)
        verb = "layers are" if len(above) > 1 else "layer is"
        print(f"cbkernels: {len(above)} {verb} above {arguments.fail_above:g} nats: {listed}", file=sys.stderr)
        return EXIT_ABOVE
    return 0


def _grid(arguments: argparse.Namespace) -> UpdateGrid | None:
    given = {
        "--learning-rate": arguments.learning_rate,
        "--batch-size": arguments.batch_size,
        "--weight-amplitude": arguments.weight_amplitude,
    }
    missing = [option for option, value in given.items() if value is None]
    if len(missing) == len(given):
        if arguments.grid_dtype is not None:
            raise ValueError(f"--grid-dtype needs the update grid's {', '.join(given)}")
        return None
    if missing:
        raise ValueError(f"an update grid needs {', '.join(given)}; {' and '.join(missing)} missing")
    if arguments.tolerance is not None:
        raise ValueError("--tolerance and an update grid are two definitions of equal; pass one of them")
    from ..grid import UpdateGrid

    try:
        return UpdateGrid(
            arguments.learning_rate, arguments.batch_size, arguments.weight_amplitude,
            dtype=arguments.grid_dtype or "float32",
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(str(error).replace("dtype is", "--grid-dtype is")) from error


def _open(arguments: argparse.Namespace) -> tuple[list[StoredArray], Any]:
    """The layers to measure and the labels, checked as far as their headers allow."""
    from ..files.array_files import open_arrays, split_key

    acts_path, acts_key = split_key(arguments.acts)
    labels_path, _ = split_key(arguments.labels)
    layers = open_arrays(arguments.acts, arguments.unpack_up_to)
    found = open_arrays(arguments.labels, arguments.unpack_up_to)
    if len(found) > 1:
        names = ", ".join(repr(array.name) for array in found[:8])
        raise ValueError(f"{labels_path} holds {len(found)} arrays; choose one as {labels_path}:KEY ({names})")
    if len(found[0].shape) != 1:
        raise ValueError(f"labels has shape {found[0].shape}; it must be (N,), one label per row")
    num_rows = found[0].shape[0]
    if acts_key is None and len(layers) > 1:
        same_file = os.path.realpath(acts_path) == os.path.realpath(labels_path)
        candidates = [a for a in layers if not (same_file and a.name == found[0].name)]
        layers = [a for a in candidates if a.shape[:1] == (num_rows,)]
        if not layers:
            raise ValueError(f"{acts_path} has no array whose first axis is {num_rows}, the number of labels")
        for skipped in (a for a in candidates if a.shape[:1] != (num_rows,)):
            print(f"cbkernels: skipped {skipped.name!r}: its shape is {skipped.shape}, not ({num_rows}, ...)",
                  file=sys.stderr)  # fmt: skip
    return layers, found[0].read()


def _measure(layer: StoredArray, labels: Any, grid: UpdateGrid | None, arguments: argparse.Namespace) -> BundleResult:
    if layer.dtype.startswith("void"):
        raise TypeError(
            f"acts has dtype {layer.dtype}: NumPy's files keep neither bfloat16 nor float8; use .safetensors"
        )
    if not _streamed(layer, arguments):
        from ..bundle import bundle_entropy

        tolerance = tuple(arguments.tolerance) if arguments.tolerance is not None else None
        return bundle_entropy(layer.read(), labels, grid=grid, log_epsilon=arguments.log_epsilon, tolerance=tolerance)
    size = f"{layer.name!r} has {layer.num_bytes} bytes and is streamed"
    if arguments.tolerance is not None:
        raise ValueError(f"{size}, which --tolerance cannot; raise --exact-up-to or leave out --stream")
    if arguments.margin:
        raise ValueError(f"{size}, which --margin cannot; raise --exact-up-to or leave out --stream")
    if len(labels) != layer.shape[0]:
        raise ValueError(f"labels has {len(labels)} entries for {layer.shape[0]} rows; they must agree")
    return _stream(layer, labels, grid, arguments)


def _streamed(layer: StoredArray, arguments: argparse.Namespace) -> bool:
    if not layer.shape or layer.shape[0] == 0:
        return False  # refused by the one-shot call, in its words
    large = layer.num_bytes > arguments.exact_up_to
    return bool(arguments.stream or arguments.chunk_rows is not None or large)


def _stream(layer: StoredArray, labels: Any, grid: UpdateGrid | None, arguments: argparse.Namespace) -> BundleResult:
    from ..streaming import BundleEntropy

    num_rows = layer.shape[0]
    row_bytes = max(1, layer.num_bytes // num_rows)
    piece_rows = arguments.chunk_rows or min(num_rows, max(1, PIECE_BYTES // row_bytes))
    metric = BundleEntropy(grid=grid, log_epsilon=arguments.log_epsilon)
    first = 0
    with Progress(log=False) as progress:
        for piece in layer.read_pieces(piece_rows):
            metric.update(piece, labels[first : first + len(piece)])
            first += len(piece)
            progress.show(f"{layer.name}: {percent(first / num_rows)} of {count(num_rows)} rows")
    return metric.compute()


def _as_json(
    arguments: argparse.Namespace, measured: dict[str, BundleResult], margins: dict[str, float],
    grid: UpdateGrid | None, above: list[str],
) -> dict[str, Any]:  # fmt: skip
    layers = []
    for name, result in measured.items():
        layer = {"layer": name, **result.to_dict()}
        if name in margins:
            layer["conflict_margin"] = finite_or_none(margins[name])
            layer["margin_bits"] = None if grid is None else finite_or_none(grid.bits(margins[name]))
        layers.append(layer)
    return {
        "version": __version__, "acts": arguments.acts, "labels": arguments.labels,
        "fail_above": arguments.fail_above, "above": above, "layers": layers,
    }  # fmt: skip


def _as_text(measured: dict[str, BundleResult], margins: dict[str, float], grid: UpdateGrid | None) -> str:
    header = ["layer", "rows", "columns", "bundles", "conflicting", "NaN rows", "entropy (nats)", "compared"]
    header += (["margin"] if margins else []) + (["bits"] if margins and grid else [])
    rows: list[list[object]] = []
    for name, r in measured.items():
        how = "exact" if r.exact else "fingerprints"
        row: list[object] = [name, r.num_rows, r.num_columns, r.num_bundles, r.num_conflicting,
                             r.num_nan_rows, r.entropy, how]  # fmt: skip
        if margins:
            row += [margins[name]] + ([f"{grid.bits(margins[name]):.2f}"] if grid else [])
        rows.append(row)
    return f"{format_table(header, rows)}\n{_definition(list(measured.values()))}"


def _definition(results: list[BundleResult]) -> str:
    """What "equal" means in this table, in one line."""
    words = [f"Rows are one bundle when they are {results[0].equality}"]
    if results[0].log_epsilon is not None:
        words.append(f"entropy with the authors' ln(p + {results[0].log_epsilon:g})")
    if not all(r.exact for r in results):
        words.append(
            "fingerprints are probabilistic: two different rows share one with probability at most 2^-120, over a key "
            "drawn at random for this run"
        )
    return "; ".join(words) + "."


def _positive_integer(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _threshold(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of nats, 0 or more")
    return value

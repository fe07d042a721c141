"""Reports as JSON and CSV: lossless records, and files that are written whole or not at all.

``layer_report.py`` and ``history.py`` call this; nothing here judges a number. No pickle: loading executes nothing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..files.csv_files import csv_line
from ..files.json_files import json_text, json_value
from ..files.whole_files import write_whole
from ..grid import UpdateGrid
from ..result import BundleResult

if TYPE_CHECKING:
    from .layer_report import LayerReport

KIND = "cbkernels.LayerReport"
FORMAT = 1
COLUMNS = (
    "step", "layer", "block", "num_rows", "num_columns", "num_bundles", "num_conflicting", "num_conflicting_rows",
    "num_nan_rows", "entropy", "margin", "margin_bits", "amplitude", "dtype", "device", "backend", "exact",
    "grid_dtype", "learning_rate", "batch_size", "weight_amplitude", "rtol", "atol", "log_epsilon",
    "autocast", "reduce", "model", "version",
)  # fmt: skip
"""Of ``to_csv`` and ``to_pandas``: entropy in nats, margin and amplitude in units of the activations.

A run's ``layers.csv`` is another table, see ``runs/schema.py``.
"""

Loaded = TypeVar("Loaded")

_COUNTS = ("num_rows", "num_columns", "num_bundles", "num_conflicting", "num_conflicting_rows", "num_nan_rows")
_WORDS = ("dtype", "device", "backend", "version")


# --- to JSON types --------------------------------------------------------------------------------


def as_dict(report: LayerReport) -> dict[str, Any]:
    """What ``LayerReport.to_dict`` returns; definitions of equal stand once, on top."""
    first = next(iter(report.values()), None)
    bits = report.margin_bits
    return {
        "kind": KIND,
        "format": FORMAT,
        "step": report.step,
        "model": report.model,
        "equality": report.equality,
        "grid": None if report.grid is None else report.grid.to_dict(),
        "tolerance": None if first is None or first.tolerance is None else list(first.tolerance),
        "log_epsilon": None if first is None else first.log_epsilon,
        "autocast": report.autocast,
        "reduce": report.reduce,
        "seconds": report.seconds,
        "seconds_since_last": report.seconds_since_last,
        "first_conflicting": report.first_conflicting,
        "layers": [
            {
                "layer": layer,
                "entropy": None if math.isnan(r.entropy) else r.entropy,
                **{name: getattr(r, name) for name in (*_COUNTS, *_WORDS, "exact")},
                "margin": _written(report.margins.get(layer)),
                "margin_bits": _written(bits[layer]),
                "amplitude": _written(report.amplitudes.get(layer)),
            }
            for layer, r in report.items()
        ],
        "blocks": dict(report.blocks),
        "skipped": dict(report.skipped),
    }


def _written(number: float | None) -> float | str | None:
    """JSON has no infinities."""
    return str(number) if number is not None and math.isinf(number) else number


# --- from JSON types ------------------------------------------------------------------------------


def report_of_dict(content: Any) -> LayerReport:
    """What ``LayerReport.from_dict`` returns, and its ValueError."""
    from .layer_report import LayerReport

    require_kind(content, KIND, FORMAT)
    try:
        grid = None if content["grid"] is None else UpdateGrid(**content["grid"])
        tolerance = None if content["tolerance"] is None else _tolerance(content["tolerance"])
        layers = _unique(content["layers"])
        return LayerReport(
            {name: _result(layer, grid, tolerance, content["log_epsilon"]) for name, layer in layers.items()},
            margins=_numbers(layers, "margin"),
            amplitudes=_numbers(layers, "amplitude"),
            step=content["step"],
            blocks=content["blocks"],
            skipped=content["skipped"],
            model=_is("model", content["model"], str),
            autocast=None if content["autocast"] is None else _is("autocast", content["autocast"], str),
            reduce=_is("reduce", content["reduce"], str),
            seconds=content["seconds"],
            seconds_since_last=content["seconds_since_last"],
        )
    except KeyError as error:
        raise ValueError(f"the report lacks {error}; it is not one that LayerReport.to_dict() returned") from error
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"the report is damaged: {error}") from error


def require_kind(content: Any, kind: str, newest: int) -> None:
    """Raise ValueError unless ``content`` is a dict of this kind in a format that this version reads."""
    name = kind.rpartition(".")[2]
    if not isinstance(content, Mapping) or content.get("kind") != kind:
        found = content.get("kind", list(content)[:5]) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"this is {found!r} and not what {name}.to_dict() returned")
    if content.get("format") != newest:
        raise ValueError(f"the {name} has format {content.get('format')!r}; this version reads {newest}")


def _is(name: str, value: Any, *kinds: type) -> Any:
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise TypeError(f"{name} is {value!r}; it must be of type {' or '.join(kind.__name__ for kind in kinds)}")
    return value


def _unique(layers: Any) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for layer in _is("layers", layers, list):
        name = _is("layer", _is("layers[...]", layer, dict)["layer"], str)
        if name in found:
            raise ValueError(f"layer {name!r} is there twice")
        found[name] = layer
    return found


def _tolerance(pair: Any) -> tuple[float, float]:
    rtol, atol = _is("tolerance", pair, list)
    return float(rtol), float(atol)


def _result(
    layer: dict[str, Any], grid: UpdateGrid | None, tolerance: tuple[float, float] | None, log_epsilon: Any
) -> BundleResult:
    entropy = layer["entropy"]
    counts = {name: _is(name, layer[name], int) for name in _COUNTS}
    for name, count in counts.items():
        if count < 0:
            raise ValueError(f"{name} is {count}; it must not be negative")
    return BundleResult(
        entropy=math.nan if entropy is None else float(_is("entropy", entropy, int, float)),
        **counts,
        **{name: _is(name, layer[name], str) for name in _WORDS},
        exact=_is("exact", layer["exact"], bool),
        grid=grid,
        tolerance=tolerance,
        log_epsilon=None if log_epsilon is None else float(log_epsilon),
    )


def _numbers(layers: dict[str, dict[str, Any]], name: str) -> dict[str, float]:
    """The layers' margins or amplitudes, where they were measured."""
    written = {layer: entry[name] for layer, entry in layers.items() if entry[name] is not None}
    return {layer: math.inf if x == "inf" else float(_is(name, x, int, float)) for layer, x in written.items()}


# --- files ----------------------------------------------------------------------------------------


def write_json(content: Mapping[str, Any], path: str | os.PathLike[str] | None, indent: int | None = 2) -> str:
    """JSON text of ``content``, also written to ``path`` unless that is None."""
    text = json_text(content, indent)
    if path is not None:
        write_whole(path, text.encode())
    return text


def read_json(path: str | os.PathLike[str], make: Callable[[Any], Loaded]) -> Loaded:
    """What ``make`` makes of a JSON file's content; its ValueError, and that of a damaged file, name the file."""
    raw = Path(path).read_bytes()
    if Path(path).suffix == ".csv":
        raise ValueError(f"{os.fspath(path)} cannot be loaded: a table is for other programs; load what to_json wrote")
    try:
        return make(json_value(raw, "the file"))
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)} cannot be loaded: {error}") from error


def write_csv(reports: Iterable[LayerReport], path: str | os.PathLike[str] | None) -> str:
    """CSV text with a line a layer of every report, also written to ``path`` unless that is None."""
    rows = [[row[column] for column in COLUMNS] for report in reports for row in layer_rows(report)]
    text = "".join(map(csv_line, [COLUMNS, *rows]))
    if path is not None:
        write_whole(path, text.encode())
    return text


def data_frame(reports: Iterable[LayerReport]) -> Any:
    """The same rows as a ``pandas.DataFrame``."""
    try:
        pandas = import_module("pandas")
    except ImportError:
        raise ImportError("to_pandas needs pandas: pip install pandas") from None
    return pandas.DataFrame([row for report in reports for row in layer_rows(report)], columns=list(COLUMNS))


def layer_rows(report: LayerReport) -> list[dict[str, Any]]:
    """A dict with the keys ``COLUMNS`` for every measured layer."""
    bits = report.margin_bits
    return [
        {
            "step": report.step,
            "layer": layer,
            "block": report.blocks.get(layer),
            "entropy": r.entropy,
            **{name: getattr(r, name) for name in (*_COUNTS, *_WORDS, "exact", "log_epsilon")},
            "margin": report.margins.get(layer),
            "margin_bits": bits[layer],
            "amplitude": report.amplitudes.get(layer),
            "grid_dtype": None if r.grid is None else r.grid.dtype,
            **{name: r.grid and getattr(r.grid, name) for name in ("learning_rate", "batch_size", "weight_amplitude")},
            "rtol": r.tolerance and r.tolerance[0],
            "atol": r.tolerance and r.tolerance[1],
            "autocast": report.autocast,
            "reduce": report.reduce,
            "model": report.model,
        }
        for layer, r in report.items()
    ]

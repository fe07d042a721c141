"""The columns of a report, once: CSV, JSON, data frames and tables are made from ``COLUMNS``.

A column is a path into a ``Finding``; nothing here knows reports. Read next: ``records.py``, ``tables.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..result import BundleResult
from ..tables import margin_note


class Finding(NamedTuple):
    """What a report says of one layer."""

    layer: str
    result: BundleResult
    margin: float | None
    amplitude: float | None
    block: str | None
    step: int | None
    autocast: str | None
    reduce: str
    model: str

    @property
    def margin_bits(self) -> float | None:
        """Bits of precision left, see ``LayerReport.margin_bits``."""
        if self.result.grid is None or self.margin is None:
            return None
        return self.result.grid.bits(self.margin, amplitude=self.amplitude or 0.0)

    @property
    def rtol(self) -> float | None:
        """Of the tolerance."""
        return None if self.result.tolerance is None else self.result.tolerance[0]

    @property
    def atol(self) -> float | None:
        """Of the tolerance."""
        return None if self.result.tolerance is None else self.result.tolerance[1]


class Column(NamedTuple):
    """One thing that is told of a layer."""

    name: str
    path: str
    """Where a finding holds it; what is behind a None is None."""
    kind: type | None = None
    """Of its JSON: int, which is not negative, float, str or bool; object: it follows from others. None: not there."""
    title: str = ""
    """In tables; "" is in none."""
    form: str = ""
    """Of its cells in tables."""
    absent: Any = ...
    """A table leaves the column out when all its values are this."""

    def of(self, finding: Finding) -> Any:
        """Its value."""
        value: Any = finding
        for name in self.path.split("."):
            value = None if value is None else getattr(value, name)
        return value

    def read(self, entry: Mapping[str, Any]) -> Any:
        """Its value in a layer's JSON.

        Raises:
            KeyError, TypeError, ValueError: it is not there, or something else.
        """
        if self.kind is object:
            return None
        value = entry[self.name]
        if self.kind is float:
            return None if value is None else float("inf" if value == "inf" else checked(self.name, value, int, float))
        assert self.kind is not None
        checked(self.name, value, self.kind)
        if self.kind is int and value < 0:
            raise ValueError(f"{self.name} is {value}; it must not be negative")
        return value


COLUMNS = (
    Column("step", "step"),
    Column("layer", "layer", str, "layer"),
    Column("block", "block"),
    Column("num_rows", "result.num_rows", int),
    Column("num_columns", "result.num_columns", int, "columns"),
    Column("num_bundles", "result.num_bundles", int, "bundles"),
    Column("num_conflicting", "result.num_conflicting", int, "conflicting"),
    Column("num_conflicting_rows", "result.num_conflicting_rows", int, "rows in conflict"),
    Column("num_nan_rows", "result.num_nan_rows", int, "NaN rows", absent=0),
    Column("entropy", "result.entropy", float, "entropy (nats)", ".4g"),
    Column("margin", "margin", float, "margin", ".4g", absent=None),
    Column("margin_bits", "margin_bits", object, "margin (bits)", ".1f", absent=None),
    Column("amplitude", "amplitude", float),
    Column("dtype", "result.dtype", str),
    Column("device", "result.device", str),
    Column("backend", "result.backend", str),
    Column("exact", "result.exact", bool),
    Column("grid_dtype", "result.grid.dtype"),
    Column("learning_rate", "result.grid.learning_rate"),
    Column("batch_size", "result.grid.batch_size"),
    Column("weight_amplitude", "result.grid.weight_amplitude"),
    Column("rtol", "rtol"),
    Column("atol", "atol"),
    Column("log_epsilon", "result.log_epsilon"),
    Column("autocast", "autocast"),
    Column("reduce", "reduce"),
    Column("model", "model"),
    Column("version", "result.version", str),
)
"""In the order of ``to_csv``: entropy in nats, margin and amplitude in units of the activations."""
NAMES = tuple(column.name for column in COLUMNS)
_OF_JSON = [column for column in COLUMNS if column.kind is not None]


def row(finding: Finding) -> dict[str, Any]:
    """All columns of a layer, with the keys ``NAMES``."""
    return {column.name: column.of(finding) for column in COLUMNS}


def as_json(finding: Finding) -> dict[str, Any]:
    """What JSON keeps of a layer; beside it stand the definitions of equal, once for all layers."""
    return {column.name: _written(column.of(finding)) for column in _OF_JSON}


def _written(value: Any) -> Any:
    """JSON has neither NaN, which becomes null, nor infinities, which become text."""
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return None if math.isnan(value) else str(value)


def layers_of_json(entries: Any) -> dict[str, dict[str, Any]]:
    """Layer -> column -> value of a list that ``as_json`` made.

    Raises:
        KeyError, TypeError, ValueError: it is damaged.
    """
    found: dict[str, dict[str, Any]] = {}
    for entry in checked("layers", entries, list):
        values = {column.name: column.read(checked("layers[...]", entry, dict)) for column in _OF_JSON}
        if values["layer"] in found:
            raise ValueError(f"layer {values['layer']!r} is there twice")
        found[values["layer"]] = values
    return found


def result_of_json(values: Mapping[str, Any], **definition: Any) -> BundleResult:
    """The result in the values of a layer; ``definition``: grid, tolerance and log_epsilon of all layers."""
    kept = {column.name: values[column.name] for column in _OF_JSON if column.path.startswith("result.")}
    entropy = math.nan if kept.pop("entropy") is None else values["entropy"]
    if entropy < 0 or math.isinf(entropy):
        raise ValueError(f"entropy is {entropy}; it must be 0 or more and finite")
    return BundleResult(entropy=entropy, **kept, **definition)


def checked(name: str, value: Any, *kinds: type) -> Any:
    """The value, if it is of one of these types.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise TypeError(f"{name} is {value!r}; it must be of type {' or '.join(kind.__name__ for kind in kinds)}")
    return value


def table(findings: Sequence[Finding]) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of a table; columns that would be empty are left out, the margin where there are bits."""
    shown = [c for c in COLUMNS if c.title and not all(c.of(finding) == c.absent for finding in findings)]
    has_bits = any(column.name == "margin_bits" for column in shown)
    shown = [column for column in shown if not (has_bits and column.name == "margin")]
    cells = [[_cell(column.of(finding), column.form) for column in shown] for finding in findings]
    return [column.title for column in shown], cells


def _cell(value: Any, form: str) -> str:
    if value is None:
        return "-"
    return "NaN" if value != value else f"{value:{form}}"


def margin_words(findings: Iterable[Finding]) -> str:
    """What the bits mean; that more than 0 prove something needs the amplitude of every layer that has a margin."""
    return margin_note(all(finding.amplitude is not None for finding in findings if finding.margin is not None))

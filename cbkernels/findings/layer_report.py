"""What a monitor measured at one step: every layer's result, and what follows from them.

Made, loaded, printed and drawn without torch. Read next: ``history.py`` (many steps), ``columns.py`` (what is told
of a layer), ``records.py`` (files), ``tables.py`` (text and HTML), ``drawing/layer_figures.py``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from functools import partial
from operator import index
from types import MappingProxyType, NoneType
from typing import TYPE_CHECKING, Any

from ..grid import UpdateGrid
from ..learning_rates import in_words
from ..result import BundleResult
from ..tables import definition_note
from . import columns, records, tables
from .columns import Finding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KIND = "cbkernels.LayerReport"
FORMAT = 1
_AS_THEY_ARE = ("step", "model", "autocast", "reduce", "seconds", "seconds_since_last")
"""Fields that JSON keeps."""


@dataclass(frozen=True, eq=False, repr=False)
class LayerReport(Mapping[str, BundleResult]):
    """Bundle entropy of a model's layers at one step: a read-only mapping layer -> ``BundleResult``, in order.

    Args:
        results: layer -> result, in the model's order; all with one definition of equal.
        step: of the training, usually the epoch; None where there is none.
        margins: layer -> conflict margin, in units of the activations; a layer that is absent was not asked.
        amplitudes: layer -> largest absolute activation.
        blocks: layer -> the residual block that it is, or is a branch of.
        skipped: layer -> why it could not be measured.
        notes: sentences on what "auto" saw in the model but could not attribute to a module.
        learning_rates: where the grid is that of a training: "peak", "current" or "given" -> the rate that it takes;
            and where they differ from it the "current" rate (or the "peak"), and the "largest" of the groups.
        model: name of the model's class.
        autocast: type of the autocast that was on, e.g. "bfloat16".
        reduce: what of a sequence was a row, as in ``LayerMonitor``.
        seconds: what the measurement took.
        seconds_since_last: from the end of the measurement before to the begin of this one; None for the first.

    Raises:
        TypeError, ValueError: one sentence that quotes the argument.

    Nothing of a report can be changed; it pickles, and two are equal when all of it is (NaN equals NaN here).

    Example:
        >>> import numpy as np, cbkernels
        >>> acts = {"fc1": np.eye(4), "fc2": np.zeros((4, 2))}
        >>> report = LayerReport(cbkernels.bundle_entropy_layers(acts, np.array([0, 1, 0, 1])), step=3)
        >>> report.conflicting(), round(report["fc2"].entropy, 4)
        (['fc2'], 0.6931)
    """

    results: Mapping[str, BundleResult]
    _: KW_ONLY
    step: int | None = None
    margins: Mapping[str, float] = field(default_factory=dict)
    amplitudes: Mapping[str, float] = field(default_factory=dict)
    blocks: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    model: str = ""
    autocast: str | None = None
    reduce: str = "flatten"
    seconds: float = 0.0
    seconds_since_last: float | None = None

    def __post_init__(self) -> None:
        results = _copied("results", self.results, BundleResult)
        fixed: dict[str, Any] = {
            "results": results,
            "step": _checked_step(self.step),
            "margins": _measured_layers("margins", self.margins, results),
            "amplitudes": _measured_layers("amplitudes", self.amplitudes, results),
            "blocks": _copied("blocks", self.blocks, str),
            "skipped": _copied("skipped", self.skipped, str),
            "notes": _sentences(self.notes),
            "learning_rates": _numbers("learning_rates", self.learning_rates),
            "seconds": _duration("seconds", self.seconds),
        }
        if self.seconds_since_last is not None:
            fixed["seconds_since_last"] = _duration("seconds_since_last", self.seconds_since_last)
        _check_one_definition(results)
        for name, value in fixed.items():
            object.__setattr__(self, name, MappingProxyType(value) if isinstance(value, dict) else value)

    # --- a mapping --------------------------------------------------------------------------------

    def __getitem__(self, layer: str) -> BundleResult:
        try:
            return self.results[layer]
        except KeyError:
            why = self.skipped.get(layer)
            raise KeyError(
                f"layer {layer!r} was not measured: {why}" if why else f"no layer is called {layer!r}; see list(report)"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LayerReport):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        plain: dict[str, Any] = {name: dict(v) if isinstance(v, MappingProxyType) else v for name, v in values.items()}
        return partial(type(self), **plain), ()

    # --- what follows from the numbers ------------------------------------------------------------

    def conflicting(self, min_rows: int = 1) -> list[str]:
        """Layers in which a bundle carries two labels, in order.

        Args:
            min_rows: noise floor: a layer counts when at least so many rows are in conflicting bundles.
        """
        if isinstance(min_rows, bool) or not isinstance(min_rows, int) or min_rows < 1:
            raise ValueError(f"min_rows is {min_rows!r}; it must be a positive integer")
        return [
            layer for layer, r in self.results.items() if r.num_conflicting > 0 and r.num_conflicting_rows >= min_rows
        ]

    @property
    def first_conflicting(self) -> str | None:
        """The first layer in which a bundle carries two labels; None when there is none."""
        return next((layer for layer, r in self.results.items() if r.num_conflicting > 0), None)

    @property
    def first_nan(self) -> str | None:
        """The first layer in which a row holds a NaN; None when there is none."""
        return next((layer for layer, r in self.results.items() if r.num_nan_rows > 0), None)

    @property
    def grid(self) -> UpdateGrid | None:
        """The update grid of all layers; None for plain equality."""
        return next((r.grid for r in self.results.values()), None)

    @property
    def equality(self) -> str:
        """The definition of equal of the whole report, in words."""
        if not self.results:
            return "no layer was measured"
        measured = list(self.results.values())
        words = [f"{measured[0].equality}, activations in {' and '.join(dict.fromkeys(r.dtype for r in measured))}"]
        if self.autocast is not None:
            words.append(f"autocast {self.autocast}")
        if self.reduce != "flatten":
            words.append(f"of a sequence: {self.reduce}")
        if measured[0].log_epsilon is not None:
            words.append(f"entropy with the authors' ln(p + {measured[0].log_epsilon:g})")
        if not all(r.exact for r in measured):
            words.append(
                "by fingerprints, which two different rows share with probability at most 2^-120 over a random key"
            )
        return "; ".join(words)

    @property
    def margin_bits(self) -> dict[str, float | None]:
        """Layer -> bits of precision left before it conflicts: ``log2(margin / step of the grid)``.

        Where the layer's amplitude was measured, the step is the proven bound (``UpdateGrid.step``): more than 0
        bits prove that the layer has no conflict; else it is the paper's resolution. 0 or less proves nothing. -inf:
        margin 0, or values too large for any bound; inf: one label only; None: no grid, or no margin.
        """
        return {finding.layer: finding.margin_bits for finding in findings_of(self)}

    def ranked(self, by: str = "margin") -> list[str]:
        """All layers, the most removable first; ties stay in the model's order.

        Args:
            by: "margin": fewest bits left (``margin_bits``; without a grid the smallest margin), which tells layers
                apart before any conflicts; "conflicts": highest entropy, then most rows in conflicting bundles; a
                layer with NaN comes first; "bundles": fewest bundles.

        Raises:
            ValueError: another criterion, or a layer whose margin was not measured.
        """
        bits = self.margin_bits
        keys: dict[str, Callable[[str], Any]] = {
            "margin": lambda layer: self.margins[layer] if bits[layer] is None else bits[layer],
            "conflicts": lambda layer: (
                -math.inf if self[layer].num_nan_rows else -self[layer].entropy,
                -self[layer].num_conflicting_rows,
            ),
            "bundles": lambda layer: self[layer].num_bundles,
        }
        if by not in keys:
            raise ValueError(f"by is {by!r}; choose one of {', '.join(keys)}")
        missing = [layer for layer in self.results if by == "margin" and layer not in self.margins]
        if missing:
            raise ValueError(
                f"by is 'margin', which {missing[0]!r} lacks; measure with margin=True or choose by='conflicts'"
            )
        return sorted(self.results, key=keys[by])

    @property
    def share(self) -> float | None:
        """Percent of the time since the last measurement's end that this one took; None for the first.

        ``100 * seconds / (seconds_since_last + seconds)``.
        """
        if self.seconds_since_last is None or self.seconds_since_last + self.seconds == 0:
            return None
        return 100 * self.seconds / (self.seconds_since_last + self.seconds)

    def scalars(self, prefix: str = "bundle_entropy", *, layers: bool = True) -> dict[str, float]:
        """Numbers for a dashboard.

        Args:
            prefix: of the names.
            layers: also ``prefix/<layer>``: the entropy of every layer, in nats.

        Returns:
            Those, and under ``prefix_summary/``: ``num_conflicting_layers``, ``largest_entropy`` and ``mean_entropy``
            over the layers, ``smallest_margin_bits``. Where ``learning_rates`` differ, ``grid_learning_rate`` and, of
            those, ``current_learning_rate`` and so on. What is not finite (entropies with a NaN, the margin of a dead
            layer) or was not measured is left out: JSON and most trackers know no such number.
        """
        entropies = [r.entropy for r in self.results.values()]
        bits = [b for b in self.margin_bits.values() if b is not None]
        has_nan = any(map(math.isnan, entropies)) or not entropies
        summary = {
            "num_conflicting_layers": float(len(self.conflicting())),
            "largest_entropy": math.nan if has_nan else max(entropies),
            "mean_entropy": math.nan if has_nan else math.fsum(entropies) / len(entropies),
            "smallest_margin_bits": min(bits, default=math.nan),
        }
        if self.grid is not None and len(self.learning_rates) > 1:
            summary["grid_learning_rate"] = taken = float(self.grid.learning_rate)
            summary |= {f"{name}_learning_rate": rate for name, rate in self.learning_rates.items() if rate != taken}
        of_layers = {f"{prefix}/{layer}": r.entropy for layer, r in self.results.items()} if layers else {}
        found = {**of_layers, **{f"{prefix}_summary/{name}": value for name, value in summary.items()}}
        return {name: value for name, value in found.items() if math.isfinite(value)}

    # --- files and pictures -----------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON types: null is a NaN entropy or what was not measured; infinities are "inf", "-inf"."""
        first = next(iter(self.results.values()), None)
        return {
            "kind": KIND,
            "format": FORMAT,
            **{name: getattr(self, name) for name in _AS_THEY_ARE},
            "equality": self.equality,
            "grid": None if self.grid is None else self.grid.to_dict(),
            "tolerance": list(first.tolerance) if first and first.tolerance else None,
            "log_epsilon": None if first is None else first.log_epsilon,
            "first_conflicting": self.first_conflicting,
            "layers": [columns.as_json(finding) for finding in findings_of(self)],
            "blocks": dict(self.blocks),
            "skipped": dict(self.skipped),
            "notes": list(self.notes),
            "learning_rates": dict(self.learning_rates),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> LayerReport:
        """The report of which ``to_dict`` returned this.

        Raises:
            ValueError: it is damaged, or something else.
        """
        records.require_kind(content, KIND, FORMAT)
        try:
            definition = _definition_of(content)
            for name in ("model", "autocast", "reduce"):
                columns.checked(name, content[name], str, *([NoneType] if name == "autocast" else []))
            layers = columns.layers_of_json(content["layers"])
            return cls(
                {layer: columns.result_of_json(values, **definition) for layer, values in layers.items()},
                margins={layer: x["margin"] for layer, x in layers.items() if x["margin"] is not None},
                amplitudes={layer: x["amplitude"] for layer, x in layers.items() if x["amplitude"] is not None},
                blocks=content["blocks"],
                skipped=content["skipped"],
                notes=content.get("notes", ()),
                learning_rates=content.get("learning_rates", {}),
                **{name: content[name] for name in _AS_THEY_ARE},
            )
        except KeyError as error:
            raise ValueError(f"the report lacks {error}; it is not one that LayerReport.to_dict() returned") from error
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(f"the report is damaged: {error}") from error

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """``to_dict`` as text; also written to ``path``, whole or not at all."""
        return records.write_json(self.to_dict(), path)

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> LayerReport:
        """Read a file that ``to_json`` wrote.

        Raises:
            ValueError: the file is damaged, or something else; the sentence names it.
            OSError: it cannot be read.
        """
        return records.read_json(path, cls.from_dict)

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """One line a measured layer as text; also written to ``path``, whole or not at all.

        The columns are ``columns.COLUMNS``; an empty cell is what was not measured or does not apply.
        """
        return records.write_csv(findings_of(self), path)

    def to_pandas(self) -> Any:
        """One row a measured layer as a ``pandas.DataFrame`` with the columns of ``to_csv``.

        Raises:
            ImportError: pandas is missing.
        """
        return records.data_frame(findings_of(self))

    def plot(self, path: str | os.PathLike[str] | None = None, *, show: str = "entropy") -> Figure:
        """Bar chart of all layers, the first conflict marked, the definition of equal below.

        Args:
            path: file to write, in the format of its suffix.
            show: "entropy" in nats, with the number of bundles, or "margin" in bits.

        Returns:
            A matplotlib Figure; notebooks show it.

        Raises:
            ValueError: no measured layer, another ``show``, margins that were not measured, or a suffix that
                matplotlib does not know.
            ImportError: matplotlib is missing.
        """
        from ..drawing import layer_figures

        notes = [definition_note(self.equality), *self._grid_in_words()]
        notes += [columns.margin_words(findings_of(self))] if show == "margin" else []
        if names := list(self.skipped):
            more = f" and {len(names) - 6} more" if len(names) > 6 else ""
            notes.append(f"Not measured: {', '.join(names[:6])}{more}.")
        bits = list(self.margin_bits.values())
        title, caption = ", ".join(self._moment()), " ".join(notes)
        return layer_figures.plot_layers(self.results, bits, path, show=show, title=title, caption=caption)

    def _moment(self) -> list[str]:
        return [*([self.model] if self.model else []), *([] if self.step is None else [f"step {self.step}"])]

    def _title(self) -> str:
        counts = dict.fromkeys(str(r.num_rows) for r in self.results.values())
        conflicting = f"{len(self.conflicting())} of {len(self)} layers conflict"
        words = [f"{' or '.join(counts)} rows", conflicting] if counts else ["no layer was measured"]
        return ", ".join([*self._moment(), *words])

    def _grid_in_words(self) -> list[str]:
        """Which learning rate it takes, and what it means that weights of 16 bits round away."""
        grid = self.grid
        if grid is None:
            return []
        rates = in_words((self.learning_rates, grid.learning_rate))
        lost = grid.step() * grid.learning_rate / grid.batch_size / 2
        rounded = (
            f"The grid takes the weights themselves as kept in {grid.dtype}: of the largest, "
            f"{grid.weight_amplitude:.3g}, updates below about {lost:.2g} are lost. A training in pure {grid.dtype} "
            "loses them; one that keeps float32 master weights does not, and is measured with "
            "LayerMonitor(..., dtype='float32')."
        )
        return [*([rates] if rates else []), *([rounded] if grid.dtype in ("float16", "bfloat16") else [])]

    def _below(self) -> list[str]:
        lines = [f"not measured: {layer} ({why})" for layer, why in self.skipped.items()]
        lines += [definition_note(self.equality), *self._grid_in_words()] if self.results else []
        lines += [f"Note: {note}." for note in self.notes]
        lines += [columns.margin_words(findings_of(self))] if self.margins and self.grid else []
        if self.seconds > 0:
            share = "" if self.share is None else f", {_rounded(self.share)} % of the time since the last measurement"
            lines.append(f"Measured in {_rounded(self.seconds)} s{share}.")
        return lines

    def __str__(self) -> str:
        return tables.as_text(self._title(), findings_of(self), self._below())

    def __repr__(self) -> str:
        step = "" if self.step is None else f"step={self.step}, "
        first = self.first_conflicting
        conflicts = f"{len(self.conflicting())} conflicting" + ("" if first is None else f" from {first!r} on")
        nan = "" if self.first_nan is None else f", NaN from {self.first_nan!r} on"
        return f"LayerReport({step}{len(self)} layers, {conflicts}{nan}; {self.equality})"

    def _repr_html_(self) -> str:
        return tables.as_html(self._title(), findings_of(self), self._below())


def findings_of(report: LayerReport) -> list[Finding]:
    """What is known of every measured layer, in order."""
    return [
        Finding(layer, result, report.margins.get(layer), report.amplitudes.get(layer), report.blocks.get(layer),
                report.step, report.autocast, report.reduce, report.model)
        for layer, result in report.results.items()
    ]  # fmt: skip


def _rounded(number: float) -> str:
    return f"{number:.2g}" if number < 10 else f"{number:.0f}"


def _definition_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of results that all layers share."""
    grid, tolerance, log_epsilon = content["grid"], content["tolerance"], content["log_epsilon"]
    if tolerance is not None:
        rtol, atol = columns.checked("tolerance", tolerance, list)
        tolerance = (float(rtol), float(atol))
    grid = None if grid is None else UpdateGrid(**grid)
    return {"grid": grid, "tolerance": tolerance, "log_epsilon": None if log_epsilon is None else float(log_epsilon)}


def _copied(name: str, given: Any, kind: type) -> dict[Any, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"{name} is a {type(given).__name__}; pass a mapping from layer names")
    for layer, value in given.items():
        if not isinstance(layer, str):
            raise TypeError(f"{name} has the key {layer!r}; layer names are strings")
        if not isinstance(value, kind):
            raise TypeError(f"{name}[{layer!r}] is {value!r}; it must be a {kind.__name__}")
    return dict(given)


def _sentences(given: Any) -> tuple[str, ...]:
    if not isinstance(given, (tuple, list)) or not all(isinstance(note, str) for note in given):
        raise TypeError(f"notes is {given!r}; pass a tuple of sentences")
    return tuple(given)


def _measured_layers(name: str, given: Any, results: Mapping[str, BundleResult]) -> dict[str, float]:
    numbers = _numbers(name, given)
    if unknown := [layer for layer in numbers if layer not in results]:
        raise ValueError(f"{name} has the layer {unknown[0]!r}, of which there is no result")
    return numbers


def _numbers(name: str, given: Any) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for key, value in _copied(name, given, object).items():
        try:
            numbers[key] = float(value)
        except (TypeError, ValueError):
            raise TypeError(f"{name}[{key!r}] is {value!r}; it must be a number") from None
        if not numbers[key] >= 0:
            raise ValueError(f"{name}[{key!r}] is {value!r}; it must not be negative or NaN")
    return numbers


def _checked_step(step: Any) -> int | None:
    if step is None:
        return None
    try:
        return index(step)
    except TypeError:
        raise TypeError(f"step is {step!r}; it must be an integer or None") from None


def _duration(name: str, value: Any) -> float:
    seconds = float(value)
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{name} is {value!r}; it must be finite and not negative")
    return seconds


def _check_one_definition(results: Mapping[str, BundleResult]) -> None:
    """Numbers of one table are comparable only with one definition of equal."""
    first, a = next(iter(results.items()), ("", None))
    for layer, b in results.items():
        assert a is not None
        if (a.grid, a.tolerance, a.log_epsilon) != (b.grid, b.tolerance, b.log_epsilon):
            raise ValueError(
                f"layer {first!r} was measured with {a.equality} and {layer!r} with {b.equality}; "
                "measure all layers of a report with one definition"
            )

"""The reports of one monitor over a training: layers x steps, the mean over steps, the heat map.

Needs NumPy; pictures and data frames need their packages. Read next: ``layer_report.py``, then
``drawing/history_figures.py``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..learning_rates import in_words
from ..tables import definition_note, html_table
from . import records
from .columns import Finding, margin_words
from .layer_report import LayerReport, findings_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KIND = "cbkernels.History"
FORMAT = 1


class History:
    """Reports in the order in which they were measured.

    Args:
        reports: to begin with.

    Raises:
        TypeError, ValueError: as ``append``.

    Layers may come and go from report to report, as after a surgery: the arrays have a row for every layer that was
    ever measured, and ``measured`` says where.

    Example:
        >>> import numpy as np, cbkernels
        >>> labels = np.array([0, 1, 0, 1])
        >>> history = History()
        >>> for step, acts in enumerate([np.eye(4), np.zeros((4, 2))]):
        ...     history.append(LayerReport(cbkernels.bundle_entropy_layers({"fc": acts}, labels), step=step))
        >>> history.bundles.tolist(), round(history.mean()["fc"], 4)
        ([[4, 1]], 0.3466)
    """

    def __init__(self, reports: Iterable[LayerReport] = ()) -> None:
        self._reports: list[LayerReport] = []
        for report in reports:
            self.append(report)

    def append(self, report: LayerReport) -> None:
        """Add a report.

        Raises:
            TypeError: not a ``LayerReport``.
            ValueError: another kind of equality, grid dtype, logarithm or reduction than the reports before, with
                which it could not be compared; learning rate, batch size and weight amplitude may differ.
        """
        if not isinstance(report, LayerReport):
            raise TypeError(f"report is a {type(report).__name__}; append what LayerMonitor.measure() returned")
        if len(report):
            last = self._last_measured
            if last is not None and _definition(last) != _definition(report):
                raise ValueError(
                    f"the report was measured as '{_definition(report)}' and the history as '{_definition(last)}', "
                    "which cannot be compared; start another History for it"
                )
        self._reports.append(report)

    def __len__(self) -> int:
        return len(self._reports)

    def __iter__(self) -> Iterator[LayerReport]:
        return iter(self._reports)

    def __getitem__(self, position: int) -> LayerReport:
        return self._reports[position]

    def __eq__(self, other: object) -> bool:
        return self._reports == other._reports if isinstance(other, History) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        many = f"{len(self)} report{'s' * (len(self) != 1)} of {len(self.layers)} layers"
        first, last = (self.steps[0], self.steps[-1]) if self._reports else (None, None)
        steps = f", steps {first} to {last}" if first != last else "" if first is None else f", step {first}"
        return f"History({many}{steps})"

    def _repr_html_(self) -> str:
        """A row a report."""
        rows = []
        for step, report in zip(self.steps, self._reports, strict=True):
            largest = max((each.entropy for each in report.values()), default=0.0)
            rows.append([step, len(report), len(report.conflicting()), largest, report.first_conflicting or ""])
        titles = ["step", "layers", "conflicting", "largest entropy (nats)", "the first that conflicts"]
        return html_table(repr(self), titles, rows, [definition_note(self.equality)])

    @property
    def equality(self) -> str:
        """The definition of equal in words, with the range of what differs from step to step."""
        last = self._last_measured
        if last is None:
            return "no layer was measured"
        grids = [report.grid for report in self._reports if report.grid is not None]
        if not grids:
            return last.equality
        lr, size, w = (
            _range([getattr(grid, name) for grid in grids])
            for name in ("learning_rate", "batch_size", "weight_amplitude")
        )
        ranges = f"equal on the {grids[0].dtype} update grid, lr={lr} batch_size={size} w={w}"
        return last.equality.replace(next(iter(last.values())).equality, ranges)

    @property
    def _last_measured(self) -> LayerReport | None:
        return next((report for report in reversed(self._reports) if len(report)), None)

    # --- layers x steps ---------------------------------------------------------------------------

    @property
    def steps(self) -> list[int]:
        """S steps; a report without one counts on from the report before."""
        steps: list[int] = []
        for report in self._reports:
            steps.append(report.step if report.step is not None else steps[-1] + 1 if steps else 0)
        return steps

    @property
    def layers(self) -> list[str]:
        """L layers that were ever measured, in the model's order as far as reports agree on one."""
        return _merged_order([list(report) for report in self._reports])

    @property
    def measured(self) -> npt.NDArray[np.bool_]:
        """(L, S): was the layer measured at that step?"""
        return self._array(lambda report: dict.fromkeys(report, True), False, np.bool_)

    @property
    def entropy(self) -> npt.NDArray[np.float64]:
        """(L, S) in nats; NaN where a row held a NaN, and where the layer was not ``measured``."""
        return self._array(_of_results("entropy"), math.nan, np.float64)

    @property
    def bundles(self) -> npt.NDArray[np.int64]:
        """(L, S) numbers of bundles; 0 where the layer was not measured."""
        return self._array(_of_results("num_bundles"), 0, np.int64)

    @property
    def num_conflicting(self) -> npt.NDArray[np.int64]:
        """(L, S) numbers of conflicting bundles; 0 also where the layer was not measured."""
        return self._array(_of_results("num_conflicting"), 0, np.int64)

    @property
    def margin_bits(self) -> npt.NDArray[np.float64]:
        """(L, S) bits of precision left, see ``LayerReport.margin_bits``; NaN where there are none."""
        return self._array(lambda report: report.margin_bits, math.nan, np.float64)

    def _array(self, cells_of: Callable[[LayerReport], Mapping[str, Any]], absent: Any, dtype: Any) -> npt.NDArray[Any]:
        rows = {layer: row for row, layer in enumerate(self.layers)}
        cells = np.full((len(rows), len(self._reports)), absent, dtype)
        for column, report in enumerate(self._reports):
            for layer, cell in cells_of(report).items():
                cells[rows[layer], column] = absent if cell is None else cell
        return cells

    def mean(self) -> dict[str, float]:
        """Layer -> mean of the bundle entropy H(t) over the steps (Peer et al., WACV 2021), in nats.

        NaN when it is at one step. Steps at which the layer was not measured are left out.
        """
        entropy, measured = self.entropy, self.measured
        return {
            layer: math.fsum(entropy[row, measured[row]].tolist()) / int(measured[row].sum())
            for row, layer in enumerate(self.layers)
        }

    # --- files and pictures -----------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """All reports as JSON types, for a checkpoint."""
        return {"kind": KIND, "format": FORMAT, "reports": [report.to_dict() for report in self._reports]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> History:
        """The history of which ``to_dict`` returned this.

        Raises:
            ValueError: it is damaged, or something else.
        """
        records.require_kind(content, KIND, FORMAT)
        reports = content.get("reports")
        if not isinstance(reports, list):
            raise ValueError(f"the History is damaged: reports is {type(reports).__name__}; it must be a list")
        return cls(LayerReport.from_dict(report) for report in reports)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one JSON file, whole or not at all."""
        records.write_json(self.to_dict(), path, indent=None)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> History:
        """Read a file that ``save`` wrote.

        Raises:
            ValueError: the file is damaged, or something else; the sentence names it.
            OSError: it cannot be read.
        """
        return records.read_json(path, cls.from_dict)

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """One line a step and layer, as ``LayerReport.to_csv``; also written to ``path``, whole or not at all."""
        return records.write_csv(self._findings(), path)

    def to_pandas(self) -> Any:
        """One row a step and layer as a ``pandas.DataFrame``, see ``LayerReport.to_pandas``.

        Raises:
            ImportError: pandas is missing.
        """
        return records.data_frame(self._findings())

    def plot(self, path: str | os.PathLike[str] | None = None, *, show: str = "entropy") -> Figure:
        """Heat map of layer x step, the first conflict of every step marked, the definition of equal below.

        Args:
            path: file to write, in the format of its suffix.
            show: "entropy" in nats, or "margin" in bits.

        Returns:
            A matplotlib Figure; notebooks show it.

        Raises:
            ValueError: no measured layer, another ``show``, margins that were not measured, or a suffix that matplotlib
                does not know.
            ImportError: matplotlib is missing.
        """
        from ..drawing.history_figures import HeatMap, plot_map

        title = next((report.model for report in reversed(self._reports) if report.model), "")
        drawn = HeatMap(
            title, self.layers, self.steps, self.entropy, self.num_conflicting, self.measured, self.margin_bits
        )
        rates = in_words(*((r.learning_rates, r.grid.learning_rate) for r in self._reports if r.grid is not None))
        notes = [definition_note(self.equality), *([rates] if rates else [])]
        notes += [margin_words(self._findings())] if show == "margin" else []
        has_grid = any(report.grid is not None for report in self._reports)
        return plot_map(drawn, path, show=show, has_grid=has_grid, caption=" ".join(notes))

    def _findings(self) -> Iterator[Finding]:
        return (finding for report in self._reports for finding in findings_of(report))


def _of_results(name: str) -> Callable[[LayerReport], Mapping[str, Any]]:
    return lambda report: {layer: getattr(result, name) for layer, result in report.items()}


def _definition(report: LayerReport) -> str:
    """What must agree for two reports to be comparable."""
    first = next(iter(report.values()))
    words = ["plain equality"]
    if first.tolerance is not None:
        words = [first.equality]
    elif first.grid is not None:
        words = [f"equality on a {first.grid.dtype} update grid"]
    if first.log_epsilon is not None:
        words.append(f"ln(p + {first.log_epsilon:g})")
    if report.reduce != "flatten":
        words.append(f"reduce={report.reduce!r}")
    return ", ".join(words)


def _range(values: list[float]) -> str:
    low, high = f"{min(values):g}", f"{max(values):g}"
    return low if low == high else f"{low} to {high}"


def _merged_order(sequences: list[list[str]]) -> list[str]:
    """All names once; one that comes later is put behind its neighbour of the report that brought it."""
    order: list[str] = []
    before: list[str] = []
    for names in sequences:
        if names == before:
            continue
        before, place = names, 0
        for name in names:
            if name in order:
                place = max(place, order.index(name) + 1)
            else:
                order.insert(place, name)
                place += 1
    return order

"""Epochs with all that is measured, timed and told of them: ``train``, and every round of ``autotune``.

A procedure asks for one after the other and saves, when it has decided, what the next one depends on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...files.json_files import finite_or_none
from ...filters.overlap import orthogonality_measure
from ...findings.layer_report import LayerReport
from ...runs.log import RunLog
from ...wording import percent
from .epochs import Training
from .measuring import Measuring

_COLUMNS = 80
"""Of a log; a longer line of progress leaves out where the conflicts begin."""
LAST_EPOCHS = 10
"""The papers' test accuracy is a mean over the last epochs."""


class MeasuredTraining:
    """Epochs of one network; epoch 0 is before the training.

    Args:
        run, round_: what its lines are called.
        training: the network.
        block_names: the blocks of every stage.
        overlap: also take the overlap of the filters where there is no RePr, for the comparison with it.
    """

    epoch: int
    """The last one; -1 before epoch 0."""
    reports: list[LayerReport]
    """Of the last epoch: as the network is trained, then one for every ``what_if`` type."""

    def __init__(
        self, run: str, round_: int, training: Training, block_names: list[list[str]], *, overlap: bool = False
    ) -> None:
        self.run, self.round, self.training, self.block_names = run, round_, training, block_names
        self.epoch, self.loss, self.reports = -1, 0.0, []
        self.seconds = {"training": 0.0, "measuring": 0.0, "evaluating": 0.0}
        self._measuring = Measuring(training, block_names)
        self._overlap = overlap
        self._entropy_sums: dict[str, float] = {}

    @property
    def has_diverged(self) -> bool:
        """The last loss was NaN or infinite: no later epoch can mend that."""
        return not math.isfinite(self.loss)

    @property
    def as_trained(self) -> LayerReport | None:
        """The last epoch's report; None without blocks or after a divergence."""
        return self.reports[0] if self.reports else None

    def goes_on(self, epochs: int) -> bool:
        """Whether another epoch is to come, up to number ``epochs``."""
        return self.epoch < epochs and not self.has_diverged

    def next_epoch(self, log: RunLog) -> dict[str, Any]:
        """Train (epoch 0 has nothing to train), measure, and hand all to the log; returns the line that it has."""
        self.epoch += 1
        spent: dict[str, float] = {}
        with self._timed("training", spent):
            if self.epoch > 0:
                self.loss = self.training.train_epoch()
        with self._timed("measuring", spent):
            self.reports = [] if self.has_diverged else self._measuring(self.epoch)
            of_filters = self._measured_filters()
        with self._timed("evaluating", spent):
            tested, held_back = self.training.test_accuracy(), self.training.validation_accuracy()
        for layer, result in (self.as_trained or {}).items():
            self._entropy_sums[layer] = self._entropy_sums.get(layer, 0.0) + result.entropy
        log.add_reports(self.run, self.round, self.epoch, self.reports)
        grid = None if self.as_trained is None else self.as_trained.grid
        log.add_epoch({
            "run": self.run, "round": self.round, "seed": self.training.config.seed,
            "epoch": self.epoch, "train_loss": self.loss if self.epoch else None,
            "test_accuracy": tested, "validation_accuracy": held_back,
            "learning_rate": self.training.learning_rate,
            "weight_amplitude": None if grid is None else grid.weight_amplitude,
            **self._conflicts(), **self._entropies(), **of_filters,
            **{f"seconds_{what}": seconds for what, seconds in spent.items()},
        })  # fmt: skip
        return log.history[-1]

    @contextmanager
    def _timed(self, what: str, spent: dict[str, float]) -> Iterator[None]:
        began = time.perf_counter()
        yield
        spent[what] = time.perf_counter() - began
        self.seconds[what] += spent[what]

    def _measured_filters(self) -> dict[str, Any]:
        """What RePr did before this epoch, and how much the filters overlap after it."""
        method, event = self.training.repr, self.training.event
        if method is not None:
            return {
                "repr_event": None if event is None else event.kind,
                "dropped_filters": sum(map(len, method.dropped.values())),
                "orthogonality": method.orthogonality().mean,
            }
        try:
            return {"orthogonality": orthogonality_measure(self.training.model).mean} if self._overlap else {}
        except ValueError:  # no layer has filters to compare
            return {}

    def _conflicts(self) -> dict[str, Any]:
        main = self.as_trained
        return {
            "num_conflicting_layers": None if main is None else len(main.conflicting()),
            "first_conflicting": None if main is None else main.first_conflicting,
        }

    def _entropies(self) -> dict[str, Any]:
        """The mean over the layers, and how close the closest one is to a conflict."""
        what_if = zip(self.training.config.what_if, self.reports[1:], strict=False)
        bits = [b for b in self.reports[0].margin_bits.values() if b is not None] if self.reports else []
        return {
            "most_conflicting_rows": None if self.as_trained is None else _most_conflicting_rows(self.as_trained),
            "mean_entropy": None if self.as_trained is None else _mean_entropy(self.as_trained),
            **{f"mean_entropy_{dtype}": _mean_entropy(report) for dtype, report in what_if},
            **({"least_margin_bits": min(bits)} if bits else {}),
        }

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on, as tensors and JSON types."""
        return {
            "next": self.epoch + 1, "loss": self.loss, "seconds": self.seconds, "entropy_sums": self._entropy_sums,
            "reports": [report.to_dict() for report in self.reports], "training": self.training.state(),
        }  # fmt: skip

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where ``state()`` was taken; errors as in ``Training.load_state``."""
        self.training.load_state(state["training"])
        self.epoch, self.loss = int(state["next"]) - 1, float(state["loss"])
        self.seconds, self._entropy_sums = dict(state["seconds"]), dict(state["entropy_sums"])
        self.reports = [LayerReport.from_dict(report) for report in state["reports"]]

    def summary(self, log: RunLog) -> dict[str, Any]:
        """Accuracy, entropy and conflicts so far, as JSON types."""
        lines = [x for x in log.history if (x["run"], x["round"]) == (self.run, self.round)]
        tested = [accuracy for accuracy in (x["test_accuracy"] for x in lines[1:]) if accuracy is not None][
            -LAST_EPOCHS:
        ]
        means = {layer: total / (self.epoch + 1) for layer, total in self._entropy_sums.items()}
        return {
            "epochs": self.epoch, "test_accuracy": lines[-1]["test_accuracy"],
            "validation_accuracy": lines[-1]["validation_accuracy"],
            "mean_test_accuracy": sum(tested) / len(tested) if tested else None,
            "chance_accuracy": self.training.samples.chance_accuracy,
            "entropy_mean": {layer: finite_or_none(mean) for layer, mean in means.items()},
            **self._conflicts(), "equality": "" if self.as_trained is None else self.as_trained.equality,
        }  # fmt: skip


def _most_conflicting_rows(report: LayerReport) -> float:
    """Share of the rows, in the layer that has the most."""
    return max(result.num_conflicting_rows / max(1, result.num_rows) for result in report.values())


def _mean_entropy(report: LayerReport) -> float:
    """Over the layers, nats."""
    return sum(result.entropy for result in report.values()) / len(report)


def times(seconds: dict[str, float]) -> dict[str, float]:
    """The times of a run, and measuring as a share of training and measuring."""
    worked = seconds["training"] + seconds["measuring"]
    return {
        **{f"seconds_{what}": spent for what, spent in seconds.items()},
        "measuring_share": seconds["measuring"] / worked if worked else 0.0,
    }


def progress_line(line: dict[str, Any], epochs: int, why: str = "") -> str:
    """A line of the history in words; ``why``: what the epoch was trained for, where conflicts decide nothing."""
    words, ends = [f"epoch {line['epoch']} of {epochs}"], list[str]()
    if line["train_loss"] is not None:
        words.append(f"loss {line['train_loss']:.3f}")
    if line["test_accuracy"] is not None:
        words.append(f"test {percent(line['test_accuracy'])}")
    count = line["num_conflicting_layers"]
    if why:
        words.append(why)
    elif count == 0:
        words.append("no conflict")
    elif count is not None:
        layers = "1 layer conflicts" if count == 1 else f"{count} layers conflict"
        share = line["most_conflicting_rows"]
        many = f"{layers}, {percent(share)} of rows"
        ends = [f"{many}, from {line['first_conflicting']} on", many, f"{layers} ({percent(share)})"]
    said = (f"round {line['round']}: " if line["run"] == "autotune" else "") + ", ".join(words)
    whole = [f"{said}, {end}" for end in ends] or [said]
    return next((each for each in whole if len(each) <= _COLUMNS), whole[-1])

"""A training that is measured, tested and timed after every epoch: ``train``, and every round of ``autotune``."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

from ...files.json_files import finite_or_none
from ...filters.repr import orthogonality_measure
from ...findings.layer_report import LayerReport
from ...models.cost import measure_cost
from ...runs.log import RunLog
from .measuring import Measuring
from .training import Training

LAST_EPOCHS = 10
"""The papers' test accuracy is a mean over the last epochs."""


class MeasuredTraining:
    """Epochs with all that is written of them; epoch 0 is before the training.

    Args:
        run, round_: what its lines are called.
        training: the network.
        block_names: the blocks of every stage.
    """

    reports: list[LayerReport]
    """Of the last epoch: as the network is trained, then one for every ``what_if`` type."""

    def __init__(self, run: str, round_: int, training: Training, block_names: list[list[str]]) -> None:
        self.run, self.round, self.training, self.block_names = run, round_, training, block_names
        self.measuring = Measuring(training.model, training.optimizer, block_names, training.config, training.samples)
        self.reports = []
        self.loss = 0.0
        self.seconds = {"training": 0.0, "measuring": 0.0, "evaluating": 0.0}
        self._entropy_sums: dict[str, float] = {}
        self._next = 0

    @property
    def has_diverged(self) -> bool:
        """The last loss was NaN or infinite: no later epoch can mend that."""
        return not math.isfinite(self.loss)

    @property
    def epoch(self) -> int:
        """The last epoch; -1 before epoch 0."""
        return self._next - 1

    def lines(self, log: RunLog, epochs: int) -> Iterator[dict[str, Any]]:
        """Go on up to ``epochs``; yields every line after the log got it; ends early on divergence."""
        while self._next <= epochs and not self.has_diverged:
            began = time.perf_counter()
            if self._next > 0:
                self.loss = self.training.train_epoch()
            trained = time.perf_counter()
            self.reports = [] if self.has_diverged else self.measuring(self._next)
            measured = time.perf_counter()
            accuracies = {
                "test_accuracy": self.training.test_accuracy(),
                "validation_accuracy": self.training.validation_accuracy(),
            }
            tested = time.perf_counter()
            self._add({"training": trained - began, "measuring": measured - trained, "evaluating": tested - measured})
            log.add_reports(self.run, self.round, self._next, self.reports)
            log.add_epoch(self._line(accuracies, trained - began, measured - trained, tested - measured))
            self._next += 1
            yield log.history[-1]

    def _add(self, seconds: dict[str, float]) -> None:
        for what, spent in seconds.items():
            self.seconds[what] += spent
        for layer, result in self.reports[0].items() if self.reports else ():
            self._entropy_sums[layer] = self._entropy_sums.get(layer, 0.0) + result.entropy

    def _line(self, accuracies: dict[str, float | None], *seconds: float) -> dict[str, Any]:
        main = self.reports[0] if self.reports else None
        grid = None if main is None else main.grid
        return {
            "run": self.run,
            "round": self.round,
            "epoch": self._next,
            "train_loss": self.loss if self._next else None,
            **accuracies,
            "weight_amplitude": None if grid is None else grid.weight_amplitude,
            "num_conflicting_layers": None if main is None else len(main.conflicting()),
            "first_conflicting": None if main is None else main.first_conflicting,
            **self._of_layers(),
            **self._of_filters(),
            **{f"seconds_{what}": spent for what, spent in zip(self.seconds, seconds, strict=True)},
        }

    def _of_layers(self) -> dict[str, Any]:
        """How much the layers conflict after this epoch, in the mean, and how close the closest one is to it."""
        what_if = dict(zip(self.training.config.what_if, self.reports[1:], strict=False))
        bits = [b for b in self.reports[0].margin_bits.values() if b is not None] if self.reports else []
        return {
            "mean_entropy": _mean_entropy(self.reports[0]) if self.reports else None,
            **{f"mean_entropy_{dtype}": _mean_entropy(report) for dtype, report in what_if.items()},
            **({"least_margin_bits": min(bits)} if bits else {}),
        }

    def _of_filters(self) -> dict[str, Any]:
        """What RePr did before this epoch, and how much the filters overlap after it."""
        method, event = self.training.repr, self.training.event
        if method is None:
            try:
                return {"orthogonality": orthogonality_measure(self.training.model).mean}
            except ValueError:  # no layer has filters to compare
                return {}
        return {
            "repr_event": None if event is None else event.kind,
            "dropped_filters": sum(map(len, method.dropped.values())),
            "orthogonality": method.orthogonality().mean,
        }

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on, as tensors and JSON types."""
        return {
            "next": self._next, "loss": self.loss, "seconds": self.seconds, "entropy_sums": self._entropy_sums,
            "reports": [report.to_dict() for report in self.reports], "training": self.training.state(),
        }  # fmt: skip

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where ``state()`` was taken.

        Raises:
            ValueError: the state is that of another network.
        """
        self.training.load_state(state["training"])
        self._next, self.loss = int(state["next"]), float(state["loss"])
        self.seconds, self._entropy_sums = dict(state["seconds"]), dict(state["entropy_sums"])
        self.reports = [LayerReport.from_dict(report) for report in state["reports"]]

    def summary(self, log: RunLog) -> dict[str, Any]:
        """Accuracy, entropy and times so far, as JSON types."""
        of_this = [line for line in log.history if line["run"] == self.run and line["round"] == self.round]
        tested = [line["test_accuracy"] for line in of_this[1:] if line["test_accuracy"] is not None][-LAST_EPOCHS:]
        main = self.reports[0] if self.reports else None
        means = {layer: total / (self.epoch + 1) for layer, total in self._entropy_sums.items()}
        return {
            "epochs": self.epoch,
            "test_accuracy": of_this[-1]["test_accuracy"],
            "mean_test_accuracy": sum(tested) / len(tested) if tested else None,
            "chance_accuracy": self.training.samples.chance_accuracy,
            "entropy_mean": {layer: finite_or_none(mean) for layer, mean in means.items()},
            "num_conflicting_layers": None if main is None else len(main.conflicting()),
            "first_conflicting": None if main is None else main.first_conflicting,
            "equality": "" if main is None else main.equality,
        }

    def cost(self) -> dict[str, Any]:
        """Parameters, MACs, FLOPs, latency and memory of one forward pass of ``latency_batch`` samples."""
        example = self.training.samples.example(self.training.config.batch_size)
        return {**measure_cost(self.training.model, example).to_dict(), "latency_batch": len(example)}


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


def progress_line(line: dict[str, Any], epochs: int) -> str:
    """A line of the history in words."""
    first = line["first_conflicting"]
    words = [f"epoch {line['epoch']} of {epochs}"]
    if line["train_loss"] is not None:
        words.append(f"loss {line['train_loss']:.4f}")
    if line["test_accuracy"] is not None:
        words.append(f"test accuracy {line['test_accuracy']:.1%}")
    count = line["num_conflicting_layers"]
    if count is not None:
        plural = "" if count == 1 else "s"
        words.append(
            f"{count} layer{plural} conflict{'s' if count == 1 else ''} from {first} on" if count else "no conflict"
        )
    round_ = f"round {line['round']}: " if line["run"] == "autotune" else ""
    return round_ + ", ".join(words)

"""The demo: a deep narrow network and a shallow wide one learn digits, every layer is measured.

Needs torch. ``commands/demo.py`` prints what ``run_demo`` returns. The measurement is a
``LayerMonitor`` on a fixed probe batch.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from .monitor import LayerMonitor
from .reports.plots import HeatMap, plot_entropy, png
from .result import BundleResult
from .run_folder import RunFolder, layer_row
from .training.data import Split, load_digits, split
from .training.networks import fnn
from .training.trainer import Recipe, accuracy, build_optimizer, train_epoch

NUM_CLASSES = 10
_UPDATE = "w - a * lr / batch_size"


@dataclass(frozen=True)
class Architecture:
    """A fully connected network."""

    depth: int
    width: int

    def __str__(self) -> str:
        return f"{self.depth} layers of {self.width}"


@dataclass(frozen=True)
class DemoConfig:
    """Everything that decides the demo's numbers; ``config.json`` repeats the run."""

    epochs: int = 40
    seed: int = 0
    probe_rows: int = 512
    weights: str = "torch"
    recipe: Recipe = field(default_factory=Recipe)
    networks: Mapping[str, Architecture] = field(
        default_factory=lambda: {"deep": Architecture(50, 10), "wide": Architecture(3, 128)}
    )

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {"command": "demo", "dataset": "digits", **asdict(self)}


@dataclass
class NetworkRun:
    """What happened to one network; entry 0 of the lists is before the training."""

    architecture: Architecture
    num_parameters: int = 0
    train_loss: list[float] = field(default_factory=list)
    test_accuracy: list[float] = field(default_factory=list)
    results: list[Mapping[str, BundleResult]] = field(default_factory=list)
    seconds_training: float = 0.0
    seconds_measuring: float = 0.0


def run_demo(
    config: DemoConfig, out: str | os.PathLike[str], report: Callable[[str], None] = lambda status: None
) -> dict[str, Any]:
    """Train both networks, measure all hidden layers, write the run's files.

    Args:
        config: sizes and seed.
        out: folder; files of an older demo in it are replaced.
        report: called with a line of progress after every epoch.

    Returns:
        What ``result.json`` holds.

    Raises:
        OSError: ``out`` cannot be written.
        ValueError: the configuration is out of range, or the training diverged.
    """
    if config.epochs < 1:
        raise ValueError(f"epochs is {config.epochs}; it must be at least 1")
    if not 0 <= config.seed < 2**63:
        raise ValueError(f"seed is {config.seed}; it must be at least 0 and below 2**63")
    folder = RunFolder(out)
    folder.write_json("config.json", config.to_dict())
    folder.write_json("env.json", _environment())
    images, labels = load_digits()
    data = split(images, labels)
    runs = {name: NetworkRun(architecture) for name, architecture in config.networks.items()}
    history: list[dict[str, Any]] = []
    with _one_thread():
        for name, run in runs.items():
            for line in _train(name, run, data, config):
                history.append(line)
                folder.write_json_lines("history.jsonl", history)
                report(
                    f"{run.architecture}: epoch {line['epoch']} of {config.epochs}, "
                    f"test accuracy {line['test_accuracy']:.1%}"
                )
    folder.write_layers(
        layer_row(name, 0, epoch, layer, result)
        for name, run in runs.items()
        for epoch, results in enumerate(run.results)
        for layer, result in results.items()
    )
    outcome = _outcome(config, runs, data)
    outcome["heatmap"] = _draw(folder, config, runs)
    folder.write_json("result.json", outcome)
    return outcome


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch with one thread: products of 64 x 10 matrices are slower with two, and differ in the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _train(name: str, run: NetworkRun, data: Split, config: DemoConfig) -> Iterator[dict[str, Any]]:
    """Train one network; yields a line of ``history.jsonl`` for every epoch, 0 before the first."""
    train_x, train_y, test_x, test_y = (torch.from_numpy(a) for a in data)
    probe_x, probe_y = train_x[: config.probe_rows], train_y[: config.probe_rows]
    generator = torch.Generator().manual_seed(config.seed)
    model = fnn(
        run.architecture.depth, run.architecture.width, train_x[0].numel(), NUM_CLASSES,
        weights=config.weights, generator=generator,
    )  # fmt: skip
    run.num_parameters = sum(p.numel() for p in model.parameters())
    optimizer = build_optimizer(model, config.recipe)
    monitor = LayerMonitor(
        model, (probe_x, probe_y), layers=r"hidden\.\d+", optimizer=optimizer, batch_size=config.recipe.batch_size,
        margin=False,
    )  # fmt: skip
    for epoch in range(config.epochs + 1):
        started = time.perf_counter()
        loss = math.nan
        if epoch > 0:
            loss = train_epoch(
                model, optimizer, train_x, train_y, batch_size=config.recipe.batch_size, generator=generator
            )
        trained = time.perf_counter()
        results = monitor.measure(step=epoch)
        assert results.grid is not None
        measured = time.perf_counter()
        run.train_loss.append(loss)
        run.test_accuracy.append(accuracy(model, test_x, test_y))
        run.results.append(results)
        run.seconds_training += trained - started
        run.seconds_measuring += measured - trained
        yield {
            "run": name,
            "round": 0,
            "epoch": epoch,
            "train_loss": None if math.isnan(loss) else loss,
            "test_accuracy": run.test_accuracy[-1],
            "weight_amplitude": results.grid.weight_amplitude,
            "num_conflicting_layers": len(results.conflicting()),
            "first_conflicting": results.first_conflicting,
            "seconds_training": trained - started,
            "seconds_measuring": measured - trained,
        }


def _first_conflicting(results: Mapping[str, BundleResult]) -> str | None:
    return next((layer for layer, result in results.items() if result.is_conflicting), None)


def _environment() -> dict[str, Any]:
    from .commands.info import installation

    return {**installation(), "torch_threads": torch.get_num_threads(), "cpus": os.cpu_count()}


def _outcome(config: DemoConfig, runs: Mapping[str, NetworkRun], data: Split) -> dict[str, Any]:
    from ._version import __version__

    chance = float(np.bincount(data.test_labels).max() / len(data.test_labels))
    training = sum(run.seconds_training for run in runs.values())
    measuring = sum(run.seconds_measuring for run in runs.values())
    return {
        "version": __version__,
        "seed": config.seed,
        "epochs": config.epochs,
        "weights": config.weights,
        "probe_rows": config.probe_rows,
        "chance_accuracy": chance,
        "networks": {name: _network_outcome(run, chance) for name, run in runs.items()},
        "seconds_training": training,
        "seconds_measuring": measuring,
        "measuring_share": measuring / (training + measuring),
        "equality": definition_of_equal(config),
    }


def _network_outcome(run: NetworkRun, chance: float) -> dict[str, Any]:
    last = run.results[-1]
    return {
        "architecture": str(run.architecture),
        "parameters": run.num_parameters,
        "train_loss": run.train_loss[-1] if math.isfinite(run.train_loss[-1]) else None,
        "test_accuracy": run.test_accuracy[-1],
        "first_conflicting": _first_conflicting(last),
        "collapsed_from": _collapsed_from(last),
        "conclusion": conclusion(last, run.test_accuracy[-1], chance),
        "layers": [{"layer": layer, **result.to_dict()} for layer, result in last.items()],
    }


def _collapsed_from(results: Mapping[str, BundleResult]) -> str | None:
    """First layer from which on every layer has fewer bundles than there are classes."""
    found = None
    for layer in reversed(list(results)):
        if results[layer].num_bundles >= NUM_CLASSES:
            break
        found = layer
    return found


def conclusion(results: Mapping[str, BundleResult], test_accuracy: float, chance: float) -> str:
    """What the numbers of one network say, in a sentence.

    Args:
        results: layer -> result, in the network's order.
        test_accuracy: share in 0 to 1.
        chance: accuracy of always guessing the most frequent class.
    """
    scored = f"test accuracy {test_accuracy:.1%} (chance {chance:.1%})"
    layers = list(results)
    conflicting, collapsed = _first_conflicting(results), _collapsed_from(results)
    rows = results[layers[0]].num_rows
    if conflicting is None:
        return f"No layer conflicts: no bundle of the {rows} samples holds two digits; {scored}."
    if collapsed is None:
        last = results[layers[-1]]
        return (
            f"Layers conflict from {conflicting} (layer {layers.index(conflicting) + 1} of {len(layers)}) on; the last "
            f"one has {last.num_bundles} bundles and {last.entropy:.2f} nats; {scored}."
        )
    position = layers.index(collapsed)
    most = max(result.num_bundles for result in list(results.values())[position:])
    what = "a single bundle" if most == 1 else f"at most {most} bundles"
    effect = "and the network does not learn" if test_accuracy < 1.5 * chance else "and yet something is learned"
    return (
        f"From {collapsed} (layer {position + 1} of {len(layers)}) on, the {rows} samples are {what}, fewer than the "
        f"{NUM_CLASSES} digits to tell apart, {effect}: {scored}."
    )


def definition_of_equal(config: DemoConfig) -> str:
    """The demo's definition of equal, for tables and the picture."""
    return (
        f"Two samples are one bundle at a layer when all their activations a give the same float32 number "
        f"{_UPDATE}, as the next weight update would see them: lr {config.recipe.learning_rate:g}, "
        f"batch size {config.recipe.batch_size}, w the largest absolute weight at that epoch."
    )


def _draw(folder: RunFolder, config: DemoConfig, runs: Mapping[str, NetworkRun]) -> str | None:
    """Write the heat map; None without matplotlib."""
    maps = []
    for run in runs.values():
        layers = list(run.results[0])
        maps.append(
            HeatMap(
                title=f"{run.architecture}: test accuracy {run.test_accuracy[-1]:.1%}",
                names=layers,
                steps=range(len(run.results)),
                entropy=np.array([[results[name].entropy for results in run.results] for name in layers]),
                num_conflicting=np.array(
                    [[results[name].num_conflicting for results in run.results] for name in layers]
                ),
            )
        )
    definition = definition_of_equal(config).replace(_UPDATE, _UPDATE.replace(" ", "\N{NO-BREAK SPACE}"))
    caption = f"Bundle entropy of {config.probe_rows} training samples at every hidden layer. {definition}"
    try:
        figure = plot_entropy(maps, top=math.log(NUM_CLASSES), caption=caption)
    except ImportError:
        return None
    return str(folder.write_bytes("heatmap.png", png(figure)))

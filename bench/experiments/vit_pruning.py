"""A small vision transformer, trained and pruned by margin, similarity and at random: does the removal carry over?

Every seed is trained once, and a copy for each ranking loses all blocks but one, healed after each of them; a guard of
held-back samples says how many of them may go. Fashion-MNIST: CBKERNELS_DATA names the folder.
    python -m bench.experiments.vit_pruning --out runs/experiments/vit-pruning
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import cbkernels as cb
from bench.record import commit, machine, versions
from cbkernels.drawing.figures import FAINT, INK, add_caption, new_figure, save, style_axes
from cbkernels.files.json_files import finite_or_none, json_text, read_json_object
from cbkernels.files.whole_files import write_whole
from cbkernels.surgery.plan import removable_blocks
from cbkernels.surgery.pruning.block_rankings import RANKINGS
from cbkernels.surgery.pruning.block_scores import Candidates, probe_on
from cbkernels.tables import format_table
from cbkernels.training.config import TrainConfig
from cbkernels.training.data.samples import Samples, accuracy_of, samples_of
from cbkernels.training.loop.epochs import Training

from .removal import spearman

COLOURS = {"margin": "#1864ab", "similarity": "#d9480f", "random": "#868e96"}
"""The rankings that are compared."""
MEASURED = 5
"""Measurements of a training, behind that before it."""
NOT_OPTIONS = ("out", "data_dir", "seeds")
"""What may differ when a seed's result is taken up again."""


class Attention(nn.Module):
    """Every patch looks at every patch."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.inputs, self.output, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, c = x.shape
        parts = self.inputs(x).view(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(*parts)
        return self.output(seen.transpose(1, 2).reshape(n, t, c))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Two branches with a layer norm before each: the attention, then the multilayer perceptron."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """Patches, learned positions, blocks, and a linear layer on the mean of the patches; after arXiv 2010.11929."""

    def __init__(
        self, image_shape: tuple[int, int, int], num_classes: int, patch: int, width: int, heads: int, blocks: int
    ) -> None:
        super().__init__()
        channels, height, across = image_shape
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.positions = nn.Parameter(0.02 * torch.randn(1, (height // patch) * (across // patch), width))
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(blocks)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x.mean(1)))  # type: ignore[no-any-return]


def main() -> None:
    """Train and prune the seeds that have no result yet, print a table, write the JSON, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="fashion_mnist")
    parser.add_argument("--train-size", type=int, default=6000)
    parser.add_argument("--test-size", type=int, default=2000)
    parser.add_argument("--image-size", type=int, default=28)
    parser.add_argument("--patch", type=int, default=14, help="pixels in height and width")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--heal-epochs", type=int, default=2)
    parser.add_argument("--heal-learning-rate", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=1.0)
    parser.add_argument("--optimizer", default="adamw")
    parser.add_argument("--schedule", default="cosine")
    parser.add_argument("--max-drop", type=float, default=0.01, help="on the guard, of all blocks that go")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data-dir")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    results = [result_of(seed, given) for seed in range(given.seeds)]
    rows = guarded_rows(results, given.max_drop)
    content = {
        "command": shlex.join(["python", "-m", "bench.experiments.vit_pruning", *sys.argv[1:]]),
        "date": f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}",
        "seeds": [result["seed"] for result in results], "commit": commit(), "machine": machine(),
        "versions": versions(), "core_seconds": round(sum(result["core_seconds"] for result in results), 1),
        "within_the_guard": rows, "results": results,
        "curves": {rank: mean_curve([result["prunings"][rank] for result in results]) for rank in COLOURS},
    }  # fmt: skip
    write_whole(given.out / "summary.json", json_text(content, indent=1).encode())
    save(draw(content, given), given.out / "vit-pruning.png")
    print(format_table(["seed", "ranking", "blocks gone", "test before", "test after"], rows))
    for result in results:
        print(f"seed {result['seed']}: {json.dumps(result['alone'])}, {json.dumps(result['spearman_cost'])}")


def result_of(seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """One seed; what its file holds, if there is one."""
    path = given.out / f"seed{seed}.json"
    options = {name: value for name, value in vars(given).items() if name not in NOT_OPTIONS}
    if path.exists():
        found = read_json_object(path)
        if found["options"] != options:
            raise SystemExit(f"{path} is of the options {found['options']}; name another folder by --out")
        return found
    began = time.process_time()
    config = TrainConfig(
        dataset=given.dataset, train_size=given.train_size, test_size=given.test_size, validation_share=0.1,
        augmentation="none", epochs=given.epochs, batch_size=given.batch_size, optimizer=given.optimizer,
        learning_rate=given.learning_rate, weight_decay=given.weight_decay, schedule=given.schedule, seed=seed,
        threads=1,
    )  # fmt: skip
    data = cb.training.load_data_set(
        given.dataset, data_dir=given.data_dir, train_size=given.train_size, test_size=given.test_size,
        image_size=given.image_size,
    )  # fmt: skip
    samples = samples_of(data, config, torch.device("cpu"))
    torch.manual_seed(seed)
    sizes = given.patch, given.width, given.heads, given.blocks
    network = VisionTransformer(data.image_shape, data.num_classes, *sizes)
    experiment = Experiment(network, samples, config, given)
    result = {"seed": seed, "options": options, **experiment.run()}
    result["core_seconds"] = round(time.process_time() - began, 1)
    write_whole(path, json_text(result).encode())
    return result


class Experiment:
    """One network of one seed."""

    def __init__(self, network: nn.Module, samples: Samples, config: TrainConfig, given: argparse.Namespace) -> None:
        self.network, self.samples, self.config, self.given = network, samples, config, given
        self.example = samples.example(config.batch_size)

    def run(self) -> dict[str, Any]:
        """Train, study each block alone, prune copies."""
        epochs = self.trained()
        removable = removable_blocks(self.network, self.example)
        before = self.on_test(self.network)
        alone = {name: self.on_test(self.without(name)) for name in removable.steps}
        probe = probe_on(self.network, cb.LayerMonitor(self.network, self.samples.probe(), grid=None).probe)
        names = {name: name for name in removable.found.blocks}
        asked = Candidates(self.network, removable, probe, None, None, self.config.seed, names)
        scores = {rank: dict(RANKINGS[rank].scores(asked)) for rank in COLOURS}
        scored, cost = scores.items(), [before - alone[name] for name in alone]
        return {
            "samples": {"train": len(self.samples.train_indices), "guard": len(self.samples.validation_indices),
                        "test": len(self.samples.test[1]), "probe": len(self.samples.probe_indices)},
            "blocks": {name: list(block.branches) for name, block in removable.found.blocks.items()},
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "test_accuracy": before, "guard_accuracy": self.on_guard(self.network), "epochs": epochs,
            "alone": alone, "scores": scores,
            "spearman_cost": {rank: spearman([of[name] for name in alone], cost) for rank, of in scored},
            "prunings": {rank: self.pruned(rank) for rank in COLOURS},
            "whole": [before, *self.trained_on(len(removable.steps) - 1)],
        }  # fmt: skip

    def trained(self) -> list[dict[str, Any]]:
        """Train; what was measured now and then, before the first epoch and after the last one too."""
        training = Training(self.network, self.config, self.samples)
        monitor = cb.LayerMonitor(
            self.network, self.samples.probe(), optimizer=training.optimizer, batch_size=self.config.batch_size
        )
        epochs: list[dict[str, Any]] = []
        for epoch in range(self.config.epochs + 1):
            loss = training.train_epoch() if epoch else None
            if epoch % max(1, self.config.epochs // MEASURED) and epoch < self.config.epochs:
                continue
            report = monitor.measure(epoch)
            epochs.append({
                "epoch": epoch, "loss": finite_or_none(loss), "test_accuracy": self.on_test(self.network),
                "conflicting": report.conflicting(),
                "margin_bits": {layer: finite_or_none(bits) for layer, bits in report.margin_bits.items()},
            })  # fmt: skip
            print(f"seed {self.config.seed}, epoch {epoch}: {epochs[-1]['test_accuracy']:.1%}", file=sys.stderr)
        return epochs

    def pruned(self, rank: str) -> dict[str, Any]:
        """The log of a pruning of a copy; no accuracy falls by more than 1, so that every block goes in its turn."""
        _, _, log = cb.prune_blocks(
            copy.deepcopy(self.network), self.samples.probe(), evaluate=self.on_guard, test=self.on_test, rank=rank,
            heal=self.heal, strategy="one", max_drop=1.0, seed=self.config.seed, example=self.example,
        )  # fmt: skip
        print(f"seed {self.config.seed}, {rank}: {len(log.removed)} blocks, {log.reason}", file=sys.stderr)
        return log.to_dict()

    def trained_on(self, healings: int) -> Iterator[float]:
        """Test accuracy of the whole network after each of so many healings: what they do without a removal."""
        whole = copy.deepcopy(self.network)
        torch.manual_seed(self.config.seed)
        for _ in range(healings):
            self.heal(whole)
            yield self.on_test(whole)

    def heal(self, model: nn.Module) -> None:
        """By the recipe of the training, its schedule drawn together, at a lower rate and with a new optimizer."""
        epochs, rate, seed = self.given.heal_epochs, self.given.heal_learning_rate, int(torch.randint(2**31, ()))
        training = Training(model, replace(self.config, epochs=epochs, learning_rate=rate, seed=seed), self.samples)
        for _ in range(epochs):
            training.train_epoch()

    def without(self, name: str) -> nn.Module:
        model, _ = cb.remove_layers(copy.deepcopy(self.network), [name], example=self.example)
        return model

    def on_test(self, model: nn.Module) -> float:
        return accuracy_of(model, *self.samples.test, self.samples.preparation)

    def on_guard(self, model: nn.Module) -> float:
        """On training samples that are held back."""
        held_back = self.samples.validation_indices
        images, labels = self.samples.train
        return accuracy_of(model, images[held_back], labels[held_back], self.samples.preparation)


CURVES = {
    "accuracy_test": "test part, after healing",
    "accuracy_healed": "guard, after healing",
    "accuracy_removed": "guard, before healing",
}
"""Fields of a step, and what they are."""


def mean_curve(logs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds, at every number of removed blocks."""
    curve: dict[str, Any] = {"removed": [step["num_removed"] for step in logs[0]["steps"]], "of": logs[0]["num_blocks"]}
    for field in CURVES:
        values = np.array([[step[field] for step in log["steps"]] for log in logs])
        curve[field] = {"mean": values.mean(0).tolist(), "std": values.std(0).tolist()}
    return curve


def within_the_guard(log: dict[str, Any], max_drop: float) -> dict[str, Any]:
    """The step that removed most, of those whose accuracy on the guard stays within the limit."""
    least = log["steps"][0]["accuracy_healed"] - max_drop - 1e-9
    return max((s for s in log["steps"] if s["accuracy_healed"] >= least), key=lambda step: step["num_removed"])


def guarded_rows(results: list[dict[str, Any]], max_drop: float) -> list[list[str]]:
    """What may go, and what the test part says of it."""
    rows = []
    for result in results:
        for rank, log in result["prunings"].items():
            last = within_the_guard(log, max_drop)
            tested = [f"{step['accuracy_test']:.2%}" for step in (log["steps"][0], last)]
            rows.append([str(result["seed"]), rank, f"{last['num_removed']} of {log['num_blocks']}", *tested])
    return rows


def draw(content: dict[str, Any], given: argparse.Namespace) -> Any:
    """Accuracy against the share of blocks removed: healed, on the test part, and before healing, on the guard."""
    figure = new_figure(9.6, 4.6)
    fields = ("accuracy_test", "accuracy_removed")
    for ax, field in zip(figure.subplots(1, 2), fields, strict=True):
        for rank, curve in content["curves"].items():
            share = 100 * np.array(curve["removed"]) / curve["of"]
            mean, std = (100 * np.array(curve[field][of]) for of in ("mean", "std"))
            ax.plot(share, mean, color=COLOURS[rank], label=rank, marker="o", markersize=4)
            ax.fill_between(share, mean - std, mean + std, color=COLOURS[rank], alpha=0.15, linewidth=0)
        if field == "accuracy_test":
            wholes = 100 * np.array([result["whole"] for result in content["results"]]).mean(0)
            ax.plot(share, wholes, color=INK, linestyle=":", label="no block removed, trained as long")
        label = f"{given.max_drop:.0%} below the whole network"
        ax.axhline(mean[0] - 100 * given.max_drop, color=FAINT, linestyle="--", linewidth=1.2, label=label)
        style_axes(ax, CURVES[field], "blocks removed (%)", "accuracy (%)")
    figure.axes[0].legend(frameon=False, loc="lower left")
    said = (
        f"A vision transformer of {given.blocks} blocks on {given.dataset}, {given.seeds} seeds: mean, band: one "
        f"standard deviation. The rest of the network trained for {given.heal_epochs} epochs after every block."
    )
    add_caption(figure, said)
    return figure


if __name__ == "__main__":
    main()

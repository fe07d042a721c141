"""`python -m bench.monitor_times [--print]`: what a monitor costs on models of 200 blocks, into docs/performance.md.

For each kind of model: one bare forward pass of the probe, the first look (what "auto" finds), and a measurement of all
blocks and branches that follows. The answer, how many blocks are found, is asserted before a time counts.
"""

from __future__ import annotations

import datetime
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cbkernels.models.evaluation import evaluating
from cbkernels.models.monitor import LayerMonitor

from . import record
from .table import DOCUMENT, replaced

BLOCKS, ROUNDS, LOOK_S = 200, 3, 2.0
"""Blocks of every model; rounds of each time; how long a first look may take."""


class Added(nn.Module):
    """A block that adds what its part makes, times a gain."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part, self.gain = part, nn.Parameter(torch.tensor(0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.gain * self.part(x)


def of_rows() -> tuple[nn.Module, torch.Tensor]:
    blocks = [Added(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))) for _ in range(BLOCKS)]
    return nn.Sequential(nn.Linear(32, 64), *blocks, nn.Linear(64, 10)), torch.randn(512, 32)


def of_images() -> tuple[nn.Module, torch.Tensor]:
    def convolutions() -> nn.Module:
        parts = [nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)]
        return nn.Sequential(*parts, nn.BatchNorm2d(16))

    blocks = [Added(convolutions()) for _ in range(BLOCKS)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), *blocks, *head), torch.randn(128, 3, 8, 8)


def of_tokens() -> tuple[nn.Module, torch.Tensor]:
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, BLOCKS, enable_nested_tensor=False)
    return nn.Sequential(nn.Linear(32, 64), encoder, nn.Linear(64, 10)), torch.randn(64, 16, 32)


def of_words() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    from transformers import LlamaConfig, LlamaModel

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaModel(LlamaConfig(**sizes, num_hidden_layers=BLOCKS, vocab_size=100, pad_token_id=0))
    return model, {"input_ids": torch.randint(1, 100, (64, 16))}


MODELS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "gains on rows (512, 32)": of_rows,
    "convolutions, images (128, 3, 8, 8)": of_images,
    "nn.TransformerEncoder, tokens (64, 16)": of_tokens,
    "Llama of transformers, words (64, 16)": of_words,
}


def seconds(run: Callable[[], object]) -> float:
    """Of the processor, not of the clock: with one thread they are the same where nothing else runs."""
    started = time.process_time()
    run()
    return time.process_time() - started


def measured(name: str) -> dict[str, Any]:
    """One kind of model: seconds, in every round."""
    torch.manual_seed(0)
    model, x = MODELS[name]()
    rows = len(next(iter(x.values()))) if isinstance(x, dict) else len(x)
    probe = (x, torch.arange(rows) % 2)
    times: dict[str, list[float]] = {"pass": [], "first look": [], "measurement": []}
    for is_counted in [False, *[True] * ROUNDS]:
        monitor = LayerMonitor(model, probe, grid=None, margin=False)
        taken = {"first look": seconds(lambda: monitor.layers), "measurement": seconds(monitor.measure)}  # noqa: B023
        with evaluating(model) as inner:
            taken["pass"] = seconds(lambda: inner(**x) if isinstance(x, dict) else inner(x))
        found = len(set(monitor.measure().blocks.values()))
        assert found == BLOCKS, f"{name}: {found} blocks"
        for what, each in taken.items() if is_counted else ():
            times[what].append(each)
    modules = sum(1 for _ in model.modules())
    return {
        "model": name,
        "blocks": BLOCKS,
        "layers": len(monitor.layers),
        "modules": modules,
        "processor_seconds": times,
    }


def table(result: dict[str, Any], source: str) -> str:
    """The part of docs/performance.md."""
    machine, versions = result["machine"], result["versions"]
    head = (
        f"From `{source}`, commit `{result['commit']['short']}`: {machine['cpu']}, one thread, load "
        f"{machine['load_average']}; torch {versions['torch']}. Seconds of the processor, medians of {ROUNDS} rounds, "
        f"minimum and maximum in brackets. The first look must take less than {LOOK_S:g} s."
    )
    lines = [
        "| model of 200 blocks | modules | layers measured | one pass | first look | one measurement |  |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in result["cases"]:
        cells = [_told(case["processor_seconds"][what]) for what in ("pass", "first look", "measurement")]
        reached = statistics.median(case["processor_seconds"]["first look"]) < LOOK_S
        verdict = "reached" if reached else "**NOT reached**"
        lines.append(f"| {case['model']} | {case['modules']} | {case['layers']} | {' | '.join(cells)} | {verdict} |")
    return "\n".join([head, "", *lines])


def _told(times: list[float]) -> str:
    return f"{statistics.median(times):.3f} ({min(times):.3f} - {max(times):.3f})"


def main(arguments: list[str]) -> int:
    torch.set_num_threads(1)
    now = datetime.datetime.now(datetime.timezone.utc)
    commit = record.commit()
    result = {
        "format": 1, "date": now.isoformat(timespec="seconds"), "commit": commit, "machine": record.machine(),
        "versions": record.versions(), "cases": [measured(name) for name in MODELS],
    }  # fmt: skip
    path = record.RESULTS / f"{now:%Y-%m-%d}-monitor-{commit['short']}.json"
    text = table(result, path.name)
    print(text)
    if "--print" not in arguments:
        path.write_text(json.dumps(result, indent=1) + "\n")
        document = Path(DOCUMENT)
        document.write_text(replaced(document.read_text(), "monitor", text))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

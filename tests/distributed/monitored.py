"""Every rank monitors its part of a probe and compares the report with that of one process.

torchrun --standalone --nproc-per-node 3 tests/distributed/monitored.py tests/model_zoo.py
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

import cbkernels as cb

SHARDS = (slice(0, 300), slice(300, 512), slice(512, 512))


def numbers(report: cb.LayerReport) -> dict[str, tuple[Any, ...]]:
    return {
        layer: (r.entropy.hex(), r.num_rows, r.num_bundles, r.num_conflicting, r.num_conflicting_rows, r.num_nan_rows)
        for layer, r in report.items()
    }


def whole_numbers() -> nn.Module:
    """Small integers everywhere: what it computes does not depend on the size of a batch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    for parameter in model.parameters():
        parameter.data = (3 * parameter.data).round()
    return model


def whole_probe_at_once(rank: int) -> None:
    model, labels = whole_numbers(), torch.arange(512) % 5 - 2
    x = torch.randn(512, 6, generator=torch.Generator().manual_seed(3)).round()
    options: dict[str, Any] = {"optimizer": torch.optim.SGD(model.parameters(), lr=1e-3), "batch_size": 50}
    alone = cb.LayerMonitor(model, (x, labels), **options).measure()
    assert alone.conflicting()
    monitor = cb.LayerMonitor(model, (x[SHARDS[rank]], labels[SHARDS[rank]]), process_group="world", **options)
    shared = monitor.measure()
    assert numbers(shared) == numbers(alone), (numbers(shared), numbers(alone))
    assert shared.conflicting() == alone.conflicting()
    assert [len(monitor.history), shared["1"].num_rows] == [1, 512]


def residual_blocks(rank: int, zoo: Any) -> None:
    """The rank without samples cannot look for blocks; it learns of them, and removes the same ones."""
    model, example = zoo.resnet_basic()
    x, labels = example.repeat(86, 1, 1, 1)[:512], torch.arange(512) % 5
    batches = [(x[shard], labels[shard]) for shard in SHARDS[:2]]
    alone = cb.LayerMonitor(model, batches, grid=None).measure()
    monitor = cb.LayerMonitor(model, (x[SHARDS[rank]], labels[SHARDS[rank]]), grid=None, process_group="world")
    shared = monitor.measure()
    assert numbers(shared) == numbers(alone)
    assert len(shared.conflicting()) == 10
    assert shared.blocks == alone.blocks
    _, surgery = cb.remove_layers(model, shared.conflicting()[:2])
    told: list[Any] = [None] * 3
    dist.all_gather_object(told, surgery.removed)
    assert told == [["layer1.0"]] * 3
    assert "layer1.0.bn2" not in monitor.measure()


class FailsOn(nn.Module):
    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if dist.get_rank() == self.rank:
            raise RuntimeError("out of patience")
        return x


def a_rank_that_fails(rank: int) -> None:
    model = nn.Sequential(FailsOn(1), nn.ReLU(), nn.Linear(6, 2))
    monitor = cb.LayerMonitor(model, (torch.ones(4, 6), [0, 1, 0, 1]), grid=None, layers=["1"], process_group="world")
    said = ""
    try:
        monitor.measure()
    except Exception as error:  # also one of another kind: the comparison shows it
        said = f"{type(error).__name__}: {error}"
    mine, theirs = "RuntimeError: out of patience", "ValueError: rank 1 failed: RuntimeError: out of patience"
    assert said == (mine if rank == 1 else theirs), said
    assert len(monitor.history) == 0


def differing_ranks(rank: int) -> None:
    """Other weights or options on one rank are refused on all of them, with the same sentence."""

    def refused(model: nn.Module, **options: Any) -> str:
        monitor = cb.LayerMonitor(model, (torch.ones(4, 6), [0, 1, 0, 1]), grid=None, process_group="world", **options)
        said = ""
        try:
            monitor.measure()
        except ValueError as error:
            said = str(error)
        told: list[Any] = [None] * 3
        dist.all_gather_object(told, said)
        assert told == [said] * 3, told
        return said

    model = whole_numbers()
    if rank == 2:
        with torch.no_grad():
            model[4].bias[1] += 2**-20  # a layer behind those that are measured
    assert "rank 2 has weights with the checksum '" in refused(model), refused(model)
    assert "rank 1 has reduce 'mean' and rank 0 'flatten'" in refused(
        whole_numbers(), reduce="mean" if rank == 1 else "flatten"
    )
    assert "rank 2 has mask 'mask' and rank 0 None" in refused(whole_numbers(), mask="mask" if rank == 2 else None)
    assert "rank 1 has an autocast to 'bfloat16' and rank 0 None" in refused(
        whole_numbers(), autocast="bfloat16" if rank == 1 else None
    )
    assert "rank 1 and rank 0 differ in layers ['1', '3']" in refused(
        whole_numbers(), layers=["3"] if rank == 1 else ["1"]
    )
    same = cb.LayerMonitor(whole_numbers(), (torch.ones(4, 6), [0, 1, 0, 1]), grid=None, process_group="world")
    assert same.measure()["1"].num_rows == 12


def main(path_of_zoo: str) -> None:
    spec = importlib.util.spec_from_file_location("model_zoo", path_of_zoo)
    assert spec is not None
    assert spec.loader is not None
    zoo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(zoo)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    whole_probe_at_once(rank)
    residual_blocks(rank, zoo)
    a_rank_that_fails(rank)
    differing_ranks(rank)
    print(f"rank {rank}: the same")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])

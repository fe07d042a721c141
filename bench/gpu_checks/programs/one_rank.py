"""One rank over nccl: what ranks find together is what one process finds, with states and tensors on the GPU.

``python one_rank.py``; nccl needs the tensors it sends on the GPU, which gloo does not. In a rehearsal: gloo.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import doors  # type: ignore[import-not-found]
import torch
import torch.distributed as dist
from torch import nn

import cbkernels as cb


def plain(result: Any) -> dict[str, Any]:
    left_out = {"device", "backend"}
    return {k: v for k, v in result.to_dict().items() if k not in left_out} | {"entropy": result.entropy.hex()}


def main() -> None:
    device = "cpu" if doors.IS_REHEARSAL else "cuda"
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=os.environ.get("MASTER_PORT", "29541"), RANK="0",
                      WORLD_SIZE="1", LOCAL_RANK="0")  # fmt: skip
    dist.init_process_group("gloo" if doors.IS_REHEARSAL else "nccl", timeout=timedelta(seconds=20))
    generator = torch.Generator().manual_seed(3)
    acts = torch.randn(40, 16, generator=generator)[torch.arange(512) * 7 % 40]
    labels = torch.arange(512) % 5
    metric = cb.BundleEntropy()
    for part in (slice(0, 300), slice(300, 512)):
        metric.update(acts[part].to(device), labels[part].to(device))
    alone, shared = metric.compute(), metric.compute("world")
    assert plain(alone) == plain(shared), (alone, shared)
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 5)).to(device)
    options: dict[str, Any] = {"optimizer": torch.optim.SGD(model.parameters(), lr=1e-3), "batch_size": 50}
    probe = (acts.to(device), labels.to(device))
    one = cb.LayerMonitor(model, probe, **options).measure()
    several = cb.LayerMonitor(model, probe, process_group="world", **options).measure()
    numbers = [{layer: (r.entropy.hex(), r.num_bundles, r.num_conflicting) for layer, r in report.items()}
               for report in (one, several)]  # fmt: skip
    assert numbers[0] == numbers[1], numbers
    print(f"one rank over {dist.get_backend()}: {1 + len(several)} results are those of one process", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

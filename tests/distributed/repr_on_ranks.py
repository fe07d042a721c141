"""For torchrun: RePr under DDP, with seeds and samples that differ from rank to rank; prints what each rank saw."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import distributed, nn

from cbkernels.filters.repr import RePr


def run(rank: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4)
    )
    wrapped = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    options: dict[str, Any] = {"full_epochs": 1, "reduced_epochs": 1, "share": 0.3, "max_layer_share": 0.5}
    method = RePr(wrapped, optimizer, **options, cycles=2, criterion="random", seed=rank)
    generator = torch.Generator().manual_seed(rank)
    dropped, weights = [], []
    for epoch in range(5):
        method.step(epoch)
        dropped.append({name: list(filters) for name, filters in method.dropped.items()})
        for _ in range(3):
            images, labels = torch.randn(6, 1, 6, 6, generator=generator), torch.randint(4, (6,), generator=generator)
            optimizer.zero_grad()
            nn.functional.cross_entropy(wrapped(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        weights.append([float(p.detach().double().sum()) for p in model.parameters()])
    method.remove()
    data = (torch.randn(6, 1, 6, 6), torch.zeros(6, dtype=torch.int64) if rank else torch.zeros(0))
    method = RePr(wrapped, optimizer, **options, criterion="taylor", data=data)
    try:
        method.step(1)
        said = "dropped"
    except ValueError as error:
        said = str(error)
    return {"dropped": dropped, "weights": weights, "said": said}


if __name__ == "__main__":
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    told: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(told, run(distributed.get_rank()))
    if distributed.get_rank() == 0:
        print(json.dumps(told))
    distributed.destroy_process_group()

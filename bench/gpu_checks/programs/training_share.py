"""What a monitor costs beside training: a model of the size of ResNet-50 on a GPU: ``python training_share.py OUT``."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import doors  # type: ignore[import-not-found]
import torch
from times import write  # type: ignore[import-not-found]
from torch import nn

import cbkernels as cb

PROBE, BATCH, SIDE, STEPS_OF_AN_EPOCH = 256, 128, 224, 1_281_167 // 128
"""The probe batch, a training batch, pixels a side; ImageNet's training images in such batches."""


class Bottleneck(nn.Module):
    """Three convolutions and what they are added to."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip
        is_same = channels == out and stride == 1
        projection = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.shortcut = nn.Identity() if is_same else projection

    def forward(self, x: Any) -> Any:
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet_50(width: int = 64, blocks: tuple[int, ...] = (3, 4, 6, 3), classes: int = 1000) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
                               nn.MaxPool2d(3, 2, 1)]  # fmt: skip
    channels = width
    for stage, count in enumerate(blocks):
        for block in range(count):
            layers.append(Bottleneck(channels, width << stage, 2 if stage and not block else 1))
            channels = 4 * (width << stage)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def median_s(run: Callable[[], Any], wait: Callable[[], None], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        wait()
        start = time.perf_counter()
        run()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    device = "cpu" if doors.IS_REHEARSAL else "cuda"
    wait = (lambda: None) if doors.IS_REHEARSAL else torch.cuda.synchronize
    probe, batch, side = (16, 8, 32) if doors.IS_REHEARSAL else (PROBE, BATCH, SIDE)
    torch.manual_seed(0)
    model = resnet_50(*((4, (1, 1)) if doors.IS_REHEARSAL else ())).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = torch.randn(batch, 3, side, side, device=device), torch.randint(1000, (batch,), device=device)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16):
            loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()

    px, py = torch.randn(probe, 3, side, side, device=device), torch.randint(1000, (probe,), device=device)
    monitor = cb.LayerMonitor(model, (px, py), optimizer=optimizer, batch_size=batch)
    for _ in range(5):
        step()
    started = time.perf_counter()
    report = monitor.measure()
    first_look = time.perf_counter() - started

    def forward() -> None:
        model.eval()
        with torch.no_grad():
            model(px)
        model.train()

    step_s, measure_s, forward_s = (
        median_s(step, wait, 15),
        median_s(monitor.measure, wait, 7),
        median_s(forward, wait, 7),
    )
    found = {
        "parameters": sum(p.numel() for p in model.parameters()), "layers": len(report), "probe": probe,
        "batch": batch, "side": side, "step_s": step_s, "measure_s": measure_s, "first_look_s": first_look,
        "forward_of_the_probe_s": forward_s, "measure_in_steps": measure_s / step_s,
        "share_of_an_epoch": measure_s / (STEPS_OF_AN_EPOCH * step_s),
    }  # fmt: skip
    write(Path(sys.argv[1]), found)
    print(f"{found['layers']} layers, {probe} samples: measured in {1e3 * measure_s:.1f} ms (the forward pass alone "
          f"{1e3 * forward_s:.1f} ms), {measure_s / step_s:.2f} training steps of {1e3 * step_s:.1f} ms, "
          f"{100 * found['share_of_an_epoch']:.3f} % of an epoch of ImageNet", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()

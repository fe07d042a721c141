"""A monitor on a GPU gives what it gives on a CPU, in one launch, and its streams never wait."""

from __future__ import annotations

import copy
from typing import Any

import pytest

import cbkernels as cb

from .presence import need_gpu

torch: Any = need_gpu()
nn = torch.nn

X = torch.randn(256, 6, generator=torch.Generator().manual_seed(3)).round()
LABELS = torch.arange(256) % 5 - 2


def whole_numbers(inplace: bool) -> Any:
    """Small integers everywhere: the CPU and the GPU compute the same, in whatever order they add."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace), nn.Linear(8, 8), nn.ReLU(inplace), nn.Linear(8, 3))
    for parameter in model.parameters():
        parameter.data = (3 * parameter.data).round()
    return model


def numbers(report: cb.LayerReport) -> dict[str, tuple[Any, ...]]:
    return {
        layer: (r.entropy.hex(), r.num_bundles, r.num_conflicting, r.num_conflicting_rows, r.num_rows)
        for layer, r in report.items()
    }


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("as_batches", [False, True])
def test_as_on_the_cpu(inplace: bool, as_batches: bool) -> None:
    on_cpu = whole_numbers(inplace)
    on_gpu = copy.deepcopy(on_cpu).cuda()
    probe: Any = [(X[:200], LABELS[:200]), (X[200:], LABELS[200:])] if as_batches else (X, LABELS)
    reports = []
    for model in (on_cpu, on_gpu):
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        monitor = cb.LayerMonitor(model, probe, layers=r"\d", optimizer=optimizer, batch_size=50)
        reports += [monitor.measure(), monitor.measure()]
    assert reports[0].conflicting()
    assert all(numbers(report) == numbers(reports[0]) for report in reports)
    assert reports[2].margins == reports[0].margins
    assert reports[2].amplitudes == reports[0].amplitudes
    assert {r.device for r in reports[2].values()} == {"cuda:0"}


def test_streaming_update_never_waits() -> None:
    acts, labels = torch.randn(64, 100, device="cuda"), torch.arange(64, device="cuda")
    metric = cb.BundleEntropy()
    metric.update(acts, labels)  # what is loaded or allocated once
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            metric.update(acts, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert metric.compute().num_bundles == 64

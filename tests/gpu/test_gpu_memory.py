"""Memory of the GPU: at most 64 bytes a row beyond the input, 24 in a stream, and nothing left behind."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest

import cbkernels as cb

from .presence import need_gpu

torch: Any = need_gpu()

from .known_rows import labels_of, random_rows  # noqa: E402

NUM_ROWS = 6_000_000
GRANULE = 64 << 20
"""Pools of the driver grow in pieces; two of them may be open."""


def taken_beside_torch(run: Callable[[], Any]) -> tuple[int, int]:
    """Bytes that the GPU has less once the call is queued: those of torch's own allocator, and those that are ours."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    free, own = torch.cuda.mem_get_info()[0], torch.cuda.memory_allocated()
    reserved = torch.cuda.memory_reserved()
    torch.cuda._sleep(500_000_000)  # cycles: what the call takes is still taken when it has returned
    result = run()
    ours = free - torch.cuda.mem_get_info()[0] - (torch.cuda.memory_reserved() - reserved)
    torch.cuda.synchronize()
    of_torch = torch.cuda.max_memory_allocated() - own
    del result
    return of_torch, ours


@pytest.mark.parametrize("bundles", [0, 1, 1000])
def test_sixty_four_bytes_a_row(bundles: int) -> None:
    acts = torch.randint(0, 2**31, (bundles or NUM_ROWS, 8), dtype=torch.int32, device="cuda")
    if bundles:
        acts = acts[torch.arange(NUM_ROWS, device="cuda") % bundles]
    labels = torch.arange(NUM_ROWS, device="cuda") % 10
    cb.bundle_rows(acts[:100]), cb.bundle_entropy(acts[:100], labels[:100])
    for run in (lambda: cb.bundle_rows(acts), lambda: cb.bundle_entropy(acts, labels)):
        of_torch, ours = taken_beside_torch(run)
        assert of_torch <= 8 * NUM_ROWS + (1 << 20), "beside the ids that are returned"
        assert ours <= 64 * NUM_ROWS + GRANULE, f"{ours / NUM_ROWS:.1f} bytes a row"


def test_twenty_four_bytes_a_row_in_a_stream() -> None:
    metric, batch = cb.BundleEntropy(), random_rows(50_000, 16).cuda()
    labels = labels_of(50_000).cuda()
    metric.update(batch, labels)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(60):
        metric.update(batch, labels)
    grown = torch.cuda.memory_allocated() - before
    assert grown <= 24 * 60 * 50_000 * 1.5 + (1 << 20), f"{grown / 3e6:.1f} bytes a row, a third of them unused at most"
    assert metric.compute().num_rows == 61 * 50_000


def test_nothing_is_left_behind() -> None:
    acts, labels = random_rows(20_000, 50).cuda(), labels_of(20_000).cuda()

    def everything() -> None:
        cb.bundle_rows(acts)
        cb.bundle_rows(acts, tolerance=(0.0, 1e-3)) if len(acts) < 1000 else None
        cb.bundle_entropy(acts, labels)
        cb.bundle_entropy_layers({"a": acts, "b": acts[:, :7]}, labels)
        metric = cb.BundleEntropy()
        metric.update(acts, labels)
        metric.compute()

    everything()
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0]
    allocated = torch.cuda.memory_allocated()
    for _ in range(200):
        everything()
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() <= allocated
    assert free - torch.cuda.mem_get_info()[0] <= GRANULE


def test_memory_that_torch_holds_in_reserve_is_used() -> None:
    """Less is free than the call needs, but torch's allocator keeps plenty in which there is no tensor."""
    acts = torch.arange(NUM_ROWS, device="cuda", dtype=torch.int32)[:, None]
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0]
    reserve = torch.empty(free - 32 * NUM_ROWS, dtype=torch.uint8, device="cuda")
    del reserve
    assert torch.cuda.mem_get_info()[0] < 48 * NUM_ROWS, "the reserve is held"
    assert torch.equal(cb.bundle_rows(acts), torch.arange(NUM_ROWS, device="cuda"))

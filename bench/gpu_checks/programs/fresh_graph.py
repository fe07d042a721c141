"""A call captured in a CUDA graph as the first thing that a process does, without a warm-up, and replayed.

``python fresh_graph.py bundle_rows``; in a rehearsal the call itself takes the graph's place.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import doors  # type: ignore[import-not-found]
import torch

import cbkernels as cb
from cbkernels import backends, torch_operators
from cbkernels.arrays import as_labels, as_rows


def rows_of_few_bundles(n: int, d: int, bundles: int) -> Any:
    generator = torch.Generator().manual_seed(n + bundles)
    return torch.randn(bundles, d, generator=generator)[torch.arange(n) * 11 % bundles]


def fingerprints(x: Any) -> Any:
    return torch_operators.row_fingerprints(x)[0]


def updated(x: Any) -> Any:
    metric = cb.BundleEntropy()
    metric.update(x, torch.zeros(len(x), dtype=torch.int64, device=x.device))
    return metric


def counts_queued(x: Any) -> Callable[[], Any]:
    view = as_rows(x)
    read = backends.choose("auto", view).queue_layers([view, view], labels_for(x, view), None, True)
    return lambda: [c.num_bundles for c in read()]


def margin_queued(x: Any) -> Callable[[], float]:
    view = as_rows(x)
    return backends.choose("auto", view).queue_margin(view, labels_for(x, view))


def labels_for(x: Any, view: Any) -> Any:
    return as_labels(torch.arange(len(x), device=x.device) % 3, view)


CALLS: dict[str, tuple[Callable[[Any], Any], int]] = {
    "bundle_rows": (cb.bundle_rows, 700),
    "bundle_rows of many rows": (cb.bundle_rows, 20_000),
    "row_fingerprints": (fingerprints, 700),
    "update": (updated, 700),
    "counts queued": (counts_queued, 700),
    "margin queued": (margin_queued, 700),
}


def main() -> None:
    run, n = CALLS[sys.argv[1]]
    device = "cpu" if doors.IS_REHEARSAL else "cuda"
    acts = torch.zeros(n, 33, device=device)
    if doors.IS_REHEARSAL:
        found, replay = None, lambda: run(acts)
    else:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = run(acts)
        replay = graph.replay
    for bundles in (1, 5, n):
        new = rows_of_few_bundles(n, 33, bundles)
        acts.copy_(new)
        result = replay()
        result = found if found is not None else result
        if sys.argv[1] == "update":
            assert result.compute().num_bundles == bundles, (result.compute(), bundles)
        elif callable(result):
            assert result() == run(new)(), f"the graph's numbers differ with {bundles} bundles"
        else:
            assert result.cpu().tolist() == run(new).tolist(), f"the graph's answer differs with {bundles} bundles"
    print(f"fresh graph of {sys.argv[1]}: as on the CPU", flush=True)


if __name__ == "__main__":
    main()

"""Peak memory of each rank, in bytes beyond what the process had, for 1, 2 and 3 ranks that share the same rows.

    torchrun --standalone --nproc-per-node 3 tests/distributed/memory_of_a_rank.py 600000 out.json

"in parts" is one rank whose rows travel in twelve exchanges. The peak is the kernel's high-water
mark (VmHWM), so everything counts: NumPy, C++, torch and gloo.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

import cbkernels as cb
from cbkernels import tallies
from cbkernels.distributed import compute_across_ranks


def status(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise AssertionError(name)


def metric_of(kind: str, begin: int, end: int) -> cb.BundleEntropy:
    """Rows ``begin`` to ``end``, made and forgotten batch by batch."""
    metric = cb.BundleEntropy()
    for first in range(begin, end, 10_000):
        acts = np.arange(first, min(first + 10_000, end), dtype=np.float64)[:, None]
        metric.update(acts * (kind == "distinct"), acts[:, 0].astype(np.int64) % 10)
    return metric


def peaks(kind: str, num_rows: int, index: int, count: int, group: Any) -> tuple[int, int]:
    """Of the stream itself, and of stream and computation together."""
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark starts again here
    metric = metric_of(kind, num_rows * index // count, num_rows * (index + 1) // count)
    streamed = status("VmHWM") - before
    result = compute_across_ranks({"layer": metric}, group)["layer"]
    assert result.num_rows == num_rows
    assert result.num_bundles == (num_rows if kind == "distinct" else 1)
    return streamed, status("VmHWM") - before


def main() -> None:
    num_rows, out = int(sys.argv[1]), Path(sys.argv[2])
    dist.init_process_group("gloo", timeout=timedelta(seconds=40))
    rank = dist.get_rank()
    groups = [dist.new_group(list(range(count))) for count in (1, 2, 3)]
    for group in groups[rank:]:  # whatever is loaded or allocated once
        peaks("distinct", 1000, rank, dist.get_world_size(group), group)
    found = {}
    for kind in ("distinct", "equal"):
        for count in (1, 2, 3):
            measured = peaks(kind, num_rows, rank, count, groups[count - 1]) if rank < count else (0, 0)
            everywhere: list[Any] = [None] * 3
            dist.all_gather_object(everywhere, measured)
            found[f"{kind} {count}"] = everywhere[:count]
    if rank == 0:
        tallies.ROWS_AT_ONCE = num_rows // 12
        found["in parts 1"] = [peaks("distinct", num_rows, 0, 1, groups[0])]
        out.write_text(json.dumps(found), encoding="ascii")
        print(json.dumps(found, indent=1), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

"""Every rank compares what all ranks found together with what it finds alone in all rows.

    torchrun --standalone --nproc-per-node 3 tests/distributed/same_as_one_process.py 60

Prints a line for each rank; any difference, and any rank that raises alone, ends with an error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from sharded import GRIDS, Job, metrics_of, of_one_process, plain, random_job

import cbkernels as cb
from cbkernels import tallies
from cbkernels.distributed import compute_across_ranks


def raised(call: Callable[[], Any]) -> str:
    try:
        call()
    except ValueError as error:
        return str(error)
    raise AssertionError("nothing was raised")


def compare(job: Job, rank: int, group: Any = None, **options: Any) -> int:
    metrics = metrics_of(job, rank, **options)
    before = {name: metric.state_dict() for name, metric in metrics.items()}
    found = {name: plain(result) for name, result in compute_across_ranks(metrics, group).items()}
    expected = of_one_process(job)
    assert found == expected, (found, expected)
    assert list(found) == list(expected)
    for name, state in before.items():
        for key, value in metrics[name].state_dict().items():
            assert np.array_equal(value, state[key]), f"computing changed {key} of {name}"
    return len(found)


def shards_of_300_212_and_0(rank: int) -> int:
    """The issue's case: all grids, all types, NaN, one layer alone through ``compute``."""
    rng = np.random.default_rng(4)
    acts = rng.normal(size=(40, 16)).astype(np.float32)[rng.integers(40, size=512)]
    labels, cuts, count = rng.integers(-3, 4, 512), [300, 512], 0
    broken = acts.copy()
    broken[[3, 299, 300, 511], [0, 15, 7, 1]] = np.nan
    halved = {str(t): torch.from_numpy(acts).to(t) for t in (torch.bfloat16, torch.float16, torch.float8_e4m3fn)}
    for grid in GRIDS:
        for log_epsilon in (None, 1e-5):
            layers = {"plain": acts, "nan": broken, "wide": acts.repeat(9, axis=1), "flat": acts[:, :0], **halved}
            job = Job(layers, labels, cuts, grid, log_epsilon)
            count += compare(job, rank) + compare(job, rank, leave_out_empty=True)
    job = Job({"plain": acts}, labels, cuts, None, None)
    metric = metrics_of(job, rank)["plain"]
    assert metric.num_rows == (300, 212, 0)[rank]
    for group in ("world", dist.group.WORLD):
        assert plain(metric.compute(group)) == of_one_process(job)["plain"]
    if rank == 0:  # without a group nobody else takes part
        assert metric.compute().num_rows == 300
    return count


def part_of_the_ranks(rank: int) -> int:
    """Ranks 2 and 0 as a group of two."""
    group = dist.new_group([0, 2])
    if rank == 1:
        sentence = raised(lambda: compute_across_ranks({}, group))
        assert sentence == "rank 1 is no member of the process group; only its members may call", sentence
        return 0
    return sum(compare(random_job(seed, 2), rank // 2, group) for seed in range(5))


def failures(rank: int) -> None:
    """One rank fails, in each way; all say the same and nobody waits."""
    job = random_job(1, 3)._replace(cuts=[1, 1])

    def sentence_of_all(call: Callable[[], Any], expected: str) -> None:
        everywhere: list[Any] = [None] * 3
        dist.all_gather_object(everywhere, raised(call))
        assert everywhere == [expected] * 3, everywhere

    def out_of_memory(*_: Any) -> Any:
        raise MemoryError("no room")

    metrics = metrics_of(job, rank)
    why = "the forward pass raised RuntimeError('boom')"
    sentence_of_all(lambda: compute_across_ranks(metrics, error=why if rank == 2 else None), f"rank 2 failed: {why}")
    for stage in ("tallies_by_rank", "counts_of"):
        kept = getattr(tallies, stage)
        if rank == 1:
            setattr(tallies, stage, out_of_memory)
        sentence_of_all(lambda: compute_across_ranks(metrics), "rank 1 failed: MemoryError: no room")
        setattr(tallies, stage, kept)
    wrong = cb.BundleEntropy()
    wrong.update(np.zeros((2, 3), np.float32 if rank else np.float64), [0, 1])
    sentence_of_all(lambda: wrong.compute("world"), "rank 1 has dtype float32 and rank 0 float64; they must agree")
    sentence_of_all(lambda: cb.BundleEntropy().compute("world"),
                    "no rank has rows yet: call update() on at least one before computing")  # fmt: skip
    assert compare(job, rank), "and after all that the ranks are still in step"


def main() -> None:
    sentence = raised(lambda: cb.BundleEntropy().compute("world"))
    assert "before torch.distributed.init_process_group(); call that first" in sentence, sentence
    dist.init_process_group("gloo", timeout=timedelta(seconds=40))
    rank = dist.get_rank()
    count = shards_of_300_212_and_0(rank) + part_of_the_ranks(rank)
    failures(rank)
    for seed in range(int(sys.argv[1])):
        tallies.ROWS_AT_ONCE = (13, 150, 1 << 22)[seed % 3]
        count += compare(random_job(seed, 3), rank, leave_out_empty=bool(seed % 2))
    print(f"rank {rank} of {dist.get_world_size()}: {count} results are those of one process", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

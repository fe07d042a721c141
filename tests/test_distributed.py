"""Any number of ranks give the result of one process, bit for bit; none holds all rows; a failure stops all.

Ranks are threads here, and real processes where torch is installed.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cbkernels as cb
from cbkernels import BundleEntropy, entropy, tallies
from cbkernels.row_store import RowStore

from .distributed import SCRIPTS, on_forked_ranks, torchrun
from .distributed.sharded import metrics_of, of_one_process, plain, random_job

pytestmark = pytest.mark.xdist_group("ranks")
GRID = cb.UpdateGrid(1e-3, 50, 0.7)


def need_torch() -> Any:
    return pytest.importorskip("torch", reason="torch.distributed: NOT TESTED HERE (torch is not installed)")


class Meeting:
    """Where the threads of one test meet; counts what they do, and breaks when one stays away."""

    def __init__(self, count: int) -> None:
        self.barrier = threading.Barrier(count, timeout=20)
        self.count = count
        self.left_here: list[Any] = [None] * count
        self.gathered = [0] * count
        self.sent: list[list[int]] = [[] for _ in range(count)]
        self.received: list[list[int]] = [[] for _ in range(count)]


class Thread:
    """One rank of a meeting."""

    def __init__(self, meeting: Meeting, index: int) -> None:
        self.meeting, self.index, self.count = meeting, index, meeting.count

    def _from_everybody(self, mine: Any) -> list[Any]:
        self.meeting.left_here[self.index] = mine
        self.meeting.barrier.wait()
        everything = list(self.meeting.left_here)
        self.meeting.barrier.wait()
        return everything

    def gather(self, answer: object) -> list[Any]:
        self.meeting.gathered[self.index] += 1
        return [pickle.loads(p) for p in self._from_everybody(pickle.dumps(answer))]

    def exchange(self, tallies: Any, outgoing: list[int], incoming: list[int]) -> Any:
        assert (tallies.dtype, tallies.shape) == (np.int64, (sum(outgoing), 4))
        assert tallies.flags.c_contiguous
        pieces = np.split(tallies, np.cumsum(outgoing)[:-1])
        arriving = [of_rank[self.index] for of_rank in self._from_everybody(pieces)]
        assert [len(p) for p in arriving] == incoming
        self.meeting.sent[self.index].append(sum(outgoing))
        self.meeting.received[self.index].append(sum(incoming))
        return np.concatenate(arriving)


def on_ranks(count: int, call: Callable[[Thread], Any], meeting: Meeting | None = None) -> list[Any]:
    """What the call returns on every rank, or the error it raises."""
    meeting = meeting or Meeting(count)

    def on_rank(index: int) -> Any:
        try:
            return call(Thread(meeting, index))
        except Exception as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(on_rank, range(count)))


def sentences(count: int, metrics: Callable[[int], Any], error: Callable[[int], str | None] = lambda _: None) -> str:
    """The one sentence that all ranks raise as a ValueError."""
    raised = on_ranks(count, lambda r: tallies.compute(metrics(r.index), r, error(r.index)))
    assert {type(e) for e in raised} == {ValueError}, raised
    (said,) = {str(e) for e in raised}
    return said


def stream(acts: Any, labels: Any, **options: Any) -> BundleEntropy:
    metric = BundleEntropy(**options)
    metric.update(acts, labels)
    return metric


# --- the result of one process ----------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), num_ranks=st.integers(1, 9), at_once=st.sampled_from([1, 7, 100, 1 << 22]),
    leave_out=st.booleans(),
)  # fmt: skip
def test_any_split_over_any_number_of_ranks(seed: int, num_ranks: int, at_once: int, leave_out: bool) -> None:
    job = random_job(seed, num_ranks)
    if at_once == 1 and len(job.labels) > 20:
        at_once = 7
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tallies, "ROWS_AT_ONCE", at_once)
        found = on_ranks(
            num_ranks, lambda r: tallies.compute(metrics_of(job, r.index, leave_out_empty=leave_out), r, None)
        )
    expected = of_one_process(job)
    for of_rank in found:
        assert {name: plain(result) for name, result in of_rank.items()} == expected
        assert list(of_rank) == list(expected)


def test_states_of_several_ranks_merged_in_one_process() -> None:
    for seed in range(20):
        job = random_job(seed, 4)
        expected = of_one_process(job)
        states = [{name: metric.state_dict() for name, metric in metrics_of(job, rank).items()} for rank in range(4)]
        for name in job.layers:
            total = BundleEntropy(grid=job.grid, log_epsilon=job.log_epsilon)
            for state in states:
                part = BundleEntropy(grid=job.grid)
                part.load_state_dict(state[name])
                total.merge(part)
            assert plain(total.compute()) == expected[name]


def test_ranks_without_any_layer_at_all() -> None:
    assert on_ranks(3, lambda r: tallies.compute({}, r, None)) == [{}, {}, {}]


def test_layers_come_in_the_order_of_the_lowest_rank_that_has_any() -> None:
    acts, labels = np.zeros((4, 2)), np.array([0, 0, 1, 1])
    metrics = [{}, {"b": stream(acts, labels), "a": BundleEntropy()}, {"a": stream(acts, labels), "b": BundleEntropy()}]
    for found in on_ranks(3, lambda r: tallies.compute(metrics[r.index], r, None)):
        assert list(found) == ["b", "a"]
        assert [r.num_rows for r in found.values()] == [4, 4]
    assert metrics[1]["a"].num_rows == 0


def test_type_device_and_backend_are_those_of_the_lowest_rank_with_rows() -> None:
    empty, first, second = BundleEntropy(), *(stream(np.ones((2, 5), np.float16), [0, 1]) for _ in range(2))
    first.held.device, first.held.backend, second.held.device = "cuda:3", "cuda", "cuda:0"
    metrics = [empty, first, second]
    for found in on_ranks(3, lambda r: tallies.compute({"x": metrics[r.index]}, r, None)):
        assert (found["x"].device, found["x"].backend) == ("cuda:3", "cuda")
        assert (found["x"].dtype, found["x"].num_columns) == ("float16", 5)


# --- what travels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_layers", [1, 40])
def test_number_of_exchanges_does_not_depend_on_the_number_of_layers(num_layers: int) -> None:
    meeting = Meeting(3)
    labels = np.arange(50) % 3
    metrics = {f"layer{i}": stream(np.full((50, 2), float(i)), labels) for i in range(num_layers)}
    found = on_ranks(3, lambda r: tallies.compute(metrics, r, None), meeting)
    assert len(found[0]) == num_layers
    assert meeting.gathered == [3, 3, 3], "who has what, who sends how much, what was found"
    assert [len(sent) for sent in meeting.sent] == [1, 1, 1]


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
def test_no_rank_gets_all_rows(num_ranks: int) -> None:
    """Different rows are shared out evenly; equal ones are added up before they travel."""
    rows = 12_000 // num_ranks
    structured = np.arange(12_000, dtype=np.float32)[:, None]
    for acts, most_sent, most_received in (
        (structured, rows, 1.15 * rows), (np.zeros((12_000, 1), np.float32), 10, 10 * num_ranks),
    ):  # fmt: skip
        meeting = Meeting(num_ranks)
        shards = [stream(a, np.arange(len(a)) % 10) for a in np.split(acts, num_ranks)]
        on_ranks(num_ranks, lambda r, shards=shards: tallies.compute({"x": shards[r.index]}, r, None), meeting)
        assert max(map(max, meeting.sent)) <= most_sent
        assert max(map(max, meeting.received)) <= most_received


@settings(max_examples=200, deadline=None)
@given(
    rows=st.dictionaries(st.text(max_size=3), st.integers(1, 500), max_size=12), at_once=st.integers(1, 200)
)  # fmt: skip
def test_steps_hold_every_part_once_and_not_too_much(rows: dict[str, int], at_once: int) -> None:
    steps = list(tallies.steps_of(rows, at_once))
    parts = [part for step in steps for part in step]
    for layer, num_rows in rows.items():
        mine = [part for part in parts if part.layer == layer]
        num_shares = math.ceil(num_rows / at_once)
        assert mine == [(layer, share, num_shares) for share in range(num_shares)]
    for step in steps:
        assert step
        assert sum(rows[p.layer] / p.num_shares for p in step) <= at_once
    assert len(parts) == sum(math.ceil(n / at_once) for n in rows.values())


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6), num_ranks=st.integers(1, 300), num_shares=st.integers(1, 40))
def test_shares_and_owners_are_a_partition(seed: int, num_ranks: int, num_shares: int) -> None:
    rng = np.random.default_rng(seed)
    fingerprints = rng.integers(0, 2**64, (300, 2), np.uint64, endpoint=False)[rng.integers(300, size=700)]
    fingerprints[:4, 0] = [0, 2**64 - 1, 2**63, 2**63 - 1]
    labels = rng.integers(-2, 2, 700)
    store = RowStore().with_rows(fingerprints, labels)
    owner_of: dict[tuple[int, int], tuple[int, int]] = {}
    seen: dict[tuple[int, int, int], int] = {}
    for share in range(num_shares):
        for owner, sent in enumerate(tallies.tallies_by_rank(store, num_ranks, share, num_shares)):
            for first, second, label, count in sent.tolist():
                assert owner_of.setdefault((first, second), (owner, share)) == (owner, share)
                seen[first, second, label] = seen.get((first, second, label), 0) + count
    expected: dict[tuple[int, int, int], int] = {}
    for (first, second), label in zip(fingerprints.view(np.int64).tolist(), labels.tolist(), strict=True):
        expected[first, second, label] = expected.get((first, second, label), 0) + 1
    assert seen == expected


# --- counting and adding ----------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(-2, 2), st.integers(-1, 1), st.sampled_from([-(2**63), 0, 2**63 - 1]),
                          st.integers(1, 2**40)), max_size=40))  # fmt: skip
def test_tallies_are_added_up_and_counted(rows: list[tuple[int, int, int, int]]) -> None:
    sums: dict[tuple[int, int, int], int] = {}
    bundles: dict[tuple[int, int], dict[int, int]] = {}
    for first, second, label, count in rows:
        sums[first, second, label] = sums.get((first, second, label), 0) + count
        bundle = bundles.setdefault((first, second), {})
        bundle[label] = bundle.get(label, 0) + count
    added = tallies.added_up(np.array(rows, np.int64).reshape(-1, 4))
    assert {(a, b, c): n for a, b, c, n in added.tolist()} == sums
    assert len(added) == len(sums)
    counts = tallies.counts_of(added)
    conflicting = sorted(sorted(of.values()) for of in bundles.values() if len(of) > 1)
    starts = counts.starts.tolist()
    assert starts[0] == 0
    assert sorted(counts.label_counts[a:b].tolist() for a, b in itertools.pairwise(starts)) == conflicting
    assert (counts.num_bundles, counts.num_conflicting) == (len(bundles), len(conflicting))
    assert counts.num_conflicting_rows == sum(map(sum, conflicting))
    assert counts.num_rows == sum(sums.values())


@settings(max_examples=300, deadline=None)
@given(st.lists(st.floats(0, 1e300, allow_subnormal=True), max_size=30))
def test_parts_add_up_without_rounding(terms: list[float]) -> None:
    parts = entropy._added_exactly(list(terms))
    assert sum(map(Fraction, parts)) == sum(map(Fraction, terms))
    assert all(parts)
    assert math.fsum(parts) == math.fsum(terms)
    assert all(abs(a) > abs(b) for a, b in itertools.pairwise(parts))


def random_counts(rng: np.random.Generator, num_bundles: int) -> entropy.BundleCounts:
    of_bundles = [np.sort(rng.integers(1, 10 ** rng.integers(1, 8), rng.integers(2, 40))) for _ in range(num_bundles)]
    label_counts = np.concatenate(of_bundles)
    starts = np.concatenate([[0], np.cumsum([len(c) for c in of_bundles])])
    rows = int(label_counts.sum())
    return entropy.BundleCounts(rows, num_bundles, 0, num_bundles, rows, label_counts, starts)


def part_of(counts: entropy.BundleCounts, chosen: Any) -> entropy.BundleCounts:
    """Some of the bundles, in this order."""
    of_bundles = np.split(counts.label_counts, counts.starts[1:-1])
    kept = [of_bundles[i] for i in chosen]
    label_counts = np.concatenate([np.empty(0, np.int64), *kept])
    starts = np.concatenate([[0], np.cumsum([len(c) for c in kept])]).astype(np.int64)
    rows = int(label_counts.sum())
    return entropy.BundleCounts(rows, len(kept), 0, len(kept), rows, label_counts, starts)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6), num_parts=st.integers(1, 7), log_epsilon=st.sampled_from([None, 1e-5, 0.0, 3.0]))
def test_entropy_does_not_depend_on_who_adds_up_which_bundles(
    seed: int, num_parts: int, log_epsilon: float | None
) -> None:
    rng = np.random.default_rng(seed)
    counts = random_counts(rng, 200)
    owners = rng.integers(0, num_parts, 200)
    parts: list[float] = []
    for owner in range(num_parts):
        mine = entropy.exact_parts(part_of(counts, rng.permutation(np.flatnonzero(owners == owner))), log_epsilon)
        assert len(mine) <= 4
        parts += mine
    together = entropy.entropy_of_parts(rng.permutation(parts).tolist(), counts.num_rows, 0)
    assert together.hex() == entropy.entropy_of_counts(counts, log_epsilon).hex()


def test_bundles_in_many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = random_counts(np.random.default_rng(0), 500)
    whole = entropy.entropy_of_counts(counts)
    assert whole > 0
    monkeypatch.setattr(entropy, "_BUNDLES_AT_ONCE", 7)
    assert entropy.entropy_of_counts(counts) == whole
    assert entropy.entropy_of_parts(entropy.exact_parts(counts), counts.num_rows, 0) == whole
    assert math.isnan(entropy.entropy_of_parts([1.0], 10, 1))


# --- failures ---------------------------------------------------------------------------------------------


def test_a_rank_that_failed_before() -> None:
    said = sentences(3, lambda _: {"x": stream(np.ones((2, 2)), [0, 1])}, ["", None, "no\n  images"].__getitem__)
    assert said == "rank 0 failed: ValueError", "an empty reason is one, too"
    said = sentences(3, lambda _: {}, [None, None, "the folder\n  has no images"].__getitem__)
    assert said == "rank 2 failed: the folder has no images"


@pytest.mark.parametrize(
    ("stage", "call"),
    [("_offer", 1), ("tallies_by_rank", 1), ("tallies_by_rank", 3), ("counts_of", 1), ("counts_of", 3)],
)
def test_a_rank_that_fails_on_the_way(stage: str, call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps of one part each; the reason and the traceback stay with the rank that failed."""
    original, calls = getattr(tallies, stage), threading.local()
    monkeypatch.setattr(tallies, "ROWS_AT_ONCE", 10)

    def failing(*args: Any) -> Any:
        calls.count = getattr(calls, "count", 0) + 1
        if getattr(calls, "rank", None) == 1 and calls.count == call:
            raise MemoryError(f"{stage} {call}")
        return original(*args)

    def compute(rank: Thread) -> Any:
        calls.rank = rank.index
        return tallies.compute({"x": stream(np.arange(30.0)[:, None], np.arange(30))}, rank, None)

    monkeypatch.setattr(tallies, stage, failing)
    raised = on_ranks(3, compute)
    assert [str(e) for e in raised] == [f"rank 1 failed: MemoryError: {stage} {call}"] * 3
    assert [type(e.__cause__) for e in raised] == [type(None), MemoryError, type(None)]


ROWS = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ([{"a": stream(ROWS, [0, 1])}, {}, {"a": stream(ROWS.astype(float), [0, 1])}],
         "rank 2 has dtype float64 and rank 0 float32 in layer 'a'; they must agree"),
        ([{"a": BundleEntropy()}, {"a": stream(ROWS, [0, 1])}, {"a": stream(ROWS[:, :2], [0, 1])}],
         "rank 2 has num_columns 2 and rank 1 3 in layer 'a'; they must agree"),
        ([{"": BundleEntropy(grid=GRID)}, {"": stream(ROWS, [0, 1])}, {"": stream(ROWS, [0, 1])}],
         f"rank 1 has grid None and rank 0 {GRID}; they must agree"),
        ([{"a": stream(ROWS, [0, 1])}, {"a": stream(ROWS, [0, 1], log_epsilon=1e-5)}, {}],
         "rank 1 has log_epsilon 1e-05 and rank 0 None in layer 'a'; they must agree"),
        ([{}, {"a": stream(ROWS, [0, 1]), "c": BundleEntropy()}, {"a": stream(ROWS, [0, 1]), "b": BundleEntropy()}],
         "rank 2 and rank 1 differ in layers ['b', 'c']; all ranks must measure the same ones"),
        ([{"a": BundleEntropy()}, {"a": BundleEntropy()}, {}],
         "no rank has rows in layer 'a' yet: call update() on at least one before computing"),
        ([{"": BundleEntropy()}, {"": BundleEntropy()}, {}],
         "no rank has rows yet: call update() on at least one before computing"),
        ([{}, {"a": "metric"}, {}], "rank 1 failed: metrics['a'] is a str; pass a BundleEntropy"),
        ([{}, {}, [1]], "rank 2 failed: metrics is a list; pass a dict of name -> BundleEntropy"),
    ],
)  # fmt: skip
def test_ranks_that_disagree(metrics: list[Any], message: str) -> None:
    assert sentences(3, metrics.__getitem__) == message


def test_ranks_of_two_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    original = tallies._offer

    def offer(metrics: Any, error: Any) -> Any:
        return original(metrics, error)._replace(version="0.0.9" if metrics else "0.1.0")

    monkeypatch.setattr(tallies, "_offer", offer)
    said = sentences(2, [{}, {"a": stream(ROWS, [0, 1])}].__getitem__)
    assert said == "rank 1 runs cbkernels 0.0.9 and rank 0 0.1.0; install one version"


# --- processes --------------------------------------------------------------------------------------------


def on_three(script: Path, *arguments: str) -> str:
    """What three processes print; ranks that hang fail the test."""
    need_torch()
    done = on_forked_ranks(3, script, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_three_processes_give_the_result_of_one() -> None:
    out = on_three(SCRIPTS / "same_as_one_process.py", "30")
    said = dict(re.findall(r"rank (\d) of 3: (\d+) results are those of one process", out))
    assert set(said) == {"0", "1", "2"}, out
    assert min(map(int, said.values())) > 200


def test_three_processes_monitor_a_model_as_one_does() -> None:
    need_torch()
    out = on_three(SCRIPTS / "monitored.py", str(Path(__file__).parent / "model_zoo.py"))
    assert sorted(re.findall(r"rank (\d): the same", out)) == ["0", "1", "2"], out  # their lines may run together


def test_a_rank_that_hangs_or_dies_is_one_sentence_for_the_others() -> None:
    """It was what gloo says, with the place in its source; after as long as the group waits, or at once."""
    need_torch()
    done = on_forked_ranks(2, SCRIPTS / "lost_ranks.py", seconds=100)
    said = "rank 0 lost the other ranks; see what the first that ended says"
    assert done.stdout.splitlines() == [f"{said}, or which one hangs.", f"{said}."], done


def test_example_of_the_documentation(tmp_path: Path) -> None:
    page = SCRIPTS.parent.parent / "docs" / "distributed.md"
    if not page.is_file():
        pytest.skip("docs/distributed.md: NOT TESTED HERE (no source tree around tests/)")
    code, shown = re.findall(r"```(?:python|text)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)[:2]
    (tmp_path / "shards.py").write_text(code, encoding="utf-8")
    assert on_three(tmp_path / "shards.py") == shown


MIB = 1 << 20


@pytest.mark.slow
def test_memory_of_a_rank_falls_with_the_number_of_ranks(tmp_path: Path) -> None:
    if "CBKERNELS_SANITIZER" in os.environ or not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("memory of ranks: NOT TESTED HERE (a sanitizer, or no /proc/self/clear_refs)")
    need_torch()
    num_rows = 1_200_000
    done = torchrun(3, str(SCRIPTS / "memory_of_a_rank.py"), str(num_rows), str(tmp_path / "peaks.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    peaks = json.loads((tmp_path / "peaks.json").read_text(encoding="ascii"))
    for count in (1, 2, 3):
        share = num_rows / count
        for streamed, whole in peaks[f"distinct {count}"]:
            assert 24 * share < whole <= 160 * share + 4 * MIB, f"{whole / share:.0f} bytes a row of this rank"
            assert streamed <= 36 * share + 4 * MIB
        for streamed, whole in peaks[f"equal {count}"]:
            assert whole <= 36 * share + 8 * MIB
            assert whole - streamed <= 8 * MIB, "equal rows are one tally for each label"
    streamed, whole = peaks["in parts 1"][0]
    assert whole - streamed <= 160 * num_rows / 12 + 8 * MIB, "what comes on top is that of one exchange"
    alone = peaks["distinct 1"][0][1]
    for count in (2, 3):
        assert max(whole for _, whole in peaks[f"distinct {count}"]) <= 1.15 * alone / count + 4 * MIB


# --- without ranks ----------------------------------------------------------------------------------------


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "cbkernels.distributed", raising=False)  # as in a process that never had torch
    metric = stream(ROWS, [0, 1])
    with pytest.raises(ImportError, match="computing across ranks needs torch: pip install torch"):
        metric.compute("world")
    assert metric.compute().num_rows == 2


def test_what_is_no_group() -> None:
    dist = need_torch().distributed
    metric = stream(ROWS, [0, 1])
    with pytest.raises(ValueError, match=r"process_group is 'world' before torch.distributed.init_process_group\(\)"):
        metric.compute("world")
    with pytest.raises(ValueError, match="process_group is 'earth'; pass None, 'world' or a group"):
        metric.compute("earth")  # type: ignore[arg-type]
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(TypeError, match="process_group is a int; pass None, 'world' or a ProcessGroup"):
            metric.compute(3)  # type: ignore[arg-type]
        assert plain(metric.compute("world")) == plain(metric.compute(dist.group.WORLD)) == plain(metric.compute())
    finally:
        dist.destroy_process_group()


def test_importing_needs_no_torch() -> None:
    assert importlib.util.find_spec("cbkernels.distributed") is not None
    code = "import sys, cbkernels; assert not {'torch', 'cbkernels.distributed'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

"""The torchmetrics metric: the manners of a ``Metric``, the numbers of ``cbkernels.BundleEntropy``, many ranks.

Started as a script it is one rank: ``python tests/integrations/test_torchmetrics.py RANK COUNT RENDEZVOUS``.
"""

from __future__ import annotations

import copy
import io
import math
import os
import pickle
import tracemalloc
import warnings
import weakref
from typing import Any

import numpy as np
import pytest

import cbkernels as cb

torch = pytest.importorskip("torch", reason="torchmetrics: NOT TESTED HERE (needs torch)")
torchmetrics = pytest.importorskip("torchmetrics", reason="torchmetrics: NOT TESTED HERE (needs torchmetrics)")

from cbkernels.integrations.torchmetrics import BundleEntropy  # noqa: E402

COARSE = cb.UpdateGrid(learning_rate=1e-3, batch_size=64, weight_amplitude=1.5)
FINE = cb.UpdateGrid(learning_rate=1e-3, batch_size=64, weight_amplitude=0.7)


def rows(seed: int, count: int = 40) -> tuple[Any, Any]:
    """Rows that lie close together: what is equal depends on the grid."""
    generator = torch.Generator().manual_seed(seed)
    acts = torch.randn(count, 3, generator=generator) * 5e-3
    acts[::7] = acts[0].clone()
    return acts, torch.randint(0, 4, (count,), generator=generator)


def one_shot(batches: list[tuple[Any, Any]], **options: Any) -> cb.BundleResult:
    return cb.bundle_entropy(torch.cat([a for a, _ in batches]), torch.cat([y for _, y in batches]), **options)


def counts(result: cb.BundleResult) -> tuple[Any, ...]:
    return result.entropy, result.num_bundles, result.num_conflicting, result.num_nan_rows, result.num_rows


BATCHES = [rows(seed, count) for seed, count in enumerate((40, 7, 1, 64))]


def fed(metric: Any, batches: list[tuple[Any, Any]] = BATCHES) -> Any:
    for acts, labels in batches:
        metric.update(acts, labels)
    return metric


# --- the numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"grid": COARSE}, {"grid": FINE}, {"grid": COARSE, "log_epsilon": 1e-5}])
def test_many_batches_give_what_one_call_gives(options: dict[str, Any]) -> None:
    metric = fed(BundleEntropy(**options))
    expected = one_shot(BATCHES, **options)
    value = metric.compute()
    assert (value.dtype, value.shape) == (torch.float64, ())
    assert value.item() == expected.entropy
    assert counts(metric.compute_result()) == counts(expected)
    assert metric.compute_result().grid == options.get("grid")
    assert metric.num_rows == 112


def test_the_options_change_the_numbers_of_these_rows() -> None:
    """Without this the test above could not tell one option from another."""
    options = [{}, {"grid": COARSE}, {"grid": FINE}, {"grid": COARSE, "log_epsilon": 1e-5}]
    assert len({one_shot(BATCHES, **o).entropy for o in options}) == 4


def test_nan_rows_make_the_value_nan() -> None:
    metric = BundleEntropy()
    metric.update(torch.tensor([[1.0], [math.nan]]), torch.tensor([0, 1]))
    assert math.isnan(metric.compute().item())
    assert metric.compute_result().num_nan_rows == 1


def test_activations_with_a_gradient_are_taken_and_not_kept() -> None:
    acts = torch.zeros(4, 3, requires_grad=True) * 2
    metric = BundleEntropy()
    metric.update(acts, torch.tensor([0, 0, 1, 1]))
    assert not metric.compute().requires_grad
    forgotten = weakref.ref(acts)
    del acts
    assert forgotten() is None


@pytest.mark.parametrize(
    ("acts", "labels", "words"),
    [
        (torch.zeros(2, 5), torch.tensor([0, 1]), "acts has 5 values per row after batches of 3"),
        (torch.zeros(2, 3).double(), torch.tensor([0, 1]), "acts has dtype float64 after batches of float32"),
        (torch.zeros(2, 3), torch.tensor([0.0, 1.0]), "float"),
    ],
)
@pytest.mark.parametrize("call", ["update", "forward"])
def test_a_bad_batch_is_refused_and_nothing_is_lost(call: str, acts: Any, labels: Any, words: str) -> None:
    metric = fed(BundleEntropy())
    with pytest.raises((TypeError, ValueError), match=words):
        getattr(metric, call)(acts, labels)
    assert counts(metric.compute_result()) == counts(one_shot(BATCHES))


# --- the manners of a Metric ------------------------------------------------------------------------------


def test_attributes_that_torchmetrics_asks_for() -> None:
    metric = BundleEntropy()
    assert isinstance(metric, torchmetrics.Metric)
    assert metric.higher_is_better is False
    assert metric.is_differentiable is False
    assert metric.full_state_update is False


def test_forward_returns_the_value_of_the_batch_and_adds_it() -> None:
    metric = BundleEntropy(grid=COARSE)
    for acts, labels in BATCHES:
        value = metric(acts, labels)
        assert value.item() == cb.bundle_entropy(acts, labels, grid=COARSE).entropy
    assert metric.update_count == len(BATCHES)
    assert metric.compute().item() == one_shot(BATCHES, grid=COARSE).entropy


def test_compute_between_updates_sees_the_new_rows() -> None:
    metric = BundleEntropy(compute_with_cache=True)
    for i in range(1, len(BATCHES) + 1):
        (fed if i % 2 else lambda m, b: m(*b[0]))(metric, BATCHES[i - 1 : i])
        assert metric.compute().item() == one_shot(BATCHES[:i]).entropy
        assert metric.compute() is metric.compute()  # cached


def test_reset_forgets_rows_and_keeps_options() -> None:
    metric = fed(BundleEntropy(grid=COARSE))
    metric.reset()
    assert (metric.num_rows, metric.update_called) == (0, False)
    with pytest.raises(ValueError, match=r"no rows yet: call update\(\) before compute\(\)"):
        metric.compute_result()
    metric.update(torch.zeros(2, 9).double(), torch.tensor([0, 1]))  # another type and width than before
    assert metric.compute_result().grid == COARSE


def test_compute_before_update_warns_as_every_metric_does() -> None:
    with pytest.warns(UserWarning, match="before the ``update`` method"), pytest.raises(ValueError, match="no rows"):
        BundleEntropy().compute()


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda m: m.clone(), lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_in_the_middle_of_a_stream_go_on_by_themselves(twin_of: Any) -> None:
    metric = fed(BundleEntropy(grid=COARSE, log_epsilon=1e-5), BATCHES[:2])
    twin = twin_of(metric)
    fed(twin, BATCHES[2:])
    assert counts(metric.compute_result()) == counts(one_shot(BATCHES[:2], grid=COARSE, log_epsilon=1e-5))
    assert counts(twin.compute_result()) == counts(one_shot(BATCHES, grid=COARSE, log_epsilon=1e-5))


def test_two_grids_in_a_collection_are_not_mixed_up() -> None:
    """torchmetrics merges metrics whose states look alike after the first update: these do, with one row."""
    metrics = {"plain": None, "coarse": COARSE, "fine": FINE, "coarse again": COARSE}
    for first in ("update", "forward"):
        collection = torchmetrics.MetricCollection({name: BundleEntropy(grid=g) for name, g in metrics.items()})
        batches = [(torch.full((1, 3), 1e-3), torch.tensor([3])), *BATCHES]
        for acts, labels in batches:
            (collection.update if first == "update" else collection)(acts, labels)
        computed = {name: value.item() for name, value in collection.compute().items()}
        assert computed == {name: one_shot(batches, grid=g).entropy for name, g in metrics.items()}
        assert len(set(computed.values())) == 3
        clone = collection.clone(prefix="train_")
        clone.reset()
        fed(clone, BATCHES[:1])
        assert clone.compute()["train_fine"].item() == one_shot(BATCHES[:1], grid=FINE).entropy
        assert {name: value.item() for name, value in collection.compute().items()} == computed


def test_a_collection_with_other_metrics_filters_arguments() -> None:
    collection = torchmetrics.MetricCollection([BundleEntropy(), torchmetrics.MeanMetric()])
    collection.update(acts=torch.zeros(2, 2), labels=torch.tensor([0, 1]), value=torch.tensor(3.0))
    assert collection.compute() == {"BundleEntropy": pytest.approx(math.log(2)), "MeanMetric": 3.0}


def test_arithmetic_of_metrics_works() -> None:
    share = BundleEntropy() / math.log(2)
    share.update(torch.zeros(2, 2), torch.tensor([0, 1]))
    assert share.compute().item() == 1.0


def test_to_moves_the_value_and_no_type_changes_it() -> None:
    metric = fed(BundleEntropy())
    assert metric.clone().to("meta").compute().device.type == "meta"
    metric.to("cpu").half()
    assert counts(metric.compute_result()) == counts(one_shot(BATCHES))
    assert metric.compute().dtype == torch.float64


def test_plot_draws_the_value() -> None:
    pytest.importorskip("matplotlib", reason="plots of metrics: NOT TESTED HERE (needs matplotlib)")
    import matplotlib as mpl

    mpl.use("Agg")
    figure, axes = fed(BundleEntropy()).plot()
    assert axes.get_lines()
    mpl.pyplot.close(figure)


# --- states -----------------------------------------------------------------------------------------------


class Network(torch.nn.Module):
    """A network that holds a metric, as LightningModules do."""

    def __init__(self, grid: cb.UpdateGrid | None = COARSE) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)
        self.entropy = BundleEntropy(grid=grid)


def test_state_dict_holds_the_rows_only_when_persistent() -> None:
    network = Network()
    fed(network.entropy)
    assert list(network.state_dict()) == ["layer.weight", "layer.bias"]
    Network().load_state_dict(network.state_dict())  # a checkpoint without rows fits
    network.entropy.persistent(True)
    assert list(network.state_dict()) == ["layer.weight", "layer.bias", "entropy.stream"]
    network.entropy.persistent(False)
    assert "entropy.stream" not in network.state_dict()


def test_state_dict_continues_a_stream_in_another_process() -> None:
    network = Network()
    fed(network.entropy, BATCHES[:2])
    network.entropy.persistent(True)
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    resumed = Network()
    fed(resumed.entropy, BATCHES[3:])  # is replaced
    resumed.load_state_dict(torch.load(file, weights_only=True))
    fed(resumed.entropy, BATCHES[2:])
    assert counts(resumed.entropy.compute_result()) == counts(one_shot(BATCHES, grid=COARSE))


def test_a_key_stays_with_the_rows() -> None:
    first = fed(BundleEntropy(key=7), BATCHES[:2])
    state = first.metric_state
    resumed = BundleEntropy()
    resumed.merge_state(state)
    resumed(*BATCHES[2])  # whose own value is of a stream under the same key
    resumed.merge_state(first)
    assert (resumed.num_rows, resumed.metric_state["key"]) == (2 * 47 + 1, f"{7:032x}")
    with pytest.raises(ValueError, match="the state was made under another key than the key= of this metric"):
        BundleEntropy(key=8).merge_state(state)
    with pytest.raises(ValueError, match="other was made under another key than the 1 rows of this metric"):
        fed(BundleEntropy(), BATCHES[2:3]).merge_state(first)
    first.reset()
    assert fed(first, BATCHES[:1]).metric_state["key"] == f"{7:032x}"


def test_a_loaded_state_counts_as_updated() -> None:
    """Otherwise ``compute`` warns, which is an error here."""
    saved = fed(BundleEntropy())
    saved.persistent(True)
    loaded = BundleEntropy()
    loaded.load_state_dict(saved.state_dict())
    assert loaded.compute().item() == one_shot(BATCHES).entropy


def test_the_state_of_another_grid_is_refused() -> None:
    network = Network(FINE)
    network.entropy.persistent(True)
    other = fed(Network().entropy)
    state = {**network.state_dict(), "entropy.stream": other.metric_state}
    with pytest.raises(ValueError, match=r"the state has grid .* and this metric .*; they must agree"):
        network.load_state_dict(state)


def test_merge_state_adds_another_metric_or_its_state() -> None:
    for how in (lambda m: m, lambda m: m.metric_state):
        metric = fed(BundleEntropy(grid=COARSE, compute_with_cache=True), BATCHES[:2])
        metric.compute()
        other = fed(BundleEntropy(grid=COARSE), BATCHES[2:])
        metric.merge_state(how(other))
        assert metric.compute().item() == one_shot(BATCHES, grid=COARSE).entropy
        assert counts(other.compute_result()) == counts(one_shot(BATCHES[2:], grid=COARSE))
    fresh = BundleEntropy(grid=COARSE)
    fresh.merge_state(other)
    assert fresh.compute().item() == one_shot(BATCHES[2:], grid=COARSE).entropy


@pytest.mark.parametrize(
    ("incoming", "words"),
    [
        (lambda: fed(BundleEntropy(grid=FINE)), "they must agree"),
        (lambda: fed(BundleEntropy(grid=FINE)).metric_state, "they must agree"),
        (lambda: torchmetrics.MeanMetric(), "incoming_state is a MeanMetric; pass a metric or its metric_state"),
        (lambda: {"mean": 3}, r"the state lacks \['fingerprints', 'labels'\]"),
    ],
)
def test_what_cannot_be_merged_is_refused(incoming: Any, words: str) -> None:
    metric = fed(BundleEntropy(grid=COARSE))
    with pytest.raises((TypeError, ValueError), match=words):
        metric.merge_state(incoming())
    assert metric.compute().item() == one_shot(BATCHES, grid=COARSE).entropy


def test_options_are_checked_at_once() -> None:
    with pytest.raises(ValueError, match="backend is 'gpu'"):
        BundleEntropy(backend="gpu")
    with pytest.raises(TypeError, match="grid"):
        BundleEntropy(grid=0.1)
    with pytest.raises(ValueError, match=r"dist_sync_fn is .*; ranks exchange fingerprints here, so pass"):
        BundleEntropy(dist_sync_fn=len)


# --- memory and waiting -----------------------------------------------------------------------------------


def bytes_of_arrays() -> int:
    """NumPy's data alone: what other tests of this process left to the garbage collector counts for nothing."""
    arrays = tracemalloc.DomainFilter(inclusive=True, domain=np.lib.tracemalloc_domain)
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([arrays]).traces)


def test_a_thousand_updates_take_24_bytes_a_row() -> None:
    """A third of the store may be unused. NumPy's memory is counted; torch's is not, so no batch may be held."""
    metric = BundleEntropy()
    metric.update(torch.zeros(32, 64), torch.zeros(32, dtype=torch.int64))
    batches = []
    tracemalloc.start()
    try:
        for i in range(1000):
            acts = (torch.arange(32) + 32.0 * i)[:, None].repeat(1, 64)
            batches.append(weakref.ref(acts))
            metric.update(acts, torch.zeros(32, dtype=torch.int64))
            del acts
            if i == 499:
                half_way = bytes_of_arrays()
        held = bytes_of_arrays()
    finally:
        tracemalloc.stop()
    assert not any(batch() for batch in batches)
    assert 16_000 * 24 <= half_way < 16_000 * 24 * 1.5
    assert 32_000 * 24 <= held < 32_000 * 24 * 1.5
    assert metric.num_rows == 32 * 1001


def test_update_never_waits_for_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("torchmetrics on a GPU: NOT TESTED HERE (no GPU)")
    acts, labels = (x.cuda() for x in BATCHES[0])
    metric = BundleEntropy(grid=COARSE).cuda()
    metric.update(acts, labels)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(100):
            metric.update(acts, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert metric.compute().is_cuda
    assert metric.compute().item() == cb.bundle_entropy(*BATCHES[0], grid=COARSE).entropy


# --- ranks ------------------------------------------------------------------------------------------------

SHARES = {0: [0, 2], 1: [3], 2: []}
"""Which batches each rank has: uneven, and rank 2 has none."""


def on_rank(rank: int) -> None:
    """Every statement here runs on every rank; a rank that left one out would let the others wait."""
    from datetime import timedelta

    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    # an empty shard is compute() before update() to torchmetrics
    warnings.filterwarnings("ignore", message="The ``compute`` method of metric BundleEntropy was called before")
    mine = [BATCHES[i] for i in SHARES[rank]]
    everything = [BATCHES[i] for share in SHARES.values() for i in share]
    for options in ({}, {"grid": COARSE}, {"grid": FINE, "log_epsilon": 1e-5}):
        metric = fed(BundleEntropy(**options), mine)
        expected = one_shot(everything, **options)
        assert metric.compute().item() == expected.entropy
        assert counts(metric.compute_result()) == counts(expected)
        assert metric.num_rows == sum(len(labels) for _, labels in mine)  # and goes on with its own rows
    a_rank_without_new_rows_does_not_answer_from_memory(rank, everything)
    sync_and_unsync_by_hand(rank, mine, everything)
    groups_and_switches(rank, mine, everything)
    collection = torchmetrics.MetricCollection({"plain": BundleEntropy(), "fine": BundleEntropy(grid=FINE)})
    found = fed(collection, mine).compute()
    assert found["plain"].item() == one_shot(everything).entropy
    assert found["fine"].item() == one_shot(everything, grid=FINE).entropy
    dist.barrier()
    dist.destroy_process_group()


def a_rank_without_new_rows_does_not_answer_from_memory(rank: int, everything: list[Any]) -> None:
    metric = fed(BundleEntropy(), [BATCHES[0]])
    assert metric.compute().item() == one_shot([BATCHES[0]] * 3).entropy
    if rank == 0:
        fed(metric, [BATCHES[1]])
    assert metric.compute().item() == one_shot([BATCHES[0]] * 3 + [BATCHES[1]]).entropy


def sync_and_unsync_by_hand(rank: int, mine: list[Any], everything: list[Any]) -> None:
    metric = fed(BundleEntropy(grid=COARSE, sync_on_compute=False), mine)
    if mine:
        assert metric.compute().item() == one_shot(mine, grid=COARSE).entropy
    metric.sync()
    assert metric.compute_result() == metric.compute_result()
    assert metric.compute().item() == one_shot(everything, grid=COARSE).entropy  # which ends the sync, as everywhere
    if mine:
        assert metric.compute().item() == one_shot(mine, grid=COARSE).entropy
    metric.sync()
    with pytest.raises(torchmetrics.utilities.exceptions.TorchMetricsUserError, match=r"call unsync\(\) before"):
        metric(*BATCHES[0])
    metric.unsync()
    if mine:
        assert metric.compute().item() == one_shot(mine, grid=COARSE).entropy
    metric.sync()
    metric.reset()
    assert metric.num_rows == 0
    assert metric(*BATCHES[0]).item() == cb.bundle_entropy(*BATCHES[0], grid=COARSE).entropy
    assert metric.compute().item() == cb.bundle_entropy(*BATCHES[0], grid=COARSE).entropy
    with pytest.raises(ValueError, match="ranks exchange fingerprints here"):
        metric.sync(dist_sync_fn=lambda tensor, group: [tensor])


def groups_and_switches(rank: int, mine: list[Any], everything: list[Any]) -> None:
    import torch.distributed as dist

    pair = dist.new_group([0, 1])
    if rank < 2:
        with_rank_2 = fed(BundleEntropy(process_group=pair), mine)
        assert with_rank_2.compute().item() == one_shot([*(BATCHES[i] for i in (0, 2)), BATCHES[3]]).entropy
    alone = fed(BundleEntropy(distributed_available_fn=lambda: False), mine)
    if mine:
        assert alone.compute().item() == one_shot(mine).entropy
    on_step = BundleEntropy(dist_sync_on_step=True)
    acts, labels = BATCHES[rank]
    assert on_step(acts, labels).item() == one_shot(BATCHES[:3]).entropy  # the batches of all ranks
    off_step = BundleEntropy()
    assert off_step(acts, labels).item() == cb.bundle_entropy(acts, labels).entropy


@pytest.mark.xdist_group("ranks")
@pytest.mark.slow
def test_any_rank_gets_the_result_of_one_process() -> None:
    if not torch.distributed.is_available():
        pytest.skip("ranks of torchmetrics: NOT TESTED HERE (torch is built without torch.distributed)")
    from ..distributed import on_forked_ranks

    done = on_forked_ranks(len(SHARES), __file__)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_batch_without_a_sample_adds_nothing() -> None:
    """update(acts[mask], labels[mask]) with nothing left."""
    metric = BundleEntropy()
    acts, labels = BATCHES[0]
    metric.update(acts[:0], labels[:0])
    assert metric.num_rows == 0
    fed(metric, [BATCHES[0]])
    metric.update(acts[:0], labels[:0])
    assert math.isnan(metric(acts[:0], labels[:0]).item())
    assert metric.compute().item() == one_shot([BATCHES[0]]).entropy
    with pytest.raises(ValueError, match="0 entries for"):
        metric.update(acts, labels[:0])


def test_a_wrapper_that_keeps_states_is_refused_in_one_sentence() -> None:
    """Running raised "no rows yet" after three updates."""
    running = torchmetrics.wrappers.Running(BundleEntropy(), window=2)
    for acts, labels in BATCHES[:3]:
        running.update(acts, labels)
    with pytest.raises(torchmetrics.utilities.exceptions.TorchMetricsUserError, match="merge_state them"):
        running.compute()


if __name__ == "__main__":
    on_rank(int(os.environ["RANK"]))

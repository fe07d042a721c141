"""The caller's stream: captured in a graph, two streams, two threads, and no wait before a number is asked for."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import cbkernels as cb

from .presence import need_gpu

torch: Any = need_gpu()

from cbkernels import backends, torch_operators  # noqa: E402 (imports torch)
from cbkernels.arrays import as_labels, as_rows  # noqa: E402

from .known_rows import GRIDS, labels_of, plain, random_rows, special_rows  # noqa: E402

ABOUT_A_SECOND = 1_500_000_000
"""Cycles."""


def captured(run: Callable[[], Any]) -> tuple[Any, Any]:
    """A graph of this call and the tensors it fills; capturing fails where the call waits for the GPU."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()  # what is loaded or allocated once
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    return graph, result


SIZES = [(6, 2), (64, 16384), (700, 33), (30_000, 16)]


@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("grid", GRIDS)
def test_a_captured_call_measures_what_is_there_when_it_is_replayed(grid: str, shape: tuple[int, int]) -> None:
    acts = random_rows(*shape).cuda()
    graph, ids = captured(lambda: cb.bundle_rows(acts, grid=GRIDS[grid]))
    for seed, bundles in ((1, 0), (2, 3), (3, 1), (4, 0), (5, 50)):
        new = random_rows(*shape, bundles=bundles, seed=seed)
        acts.copy_(new)
        ids.fill_(-1)
        graph.replay()
        assert ids.tolist() == cb.bundle_rows(new, grid=GRIDS[grid]).tolist()


@pytest.mark.parametrize("dtype", ["bfloat16", "float64", "int8", "bool"])
def test_captured_with_other_types(dtype: str) -> None:
    acts = special_rows(dtype, 90, 70).cuda()
    graph, ids = captured(lambda: cb.bundle_rows(acts))
    for seed in (1, 2):
        new = special_rows(dtype, 90, 70, seed=seed)
        acts.copy_(new)
        graph.replay()
        assert ids.tolist() == cb.bundle_rows(new).tolist()


def test_captured_with_a_tolerance() -> None:
    acts = random_rows(40, 3).cuda()
    graph, ids = captured(lambda: cb.bundle_rows(acts, tolerance=(0.0, 0.5)))
    new = random_rows(40, 3, bundles=0, seed=1)
    acts.copy_(new)
    graph.replay()
    assert ids.tolist() == cb.bundle_rows(new, tolerance=(0.0, 0.5)).tolist()


def test_captured_fingerprints() -> None:
    acts = special_rows("float32", 50, 300).cuda()
    graph, (found, holds_nan) = captured(lambda: torch_operators.row_fingerprints(acts))
    new = special_rows("float32", 50, 300, seed=9)
    acts.copy_(new)
    graph.replay()
    expected, flags = torch_operators.row_fingerprints(new)
    assert found.tolist() == expected.tolist()
    assert holds_nan.tolist() == flags.tolist()


def test_a_captured_update_never_waits() -> None:
    acts, labels = special_rows("float32", 200, 30).cuda(), labels_of(200).cuda()
    metrics: list[cb.BundleEntropy] = []

    def update() -> None:
        metrics.append(cb.BundleEntropy())
        metrics[-1].update(acts, labels)

    graph, _ = captured(update)
    graph.replay()
    expected = cb.BundleEntropy()
    expected.update(acts.cpu(), labels.cpu())
    assert plain(metrics[-1].compute()) == plain(expected.compute())


def test_numbers_are_refused_and_the_capture_goes_on() -> None:
    acts, labels = random_rows(64, 100).cuda(), labels_of(64).cuda()
    layers = {"a": acts, "b": acts[:, :7]}
    cb.bundle_entropy_layers(layers, labels)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for measure in (cb.bundle_entropy, cb.conflict_margin):
            with pytest.raises(RuntimeError, match="is being captured in a CUDA graph; call it outside"):
                measure(acts, labels)
        with pytest.raises(RuntimeError, match="is being captured in a CUDA graph; call it outside"):
            cb.bundle_entropy_layers(layers, labels)
        ids = cb.bundle_rows(acts)
    graph.replay()
    assert ids.tolist() == cb.bundle_rows(acts.cpu()).tolist()


def test_queued_numbers_are_those_of_the_latest_replay() -> None:
    layers = [random_rows(64, 300).cuda(), random_rows(64, 7).cuda()]
    labels = labels_of(64).cuda()

    def queued() -> tuple[Any, Any]:
        views = [as_rows(acts) for acts in layers]
        of_row, backend = as_labels(labels, views[0]), backends.TABLE["cuda"]
        return backend.queue_layers(views, of_row, None, True), backend.queue_margin(views[0], of_row)

    graph, (counts, margin) = captured(queued)
    for read in (counts, margin):
        with pytest.raises(RuntimeError, match="has not been replayed"):
            read()
    for bundles in (0, 1, 9):
        for acts in layers:
            acts.copy_(random_rows(*acts.shape, bundles=bundles, seed=bundles))
        graph.replay()
        expected = cb.bundle_entropy_layers({str(k): acts.cpu() for k, acts in enumerate(layers)}, labels.cpu())
        assert [c.num_bundles for c in counts()] == [r.num_bundles for r in expected.values()]
        assert margin() == cb.conflict_margin(layers[0].cpu(), labels.cpu())
    del counts, margin
    others = [queued() for _ in range(20)]
    graph.replay()  # into what is no reader's
    torch.cuda.synchronize()
    assert {read() for _, read in others} == {cb.conflict_margin(layers[0].cpu(), labels.cpu())}


def test_the_first_call_of_a_process_can_be_captured() -> None:
    code = """if True:
        import torch, cbkernels as cb
        acts = torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]], device="cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            ids = cb.bundle_rows(acts)
        graph.replay()
        print(ids.tolist())
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=100)
    assert run.stdout == "[0, 1, 0]\n", run.stdout + run.stderr


def test_many_captured_layers_and_other_work_in_one_graph() -> None:
    x = torch.randn(64, 100, device="cuda")
    weights = [torch.randn(100, 100, device="cuda") for _ in range(20)]

    def network() -> list[Any]:
        found, hidden = [], x
        for weight in weights:
            hidden = torch.relu(hidden @ weight).clamp(max=1.0)
            found.append((hidden, cb.bundle_rows(hidden)))
        return found

    graph, found = captured(network)
    for bundles in (1, 5, 64):
        x.copy_(torch.randn(bundles, 100, device="cuda")[torch.arange(64, device="cuda") % bundles])
        graph.replay()
        for hidden, ids in found:
            assert ids.tolist() == cb.bundle_rows(hidden.cpu()).tolist()


# --- no waiting -------------------------------------------------------------------------------------------


def test_the_host_is_back_before_the_gpu_has_begun() -> None:
    acts, labels = random_rows(500, 300).cuda(), labels_of(500).cuda()
    metric = cb.BundleEntropy()
    view, backend = as_rows(acts), backends.TABLE["cuda"]
    of_row = as_labels(labels, view)
    kept = [backend.queue_margin(view, of_row) for _ in range(5)]  # as much pinned memory as is needed at once
    del kept
    cb.bundle_rows(acts), torch_operators.row_fingerprints(acts), cb.BundleEntropy().update(acts, labels)
    torch.cuda.synchronize()
    torch.cuda._sleep(ABOUT_A_SECOND)
    begun = torch.cuda.Event()
    begun.record()
    ids = cb.bundle_rows(acts)
    on_grid = cb.bundle_rows(acts, grid=GRIDS["float32"])
    torch_operators.row_fingerprints(acts)
    for _ in range(5):
        metric.update(acts, labels)
    queued = [backend.queue_margin(view, of_row) for _ in range(5)]
    assert not begun.query(), "a call waited for the GPU"
    assert {read() for read in queued} == {cb.conflict_margin(acts.cpu(), labels.cpu())}
    assert ids.tolist() == cb.bundle_rows(acts.cpu()).tolist()
    assert on_grid.tolist() == cb.bundle_rows(acts.cpu(), grid=GRIDS["float32"]).tolist()
    assert metric.compute().num_rows == 2500


def test_work_is_queued_behind_what_makes_the_input() -> None:
    expected = random_rows(300, 400)
    source, acts = expected.cuda(), torch.zeros(300, 400, device="cuda")
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(ABOUT_A_SECOND // 10)
        acts.copy_(source)
        ids = cb.bundle_rows(acts)
        acts.zero_()  # and what comes after must not come before
        result = cb.bundle_entropy(source, labels_of(300).cuda())
    side.synchronize()
    assert ids.tolist() == cb.bundle_rows(expected).tolist()
    assert plain(result) == plain(cb.bundle_entropy(expected, labels_of(300)))


# --- several at once --------------------------------------------------------------------------------------


def test_two_streams_at_once() -> None:
    inputs = [random_rows(4000, 500, bundles=b, seed=b) for b in (0, 40)]
    there = [a.cuda() for a in inputs]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    found: list[list[Any]] = [[], []]
    for _ in range(25):
        for k in (0, 1):
            with torch.cuda.stream(streams[k]):
                found[k].append(cb.bundle_rows(there[k]))
    torch.cuda.synchronize()
    for k in (0, 1):
        expected = cb.bundle_rows(inputs[k])
        assert all(torch.equal(ids.cpu(), expected) for ids in found[k])


@pytest.mark.parametrize("own_streams", [True, False])
def test_several_threads_at_once(own_streams: bool) -> None:
    inputs = [random_rows(700 + 300 * k, 200, bundles=k * 20, seed=k) for k in range(4)]
    labels = [labels_of(len(a)) for a in inputs]
    expected = [
        (cb.bundle_rows(a).tolist(), plain(cb.bundle_entropy(a, y))) for a, y in zip(inputs, labels, strict=True)
    ]

    def of_layers(acts: Any, names: Any) -> dict[str, Any]:
        found = cb.bundle_entropy_layers({"all": acts, "some": acts[:, : 7 + len(acts) % 5]}, names)
        return {layer: plain(result) for layer, result in found.items()}

    expected_of_layers = [of_layers(a, y) for a, y in zip(inputs, labels, strict=True)]
    started = threading.Barrier(4)

    def work(k: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream() if own_streams else torch.cuda.default_stream()):
            acts, names = inputs[k].cuda(), labels[k].cuda()
            metric = cb.BundleEntropy()
            started.wait(60)
            for _ in range(20):
                assert cb.bundle_rows(acts).tolist() == expected[k][0]
                assert plain(cb.bundle_entropy(acts, names)) == expected[k][1]
                assert of_layers(acts, names) == expected_of_layers[k]
                metric.update(acts, names)
            assert metric.compute().num_bundles == expected[k][1]["num_bundles"]

    with ThreadPoolExecutor(4) as pool:
        for job in [pool.submit(work, k) for k in range(4)]:
            job.result(timeout=120)


def test_memory_may_be_used_again_at_once() -> None:
    """The input is given back to torch while the call is still queued; its new owner must wait for us."""
    expected = random_rows(2000, 300)
    wanted = cb.bundle_rows(expected)
    for _ in range(20):
        acts = expected.cuda()
        ids = cb.bundle_rows(acts)
        del acts
        torch.full((2000, 300), 7.0, device="cuda")
        assert torch.equal(ids.cpu(), wanted)


@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
def test_compiled_with_cuda_graphs() -> None:
    """torch.compile(mode="reduce-overhead") captures our operator with everything around it."""

    def measured(x: Any) -> Any:
        return cb.bundle_rows(torch.relu(x * 2))

    run = torch.compile(measured, fullgraph=True, mode="reduce-overhead")
    for seed in range(5):
        acts = random_rows(128, 64, bundles=10 * seed, seed=seed)
        assert run(acts.cuda()).tolist() == measured(acts).tolist()

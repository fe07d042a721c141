"""LayerMonitor: what it measures is what the model computes, and nothing of it stays on the model.

Every row of the themes that users of neighbouring tools complain about and that applies to a monitor is a
test here: hooks that stay, pickling, in-place ReLU, modules used twice, compiled models, DDP, memory.
"""

from __future__ import annotations

import copy
import gc
import io
import pickle
import random
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch: NOT TESTED HERE (not installed)")
from torch import nn  # noqa: E402

import cbkernels as cb  # noqa: E402
from cbkernels.models.layer_measurement import AtOnce  # noqa: E402
from cbkernels.models.probe import RowRule, as_probe, rows_of_output  # noqa: E402

from .. import emulation, model_zoo  # noqa: E402

core, not_emulated = emulation.load()
LABELS = torch.tensor([0, 1, 0, 1, 2, 2])


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr)


def plain(model: nn.Module, probe: Any, **options: Any) -> cb.LayerMonitor:
    return cb.LayerMonitor(model, probe, grid=None, **options)


def hooks_of(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


X = torch.randn(6, 10, generator=torch.Generator().manual_seed(1))


# --- what is measured -----------------------------------------------------------------------------------


def test_results_are_those_of_bundle_entropy_on_the_outputs() -> None:
    model = mlp()
    report = plain(model, (X, LABELS)).measure(step=3)
    assert list(report) == ["1", "3"]
    assert report.step == 3
    acts = {}
    with torch.no_grad():
        acts["1"] = torch.relu(model[0](X))
        acts["3"] = torch.relu(model[2](acts["1"]))
    for name, values in acts.items():
        assert report[name] == cb.bundle_entropy(values, LABELS)
        assert report.margins[name] == cb.conflict_margin(values, LABELS)
        assert report.amplitudes[name] == float(values.abs().max())


def test_grid_is_taken_anew_from_the_optimizer() -> None:
    model = mlp()
    optimizer = sgd(model, lr=1e-3)
    monitor = cb.LayerMonitor(model, (X, LABELS), optimizer=optimizer, batch_size=64, learning_rate="current")
    first = monitor.measure()
    assert first["1"].grid == cb.UpdateGrid.from_optimizer(model, optimizer, 64)
    with torch.no_grad():
        model[2].weight.fill_(9.0)
    optimizer.param_groups[0]["lr"] = 1e-9  # nothing can be told apart any more
    second = monitor.measure()
    assert second["1"].grid == cb.UpdateGrid(learning_rate=1e-9, batch_size=64, weight_amplitude=9.0)
    assert second.conflicting() == ["1", "3"]
    assert first.conflicting() != second.conflicting()
    assert [report.step for report in monitor.history] == [0, 1]


def test_grid_may_be_given_or_asked_for() -> None:
    model = mlp()
    grid = cb.UpdateGrid(learning_rate=1e-2, batch_size=8, weight_amplitude=1.0)
    given = cb.LayerMonitor(model, (X, LABELS), grid=grid).measure()
    asked = cb.LayerMonitor(model, (X, LABELS), grid=lambda: grid).measure()
    assert given["1"].grid == asked["1"].grid == grid
    assert dict(given) == dict(asked)


def test_what_if_measures_at_another_precision_and_leaves_the_history() -> None:
    model = mlp()
    monitor = cb.LayerMonitor(model, (X, LABELS), optimizer=sgd(model, 1e-3), batch_size=64)
    now = monitor.measure(step=0)
    coarse = monitor.measure(step=0, dtype="bfloat16")
    assert len(monitor.history) == 1
    assert now["3"].grid is not None
    assert coarse["3"].grid is not None
    assert (now["3"].grid.dtype, coarse["3"].grid.dtype) == ("float32", "bfloat16")
    assert coarse["3"].num_bundles < now["3"].num_bundles
    always = cb.LayerMonitor(model, (X, LABELS), optimizer=sgd(model, 1e-3), batch_size=64, dtype="bfloat16")
    assert dict(always.measure()) == dict(coarse)
    given = cb.UpdateGrid(1e-3, 64, 1.0)
    changed = cb.LayerMonitor(model, (X, LABELS), grid=given, dtype="float16").measure()["1"].grid
    assert changed == cb.UpdateGrid(1e-3, 64, 1.0, "float16")


def test_weights_in_bfloat16_are_measured_in_bfloat16() -> None:
    model = mlp().to(torch.bfloat16)
    monitor = cb.LayerMonitor(model, (X.bfloat16(), LABELS), optimizer=sgd(model), batch_size=64)
    result = monitor.measure()["1"]
    assert result.grid is not None
    assert (result.grid.dtype, result.dtype) == ("bfloat16", "bfloat16")


def test_nan_rows_are_counted_and_the_amplitude_leaves_them_out() -> None:
    model = nn.Sequential(nn.Identity(), nn.ReLU(), nn.Linear(2, 2))
    x = torch.tensor([[1.0, 2.0], [torch.nan, 5.0], [3.0, 4.0], [-7.0, 0.5]])
    report = plain(model, (x, [0, 1, 1, 0])).measure()
    assert report["1"].num_nan_rows == 1
    assert report["1"].entropy != report["1"].entropy
    assert report.amplitudes["1"] == 5.0
    assert report.margins["1"] == 2.0


# --- in place, twice, tuples ----------------------------------------------------------------------------


def without_in_place(model: nn.Module) -> nn.Module:
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return twin


def test_outputs_are_measured_before_they_are_overwritten() -> None:
    model, x = model_zoo.one_relu_twice()
    with torch.no_grad():  # negative values, so that the ReLU changes something
        model.fc1.bias.fill_(-0.5)
    layers = ["fc1", "relu", "fc2"]
    report = plain(model, (x, LABELS), layers=layers).measure()
    assert list(report) == ["fc1", "relu", "fc2", "relu#1"]
    with torch.no_grad():
        fc1 = model.fc1(x)
        relu = torch.relu(fc1)
        fc2 = model.fc2(relu)
    for name, acts in {"fc1": fc1, "relu": relu, "fc2": fc2, "relu#1": torch.relu(fc2)}.items():
        assert report[name] == cb.bundle_entropy(acts, LABELS), name
        assert report.margins[name] == cb.conflict_margin(acts, LABELS), name
    assert cb.conflict_margin(fc1, LABELS) != cb.conflict_margin(relu, LABELS), "the ReLU must matter"
    assert dict(report) == dict(plain(without_in_place(model), (x, LABELS), layers=layers).measure())


needs_emulation = pytest.mark.skipif(core is None, reason=f"{emulation.NAME}: NOT TESTED HERE ({not_emulated})")


@needs_emulation
def test_a_gpu_counts_all_layers_in_one_launch_and_notices_what_was_overwritten() -> None:
    model, x = model_zoo.one_relu_twice()
    runs = []
    model.register_forward_pre_hook(lambda module, inputs: runs.append(1))
    monitor = plain(model, (x, LABELS), layers=["fc1", "relu", "fc2"], margin=False, backend=emulation.NAME)
    first = monitor.measure()
    assert len(runs) == 2, "the first pass finds the overwritten outputs, the second copies them"
    before = emulation.launches()
    second = monitor.measure()
    assert emulation.launches() - before == 1
    assert len(runs) == 3, "the next time it is known"
    expected = plain(model, (x, LABELS), layers=["fc1", "relu", "fc2"], backend="cpu").measure()
    for report in (first, second):
        assert list(report) == list(expected)
        assert [r.to_dict() | {"backend": ""} for r in report.values()] == [
            r.to_dict() | {"backend": ""} for r in expected.values()
        ]


@needs_emulation
def test_a_gpu_holds_no_more_outputs_than_its_budget() -> None:
    model = mlp()
    names = [str(i) for i in range(4)]
    batch = as_probe((X, LABELS))[0]
    everything = AtOnce(None, emulation.NAME, RowRule(), False, set())
    few = AtOnce(None, emulation.NAME, RowRule(), False, set(), held_bytes=6 * 8 * 4)
    with torch.no_grad():
        before = emulation.launches()
        expected = everything.measure(model, names, batch)
        assert emulation.launches() - before == 1
        found = few.measure(model, names, batch)
    assert emulation.launches() - before == 3, "two outputs of 192 bytes exceed the budget: two launches for four"
    assert found.results == expected.results


class ReturnsAlmostAnything(nn.Module):
    """Its parts return a tuple, a dict, nothing, and a tensor without samples."""

    def __init__(self) -> None:
        super().__init__()
        self.tuple, self.dict, self.none, self.scalar, self.never, self.head = (
            Returns(lambda x: (x + 1, x)), Returns(lambda x: {"attention": x[0], "last_hidden_state": x + 2}),
            Returns(lambda x: None), Returns(lambda x: x.sum()), Returns(lambda x: x), nn.Linear(10, 3),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.none(x), self.scalar(x)
        return self.head(self.dict(self.tuple(x)[0])["last_hidden_state"])


class Returns(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


def test_tuples_and_dicts_stand_for_their_first_tensor_and_the_rest_is_skipped_with_a_reason() -> None:
    model = ReturnsAlmostAnything()
    report = plain(model, (X, LABELS), layers=["tuple", "dict", "none", "scalar", "never"]).measure()
    assert dict(report) == {
        "tuple": cb.bundle_entropy(X + 1, LABELS),
        "dict": cb.bundle_entropy(X + 1 + 2, LABELS),
    }
    assert report.skipped == {
        "none": "its output holds no tensor",
        "scalar": "its output has shape (), and neither of its first two axes is 6",
        "never": "it was not called",
    }
    with pytest.raises(ValueError, match="none of the 1 chosen layers can be measured: 'never': it was not called"):
        plain(model, (X, LABELS), layers=["never"]).measure()


# --- sequences ------------------------------------------------------------------------------------------


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(9, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, words: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.head(self.embed(words).mean(1))


WORDS = torch.tensor([[1, 2, 3], [1, 2, 8], [1, 5, 3], [1, 2, 4]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 1, 0]])


@pytest.mark.parametrize("reduce", ["flatten", "cls", "last", "mean", lambda output, mask: output[:, 1]])
@pytest.mark.parametrize("masked", [False, True])
def test_sequences_are_reduced_and_padding_never_counts(reduce: Any, masked: bool) -> None:
    model, y = Embedded(), torch.tensor([0, 1, 2, 3])
    inputs = {"words": WORDS, **({"attention_mask": MASK} if masked else {})}
    report = plain(model, (inputs, y), layers=["embed"], reduce=reduce).measure()
    e = model.embed(WORDS).detach()
    m = MASK[..., None].bool() if masked else torch.ones(4, 3, 1, dtype=torch.bool)
    expected = {
        "flatten": torch.where(m, e, 0.0).flatten(1),
        "cls": e[:, 0],
        "last": torch.stack([e[i, int(m[i].sum()) - 1] for i in range(4)]),
        "mean": torch.stack([e[i, : int(m[i].sum())].sum(0) / int(m[i].sum()) for i in range(4)]),
    }.get(reduce, e[:, 1])
    assert report["embed"].num_bundles == cb.bundle_entropy(expected, y).num_bundles
    assert report.margins["embed"] == pytest.approx(cb.conflict_margin(expected, y), rel=1e-6)
    if masked and reduce == "flatten":
        assert report["embed"].num_bundles == 3, "rows 1 and 3 differ in padding only"
    explicit = plain(model, ({"words": WORDS}, y), layers=["embed"], reduce=reduce, mask=MASK if masked else None)
    assert dict(explicit.measure()) == dict(report)


class Padded(nn.Module):
    """Gives an encoder its padding mask, which nested tensors need for their fast path."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder, self.fails = nn.TransformerEncoder(layer, 2), False

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        if self.fails:
            raise RuntimeError("no")
        return self.encoder(x, src_key_padding_mask=padding).mean(1)


@pytest.mark.parametrize("layers", ["auto", r"encoder\.layers\.\d", ["encoder.layers.1.linear2"]])
def test_an_encoder_with_a_padding_mask_is_measured_layer_by_layer(layers: Any) -> None:
    torch.manual_seed(0)
    model, x, padding = Padded().eval(), torch.randn(6, 5, 8), torch.zeros(6, 5, dtype=torch.bool)
    padding[:, 3:] = True
    monitor = plain(model, ((x, padding), LABELS), layers=layers)
    report = monitor.measure()
    assert list(report)
    assert not report.skipped
    assert {values.num_columns for values in report.values()} == {5 * 8}
    assert torch.backends.mha.get_fastpath_enabled()
    model.fails = True
    with pytest.raises(RuntimeError, match="no"):
        monitor.measure()
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_mean_of_a_padded_sequence_is_that_of_its_values() -> None:
    batch = as_probe(({"words": WORDS, "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]])},
                      [0, 1, 2, 3]))[0]  # fmt: skip
    values = torch.arange(12.0).reshape(4, 3, 1)
    found = rows_of_output(values, nn.Identity(), batch, RowRule("mean"))
    assert found.flatten().tolist() == [1.0, 3.5, 6.0, 0.0], "a sequence of padding only is zero"
    assert rows_of_output(values.bfloat16(), nn.Identity(), batch, RowRule("mean")).dtype == torch.bfloat16


def test_samples_may_be_the_second_axis() -> None:
    turned = nn.Sequential(Returns(lambda x: x.movedim(1, 0)))  # says nothing about its axes
    report = plain(turned, (torch.arange(30.0).reshape(6, 5, 1), LABELS), layers=["0"]).measure()
    assert (report["0"].num_rows, report["0"].num_bundles, report["0"].num_columns) == (6, 6, 5)
    torch.manual_seed(0)
    model = nn.LSTM(5, 4)  # (T, N, C)
    x = torch.randn(3, 6, 5)
    wrapped = nn.Sequential(model)
    report = plain(wrapped, (x, LABELS), layers=["0"]).measure()
    assert report["0"] == cb.bundle_entropy(model(x)[0].detach().movedim(1, 0), LABELS)
    square = torch.randn(6, 6, 5)  # T == N: the module itself says which axis is which
    report = plain(wrapped, (square, LABELS), layers=["0"], reduce="cls").measure()
    assert report.margins["0"] == cb.conflict_margin(model(square)[0].detach()[0], LABELS)


# --- nothing stays --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet_basic", "nano_gpt", "lstm_classifier", "one_relu_twice"])
def test_a_monitored_model_is_saved_and_copied_as_the_unmonitored_one(name: str) -> None:
    model, x = model_zoo.build(name)
    before = pickle.dumps(model), weights_file(model), hooks_of(model), attributes_of(model)
    monitor = cb.LayerMonitor(model, (x, LABELS), optimizer=sgd(model), batch_size=64)
    other = plain(model, (x, LABELS), layers=".*")
    monitor.measure()
    other.measure()
    monitor.measure()
    assert (pickle.dumps(model), weights_file(model), hooks_of(model), attributes_of(model)) == before
    twin = copy.deepcopy(model)
    assert torch.equal(model_zoo.output_of(twin, x), model_zoo.output_of(model, x))


def weights_file(model: nn.Module) -> bytes:
    content = io.BytesIO()
    torch.save(model.state_dict(), content)
    return content.getvalue()


def attributes_of(model: nn.Module) -> list[tuple[str, list[str]]]:
    return [(name, sorted(vars(module))) for name, module in model.named_modules()]


def test_training_goes_on_as_if_nothing_had_been_measured() -> None:
    def trained(measure: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(10, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
        optimizer = sgd(model)
        monitor = cb.LayerMonitor(model, (X, LABELS), optimizer=optimizer, batch_size=64)
        for _ in range(3):
            if measure:
                monitor.measure()
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(torch.randn(6, 10)), LABELS).backward()
            optimizer.step()
        return model.state_dict()

    with_monitor, without = trained(True), trained(False)
    assert all(torch.equal(with_monitor[name], without[name]) for name in without)


class DrawsNumbers(nn.Module):
    """Draws from every generator there is, in evaluation mode too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand(1) + random.random() + float(np.random.rand())


def test_random_numbers_continue_as_if_nothing_had_been_drawn() -> None:
    model = nn.Sequential(DrawsNumbers(), nn.ReLU(), nn.Linear(10, 3))
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    expected = torch.rand(1).item(), random.random(), np.random.rand()
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    plain(model, (X, LABELS)).measure()
    assert (torch.rand(1).item(), random.random(), np.random.rand()) == expected


class Frozen(nn.BatchNorm1d):
    """A batch norm that stays in evaluation mode whatever is asked of it, as users write it."""

    calls = 0

    def train(self, mode: bool = True) -> Frozen:
        Frozen.calls += 1
        return super().train(False)


def test_training_flags_are_put_back_one_by_one() -> None:
    model = nn.Sequential(nn.Linear(10, 8), Frozen(8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3))
    model.train()
    model[4].training = False  # dropout switched off by hand
    Frozen.calls = 0
    flags = [module.training for module in model.modules()]
    statistics = {name: value.clone() for name, value in model.state_dict().items()}
    seen = []
    model[3].register_forward_hook(lambda *_: seen.append([module.training for module in model.modules()]))
    plain(model, (X, LABELS)).measure()
    assert seen
    assert not any(flag for call in seen for flag in call), "everything is in evaluation mode while measuring"
    assert [module.training for module in model.modules()] == flags
    assert Frozen.calls == 0, "train() and eval() belong to the user"
    assert all(torch.equal(value, statistics[name]) for name, value in model.state_dict().items())


class Fails(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("the model's own error")


@pytest.mark.parametrize("layers", ["auto", r"\d"])
def test_a_forward_that_raises_leaves_no_trace(layers: str) -> None:
    model = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Dropout(), Fails())
    model[2].eval()
    monitor = plain(model, (X, LABELS), layers=layers)
    state, flags = torch.get_rng_state(), [module.training for module in model.modules()]
    for _ in range(2):
        with pytest.raises(RuntimeError, match="the model's own error"):
            monitor.measure()
    assert hooks_of(model) == 0
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()
    assert len(monitor.history) == 0
    model[3] = nn.Linear(8, 3)
    assert "1" in monitor.measure()


@pytest.mark.parametrize("inside_of", [torch.enable_grad, torch.inference_mode])
def test_no_activation_and_no_gradient_survives_a_measurement(inside_of: Any) -> None:
    model = mlp()
    seen: list[Any] = []

    def keep(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        assert not output.requires_grad
        seen.append(weakref.ref(output))

    model[1].register_forward_hook(keep)
    monitor = plain(model, (X, LABELS))
    for _ in range(3):
        with inside_of():
            monitor.measure()
    gc.collect()
    assert len(seen) >= 3
    assert all(reference() is None for reference in seen)
    assert all(p.grad is None for p in model.parameters())


def test_the_probe_is_a_copy() -> None:
    model, x = mlp(), X.clone()
    monitor = plain(model, (x, LABELS))
    first = monitor.measure()
    x.zero_()
    assert dict(monitor.measure()) == dict(first)


# --- wrappers -------------------------------------------------------------------------------------------


class Added(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(10, 10), nn.Tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


@pytest.mark.parametrize(("layers", "found"), [("auto", 2), (["0", "1"], 1)])
def test_a_block_that_comes_back_is_measured_again(layers: Any, found: int) -> None:
    model = nn.Sequential(Added(), Added(), nn.Linear(10, 3))
    monitor = plain(model, (X, LABELS), layers=layers)
    before = list(monitor.measure())
    _, surgery = cb.remove_layers(model, "1", example=X)
    without = list(monitor.measure())
    assert not [name for name in without if name.startswith("1.")]
    surgery.undo()
    assert list(monitor.measure()) == before
    assert [name.startswith("1.") for name in before].count(True) == found - 1


def test_a_compiled_model_is_measured_eagerly_under_its_own_names() -> None:
    torch.compiler.reset()
    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    model = mlp()
    expected = plain(model, (X, LABELS)).measure()
    compiled = torch.compile(model, backend=backend)
    assert dict(plain(compiled, (X, LABELS)).measure()) == dict(expected)
    assert not graphs, "measuring compiles nothing"
    compiled(X)
    assert len(graphs) == 1
    assert dict(plain(compiled, (X, LABELS)).measure()) == dict(expected), "a late hook must not be ignored"
    compiled(X)
    assert len(graphs) == 1, "and makes nothing compile again"
    parts = nn.Sequential(torch.compile(mlp(), backend=backend), nn.Linear(3, 2))
    assert len(plain(parts, (X, LABELS), layers=r".*\.1").measure()) == 1
    torch.compiler.reset()


@pytest.fixture
def one_process_group(tmp_path: Any) -> Iterator[None]:
    distributed = torch.distributed
    if not distributed.is_available():
        pytest.skip("torch.distributed: NOT TESTED HERE (not in this build)")
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_ddp_is_looked_through(one_process_group: None) -> None:
    model = mlp()
    expected = plain(model, (X, LABELS)).measure()
    wrapped = nn.parallel.DistributedDataParallel(model)
    assert dict(plain(wrapped, (X, LABELS)).measure()) == dict(expected)
    both = torch.compile(wrapped, backend="eager")
    assert dict(plain(both, (X, LABELS)).measure()) == dict(expected)


def test_one_rank_gives_the_numbers_of_one_process(one_process_group: None) -> None:
    model = mlp()
    alone = plain(model, (X, LABELS)).measure()
    shared = plain(model, (X, LABELS), process_group="world").measure()
    assert numbers(shared) == numbers(alone)
    model[3] = Fails()
    with pytest.raises(RuntimeError, match="the model's own error"):
        plain(model, (X, LABELS), layers=["1"], process_group="world").measure()


def numbers(report: cb.LayerReport) -> dict[str, tuple[Any, ...]]:
    return {
        name: (r.entropy.hex(), r.num_bundles, r.num_conflicting, r.num_conflicting_rows, r.num_nan_rows, r.num_rows)
        for name, r in report.items()
    }


def test_several_batches_are_streamed_to_the_same_numbers() -> None:
    model, labels = mlp(), torch.arange(24) % 3
    for parameter in model.parameters():  # whole numbers: sums do not depend on the size of the batch
        parameter.data = (9 * parameter.data).round()
    x = torch.randn(24, 10).round()[torch.arange(24) % 11]
    whole = plain(model, (x, labels)).measure()
    assert whole.conflicting()
    batches = [(x[:10], labels[:10]), (x[10:11], labels[10:11]), (x[11:], labels[11:])]
    streamed = plain(model, batches).measure()
    assert numbers(streamed) == numbers(whole)
    assert not streamed["1"].exact
    assert not streamed.margins
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, labels), batch_size=5, shuffle=True)
    monitor = plain(model, loader)
    assert numbers(monitor.measure()) == numbers(monitor.measure()) == numbers(whole), "a loader is read once"


def test_batches_of_different_widths_are_refused_with_the_layers_name() -> None:
    model = nn.Sequential(nn.Identity(), nn.ReLU(), nn.AdaptiveAvgPool1d(1))
    with pytest.raises(ValueError, match="layer '1': acts has 8 values per row after batches of 6"):
        plain(model, [(torch.ones(2, 2, 3), [0, 1]), (torch.ones(2, 2, 4), [0, 1])], layers=["1"]).measure()


# --- autocast -------------------------------------------------------------------------------------------


def test_autocast_is_used_and_recorded() -> None:
    model = mlp()
    assert plain(model, (X, LABELS), layers=["0"]).measure().autocast is None
    report = plain(model, (X, LABELS), layers=["0"], autocast="bfloat16").measure()
    assert (report.autocast, report["0"].dtype) == ("bfloat16", "bfloat16")
    with torch.autocast("cpu", torch.bfloat16):
        outer = plain(model, (X, LABELS), layers=["0"]).measure()
    assert (outer.autocast, dict(outer)) == ("bfloat16", dict(report))
    assert not torch.is_autocast_enabled("cpu")


def test_inference_mode_outside_or_inside_does_no_harm() -> None:
    model = mlp()
    expected = plain(model, (X, LABELS)).measure()
    with torch.inference_mode():
        assert dict(plain(model, (X, LABELS)).measure()) == dict(expected)
    if core is not None:
        inside = nn.Sequential(Returns(torch.inference_mode()(lambda x: x * 2)), nn.ReLU(), nn.Linear(10, 3))
        found = plain(inside, (X, LABELS), layers=["0"], margin=False, backend=emulation.NAME).measure()
        assert found["0"].num_bundles == 6


# --- refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({}, ValueError, "grid is 'optimizer' but optimizer is None; pass optimizer="),
        ({"optimizer": True}, ValueError, "grid is 'optimizer' but batch_size is None"),
        ({"optimizer": True, "batch_size": 0}, ValueError, "batch_size is 0; it must be a positive integer"),
        ({"optimizer": 3, "batch_size": 1}, TypeError, "optimizer is a int; pass a torch.optim.Optimizer"),
        ({"grid": "fine"}, ValueError, "grid is 'fine'; pass 'optimizer'"),
        ({"grid": None, "dtype": "bfloat16"}, ValueError, "dtype is 'bfloat16' but grid is None"),
        ({"optimizer": True, "batch_size": 1, "dtype": "int8"}, ValueError, "dtype is 'int8'; choose one of"),
        ({"grid": None, "reduce": "max"}, ValueError, "reduce is 'max'; choose one of flatten, cls, last, mean"),
        ({"grid": None, "reduce": 3}, TypeError, "reduce is 3; choose one of"),
        ({"grid": None, "autocast": "float64"}, ValueError, "autocast is 'float64'; choose"),
        ({"grid": None, "backend": "tpu"}, ValueError, "backend is 'tpu'; choose one of"),
        ({"grid": None, "layers": "conv.*"}, ValueError, r"layers is 'conv\.\*', which chooses none of the modules"),
        ({"grid": None, "layers": "("}, ValueError, r"layers is '\(', which is no regular expression"),
        ({"grid": None, "layers": ["0", "9"]}, ValueError, "layers holds '9', which is no module of the model"),
        ({"grid": None, "layers": [0]}, TypeError, "layers holds 0; names are strings"),
        ({"grid": None, "layers": []}, ValueError, r"layers is \[\], which chooses none"),
        ({"grid": None, "layers": 3}, TypeError, "layers is 3; pass 'auto'"),
        ({"grid": None, "layers": lambda n, m: False}, ValueError, "layers is the function, which chooses none"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], error: type[Exception], sentence: str) -> None:
    model = mlp()
    if options.get("optimizer") is True:
        options = {**options, "optimizer": sgd(model)}
    with pytest.raises(error, match=sentence):
        cb.LayerMonitor(model, (X, LABELS), **options)


@pytest.mark.parametrize(
    ("probe", "error", "sentence"),
    [
        (3, TypeError, "probe is a int; pass"),
        (X, TypeError, "probe is a Tensor; pass"),
        ([], ValueError, "probe holds no batch"),
        ((X, LABELS.float()), TypeError, "labels have dtype float32; class labels must be integers"),
        (
            (X, list("ababab")),
            TypeError,
            "labels have dtype str; class labels must be integers; number the classes with",
        ),
        ((X, LABELS.double().tolist()), TypeError, "labels have dtype float64; class labels must be integers"),
        ((X, LABELS[:5]), ValueError, r"5 labels and samples of shape \(6, 10\); they must agree"),
        ((X, LABELS[:, None]), ValueError, r"labels have shape \(6, 1\); one label per sample"),
        ({"x": X}, ValueError, r"keys \['x'\]; it needs an entry 'labels'"),
        ([X, X, X], TypeError, "a probe batch is a Tensor; pass a pair"),
    ],
)
def test_bad_probes_are_refused(probe: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        plain(mlp(), probe)


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mask has shape \(2, 3\); it must be \(4, T\)"):
        plain(Embedded(), (WORDS, [0, 1, 2, 3]), mask=MASK[:2])
    with pytest.raises(ValueError, match="mask is one tensor for 2 probe batches"):
        plain(Embedded(), [(WORDS, [0, 1, 2, 3])] * 2, mask=MASK)


def test_not_a_model() -> None:
    with pytest.raises(TypeError, match=r"model is a function; pass a torch\.nn\.Module"):
        plain(lambda x: x, (X, LABELS))  # type: ignore[arg-type]


def test_no_grid_can_be_taken() -> None:
    model = mlp()
    optimizer = sgd(model)
    monitor = cb.LayerMonitor(model, (X, LABELS), optimizer=optimizer, batch_size=64)
    optimizer.param_groups[0]["lr"] = 0.0  # a warm-up's first step
    with pytest.raises(
        ValueError, match="the learning rate is 0, and no larger one is known yet; pass the schedule's peak as"
    ):
        monitor.measure()
    assert len(monitor.history) == 0
    with pytest.raises(TypeError, match="the function grid returned 3; it must return an UpdateGrid"):
        cb.LayerMonitor(model, (X, LABELS), grid=lambda: 3).measure()  # type: ignore[arg-type, return-value]


# --- cost -----------------------------------------------------------------------------------------------


def test_the_cost_is_known() -> None:
    monitor = plain(mlp(), (X, LABELS))
    first, second = monitor.measure(), monitor.measure()
    assert first.seconds > 0
    assert first.seconds_since_last is None
    assert second.seconds_since_last is not None
    assert second.seconds_since_last >= 0


@pytest.mark.parametrize("batch_axis", [None, 0, 1])
def test_samples_and_time_of_one_length_are_never_swapped_in_silence(batch_axis: int | None) -> None:
    """T == N: an output behind a recurrent module says nothing about its axes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.GRU(5, 4), Returns(lambda out: out[0]), nn.Linear(4, 3))
    x = torch.randn(6, 6, 5)
    report = plain(model, (x, LABELS), layers=["0", "2"], batch_axis=batch_axis).measure()
    out = model[0](x)[0].detach()
    expected = 0 if batch_axis == 0 else 1  # the module says it, but a user knows better
    assert report["0"] == cb.bundle_entropy(out.movedim(expected, 0), LABELS)
    if batch_axis is None:
        assert "2" not in report
        assert report.skipped["2"].startswith("its output has shape (6, 6, 3), and both of its first axes may count")
    else:
        assert report["2"] == cb.bundle_entropy(model[2](out).detach().movedim(batch_axis, 0), LABELS)


def test_a_model_with_the_samples_first_is_measured_as_ever() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.GRU(5, 4, batch_first=True), Returns(lambda out: out[0]), nn.Linear(4, 3))
    x = torch.randn(6, 6, 5)
    report = plain(model, (x, LABELS), layers=["0", "2"]).measure()
    assert report["2"] == cb.bundle_entropy(model(x).detach(), LABELS)
    with pytest.raises(ValueError, match="batch_axis is 2; choose 0, 1 or None"):
        plain(model, (x, LABELS), batch_axis=2)


@pytest.mark.parametrize(("batch_axis", "shape"), [(None, (6, 3)), (1, (6, 3))])
def test_where_only_one_axis_fits_it_is_taken(batch_axis: int | None, shape: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.GRU(5, 4), Returns(lambda out: out[0][-1]), nn.Linear(4, 3))  # (T, N, C), then (N, C)
    report = plain(model, (torch.randn(6, 6, 5), LABELS), layers=["2"], batch_axis=batch_axis).measure()
    assert (report["2"].num_rows, report["2"].num_columns) == shape


def test_a_model_whose_weights_accelerate_keeps_elsewhere() -> None:
    """Its weights are on "meta" between calls; the probe went there, too."""
    accelerate = pytest.importorskip("accelerate", reason="accelerate: NOT TESTED HERE")
    torch.manual_seed(0)
    here = nn.Sequential(nn.Linear(10, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    expected = plain(here, (X, LABELS)).measure()
    offloaded = copy.deepcopy(here)
    accelerate.cpu_offload(offloaded, execution_device=torch.device("cpu"))
    assert next(offloaded.parameters()).is_meta
    assert plain(offloaded, (X, LABELS)).measure().results == expected.results
    optimizer = torch.optim.SGD(offloaded.parameters(), lr=0.1)
    with pytest.raises(ValueError, match='weights are on the device "meta"'):
        cb.LayerMonitor(offloaded, (X, LABELS), optimizer=optimizer, batch_size=4).measure()


# --- what a newcomer passes by mistake ------------------------------------------------------------------


@pytest.mark.parametrize("many", [1, 2])
def test_a_probe_or_an_optimizer_that_cannot_tell_anything_is_noted(many: int) -> None:
    def notes(labels: list[int], optimizer: torch.optim.Optimizer) -> str:
        pairs = [(X[: len(labels)], torch.tensor(labels))] * many
        return " ".join(cb.LayerMonitor(model, pairs, optimizer=optimizer, batch_size=4).measure().notes)

    model = mlp()
    assert notes([0, 1, 0, 1, 2, 2], sgd(model)) == ""
    assert notes([7] * 6, sgd(model)).startswith(f"all {6 * many} samples of the probe had the label 7, so that no")
    if many == 1:
        assert notes([3], sgd(model)).startswith("the only sample of the probe had the label 3, so that no bundle")
    assert notes([0, 1, 0, 1, 2, 2], sgd(mlp())).startswith("the optimizer trains none of the model's parameters;")


def test_layers_may_be_a_class_of_modules() -> None:
    assert plain(mlp(), (X, LABELS), layers=nn.ReLU).layers == ["1", "3"]
    with pytest.raises(ValueError, match=r"layers is <class '.*Conv2d'>, which chooses none of the modules"):
        plain(mlp(), (X, LABELS), layers=nn.Conv2d)
    with pytest.raises(ValueError, match="a regular expression must match the whole name of a module"):
        plain(mlp(), (X, LABELS), layers="conv")


def test_without_an_optimizer_the_way_out_is_a_grid() -> None:
    with pytest.raises(ValueError, match=r"grid=cbkernels.UpdateGrid\(...\) where there is no optimizer"):
        cb.LayerMonitor(mlp(), (X, LABELS), learning_rate=0.05, batch_size=64)


@pytest.mark.parametrize("layers", ["auto", r"\d"])
@pytest.mark.parametrize("many", [1, 2])
def test_an_error_about_shapes_names_that_of_the_samples(layers: str, many: int) -> None:
    monitor = plain(mlp(), [(X[:, :4], LABELS)] * many, layers=layers)
    with pytest.raises(RuntimeError, match=r"mat2.* \(the model was given a batch of the shape \(6, 4\), the samples"):
        monitor.measure()


def test_a_step_before_the_last_one_is_refused() -> None:
    monitor = plain(mlp(), (X, LABELS))
    monitor.measure(step=3)
    with pytest.raises(ValueError, match="step is 2, which is before 3, the last one; make a new monitor"):
        monitor.measure(step=2)
    monitor.measure(step=3)
    assert monitor.history.steps == [3, 3]


def test_a_grid_of_16_bits_says_what_is_lost_and_how_master_weights_are_measured() -> None:
    model = mlp().to(torch.bfloat16)
    monitor = cb.LayerMonitor(model, (X.bfloat16(), LABELS), optimizer=sgd(model, 1e-3), batch_size=64)
    said = str(monitor.measure())
    assert "The grid takes the weights themselves as kept in bfloat16: of the largest, 0." in said
    assert "LayerMonitor(..., dtype='float32')" in said
    assert "as kept in" not in str(monitor.measure(dtype="float32"))
    lost = float(said.split("updates below about ")[1].split()[0])
    w = torch.tensor(max(float(p.detach().abs().max()) for p in model.parameters()), dtype=torch.bfloat16)
    assert w + 0.9 * lost == w
    assert w + 1.2 * lost != w

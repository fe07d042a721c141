"""Models hard to look at: values that leave torch, no input, outputs that hold themselves, calls past hooks."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="models that are hard to follow: NOT TESTED HERE (no torch)")

from torch import nn  # noqa: E402

from cbkernels.findings.layer_report import LayerReport  # noqa: E402
from cbkernels.models import block_sums  # noqa: E402
from cbkernels.models.evaluation import evaluating, first_tensor, tensors_in  # noqa: E402
from cbkernels.models.monitor import LayerMonitor  # noqa: E402
from cbkernels.models.residual_blocks import findings  # noqa: E402

from .test_block_sums import Block, around, mlp, seen  # noqa: E402

LABELS = np.arange(6) % 2


def residual() -> nn.Module:
    return Block(lambda b, x: x + b.f(x), f=mlp())


class OfTwoBlocks(nn.Module):
    """Stem, two residual blocks, head; ``between`` is what happens to the values before the blocks."""

    def __init__(self, between: Any = lambda x: x) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Linear(5, 8), nn.Sequential(residual(), residual()), nn.Linear(8, 3)
        self.between = between

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.blocks(self.between(self.stem(x))))


def report_of(model: nn.Module, x: Any) -> LayerReport:
    return LayerMonitor(model, (x, LABELS), grid=None, margin=False).measure()


# --- values that cannot be followed -------------------------------------------------------------------------


def test_values_that_went_through_numpy_are_taken_up_again_and_the_report_says_so() -> None:
    torch.manual_seed(0)
    report = report_of(OfTwoBlocks(lambda x: torch.from_numpy(x.detach().numpy().copy()) * 1.5), torch.randn(6, 5))
    assert set(report.blocks.values()) == {"blocks.0", "blocks.1"}
    assert report.notes == (
        "values reached the model past the operations of torch, through NumPy say, so that residual sums may have been "
        "missed",
    )


def test_a_branch_that_went_through_numpy_is_not_passed_over_silently() -> None:
    torch.manual_seed(0)
    block = Block(lambda b, x: x + torch.from_numpy(b.f(x).detach().numpy().copy()), f=mlp())
    report = report_of(nn.Sequential(nn.Linear(5, 8), block, nn.Linear(8, 3)), torch.randn(6, 5))
    assert any("values reached '1' past the operations of torch" in note for note in report.notes)


def test_constants_of_a_model_are_no_values_that_appear() -> None:
    torch.manual_seed(0)
    table = torch.randn(6, 8)
    model = OfTwoBlocks()
    model.table = table  # type: ignore[assignment]
    model.between = lambda x: x + model.table + torch.tensor([1.0] * 8)
    assert report_of(model, torch.randn(6, 5)).notes == ()


def test_a_model_without_tensors_among_its_inputs_is_followed_from_what_it_makes() -> None:
    class OfWords(OfTwoBlocks):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(9, 5)

        def forward(self, words: list[int]) -> Any:  # type: ignore[override]
            return super().forward(self.embedding(torch.tensor(words)))

    torch.manual_seed(0)
    report = report_of(OfWords(), {"words": [1, 2, 3, 4, 5, 6]})
    assert set(report.blocks.values()) == {"blocks.0", "blocks.1"}
    assert report.notes == ()


def test_a_model_whose_output_depends_on_no_input_is_said() -> None:
    class OfItsOwn(OfTwoBlocks):
        def __init__(self) -> None:
            super().__init__()
            self.values = nn.Parameter(torch.randn(6, 5))

        def forward(self, count: int) -> Any:  # type: ignore[override]
            return super().forward(self.values[:count])

    torch.manual_seed(0)
    report = report_of(OfItsOwn(), {"count": 6})
    assert any("could be followed back to an input" in note for note in report.notes)


# --- what is returned, and how it is called ------------------------------------------------------------------


def test_an_output_that_holds_itself_has_an_end() -> None:
    torch.manual_seed(0)
    own: dict[str, Any] = {"logits": torch.zeros(1)}
    own["self"] = own
    assert len(list(tensors_in([own, own]))) == 2
    assert first_tensor(own) is own["logits"]

    class Returns(OfTwoBlocks):
        def forward(self, x: torch.Tensor) -> Any:
            output: dict[str, Any] = {"logits": super().forward(x)}
            output["self"] = output
            return output

    assert set(report_of(Returns(), torch.randn(6, 5)).blocks.values()) == {"blocks.0", "blocks.1"}


def test_blocks_that_are_called_past_their_hooks_keep_their_branches() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = around(residual()), around(residual())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x))  # type: ignore[no-any-return]

    class Config:
        num_layers = 2

        def __init__(self) -> None:
            self.num_layers = 2

        def to_dict(self) -> dict[str, int]:
            return {"num_layers": self.num_layers}

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config, self.layers = Config(), nn.ModuleList([Layer(), Layer()])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = layer.forward(x)  # type: ignore[operator]
            return x.mean(1)

    torch.manual_seed(0)
    found = seen(Model(), torch.randn(6, 8))
    assert [block for block in found.blocks if block.startswith("layers.")]
    assert all(block.branches for block in found.blocks.values())


def test_a_list_of_projections_that_a_configuration_happens_to_count_holds_no_blocks() -> None:
    class Config:
        def __init__(self) -> None:
            self.num_layers = 2

        def to_dict(self) -> dict[str, int]:
            return vars(self)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = Config()
            self.projections = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)) for _ in range(2))
            self.blocks = nn.Sequential(residual(), residual())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for projection in self.projections:
                x = projection(x)
            return self.blocks(x).mean(1)

    torch.manual_seed(0)
    model = Model()
    assert list(seen(model, torch.randn(6, 8)).blocks) == ["blocks.0", "blocks.1"]
    assert not [name for name in findings(model).blocks if name.startswith("projections")]


# --- kinds of sums that the zoo found ------------------------------------------------------------------------


def test_a_layer_whose_attention_is_a_block_of_its_own_is_one_block_also_outside_of_a_list() -> None:
    """As the first layer of a Perceiver: the attention adds to its input, and the layer its MLP to that."""
    torch.manual_seed(0)
    layer = Block(lambda b, x: (h := b.attention(x)) + b.mlp(h), attention=residual(), mlp=mlp())
    found = seen(around(layer), torch.randn(6, 8))
    assert {name: block.branches for name, block in found.blocks.items()} == {
        "block": ("block.attention.f", "block.mlp")
    }
    row = Block(lambda b, x: (h := b.two(b.one(x))) + b.f(h), one=residual(), two=residual(), f=mlp())
    assert list(seen(around(row), torch.randn(6, 8)).blocks) == ["block.one", "block.two"], "a row of blocks is none"


def test_a_stream_to_which_a_branch_of_another_stream_is_added_is_told() -> None:
    """As a layer of a Reformer."""

    def forward(b: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
        y = y + b.attention(x)
        return x + b.feed_forward(y), y

    torch.manual_seed(0)
    block = Block(forward, attention=mlp(), feed_forward=mlp())
    found = seen(around(block), torch.randn(6, 8), torch.randn(6, 8))
    assert found.blocks["block"].branches == ("block.attention", "block.feed_forward")
    assert found.sums["block"].obstacle == "adds branches to more than one of its outputs"


def test_what_is_less_its_own_mean_has_no_branch() -> None:
    """As the decomposition of a series in an Autoformer."""

    def forward(b: Any, x: torch.Tensor) -> torch.Tensor:
        h = b.norm(x + b.f(x))
        return h - b.pool(h)

    torch.manual_seed(0)
    block = Block(forward, f=mlp(), norm=nn.LayerNorm(8), pool=nn.AvgPool1d(3, 1, 1))
    assert seen(around(block), torch.randn(2, 5, 8)).blocks["block"].branches == ("block.f",)


# --- cost, other threads, other defaults ---------------------------------------------------------------------


def test_sums_that_share_a_source_are_not_searched_anew_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 1,000 of them the first look took 4.9 s; now every value is judged once a source."""

    class Fan(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(width))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            return self.head(torch.stack([torch.tanh(x + layer(x)) for layer in self.layers]).mean(0))

    judged = 0
    facts = block_sums._Inside._facts

    def counted(self: Any, x: int, values: range, *args: Any, **kwargs: Any) -> dict[int, int]:
        nonlocal judged
        judged += len(values)
        return facts(self, x, values, *args, **kwargs)

    monkeypatch.setattr(block_sums._Inside, "_facts", counted)
    torch.manual_seed(0)
    found = seen(Fan(100), torch.randn(6, 5))
    assert found.notes == (
        "100 sums of an input and a branch lie outside of any module that could be removed: in Fan.forward",
    )
    assert found.recording is not None
    assert judged < 3 * len(found.recording.nodes)


def test_threads_that_share_a_monitor_measure_one_after_the_other() -> None:
    torch.manual_seed(0)
    model = OfTwoBlocks().train()
    monitor = LayerMonitor(model, (torch.randn(6, 5), LABELS), grid=None, margin=False)
    failures: list[str] = []

    def measure() -> None:
        try:
            for _ in range(5):
                monitor.measure()
        except Exception as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=measure) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert monitor.history.steps == list(range(20))
    assert all(module.training for module in model.modules())


def test_a_second_thread_waits_until_the_first_has_looked() -> None:
    model, inside, entered = OfTwoBlocks(), threading.Event(), threading.Event()

    def look() -> None:
        inside.wait()
        with evaluating(model):
            entered.set()

    thread = threading.Thread(target=look)
    thread.start()
    with evaluating(model):
        inside.set()
        assert not entered.wait(0.05)
    thread.join()
    assert entered.is_set()


@pytest.mark.parametrize("as_stream", [False, True])
def test_a_default_device_without_values_is_left_aside(as_stream: bool) -> None:
    torch.manual_seed(0)
    model, x = OfTwoBlocks(), torch.randn(6, 5)
    probe = (x, LABELS)
    expected = LayerMonitor(model, [probe] * 2 if as_stream else probe, grid=None).measure()
    with torch.device("meta"):
        report = LayerMonitor(model, [probe] * 2 if as_stream else probe, grid=None).measure()
        assert torch.empty(0).is_meta
    assert {name: result.num_bundles for name, result in report.items()} == {
        name: result.num_bundles for name, result in expected.items()
    }


def test_what_a_module_keeps_of_its_weights_in_evaluation_mode_goes_again() -> None:
    """As attention biases in LeViT and TinyViT of timm: kept until train() is called, they would be those of now."""

    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f, self.cache, self.latest = nn.Linear(8, 8), {}, None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not self.training and "bias" not in self.cache:
                self.cache["bias"] = self.latest = self.f.bias * 2  # type: ignore[assignment]
            return x + self.f(x) + (self.f.bias * 2 if self.training else self.cache["bias"])

    torch.manual_seed(0)
    keeps = Keeps()
    model = nn.Sequential(nn.Linear(5, 8), keeps, nn.Linear(8, 3)).train()
    report_of(model, torch.randn(6, 5))
    assert keeps.cache == {}
    assert keeps.latest is None


def test_a_stack_whose_items_hold_equal_parts_is_none_of_the_blocks() -> None:
    """As CaiT of vit-pytorch: a list of pairs, whose two parts are of one class too."""

    def forward(b: Any, x: torch.Tensor) -> torch.Tensor:
        for one, two in b.layers:
            x = x + one(x)
            x = x + two(x)
        return x

    torch.manual_seed(0)
    stack = Block(forward, layers=nn.ModuleList(nn.ModuleList([mlp(), mlp()]) for _ in range(2)))
    assert not seen(around(stack), torch.randn(6, 8)).blocks

"""What a model costs, against sums worked out by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="cost: NOT TESTED HERE (no torch)")

from torch import nn  # noqa: E402

from cbkernels.models.cost import Cost, measure_cost, measure_costs  # noqa: E402

from .. import model_zoo  # noqa: E402


def cost_of(model: nn.Module, example: Any) -> Cost:
    return measure_cost(model, example, repeats=1)


def test_macs_of_dense_layers_and_convolutions() -> None:
    dense = cost_of(nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5)), torch.zeros(3, 10))
    assert (dense.parameters, dense.macs, dense.flops) == (325, 3 * (200 + 100), 2 * 3 * (200 + 100))
    convolution = cost_of(nn.Conv2d(4, 8, 3, padding=1, stride=2, bias=False), torch.zeros(2, 4, 10, 10))
    assert (convolution.parameters, convolution.macs) == (4 * 8 * 9, 2 * 5 * 5 * 8 * 4 * 9)


def test_fused_kernels_are_counted_as_the_products_they_are() -> None:
    """Attention, encoder layers and LSTMs have fast paths on a CPU for which torch has no formula."""
    n, t, width, hidden = 2, 5, 16, 32
    attention = t * t * width * 2
    layer = nn.TransformerEncoderLayer(width, 2, hidden, batch_first=True)
    expected = n * (t * 4 * width * width + attention + t * 2 * width * hidden)
    assert cost_of(layer, torch.zeros(n, t, width)).macs == expected
    lstm = nn.LSTM(8, 12, batch_first=True)
    assert cost_of(lstm, torch.zeros(n, t, 8)).macs == n * t * 4 * 12 * (8 + 12)
    block = model_zoo.Block(width, 2)
    assert cost_of(block, torch.zeros(n, t, width)).macs == n * (t * 12 * width * width + attention)


def test_shared_weights_count_once() -> None:
    model, example = model_zoo.nano_gpt()
    assert cost_of(model, example).parameters == sum(p.numel() for p in set(model.parameters()))


def test_peak_memory_is_the_weights_and_the_most_that_is_alive_at_once() -> None:
    """A chain of layers holds two outputs at a time, however long it is; a sum of kept outputs holds all."""
    layers = [nn.Linear(100, 100, bias=False) for _ in range(5)]
    weights, activations = 5 * 40_000, 400_000
    x = torch.zeros(1000, 100)
    assert cost_of(nn.Sequential(*layers), x).peak_memory_bytes == weights + 2 * activations

    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(layers)

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [layer(x) for layer in self.layers]

    assert cost_of(Keeps(), x).peak_memory_bytes == weights + 5 * activations
    assert cost_of(nn.Sequential(nn.ReLU(inplace=True), nn.Flatten()), x).peak_memory_bytes == 0
    tied = nn.Sequential(*layers)
    tied[0].weight = tied[1].weight
    assert cost_of(tied, x).peak_memory_bytes == weights - 40_000 + 2 * activations


def test_latency_is_the_median_and_the_tenths_of_the_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    from cbkernels.models import cost

    seconds = iter([9.0, 9.0, 9.0, *(i / 1000 for i in (7, 1, 10, 4, 2, 3, 11, 5, 6, 8, 9))])
    monkeypatch.setattr(cost, "_seconds", lambda *_: next(seconds))
    measured = measure_cost(nn.Linear(2, 2), torch.zeros(1, 2), repeats=11)
    assert (measured.latency_ms, measured.latency_ms_p10, measured.latency_ms_p90) == (6.0, 2.0, 10.0)
    assert next(seconds, None) is None


def test_latency_is_in_milliseconds() -> None:
    import time

    class Waits(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(0.02)
            return x

    assert 20 <= measure_cost(Waits(), torch.zeros(1), repeats=2).latency_ms < 10_000


def test_states_are_timed_in_turns() -> None:
    entered: list[str] = []
    states = {"a": lambda: entered.append("a"), "b": lambda: entered.append("b")}
    measure_costs(states, nn.Linear(2, 2), torch.zeros(1, 2), repeats=4)
    assert entered == ["a", "b"] * 7


@pytest.mark.parametrize("name", ["resnet_basic", "nano_gpt", "torch_encoder", "lstm_classifier"])
def test_measuring_leaves_the_model_and_torchs_settings_alone(name: str) -> None:
    model, example = model_zoo.build(name)
    torch.backends.mha.set_fastpath_enabled(True)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    settings = (torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled)
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    cost = cost_of(model, example)
    assert torch.equal(torch.rand(2), expected)
    assert model.training
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    assert settings == (
        torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled
    )  # fmt: skip
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert json.loads(json.dumps(cost.to_dict()))["device"] == "cpu"


def test_examples_may_be_tuples_and_dicts() -> None:
    class Two(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a @ b

    a, b = torch.zeros(2, 3), torch.zeros(3, 4)
    assert cost_of(Two(), (a, b)).macs == cost_of(Two(), {"b": b, "a": a}).macs == 24


@pytest.mark.parametrize("repeats", [0, -1, 2.0, True])
def test_refuses_repeats_that_are_no_count(repeats: Any) -> None:
    with pytest.raises(ValueError, match=f"repeats is {repeats}"):
        measure_cost(nn.Linear(2, 2), torch.zeros(1, 2), repeats=repeats)


def test_a_gpu_is_timed_and_counted_by_its_own_clocks() -> None:
    if not torch.cuda.is_available():
        pytest.skip("cost on a GPU: NOT TESTED HERE (no GPU)")
    model = nn.Sequential(nn.Linear(100, 100, bias=False), nn.Linear(100, 100, bias=False)).cuda()
    cost = cost_of(model, torch.zeros(1000, 100, device="cuda"))
    assert cost.device == "cuda"
    assert cost.latency_ms > 0
    assert cost.peak_memory_bytes >= 2 * 40_000 + 2 * 400_000

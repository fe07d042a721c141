"""Cut models are traced, compiled, exported and copied as they were before."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="cut blocks: NOT TESTED HERE (no torch)")

from torch import nn  # noqa: E402

from cbkernels.surgery.surgery import remove_layers  # noqa: E402


class PreNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dense = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.dense(self.norm(hidden))


class Projected(nn.Module):
    """A projection and an activation that works in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stride, self.unset = 2, None
        self.downsample = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
        self.dense, self.act = nn.Linear(8, 8), nn.LeakyReLU(0.1, inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.dense(x) + self.downsample(x))


class EndsInPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense, self.act = nn.Linear(8, 8), nn.LeakyReLU(0.1, inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.dense(x) + x)


class EndsInReLU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.dense(x) + x)


class Masked(nn.Module):
    """Takes more than one argument, which TorchScript would have to know."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return x + self.dense(x)


ONE_TENSOR = [PreNorm, Projected, EndsInPlace, EndsInReLU]


def scripted(model: nn.Module, x: torch.Tensor) -> Any:
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        return torch.jit.script(model)


def traced(model: nn.Module, x: torch.Tensor) -> Any:
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        return torch.jit.trace(model, x)


WAYS: dict[str, Callable[[nn.Module, torch.Tensor], Any]] = {
    "torch.fx": lambda model, x: torch.fx.symbolic_trace(model),
    "torch.jit.script": scripted,
    "torch.jit.trace": traced,
    "torch.export": lambda model, x: torch.export.export(model, (x,)).module(),
    "torch.compile": lambda model, x: torch.compile(model, backend="eager", fullgraph=True),
    "deepcopy": lambda model, x: copy.deepcopy(model),
    "pickle": lambda model, x: pickle.loads(pickle.dumps(model)),
}
SLOW = ("torch.export", "torch.compile")
"""Ways that one block has to show for all."""


def cut_model(block: type[nn.Module]) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 8), block(), block(), nn.Linear(8, 2)).eval(), torch.randn(5, 8)
    model, _ = remove_layers(model, "2", example=x)
    with torch.no_grad():
        return model, x, model(x)


@pytest.mark.parametrize(
    ("block", "way"),
    [(block, way) for block in ONE_TENSOR for way in WAYS if block is EndsInPlace or way not in SLOW],
)
def test_a_block_of_one_tensor_stays_one_for_every_compiler(block: type[nn.Module], way: str) -> None:
    model, x, expected = cut_model(block)
    hidden = x.clone()
    with torch.no_grad():
        assert torch.equal(WAYS[way](model, x)(x), expected)
        WAYS[way](model[2], x)(hidden)
    assert torch.equal(hidden, x), "its input may be another block's output"


@pytest.mark.parametrize("way", [way for way in WAYS if way != "torch.jit.script"])
def test_a_block_of_more_arguments_is_traced_too(way: str) -> None:
    model, x, expected = cut_model(Masked)
    with torch.no_grad():
        assert torch.equal(WAYS[way](model, x)(x), expected)


class CallsByName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([PreNorm(), PreNorm()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            if layer:  # what stands in its place is no empty list
                x = layer(hidden=x)
        return x


def test_the_tensor_may_come_by_name_as_before() -> None:
    torch.manual_seed(0)
    model, x = CallsByName(), torch.randn(5, 8)
    expected = model.layers[0](x)
    model, _ = remove_layers(model, "layers.1", example=x)
    calls: list[Any] = []
    model.layers[1].register_forward_hook(lambda *call: calls.append(call))
    assert torch.equal(model(x), expected)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), expected)
    assert len(calls) == 2


def test_what_is_left_is_told() -> None:
    model, _, _ = cut_model(Projected)
    assert "Projected cut: act(downsample)" in repr(model[2])
    assert (model[2].stride, model[2].unset, len(list(model[2].parameters()))) == (2, None, 4)
    model, _, _ = cut_model(Masked)
    assert repr(model[2]) == "CutBlock(Masked cut: x)"

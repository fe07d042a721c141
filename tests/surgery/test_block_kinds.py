"""The table of block kinds: one value teaches the package a block that no forward pass gives away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="block kinds: NOT TESTED HERE (no torch)")

from torch import nn  # noqa: E402

from cbkernels.models.block_kinds import BLOCK_KINDS, BlockKind, find_layer_stacks  # noqa: E402
from cbkernels.models.evaluation import evaluating  # noqa: E402
from cbkernels.models.residual_blocks import find_residual_blocks  # noqa: E402
from cbkernels.surgery.surgery import remove_layers  # noqa: E402


class Highway(nn.Module):
    """``(1 - gate(x)) * x + gate(x) * dense(x)``: the gate scales the input too, so a pass shows no shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.dense = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = torch.sigmoid(self.gate(x))
        return (1 - gate) * x + gate * self.dense(x)


class Tower(nn.Module):
    """Insists on as many layers as it says."""

    def __init__(self, height: int = 3) -> None:
        super().__init__()
        self.height, self.floors = height, nn.ModuleList([Highway() for _ in range(height)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i in range(self.height):
            x = self.floors[i](x)
        return x


def is_of_tower(modules: Any, name: str) -> bool:
    return isinstance(modules[name.rpartition(".")[0]], Tower)


HIGHWAY = BlockKind(
    "highway",
    "passes a gated part of its input on",
    branches=lambda block: ("dense",) if isinstance(block, Highway) else None,
    fills=is_of_tower,
    counted=lambda modules, name, kept: [(vars(modules[name.rpartition(".")[0]]), "height", len(kept))],
    passes_input=True,
)


@pytest.fixture
def known() -> Iterator[None]:
    BLOCK_KINDS.add(HIGHWAY)
    yield
    del BLOCK_KINDS["highway"]


def models() -> tuple[Any, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(Highway(), Tower(), Highway(), nn.Linear(8, 2)), torch.randn(6, 8)


def test_without_its_kind_the_block_is_none() -> None:
    model, x = models()
    assert find_residual_blocks(model) == {}
    with pytest.raises(ValueError, match="'2' \\(Highway\\) is in no residual block"):
        remove_layers(model, "2", example=x)
    assert find_layer_stacks(model) == []


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("with_example", [False, True])
def test_a_kind_that_is_added_is_found_and_removed(with_example: bool) -> None:
    model, x = models()
    expected = ["0", "1.floors.0", "1.floors.1", "1.floors.2", "2"]
    with evaluating(model) as inner:
        blocks = find_residual_blocks(inner, (lambda: inner(x)) if with_example else None)
    assert {name: (block.kind, block.branches) for name, block in blocks.items()} == {
        name: ("highway", (f"{name}.dense",)) for name in expected
    }
    floors = list(model[1].floors)
    by_hand = nn.Sequential(model[0], floors[0], floors[2], model[3])(x)
    before = model(x)
    model, surgery = remove_layers(model, ["1.floors.1", "2"], example=x if with_example else None)
    assert (list(model[1].floors), model[1].height) == ([floors[0], floors[2]], 2)
    assert torch.equal(model(x), by_hand)
    assert [(step.kind, step.remains) for step in surgery.steps] == [("highway", "nothing"), ("highway", "shortcut")]
    surgery.undo()
    assert model[1].height == 3
    assert torch.equal(model(x), before)


def test_every_kind_says_what_it_is() -> None:
    assert all(kind.does and name == kind.name for name, kind in BLOCK_KINDS.items())
    assert list(BLOCK_KINDS)[-1] == "residual block", "what a pass alone finds comes last"

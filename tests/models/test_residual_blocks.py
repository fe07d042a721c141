"""Which residual blocks are found in models as users write them, and what is never taken for one."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="residual blocks: NOT TESTED HERE (no torch)")

from torch import nn  # noqa: E402

from cbkernels.models.evaluation import evaluating  # noqa: E402
from cbkernels.models.residual_blocks import find_residual_blocks, findings  # noqa: E402

from .. import model_zoo  # noqa: E402


def found(model: Any, example: Any) -> dict[str, Any]:
    with evaluating(model) as inner:
        return find_residual_blocks(inner, lambda: model_zoo.call(inner, example))


def branches(model: Any, example: Any) -> dict[str, tuple[str, ...]]:
    return {name: block.branches for name, block in found(model, example).items()}


def of(blocks: list[str], *parts: str) -> dict[str, tuple[str, ...]]:
    return {block: tuple(f"{block}.{part}" for part in parts) for block in blocks}


RESNET = ["layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer2.2"]
EXPECTED = {
    "resnet_basic": of(RESNET, "bn2"),
    "resnet_bottleneck": of(RESNET, "bn3"),
    "branch_net": of(["1", "2", "3"], "branch"),
    "nano_gpt": of([f"transformer.h.{i}" for i in range(4)], "attn", "mlp"),
    "torch_encoder": of([f"encoder.layers.{i}" for i in range(3)], "self_attn", "linear2"),
    "plain_conv_net": {},
    "lstm_classifier": {},
    "one_relu_twice": {},
}
HUGGING_FACE = {
    "bert": of([f"encoder.layer.{i}" for i in range(4)], "attention.output.dense", "output.dense"),
    "bert_classifier": of([f"bert.encoder.layer.{i}" for i in range(4)], "attention.output.dense", "output.dense"),
    "gpt2": of([f"transformer.h.{i}" for i in range(4)], "attn", "mlp"),
    "gpt2_classifier": of([f"transformer.h.{i}" for i in range(4)], "attn", "mlp"),
    "llama": of([f"model.layers.{i}" for i in range(4)], "self_attn", "mlp"),
}
KINDS = {
    "resnet_basic": "basic block",
    "resnet_bottleneck": "bottleneck",
    "branch_net": "branch block",
    "torch_encoder": "torch transformer layer",
    "bert": "transformers layer",
    "bert_classifier": "transformers layer",
    "gpt2": "transformers layer",
    "gpt2_classifier": "transformers layer",
    "llama": "transformers layer",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_blocks_and_branches_of_models_as_users_write_them(name: str) -> None:
    assert branches(*model_zoo.build(name)) == EXPECTED[name]


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_blocks_and_branches_of_hugging_face_models(name: str) -> None:
    pytest.importorskip("transformers", reason="Hugging Face models: NOT TESTED HERE (no transformers)")
    assert branches(*model_zoo.build(name)) == HUGGING_FACE[name]


@pytest.mark.parametrize("name", KINDS)
def test_structure_alone_tells_known_kinds(name: str) -> None:
    if name in HUGGING_FACE:
        pytest.importorskip("transformers", reason="Hugging Face models: NOT TESTED HERE (no transformers)")
    model, example = model_zoo.build(name)
    alone = find_residual_blocks(model)
    assert list(alone) == list({**EXPECTED, **HUGGING_FACE}[name])
    assert {block.kind for block in alone.values()} == {KINDS[name]}
    assert {block.kind for block in found(model, example).values()} == {KINDS[name]}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["resnet_basic", "branch_net", "nano_gpt"])
def test_other_types_make_no_difference(name: str, dtype: Any) -> None:
    model, example = model_zoo.build(name)
    example = example.to(dtype) if example.is_floating_point() else example
    assert branches(model.to(dtype), example) == EXPECTED[name]


def test_autocast_makes_no_difference() -> None:
    model, example = model_zoo.nano_gpt()
    with torch.autocast("cpu", torch.bfloat16):
        assert branches(model, example) == EXPECTED["nano_gpt"]


# --- blocks under names of their own ----------------------------------------------------------------------


class OwnNames(nn.Module):
    """A projection, a functional ReLU and in-place addition, as in many CIFAR repositories."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Sequential() if inputs == outputs else nn.Sequential(nn.Conv2d(inputs, outputs, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.b(torch.relu(self.a(x)))
        out += self.shortcut(x)
        return nn.functional.relu(out, inplace=True)


def test_projections_and_what_is_behind_the_sum_are_told() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(OwnNames(3, 3), OwnNames(3, 5)), torch.randn(4, 3, 6, 6)
    with evaluating(model) as inner:
        sums = findings(inner, lambda: inner(x)).sums
    assert (sums["0"].shortcut, sums["0"].branches, sums["0"].behind) == (None, ("0.b",), "relu")
    assert (sums["1"].shortcut, sums["1"].branches, sums["1"].behind) == ("1.shortcut", ("1.b",), "relu")


class PostActivation(nn.Module):
    """Ends in an activation module that is no ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.act = nn.Linear(8, 8), nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(x + self.dense(x))


class Parallel(nn.Module):
    """Attention and MLP side by side, as in GPT-J."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.one, self.two = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.norm(x)
        return self.one(normed) + self.two(normed) + x


class Residual(nn.Module):
    """A wrapper around any function, as in ConvMixer."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fn(x) + x


def test_activations_and_parallel_branches() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(PostActivation(), Parallel()), torch.randn(6, 8)
    assert branches(model, x) == {"0": ("0.dense",), "1": ("1.one", "1.two")}
    with evaluating(model) as inner:
        assert findings(inner, lambda: inner(x)).sums["0"].behind == "0.act"


class OfWrappers(nn.Module):
    """A block made of two residual wrappers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Residual(nn.Linear(8, 8)), Residual(nn.Linear(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


def test_of_nested_blocks_items_of_lists_come_first_and_then_the_innermost() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 8)
    assert branches(nn.Sequential(OfWrappers(), nn.Linear(8, 8)), x) == {"0": ("0.first.fn", "0.second.fn")}
    stages = nn.Sequential(nn.Sequential(Residual(nn.Linear(8, 8)), Residual(nn.Linear(8, 8))), nn.Linear(8, 8))
    assert list(branches(stages, x)) == ["0.0", "0.1"]
    model = nn.Module()
    model.part = OfWrappers()
    model.forward = lambda x: model.part(x)  # type: ignore[method-assign]
    assert list(branches(model, x)) == ["part.first", "part.second"]


def test_blocks_are_listed_in_the_order_of_execution() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = Residual(nn.Linear(8, 8)), Residual(nn.Linear(8, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(x)) * 2

    torch.manual_seed(0)
    assert list(found(Backwards(), torch.randn(6, 8))) == ["first", "last"]


# --- what is hard to tell ---------------------------------------------------------------------------------


def test_branches_that_give_zeros_are_found_like_all_others() -> None:
    model, example = model_zoo.resnet_basic()
    nn.init.zeros_(model.layer2[0].bn2.weight)
    nn.init.zeros_(model.layer2[0].bn2.bias)
    assert branches(model, example) == EXPECTED["resnet_basic"]
    with evaluating(model) as inner:
        sums = findings(inner, lambda: inner(example)).sums
    assert {name: (found.shortcut, found.behind) for name, found in sums.items()} == {
        name: (f"{name}.downsample" if name == "layer2.0" else None, "relu") for name in RESNET
    }
    torch.manual_seed(0)
    model = nn.Sequential(Residual(nn.Linear(8, 8)), nn.Linear(8, 8))
    nn.init.zeros_(model[0].fn.weight)
    nn.init.zeros_(model[0].fn.bias)
    assert branches(model, torch.randn(6, 8)) == {"0": ("0.fn",)}


class TwoPaths(nn.Module):
    """A sum of two convolutions of the input has no shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, width), nn.Linear(8, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(x) + self.b(x)


class SometimesResidual(nn.Module):
    """Residual in its first call only."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.calls = nn.Linear(8, 8), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.dense(x) + x if self.calls == 1 else self.dense(x)


def test_sums_without_a_shortcut_are_no_blocks() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 8)
    assert found(nn.Sequential(TwoPaths(8), nn.Linear(8, 2)), x) == {}
    assert found(nn.Sequential(TwoPaths(6), nn.Linear(6, 2)), x) == {}
    shared = SometimesResidual()
    assert found(nn.Sequential(shared, nn.ReLU(), shared), x) == {}
    plain = nn.Sequential(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Identity()), nn.Linear(8, 2))
    assert found(plain, x) == {}
    assert found(plain, torch.zeros(6, 8)) == {}
    assert found(Residual(nn.Linear(8, 8)), x) == {}, "the model itself is no block"


def test_a_shared_block_is_one_block() -> None:
    torch.manual_seed(0)
    shared = Residual(nn.Linear(8, 8))
    assert branches(nn.Sequential(shared, nn.ReLU(), shared), torch.randn(6, 8)) == {"0": ("0.fn",)}


def test_a_look_alike_of_torchvisions_block_with_more_parts_is_judged_by_what_it_does() -> None:
    class Excited(model_zoo.BasicBlock):
        def __init__(self, width: int) -> None:
            super().__init__(width, width)
            self.gate = nn.Conv2d(width, width, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
            return torch.relu(torch.sigmoid(self.gate(out)) * out)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Excited(4))
    assert find_residual_blocks(model) == {}
    assert found(model, torch.randn(2, 3, 5, 5)) == {}


def test_what_is_around_of_blocks_is_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """What blocks are made of would be searched once more for every module around them."""
    from cbkernels.models import block_sums

    searched: list[str] = []
    explain = block_sums._Inside.explain
    monkeypatch.setattr(block_sums._Inside, "explain", lambda self: searched.append(self._name) or explain(self))
    torch.manual_seed(0)
    model = nn.Sequential(Residual(nn.Sequential(*[model_zoo.Block(8, 2) for _ in range(3)])), nn.Linear(8, 2))
    assert list(found(model, torch.randn(2, 5, 8))) == ["0.fn.0", "0.fn.1", "0.fn.2"]
    assert not {"0", "0.fn"} & set(searched)
    assert len(searched) == 9, "three blocks and their attention and MLP"


# --- nothing stays ----------------------------------------------------------------------------------------


def test_a_search_leaves_nothing_on_the_model_even_if_it_raises() -> None:
    model, example = model_zoo.nano_gpt()
    model.train()
    state = copy.deepcopy(model.state_dict())
    found(model, example)

    def fail() -> None:
        model_zoo.call(model, example)
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"), evaluating(model):
        find_residual_blocks(model, fail)
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert module.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_a_call_that_raises_and_is_caught_does_no_harm() -> None:
    class Fails(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("caught by its caller")

    class Careful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fails, self.fn = Fails(), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            try:
                return self.fails(x)
            except RuntimeError:
                return x + self.fn(x)

    torch.manual_seed(0)
    assert branches(nn.Sequential(Careful(), nn.Linear(8, 2)), torch.randn(6, 8)) == {"0": ("0.fn",)}

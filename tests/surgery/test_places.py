"""A name removes what it names: not the list around it, not a block's other place, not what an adapter is part of."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="places of blocks: NOT TESTED HERE (no torch)")

from torch import nn  # noqa: E402

from cbkernels.models.monitor import LayerMonitor  # noqa: E402
from cbkernels.surgery.surgery import remove_layers  # noqa: E402


class Block(nn.Module):
    def __init__(self, dense: nn.Module | None = None) -> None:
        super().__init__()
        self.norm, self.dense = nn.LayerNorm(8), nn.Linear(8, 8) if dense is None else dense

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.dense(self.norm(x))


def without(model: nn.Module, names: list[str], x: torch.Tensor) -> torch.Tensor:
    """What the model gives with these modules returning their input."""
    hooks = [model.get_submodule(n).register_forward_hook(lambda module, inputs, output: inputs[0]) for n in names]
    try:
        return model(x)
    finally:
        for hook in hooks:
            hook.remove()


def unchanged(model: nn.Module, names: Any, x: torch.Tensor, match: str, **options: Any) -> None:
    """The removal is refused in one sentence, and the model is as it was."""
    before, parts = model(x), dict(model.named_modules(remove_duplicate=False))
    with pytest.raises(ValueError, match=match) as caught:
        remove_layers(model, names, **options)
    assert "\n" not in str(caught.value)
    assert dict(model.named_modules(remove_duplicate=False)) == parts
    assert torch.equal(model(x), before)


# --- one block at several places --------------------------------------------------------------------------


class Twice(nn.Module):
    """Calls one block twice by one name, and another by two names."""

    def __init__(self) -> None:
        super().__init__()
        self.again, self.first, self.last = Block(), Block(), Block()
        self.second = self.first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.second(self.again(self.first(self.again(x)))))


@pytest.mark.parametrize("with_example", [False, True])
def test_a_block_at_two_places_goes_from_both_or_from_none(with_example: bool) -> None:
    torch.manual_seed(0)
    model, x = Twice(), torch.randn(3, 8)
    options = {"example": x} if with_example else {}
    for one, other in (("first", "second"), ("second", "first"), ("first#1", "second"), ("second.dense", "first")):
        sentence = f"'first', 'second' are one Block, which would go from all these places; name '{other}' too"
        unchanged(model, one, x, sentence, **options)
    expected = without(model, ["first"], x)
    model, surgery = remove_layers(model, ["second.dense", "first#1"], **options)
    assert (surgery.removed, model.first) == (["first"], model.second)
    assert torch.equal(model(x), expected)
    expected = without(model, ["again"], x)
    model, _ = remove_layers(model, "again#1", **options)
    assert torch.equal(model(x), expected), "one place, called twice"


class ByAnotherName(nn.Module):
    """Keeps its blocks in a list too, by which it calls them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Block(), Block()
        self.stages = nn.ModuleList([self.one, self.two])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for stage in self.stages:
            x = stage(x)
        return x


@pytest.mark.parametrize("name", ["one", "stages.0", "stages.0.dense"])
def test_a_block_with_two_names_that_works_once_is_one_block(name: str) -> None:
    torch.manual_seed(0)
    model, x = ByAnotherName(), torch.randn(3, 8)
    expected = without(model, ["one"], x)
    unchanged(model, name, x, "or pass example= if it works in one of them only")
    model, surgery = remove_layers(model, name, example=x)
    assert torch.equal(model(x), expected)
    assert not any(isinstance(part, nn.Linear) for part in model.stages[0].modules())
    surgery.undo()
    assert model.stages[0] is model.one


def test_items_of_a_list_that_are_one_layer_are_deleted_one_by_one() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    other = model.layers[2]
    model.layers[1] = model.layers[0]
    x = torch.randn(2, 3, 8)
    model, surgery = remove_layers(model, "layers.1.linear1", example=x)
    assert (surgery.removed, list(model.layers), model.num_layers) == (["layers.1"], [model.layers[0], other], 2)
    assert torch.equal(model(x), other(model.layers[0](x)))


# --- lists of blocks, and sums that no module makes -------------------------------------------------------


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class Encoder(nn.Module):
    """Adds the parts of its layers in its own loop, as vit-pytorch's do."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.ModuleList([FeedForward(), FeedForward()]) for _ in range(depth)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for attn, ff in self.layers:
            x = attn(x) + x
            x = ff(x) + x
        return x


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.transformer, self.head = nn.Linear(4, 8), Encoder(), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.transformer(self.embed(x)).mean(1))


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("with_example", [False, True])
@pytest.mark.parametrize("is_dead", [False, True])
def test_the_module_that_holds_the_list_never_goes_for_a_layer(is_dead: bool, with_example: bool, force: bool) -> None:
    torch.manual_seed(0)
    model, x = ViT(), torch.randn(2, 3, 4)
    if is_dead:
        nn.init.zeros_(model.transformer.layers[1][0].net[3].weight)
        nn.init.zeros_(model.transformer.layers[1][0].net[3].bias)
    options: Any = {"example": x, "force": force} if with_example else {"force": force}
    unchanged(model, "transformer.layers.1.0", x, r"'transformer.layers.1.0' \(FeedForward\) is ", **options)
    unchanged(model, "transformer.layers.1", x, r"'transformer.layers.1' \(ModuleList\) ", **options)
    unchanged(model, "transformer.layers", x, r"'transformer.layers' \(ModuleList\) ", **options)
    report = LayerMonitor(model, probe=(x, torch.tensor([0, 1])), grid=None).measure()
    assert report.conflicting() == (["transformer.layers.1.0"] if is_dead else [])
    if is_dead:
        unchanged(model, report.conflicting(), x, "'transformer.layers.1.0'", **options)


class Stage(nn.Module):
    """Keeps blocks of two classes in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict({"block0": Gained(), "block1": Block(), "block2": Gained()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks.values():
            x = block(x)
        return x


def test_a_stage_never_goes_for_one_block_of_its_dictionary() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 8), Stage(), Stage(), nn.Linear(8, 2)), torch.randn(3, 8)
    expected = without(model, ["1.blocks.block1"], x)
    unchanged(model, "1", x, "holds some; name those to remove: '1.blocks.block0', '1.blocks.block1'", example=x)
    model, surgery = remove_layers(model, "1.blocks.block1.dense", example=x)
    assert surgery.removed == ["1.blocks.block1"]
    assert torch.equal(model(x), expected)


class Inline(nn.Module):
    """Adds branches in its own forward, one of them scaled and behind a view."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8))
        self.plain, self.gain = nn.Linear(8, 8), nn.Parameter(torch.ones(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.plain(x)
        x = x + self.a(x)
        return x + self.gain * self.b(x).view(x.shape)


def test_force_never_doubles_the_input_of_a_branch() -> None:
    torch.manual_seed(0)
    model, x = Inline(), torch.randn(3, 8)
    for name in ("a", "b", "b.0"):
        sentence = rf"'{name}' \(\w+\) is a branch whose sum lies outside .* would be added twice; give block and sum"
        unchanged(model, name, x, sentence, example=x, force=True)
        unchanged(model, name, x, r"is no residual block; pass example= to show where its output goes", force=True)
    expected = without(model, ["plain"], x)
    model, _ = remove_layers(model, "plain", example=x, force=True)
    assert torch.equal(model(x), expected)


class Tree(nn.Module):
    """A block that gets its shortcut from outside, two of its own, and a root that concatenates, as in DLA."""

    def __init__(self) -> None:
        super().__init__()
        self.tree1, self.tree2, self.tree3 = Joined(), Block(), TwoParts()
        self.root = nn.Linear(24, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = self.tree1(x, x * 2)
        two = self.tree2(one)
        return self.root(torch.cat([one, two, self.tree3(two)], -1))


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, shortcut: torch.Tensor) -> torch.Tensor:
        return self.dense(x) + shortcut + self.dense(shortcut)


class TwoParts(nn.Module):
    """Makes its shortcut in two attributes, as timm's legacy Xception."""

    def __init__(self) -> None:
        super().__init__()
        self.skip, self.skipbn = nn.Linear(8, 8, bias=False), nn.LayerNorm(8)
        self.rep = nn.Sequential(nn.ReLU(), nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rep(x) + self.skipbn(self.skip(x))


def test_a_refusal_lists_only_what_can_be_removed() -> None:
    torch.manual_seed(0)
    model, x = Tree(), torch.randn(3, 8)
    first = r"'tree1' \(Joined\) adds to what is not the first of its inputs, so nothing can stand in its place; "
    unchanged(model, "tree1", x, first + "can be removed: 'tree2'$", example=x)
    third = r"makes its shortcut with 'tree3.skip' and 'tree3.skipbn', not with one module, .*removed: 'tree2'$"
    unchanged(model, "tree3.rep", x, third, example=x)
    alone = nn.Sequential(TwoParts(), TwoParts())
    unchanged(alone, "0", x, "none of the model's residual blocks can be removed", example=x)
    assert remove_layers(model, "tree2", example=x)[1].removed == ["tree2"]


# --- blocks that look like others -------------------------------------------------------------------------


class PlainConvolutions(nn.Module):
    """Has the parts of torchvision's block and adds nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU()
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))


class PlainBranch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.branch(x))


@pytest.mark.parametrize("kind", [PlainConvolutions, PlainBranch])
def test_parts_of_well_known_names_make_no_block_residual(kind: Any) -> None:
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(*[kind() for _ in range(3)], nn.Flatten(), nn.Linear(32, 2)).eval(),
        torch.randn(2, 8, 2, 2),
    )
    assert LayerMonitor(model, probe=(x, torch.tensor([0, 1])), grid=None).measure().blocks == {}
    for name in ("1", next(f"1.{part}" for part in model[1]._modules)):
        unchanged(model, name, x, "is in no residual block; no residual block was found", example=x)
        unchanged(model, name, x, "adds no branch to its input; pass example=")


class Gained(nn.Module):
    """Its first parameter has no dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.dense = nn.Parameter(torch.tensor(0.5)), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.gain * self.dense(x)


@pytest.mark.parametrize("with_example", [False, True])
def test_a_block_whose_first_parameter_has_no_dimension_is_tried(with_example: bool) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 8), Gained(), Gained()), torch.randn(3, 8)
    expected = without(model, ["1"], x)
    model, _ = remove_layers(model, "1", **({"example": x} if with_example else {}))
    assert torch.equal(model(x), expected)


class Parallel(nn.Module):
    """Two branches of one norm, as in GPT-J."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attn, self.mlp = nn.LayerNorm(8), nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.GELU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        return x + self.attn(y) + self.mlp(y)


@pytest.mark.parametrize("autocast", [None, "bfloat16"])
def test_parallel_branches_are_found_under_autocast_too(autocast: str | None) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 8), Parallel(), nn.Linear(8, 2)), torch.randn(4, 8)
    nn.init.zeros_(model[1].attn.weight)
    nn.init.zeros_(model[1].attn.bias)
    report = LayerMonitor(model, probe=(x, torch.arange(4) % 2), grid=None, autocast=autocast).measure()
    assert (list(report), report.conflicting()) == (["1.attn", "1.mlp", "1"], ["1.attn"])


# --- adapters ---------------------------------------------------------------------------------------------


class LoRA(nn.Module):
    """A layer with an adapter that begins with zeros, as PEFT's."""

    def __init__(self, base_layer: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base_layer.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base_layer.out_features, bias=False)})
        nn.init.zeros_(self.lora_B["default"].weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x)) * 2


def adapted(is_in_block: bool) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    middle = [Block(LoRA(nn.Linear(8, 8))) for _ in range(3)] if is_in_block else [LoRA(nn.Linear(8, 8))] * 1
    return nn.Sequential(nn.Linear(4, 8), *middle, nn.ReLU(), nn.Linear(8, 2)), torch.randn(6, 4)


@pytest.mark.parametrize("is_in_block", [True, False])
def test_an_adapter_is_part_of_its_layer(is_in_block: bool) -> None:
    """Its zeros make no layer conflict, and it is no residual block of its own."""
    model, x = adapted(is_in_block)
    report = LayerMonitor(model, probe=(x, torch.arange(6) % 2), grid=None).measure()
    assert report.conflicting() == []
    assert not any("lora" in name for name in report)
    if not is_in_block:
        for name in ("1", "1.lora_B.default", "1.base_layer"):
            unchanged(model, name, x, "is in no residual block", example=x)
        return
    expected = without(model, ["2"], x)
    model, surgery = remove_layers(model, "2.dense.lora_B.default", example=x)
    assert surgery.removed == ["2"]
    assert torch.equal(model(x), expected)
    assert isinstance(copy.deepcopy(model)[1].dense, LoRA)

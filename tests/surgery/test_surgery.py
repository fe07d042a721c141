"""Removing blocks: what remains is what was promised, the optimizer loses what is gone, refusals change nothing."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="surgery: NOT TESTED HERE (no torch)")

from torch import nn  # noqa: E402

from cbkernels.surgery.pruning.prune_blocks import prune_blocks  # noqa: E402
from cbkernels.surgery.surgery import remove_layers  # noqa: E402
from cbkernels.training.loop.lookahead import Lookahead  # noqa: E402

from .. import model_zoo  # noqa: E402
from ..model_zoo import build, call, gradient_step, output_of, same  # noqa: E402

REMOVED = {
    "resnet_basic": ["layer1.1", "layer2.0", "layer2.2"],
    "resnet_bottleneck": ["layer1.0", "layer2.1"],
    "branch_net": ["2", "3"],
    "nano_gpt": ["transformer.h.0", "transformer.h.2"],
    "torch_encoder": ["encoder.layers.0"],
    "bert": ["encoder.layer.0", "encoder.layer.2"],
    "bert_classifier": ["bert.encoder.layer.1"],
    "gpt2": ["transformer.h.1"],
    "gpt2_classifier": ["transformer.h.3"],
    "llama": ["model.layers.0", "model.layers.1"],
}
"""Blocks that the tests remove."""


@pytest.fixture(params=REMOVED)
def name(request: pytest.FixtureRequest) -> str:
    if request.param in model_zoo.HUGGING_FACE:
        pytest.importorskip("transformers", reason="Hugging Face models: NOT TESTED HERE (no transformers)")
    return str(request.param)


def layer_list(model: Any, block: str) -> tuple[Any, int]:
    parent, _, index = block.rpartition(".")
    return model.get_submodule(parent), int(index)


def expected_output(name: str, blocks: list[str]) -> torch.Tensor:
    """The same model with the forwards of the blocks replaced by hand."""
    model, example = build(name)

    def shortcut(block: Any) -> Any:
        projection = getattr(block, "downsample", None) or getattr(block, "shortcut", None)
        relu = name.startswith(("resnet", "branch"))

        def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            y = x if projection is None else projection(x)
            return y.clamp(min=0) if relu else y

        return forward

    for block in blocks:
        module = model.get_submodule(block)
        module.forward = shortcut(module)
    return output_of(model, example)


def state_of(model: Any, optimizer: Any) -> Any:
    return copy.deepcopy((model.state_dict(), optimizer.state_dict()))


# --- what remains -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_example", [False, True])
def test_the_shortcut_remains_and_nothing_else(name: str, with_example: bool) -> None:
    model, example = build(name)
    before = {parameter: key for key, parameter in model.named_parameters()}
    cut, surgery = remove_layers(model, REMOVED[name], example=example if with_example else None)
    assert cut is model
    assert surgery.removed == REMOVED[name]
    assert torch.equal(output_of(model, example), expected_output(name, REMOVED[name]))
    assert model.training
    assert surgery.parameters_after == sum(p.numel() for p in model.parameters()) < surgery.parameters_before
    kept = [before[p] for p in model.parameters()]
    projections = ("downsample", "shortcut")
    inside = [key for key in kept if any(key.startswith(f"{block}.") for block in REMOVED[name])]
    assert all(any(part in key for part in projections) for key in inside), inside
    if name == "resnet_basic":
        assert "layer2.0.downsample.0.weight" in dict(model.named_parameters())


def test_names_of_branches_and_of_repeated_calls_mean_their_block(name: str) -> None:
    block = REMOVED[name][-1]
    model, _ = build(name)
    inner = next(key for key, _ in model.get_submodule(block).named_modules() if key)
    _, surgery = remove_layers(model, [f"{block}.{inner}#1", block, f"{block}#2", block])
    assert surgery.removed == [block]


def test_a_name_alone_and_no_name_at_all() -> None:
    model, example = model_zoo.resnet_basic()
    before = output_of(model, example)
    same_model, surgery = remove_layers(model, [])
    assert (same_model, surgery.removed, surgery.parameters_after) == (model, [], surgery.parameters_before)
    surgery.undo()
    assert torch.equal(output_of(model, example), before)
    assert remove_layers(model, "layer1.1")[1].removed == ["layer1.1"]


def test_surgeries_compose_and_names_mean_the_model_as_it_is() -> None:
    model, example = model_zoo.nano_gpt()
    for block in ("transformer.h.3", "transformer.h.1"):
        model, _ = remove_layers(model, block, example=example)
    assert torch.equal(output_of(model, example), expected_output("nano_gpt", ["transformer.h.1", "transformer.h.3"]))
    with pytest.raises(ValueError, match=r"'transformer.h.1' was removed already"):
        remove_layers(model, "transformer.h.1")


def test_deleted_layers_move_the_later_ones_up() -> None:
    model, example = model_zoo.torch_encoder()
    for _ in range(2):
        model, surgery = remove_layers(model, "encoder.layers.0")
    assert surgery.removed == ["encoder.layers.0"]
    assert len(model.encoder.layers) == model.encoder.num_layers == 1
    assert torch.equal(
        output_of(model, example), expected_output("torch_encoder", [f"encoder.layers.{i}" for i in (0, 1)])
    )


def test_the_input_is_never_overwritten() -> None:
    """An in-place ReLU behind an identity would change the output of the block before, and its gradient."""
    model, _ = model_zoo.resnet_basic()
    model, _ = remove_layers(model, ["layer1.0", "layer1.1"])
    x = torch.randn(2, 8, 6, 6)
    kept = x.clone()
    y = model.layer1(x)
    assert torch.equal(x, kept)
    assert torch.equal(y, x.clamp(min=0))


class Leaky(nn.Module):
    """Ends in an in-place activation of its own and returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.stride = 3
        self.dense, self.act = nn.Linear(8, 8), nn.LeakyReLU(0.1, inplace=True)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> tuple[torch.Tensor, None]:
        return self.act(self.dense(x) + x), None


class Unpacks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Leaky(), Leaky()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x, nothing = layer(x, scale=float(layer.stride))
            assert nothing is None
        return x * 2


@pytest.mark.parametrize("with_example", [False, True])
def test_activations_tuples_and_attributes_of_the_block_are_kept(with_example: bool) -> None:
    torch.manual_seed(0)
    model, x = Unpacks(), torch.randn(6, 8)
    hidden, _ = model.layers[0](x)
    model, _ = remove_layers(model, "layers.1", example=x if with_example else None)
    assert torch.equal(model(x), nn.functional.leaky_relu(hidden, 0.1) * 2)
    assert isinstance(dict(model.named_modules())["layers.1.act"], nn.LeakyReLU)
    kept = hidden.clone()
    model.layers[1](hidden)
    assert torch.equal(hidden, kept), "the activation works in place, but not on another block's output"


class Misnamed(nn.Module):
    """Ends in an activation that is not what it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.relu = nn.Linear(8, 8), nn.LeakyReLU(0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(x + self.dense(x))


@pytest.mark.parametrize("with_example", [False, True])
def test_an_activation_that_is_called_relu_is_not_taken_for_one(with_example: bool) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(Misnamed(), Misnamed(), nn.Linear(8, 2)), torch.randn(6, 8)
    with pytest.raises(ValueError, match=r"'1' \(Misnamed\) ends in a part that is called 'relu' and is no ReLU"):
        remove_layers(model, "1", example=x if with_example else None)
    assert isinstance(model[1], Misnamed)


def test_a_post_norm_layer_outside_of_an_encoder_becomes_a_passage() -> None:
    torch.manual_seed(0)
    layers = [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2)]
    model = nn.Sequential(*layers, nn.Linear(8, 2))
    x = torch.randn(3, 5, 8)
    model, _ = remove_layers(model, "1")
    assert torch.equal(output_of(model, x), output_of(nn.Sequential(layers[0], model[2]), x))


def test_a_shared_block_is_replaced_everywhere() -> None:
    torch.manual_seed(0)
    block = model_zoo.Block(8, 2)
    model = nn.Sequential(block, block, model_zoo.Block(8, 2), nn.Linear(8, 2))
    model, surgery = remove_layers(model, ["1", "0.mlp"], example=torch.randn(2, 3, 8))
    assert surgery.removed == ["0"]
    assert model[0] is model[1]
    assert block not in list(model.modules())


# --- optimizers -------------------------------------------------------------------------------------------


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "radam": lambda p: torch.optim.RAdam(p, lr=1e-2),
    "lookahead": lambda p: Lookahead(torch.optim.RAdam(p, lr=1e-2), 2, 0.5),
}


def in_two_groups(model: Any) -> list[dict[str, Any]]:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    return [{"params": matrices, "weight_decay": 0.1}, {"params": [p for p in model.parameters() if p.ndim <= 1]}]


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("model_name", ["resnet_basic", "nano_gpt"])
def test_the_optimizer_loses_exactly_what_is_gone(kind: str, model_name: str) -> None:
    model, example = build(model_name)
    optimizer = OPTIMIZERS[kind](in_two_groups(model))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    for _ in range(3):
        gradient_step(model, example, optimizer)
    scheduler.step()
    inner = getattr(optimizer, "inner", optimizer)
    before = {p: copy.deepcopy(dict(inner.state[p])) for p in model.parameters()}
    slow = {p: optimizer.state[p]["slow"].clone() for p in model.parameters()} if kind == "lookahead" else {}
    rates = [group["lr"] for group in optimizer.param_groups]
    model, _ = remove_layers(model, REMOVED[model_name], optimizer=optimizer)
    live = set(model.parameters())
    assert [p for group in optimizer.param_groups for p in group["params"]] == [
        p for group in in_two_groups(model) for p in group["params"]
    ]
    assert [group["lr"] for group in optimizer.param_groups] == rates
    assert optimizer.param_groups[0]["weight_decay"] == 0.1
    assert set(inner.state) == live
    assert all(same(dict(inner.state[p]), before[p]) for p in live)
    if kind == "lookahead":
        assert set(optimizer.state) == live
        assert all(torch.equal(optimizer.state[p]["slow"], slow[p]) for p in live)
    weights = {p: p.detach().clone() for p in live}
    gradient_step(model, example, optimizer)
    assert all(not torch.equal(p, weights[p]) for p in live if p.grad.any()), "every live parameter moves"
    assert sum(bool(p.grad.any()) for p in live) >= len(live) - 1
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [rate / 2 for rate in rates]
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def test_a_group_may_lose_all_its_parameters() -> None:
    for kind in OPTIMIZERS.values():
        model, example = model_zoo.resnet_basic()
        of_block = set(model.layer1[1].parameters())
        rest = [p for p in model.parameters() if p not in of_block]
        optimizer = kind([{"params": rest}, {"params": list(of_block)}])
        gradient_step(model, example, optimizer)
        model, _ = remove_layers(model, "layer1.1", optimizer=optimizer)
        assert [len(group["params"]) for group in optimizer.param_groups] == [len(rest), 0]
        gradient_step(model, example, optimizer)


def test_parameters_shared_with_what_stays_are_kept() -> None:
    model, example = model_zoo.nano_gpt()
    blocks = model.transformer.h
    blocks[2].mlp.c_fc.weight = blocks[0].mlp.c_fc.weight
    optimizer = torch.optim.Adam(model.parameters())
    gradient_step(model, example, optimizer)
    model, _ = remove_layers(model, "transformer.h.2", optimizer=optimizer)
    shared = blocks[0].mlp.c_fc.weight
    assert any(p is shared for p in optimizer.param_groups[0]["params"])
    assert shared in optimizer.state
    assert len(optimizer.param_groups[0]["params"]) == len(list(model.parameters()))


def test_wrappers_around_an_optimizer_are_looked_through() -> None:
    accelerate = pytest.importorskip("accelerate", reason="Accelerate: NOT TESTED HERE (no accelerate)")
    model, example = model_zoo.nano_gpt()
    optimizer = accelerate.Accelerator(cpu=True).prepare(torch.optim.AdamW(model.parameters()))
    gradient_step(model, example, optimizer)
    model, _ = remove_layers(model, "transformer.h.2", optimizer=optimizer)
    assert set(optimizer.optimizer.state) == set(model.parameters()) == set(optimizer.param_groups[0]["params"])
    gradient_step(model, example, optimizer)


def test_refuses_optimizers_that_cannot_lose_parameters() -> None:
    model, _ = model_zoo.resnet_basic()
    with pytest.raises(ValueError, match="optimizer is LBFGS, whose state belongs to all parameters together"):
        remove_layers(model, "layer1.1", optimizer=torch.optim.LBFGS(model.parameters()))
    with pytest.raises(TypeError, match="optimizer is a float"):
        remove_layers(model, "layer1.1", optimizer=0.1)  # type: ignore[arg-type]
    other = torch.optim.SGD(nn.Linear(2, 2).parameters())
    with pytest.raises(ValueError, match="holds none of the model's"):
        remove_layers(model, "layer1.1", optimizer=other)
    assert isinstance(model.layer1[1], model_zoo.BasicBlock)


# --- undo, forget -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["adam", "lookahead"])
def test_undo_puts_everything_back(name: str, kind: str) -> None:
    model, example = build(name)
    optimizer = OPTIMIZERS[kind](in_two_groups(model))
    for _ in range(3):
        gradient_step(model, example, optimizer)
    before, output, attributes = state_of(model, optimizer), output_of(model, example), sorted(vars(model))
    config = copy.deepcopy(model.config.to_dict()) if hasattr(model, "config") else None
    indices = [m.layer_idx for m in model.modules() if hasattr(m, "layer_idx")]
    model, surgery = remove_layers(model, REMOVED[name], optimizer=optimizer)
    assert not same(state_of(model, optimizer), before)
    surgery.undo()
    assert same(state_of(model, optimizer), before)
    assert torch.equal(output_of(model, example), output)
    assert sorted(vars(model)) == attributes
    assert [m.layer_idx for m in model.modules() if hasattr(m, "layer_idx")] == indices
    assert config is None or model.config.to_dict() == config
    gradient_step(model, example, optimizer)
    with pytest.raises(ValueError, match="was undone or forgotten already"):
        surgery.undo()


@pytest.mark.parametrize(("model_name", "block"), [("resnet_basic", "layer1.1"), ("torch_encoder", "encoder.layers.1")])
def test_a_block_that_comes_back_is_in_the_mode_of_its_model(model_name: str, block: str) -> None:
    model, _ = build(model_name)
    model, surgery = remove_layers(model, block)
    model.eval()
    surgery.undo()
    assert not any(module.training for module in model.modules())
    model, surgery = remove_layers(model, block)
    model.train()
    surgery.undo()
    assert all(module.training for module in model.modules())
    model.get_submodule(block).eval()  # frozen by the user, stays frozen
    remove_layers(model, block)[1].undo()
    assert not model.get_submodule(block).training


def test_only_the_latest_surgery_is_undone() -> None:
    model, example = model_zoo.nano_gpt()
    before = output_of(model, example)
    model, first = remove_layers(model, "transformer.h.1")
    model, second = remove_layers(model, "transformer.h.2")
    with pytest.raises(ValueError, match=r"a later surgery changed the model after \['transformer.h.1'\] went"):
        first.undo()
    second.undo()
    first.undo()
    assert torch.equal(output_of(model, example), before)


def test_a_surgery_that_was_undone_shows_no_smaller_model() -> None:
    model, _ = model_zoo.resnet_basic()
    model, surgery = remove_layers(model, "layer1.1")
    assert repr(surgery).startswith("Surgery(removed=['layer1.1'], parameters=")
    surgery.undo()
    assert repr(surgery) == f"Surgery(undone=['layer1.1'], parameters={surgery.parameters_before})"


def test_forgetting_frees_the_removed_blocks() -> None:
    import gc
    import weakref

    model, _ = model_zoo.resnet_basic()
    block = weakref.ref(model.layer1[1])
    optimizer = torch.optim.Adam(model.parameters())
    model, surgery = remove_layers(model, "layer1.1", optimizer=optimizer)
    gc.collect()
    assert block() is not None
    surgery.forget()
    gc.collect()
    assert block() is None
    with pytest.raises(ValueError, match="undone or forgotten"):
        surgery.undo()
    with pytest.raises(ValueError, match="undone or forgotten"):
        surgery.summary(torch.zeros(1))


# --- refusals ---------------------------------------------------------------------------------------------


class Halves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.dense(x))


class PreActivation(nn.Module):
    """A block whose projection takes what its activation gives, so that it is none on its own where it has one."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(width), nn.Conv2d(width, out, 3, padding=1)
        self.projection = nn.Conv2d(width, out, 1) if width != out else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.norm(x))
        return (x if self.projection is None else self.projection(hidden)) + self.conv(hidden)


@pytest.mark.parametrize("names", [["stem"], ["nope"], "stages.1.0", "stages.1.0.conv"])
@pytest.mark.parametrize("with_example", [False, True])
def test_a_refusal_without_an_example_does_not_deny_the_blocks_that_there_are(names: Any, with_example: bool) -> None:
    model = nn.Sequential()
    model.stem = nn.Conv2d(3, 8, 3)
    model.stages = nn.Sequential(
        nn.Sequential(PreActivation(8, 8), PreActivation(8, 8)),
        nn.Sequential(PreActivation(8, 16), PreActivation(16, 16)),
    )
    told = "can be removed: 'stages.0.0', 'stages.0.1', 'stages.1.1'"
    with pytest.raises(ValueError, match=told) as caught:
        remove_layers(model, names, example=torch.randn(2, 3, 8, 8) if with_example else None)
    assert "no residual block was found" not in str(caught.value)


ALL_OF_GPT2 = [f"transformer.h.{i}" for i in range(4)]
ALL_OF_RESNET = ["layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer2.2"]
REFUSALS = [
    ("resnet_basic", ["layer1.1", "layer3.0"], r"has no module 'layer3.0'; near are '"),
    ("resnet_basic", ["layer1.1", "conv1"], r"'conv1' \(Conv2d\) is in no residual block; can be removed: 'layer1.0',"),
    ("resnet_basic", "layer1", "'layer1' is no residual block but holds some; name those to remove: 'layer1.0', 'lay"),
    ("resnet_basic", "", "the model itself, which cannot be removed"),
    ("resnet_basic", ALL_OF_RESNET, "leaves no residual block; keep one"),
    ("plain_conv_net", "2", r"'2' \(Conv2d\) is in no residual block; no residual block was found"),
    ("lstm_classifier", "lstm", r"'lstm' \(LSTM\) is in no residual block"),
    ("nano_gpt", ALL_OF_GPT2, "leaves no residual block; keep one"),
    ("gpt2", ALL_OF_GPT2, "leaves no layer in 'transformer.h', which its model cannot do without; keep one"),
    ("torch_encoder", [f"encoder.layers.{i}" for i in range(3)], "leaves no layer in 'encoder.layers'"),
]  # fmt: skip


@pytest.mark.parametrize("with_example", [False, True])
@pytest.mark.parametrize(("model_name", "names", "message"), REFUSALS)
def test_what_cannot_be_removed_is_refused_in_one_sentence(
    model_name: str, names: Any, message: str, with_example: bool
) -> None:
    if model_name in model_zoo.HUGGING_FACE:
        pytest.importorskip("transformers", reason="Hugging Face models: NOT TESTED HERE (no transformers)")
    model, example = build(model_name)
    optimizer = torch.optim.Adam(model.parameters())
    gradient_step(model, example, optimizer)
    before, parts = state_of(model, optimizer), dict(model.named_modules())
    if not with_example:  # more blocks may be there than show without one
        message = message.replace("in no residual block;", "in no residual block that shows without example=;")
        message = message.replace("no residual block was found", "without example= only blocks of known kinds and")
    with pytest.raises(ValueError, match=message) as caught:
        remove_layers(model, names, optimizer=optimizer, example=example if with_example else None)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert dict(model.named_modules()) == parts
    assert same(state_of(model, optimizer), before)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (3, "names is a int"),
        ([3], "names holds 3"),
        ({"layer1.1": 1}, "names is a dict"),
        (None, "names is a NoneType"),
    ],
)
def test_names_of_another_kind_are_refused(names: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        remove_layers(model_zoo.resnet_basic()[0], names)


def test_other_models_are_refused() -> None:
    with pytest.raises(TypeError, match="model is a int"):
        remove_layers(3, "layer1.1")  # type: ignore[arg-type]
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="whose parts are fixed"):
        remove_layers(scripted, "0")


def test_a_model_in_ddp_is_refused(tmp_path: Any) -> None:
    if not torch.distributed.is_available():
        pytest.skip("DistributedDataParallel: NOT TESTED HERE (torch was built without it)")
    model, _ = model_zoo.resnet_basic()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        with pytest.raises(ValueError, match=r"pass model.module and wrap the result again"):
            remove_layers(wrapped, "layer1.1")
    finally:
        torch.distributed.destroy_process_group()


def test_force_removes_what_keeps_its_shape_and_only_that() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), Halves(), nn.Linear(4, 2))
    x = torch.randn(6, 8)
    with pytest.raises(ValueError, match="is in no residual block"):
        remove_layers(model, "0", example=x)
    for example in (x, None):
        with pytest.raises(ValueError, match=r"output of '2' \(Halves\) has not its input's shape"):
            remove_layers(model, "2", example=example, force=True)
    expected = model[3](model[2](torch.tanh(x)))
    model, surgery = remove_layers(model, "0", example=x, force=True)
    assert [step.kind for step in surgery.steps] == ["forced"]
    assert torch.equal(model(x), expected)


def test_force_removes_all_blocks() -> None:
    model, example = model_zoo.resnet_basic()
    model, _ = remove_layers(model, ALL_OF_RESNET, example=example, force=True)
    assert torch.equal(output_of(model, example), expected_output("resnet_basic", ALL_OF_RESNET))


class NeedsItsBlock(nn.Module):
    """Asks its first block for something that a shortcut cannot give."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([model_zoo.Block(8, 2) for _ in range(2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x * self.layers[0].ln_1.weight.mean()


def test_a_model_that_fails_without_its_block_gets_it_back() -> None:
    torch.manual_seed(0)
    model, x = NeedsItsBlock(), torch.randn(2, 3, 8)
    optimizer = torch.optim.Adam(model.parameters())
    before = output_of(model, x)
    with pytest.raises(
        ValueError, match=r"without \['layers.0'\] the model raises AttributeError .*nothing was removed"
    ):
        remove_layers(model, "layers.0", optimizer=optimizer, example=x)
    assert torch.equal(output_of(model, x), before)
    assert len(optimizer.param_groups[0]["params"]) == len(list(model.parameters()))
    with pytest.raises(ValueError, match=r"the model raised .* on example; pass an input that it takes"):
        remove_layers(model, "layers.0", example=torch.randn(2, 3, 9))


# --- Hugging Face -----------------------------------------------------------------------------------------


def test_hugging_face_models_count_their_layers_anew(tmp_path: Any) -> None:
    transformers = pytest.importorskip("transformers", reason="Hugging Face models: NOT TESTED HERE (no transformers)")
    for kind, blocks in (("gpt2", ["transformer.h.1"]), ("llama", ["model.layers.0", "model.layers.2"])):
        model, example = build(kind)
        model, _ = remove_layers(model, blocks)
        count = 4 - len(blocks)
        assert model.config.num_hidden_layers == count
        indices = [(name, m.layer_idx) for name, m in model.named_modules() if hasattr(m, "layer_idx")]
        assert indices == [(name, int(name.split(".")[2])) for name, _ in indices]
        assert len(indices) == count
        words = {"input_ids": example["input_ids"][:2], "attention_mask": example["attention_mask"][:2]}
        settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
        cached = model.eval().generate(**words, **settings, use_cache=True)
        assert torch.equal(cached, model.generate(**words, **settings, use_cache=False))
        model.save_pretrained(tmp_path / kind)
        again = type(model).from_pretrained(tmp_path / kind)
        assert torch.equal(output_of(again, example), output_of(model, example))
        assert torch.equal(again.eval().generate(**words, **settings), cached)
    assert transformers is not None


def hugging_face(architecture: str, config: str, **settings: Any) -> Any:
    transformers = pytest.importorskip("transformers", reason="Hugging Face models: NOT TESTED HERE (no transformers)")
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "head_dim": 8}
    sizes |= {"num_key_value_heads": 1, "num_hidden_layers": 4}
    sizes |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return getattr(transformers, architecture)(getattr(transformers, config)(**{**sizes, **settings}))


def test_lists_with_an_entry_for_each_layer_are_shortened() -> None:
    model = hugging_face("Gemma2ForCausalLM", "Gemma2Config")
    assert model.config.layer_types == ["sliding_attention", "full_attention"] * 2
    model, surgery = remove_layers(model, ["model.layers.0", "model.layers.2"])
    assert model.config.layer_types == ["full_attention", "full_attention"]
    surgery.undo()
    assert model.config.layer_types == ["sliding_attention", "full_attention"] * 2
    model = hugging_face("Qwen3MoeForCausalLM", "Qwen3MoeConfig", num_experts=2, num_experts_per_tok=1,
                         moe_intermediate_size=8, mlp_only_layers=[1, 3])  # fmt: skip
    model, _ = remove_layers(model, ["model.layers.0", "model.layers.1"])
    assert model.config.mlp_only_layers == [1]


def test_a_removal_that_the_configuration_cannot_say_is_refused() -> None:
    """Every second layer is a mixture of experts: without the first, the pattern would be another model's."""
    model = hugging_face("Qwen3MoeForCausalLM", "Qwen3MoeConfig", num_experts=2, num_experts_per_tok=1,
                         moe_intermediate_size=8, decoder_sparse_step=2)  # fmt: skip
    layers, config = list(model.model.layers), model.config.to_dict()
    with pytest.raises(ValueError, match="in ways that the configuration of Qwen3MoeForCausalLM cannot say"):
        remove_layers(model, "model.layers.0")
    assert list(model.model.layers) == layers
    assert model.config.to_dict() == config
    assert len(remove_layers(model, ["model.layers.0", "model.layers.1"])[0].model.layers) == 2
    with pytest.warns(UserWarning, match="use surgery.save and Surgery.load instead"):
        assert len(remove_layers(model, "model.layers.0", force=True)[0].model.layers) == 1


def test_configurations_that_are_copied_or_nested_follow() -> None:
    transformers = pytest.importorskip("transformers", reason="Hugging Face models: NOT TESTED HERE (no transformers)")
    sizes = {"d_model": 16, "d_ff": 32, "num_layers": 3, "num_decoder_layers": 3, "num_heads": 2, "d_kv": 8,
             "decoder_start_token_id": 0, "vocab_size": 50}  # fmt: skip
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes))
    model, _ = remove_layers(model, "decoder.block.2")
    assert (model.config.num_layers, model.config.num_decoder_layers) == (3, 2)
    assert model.decoder.config.num_decoder_layers == 2
    with pytest.raises(ValueError, match="cannot say"):
        remove_layers(model, "decoder.block.0")  # it holds the position biases of all
    model = hugging_face("LlamaForCausalLM", "LlamaConfig")
    outer = nn.Module()
    outer.inner, outer.config = model, copy.deepcopy(model.config)
    remove_layers(outer, "inner.model.layers.1")
    assert (outer.config.num_hidden_layers, model.config.num_hidden_layers) == (3, 3)
    outer.config = type("Outer", (), {"to_dict": vars})()
    outer.config.text_config = copy.deepcopy(model.config)
    remove_layers(outer, "inner.model.layers.1")
    assert (outer.config.text_config.num_hidden_layers, model.config.num_hidden_layers) == (2, 2)


def test_a_configuration_that_forgets_what_it_was_told_is_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that makes its list of types anew would give the layers that stay other kinds of attention."""
    model = hugging_face("Gemma2ForCausalLM", "Gemma2Config")
    config = type(model.config)
    read = config.from_dict

    def forgetful(entries: dict[str, Any], **settings: Any) -> Any:
        made = read(entries, **settings)
        vars(made)["layer_types"] = (["sliding_attention", "full_attention"] * 4)[: made.num_hidden_layers]
        return made

    monkeypatch.setattr(config, "from_dict", forgetful)
    with pytest.raises(ValueError, match="in ways that the configuration of Gemma2ForCausalLM cannot say"):
        remove_layers(model, "model.layers.0")
    assert remove_layers(model, ["model.layers.0", "model.layers.1"])[1].removed == ["model.layers.0", "model.layers.1"]


# --- copies, compiled models, training --------------------------------------------------------------------


def test_a_cut_model_is_copied_pickled_and_saved_like_any_other(name: str, tmp_path: Any) -> None:
    model, example = build(name)
    model, _ = remove_layers(model, REMOVED[name])
    expected = output_of(model, example)
    assert torch.equal(output_of(copy.deepcopy(model), example), expected)
    assert torch.equal(output_of(pickle.loads(pickle.dumps(model)), example), expected)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other, _ = build(name, seed=1)
    other, _ = remove_layers(other, REMOVED[name])
    assert not torch.equal(output_of(other, example), expected)
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(output_of(other, example), expected)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = [gradient_step(model, example, optimizer) for _ in range(8)]
    assert losses[-1] < losses[0]


def test_compiled_models_are_cut_inside_and_run_the_cut_model() -> None:
    for model_name in ("resnet_basic", "nano_gpt"):
        model, example = build(model_name)
        compiled = torch.compile(model.eval(), backend="eager")
        with torch.no_grad():
            call(compiled, example)
            same_model, _ = remove_layers(compiled, [f"_orig_mod.{block}" for block in REMOVED[model_name]])
            assert same_model is compiled
            output = call(compiled, example)
            output = output if isinstance(output, torch.Tensor) else output[0]
        assert torch.equal(output, expected_output(model_name, REMOVED[model_name]))


def test_removal_draws_no_random_numbers() -> None:
    model, example = model_zoo.nano_gpt()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    remove_layers(model, "transformer.h.1", example=example)
    remove_layers(model, "transformer.h.2")
    assert torch.equal(torch.rand(2), expected)


# --- summary ----------------------------------------------------------------------------------------------


def test_summary_tells_before_and_after_and_leaves_the_model_cut() -> None:
    model, example = model_zoo.nano_gpt()
    model, surgery = remove_layers(model, "transformer.h.1")
    expected = output_of(model, example)
    summary = surgery.summary(example, repeats=3)
    assert (summary.blocks_before, summary.blocks_after) == (4, 3)
    assert (summary.before.parameters, summary.after.parameters) == (
        surgery.parameters_before,
        surgery.parameters_after,
    )
    assert 0 < summary.after.macs < summary.before.macs
    assert summary.before.flops == 2 * summary.before.macs
    assert 0 < summary.after.peak_memory_bytes < summary.before.peak_memory_bytes
    assert torch.equal(output_of(model, example), expected)
    text = str(summary)
    for title in ("residual blocks", "parameters", "MACs", "FLOPs", "median", "p10", "p90", "peak memory", "-25.0 %"):
        assert title in text, title
    import json

    assert json.loads(json.dumps(summary.to_dict()))["before"]["blocks"] == 4
    assert json.loads(json.dumps(surgery.to_dict()))["removed"] == ["transformer.h.1"]


def test_a_summary_says_what_nobody_checked() -> None:
    model, example = model_zoo.nano_gpt()
    model, surgery = remove_layers(model, "transformer.h.1")
    text = str(surgery.summary(example, repeats=1))
    assert "Nobody has checked how accurate the model is" in text
    assert "at once" not in text
    surgery.undo()
    model, surgery = remove_layers(model, ["transformer.h.1", "transformer.h.2"])
    assert "2 of 4 blocks went at once. Nobody has" in str(surgery.summary(example, repeats=1))


def test_a_summary_of_an_evaluated_pruning_and_of_none() -> None:
    model, example = model_zoo.nano_gpt()
    probe = example.repeat(2, 1), torch.tensor([0, 1] * example.shape[0])
    model, surgery, _ = prune_blocks(model, probe, evaluate=lambda model: 0.5, rank="random", target=0.5)
    assert "Nobody" not in str(surgery.summary(example, repeats=1))
    model, example = model_zoo.nano_gpt()
    model, surgery, _ = prune_blocks(model, probe, evaluate=lambda model: 0.5, rank="random", target=0.0)
    lines = str(surgery.summary(example, repeats=1)).splitlines()
    assert lines[0].split() == ["the", "model"]
    assert lines[-1] == "No block was removed."


def test_a_summary_that_fails_leaves_the_model_cut() -> None:
    model, example = model_zoo.nano_gpt()
    model, surgery = remove_layers(model, "transformer.h.1")
    expected = output_of(model, example)
    with pytest.raises(IndexError):
        surgery.summary(torch.full((1, 3), 10_000), repeats=1)
    assert torch.equal(output_of(model, example), expected)

"""Which layers "auto" and the user's own choices mean, on models as users write them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch: NOT TESTED HERE (not installed)")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import cbkernels as cb  # noqa: E402
from cbkernels.training.networks.fully_connected import fnn  # noqa: E402

from .. import model_zoo  # noqa: E402
from ..all_of import all_of  # noqa: E402

X = torch.randn(6, 10, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 0, 1, 2, 2])


def layers_of(model: nn.Module, x: Any = X, layers: Any = "auto") -> list[str]:
    return cb.LayerMonitor(model, (x, LABELS), layers=layers, grid=None).layers


class Functional(nn.Module):
    """Activations that are no modules."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.drop, self.fc2, self.fc3 = nn.Linear(10, 8), nn.Dropout(), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.log_softmax(self.fc3(F.relu(self.fc2(self.drop(F.relu(self.fc1(x)))))), 1)


class OwnActivation(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(min=0)


class LeakyReLU6(OwnActivation):
    """Known by its name only."""


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        pytest.param(lambda: nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 3)), ["1"], id="activation"),
        pytest.param(Functional, ["fc1", "fc2"], id="leaves_without_dropout_and_logits"),
        pytest.param(
            lambda: nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3), nn.Softmax(1)), ["1"], id="softmax"
        ),
        pytest.param(
            lambda: nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid()), ["1"], id="sigmoid"
        ),
        pytest.param(
            lambda: nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3), nn.Flatten(0)), ["1"], id="squeezed"
        ),
        pytest.param(
            lambda: nn.Sequential(nn.Linear(10, 8), nn.Linear(8, 3), nn.Flatten(0)), ["0"], id="leaves_squeezed"
        ),
        pytest.param(
            lambda: nn.Sequential(nn.Unflatten(1, (1, 10)), nn.Conv1d(1, 4, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten()),
            ["1"],
            id="pooled_logits",
        ),
        pytest.param(lambda: nn.Sequential(nn.Linear(10, 8), LeakyReLU6(), nn.Linear(8, 3)), ["1"], id="by_name"),
        pytest.param(lambda: nn.Sequential(nn.Linear(10, 8), nn.PReLU(8), nn.Linear(8, 3)), ["1"], id="prelu"),
        pytest.param(lambda: fnn(3, 5, 10, 3), ["hidden.0", "hidden.1", "hidden.2"], id="fnn"),
    ],
)
def test_auto_on_plain_networks(make: Callable[[], nn.Module], expected: list[str]) -> None:
    assert layers_of(make()) == expected


def test_auto_sees_calls_not_definitions() -> None:
    model = nn.Module()
    model.second, model.unused, model.first = nn.ReLU(), nn.ReLU(), nn.Tanh()
    model.fc1, model.fc2 = nn.Linear(10, 10), nn.Linear(10, 3)
    model.forward = lambda x: model.fc2(model.second(model.first(model.fc1(x))))  # type: ignore[method-assign]
    assert layers_of(model) == ["first", "second"]


def test_auto_without_hidden_layers_says_so() -> None:
    with pytest.raises(ValueError, match="layers is 'auto', but no hidden layer of Linear was found; give what"):
        layers_of(nn.Linear(10, 3))


def compiled_by_torchscript(make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return make(nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3)))


def test_models_whose_layers_are_closed_are_measured_as_what_they_were_made_of() -> None:
    """Naming the layers, which the message said, ended in "get_submodule is not supported on ScriptModules"."""
    scripted, traced, exported = (
        compiled_by_torchscript(make)
        for make in (
            torch.jit.script,
            lambda model: torch.jit.trace(model, X),
            lambda model: torch.export.export(model, (X,)).module(),
        )
    )
    mixed = nn.Sequential(scripted, nn.ReLU(), nn.Linear(3, 3))
    with all_of("closed models") as case:
        for model in (scripted, traced, exported):
            with (
                case(type(model).__name__),
                pytest.raises(ValueError, match=r"exported, measure what it was made of$"),
            ):
                layers_of(model)
        for model, layers in ((scripted, ["1"]), (scripted, ".*"), (traced, ["1"]), (mixed, ".*"), (mixed, ["0"])):
            with case(type(model).__name__, layers), pytest.raises(ValueError, match="which TorchScript has compiled"):
                layers_of(model, layers=layers)
    assert layers_of(mixed) == ["1"]


@pytest.mark.parametrize("name", ["plain_conv_net", "lstm_classifier", "one_relu_twice"])
def test_auto_on_models_without_blocks(name: str) -> None:
    model, x = model_zoo.build(name)
    expected = {
        "plain_conv_net": ["1", "3"],
        "lstm_classifier": ["embedding", "lstm", "hidden"],
        "one_relu_twice": ["relu"],
    }
    assert layers_of(model, x) == expected[name]


def test_auto_prefers_residual_blocks_and_their_branches() -> None:
    model, x = model_zoo.resnet_basic()
    blocks = ["layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer2.2"]
    assert layers_of(model, x) == [name for block in blocks for name in (f"{block}.bn2", block)]
    report = cb.LayerMonitor(model, (x, LABELS), grid=None).measure()
    assert report.blocks["layer2.1.bn2"] == report.blocks["layer2.1"] == "layer2.1"


def test_branches_are_measured_before_the_shortcut_is_added() -> None:
    """``out += identity`` overwrites the batch norm's output."""
    model, x = model_zoo.resnet_basic()
    report = cb.LayerMonitor(model, (x, LABELS), grid=None).measure()
    model.eval()
    with torch.no_grad():
        block = model.layer1[0]
        stem = model.maxpool(model.relu(model.bn1(model.conv1(x))))
        branch = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(stem)))))
    assert report.margins["layer1.0.bn2"] == cb.conflict_margin(branch, LABELS)
    assert report.margins["layer1.0"] == cb.conflict_margin(torch.relu(stem + branch), LABELS)


@pytest.mark.parametrize(
    ("name", "block", "count"),
    [
        ("bert", "encoder.layer", 4),
        ("bert_classifier", "bert.encoder.layer", 4),
        ("gpt2_classifier", "transformer.h", 4),
    ],
)
def test_auto_on_hugging_face_models(name: str, block: str, count: int) -> None:
    pytest.importorskip("transformers", reason="transformers: NOT TESTED HERE (not installed)")
    model, inputs = model_zoo.build(name)
    report = cb.LayerMonitor(model, (inputs, LABELS), grid=None).measure()
    assert set(report.blocks.values()) == {f"{block}.{i}" for i in range(count)}
    for i in range(count):
        of_block = [layer for layer, of in report.blocks.items() if of == f"{block}.{i}"]
        assert len(of_block) == 3, "two branches, attention and feed-forward, and the block itself"
        assert of_block[-1] == f"{block}.{i}"
    # a padded row is another row when its padding changes, unless the mask says that it does not count
    garbage = dict(inputs)
    garbage["input_ids"] = inputs["input_ids"].clone()
    garbage["input_ids"][2, 6:] = 7
    changed = cb.LayerMonitor(model, (garbage, LABELS), grid=None).measure()
    if name != "gpt2_classifier":  # whose last layers see the padding through positions only
        assert changed.margins == report.margins


def test_auto_measures_branches_that_belong_to_no_block() -> None:
    class OfLists(nn.Module):
        """As in vit-pytorch."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)]) for _ in range(2)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for one, two in self.layers:
                x = x + one(x)
                x = x + two(F.relu(x))
            return x

    model = nn.Sequential(nn.Linear(10, 8), OfLists(), nn.ReLU(), nn.Linear(8, 3))
    expected = [f"1.layers.{i}.{part}" for i in range(2) for part in range(2)]
    assert layers_of(model) == expected
    told = "4 sums of an input and a branch lie outside of any module that could be removed: in OfLists.forward"
    monitor = cb.LayerMonitor(model, (X, LABELS), grid=None)
    assert [monitor.measure().notes, monitor.measure().notes] == [(told,), (told,)]
    assert cb.LayerMonitor(model, (X, LABELS), layers=expected, grid=None).measure().notes == ()


@pytest.mark.parametrize("name", ["nano_gpt", "resnet_basic", "resnet_bottleneck"])
def test_auto_at_the_start_of_a_training_whose_branches_are_zero_is_what_it_would_be_later(name: str) -> None:
    model, example = model_zoo.build(name)
    expected = layers_of(model, example)
    last = re.compile(r".*c_proj|.*bn2" if name != "resnet_bottleneck" else r".*bn3")
    for part in (part for path, part in model.named_modules() if last.fullmatch(path)):
        nn.init.zeros_(part.weight)
        nn.init.zeros_(part.bias)
    monitor = cb.LayerMonitor(model, (example, LABELS), grid=None)
    assert list(monitor.measure()) == expected
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(3):
        model_zoo.gradient_step(model, example, optimizer)
    later, fresh = monitor.measure(), cb.LayerMonitor(model, (example, LABELS), grid=None).measure()
    assert list(later) == list(fresh) == expected
    assert (later.results, later.blocks) == (fresh.results, fresh.blocks)


def test_auto_leaves_out_blocks_that_are_run_without_being_called() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers: NOT TESTED HERE (not installed)")
    sizes = {"vocab_size": 50, "hidden_size": 16, "embedding_size": 16, "num_hidden_layers": 2, "pad_token_id": 0,
             "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64}  # fmt: skip
    model = transformers.SqueezeBertForSequenceClassification(transformers.SqueezeBertConfig(num_labels=3, **sizes))
    words = {"input_ids": torch.randint(1, 50, (6, 9))}
    parts = ("post_attention.conv1d", "output.conv1d")
    assert layers_of(model, words) == [f"transformer.encoder.layers.{i}.{part}" for i in range(2) for part in parts]


def test_auto_takes_blocks_and_not_the_stages_that_a_configuration_counts() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers: NOT TESTED HERE (not installed)")
    sizes = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4}
    model = transformers.SwinForImageClassification(transformers.SwinConfig(num_labels=3, **sizes))
    monitor = cb.LayerMonitor(model, ({"pixel_values": torch.randn(6, 3, 32, 32)}, LABELS), grid=None)
    blocks = [f"swin.encoder.layers.{i}.blocks.{k}" for i in range(2) for k in range(2)]
    assert list(dict.fromkeys(monitor.measure().blocks.values())) == blocks


def test_a_dict_with_labels_is_a_probe() -> None:
    pytest.importorskip("transformers", reason="transformers: NOT TESTED HERE (not installed)")
    model, inputs = model_zoo.build("bert_classifier")
    pair = cb.LayerMonitor(model, (inputs, LABELS), grid=None).measure()
    assert dict(cb.LayerMonitor(model, {**inputs, "labels": LABELS}, grid=None).measure()) == dict(pair)


def test_own_choices() -> None:
    model, x = model_zoo.resnet_basic()
    assert layers_of(model, x, r"layer\d") == ["layer1", "layer2"], "a pattern matches the whole name"
    assert layers_of(model, x, ["fc", "layer1.0"]) == ["fc", "layer1.0"]
    assert layers_of(model, x, ["relu#1", "relu"]) == ["relu"], "names as a report writes them"
    assert layers_of(model, x, lambda name, module: isinstance(module, nn.MaxPool2d)) == ["maxpool"]
    with pytest.raises(ValueError, match=r"layers holds 'layer1\.7', which is no module.*'layer1\.1'"):
        layers_of(model, x, ["layer1.7"])


def test_the_choice_follows_the_model() -> None:
    """After a layer is gone, "auto" looks again and a list goes on with what is left."""
    parts = {"fc1": nn.Linear(10, 8), "relu1": nn.ReLU(), "fc2": nn.Linear(8, 8), "relu2": nn.ReLU()}
    model = nn.Sequential()
    for name, part in [*parts.items(), ("head", nn.Linear(8, 3))]:
        model.add_module(name, part)
    auto = cb.LayerMonitor(model, (X, LABELS), grid=None)
    named = cb.LayerMonitor(model, (X, LABELS), layers=["relu1", "relu2"], grid=None)
    gone = cb.LayerMonitor(model, (X, LABELS), layers=["relu2"], grid=None)
    assert list(auto.measure()) == list(named.measure()) == ["relu1", "relu2"]
    del model.fc2, model.relu2
    assert list(auto.measure()) == list(named.measure()) == ["relu1"]
    with pytest.raises(ValueError, match="none of the layers 'relu2' is in the model any more; make a new monitor"):
        gone.measure()


class GatedLoop(nn.Module):
    """Residual steps that are no modules at all."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(0.1 * torch.randn(10, 10)) for _ in range(3)])
        self.gates = nn.ParameterList([nn.Parameter(torch.zeros(10)) for _ in range(3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for weight, gate in zip(self.weights, self.gates, strict=True):
            x = x + torch.sigmoid(gate) * torch.relu(x @ weight)
        return x


def test_where_nothing_can_be_measured_the_error_tells_what_was_seen() -> None:
    with pytest.raises(ValueError, match=r"no hidden layer of GatedLoop was found \(3 sums .* in GatedLoop.forward\)"):
        layers_of(GatedLoop())
    assert layers_of(nn.Sequential(nn.Linear(10, 10), nn.ReLU(), GatedLoop(), nn.Linear(10, 3)))

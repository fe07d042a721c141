"""Scores of filters against NumPy formulas written out here, which filters go, and in which layers there are any."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="filter criteria: NOT TESTED HERE (no torch)")
from torch import nn  # noqa: E402

from cbkernels.filters.criteria import CRITERIA, criterion_of, overlaps, register_criterion  # noqa: E402
from cbkernels.filters.layers import find_filter_layers  # noqa: E402
from cbkernels.filters.masks import FilterMasks  # noqa: E402
from cbkernels.filters.ranking import worst_filters  # noqa: E402
from cbkernels.filters.records import filter_scores  # noqa: E402

WEIGHTS = np.random.RandomState(0).standard_normal((5, 12)).astype(np.float32)


@pytest.fixture
def registry() -> Iterator[None]:
    """Whatever is registered is forgotten afterwards."""
    before = dict(CRITERIA)
    yield
    CRITERIA.clear()
    CRITERIA.update(before)


# --- criteria of the weights ------------------------------------------------------------------------


def numpy_overlaps(weights: Any) -> list[float]:
    """Sums of cosines without the filter's own, by two plain loops."""
    found = []
    for f, one in enumerate(weights):
        cosines = [
            abs(float(np.dot(one, other)) / float(np.linalg.norm(one) * np.linalg.norm(other)))
            for g, other in enumerate(weights)
            if g != f
        ]
        found.append(sum(cosines) / len(weights))
    return found


def test_orthogonality_is_minus_the_mean_overlap() -> None:
    weights = WEIGHTS.astype(np.float64)
    assert overlaps(torch.from_numpy(WEIGHTS)).tolist() == pytest.approx(numpy_overlaps(weights), rel=1e-12)
    assert CRITERIA["orthogonality"].function(torch.from_numpy(WEIGHTS)).tolist() == pytest.approx(
        [-overlap for overlap in numpy_overlaps(weights)], rel=1e-12
    )


def test_overlap_is_of_directions_and_a_dead_filter_misses_its_own_one() -> None:
    scaled = torch.from_numpy(WEIGHTS * np.float32([[1], [2], [4], [0.5], [8]]))
    assert overlaps(scaled).tolist() == pytest.approx(overlaps(torch.from_numpy(WEIGHTS)).tolist(), rel=1e-12)
    assert overlaps(torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 3.0], [0.0, -1.0]])).tolist() == [0, 0.25, 0.25, 0.25]


def test_published_variant_normalises_the_layer_and_takes_the_absolute_value_last() -> None:
    weights = WEIGHTS.astype(np.float64) / np.sqrt((WEIGHTS.astype(np.float64) ** 2).sum())
    expected = [-abs(sum(float(one @ other) for other in weights) - 1) / 5 for one in weights]
    scores = CRITERIA["orthogonality_published"].function(torch.from_numpy(WEIGHTS))
    assert scores.tolist() == pytest.approx(expected, rel=1e-12)


def test_weight_norm_and_random() -> None:
    weights = torch.from_numpy(WEIGHTS)
    expected = [float(np.sqrt((row.astype(np.float64) ** 2).sum())) for row in WEIGHTS]
    assert CRITERIA["weight_norm"].function(weights).tolist() == pytest.approx(expected, rel=1e-12)
    draw = CRITERIA["random"].function
    one, again, other = (draw(weights, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert one.tolist() == again.tolist() != other.tolist()
    assert len(set(one.tolist())) == 5


# --- criteria of samples ----------------------------------------------------------------------------


class SmallNetwork(nn.Module):
    """A convolution, a batch norm with trained statistics, an in-place ReLU, a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4 * 9, 3)

    def forward(self, x: Any) -> Any:
        return self.head(self.relu(self.bn(self.conv(x))).flatten(1))


@pytest.fixture
def network() -> Any:
    torch.manual_seed(3)
    model = SmallNetwork()
    for value in (model.bn.weight, model.bn.bias, model.bn.running_mean, model.bn.running_var):
        nn.init.uniform_(value, 0.3, 1.5)
    return model


def samples(size: int, seed: int = 0) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 2, 5, 5, generator=generator), torch.randint(3, (size,), generator=generator)


def scored(model: nn.Module, criterion: Any, data: Any) -> Any:
    layers = find_filter_layers(model).layers
    masks = FilterMasks(layers, torch.optim.SGD(model.parameters(), lr=0.1))
    try:
        return filter_scores(
            criterion_of(criterion)[1], model, layers, masks, {"conv": torch.Generator().manual_seed(0)}, data
        )["conv"]
    finally:
        masks.remove()


def numpy_forward(model: Any, inputs: Any, zeroed: int | None = None) -> tuple[Any, Any]:
    """What the batch norm puts out, and probabilities, all in float64 NumPy."""
    tensors = {name: t.detach().double().numpy() for name, t in model.state_dict().items()}
    x = inputs.double().numpy()
    acts = np.zeros((len(x), 4, 3, 3))
    for row in range(3):
        for column in range(3):
            patch = x[:, :, row : row + 3, column : column + 3].reshape(len(x), -1)
            acts[:, :, row, column] = patch @ tensors["conv.weight"].reshape(4, -1).T + tensors["conv.bias"]

    def of_channel(name: str) -> Any:
        return tensors[name][:, None, None]

    acts = (acts - of_channel("bn.running_mean")) / np.sqrt(of_channel("bn.running_var") + model.bn.eps)
    acts = acts * of_channel("bn.weight") + of_channel("bn.bias")
    if zeroed is not None:
        acts[:, zeroed] = 0
    logits = np.maximum(acts, 0).reshape(len(x), -1) @ tensors["head.weight"].T + tensors["head.bias"]
    exponentials = np.exp(logits)
    return acts, exponentials / exponentials.sum(1, keepdims=True)


def numpy_gradients(model: Any, inputs: Any, labels: Any) -> tuple[Any, Any]:
    """Activations, and the gradient of every sample's own cross-entropy for them, by hand."""
    acts, probabilities = numpy_forward(model, inputs)
    errors = probabilities - np.eye(3)[labels.numpy()]
    back = (errors @ model.head.weight.detach().double().numpy()).reshape(acts.shape)
    return acts, back * (acts > 0)


def test_activation_criteria(network: Any) -> None:
    inputs, labels = samples(7)
    acts, _ = numpy_forward(network, inputs)
    positive = np.maximum(acts, 0)
    expected = np.sqrt((positive**2).mean((2, 3))).mean(0)
    assert scored(network, "activation_norm", (inputs, labels)) == pytest.approx(expected, rel=1e-5)
    zeros = -(positive == 0).mean((0, 2, 3))
    assert scored(network, "apoz", (inputs, labels)) == pytest.approx(zeros, rel=1e-12)
    assert (zeros < 0).all()
    acts = torch.tensor([[[0.0, 1.0], [-1.0, 0.0]]])
    assert CRITERIA["apoz"].function(acts).tolist() == [-0.5, -1.0], "0 is a zero too"


def test_gradient_criteria(network: Any) -> None:
    inputs, labels = samples(7)
    acts, gradients = numpy_gradients(network, inputs, labels)
    expected = np.abs(gradients).mean((0, 2, 3))
    assert scored(network, "gradient", (inputs, labels)) == pytest.approx(expected, rel=1e-4)
    expected = np.abs((acts * gradients).mean((2, 3))).mean(0)
    assert scored(network, "taylor", (inputs, labels)) == pytest.approx(expected, rel=1e-4)


def test_oracles_zero_one_filter_at_a_time(network: Any) -> None:
    inputs, labels = samples(40)

    def evaluated(zeroed: int | None) -> tuple[float, float]:
        _, probabilities = numpy_forward(network, inputs, zeroed)
        right = float((probabilities.argmax(1) == labels.numpy()).mean())
        return right, float(-np.log(probabilities[np.arange(40), labels.numpy()]).mean())

    whole = evaluated(None)
    lost = [whole[0] - evaluated(f)[0] for f in range(4)]
    added = [evaluated(f)[1] - whole[1] for f in range(4)]
    assert scored(network, "oracle", (inputs, labels)) == pytest.approx(lost, abs=1e-12)
    assert any(lost)
    assert scored(network, "oracle_loss", (inputs, labels)) == pytest.approx(added, abs=1e-5)


@pytest.mark.parametrize("criterion", ["activation_norm", "apoz", "gradient", "taylor", "oracle", "oracle_loss"])
def test_batches_of_unequal_sizes_count_by_their_samples(network: Any, criterion: str) -> None:
    inputs, labels = samples(20)

    def batches() -> Any:
        yield inputs[:3], labels[:3]
        yield inputs[3:], labels[3:]

    assert scored(network, criterion, batches) == pytest.approx(scored(network, criterion, (inputs, labels)), abs=1e-6)


def test_an_oracle_gives_back_what_is_dropped(network: Any) -> None:
    masks = FilterMasks(find_filter_layers(network).layers, torch.optim.SGD(network.parameters(), lr=0.1))
    inputs, _ = samples(3)
    network.eval()
    masks.drop({"conv": (1,)})
    expected = network(inputs)
    with masks.only_without("conv", 2):
        assert not torch.equal(network(inputs), expected)
        assert not network.bn(network.conv(inputs))[:, 2].any()
    assert torch.equal(network(inputs), expected)


@pytest.mark.parametrize("criterion", ["taylor", "oracle"])
def test_scoring_leaves_no_trace(network: Any, criterion: str) -> None:
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    random = torch.get_rng_state()
    scored(network, criterion, samples(9))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in network.parameters())
    assert network.training
    assert network.bn.training
    assert not any(module._forward_hooks for module in network.modules())


# --- one's own criterion ------------------------------------------------------------------------------


def test_own_criterion_is_one_function(network: Any, registry: None) -> None:
    def positive_share(weights: Any, activations: Any) -> Any:
        assert weights.shape == (4, 18)
        assert activations.shape == (9, 4, 9)
        return (activations > 0).double().mean((0, 2))

    register_criterion("positive_share", positive_share)
    register_criterion("positive_share", positive_share)  # the same function again: a module that is reloaded
    assert criterion_of("positive_share") == ("positive_share", positive_share)
    acts, _ = numpy_forward(network, samples(9)[0])
    expected = (acts > 0).mean((0, 2, 3))
    for criterion in ("positive_share", positive_share):
        assert scored(network, criterion, samples(9)) == pytest.approx(expected, abs=1e-12)
    assert scored(network, lambda weights: [3, 1, 2, 0], None) == [3, 1, 2, 0]


def test_criteria_that_are_refused(network: Any, registry: None) -> None:
    with pytest.raises(ValueError, match="criterion is 'best'; choose one of orthogonality, "):
        criterion_of("best")
    with pytest.raises(TypeError, match="criterion is 3; pass a name or a function"):
        criterion_of(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the criterion takes 'filters'; name its arguments after weights, "):
        register_criterion("mine", lambda filters: filters)
    with pytest.raises(ValueError, match="a criterion 'random' is registered already; choose another name"):
        register_criterion("random", lambda weights: weights)
    with pytest.raises(TypeError, match="name is ''"):
        register_criterion("", lambda weights: weights)
    with pytest.raises(ValueError, match=r"of shape \(1,\) for layer 'conv'; it has 4 filters"):
        scored(network, lambda weights: [1.0], None)
    with pytest.raises(ValueError, match="filter 2 of layer 'conv' has the score nan; has the training diverged"):
        scored(network, lambda weights: [0, 1, float("nan"), 2], None)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (lambda: [], "data holds no batch"),
        (None, "data holds no batch"),
        (lambda: [samples(3)[0]], "data gives a Tensor; batches are pairs"),
    ],
)
def test_data_that_are_refused(network: Any, data: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        scored(network, "apoz", data)


# --- who goes ---------------------------------------------------------------------------------------


def test_the_worst_of_the_whole_network_go() -> None:
    scores = {
        name: np.random.RandomState(i).rand(size).tolist() for i, (name, size) in enumerate([("a", 32), ("b", 64)])
    }
    for share in (0.05, 0.3, 0.5):
        chosen = worst_filters(scores, share)
        gone = [scores[name][i] for name, indices in chosen.items() for i in indices]
        stay = [s for name in scores for i, s in enumerate(scores[name]) if i not in chosen.get(name, ())]
        assert len(gone) == round(96 * share)
        assert max(gone) < min(stay)
        assert all(list(indices) == sorted(indices) for indices in chosen.values())


def test_equal_scores_go_in_the_order_of_the_network() -> None:
    assert worst_filters({"b": [1.0, 1.0, 1.0], "a": [1.0, 1.0, 0.0]}, 0.5) == {"b": (0, 1), "a": (2,)}


def test_a_layer_keeps_what_the_limit_says_and_others_give_more() -> None:
    scores = {"a": [0.0, 1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0, 7.0]}
    with pytest.raises(ValueError, match=r"all 4 filters of layer 'a' are among the worst 50%; pass max_layer_share="):
        worst_filters(scores, 0.5)
    assert worst_filters(scores, 0.5, 0.5) == {"a": (0, 1), "b": (0, 1)}
    assert worst_filters(scores, 0.5, 1.0) == {"a": (0, 1, 2), "b": (0,)}, "one stays under any limit"
    with pytest.raises(ValueError, match=r"max_layer_share is 0.25, which lets 2 filters go, and share 0.5 asks for 4"):
        worst_filters(scores, 0.5, 0.25)
    with pytest.raises(ValueError, match=r"share is 0.05, which of 8 filters is none; raise it"):
        worst_filters(scores, 0.05)


# --- in which layers ----------------------------------------------------------------------------------


def found(model: nn.Module, **options: Any) -> dict[str, list[str]]:
    """layer -> names of its norms."""
    names = {module: name for name, module in model.named_modules()}
    return {e.name: [names[n] for n in e.norms] for e in find_filter_layers(model, **options).layers}


class Crossed(nn.Module):
    """Registered in another order than executed; a norm behind a sum; a shared layer; a norm of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.second, self.first = nn.Conv2d(4, 4, 1), nn.Conv2d(2, 4, 1)
        self.bn_second, self.bn_first = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.summed, self.bn_sum = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.one, self.other, self.bn_both = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.unused = nn.Conv2d(4, 4, 1)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        x = self.bn_first(self.relu(self.first(x)))
        x = self.bn_second(self.second(x))
        y = self.summed(x)
        y += x
        y = self.bn_sum(y)
        y = self.bn_both(self.one(y)) + self.bn_both(self.other(y))
        return self.head(y.mean((2, 3)))


def test_an_example_shows_which_norm_takes_which_output() -> None:
    result = find_filter_layers(Crossed(), example=torch.zeros(2, 2, 3, 3))
    assert found(Crossed(), example=torch.zeros(2, 2, 3, 3)) == {
        "first": ["bn_first"], "second": ["bn_second"], "summed": [],
    }  # fmt: skip
    assert [layer.is_first for layer in result.layers] == [True, False, False]
    assert result.left_out == {
        "one": "its norm also takes the output of 'other'",
        "other": "its norm also takes the output of 'one'",
        "unused": "the example does not reach it",
    }


def test_without_an_example_the_order_of_registration_tells() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3), nn.GroupNorm(2, 6), nn.Conv2d(6, 8, 3),
        nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, 5), nn.BatchNorm1d(5), nn.Linear(5, 2),
    )  # fmt: skip
    expected = {"0": ["2"], "3": ["4"], "5": []}
    assert found(model) == expected
    assert found(model, linear=True) == {**expected, "8": ["9"]}
    assert found(model, linear=True, layers=["10", "3"]) == {"3": ["4"], "10": []}
    assert find_filter_layers(model, layers=["0", "4"]).left_out == {
        "4": "it is neither a convolution nor a dense layer"
    }
    assert found(model, layers="[03]") == {"0": ["2"], "3": ["4"]}
    example = torch.zeros(2, 1, 7, 7)
    assert found(model, example=example) == found(model)
    assert found(nn.Sequential(model[0], model[1], model[2])[:1], layers=["0"]) == {"0": []}


def test_layers_that_are_left_out_say_why() -> None:
    frozen, tied = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
    frozen.weight.requires_grad_(False)
    tied_too = nn.Conv2d(4, 4, 1)
    tied_too.weight = tied.weight
    normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1))
    model = nn.Sequential(
        nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1, groups=2), nn.ConvTranspose2d(4, 4, 1), frozen, tied, tied_too, normed,
        nn.LazyConv2d(4, 1), nn.Conv2d(4, 1, 1), nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 1),
    )  # fmt: skip
    trained = torch.optim.SGD([p for n, p in model.named_parameters() if not n.startswith(("9", "7"))], lr=0.1)
    result = find_filter_layers(model, trained)
    assert [layer.name for layer in result.layers] == ["0"]
    reasons = {name: reason.split(",")[0].split(";")[0] for name, reason in result.left_out.items()}
    assert reasons == {
        "1": "it has 2 groups", "2": "it is a transposed convolution", "3": "its weight is not trained",
        "4": "its weight is also that of '5'", "5": "its weight is also that of '4'",
        "6": "its weight is computed from other parameters", "7": "it is lazy and has no weight yet",
        "8": "it has one filter only", "9": "its weight is not trained", "10": "it is the last layer",
    }  # fmt: skip


def test_a_model_without_filters_is_one_sentence() -> None:
    dense = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(ValueError, match="the model has no convolution whose filters can be dropped; pass linear=True"):
        find_filter_layers(dense)
    assert found(dense, linear=True) == {"0": []}
    with pytest.raises(ValueError, match="no convolution or dense layer whose filters can be dropped"):
        find_filter_layers(nn.ReLU(), linear=True)
    with pytest.raises(ValueError, match="can be dropped; '0': it has 4 groups, whose filters see different channels"):
        find_filter_layers(nn.Sequential(nn.Conv2d(4, 4, 1, groups=4), nn.Flatten(), nn.Linear(4, 2)))
    with pytest.raises(TypeError, match=r"model is a str; pass a torch\.nn\.Module"):
        find_filter_layers("resnet")  # type: ignore[arg-type]

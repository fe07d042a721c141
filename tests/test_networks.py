"""The papers' fully connected network, and the loop that trains it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="networks and training: NOT TESTED HERE (no torch)")

from cbkernels.training.data import load_digits, split  # noqa: E402
from cbkernels.training.networks import fnn  # noqa: E402
from cbkernels.training.trainer import Recipe, accuracy, batches, build_optimizer, train_epoch  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small products are slower with more threads, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("depth", "width"), [(1, 1), (3, 128), (50, 10)])
def test_parameters_and_names(depth: int, width: int) -> None:
    model = fnn(depth, width)
    assert (
        sum(p.numel() for p in model.parameters()) == 65 * width + (depth - 1) * (width + 1) * width + (width + 1) * 10
    )
    assert [name for name, _ in model.named_children()] == ["hidden", "output"]
    assert list(model.state_dict()) == [
        f"{layer}.{part}" for layer in (*(f"hidden.{i}" for i in range(depth)), "output") for part in ("weight", "bias")
    ]


def test_computes_what_it_says() -> None:
    model = fnn(2, 5, num_inputs=4, num_classes=3)
    x = torch.randn(7, 2, 2)
    h = x.reshape(7, 4).numpy()
    for layer in model.hidden:
        h = np.maximum(h @ layer.weight.detach().numpy().T + layer.bias.detach().numpy(), 0)
    logits = h @ model.output.weight.detach().numpy().T + model.output.bias.detach().numpy()
    assert model(x).detach().numpy() == pytest.approx(logits, abs=1e-6)
    assert (logits < 0).any()


def test_he_uniform_weights_and_zero_biases() -> None:
    model = fnn(2, 400, generator=torch.Generator().manual_seed(0))
    for layer, fan_in in ((model.hidden[0], 64), (model.hidden[1], 400), (model.output, 400)):
        bound = (6 / fan_in) ** 0.5
        weights = layer.weight.detach()
        assert float(weights.abs().max()) <= bound
        assert float(weights.abs().max()) > 0.99 * bound
        assert float(weights.std()) == pytest.approx(bound / 3**0.5, rel=0.05)
        assert (layer.bias == 0).all()


def test_torch_weights_are_those_of_linear() -> None:
    model = fnn(1, 400, weights="torch", generator=torch.Generator().manual_seed(0))
    theirs = torch.nn.Linear(64, 400)
    for part in ("weight", "bias"):
        ours, other = getattr(model.hidden[0], part).detach(), getattr(theirs, part).detach()
        assert float(ours.abs().max()) == pytest.approx(float(other.abs().max()), rel=0.02)
        assert float(ours.std()) == pytest.approx(float(other.std()), rel=0.1)


def test_a_generator_decides_and_the_global_one_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second, other = (fnn(2, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert (torch.rand(3) == expected).all()
    assert (first.output.weight == second.output.weight).all()
    assert not (first.output.weight == other.output.weight).any()


@pytest.mark.parametrize("sizes", [(0, 8), (3, 0), (3, 8, -1), (3, 8, 64, 2.5)])
def test_refuses_sizes(sizes: Any) -> None:
    with pytest.raises(ValueError, match="must be a positive integer"):
        fnn(*sizes)


def test_refuses_unknown_weights() -> None:
    with pytest.raises(ValueError, match="'glorot'"):
        fnn(2, 8, weights="glorot")


def test_an_epoch_sees_every_sample_at_most_once_and_drops_the_rest() -> None:
    epoch = list(batches(150, 64, torch.Generator().manual_seed(0)))
    assert [len(batch) for batch in epoch] == [64, 64]
    assert len({int(i) for batch in epoch for i in batch}) == 128
    with pytest.raises(ValueError, match="63 samples"):
        next(batches(63, 64, torch.Generator()))


def test_every_batch_has_its_own_gradient() -> None:
    model = torch.nn.Linear(2, 3)
    x, y = torch.rand(8, 2), torch.arange(8) % 3
    *_, last = batches(8, 4, torch.Generator().manual_seed(0))
    frozen = torch.optim.SGD(model.parameters(), lr=0.0)
    loss = train_epoch(model, frozen, x, y, batch_size=4, generator=torch.Generator().manual_seed(0))
    gradient = model.weight.grad.clone()
    model.zero_grad()
    torch.nn.functional.cross_entropy(model(x[last]), y[last]).backward()
    assert (gradient == model.weight.grad).all()
    assert loss == pytest.approx(float(torch.nn.functional.cross_entropy(model(x), y).detach()), rel=1e-6)


def trained(seed: int, epochs: int) -> tuple[Any, list[float], float]:
    train_x, train_y, test_x, test_y = (torch.from_numpy(a) for a in split(*load_digits()))
    generator = torch.Generator().manual_seed(seed)
    model = fnn(2, 64, generator=generator)
    optimizer = build_optimizer(model, Recipe())
    losses = [
        train_epoch(model, optimizer, train_x, train_y, batch_size=64, generator=generator) for _ in range(epochs)
    ]
    return model, losses, accuracy(model, test_x, test_y)


def test_a_network_learns_the_same_every_time() -> None:
    model, losses, score = trained(0, 20)
    again, same_losses, same_score = trained(0, 20)
    assert score > 0.85
    assert losses[-1] < 0.5 * losses[0]
    assert (losses, score) == (same_losses, same_score)
    assert all((a == b).all() for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert trained(1, 1)[1] != losses[:1]


def test_accuracy_counts_the_largest_logit() -> None:
    class Fixed(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x

    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0], [5.0, 4.0]])
    assert accuracy(Fixed(), logits, torch.tensor([1, 0, 0, 1])) == 0.5

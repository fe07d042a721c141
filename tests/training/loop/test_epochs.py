"""One epoch of training, and accuracies: against sums written out here. Runs: ``procedures/test_train.py``."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training: NOT TESTED HERE (no torch)")

from cbkernels.training.config import TrainConfig  # noqa: E402
from cbkernels.training.data.data_sets import load_digits, split  # noqa: E402
from cbkernels.training.data.samples import AsGiven, accuracy_of, divided  # noqa: E402
from cbkernels.training.loop.epochs import Training  # noqa: E402
from cbkernels.training.networks.fully_connected import fnn  # noqa: E402

CPU = torch.device("cpu")


def samples_of(x: Any, y: Any, config: TrainConfig, test: Any = None) -> Any:
    return divided((x, y), test, AsGiven(), config, CPU)


class Kept(AsGiven):
    """Remembers every batch."""

    def __init__(self) -> None:
        self.batches: list[Any] = []

    def for_training(self, images: Any, generator: Any) -> Any:
        self.batches.append(images.clone())
        return images


def test_a_step_is_taken_for_every_batch_with_its_own_gradient() -> None:
    config = TrainConfig(batch_size=4, optimizer="sgd", learning_rate=0.1, momentum=0.0, weight_decay=0.0)
    model = torch.nn.Linear(2, 3)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    x, y = torch.rand(10, 2), torch.arange(10) % 3
    kept = Kept()
    training = Training(model, config, divided((x, y), None, kept, config, CPU))
    loss = training.train_epoch()
    assert [len(batch) for batch in kept.batches] == [4, 4]  # the last partial batch is dropped
    expected = []
    for batch in kept.batches:
        labels = torch.stack([y[(x == row).all(1)][0] for row in batch])
        p = torch.softmax(batch @ weight.T + bias, 1)
        expected.append(float(-p[range(4), labels].log().mean()))
        error = (p - torch.nn.functional.one_hot(labels, 3)) / 4
        weight, bias = weight - 0.1 * error.T @ batch, bias - 0.1 * error.sum(0)
    assert loss == pytest.approx(sum(expected) / 2, rel=1e-6)
    assert torch.allclose(model.weight, weight, rtol=1e-5, atol=1e-6)
    assert torch.allclose(model.bias, bias, rtol=1e-5, atol=1e-6)


def trained(seed: int, epochs: int) -> tuple[Any, list[float], float]:
    train_x, train_y, test_x, test_y = split(*load_digits())
    config = TrainConfig(seed=seed)
    model = fnn(2, 64, generator=torch.Generator().manual_seed(seed))
    training = Training(model, config, samples_of(train_x, train_y, config, (test_x, test_y)))
    losses = [training.train_epoch() for _ in range(epochs)]
    return model, losses, training.test_accuracy()


def test_a_network_learns_the_same_every_time() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model, losses, score = trained(0, 20)
    again, same_losses, same_score = trained(0, 20)
    torch.set_num_threads(threads)
    assert score > 0.85
    assert losses[-1] < 0.5 * losses[0]
    assert (losses, score) == (same_losses, same_score)
    assert all((a == b).all() for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert trained(1, 1)[1] != losses[:1]


@pytest.mark.parametrize("copies", [1, 250, 251, 750])
def test_accuracy_counts_the_largest_logit(copies: int) -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0], [5.0, 4.0]] * copies)
    model = torch.nn.Identity().train()
    assert accuracy_of(model, logits.numpy(), [1, 0, 0, 1] * copies, AsGiven()) == 0.5
    assert not model.training


def test_divides_the_same_share_of_every_class() -> None:
    labels = torch.arange(100) % 4
    samples = samples_of(torch.rand(100, 3), labels, TrainConfig(batch_size=8, validation_share=0.2, probe_size=10))
    held_back, trained_on = samples.validation_indices, samples.train_indices
    assert labels[held_back].bincount().tolist() == [5, 5, 5, 5]
    assert sorted([*held_back.tolist(), *trained_on.tolist()]) == list(range(100))
    assert set(samples.probe_indices.tolist()) <= set(trained_on.tolist())
    assert len(samples.probe()[0]) == len(samples.probe()[1]) == 10


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (torch.rand(7, 2), torch.zeros(7, dtype=torch.int64), "7 training samples do not fill one batch of 8"),
        (torch.rand(9, 2), torch.zeros(8, dtype=torch.int64), "9 samples and labels of shape"),
        (torch.rand(9, 2), torch.zeros(9), "labels of dtype float32; class labels must be integers"),
        (torch.rand(9, 2), torch.full((9,), -1), "from -1"),
    ],
)
def test_refuses_samples(x: Any, y: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        samples_of(x, y, TrainConfig(batch_size=8))


def test_weights_that_diverge_in_the_last_step_are_a_divergence() -> None:
    config = TrainConfig(batch_size=4, optimizer="sgd", learning_rate=1e38, momentum=0.0, weight_decay=0.0)
    model = torch.nn.Linear(2, 3)
    x, y = 1e4 * torch.ones(4, 2), torch.arange(4) % 3
    training = Training(model, config, samples_of(x, y, config))
    loss = training.train_epoch()  # of the only batch, before the update
    assert not model.weight.isfinite().all()
    assert loss != loss

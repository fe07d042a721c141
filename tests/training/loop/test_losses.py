"""What the trainer adds to the cross-entropy: against NumPy formulas, and in a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="losses: NOT TESTED HERE (no torch)")
pytest.importorskip("safetensors", reason="distillation from a run: NOT TESTED HERE (no safetensors)")

from cbkernels.training import TrainConfig, train  # noqa: E402
from cbkernels.training.data.samples import AsGiven, divided  # noqa: E402
from cbkernels.training.loop.epochs import Training  # noqa: E402
from cbkernels.training.loop.losses import distillation_loss, orthogonality_loss  # noqa: E402

CNN: dict[str, Any] = {"model": "cnn", "depth": 2, "width": 6, "epochs": 2, "train_size": 400, "test_size": 100}


def test_orthogonality_is_the_sum_of_overlaps() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3), torch.nn.Conv2d(4, 3, 1), torch.nn.Linear(3, 2))
    expected = 0.0
    for layer in model[:2]:
        w = layer.weight.detach().numpy().reshape(len(layer.weight), -1).astype(np.float64)
        w /= np.linalg.norm(w, axis=1, keepdims=True)
        expected += np.abs(w @ w.T - np.eye(len(w))).sum()
    assert orthogonality_loss(model).item() == pytest.approx(expected, rel=1e-5)


def test_orthogonal_filters_and_no_convolutions_cost_nothing() -> None:
    layer = torch.nn.Conv2d(1, 4, 2)
    torch.nn.init.orthogonal_(layer.weight)
    assert orthogonality_loss(layer).item() < 1e-5
    assert orthogonality_loss(torch.nn.Linear(2, 2)).item() == 0


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation_is_the_divergence_of_softened_outputs(temperature: float) -> None:
    random = np.random.default_rng(0)
    student, teacher = random.normal(size=(2, 5, 3))

    def softened(logits: Any) -> Any:
        e = np.exp(logits / temperature)
        return e / e.sum(1, keepdims=True)

    p, q = softened(teacher), softened(student)
    expected = temperature**2 * (p * np.log(p / q)).sum(1).mean()
    found = distillation_loss(torch.from_numpy(student), torch.from_numpy(teacher), temperature)
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_the_loss_of_a_training_is_the_sum_of_its_parts() -> None:
    x, y = torch.rand(8, 3), torch.arange(8) % 2
    config = TrainConfig(
        batch_size=8, orthogonality_loss=0.5, distill_weight=0.25, distill_temperature=2.0, optimizer="sgd"
    )
    layer = torch.nn.Sequential(
        torch.nn.Unflatten(1, (3, 1, 1)), torch.nn.Conv2d(3, 4, 1), torch.nn.Flatten(), torch.nn.Linear(4, 2)
    )
    teacher = torch.nn.Linear(3, 2).requires_grad_(False)
    with torch.no_grad():
        logits = layer(x)
        expected = 0.75 * torch.nn.functional.cross_entropy(logits, y)
        expected = expected + 0.25 * distillation_loss(logits, teacher(x), 2.0) + 0.5 * orthogonality_loss(layer)
    training = Training(layer, config, divided((x, y), None, AsGiven(), config, torch.device("cpu")), teacher=teacher)
    assert training.train_epoch() == pytest.approx(expected.item(), rel=1e-5)


def test_the_orthogonality_loss_makes_filters_orthogonal(tmp_path: Path) -> None:
    from cbkernels.training import load_trained

    overlap = {}
    for weight in (0.0, 0.1):
        train(
            TrainConfig(**{**CNN, "epochs": 10}, orthogonality_loss=weight, learning_rate=0.01), tmp_path / str(weight)
        )
        overlap[weight] = orthogonality_loss(load_trained(tmp_path / str(weight)).model).item()
    assert overlap[0.1] < 0.8 * overlap[0.0]


def test_a_run_teaches_another(tmp_path: Path) -> None:
    train(TrainConfig(**CNN), tmp_path / "teacher")
    train(TrainConfig(**CNN, seed=1), tmp_path / "alone")
    for weight in (0.0, 0.9):
        config = TrainConfig(**CNN, seed=1, distill_from=str(tmp_path / "teacher"), distill_weight=weight)
        train(config, tmp_path / f"taught{weight}")
    histories = {name: history(tmp_path / name) for name in ("alone", "taught0.0", "taught0.9")}
    assert histories["taught0.0"] == histories["alone"]
    assert histories["taught0.9"] != histories["alone"]


def history(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return [line["weight_amplitude"] for line in lines]


def test_a_teacher_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        train(TrainConfig(**CNN, distill_from=str(tmp_path / "nowhere")), tmp_path / "run")
    assert not (tmp_path / "run").exists()

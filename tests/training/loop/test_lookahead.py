"""Lookahead against its formula written out by hand, and as an optimizer among torch's tools."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="Lookahead: NOT TESTED HERE (no torch)")

from cbkernels import UpdateGrid  # noqa: E402
from cbkernels.training.config import TrainConfig  # noqa: E402
from cbkernels.training.loop.lookahead import Lookahead  # noqa: E402
from cbkernels.training.loop.optimizers import build_optimizer  # noqa: E402


def quadratic(weights: Any) -> Any:
    """Gradient at w is w - 3."""
    return ((weights - 3) ** 2).sum() / 2


def one_step(optimizer: Any, *weights: Any) -> None:
    optimizer.zero_grad()
    sum(quadratic(w) for w in weights).backward()
    optimizer.step()


@pytest.mark.parametrize(("steps", "alpha"), [(1, 1.0), (1, 0.5), (3, 0.5), (6, 0.25)])
def test_follows_the_formula(steps: int, alpha: float) -> None:
    weights = torch.tensor([5.0, -1.0], dtype=torch.float64, requires_grad=True)
    optimizer = Lookahead(torch.optim.SGD([weights], lr=0.1), steps, alpha)
    fast, slow = [5.0, -1.0], [5.0, -1.0]
    for step in range(1, 20):
        one_step(optimizer, weights)
        fast = [w - 0.1 * (w - 3.0) for w in fast]
        if step % steps == 0:
            slow = [s + alpha * (f - s) for s, f in zip(slow, fast, strict=True)]
            fast = list(slow)
        assert weights.tolist() == pytest.approx(fast, rel=1e-14), step


def test_alpha_one_is_the_inner_optimizer_alone() -> None:
    weights, plain = (torch.full((4,), 7.0, requires_grad=True) for _ in range(2))
    wrapped, alone = Lookahead(torch.optim.RAdam([weights], lr=0.3), 3, 1.0), torch.optim.RAdam([plain], lr=0.3)
    for _ in range(20):
        one_step(wrapped, weights)
        one_step(alone, plain)
        assert (weights == plain).all()


def trained(num_steps: int, interrupted_after: int | None = None) -> list[float]:
    weights = torch.tensor([5.0, -1.0], requires_grad=True)
    optimizer = Lookahead(torch.optim.Adam([weights], lr=0.1), 6, 0.5)
    for step in range(num_steps):
        if step == interrupted_after:
            file = io.BytesIO()
            torch.save((weights.detach(), optimizer.state_dict()), file)
            file.seek(0)
            saved, state = torch.load(file, weights_only=True)
            weights = saved.requires_grad_()
            optimizer = Lookahead(torch.optim.Adam([weights], lr=9.0), 6, 0.5)
            optimizer.load_state_dict(state)
        one_step(optimizer, weights)
    return list(weights.tolist())


@pytest.mark.parametrize("interrupted_after", [1, 5, 6, 7, 16])
def test_resumes_bit_for_bit(interrupted_after: int) -> None:
    assert trained(20, interrupted_after) == trained(20)


def test_a_saved_state_does_not_move_with_the_training() -> None:
    weights = torch.tensor([5.0], requires_grad=True)
    optimizer = Lookahead(torch.optim.SGD([weights], lr=0.1), 1, 0.5)
    state = optimizer.state_dict()
    one_step(optimizer, weights)
    assert state["state"][0]["slow"].tolist() == [5.0]
    assert state["param_groups"][0]["steps_taken"] == 0


def test_a_state_of_version_0_1_0_is_taken() -> None:
    """It had the inner optimizer's state, the slow weights and the steps side by side."""
    weights = torch.tensor([5.0], requires_grad=True)
    optimizer = Lookahead(torch.optim.SGD([weights], lr=0.1, momentum=0.9), 6, 0.5)
    inner = torch.optim.SGD([weights], lr=0.3, momentum=0.9)
    inner.state[weights]["momentum_buffer"] = torch.tensor([2.0])
    optimizer.load_state_dict({"inner": inner.state_dict(), "slow": [torch.tensor([7.0])], "steps_taken": 4})
    assert optimizer.steps_taken == 4
    assert optimizer.state[weights]["slow"].tolist() == [7.0]
    assert optimizer.inner.state[weights]["momentum_buffer"].tolist() == [2.0]
    assert optimizer.param_groups[0]["lr"] == 0.3
    assert "steps_taken" not in optimizer.param_groups[0]


@pytest.mark.parametrize("inner", [torch.optim.Adam, torch.optim.SGD])
def test_distributed_checkpoints_hold_it(inner: Any) -> None:
    """They take the form that all optimizers' states have: KeyError "state" before."""
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    def made(seed: int) -> tuple[torch.nn.Module, Lookahead]:
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
        return model, Lookahead(inner(model.parameters(), lr=0.1), 3, 0.5)

    def step(model: torch.nn.Module, optimizer: Lookahead) -> None:
        optimizer.zero_grad()
        model(torch.ones(5, 3)).square().sum().backward()
        optimizer.step()

    model, optimizer = made(0)
    for _ in range(4):
        step(model, optimizer)
    weights, state = get_state_dict(model, optimizer)
    fresh, other = made(1)
    if inner is torch.optim.Adam:  # whose state starts with its first step
        step(fresh, other)
    set_state_dict(fresh, other, model_state_dict=weights, optim_state_dict=copy.deepcopy(state))
    assert other.steps_taken == 4
    for _ in range(3):
        step(model, optimizer)
        step(fresh, other)
    for one, two in zip(model.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(one, two)


def test_refuses_the_state_of_other_parameters_and_keeps_its_own() -> None:
    weights, other = torch.tensor([5.0, 4.0], requires_grad=True), torch.tensor([5.0], requires_grad=True)
    optimizer = Lookahead(torch.optim.SGD([weights], lr=0.1))
    one_step(optimizer, weights)
    with pytest.raises(ValueError, match=r"slow weights of shapes \[\(1,\)\]"):
        optimizer.load_state_dict(Lookahead(torch.optim.SGD([other], lr=0.7)).state_dict())
    assert optimizer.steps_taken == 1
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_schedulers_and_the_update_grid_see_one_learning_rate() -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = Lookahead(torch.optim.SGD(model.parameters(), lr=0.8))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    for _ in range(2):
        one_step(optimizer, *model.parameters())
        scheduler.step()
    assert optimizer.inner.param_groups[0]["lr"] == 0.2
    assert UpdateGrid.from_optimizer(model, optimizer, 64, learning_rate="current").learning_rate == 0.2
    assert UpdateGrid.from_optimizer(model, optimizer, 64).learning_rate == 0.8
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.param_groups[0]["lr"] = 0.1
    assert optimizer.inner.param_groups[0]["lr"] == 0.1


def test_added_parameters_join() -> None:
    first, second = (torch.tensor([5.0], requires_grad=True) for _ in range(2))
    optimizer = Lookahead(torch.optim.SGD([first], lr=0.1), 1, 0.5)
    optimizer.add_param_group({"params": [second], "lr": 0.2})
    one_step(optimizer, first, second)
    assert first.item() == pytest.approx(5 - 0.5 * 0.1 * 2)
    assert second.item() == pytest.approx(5 - 0.5 * 0.2 * 2)


def test_closures_and_copies() -> None:
    weights = torch.tensor([5.0], requires_grad=True)
    optimizer = Lookahead(torch.optim.SGD([weights], lr=0.1), 2, 0.5)
    one_step(optimizer, weights)
    twin = copy.deepcopy((weights, optimizer))
    one_step(optimizer, weights)
    one_step(twin[1], twin[0])
    assert twin[0].item() == weights.item() != 5.0

    def closure() -> float:
        weights.grad = None
        loss = quadratic(weights)
        loss.backward()
        return float(loss.detach())

    before = float(quadratic(weights.detach()))
    assert optimizer.step(closure) == before
    assert float(quadratic(weights.detach())) < before


@pytest.mark.parametrize(("steps", "alpha"), [(0, 0.5), (-1, 0.5), (2.0, 0.5), (6, 0.0), (6, 1.5), (6, float("nan"))])
def test_refuses_what_is_out_of_range(steps: Any, alpha: float) -> None:
    with pytest.raises(ValueError, match=r"steps is|alpha is"):
        Lookahead(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1), steps, alpha)


def test_the_recipe_is_the_papers() -> None:
    optimizer = build_optimizer(torch.nn.Linear(2, 2), TrainConfig())
    (group,) = optimizer.param_groups
    assert isinstance(optimizer, Lookahead)
    assert isinstance(optimizer.inner, torch.optim.RAdam)
    numbers = (group["lr"], group["eps"], group["weight_decay"], group["decoupled_weight_decay"])
    assert numbers == (1e-3, 1e-6, 1e-2, True)
    assert (optimizer.steps, optimizer.alpha) == (6, 0.5)


@pytest.mark.parametrize(
    ("options", "kind", "expected"),
    [
        ({"optimizer": "sgd", "momentum": 0.25}, torch.optim.SGD, {"momentum": 0.25, "lr": 0.5, "weight_decay": 0.125}),
        ({"optimizer": "adamw", "eps": 0.75}, torch.optim.AdamW, {"eps": 0.75, "lr": 0.5, "weight_decay": 0.125}),
        ({"lookahead_steps": 3, "eps": 0.75}, Lookahead, {"eps": 0.75, "lr": 0.5, "weight_decay": 0.125}),
    ],
)
def test_optimizers_by_name(options: dict[str, Any], kind: type, expected: dict[str, float]) -> None:
    config = TrainConfig(learning_rate=0.5, weight_decay=0.125, lookahead_alpha=0.375, **options)
    optimizer = build_optimizer(torch.nn.Linear(2, 2), config)
    assert type(optimizer) is kind
    assert {name: optimizer.param_groups[0][name] for name in expected} == expected
    if isinstance(optimizer, Lookahead):
        assert (optimizer.steps, optimizer.alpha) == (3, 0.375)

"""Whatever healing does to a model, an undone step leaves nothing of it, and a resumed pruning knows all of it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="pruning: NOT TESTED HERE (no torch)")
pytest.importorskip("safetensors", reason="pruning: NOT TESTED HERE (no safetensors)")

from torch import nn  # noqa: E402

import cbkernels as cb  # noqa: E402
from cbkernels.surgery.pruning.strategies import RemovalStrategy  # noqa: E402

from ...model_zoo import same  # noqa: E402

X = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
Y = (X[:, 0] > 0).long()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dense = nn.BatchNorm1d(8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.dense(self.norm(x)))


def made() -> tuple[Any, Any, Any]:
    """A model, a parameter of its own beside it, and an optimizer of both that has trained."""
    torch.manual_seed(0)
    model = nn.Sequential(*[Block() for _ in range(5)], nn.Linear(8, 2))
    beside = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([*model.parameters(), beside], 1e-2)
    train(model, optimizer, beside)
    return model, beside, optimizer


def train(model: Any, optimizer: Any, beside: Any) -> None:
    model.train()
    chosen = torch.randint(0, 32, (16,))
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(X[chosen]), Y[chosen]).backward()
    beside.grad = torch.ones(3)
    optimizer.step()


def all_of(model: Any, beside: Any, optimizer: Any) -> Any:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    gradients = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    moments = copy.deepcopy(optimizer.state_dict()["state"])
    kinds = {name: type(module) for name, module in model.named_modules()}
    return {"state": state, "trained": trained, "gradients": gradients, "moments": moments, "kinds": kinds,
            "beside": beside.detach().clone()}  # fmt: skip


# --- undone ---------------------------------------------------------------------------------------------------


def freezes(model: Any) -> None:
    model[-1].requires_grad_(False)


def casts(model: Any) -> None:
    model.double()
    model.float()
    model.bfloat16()


def resizes(model: Any) -> None:
    model[-1].weight.data = torch.zeros(1, 8)


def adds(model: Any) -> None:
    model[-1].extra = nn.Parameter(torch.ones(1))
    model[-1].register_buffer("seen", torch.ones(1))


def replaces(model: Any) -> None:
    model[len(model) - 1] = nn.Linear(8, 2)


def parametrizes(model: Any) -> None:
    nn.utils.parametrizations.weight_norm(model[-1])


@pytest.mark.parametrize("change", [freezes, casts, resizes, adds, replaces, parametrizes])
@pytest.mark.parametrize("ends", ["undone", "raised"])
def test_nothing_is_left_of_what_healing_did(change: Callable[[Any], None], ends: str) -> None:
    model, beside, optimizer = made()
    before, calls = all_of(model, beside, optimizer), [0]

    def heal(model: Any) -> None:
        train(model, optimizer, beside)
        change(model)

    def evaluate(model: Any) -> float:
        calls[0] += 1
        if ends == "raised" and calls[0] == 3:
            raise KeyError("accuracy")
        return 1.0 if calls[0] == 1 else 0.5

    raises = ends == "raised" or change in (casts, resizes)  # the example no longer fits
    with pytest.raises(RuntimeError, match="put back as it was") if raises else nullcontext():
        cb.prune_blocks(model, (X, Y), evaluate=evaluate, heal=heal, optimizer=optimizer)
    assert same(all_of(model, beside, optimizer), before)
    assert not any("parametrizations" in name for name, _ in model.named_modules())


def test_nothing_is_left_of_what_evaluating_did_without_healing() -> None:
    model, beside, optimizer = made()
    before = all_of(model, beside, optimizer)

    def evaluate(model: Any) -> float:
        model.train()(X)  # which moves the running means
        return 0.1 * sum(isinstance(module, Block) for module in model.modules())

    _, _, log = cb.prune_blocks(model, (X, Y), evaluate=evaluate, max_drop=0)
    assert not log.removed
    assert same(all_of(model, beside, optimizer), before)


def test_a_healing_that_diverges_is_undone_and_ends_nothing() -> None:
    model, beside, optimizer = made()
    calls = [0]

    def evaluate(model: Any) -> Any:
        calls[0] += 1
        return torch.tensor(float("nan") if calls[0] == 3 else 1.0, requires_grad=True)

    _, _, log = cb.prune_blocks(
        model, (X, Y), evaluate=evaluate, heal=lambda model: train(model, optimizer, beside), strategy="one",
        optimizer=optimizer,
    )  # fmt: skip
    assert [step.kept for step in log.steps] == [True, False, True, True, True, True]
    assert log.steps[1].reason == "evaluate returned nan"
    assert log.steps[1].accuracy_healed is None
    json.dumps(log.to_dict(), allow_nan=False)


# --- gone on with -----------------------------------------------------------------------------------------------


def goes_on(model: Any, optimizer: Any) -> None:
    return None


def freezes_once(model: Any, optimizer: Any) -> None:
    if len([m for m in model.modules() if isinstance(m, Block)]) == 4:
        freezes(model)


def forgets(model: Any, optimizer: Any) -> None:
    optimizer.state.clear()


class Killed(BaseException):
    pass


def pruned(folder: Path | None, change: Any, kill_at: int | None = None, **options: Any) -> Any:
    model, beside, optimizer = made()
    calls = [0]

    def heal(model: Any) -> None:
        before = {p: p.grad for p in model.parameters()}
        train(model, optimizer, beside)
        for p, gradient in before.items():  # one that adds gradients up and never clears them
            if gradient is not None and p.grad is not None:
                p.grad = p.grad + gradient
        change(model, optimizer)

    def evaluate(model: Any) -> float:
        calls[0] += 1
        if calls[0] == kill_at:
            raise Killed
        return 1.0

    def rank(model: Any, names: list[str]) -> dict[str, Any]:
        return {name: np.float32(torch.rand(())) for name in names}

    settings = {"rank": rank, "strategy": "one", "evaluate": evaluate, "heal": heal, "optimizer": optimizer, "seed": 3,
                "out": folder, **options}  # fmt: skip
    _, _, log = cb.prune_blocks(model, settings.pop("probe", (X, Y)), **settings)
    content = log.to_dict()
    for step in content["steps"]:
        del step["latency_ms"], step["latency_ms_p10"], step["latency_ms_p90"]
    return content, all_of(model, beside, optimizer)


@pytest.mark.parametrize("change", [goes_on, freezes_once, forgets])
@pytest.mark.parametrize("kill_at", [4, 7])
def test_a_resumed_pruning_knows_all_that_healing_did(tmp_path: Path, change: Any, kill_at: int) -> None:
    log, end = pruned(None, change)
    with pytest.raises(Killed):
        pruned(tmp_path, change, kill_at)
    with pytest.raises(Killed):
        pruned(tmp_path, change, 3, resume=True)
    again, ended = pruned(tmp_path, change, resume=True)
    assert again == log
    assert same(ended, end)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"probe": (X[:16], Y[:16])}, "probe"),
        ({"min_conflicting_rows": 7}, "min_conflicting_rows"),
        ({"heal": None}, "heals"),
        ({"grid": cb.UpdateGrid(1e-3, 8, 1.0)}, "grid"),
        ({"seed": 4}, "seed"),
    ],
)
def test_what_decides_must_be_the_same_to_go_on(tmp_path: Path, options: Any, told: str) -> None:
    with pytest.raises(Killed):
        pruned(tmp_path, goes_on, 4)
    with pytest.raises(ValueError, match=f"is of a pruning with {told} "):
        pruned(tmp_path, goes_on, resume=True, **options)


def flipped(folder: Path) -> None:
    path = next(folder.glob("weights-*"))
    content = bytearray(path.read_bytes())
    content[-50] ^= 255
    path.write_bytes(content)


def edited(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "pruning.json"
        content = json.loads(path.read_text())
        content["log"].update(changes.pop("log", {}))
        path.write_text(json.dumps({**content, **changes}))

    return edit


@pytest.mark.parametrize("damage", [flipped, edited(weights=None), edited(operations=[]), edited(log={"steps": []})])
def test_what_was_damaged_is_refused_and_nothing_is_deleted(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    with pytest.raises(Killed):
        pruned(tmp_path, goes_on, 6)
    damage(tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"(pruning\.json|weights-\d\.safetensors) is damaged"):
        pruned(tmp_path, goes_on, resume=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


# --- a strategy and a ranking of one's own ------------------------------------------------------------------


def test_a_strategy_that_never_comes_down_is_brought_down() -> None:
    def two(most: int) -> Iterator[int]:
        while True:
            yield 2

    model, _, _ = made()
    calls = [0]

    def evaluate(model: Any) -> float:
        calls[0] += 1
        return 1.0 if calls[0] == 1 else 0.0

    strategy = RemovalStrategy("two", "two at once", two, patience=1)  # type: ignore[arg-type]
    _, _, log = cb.prune_blocks(model, (X, Y), evaluate=evaluate, strategy=strategy)
    assert [len(step.blocks) for step in log.steps] == [0, 2, 1]


def ranks_none(model: Any, names: list[str]) -> Any:
    return None


def fails(model: Any, names: list[str]) -> Any:
    raise ZeroDivisionError("no block")


@pytest.mark.parametrize(
    ("rank", "told"),
    [
        (ranks_none, "rank returned None; it must return a mapping from names to scores"),
        (fails, r"rank raised ZeroDivisionError \(no block\); the model was put back as it was"),
    ],
)
def test_a_ranking_that_fails_is_one_sentence(rank: Any, told: str) -> None:
    model, beside, optimizer = made()
    before = all_of(model, beside, optimizer)
    with pytest.raises((TypeError, RuntimeError), match=told):
        cb.prune_blocks(model, (X, Y), evaluate=lambda model: 1.0, rank=rank)
    assert same(all_of(model, beside, optimizer), before)

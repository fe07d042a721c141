"""Optimizers around a removal and its undo: states that are loaded in between, wrappers, and several at once."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="optimizers of surgery: NOT TESTED HERE (no torch)")

from torch import nn  # noqa: E402

from cbkernels.surgery.surgery import Surgery, remove_layers  # noqa: E402
from cbkernels.training.loop.lookahead import Lookahead  # noqa: E402

from .. import model_zoo  # noqa: E402
from ..model_zoo import gradient_step  # noqa: E402

BLOCK = "transformer.h.1"


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-2)


def in_lightning(parameters: Any) -> Any:
    core = pytest.importorskip("lightning.pytorch.core.optimizer", reason="Lightning: NOT TESTED HERE (no lightning)")
    return core.LightningOptimizer(adam(parameters))


def in_accelerate(parameters: Any) -> Any:
    accelerate = pytest.importorskip("accelerate", reason="Accelerate: NOT TESTED HERE (no accelerate)")
    return accelerate.Accelerator(cpu=True).prepare(adam(parameters))


class Container:
    """Steps several optimizers and is none itself, as training codes with Muon have it."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self.optimizers = list(optimizers)

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()


KINDS = {
    "adam": adam,
    "lookahead": lambda parameters: Lookahead(adam(parameters), 2, 0.5),
    "lightning": in_lightning,
    "accelerate": in_accelerate,
}


def in_two_groups(model: nn.Module) -> list[dict[str, Any]]:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    return [{"params": matrices, "lr": 0.02}, {"params": [p for p in model.parameters() if p.ndim <= 1]}]


def held(optimizer: Any) -> list[list[int]]:
    return [[id(p) for p in group["params"]] for group in optimizer.param_groups]


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_come_back_into_an_optimizer_that_loaded_a_state(kind: str) -> None:
    model, example = model_zoo.nano_gpt()
    optimizer = KINDS[kind](in_two_groups(model))
    stepped = getattr(optimizer, "_optimizer", optimizer)  # Lightning's own steps need a trainer
    gradient_step(model, example, stepped)
    before, all_state = held(optimizer), {p: copy.deepcopy(dict(optimizer.state[p])) for p in optimizer.state}
    model, surgery = remove_layers(model, BLOCK, optimizer=optimizer)
    kept = set(model.parameters())
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    gradient_step(model, example, stepped)
    surgery.undo()
    assert held(optimizer) == before, "every parameter is where it was"
    for parameter, state in all_state.items():
        if parameter not in kept:
            assert all(torch.equal(optimizer.state[parameter][key], value) for key, value in state.items())
    weights = {p: p.detach().clone() for p in model.parameters()}
    gradient_step(model, example, stepped)
    assert all(not torch.equal(p, weights[p]) for p in model.parameters() if p.grad is not None and p.grad.any())
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    model, _ = remove_layers(model, BLOCK, optimizer=optimizer)
    assert {p for group in optimizer.param_groups for p in group["params"]} == set(model.parameters())


def test_what_was_loaded_or_set_in_between_stays() -> None:
    """A scheduler goes on, and a group that was added keeps its parameters, also between two surgeries."""
    model, example = model_zoo.nano_gpt()
    optimizer = adam(in_two_groups(model))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    gradient_step(model, example, optimizer)
    model, first = remove_layers(model, "transformer.h.1", optimizer=optimizer)
    model, second = remove_layers(model, "transformer.h.2", optimizer=optimizer)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(3))]})
    optimizer.param_groups[0]["params"].append(nn.Parameter(torch.zeros(2)))
    scheduler.step()
    second.undo()
    first.undo()
    sizes = [len(group["params"]) for group in in_two_groups(model)]
    assert [len(group["params"]) for group in optimizer.param_groups] == [sizes[0] + 1, sizes[1], 1]
    assert [group["lr"] for group in optimizer.param_groups[:2]] == [0.01, 0.005]
    assert scheduler.base_lrs == [0.02, 0.01]


def test_names_of_parameters_go_and_come_with_them() -> None:
    model, example = model_zoo.nano_gpt()
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=1e-2)
    gradient_step(model, example, optimizer)
    before = list(optimizer.param_groups[0].get("param_names", []))
    if not before:
        pytest.skip("names of parameters in an optimizer: NOT TESTED HERE (this torch keeps none)")
    model, surgery = remove_layers(model, BLOCK, optimizer=optimizer)
    assert optimizer.param_groups[0]["param_names"] == [n for n in before if not n.startswith(f"{BLOCK}.")]
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    surgery.undo()
    assert optimizer.param_groups[0]["param_names"] == before


def test_an_optimizer_without_the_group_of_what_went_is_told_and_nothing_changes() -> None:
    model, _ = model_zoo.nano_gpt()
    optimizer = adam(in_two_groups(model))
    model, surgery = remove_layers(model, BLOCK, optimizer=optimizer)
    parts, group = dict(model.named_modules()), optimizer.param_groups.pop()
    with pytest.raises(ValueError, match=r"AdamW with 1 groups, and the removed parameters were in one of 2; give it"):
        surgery.undo()
    assert dict(model.named_modules()) == parts
    optimizer.param_groups.append(group)
    surgery.undo()
    assert [len(g["params"]) for g in optimizer.param_groups] == [len(g["params"]) for g in in_two_groups(model)]


@pytest.mark.parametrize("holder", [list, tuple, lambda optimizers: Container(*optimizers)])
def test_several_optimizers_lose_what_is_gone(holder: Any, tmp_path: Any) -> None:
    """Muon takes the matrices and AdamW the rest; a discriminator's optimizer beside them has nothing to lose."""
    model, example = model_zoo.nano_gpt()
    groups = in_two_groups(model)
    muon = torch.optim.SGD(groups[0]["params"], lr=0.02, momentum=0.9)
    other = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    optimizers = [muon, adam(groups[1]["params"]), other]
    before = [held(optimizer) for optimizer in optimizers]
    gradient_step(model, example, Container(*optimizers))
    model, surgery = remove_layers(model, BLOCK, optimizer=holder(optimizers))
    left = {p for optimizer in optimizers[:2] for group in optimizer.param_groups for p in group["params"]}
    assert left == set(model.parameters())
    assert set(muon.state) | set(optimizers[1].state) == left
    for optimizer in optimizers:
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    gradient_step(model, example, Container(*optimizers))
    pytest.importorskip("safetensors", reason="files of surgeries: NOT TESTED HERE (no safetensors)")
    surgery.save(tmp_path, model)
    surgery.undo()
    assert [held(optimizer) for optimizer in optimizers] == before
    fresh, _ = model_zoo.nano_gpt(seed=1)
    fresh_groups = in_two_groups(fresh)
    pair = [adam(group["params"]) for group in fresh_groups]
    Surgery.load(tmp_path, fresh, holder(pair))
    assert {p for one in pair for group in one.param_groups for p in group["params"]} == set(fresh.parameters())


def test_lists_that_hold_something_else_are_refused() -> None:
    model, _ = model_zoo.nano_gpt()
    sgd = torch.optim.SGD(model.parameters())
    with pytest.raises(TypeError, match=r"is a float; pass a torch.optim.Optimizer, or a list of them"):
        remove_layers(model, BLOCK, optimizer=[sgd, 0.1])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="optimizer is an empty list and holds none of the model's"):
        remove_layers(model, BLOCK, optimizer=[])
    with pytest.raises(ValueError, match="optimizer is LBFGS, whose state belongs to all parameters together"):
        remove_layers(model, BLOCK, optimizer=[sgd, torch.optim.LBFGS(model.parameters())])
    assert isinstance(model.transformer.h[1], model_zoo.Block)


def test_a_wrapper_does_not_hide_an_optimizer_that_cannot_lose_parameters() -> None:
    core = pytest.importorskip("lightning.pytorch.core.optimizer", reason="Lightning: NOT TESTED HERE (no lightning)")
    model, _ = model_zoo.nano_gpt()
    with pytest.raises(ValueError, match="optimizer is LBFGS, whose state"):
        remove_layers(model, BLOCK, optimizer=core.LightningOptimizer(torch.optim.LBFGS(model.parameters())))

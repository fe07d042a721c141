"""As many blocks go as the guard allows, failures leave no trace, and a killed pruning ends like another."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="pruning: NOT TESTED HERE (no torch)")
pytest.importorskip("safetensors", reason="pruning: NOT TESTED HERE (no safetensors)")

from torch import nn  # noqa: E402

import cbkernels as cb  # noqa: E402
from cbkernels.surgery.plan import removable_blocks  # noqa: E402

from ... import model_zoo  # noqa: E402
from ...model_zoo import build, output_of, same  # noqa: E402

LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
NAMES = ["resnet_basic", "nano_gpt", "torch_encoder", "gpt2_classifier", "bert_classifier"]


def built(name: str) -> tuple[Any, Any]:
    if name in model_zoo.HUGGING_FACE:
        pytest.importorskip("transformers", reason="Hugging Face models: NOT TESTED HERE (no transformers)")
    return build(name)


def blocks_of(model: Any, example: Any) -> list[str]:
    return list(removable_blocks(model, example).found.blocks)


class Judge:
    """Accuracy as a table says: 1 less a price for each block that is gone; and a heal that changes every weight.

    Args:
        model: whole.
        example: an input of it.
        prices: of the blocks in their order; a missing one costs nothing.
    """

    def __init__(self, model: Any, example: Any, *prices: float) -> None:
        names = blocks_of(model, example)
        padded = [*prices, *[0.0] * len(names)][: len(names)]
        self.blocks = {name: (model.get_submodule(name), price) for name, price in zip(names, padded, strict=True)}
        self.healed = 0

    def evaluate(self, model: Any) -> float:
        here = set(model.modules())
        return 1.0 - sum(price for block, price in self.blocks.values() if block not in here)

    def heal(self, model: Any) -> None:
        self.healed += 1
        model.train()
        with torch.no_grad():
            for p in model.parameters():
                p += 0.01 * torch.randn(())

    def order(self, *names: str) -> Callable[[Any, list[str]], dict[str, float]]:
        """A ranking: these blocks, under their first names."""
        first = {block: name for name, (block, _) in self.blocks.items()}

        def rank(model: Any, there: list[str]) -> dict[str, float]:
            called = {first[model.get_submodule(name)]: name for name in there}
            return {called[name]: float(i) for i, name in enumerate(names) if name in called}

        return rank


def everything(model: Any, optimizer: Any = None) -> Any:
    state = {name: (id(p), p.detach().clone(), p.requires_grad) for name, p in model.named_parameters()}
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    flags = [module.training for module in model.modules()]
    return state, buffers, flags, None if optimizer is None else copy.deepcopy(optimizer.state_dict())


def trained_optimizer(model: Any, example: Any) -> Any:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    output = output_of(model, example)
    assert output is not None
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def untimed(log: cb.PruneLog) -> dict[str, Any]:
    content = log.to_dict()
    for step in content["steps"]:
        del step["latency_ms"], step["latency_ms_p10"], step["latency_ms_p90"]
    return content


# --- what goes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("strategy", ["geometric", "one", "at_once"])
def test_what_goes_equals_an_identity_hook_and_comes_back(name: str, strategy: str) -> None:
    model, example = built(name)
    judge = Judge(model, example, 0.5)  # the first block is dear, all others cost nothing
    names, before = list(judge.blocks), everything(model)
    whole = output_of(model, example)
    pruned, surgery, log = cb.prune_blocks(
        model, (example, LABELS) if not isinstance(example, dict) else {**example, "labels": LABELS},
        evaluate=judge.evaluate, rank=judge.order(*reversed(names)), strategy=strategy, max_drop=0.01,
    )  # fmt: skip
    assert pruned is model
    assert sorted(log.removed) == sorted(names[1:])
    assert (log.before, log.limit, log.num_blocks) == (1.0, 0.99, len(names))
    assert [module.training for module in model.modules()] == [model.training] * len(list(model.modules()))
    by_hand, _ = built(name)
    cut = cb.remove_layers(by_hand, names[1:], example=example)[0]
    assert torch.equal(output_of(model, example), output_of(cut, example))
    surgery.undo()
    assert same(everything(model), before)
    assert torch.equal(output_of(model, example), whole)


@pytest.mark.parametrize("strategy", ["geometric", "one", "at_once"])
def test_a_target_is_met_and_not_exceeded(strategy: str) -> None:
    model, example = built("resnet_basic")
    judge = Judge(model, example)
    _, _, log = cb.prune_blocks(model, (example, LABELS), evaluate=judge.evaluate, strategy=strategy, target=0.5)
    assert len(log.removed) == 3, "half of five blocks, rounded up"
    assert log.reason == "all blocks that were to be removed are gone: 3"


def test_the_number_of_healings() -> None:
    numbers = {}
    for strategy in ("geometric", "one", "at_once"):
        model, example = built("nano_gpt")
        model.transformer.h.extend([copy.deepcopy(model.transformer.h[0]) for _ in range(4)])
        judge = Judge(model, example)
        _, _, log = cb.prune_blocks(
            model, (example, LABELS), evaluate=judge.evaluate, heal=judge.heal, strategy=strategy, rank="random"
        )
        assert len(log.removed) == 7, "one has to stay"
        assert judge.healed == len(log.steps) - 1
        numbers[strategy] = judge.healed
    assert numbers == {"geometric": 3, "one": 7, "at_once": 1}


def test_a_block_that_cannot_go_alone_is_not_tried_again_and_patience_ends_it() -> None:
    model, example = built("resnet_basic")
    judge = Judge(model, example, 1, 1, 1, 1, 0)
    names = list(judge.blocks)
    _, _, log = cb.prune_blocks(model, (example, LABELS), evaluate=judge.evaluate, rank=judge.order(*names))
    assert [step.blocks for step in log.steps[1:]] == [(name,) for name in names[:3]]
    assert (log.removed, log.reason) == (
        [],
        "3 blocks in a row, each alone, could not go; strategy='one' tries every block",
    )
    _, _, log = cb.prune_blocks(
        model, (example, LABELS), evaluate=judge.evaluate, rank=judge.order(*names), strategy="one"
    )
    assert [step.kept for step in log.steps] == [True, False, False, False, False, True]
    assert (log.removed, log.reason) == (names[4:], "every block that could go was tried")


def test_two_that_cannot_go_together_are_tried_one_by_one() -> None:
    model, example = built("resnet_basic")
    judge = Judge(model, example, 0.6, 0.6, 0.0, 0.6, 0.6)
    names = list(judge.blocks)
    order = [names[2], names[0], names[1]]
    _, _, log = cb.prune_blocks(
        model, (example, LABELS), evaluate=judge.evaluate, rank=judge.order(*order), max_drop=0.6, heal=judge.heal
    )
    assert [step.blocks for step in log.steps] == [(), (names[2],), (names[0], names[1]), (names[0],), (names[1],)]
    assert log.removed == [names[2], names[0]], "the drop counts from the start, not from step to step"


def test_blocks_that_cannot_be_removed_are_told_and_left() -> None:
    class Narrows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.dense = nn.LayerNorm(8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(torch.tanh(x + self.dense(self.norm(x)))) * 2

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), *[Narrows() for _ in range(2)], nn.Linear(8, 3))
    example = torch.randn(6, 4)
    if not removable_blocks(model, example).refused:
        pytest.fail("this model was to hold a block that cannot go")
    before = everything(model)
    with pytest.raises(ValueError, match="Sequential has 2 residual blocks, and none of them can be removed; for one"):
        cb.prune_blocks(model, (example, LABELS), evaluate=lambda model: 1.0)
    assert same(everything(model), before)


def test_what_is_tested_is_told_of_every_kept_step_and_decides_nothing() -> None:
    model, example = built("resnet_basic")
    judge = Judge(model, example, 0.0, 1.0)
    names = list(judge.blocks)
    asked = []
    _, _, log = cb.prune_blocks(
        model, (example, LABELS), evaluate=judge.evaluate, rank=judge.order(*names[:2]), strategy="one",
        test=lambda model: asked.append(0) or -len(asked), example=example[:2],
    )  # fmt: skip
    assert [(step.kept, step.accuracy_test) for step in log.steps] == [(True, -1.0), (True, -2.0), (False, None)]
    assert log.steps[0].macs == cb.measure_cost(built("resnet_basic")[0], example[:2]).macs
    with pytest.raises(ValueError, match="test returned nan before the first removal"):
        cb.prune_blocks(model, (example, LABELS), evaluate=judge.evaluate, test=nan)
    _, _, log = cb.prune_blocks(model, (example, LABELS), evaluate=judge.evaluate, target=0)
    assert (len(log.steps), log.reason) == (1, "all blocks that were to be removed are gone: 0")


# --- what fails leaves no trace ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet_basic", "nano_gpt"])
def test_a_failed_try_puts_weights_optimizer_and_flags_back(name: str) -> None:
    model, example = built(name)
    optimizer = trained_optimizer(model, example)
    judge = Judge(model, example, *[1.0] * 9)
    before = everything(model, optimizer)

    def heal(model: Any) -> None:
        judge.heal(model)
        for group in optimizer.param_groups:
            group["lr"] *= 0.5
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        optimizer.zero_grad()
        next(model.parameters()).requires_grad_(False)

    _, surgery, log = cb.prune_blocks(
        model, (example, LABELS), evaluate=judge.evaluate, heal=heal, optimizer=optimizer, batch_size=6, strategy="one"
    )
    assert len(log.steps) == 1 + len(judge.blocks)
    assert not log.removed
    assert same(everything(model, optimizer), before)
    surgery.undo()
    assert same(everything(model, optimizer), before)


def test_what_heals_in_steps_that_stay_stays_and_undo_keeps_it() -> None:
    model, example = built("nano_gpt")
    optimizer = trained_optimizer(model, example)
    judge = Judge(model, example, 0.0, 1.0, 0.0, 1.0)
    names, before = list(judge.blocks), everything(model, optimizer)
    _, surgery, log = cb.prune_blocks(
        model, (example, LABELS), evaluate=judge.evaluate, heal=judge.heal, rank=judge.order(*names), strategy="one",
        optimizer=optimizer, batch_size=6,
    )  # fmt: skip
    assert log.removed == [names[0], names[2]]
    assert judge.healed == 4
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()} == {id(p) for p in optimizer.state}
    head = model.lm_head.weight.clone()
    assert not torch.equal(head, before[0]["transformer.wte.weight"][1])
    surgery.undo()
    assert torch.equal(model.lm_head.weight, head)
    assert [id(p) for group in optimizer.param_groups for p in group["params"]] == [id(p) for p in model.parameters()]


def test_a_heal_that_loads_states_and_several_optimizers_are_put_back_too() -> None:
    model, example = built("nano_gpt")
    parameters = list(model.parameters())
    both = [torch.optim.Adam(parameters[::2], lr=1e-3), torch.optim.SGD(parameters[1::2], lr=1e-2, momentum=0.9)]
    judge = Judge(model, example, 0.0, 1.0, 0.0, 1.0)
    names, held = list(judge.blocks), [[id(p) for p in each.param_groups[0]["params"]] for each in both]

    def heal(model: Any) -> None:
        judge.heal(model)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        for optimizer in both:
            optimizer.step()
            optimizer.zero_grad()
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))

    _, surgery, log = cb.prune_blocks(
        model, (example, LABELS), evaluate=judge.evaluate, heal=heal, rank=judge.order(*names), strategy="one",
        optimizer=both,
    )  # fmt: skip
    assert log.removed == [names[0], names[2]]
    left = {id(p) for p in model.parameters()}
    assert [[i for i in ids if i in left] for ids in held] == [
        [id(p) for p in o.param_groups[0]["params"]] for o in both
    ]
    assert all({id(p) for p in each.state} <= left for each in both)
    surgery.undo()
    assert [[id(p) for p in each.param_groups[0]["params"]] for each in both] == held


def nan(model: Any) -> float:
    return float("nan")


def broken(model: Any) -> None:
    raise KeyError("learning_rate")


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        (
            {"evaluate": nan},
            ValueError,
            "evaluate returned nan before the first removal; it must return a finite",
        ),
        ({"evaluate": lambda model: "high"}, TypeError, "evaluate returned 'high' before the first removal"),
        ({"evaluate": broken}, RuntimeError, "evaluate raised KeyError .*; the model was put back as it was"),
        (
            {"heal": broken},
            RuntimeError,
            r"heal raised KeyError \('learning_rate'\) without .*; the model was put",
        ),
        ({"rank": lambda model, names: {"layer9": 1.0}}, ValueError, "rank gave 'layer9' a score, which is no block"),
        ({"rank": lambda model, names: {names[0]: "x"}}, ValueError, "the score 'x'; it must be a number"),
        ({"rank": "magnitude"}, ValueError, "rank is 'magnitude'; choose one of margin, conflicts"),
        ({"strategy": "two"}, ValueError, "strategy is 'two'; choose one of geometric, one, at_once"),
        ({"max_drop": float("nan")}, ValueError, "max_drop is nan; it must be a finite number"),
        ({"max_drop": -0.1}, ValueError, "max_drop is -0.1; it must be at least 0"),
        (
            {"max_drop": 5},
            ValueError,
            r"max_drop is 5, but evaluate returned 1\.0000 before .*; pass max_drop=0\.05 for 5 percentage points",
        ),
        ({"baseline": "last"}, ValueError, "baseline is 'last'; choose one of first, best"),
        ({"target": 14}, ValueError, "target is 14; it must be a share of the blocks"),
        ({"evaluate": 0.9}, TypeError, "evaluate is 0.9; pass a function of the model"),
    ],
)
def test_a_fault_is_one_sentence_and_the_model_is_as_before(options: Any, error: Any, told: str) -> None:
    model, example = built("resnet_basic")
    judge, before = Judge(model, example), everything(model)
    with pytest.raises(error, match=told) as raised:
        cb.prune_blocks(model, (example, LABELS), **{"evaluate": judge.evaluate, **options})
    assert "\n" not in str(raised.value)
    assert same(everything(model), before)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_fault_in_a_later_step_undoes_the_earlier_ones(at: int) -> None:
    model, example = built("nano_gpt")
    optimizer = trained_optimizer(model, example)
    judge, before = Judge(model, example), everything(model, optimizer)

    def heal(model: Any) -> None:
        judge.heal(model)
        if judge.healed == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cb.prune_blocks(
            model, (example, LABELS), evaluate=judge.evaluate, heal=heal, strategy="one", optimizer=optimizer
        )
    assert same(everything(model, optimizer), before)


def test_a_model_without_blocks_is_refused() -> None:
    model, example = built("plain_conv_net")
    told = "Sequential cannot be pruned: no residual block was found in the model: it has no sum of an input"
    with pytest.raises(ValueError, match=told):
        cb.prune_blocks(model, (example, LABELS), evaluate=lambda model: 1.0)


class Inline(nn.Module):
    """Its sums lie in its own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.gain = nn.ModuleList(nn.Linear(4, 4) for _ in range(3)), nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + self.gain * torch.relu(layer(x))
        return x


def test_sums_in_the_models_own_code_are_told_with_what_to_do() -> None:
    model, example = Inline(), torch.randn(6, 4)
    told = "3 sums of an input and a branch lie .* in Inline.forward; put each sum into the forward of a module of its"
    with pytest.raises(ValueError, match=f"Inline cannot be pruned: .*{told} own"):
        cb.prune_blocks(model, (example, LABELS), evaluate=lambda model: 1.0)
    with pytest.raises(ValueError, match=told):
        cb.remove_layers(model, "layers.1", example=example)


def test_random_numbers_of_the_caller_go_on_as_before() -> None:
    model, example = built("resnet_basic")
    judge = Judge(model, example)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    cb.prune_blocks(model, (example, LABELS), evaluate=judge.evaluate, heal=judge.heal)
    assert torch.equal(torch.rand(3), expected)


# --- killed and resumed -----------------------------------------------------------------------------------


class Killed(BaseException):
    pass


def pruned(folder: Path | None, kill_at: int | None = None, in_heal: bool = False, **options: Any) -> Any:
    """A fresh model pruned; killed after (or within) a step."""
    model, example = built("nano_gpt")
    optimizer = trained_optimizer(model, example)
    judge = Judge(model, example, 0.0, 1.0, 0.0, 0.0)
    heals = [0]

    def heal(model: Any) -> None:
        heals[0] += 1
        judge.heal(model)
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        optimizer.step()
        optimizer.zero_grad()
        if in_heal and heals[0] == kill_at:
            raise Killed

    steps: list[Any] = []

    def on_step(step: Any) -> None:
        steps.append(step)
        if not in_heal and len(steps) == kill_at:
            raise Killed

    _, surgery, log = cb.prune_blocks(
        model, (example, LABELS), evaluate=judge.evaluate, heal=heal, optimizer=optimizer, out=folder, on_step=on_step,
        **{"strategy": "one", "rank": judge.order(*judge.blocks), **options},
    )  # fmt: skip
    return model, optimizer, surgery, log


@pytest.mark.parametrize("in_heal", [False, True])
def test_killed_and_resumed_it_ends_the_same(tmp_path: Path, in_heal: bool) -> None:
    model, optimizer, _, log = pruned(None)
    assert [step.kept for step in log.steps].count(False) == 1
    assert len(log.removed) == 3
    for kill_at in range(1, len(log.steps)):
        folder = tmp_path / f"{kill_at}"
        with pytest.raises(Killed):
            pruned(folder, kill_at, in_heal)
        again, of_again, surgery, resumed = pruned(folder, resume=True)
        assert untimed(resumed) == untimed(log)
        assert same(again.state_dict(), model.state_dict())
        assert same(of_again.state_dict(), optimizer.state_dict())
        once_more = pruned(folder, resume=True)
        assert once_more[3].to_dict() == resumed.to_dict(), "an ended one is only read"
        assert same(once_more[0].state_dict(), model.state_dict())
        surgery.undo()
        assert len(again.transformer.h) == 4


def test_a_folder_of_another_pruning_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        pruned(tmp_path, 3)
    names = {path.name for path in tmp_path.iterdir()}
    assert "pruning.json" in names
    assert len(names) == 2
    with pytest.raises(ValueError, match=r"pruning.json exists already; pass resume=True to go on, or another folder"):
        pruned(tmp_path)
    with pytest.raises(ValueError, match=r"is of a pruning with max_drop 0\.01, and this one has 0\.5; start again"):
        pruned(tmp_path, resume=True, max_drop=0.5)
    content = json.loads((tmp_path / "pruning.json").read_text())
    del content["of"]["baseline"], content["log"]["baseline"]  # an argument that there was not always
    (tmp_path / "pruning.json").write_text(json.dumps(content))
    older = r"by an older cbkernels, without baseline, and this one has 'first'; start again in another folder"
    with pytest.raises(ValueError, match=older):
        pruned(tmp_path, resume=True)
    (tmp_path / "pruning.json").write_text('{"of": 3}')
    with pytest.raises(ValueError, match=r"pruning\.json is damaged"):
        pruned(tmp_path, resume=True)


def test_weights_that_changed_on_disk_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        pruned(tmp_path, 3)
    path = next(tmp_path.glob("weights-*"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"is damaged: its checksum is not the one in pruning\.json"):
        pruned(tmp_path, resume=True)


# --- what comes back --------------------------------------------------------------------------------------


def test_the_surgery_saves_and_a_fresh_model_loads(tmp_path: Path) -> None:
    model, _, surgery, log = pruned(None)
    surgery.save(tmp_path, model)
    fresh, example = built("nano_gpt")
    loaded, again = type(surgery).load(tmp_path, fresh)
    assert again.removed == surgery.removed == log.removed
    assert again.parameters_after == surgery.parameters_after == log.steps[-1].parameters
    assert torch.equal(output_of(loaded, example), output_of(model, example))


def test_the_log_is_a_table_json_and_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures: NOT TESTED HERE (no matplotlib)")
    _, _, _, log = pruned(None)
    log.to_json(tmp_path / "log.json")
    assert cb.PruneLog.from_json(tmp_path / "log.json") == log
    json.dumps(log.to_dict(), allow_nan=False)
    table = str(log).splitlines()
    below = table[1 + len(log.steps) :]
    assert below[0].startswith("3 of 4 blocks removed by rank; ")
    limit = "0.9900, 0.01 below the score before the first removal."
    assert below[1:] == [f"Scores: higher is better; the limit is {limit}"]
    for title in ("blocks", "score without them", "after healing", "MACs per sample", "latency of 6 (ms)", "change"):
        assert title in table[0]
    assert [line.split()[5] for line in table[2:5]] == [step.blocks[0] for step in log.steps[1:4]]
    figure = log.plot(tmp_path / "log.svg", others=[log])
    ax = figure.axes[0]
    line = ax.get_lines()[0]
    assert list(line.get_xdata()) == [100 * step.num_removed / 4 for step in log.steps if step.kept]
    assert list(line.get_ydata()) == [step.accuracy_healed for step in log.steps if step.kept]
    assert (tmp_path / "log.svg").stat().st_size > 1000
    first = log.to_dict()["steps"][0]
    wrong = [{}, {**first, "num_removed": -1}, {**first, "accuracy_healed": "high"}, {**first, "latency_ms": -0.5}]
    for damaged in ({}, {**log.to_dict(), "kind": "x"}, *({**log.to_dict(), "steps": [step]} for step in wrong)):
        with pytest.raises(ValueError, match="no log of a pruning"):
            cb.PruneLog.from_dict(damaged)
    (tmp_path / "log.json").write_text(json.dumps({**log.to_dict(), "kind": "x"}))
    with pytest.raises(ValueError, match=r"log\.json cannot be loaded: this is no log of a pruning"):
        cb.PruneLog.from_json(tmp_path / "log.json")


def healed_by(heal: Any, *scores: float, **options: Any) -> Any:
    """A pruning that is evaluated before and after each healing, to these scores in turn."""
    model, example = built("resnet_basic")
    told = iter(scores)
    return cb.prune_blocks(
        model, (example, LABELS), evaluate=lambda model: next(told), heal=heal or Judge(model, example).heal,
        strategy="one", target=0.5, max_drop=0.05, **options,
    )  # fmt: skip


def test_a_log_says_when_healing_also_trained_the_model() -> None:
    _, surgery, log = healed_by(None, 0.5, 0.5, 0.75, 0.5, 0.94, 0.5, 0.8)
    text = " ".join(str(log).split())
    assert "the best score was 0.9400 with 2 blocks gone, and the limit compares with 0.5000, the score before" in text
    assert len(log.removed) == 3
    _, _, log = healed_by(None, 0.5, 0.5, 0.75, 0.5, 0.94, *[0.5, 0.8] * 3, baseline="best")
    assert (len(log.removed), log.limit) == (2, 0.94 - 0.05)
    assert "Healing also trained" not in str(log)
    assert "0.8900, 0.05 below the best score so far" in str(log)
    assert cb.PruneLog.from_dict(log.to_dict()) == log
    summary = " ".join(str(surgery.summary(built("resnet_basic")[1], repeats=1)).split())
    assert "surgery.undo() puts them back into the healed rest, which does not bring back the accuracy" in summary


def test_a_heal_that_changes_no_weight_is_told_once() -> None:
    def trains_a_copy(model: Any) -> None:
        Judge(model, built("resnet_basic")[1]).heal(copy.deepcopy(model))
        model.train()(built("resnet_basic")[1])  # moves running means, which are no weights

    _, surgery, log = healed_by(trains_a_copy, *[0.5] * 7)
    assert [step.was_healed for step in log.steps] == [None, False, False, False]
    assert str(log).count("changed no weight of the model") == 1
    assert "In 3 of 3 steps heal" in str(log)
    assert "healed" not in str(surgery.summary(built("resnet_basic")[1], repeats=1))
    assert "changed no weight" not in str(healed_by(None, *[0.5] * 7)[2])


def test_a_log_tells_of_blocks_that_were_refused_and_shortens_long_rows() -> None:
    log = cb.PruneLog("margin", "one", 0.1, None, 9, {"a": "it is odd", "b": "it is odd"}, reason="all were tried")
    assert str(log).endswith("; all were tried; 2 blocks could not go at all, log.refused says why")
    step = cb.PruneStep(tuple("abcde"), (0.0,) * 5, False, "", 5, latency_ms=1.0, latency_ms_p10=0.5, latency_ms_p90=2)
    log.steps += [cb.PruneStep((), (), True, "", 0, 0.5, 0.5, latency_ms=1.1, latency_ms_p10=1, latency_ms_p90=2), step]
    row = str(log).splitlines()[2]
    assert "a, 3 more, e" in row
    assert row.endswith("too noisy to tell")


def test_the_log_and_the_summary_count_the_same_macs_per_sample() -> None:
    model, example = built("resnet_basic")
    _, surgery, log = cb.prune_blocks(model, (example, LABELS), evaluate=lambda model: 1.0, rank="random", target=0.2)
    titles, row = str(log).splitlines()[:2]
    macs = str(log.steps[0].macs // len(example))
    assert macs in row.split()
    assert "MACs per sample" in titles
    line = next(line for line in str(surgery.summary(example[:2], repeats=1)).splitlines() if "MACs" in line)
    assert line.split()[:4] == ["MACs", "per", "sample", macs]


def test_costs_fall_with_every_block() -> None:
    _, _, _, log = pruned(None)
    kept = [step for step in log.steps if step.kept]
    for field in ("parameters", "macs", "peak_memory_bytes"):
        values = [getattr(step, field) for step in kept]
        assert values == sorted(set(values), reverse=True), field

"""What the package promises about any model, each as a function that raises where the promise is not kept.

Read next: ``entries.py`` (the answers), ``test_zoo.py``.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cbkernels.findings.layer_report import LayerReport
from cbkernels.models.evaluation import first_tensor, tensors_in
from cbkernels.models.monitor import LayerMonitor
from cbkernels.surgery.surgery import Surgery, remove_layers

from .entries import Entry, call


def built(entry: Entry, seed: int = 0) -> tuple[nn.Module, Any]:
    """The entry's model, in evaluation mode, and its input."""
    torch.manual_seed(seed)
    model, example = entry.build()
    return model.eval(), example


def measured(model: nn.Module, example: Any) -> LayerReport:
    """One report of the model on its input as the probe."""
    rows = len(next(tensors_in(list(example.values()) if isinstance(example, dict) else example)))
    return LayerMonitor(model, (example, np.arange(rows) % 2), grid=None, margin=False).measure()


def outputs(model: nn.Module, example: Any) -> list[torch.Tensor]:
    """The main tensor that the model returns, alone in a list; all of them where there is no main one."""
    torch.manual_seed(1)
    with torch.no_grad():
        output = call(model, example)
    main = first_tensor(output)
    assert main is not None
    return [main.clone()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    """Whether the tensors are equal bit for bit."""
    return len(one) == len(other) and all(
        a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(one, other, strict=True)
    )


def everything(model: nn.Module) -> dict[str, Any]:
    """What must be the same after a look at a model: weights, attributes, hooks, flags, configurations."""
    seen: dict[str, Any] = {key: value.clone() for key, value in model.state_dict().items()}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, dict):  # hooks, and what a module counts for itself
                seen[f"{name} {key}"] = {k: id(v) for k, v in value.items()}
            elif isinstance(value, (bool, int, float, str, tuple, type(None))):
                seen[f"{name} {key}"] = repr(value)
            else:
                seen[f"{name} {key}"] = id(value)
        if callable(getattr(getattr(module, "config", None), "to_dict", None)):
            seen[f"{name} config"] = module.config.to_dict()
    return seen


def require_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    changed = [
        key for key in [*before, *after]
        if key not in before or key not in after or not _equal(before[key], after[key])
    ]  # fmt: skip
    assert not changed, f"changed: {changed[:6]}"


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())
    return bool(one == other)


# --- the promises -------------------------------------------------------------------------------------------


def leaves_no_trace(entry: Entry) -> None:
    """``measure`` changes nothing of the model, nor where random numbers go on."""
    model, example = built(entry)
    call(model, example)  # what it keeps for itself is then there
    model.train()
    before = everything(model)
    generators = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    measured(model, example)
    require_same(before, everything(model))
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(generators[0], after[0])
    assert generators[1:] == after[1:]


def has_the_blocks(entry: Entry) -> None:
    """The report holds the blocks and branches of the table, and says what it could not attribute."""
    model, example = built(entry)
    report = measured(model, example)
    found: dict[str, list[str]] = {}
    for layer, block in report.blocks.items():
        if "#" not in layer:
            found.setdefault(block, []).extend([layer] if layer != block else [])
    assert {block: tuple(parts) for block, parts in found.items()} == entry.branches()
    notes = "; ".join(report.notes)
    assert re.search(entry.notes, notes) if entry.notes is not None else not notes, notes


def removable(entry: Entry) -> list[str]:
    """Blocks that the table says can go."""
    blocks = list(entry.branches())
    return [name for name in blocks if name not in entry.refusals()] if len(blocks) > 1 else []


def chosen(entry: Entry) -> list[str]:
    """Blocks to remove in a test: the second that can go and, among many, the last but one too."""
    can_go = removable(entry)
    names = dict.fromkeys(can_go[i] for i in (1, len(can_go) - 2) if 0 < i < len(can_go) and len(can_go) < i + 9)
    return list(names)[: max(1, len(can_go) - 1)] or can_go[:1]


def removal_is_an_identity(entry: Entry) -> None:
    """A model without a block gives what it gives when the block passes its input on, bit for bit."""
    model, example = built(entry)
    names = chosen(entry)
    hooked = built(entry)[0]
    with without(hooked, names, entry):
        expected = outputs(hooked, example)
    untouched = outputs(model, example)
    assert all(tensor.isfinite().all() for tensor in expected if tensor.is_floating_point())
    assert not same(expected, untouched), "a test that cannot fail"
    model, surgery = remove_layers(model, names, example=example)
    assert sorted(surgery.removed) == sorted(names)
    assert same(outputs(model, example), expected)


def refuses_the_others(entry: Entry) -> None:
    """Blocks that nothing can stand for are refused with the reason, and nothing changes."""
    model, example = built(entry)
    before = everything(model)
    for name, reason in entry.refusals().items():
        with pytest.raises(ValueError, match=reason):
            remove_layers(model, name, example=example)
    require_same(before, everything(model))


def every_removable_block_goes(entry: Entry) -> None:
    """Each of the blocks can be removed by the name of a branch of it, and ``undo`` puts back all there was."""
    model, example = built(entry)
    call(model, example)
    before, expected = everything(model), outputs(model, example)
    for name in removable(entry):
        inside = next(iter(entry.branches()[name]), name)
        _, surgery = remove_layers(model, inside, example=example)
        assert surgery.removed == [name]
        surgery.undo()
        require_same(before, everything(model))
    assert same(outputs(model, example), expected)


@contextmanager
def without(model: nn.Module, names: list[str], entry: Entry) -> Iterator[None]:
    """Within it the blocks return what the table says is left of them; also where their hooks are not called."""

    def forward(block: nn.Module, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        output = run(*args, **kwargs)
        if entry.stand_in is not None:
            return entry.stand_in(output, *args, **kwargs)
        x = entry.left(block, first_tensor([*args, *kwargs.values()]))  # type: ignore[arg-type]
        if isinstance(output, torch.Tensor):
            return x
        return {**output, next(iter(output)): x} if isinstance(output, dict) else type(output)([x, *output[1:]])

    with ExitStack() as stack:
        for block in map(model.get_submodule, names):
            vars(block)["forward"] = partial(forward, block, block.forward)
            stack.callback(vars(block).pop, "forward")
        yield


def saved(entry: Entry, folder: str) -> list[torch.Tensor] | None:
    """Cut the model, save it, and say what it returns; None when nothing of it can be removed."""
    model, example = built(entry)
    names = chosen(entry)
    if not names:
        return None
    model, surgery = remove_layers(model, names, example=example)
    surgery.save(folder, model)
    return outputs(model, example)


def loaded(entry: Entry, folder: str) -> list[torch.Tensor]:
    """What the saved model returns when its files are applied to a model with other weights."""
    example = built(entry)[1]
    fresh = built(entry, seed=7)[0]
    Surgery.load(folder, fresh)
    return outputs(fresh, example)


FRESH_PROCESS = "fresh process"
"""Is checked for all models at once, see ``fresh.py``."""
PROMISES = {
    "no trace": leaves_no_trace,
    "blocks": has_the_blocks,
    "removal": removal_is_an_identity,
    "refusals": refuses_the_others,
    "undo": every_removable_block_goes,
}
"""Promise -> check."""


def promised(entry: Entry) -> list[str]:
    """Promises that can be asked of an entry."""
    of_removal = ["removal", "undo", FRESH_PROCESS] if chosen(entry) else []
    return ["no trace", "blocks", *of_removal, *(["refusals"] if entry.refused else [])]

"""Whether a model is still what it was before, less its blocks: for ``from_pretrained`` and for an example.

A configuration may be unable to say what is left, and a model may tell its layers apart by their position in ways
that no table knows. Both are told here from what the model does, whatever its family.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
from torch import nn

from ..models.configurations import is_config
from ..models.cost import call_with
from ..models.evaluation import evaluating, first_tensor, tensors_in
from ..models.layer_selection import listed
from .plan import RemovedBlock

_PLAIN = (bool, int, float, str, tuple, list)


class Agreement(NamedTuple):
    """How a model differs from the one that ``from_pretrained`` would build of its configuration."""

    class_name: str
    """Of the outermost module with ``save_pretrained``."""
    problem: str | None
    """Why its tensors do not belong there, told by the first of them; None: they do."""
    others: frozenset[str] = frozenset()
    """Attributes that have other values in the modules that are built."""


def agreement(model: nn.Module, name: str) -> Agreement | None:
    """Build again what is around the module ``name``, without memory for that; None: nothing there can be saved so."""
    module = _saved(model, name)
    if module is None:
        return None
    try:
        with evaluating(model), torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = type(module.config).from_dict(copy.deepcopy(module.config.to_dict()))
            problem = _difference(config.to_dict(), module.config.to_dict(), "the entry")
            again = type(module)(config)
    except Exception as error:  # whatever a model's own constructor raises
        return Agreement(type(module).__name__, f"{type(error).__name__} ({str(error).strip()[:200]})")
    problem = problem or _difference(_layout(again), _layout(module), "the part")
    return Agreement(type(module).__name__, problem, frozenset(_others(again, module)))


def _saved(model: nn.Module, name: str) -> Any:
    """The outermost module with ``save_pretrained`` around the module ``name``, or None."""
    around = (module for other, module in model.named_modules() if name.startswith(f"{other}." if other else ""))
    saved = (module for module in around if callable(getattr(module, "save_pretrained", None)))
    return next((module for module in saved if is_config(getattr(module, "config", None))), None)


def _layout(model: nn.Module) -> dict[str, Any]:
    """Shapes of tensors and classes of the modules that have some, by name."""
    shapes = {name: list(getattr(tensor, "shape", ())) for name, tensor in model.state_dict().items()}
    owners = {name.rpartition(".")[0] for name in shapes}
    return shapes | {name: type(module).__name__ for name, module in model.named_modules() if name in owners}


def _difference(again: Mapping[str, Any], now: Mapping[str, Any], what: str) -> str | None:
    for key in {**now, **again}:
        if again.get(key) != now.get(key):
            return f"{what} {key!r} would be {again.get(key)} and is {now.get(key)}"
    return None


def _others(one: nn.Module, two: nn.Module) -> Iterator[str]:
    known = dict(one.named_modules())
    for name, module in two.named_modules():
        there, here = vars(known.get(name, module)), vars(module)
        for key in there.keys() & here.keys():  # not those of training alone, as rates of dropout
            is_told = not key.startswith(("_", "training", "drop")) and isinstance(here[key], _PLAIN)
            if is_told and _unordered(there[key]) != _unordered(here[key]):
                yield key


def _unordered(value: Any) -> Any:
    """Lists of words, as of the kinds of layers that there are, come in any order."""
    is_words = isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value)
    return set(value) if is_words else value


def require_agreement(
    model: nn.Module, before: Mapping[str, Agreement | None], steps: Sequence[RemovedBlock], force: bool
) -> None:
    """Refuse, or warn, if a configuration that described the model no longer does.

    Args:
        model: cut.
        before: ``agreement`` around each list that got shorter.
        steps: what was done.
        force: warn where it would refuse.
    """
    lost: list[str] = []
    gone = [step.name for step in steps]
    shortcuts = {step.name: _saved(model, step.name) for step in steps if step.remains == "shortcut"}
    kept = {name: type(module).__name__ for name, module in shortcuts.items() if module is not None}
    class_name = next(iter(kept.values()), "")
    if kept:
        lost.append(f"that only shortcuts remain of {listed(list(kept))}")
    for name, was in before.items():
        now = agreement(model, name)
        if was is None or now is None or was.problem is not None:
            continue
        class_name = was.class_name
        problem = f"the model differs in ways that the configuration of {class_name} cannot say: {now.problem}"
        if now.problem is not None and not force:
            raise ValueError(
                f"without {listed(gone)} {problem}; choose others, or pass force=True and save with Surgery.save, "
                "not save_pretrained"
            )
        others = sorted(now.others - was.others)
        if now.problem is not None or others:
            lost.append(f"what is left in {name!r} ({now.problem or listed(others)})")
    if lost:
        warnings.warn(
            f"the configuration of {class_name} cannot say {' and '.join(lost)}, so that from_pretrained would build "
            "another model of what save_pretrained writes; use surgery.save and Surgery.load instead",
            stacklevel=3,
        )


def passed_over(model: nn.Module, steps: Sequence[RemovedBlock], example: object) -> list[torch.Tensor] | None:
    """The tensors that a model returns when the blocks to be deleted hand on their input; the model stays as it is.

    None without an example, where a shortcut remains, if the model raises then, and where hooks cannot show it: a block
    stays at another place too, is called past them, or returns another stream, of which a hook does not know what
    there is without the block (Autoformer's trend).
    """
    if example is None or not steps or any(step.remains != "nothing" for step in steps):
        return None
    called: set[nn.Module] = set()
    doomed = {model.get_submodule(step.name) for step in steps}
    if sum(module in doomed for _, module in model.named_modules(remove_duplicate=False)) > len(steps):
        return None

    def hand_on(block: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        x = first_tensor([*args, *kwargs.values()])
        same: Any = type(output)
        others = output[1:] if isinstance(output, (tuple, list)) else ()
        if not any(isinstance(b, torch.Tensor) and not _alike(a, b) for a, b in zip_longest(args[1:], others)):
            called.add(block)
        if isinstance(output, Mapping):
            return same({**output, next(iter(output)): x})
        if isinstance(output, (tuple, list)):  # a second stream comes in as it goes out
            return same([x, *(a if _alike(a, b) else b for a, b in zip_longest(args[1:], others))][: len(output)])
        return x

    with ExitStack() as hooks, evaluating(model) as inner:
        for block in doomed:
            hooks.enter_context(block.register_forward_hook(hand_on, prepend=True, with_kwargs=True))
        try:
            output = list(compared(call_with(inner, example)))
            return output if called == doomed else None
        except Exception:  # whatever the model raises, it will say so when it is cut
            return None


def _alike(one: Any, two: Any) -> bool:
    return isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor) and one.shape == two.shape


def compared(output: Any) -> Iterator[torch.Tensor]:
    """The tensors of an output, but for those of which there is one a layer."""
    if isinstance(output, Mapping):
        output = [each for key, each in output.items() if not key.endswith(("hidden_states", "attentions"))]
    if isinstance(output, (tuple, list)):
        for each in output:
            yield from compared(each)
    else:
        yield from tensors_in(output)


def are_close(one: list[torch.Tensor], two: list[torch.Tensor]) -> bool:
    """Whether outputs are the same but for the order of additions; only the first tensors if their numbers differ."""
    pairs = list(zip(one, two, strict=False))[: None if len(one) == len(two) else 1]
    return all(a.shape == b.shape and _is_close(a, b) for a, b in pairs)


def _is_close(a: torch.Tensor, b: torch.Tensor) -> bool:
    if torch.equal(a, b) or not a.is_floating_point():
        return bool(torch.equal(a, b))
    a, b = a.nan_to_num(), b.nan_to_num()
    return bool((a - b).double().norm() <= torch.finfo(a.dtype).eps ** 0.5 * a.double().norm())

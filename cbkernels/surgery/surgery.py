"""Removing residual blocks from a model, trained or not, and from its optimizer; and taking that back.

What can be removed is decided in ``plan.py``, what changes for it in ``changes.py``; files are in ``files.py``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from ..models.cost import call_with, measure_costs, samples_in
from ..models.evaluation import evaluating, wrappings
from ..models.layer_selection import listed
from ..models.residual_blocks import find_residual_blocks
from .agreement import agreement, are_close, compared, passed_over, require_agreement
from .changes import changes
from .edits import MISSING, Entry, put, take_back
from .files import read_cut_model, save_cut_model
from .optimizer import Dropped, dropped, require_droppable
from .plan import RemovedBlock, plan_removal
from .record import RECORD, first_names, record_of, recorded
from .summary import SurgerySummary

Optimizers = torch.optim.Optimizer | Sequence[torch.optim.Optimizer]
"""One optimizer, or several that train a model together (a GAN's, or Muon and AdamW)."""


def remove_layers(
    model: nn.Module, names: str | Iterable[str], *, optimizer: Optimizers | None = None, example: object = None,
    force: bool = False,
) -> tuple[nn.Module, Surgery]:  # fmt: skip
    """Remove residual blocks in place; everything is checked before the first change.

    Of a residual block its shortcut remains, with the activation behind the addition and the projection if there is
    one, under the same names. Layers of Hugging Face models and of ``nn.TransformerEncoder`` are deleted from their
    list: later ones move up, and indices and configuration are corrected. Names always mean the model as it is now.
    The model gets its own copies of the configurations that change; modules that it shares with another model are cut
    in both, so pass ``copy.deepcopy`` of it then. It warns of what ``from_pretrained`` would not give back.

    Args:
        model: any ``torch.nn.Module``; ``torch.compile`` is looked through.
        names: blocks, or anything inside of them such as ``report.conflicting()``; none is fine and changes
            nothing. A block that is called at several places goes from all, when each is named, or from none.
        optimizer: loses exactly the parameters that are gone, and their state; wrapped, or a list of several.
        example: an input of the model: a tensor, a tuple of positional or a dict of keyword arguments. With it
            blocks are judged by what they do in the model, and the model is run once more afterwards: it must give
            what it gives when deleted layers hand on their input. Without it blocks of unknown kind are tried
            alone, on random numbers.
        force: with ``example``, remove any module whose output has the shape of its input, but for branches whose
            sum would then be ``x + x``; and the last residual block.

    Returns:
        The same model, and what was done.

    Raises:
        ValueError: one sentence on what cannot be removed and what can; nothing has changed then.
        TypeError: another kind of model, names or optimizer.

    Example:
        >>> import torch
        >>> class Block(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.norm, self.dense = torch.nn.LayerNorm(8), torch.nn.Linear(8, 8)
        ...     def forward(self, x):
        ...         return x + self.dense(self.norm(x))
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), Block(), Block(), torch.nn.Linear(8, 2))
        >>> optimizer = torch.optim.Adam(model.parameters())
        >>> model, surgery = remove_layers(model, ["2.dense"], optimizer=optimizer)
        >>> surgery
        Surgery(removed=['2'], parameters=234 -> 146)
        >>> surgery.undo()
        >>> sum(p.numel() for p in model.parameters())
        234
    """
    inner = own_module(model)
    if optimizer is not None:
        require_droppable(optimizer, inner)
    steps, stacks = plan_removal(inner, names, example, force)
    before = {stack.name: agreement(inner, stack.name) for stack in stacks}
    expected = None if force else passed_over(inner, steps, example)
    surgery = carried_out(inner, [steps], optimizer)
    with _undone_after_an_error(surgery):
        require_agreement(inner, before, steps, force)
        if steps and example is not None:
            _run_once(inner, example, surgery.removed, expected)
    return model, surgery


@contextmanager
def _undone_after_an_error(surgery: Surgery) -> Iterator[None]:
    try:
        yield
    except BaseException:
        surgery._take_back()
        raise


def carried_out(model: nn.Module, operations: Iterable[Sequence[RemovedBlock]], optimizer: object = None) -> Surgery:
    """Make the changes and drop from the optimizer what the model then lacks.

    Args:
        model: unwrapped.
        operations: one after the other, names as the ones before left them; whatever this iterable raises leaves
            the model as it was.
        optimizer: passed ``require_droppable``; None: there is none.
    """
    before, record = list(model.parameters()), record_of(model)
    entries: list[Entry] = []
    done: list[Sequence[RemovedBlock]] = []
    gone: list[Any] = []
    try:
        for operation in operations:
            for step in operation:
                block, parent = model.get_submodule(step.name), model.get_submodule(step.name.rpartition(".")[0])
                gone.append((block, parent, parent.training))
            new = changes(model, operation)
            put(new)
            entries, done = [*entries, *new], [*done, operation]
            record = recorded(record, operation)
    except BaseException:
        take_back(entries)
        raise
    if any(done):
        entries.append(Entry(vars(model), RECORD, vars(model).get(RECORD, MISSING), record))
        put(entries[-1:])
    kept = {id(p) for p in model.parameters()}
    lost = [p for p in before if id(p) not in kept]
    of_optimizer = [] if optimizer is None else dropped(optimizer, lost)
    return Surgery(model, done, sum(p.numel() for p in before), entries, of_optimizer, gone)


def joined(model: nn.Module, surgeries: Sequence[Surgery], parameters_before: int, was_healed: bool) -> Surgery:
    """Surgeries of one unwrapped model, one after the other, as one that undoes all; they are then forgotten.

    Each of them was judged by an evaluation of the model, or it would have been undone.

    Args:
        model: unwrapped.
        surgeries: of it.
        parameters_before: of the model before the first one.
        was_healed: whether what is left was trained after one of them.
    """
    entries = [entry for each in surgeries for entry in each._entries]
    of_optimizer = [lost for each in reversed(surgeries) for lost in each._of_optimizer]  # as they are put back
    gone = [each for surgery in surgeries for each in surgery._gone]
    operations = [each.steps for each in surgeries]
    whole = Surgery(model, operations, parameters_before, entries, of_optimizer, gone, True, was_healed)
    for each in surgeries:
        each.forget()
    return whole


class Surgery:
    """What ``remove_layers`` did. Holds the removed blocks, and so their memory, until ``forget()``.

    Attributes:
        removed: names of the removed blocks, in the model as it was before the first of them went.
        steps: a ``RemovedBlock`` for each.
        model_class: name of the model's class.
        parameters_before: numbers in the model's parameters, shared ones counted once.
        parameters_after: the same afterwards.

    Example:
        >>> import torch
        >>> layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> model = torch.nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        >>> model, surgery = remove_layers(model, "layers.1")
        >>> surgery
        Surgery(removed=['layers.1'], parameters=1800 -> 1200)
    """

    def __init__(
        self, model: nn.Module, operations: Sequence[Sequence[RemovedBlock]], parameters_before: int,
        entries: list[Entry],
        of_optimizer: list[Dropped], gone: list[Any], was_evaluated: bool = False, was_healed: bool = False,
    ) -> None:  # fmt: skip
        self.steps = tuple(step for steps in operations for step in steps)
        self.removed = first_names(operations)
        self.model_class = type(model).__name__
        self.parameters_before, self.parameters_after = parameters_before, sum(p.numel() for p in model.parameters())
        self._model: nn.Module | None = model
        self._entries, self._of_optimizer, self._gone = entries, of_optimizer, gone
        self._was_evaluated, self._was_healed = was_evaluated, was_healed
        self._is_undone, self._file = False, ""

    def __repr__(self) -> str:
        if self._is_undone:
            return f"Surgery(undone={self.removed}, parameters={self.parameters_before})"
        return f"Surgery(removed={self.removed}, parameters={self.parameters_before} -> {self.parameters_after})"

    def to_dict(self) -> dict[str, Any]:
        """What was done, as JSON types."""
        return {
            "model": self.model_class,
            "removed": list(self.removed),
            "steps": [step.to_dict() for step in self.steps],
            "parameters_before": self.parameters_before,
            "parameters_after": self.parameters_after,
        }

    def undo(self) -> None:
        """Put the blocks back where they were, and their parameters and state back into the optimizer.

        Blocks come back as they left, on the device where they were; what stayed keeps what it learned since, so that
        a model that was trained in the meantime is not the original again: ``copy.deepcopy`` that first if you want
        it. The optimizer may have loaded a state in the meantime.

        Raises:
            ValueError: undone or forgotten already, a later surgery of the same model is in the way, the optimizer
                has lost the groups that the parameters belong to, or the surgery was loaded from files, which hold no
                weights of removed blocks; nothing has changed then.
        """
        if self._model is None:
            raise ValueError(f"the surgery of {self.removed} was undone or forgotten already; it cannot be undone")
        if self._file and self.steps:
            raise ValueError(
                f"{self._file!r} does not hold the weights of {listed(self.removed)}, so that undo cannot bring these "
                "blocks back; load the original checkpoint into the original network"
            )
        self._require_latest("undo")
        self._take_back()

    def _take_back(self) -> None:
        for optimizer in self._of_optimizer:
            optimizer.require_same_groups()
        take_back(self._entries)
        for optimizer in self._of_optimizer:
            optimizer.put_back()
        for block, parent, was_training in self._gone:
            if parent.training != was_training:  # train() or eval() was called while it was away
                block.train(parent.training)
        self._is_undone = True
        self.forget()

    def forget(self) -> None:
        """Let go of the removed blocks and of the model: frees memory; ``undo`` and ``summary`` then refuse."""
        self._model, self._entries, self._of_optimizer, self._gone = None, [], [], []

    def summary(self, example: object, *, repeats: int = 20) -> SurgerySummary:
        """Cost before and after, with the weights as they are; the two are timed in turns.

        Args:
            example: as in ``remove_layers``; the cost is of this batch.
            repeats: timed passes of each.

        Raises:
            ValueError: the surgery was undone or forgotten, or a later one is in the way.
        """
        if self._model is None:
            raise ValueError(f"the surgery of {self.removed} was undone or forgotten; ask for a summary before that")
        self._require_latest("summarise")
        model, blocks = self._model, dict[str, int]()
        states = {"before": partial(take_back, self._entries), "after": partial(put, self._entries)}
        try:
            for name, enter in states.items():
                enter()
                with evaluating(model) as inner:
                    blocks[name] = len(find_residual_blocks(inner, lambda: call_with(model, example)))
            costs = measure_costs(states, model, example, repeats=repeats)
        finally:
            put(self._entries)
        ends = blocks["before"], blocks["after"], costs["before"], costs["after"]
        return SurgerySummary(list(self.removed), *ends, self._was_evaluated, self._was_healed, samples_in(example))

    def save(self, folder: str | os.PathLike[str], model: nn.Module) -> None:
        """Write ``model.safetensors`` and ``surgery.json``, all surgeries of this model so far included.

        Args:
            folder: made if it is missing; files that an earlier call wrote are replaced at the end, those of others
                are refused.
            model: the cut model, or a copy of it. Of one that ``fully_shard`` sharded all processes call this, and
                the first one writes the tensors whole.

        Raises:
            ValueError: not a model of this surgery, or it holds what safetensors cannot store, such as tensors
                without values on the meta device; or the folder holds somebody else's ``model.safetensors``.
            OSError: the folder cannot be written.
            ImportError: safetensors is missing.
        """
        save_cut_model(folder, own_module(model), self.removed)

    @staticmethod
    def load(
        folder: str | os.PathLike[str], model: nn.Module, optimizer: Optimizers | None = None
    ) -> tuple[nn.Module, Surgery]:
        """Cut a fresh model like the saved one and load its weights; nothing from the files is executed.

        Args:
            folder: written by ``save``.
            model: of the class and the settings that the saved one had before its first surgery; sharded or not. The
                weights that it has do not count, those of the blocks that go included.
            optimizer: of the fresh model, or a list of several; loses the parameters that go.

        Returns:
            The same model, cut, and all surgeries as one. Its ``undo`` refuses: the files hold no weights of removed
            blocks. For the whole network load the original checkpoint into the original network.

        Raises:
            ValueError: one sentence that names the file that is missing, damaged, or of another model; the
                model has not changed then.
            ImportError: safetensors is missing.
        """
        inner = own_module(model)
        if optimizer is not None:
            require_droppable(optimizer, inner)
        saved = read_cut_model(folder, inner)
        surgery = carried_out(inner, saved.verified(inner), optimizer)
        with _undone_after_an_error(surgery):
            saved.fill(inner)
        surgery._file = os.fspath(folder)
        return model, surgery

    def _require_latest(self, verb: str) -> None:
        record = next((entry for entry in reversed(self._entries) if entry.key == RECORD), None)
        if record is not None and vars(self._model).get(RECORD, MISSING) is not record.new:
            raise ValueError(
                f"a later surgery changed the model after {self.removed} went; {verb} or undo that one first"
            )


def own_module(model: nn.Module) -> nn.Module:
    """The user's module, inside of ``torch.compile`` and DataParallel; DDP is refused."""
    *wrappers, inner = wrappings(model)
    if any(isinstance(wrapper, nn.parallel.DistributedDataParallel) for wrapper in wrappers):
        raise ValueError(
            "model is wrapped in DistributedDataParallel, which keeps buckets of the old parameters; "
            "pass model.module and wrap the result again"
        )
    fixed: type = torch.jit.ScriptModule
    if isinstance(inner, fixed):
        raise ValueError(
            f"model is a {type(inner).__name__}, whose parts are fixed; cut the module that it was made of"
        )
    return inner


def _run_once(model: nn.Module, example: object, removed: list[str], expected: list[torch.Tensor] | None) -> None:
    with evaluating(model) as inner:
        try:
            output = list(compared(call_with(inner, example)))
        except Exception as error:
            raise ValueError(
                f"without {removed} the model raises {type(error).__name__} ({error}); nothing was removed"
            ) from error
    if expected is not None and not are_close(expected, output):
        raise ValueError(
            f"without {removed} the model gives another output than with these layers handing on their input, because "
            "it tells layers apart by their position; choose others, or pass force=True; nothing was removed"
        )

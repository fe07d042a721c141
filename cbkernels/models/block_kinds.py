"""The table of block kinds whose structure must be known, and the lists that hold such blocks.

What a block adds to its shortcut is seen in a forward pass, whatever its class (``block_sums.py``). A kind tells
more: how its blocks are recognised without a pass, and what must be edited when one goes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from ..choices import Choice, Choices
from .configurations import Modules, Place, configured, holder_of


@dataclass(frozen=True)
class BlockKind(Choice):
    """A kind of residual block: how it is recognised, and what its removal leaves and edits."""

    branches: Callable[[nn.Module], tuple[str, ...] | None] = lambda block: None
    """Recognises a block: its parts whose outputs are added to the shortcut; None: not of this kind."""
    fills: Callable[[Modules, str], bool] = lambda modules, name: False
    """Recognises a ``ModuleList`` by its name: its items are such blocks, and a removed one is deleted from it."""
    counted: Callable[[Modules, str, Sequence[int]], Iterable[Place]] = lambda modules, name, kept: ()
    """What is to be edited beside such a list when only the positions ``kept`` stay."""
    is_guess: bool = False
    """Other blocks may have parts of the same names: one that adds nothing in a forward pass is of no kind."""
    passes_input: bool = False
    """When one that is in no such list is removed its input remains, and a norm behind its sums goes too."""


def _in_torch_layer(block: nn.Module) -> tuple[str, ...] | None:
    if isinstance(block, nn.TransformerDecoderLayer):
        return ("self_attn", "multihead_attn", "linear2")
    return ("self_attn", "linear2") if isinstance(block, nn.TransformerEncoderLayer) else None


def _owner(modules: Modules, name: str) -> nn.Module:
    return modules[name.rpartition(".")[0]]


_CONVOLUTIONS = {"conv1", "bn1", "conv2", "bn2", "relu"}


def _before_sum(last: str, block: nn.Module) -> tuple[str, ...] | None:
    """The norm before the addition, in a block with the parts of torchvision's and no others."""
    parts = {name for name, part in block._modules.items() if part is not None} - {"downsample"}
    if parts != (_CONVOLUTIONS if last == "bn2" else _CONVOLUTIONS | {"conv3", "bn3"}):
        return None
    arguments = inspect.signature(block.forward).parameters.values()
    required = [a for a in arguments if a.default is a.empty and a.kind in (a.POSITIONAL_ONLY, a.POSITIONAL_OR_KEYWORD)]
    return (last,) if len(required) == 1 else None


RESIDUAL = BlockKind("residual block", "adds what is computed inside to its input, as seen in a forward pass")
BLOCK_KINDS = Choices(
    "kind of block",
    [
        BlockKind(
            "torch transformer layer",
            "nn.TransformerEncoderLayer or nn.TransformerDecoderLayer",
            branches=_in_torch_layer,
            fills=lambda modules, name: type(_owner(modules, name)) in (nn.TransformerEncoder, nn.TransformerDecoder),
            counted=lambda modules, name, kept: [(vars(_owner(modules, name)), "num_layers", len(kept))],
            passes_input=True,
        ),
        BlockKind(
            "transformers layer",
            "one of a list of equal layers that a configuration counts",
            fills=lambda modules, name: (
                len(kinds := {type(item) for item in modules[name].children()}) == 1
                and not kinds.pop().__module__.startswith("torch.")
                and holder_of(modules, name) is not None
            ),
            counted=configured,
            is_guess=True,
        ),
        BlockKind("basic block", "torchvision's BasicBlock", partial(_before_sum, "bn2"), is_guess=True),
        BlockKind("bottleneck", "torchvision's Bottleneck", partial(_before_sum, "bn3"), is_guess=True),
        BlockKind(
            "branch block",
            "a block whose part branch is added to its shortcut",
            lambda block: ("branch",) if "branch" in dict(block.named_children()) else None,
            is_guess=True,
        ),
        RESIDUAL,
    ],
)
"""Tried in this order; ``add`` takes more."""


@dataclass(frozen=True)
class LayerStack:
    """A ``ModuleList`` whose items can be deleted."""

    name: str
    """Of the list, as in ``named_modules``."""
    kind: BlockKind
    """What its items are."""
    layers: nn.ModuleList

    def item_names(self) -> list[str]:
        """Names of the layers in the model."""
        return [f"{self.name}.{i}" for i in range(len(self.layers))]


def find_layer_stacks(model: nn.Module) -> list[LayerStack]:
    """Outermost lists of an unwrapped model that are filled with blocks of a kind."""
    modules = dict(model.named_modules())
    stacks: list[LayerStack] = []
    for name, module in modules.items():
        if not isinstance(module, nn.ModuleList) or not len(module) or not name:
            continue
        if any(name.startswith(f"{stack.name}.") for stack in stacks):
            continue
        kind = next((kind for kind in BLOCK_KINDS.values() if kind.fills(modules, name)), None)
        if kind is not None:
            stacks.append(LayerStack(name, kind, module))
    return stacks

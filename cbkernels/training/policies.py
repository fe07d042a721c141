"""The policies of auto-tune: a table; ``--policy`` names one. Pure functions of what was measured; needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..choices import Choice, Choices

BlockNames = Sequence[Sequence[str]]
"""Names of the measured layers, one for each block, stage by stage in order of execution."""
Removes = Callable[[list[list[str]], BlockNames], list[str]]
"""(conflicting blocks of every stage, all blocks of every stage) -> blocks to remove."""


@dataclass(frozen=True)
class Policy(Choice):
    """What auto-tune removes, and when it looks.

    Args:
        removes: names them; asked only when the last block conflicts.
        probe_size: training samples that are measured where nobody says how many.
        looks_before: an epoch, so at the initial weights too; else after it.
        source: where it is from.
    """

    removes: Removes
    probe_size: int = 64
    looks_before: bool = False
    source: str = ""

    @property
    def told(self) -> str:
        """What goes, when it looks, and at how much."""
        return f"{self.does} ({'before' if self.looks_before else 'after'} an epoch, {self.probe_size} samples)"


def _first(conflicting: list[list[str]], block_names: BlockNames) -> list[str]:
    for names, bad in zip(block_names, conflicting, strict=True):
        if bad:
            return list(names[names.index(bad[0]) :])
    return []


POLICIES = Choices("policy", [
    Policy(
        "first", "the first conflicting block and all later blocks of its stage", _first,
        probe_size=512, source="Conflicting Bundles, WACV 2021",
    ),
    Policy(
        "all", "every conflicting block", lambda conflicting, _: [name for stage in conflicting for name in stage],
        looks_before=True, source="Auto-tuning by Conflicting Layer Removal, 2021",
    ),
    Policy(
        "stage", "the conflicting blocks of the first stage that has any",
        lambda conflicting, _: next((list(bad) for bad in conflicting if bad), []),
        source="the authors' code as it was last published",
    ),
])  # fmt: skip


def policy_of(policy: str | Policy | Removes) -> Policy:
    """A policy by its name, or one's own; a plain function is called as it is called in its code.

    Raises:
        ValueError: no policy has this name.
        TypeError: none of the three.
    """
    if isinstance(policy, str):
        return POLICIES.chosen(policy)
    if isinstance(policy, Policy):
        return policy
    if not callable(policy):
        raise TypeError(f"policy is {policy!r}; pass a string, a Policy or a function")
    # the qualified name is the same in every process, unlike the function's repr
    name = getattr(policy, "__qualname__", type(policy).__qualname__)
    return Policy(name, "what a function of one's own names", policy)

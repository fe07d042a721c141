"""The policies of auto-tune: a table; ``--policy`` names one. Pure functions of what was measured; needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..choices import Choice, Choices

BlockNames = Sequence[Sequence[str]]
"""Names of the measured layers, one for each block, stage by stage in order of execution."""
Removes = Callable[[list[list[str]], BlockNames], list[str]]
"""(blocks to blame of every stage, all blocks of every stage) -> blocks to remove."""
Blames = Callable[[Sequence[int], int], list[bool]]
"""(rows in conflicting bundles behind every block in order of execution, the noise floor) -> which blocks are to blame;
none when the network is to be trained to its end."""


def _conflicting(rows: Sequence[int], least: int) -> list[bool]:
    """Every block that conflicts, if the last one does: in a plain chain it has the conflicts of all others."""
    return [rows[-1] >= least and behind >= least for behind in rows]


def _adding(rows: Sequence[int], least: int) -> list[bool]:
    """Every block that adds conflicting rows to those of the blocks before it, if the last has more than the first.

    In a plain chain the conflicting rows behind a block are among those behind the next one, so a difference of counts
    is a number of rows. What was added is counted from the last block that was blamed, so that many small steps cannot
    pass below the noise floor; when the last block has ``least`` rows more than the first one, some block is blamed.
    """
    if not rows or rows[-1] - rows[0] < least:
        return [False] * len(rows)
    blamed, most = [], rows[0]
    for behind in rows:
        blamed.append(behind - most >= least)
        most = behind if blamed[-1] else most
    return blamed


@dataclass(frozen=True)
class Policy(Choice):
    """What auto-tune removes, and when it looks.

    Args:
        removes: names them; asked only when a block is to blame.
        probe_size: training samples that are measured where nobody says how many.
        looks_before: the training too, at the initial weights; else only after epochs.
        source: where it is from.
        blames: which blocks are to blame; see ``Blames``.
        passes: what the last block did when none is, in words.
    """

    removes: Removes
    probe_size: int = 64
    looks_before: bool = False
    source: str = ""
    blames: Blames = _conflicting
    passes: str = "had no conflict"

    @property
    def told(self) -> str:
        """What goes, when it looks, and at how much."""
        when = "before the training and after every epoch" if self.looks_before else "after every epoch"
        return f"{self.does} ({when}, {self.probe_size} samples)"


def _first(blamed: list[list[str]], block_names: BlockNames) -> list[str]:
    stages = zip(block_names, blamed, strict=True)
    return next((list(names[names.index(bad[0]) :]) for names, bad in stages if bad), [])


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
    Policy(
        "added", "the first block that adds a conflict to those before it and all later blocks of its stage", _first,
        probe_size=512, looks_before=True, source="this package",
        blames=_adding, passes="had no conflict beyond those of the first one",
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

"""The policies of auto-tune: which blocks go, as pure functions of what was measured. Needs no torch.

A network is trained again from scratch after it was shortened, so a policy only lowers the number of blocks per stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..result import BundleResult
from .networks.architecture import Architecture

Reports = Mapping[str, BundleResult]
"""Layer -> result, such as a ``LayerReport``."""
BlockNames = Sequence[Sequence[str]]
"""Names of the measured layers, one for each block, stage by stage in order of execution."""
Policy = Callable[[list[list[str]], BlockNames], list[str]]
"""(conflicting blocks of every stage, all blocks of every stage) -> blocks to remove."""


def first(conflicting: list[list[str]], block_names: BlockNames) -> list[str]:
    """The first conflicting block and all later blocks of its stage (Conflicting Bundles, WACV 2021)."""
    for names, bad in zip(block_names, conflicting, strict=True):
        if bad:
            return list(names[names.index(bad[0]) :])
    return []


def all_(conflicting: list[list[str]], block_names: BlockNames) -> list[str]:
    """Every conflicting block of every stage (Auto-tuning by Conflicting Layer Removal, 2021)."""
    return [name for stage in conflicting for name in stage]


def stage(conflicting: list[list[str]], block_names: BlockNames) -> list[str]:
    """The conflicting blocks of the first stage that has any (the authors' code as it was last published)."""
    return next((list(bad) for bad in conflicting if bad), [])


POLICIES: dict[str, Policy] = {"first": first, "all": all_, "stage": stage}


def conflicts(reports: Reports, block_names: BlockNames, min_conflicting_rows: int = 1) -> bool:
    """Does the last block conflict? In a plain chain a bundle stays one, so it has the conflicts of all others."""
    last = next((names[-1] for names in reversed(block_names) if names), None)
    return last is not None and _is_conflicting(reports, last, min_conflicting_rows)


def removed_blocks(
    reports: Reports, block_names: BlockNames, *, policy: str | Policy = "all", min_conflicting_rows: int = 1
) -> list[str]:
    """Which blocks go.

    Args:
        reports: layer -> result, for at least all names in ``block_names``.
        block_names: names of the blocks of every stage.
        policy: "first", "all", "stage", or a function like those of this file.
        min_conflicting_rows: noise floor: a block conflicts when at least so many rows are in conflicting bundles.

    Returns:
        Names in order of execution; none when the last block does not conflict.

    Raises:
        ValueError: the policy is unknown, a block was not measured, or the policy named something else than blocks
            or nothing although the last block conflicts.
    """
    chosen = POLICIES.get(policy) if isinstance(policy, str) else policy
    if chosen is None:
        raise ValueError(f"policy is {policy!r}; choose one of {', '.join(POLICIES)}")
    if not conflicts(reports, block_names, min_conflicting_rows):
        return []
    bad = [[n for n in names if _is_conflicting(reports, n, min_conflicting_rows)] for names in block_names]
    named = chosen(bad, block_names)
    order = [name for names in block_names for name in names]
    if not named or not set(named) <= set(order):
        raise ValueError(f"the policy {policy!r} removes {named!r}; it must name blocks, at least one of them")
    return [name for name in order if name in set(named)]


def shrink(
    architecture: Architecture,
    reports: Reports,
    *,
    policy: str | Policy = "all",
    min_conflicting_rows: int = 1,
    block_names: BlockNames | None = None,
) -> Architecture:
    """The architecture without the blocks that the policy removes.

    Args:
        architecture: what was measured.
        reports: layer -> result.
        policy, min_conflicting_rows: see ``removed_blocks``.
        block_names: names of the blocks of every stage; None: ``hidden.0``, ... of "fnn" and "cnn",
            else ``stages.0.0``, ...

    Returns:
        With fewer blocks, or the same architecture when the last block does not conflict.

    Raises:
        ValueError: see ``removed_blocks``; or the names do not fit the architecture.

    Source: arXiv 2011.02956 and 2103.04331, section "auto-tune".

    Example:
        >>> import numpy as np, cbkernels as cb
        >>> labels = np.array([0, 1, 2, 3])
        >>> acts = {"hidden.0": np.eye(4), "hidden.1": np.ones((4, 4)), "hidden.2": np.ones((4, 4))}
        >>> print(shrink(Architecture((3,), "fnn"), cb.bundle_entropy_layers(acts, labels)))
        fnn, 1 layers of 10
    """
    if block_names is None:
        block_names = default_block_names(architecture)
    counts = tuple(len(names) for names in block_names)
    if counts != architecture.blocks:
        raise ValueError(f"block_names has {list(counts)} blocks a stage, the architecture {list(architecture.blocks)}")
    gone = set(removed_blocks(reports, block_names, policy=policy, min_conflicting_rows=min_conflicting_rows))
    return architecture.with_blocks(sum(name not in gone for name in names) for names in block_names)


def default_block_names(architecture: Architecture) -> list[list[str]]:
    """What the blocks of the package's own networks are called."""
    if architecture.model in ("fnn", "cnn"):
        return [[f"hidden.{i}" for i in range(architecture.blocks[0])]]
    return [[f"stages.{s}.{b}" for b in range(count)] for s, count in enumerate(architecture.blocks)]


def _is_conflicting(reports: Reports, name: str, min_conflicting_rows: int) -> bool:
    if name not in reports:
        raise ValueError(f"block {name!r} was not measured; measured are {', '.join(map(repr, reports))}")
    result = reports[name]
    return result.num_conflicting > 0 and result.num_conflicting_rows >= min_conflicting_rows

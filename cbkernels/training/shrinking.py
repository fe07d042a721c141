"""Which blocks go, by a policy of ``policies.py``: pure functions of what was measured. Needs no torch.

A network is trained again from scratch after it was shortened, so a policy only lowers the number of blocks per stage.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..result import BundleResult
from .networks.architecture import Architecture
from .policies import BlockNames, Policy, Removes, policy_of

Reports = Mapping[str, BundleResult]
"""Layer -> result, such as a ``LayerReport``."""


def removed_blocks(
    reports: Reports, block_names: BlockNames, *, policy: str | Policy | Removes = "all", min_conflicting_rows: int = 1
) -> list[str]:
    """Which blocks go.

    Args:
        reports: layer -> result, for at least all names in ``block_names``.
        block_names: names of the blocks of every stage.
        policy: a name of ``policies.POLICIES``, or one of your own; see ``policies.policy_of``.
        min_conflicting_rows: noise floor: so many rows in conflicting bundles count, fewer do not.

    Returns:
        Names in order of execution; none when no block is to blame.

    Raises:
        ValueError: the policy is unknown, a block was not measured, or the policy named something else than blocks
            or nothing although a block is to blame.
    """
    chosen = policy_of(policy)
    blamed = _blamed(reports, block_names, min_conflicting_rows, chosen)
    if not any(blamed):
        return []
    named = chosen.removes(blamed, block_names)
    order = [name for names in block_names for name in names]
    if not named or not set(named) <= set(order):
        raise ValueError(f"the policy {chosen.name!r} removes {named!r}; it must name blocks, at least one of them")
    return [name for name in order if name in set(named)]


def shrink(
    architecture: Architecture,
    reports: Reports,
    *,
    policy: str | Policy | Removes = "all",
    min_conflicting_rows: int = 1,
    block_names: BlockNames | None = None,
) -> Architecture:
    """The architecture without the blocks that the policy removes.

    Args:
        architecture: what was measured.
        reports: layer -> result.
        policy, min_conflicting_rows: see ``removed_blocks``.
        block_names: names of the blocks of every stage; None: as the package's own networks call them.

    Returns:
        With fewer blocks, or the same architecture when no block is to blame.

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
        block_names = architecture.block_names
    counts = tuple(len(names) for names in block_names)
    if counts != architecture.blocks:
        raise ValueError(f"block_names has {list(counts)} blocks a stage, the architecture {list(architecture.blocks)}")
    gone = set(removed_blocks(reports, block_names, policy=policy, min_conflicting_rows=min_conflicting_rows))
    return architecture.with_blocks(sum(name not in gone for name in names) for names in block_names)


def _blamed(reports: Reports, block_names: BlockNames, min_conflicting_rows: int, policy: Policy) -> list[list[str]]:
    """The blocks to blame of every stage."""
    order = [name for names in block_names for name in names]
    if missing := [name for name in order if name not in reports]:
        raise ValueError(f"block {missing[0]!r} was not measured; measured are {', '.join(map(repr, reports))}")
    rows = [reports[name].num_conflicting_rows for name in order]
    # a layer without a conflict has no such row, so a floor of 0 means what one of 1 does
    blamed = policy.blames(rows, max(1, min_conflicting_rows))
    if len(blamed) != len(order):
        raise ValueError(
            f"the policy {policy.name!r} says of {len(blamed)} blocks whether they are to blame; there are {len(order)}"
        )
    to_blame = dict(zip(order, blamed, strict=True))
    return [[name for name in names if to_blame[name]] for names in block_names]

"""Which blocks of its first network a removal or an auto-tune removed: as stages, as a picture, in words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from ..drawing.block_figures import Stage, plot_blocks
from ..runs.clean_text import text
from ..runs.schema import AutotuneResult, RemoveResult, Trained
from ..training.networks.architecture import Architecture
from . import figures
from .figures import Picture

MOST_BLOCKS = 2000
"""Of a picture."""


def stages_of_removal(result: RemoveResult) -> list[Stage]:
    """The blocks in the order of execution; a stage goes on while its blocks follow each other."""
    groups = groupby(result.blocks, lambda block: block.stage)
    return [_stage(stage, [block.block not in result.removed for block in blocks]) for stage, blocks in groups]


def stages_of_autotune(result: AutotuneResult) -> tuple[list[Stage], str]:
    """The blocks of the first network, each followed through the rounds by the name that it has there; and a remark.

    No stage where one of the two networks is not known.
    """
    first, last = _blocks_of(result.before), _blocks_of(result.after)
    if first is None or last is None or len(first.blocks) != len(last.blocks):
        return [], ""
    left, remark = [list(range(count)) for count in first.blocks], ""
    for round_ in result.rounds:
        network = _blocks_of(round_)
        is_end = result.after is not None and round_.round == result.after.round
        if is_end or network is None or list(network.blocks) != [len(stage) for stage in left]:
            break
        names = zip(left, network.block_names, strict=True)
        left = [[b for b, name in zip(*stage, strict=True) if name not in round_.removed] for stage in names]
    if [len(stage) for stage in left] != list(last.blocks):  # a network of one's own has other names
        left = [list(range(count)) for count in last.blocks]
        remark = " Which ones is not known; the last ones of a stage are drawn as removed."
    is_one = len(first.blocks) == 1
    stages = [_stage(None if is_one else i, [b in left[i] for b in range(n)]) for i, n in enumerate(first.blocks)]
    return [stage for stage in stages if stage.stays], remark


def _stage(number: int | None, stays: list[bool]) -> Stage:
    return Stage("blocks" if number is None else f"stage {number}", stays)


def _blocks_of(network: Trained | None) -> Architecture | None:
    try:
        return Architecture.from_dict((network.architecture if network else None) or {})
    except ValueError:
        return None


def picture_of(stages: Sequence[Stage], prefix: str, remark: str = "") -> tuple[Picture, str] | None:
    """The picture and its caption; None if no block was removed, or if there are too many to be drawn."""
    stays = [each for stage in stages for each in stage.stays]
    if all(stays) or len(stays) > MOST_BLOCKS:
        return None
    of_stages = "; ".join(f"{text(stage.name, 20)}: {sum(stage.stays)} of {len(stage.stays)}" for stage in stages)
    words = f"{stays.count(False)} of {len(stays)} blocks were removed; what stays, {of_stages}.{remark}"
    alt = f"The blocks of the network as boxes, the removed ones hollow. {words}"
    return figures.rendered(f"{prefix}architecture", alt, lambda: plot_blocks(stages)), words

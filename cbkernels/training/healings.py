"""When a network trains while ``remove`` takes its blocks away: a table; ``--heal`` names one. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from ..choices import Choice, Choices


@dataclass(frozen=True)
class Healing(Choice):
    """When a network heals.

    Args:
        each: after every removal, before the guard is asked.
        end: once, when nothing more is removed.
        strategy: how many blocks are tried at once where nobody says; a try without healing is cheap.
    """

    each: bool = False
    end: bool = False
    strategy: str = "one"


HEALINGS = Choices("heal", [
    Healing("each", "the network trains after every removal, before it is judged on the guard's samples", each=True,
            strategy="geometric"),
    Healing("end", "the network trains once, when nothing more is removed", end=True),
    Healing("none", "the network is never trained"),
])  # fmt: skip

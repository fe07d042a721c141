"""What is dropped when: the numbers of RePr as one value, the papers' as presets; and what was then done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from numbers import Integral
from typing import Any

from ..choices import Choice, Choices
from .criteria import Criterion


@dataclass(frozen=True)
class Schedule:
    """``cycles`` times ``full_epochs`` (S1) of the whole network and ``reduced_epochs`` (S2) of the smaller one.

    Raises:
        ValueError, TypeError: a number is out of range, or the training is too short.
    """

    full_epochs: int = 20
    reduced_epochs: int = 10
    cycles: int = 3
    share: float = 0.30
    """Of the ranked filters of all layers together that is dropped, in (0, 1), rounded to whole filters."""
    criterion: str | Criterion = "orthogonality"
    """A name (see ``criteria.CRITERIA``) or a function; the lowest scores go."""
    max_layer_share: float | None = None
    """Of a layer's filters at most, in (0, 1], and one stays; None: no limit, and an error when one would lose all."""
    total_epochs: int | None = None
    """Of the training; None: not checked. At least one epoch must follow the last cycle."""

    def __post_init__(self) -> None:
        for name in ("full_epochs", "reduced_epochs", "cycles"):
            require_count(name, getattr(self, name), 1)
        _require_share("share", self.share, below_one=True)
        if self.max_layer_share is not None:
            _require_share("max_layer_share", self.max_layer_share, below_one=False)
        if self.total_epochs is None:
            return
        require_count("total_epochs", self.total_epochs, 1)
        if self.cycle_epochs >= self.total_epochs:
            raise ValueError(
                f"{self.cycles} cycles of full_epochs {self.full_epochs} + reduced_epochs {self.reduced_epochs} are "
                f"{self.cycle_epochs} epochs, and the training has {self.total_epochs}; one more at least has to "
                "follow, with all filters: take more epochs, fewer cycles or shorter ones"
            )

    @property
    def cycle_epochs(self) -> int:
        """Of all cycles together; the training has to be longer."""
        return self.cycles * (self.full_epochs + self.reduced_epochs)

    def cycle_of(self, epoch: int) -> int | None:
        """Which cycle's filters are dropped in this epoch, both from 0; None: the network is whole."""
        cycle, within = divmod(epoch, self.full_epochs + self.reduced_epochs)
        return cycle if cycle < self.cycles and within >= self.full_epochs else None


@dataclass(frozen=True)
class FilterEvent:
    """Filters went or came back."""

    epoch: int
    """It happened before this epoch, from 0."""
    cycle: int
    """From 0."""
    kind: str
    """"dropped" or "restored"."""
    filters: Mapping[str, tuple[int, ...]]
    """layer -> sorted indices."""
    relaxed: tuple[str, ...] = ()
    """Layers without room for orthogonal filters; see ``reinitialisation.py``."""

    @property
    def num_filters(self) -> int:
        """Of all layers."""
        return sum(map(len, self.filters.values()))

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        filters = {name: list(indices) for name, indices in self.filters.items()}
        return {**asdict(self), "filters": filters, "relaxed": list(self.relaxed)}


def require_count(name: str, value: object, least: int) -> None:
    """Refuse what is not a whole number of at least so much, as TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} is {value!r}; pass a whole number")
    if int(value) < least:
        raise ValueError(f"{name} is {value!r}; it must be at least {least}")


def _require_share(name: str, value: object, below_one: bool) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is {value!r}; pass a number")
    if not (0 < value < 1 or (value == 1 and not below_one)):
        hint = f", such as {value / 100:g}" if 1 < value < 100 else ""
        raise ValueError(f"{name} is {value!r}; it must be above 0 and {'below' if below_one else 'at most'} 1{hint}")


@dataclass(frozen=True)
class Preset(Choice):
    """A schedule that has a name; ``does`` says whose it is."""

    schedule: Schedule

    @property
    def values(self) -> dict[str, Any]:
        """What it sets, by the names of ``Schedule``."""
        return {name: value for name, value in vars(self.schedule).items() if value is not None}

    @property
    def told(self) -> str:
        """A sentence for ``--help``."""
        its = self.schedule
        return (
            f"The preset {self.name} {self.does}: it sets S1 to {its.full_epochs} epochs, S2 to {its.reduced_epochs} "
            f"epochs, N to {its.cycles} cycles, p to {its.share:.0%} and the criterion to {its.criterion}, and the "
            f"training must be longer than {its.cycle_epochs} epochs."
        )


PRESETS = Choices("preset", [
    Preset("paper", "follows the paper's text", Schedule()),
    Preset("published", "follows the author's published code",
           Schedule(20, 20, 9, 0.50, "orthogonality_published")),
])  # fmt: skip

"""Where the package does not keep a promise today, and why. A deviation that is gone must leave this table.

Every line names what is wrong; a test fails as soon as the promise is kept after all.
"""

from __future__ import annotations

from collections.abc import Iterable

_REMOVAL = ("removal", "undo", "fresh process")
Deviation = tuple[str, str]
"""A regular expression that finds what the check says; the cause in a sentence."""


def _of(entry: str, promises: Iterable[str], says: str, cause: str) -> dict[tuple[str, str], Deviation]:
    return {(entry, promise): (says, cause) for promise in promises}


_CANNOT_SAY = "the model differs in ways that the configuration of .* cannot say"
DEVIATIONS: dict[tuple[str, str], Deviation] = {
    **_of("EsmModel", _REMOVAL, _CANNOT_SAY, "The head of contacts takes the attention of all layers."),
    **_of("BambaModel", ["undo"], "get_seq_length", "The cache raises once the only layer with attention is gone."),
    **_of("Gemma3nTextModel", _REMOVAL, _CANNOT_SAY, "One embedding holds a part for every layer."),
}
"""(entry, promise) -> what the check says, and why."""

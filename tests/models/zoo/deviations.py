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


_CANNOT_SAY = "differ in ways that the configuration of .* cannot say"
_OF_A_BACKBONE = "The lists out_features and out_indices of a backbone are not corrected."
DEVIATIONS: dict[tuple[str, str], Deviation] = {
    **_of("LongformerModel", _REMOVAL, _CANNOT_SAY, "The list attention_window of the configuration is not shortened."),
    **_of("EsmModel", _REMOVAL, _CANNOT_SAY, "The configuration, read again, does not say the same."),
    **_of("BambaModel", ["undo"], _CANNOT_SAY, "The positions in attn_layer_indices are not corrected."),
    **_of("BeitModel", _REMOVAL, _CANNOT_SAY, _OF_A_BACKBONE),
    **_of("Dinov2Model", _REMOVAL, _CANNOT_SAY, _OF_A_BACKBONE),
    **_of("SamVisionModel", _REMOVAL, _CANNOT_SAY, "The positions in global_attn_indexes are not corrected."),
    **_of("Gemma3nTextModel", _REMOVAL, _CANNOT_SAY, "Its lists of one entry a layer have other names."),
}  # fmt: skip
"""(entry, promise) -> what the check says, and why."""

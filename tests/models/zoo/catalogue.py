"""All entries of the zoo, by name."""

from __future__ import annotations

from . import by_hand, generators, language, timm_models, vision
from .entries import Entry

_LISTS = (by_hand.ENTRIES, language.ENTRIES, vision.ENTRIES, timm_models.ENTRIES, generators.ENTRIES)
CATALOGUE: dict[str, Entry] = {entry.name: entry for entries in _LISTS for entry in entries}
"""Name -> entry, in the order of docs/models.md."""
assert len(CATALOGUE) == sum(map(len, _LISTS)), "a name twice"

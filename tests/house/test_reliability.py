"""The table in ``docs/reliability.md`` is what ``make hostile`` noted, and nobody typed it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..hostile.table import with_table

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "reliability.md"


def test_the_table_is_what_was_noted() -> None:
    if not DOCUMENT.exists():
        pytest.skip("documents: NOT TESTED HERE (no source tree around tests/)")
    files = sorted((ROOT / "bench" / "results").glob("hostile-*.json"))
    assert files
    text = DOCUMENT.read_text()
    assert text == with_table(text, files)

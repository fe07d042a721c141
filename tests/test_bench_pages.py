"""The benchmark's record of the pages that its matrices lie in."""

from __future__ import annotations

import numpy as np
import pytest

SMAPS = """\
1000-3000 rw-p 00000000 00:00 0
Rss:                   8 kB
AnonHugePages:         0 kB
200000-a00000 rw-p 00000000 00:00 0                      [heap]
Rss:                8192 kB
AnonHugePages:      6144 kB
VmFlags: rd wr
"""


def test_the_share_is_that_of_the_mapping_that_holds_the_array() -> None:
    pages = pytest.importorskip("bench.pages", reason="bench: NOT TESTED HERE (not in a wheel)")
    assert pages.share_at(SMAPS, 0x1000) == 0.0
    assert pages.share_at(SMAPS, 0x2FFF) == 0.0
    assert pages.share_at(SMAPS, 0x3000) is None
    assert pages.share_at(SMAPS, 0x200000) == pages.share_at(SMAPS, 0x9FFFFF) == 0.75
    share = pages.huge_page_share(np.ones(1 << 20))
    assert share is None or 0 <= share <= 1


def test_the_header_says_how_much_lies_in_huge_pages() -> None:
    pages = pytest.importorskip("bench.pages", reason="bench: NOT TESTED HERE (not in a wheel)")
    assert pages.in_words([1.0, None, 0.75, 0.5]).startswith("75 %")
    assert "not known" in pages.in_words([None])


def test_a_record_says_how_large_pages_are_and_when_there_are_huge_ones() -> None:
    pytest.importorskip("torch", reason="bench: NOT TESTED HERE (it times torch)")
    pytest.importorskip("xxhash", reason="bench: NOT TESTED HERE (it times xxhash)")
    record = pytest.importorskip("bench.record", reason="bench: NOT TESTED HERE (not in a wheel)")
    machine = record.machine()
    assert machine["page_bytes"] is None or machine["page_bytes"] in (4 << 10, 16 << 10, 64 << 10)
    assert machine["huge_pages"] is None or "[" in machine["huge_pages"], "the choice in force is in brackets"

"""Sizes of memory and files, as options take them."""

from __future__ import annotations

import argparse
import re

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
          "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}  # fmt: skip


def num_bytes(text: str) -> int:
    """The size that a text like 1000000, 512MiB or 2G says."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?", text.strip().upper())
    if match is None or match[2] not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size like 1000000, 512MiB or 2G")
    return int(float(match[1]) * _UNITS[match[2]])

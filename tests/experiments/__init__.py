"""The experiments of ``bench/experiments`` with tiny networks: what they go through, write, and take up again."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("torch", "safetensors", "xxhash", "matplotlib", "scipy")


def experiment(name: str) -> Any:
    """The module of that name; skips where it or what it needs is missing."""
    if not (ROOT / "bench").is_dir():
        pytest.skip(f"bench.experiments.{name}: NOT TESTED HERE (no source tree)", allow_module_level=True)
    for package in NEEDED:
        pytest.importorskip(package, reason=f"bench.experiments.{name}: NOT TESTED HERE (no {package})")
    return importlib.import_module(f"bench.experiments.{name}")
